//! A last check of the head of a response from an HTTP/2 server. Pingora adds chunked encoding after all
//! filters, and only here it is known that a head is the whole response. The check costs such a call two
//! small allocations, other calls none.

use std::any::Any;
use std::sync::LazyLock;

use async_trait::async_trait;
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use pingora::http::ResponseHeader;
use pingora::modules::http::{HttpModule, HttpModuleBuilder, HttpModuleCtx, HttpModules, Module};
use pingora::{Error, ErrorType};

/// A response ended with its head where a body is required.
pub const EMPTY: ErrorType = ErrorType::Custom("empty");

/// What is checked.
#[derive(Clone, Copy)]
enum HeadFix {
    /// The client knows no chunked encoding (RFC 9112 §6.1): for it, the end of the connection ends the
    /// body.
    StripChunked,
    /// A message is expected.
    RequireBody,
    Both,
}

static STRIP_CHUNKED: LazyLock<HttpModules> = LazyLock::new(|| modules(HeadFix::StripChunked));
static REQUIRE_BODY: LazyLock<HttpModules> = LazyLock::new(|| modules(HeadFix::RequireBody));
static BOTH: LazyLock<HttpModules> = LazyLock::new(|| modules(HeadFix::Both));

fn modules(look: HeadFix) -> HttpModules {
    let mut modules = HttpModules::new();
    modules.add_module(Box::new(look));
    modules
}

/// The module that checks the heads of responses to this request: for a client of HTTP/1.0, and for one
/// that expects a message.
pub fn module_for(old: bool, waits: bool) -> Option<HttpModuleCtx> {
    match (old, waits) {
        (false, false) => None,
        (true, false) => Some(STRIP_CHUNKED.build_ctx()),
        (false, true) => Some(REQUIRE_BODY.build_ctx()),
        (true, true) => Some(BOTH.build_ctx()),
    }
}

impl HttpModuleBuilder for HeadFix {
    fn init(&self) -> Module {
        Box::new(*self)
    }
}

#[async_trait]
impl HttpModule for HeadFix {
    async fn response_header_filter(&mut self, head: &mut ResponseHeader, end: bool) -> pingora::Result<()> {
        if matches!(self, HeadFix::StripChunked | HeadFix::Both) {
            head.remove_header(&TRANSFER_ENCODING);
        }
        let promises = head.status.is_success() && head.headers.contains_key(CONTENT_TYPE);
        if end && promises && matches!(self, HeadFix::RequireBody | HeadFix::Both) {
            return Err(Error::explain(EMPTY, "the answer is only a head").into_up());
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
