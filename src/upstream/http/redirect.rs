//! Redirections (RFC 9110 §15.4). One that keeps method and body (307, 308) is followed within the origin,
//! for the gateway's own requests and for those of clients: servers redirect a missing or extra slash.
//! Nothing is sent to another origin, since credentials and arguments are for the configured server; the
//! error names the location instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use http::header::LOCATION;
use reqwest::Url;
use reqwest::redirect::Policy;

use crate::upstream::UpstreamError;

/// How often one request is redirected.
pub const MAX_REDIRECTS: usize = 4;

/// Logs once that a server's requests are redirected.
#[derive(Debug)]
pub struct Redirects {
    server: String,
    logged: AtomicBool,
}

impl Redirects {
    pub fn new(server: &str) -> Self {
        Self { server: server.to_owned(), logged: AtomicBool::new(false) }
    }

    /// Logs a redirection that is followed.
    pub fn follow(&self, status: u16, path: &str) {
        if !self.logged.swap(true, Ordering::Relaxed) {
            tracing::info!(
                server = self.server,
                status,
                to = crate::upstream::client_message(path),
                "the server redirects each request; with this path in its `url` that would cost no second request"
            );
        }
    }
}

/// Whether such a status redirects the request unchanged.
pub fn keeps_request(status: u16) -> bool {
    matches!(status, 307 | 308)
}

/// The redirect policy of the gateway's own client.
pub(crate) fn policy(redirects: Arc<Redirects>) -> Policy {
    Policy::custom(move |attempt| {
        let status = attempt.status().as_u16();
        let stays = attempt.previous().last().is_some_and(|from| from.origin() == attempt.url().origin());
        if !keeps_request(status) || !stays || attempt.previous().len() > MAX_REDIRECTS {
            return attempt.stop();
        }
        redirects.follow(status, attempt.url().path());
        attempt.follow()
    })
}

/// The error of a redirection that is not followed.
pub fn elsewhere(status: u16, headers: &HeaderMap) -> UpstreamError {
    let to = headers.get(LOCATION).and_then(|to| to.to_str().ok()).map(|to| match to.parse::<Url>() {
        // Query and user may hold secrets.
        Ok(url) => format!("{}{}", url.origin().ascii_serialization(), url.path()),
        Err(_) => to.split(['?', '#']).next().unwrap_or_default().to_owned(),
    });
    UpstreamError::Redirected(
        status,
        to.map_or_else(|| "no place that is named".into(), |to| crate::upstream::client_message(&to)),
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_place_is_named_without_what_may_be_secret() {
        for (location, named) in [
            ("https://u:p@other.example:8443/mcp?key=1#x", "https://other.example:8443/mcp"),
            ("/login?next=/mcp", "/login"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, HeaderValue::from_static(location));
            assert_eq!(elsewhere(302, &headers), UpstreamError::Redirected(302, named.into()));
        }
        let UpstreamError::Redirected(_, to) = elsewhere(300, &HeaderMap::new()) else {
            panic!("it has moved")
        };
        assert!(to.contains("no place"));
    }
}
