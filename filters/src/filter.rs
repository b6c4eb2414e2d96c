//! What each filter of the chain is.

use crate::request::{Call, Head};
use mcp::rejection::Verdict;

/// One judge. It sees values and gives a verdict; the default is to have no opinion.
pub trait Filter {
    /// Label in metrics and logs.
    const NAME: &'static str;

    /// Judges the head, before one byte of the body is read.
    fn greet(&self, head: &Head<'_>) -> impl Future<Output = Verdict> + Send {
        let _ = head;
        std::future::ready(Verdict::Pass)
    }

    /// Judges the call as a whole.
    fn admit(&self, call: &mut Call<'_>) -> impl Future<Output = Verdict> + Send {
        let _ = call;
        std::future::ready(Verdict::Pass)
    }
}
