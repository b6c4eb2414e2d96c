//! The interface of each filter of the chain.

use crate::request::{Call, RequestHead};
use mcp::rejection::Rejection;

/// One filter. It sees values and returns a result; the default is to accept.
pub trait Filter {
    /// Label in metrics and logs.
    const NAME: &'static str;

    /// Checks the head, before any byte of the body is read.
    fn on_head(&self, head: &RequestHead<'_>) -> impl Future<Output = Result<(), Box<Rejection>>> + Send {
        let _ = head;
        std::future::ready(Ok(()))
    }

    /// Checks the whole call.
    fn on_request(&self, call: &mut Call<'_>) -> impl Future<Output = Result<(), Box<Rejection>>> + Send {
        let _ = call;
        std::future::ready(Ok(()))
    }
}
