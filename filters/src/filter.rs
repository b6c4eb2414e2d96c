//! What each filter of the chain is.

use crate::request::{Call, RequestHead};
use mcp::rejection::Rejection;

/// One judge. It sees values and gives a verdict; the default is to have no opinion.
pub trait Filter {
    /// Label in metrics and logs.
    const NAME: &'static str;

    /// Judges the head, before one byte of the body is read.
    fn on_head(&self, head: &RequestHead<'_>) -> impl Future<Output = Result<(), Box<Rejection>>> + Send {
        let _ = head;
        std::future::ready(Ok(()))
    }

    /// Judges the call as a whole.
    fn on_request(&self, call: &mut Call<'_>) -> impl Future<Output = Result<(), Box<Rejection>>> + Send {
        let _ = call;
        std::future::ready(Ok(()))
    }
}
