//! Limits of input: bytes of head and body, depth of nesting.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use crate::filter::Filter;
use crate::request::RequestHead;
use mcp::{Reason, Rejection};

#[derive(Clone, Debug)]
pub struct Size {
    /// Bytes of a request body.
    pub max_body: usize,
    /// Bytes of all header names and values together.
    pub max_header: usize,
    /// Levels of nesting in a body.
    pub max_depth: usize,
}

impl Size {
    pub fn body_too_large(&self) -> Rejection {
        Rejection::http(
            413,
            Reason::BodyTooLarge,
            format!("the body is larger than the limit of {} bytes", self.max_body),
        )
        .closing()
    }
}

impl Filter for Size {
    const NAME: &'static str = "size";

    async fn on_head(&self, head: &RequestHead<'_>) -> Result<(), Box<Rejection>> {
        let bytes: usize =
            head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if bytes > self.max_header {
            let message = format!("the headers are larger than the limit of {} bytes", self.max_header);
            return Err(Box::new(Rejection::http(431, Reason::HeadersTooLarge, message).closing()));
        }
        if let Ok(Some(length)) = head.single(&CONTENT_LENGTH)
            && length.parse::<usize>().is_ok_and(|length| length > self.max_body)
        {
            return Err(Box::new(self.body_too_large()));
        }
        if head.is_network && head.http_method == http::Method::POST && !is_json(head) {
            return Err(Box::new(
                Rejection::http(
                    415,
                    Reason::NotJsonType,
                    "a POST must carry one `Content-Type: application/json`",
                )
                .closing(),
            ));
        }
        Ok(())
    }
}

fn is_json(head: &RequestHead<'_>) -> bool {
    let Ok(Some(value)) = head.single(&CONTENT_TYPE) else { return false };
    let media = value.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/json")
}
