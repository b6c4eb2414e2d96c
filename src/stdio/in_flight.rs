//! The client's requests that run. Who takes a request out of here answers it: nobody else does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mcp::Refusal;
use mcp::json::quote::quote;
use tokio_util::sync::CancellationToken;

use super::client_request::Request;
use mcp::jsonrpc::message;
use mcp::method::Method;

/// A request that runs.
pub struct Run {
    pub request: Request,
    /// Ends the work on it.
    pub stop: CancellationToken,
    /// The request was handed to the connection, or never will be.
    pub left: CancellationToken,
    cancelled: AtomicBool,
}

impl Run {
    /// The client wants no answer any more.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// What the client is told of a request that ends with the process.
    pub fn goodbye(&self) -> Option<Bytes> {
        if self.is_cancelled() {
            return None;
        }
        if self.request.method == Method::Listen {
            // 2026-07-28, basic/transports/stdio: so ends a subscription that the server ends.
            let params = [&br#"{"requestId":"#[..], &self.request.id, b"}"].concat();
            return Some(message::notification("notifications/cancelled", &params));
        }
        let refusal = Refusal::http(503, "stopping", "toolgate stdio is stopping; the call was cancelled");
        Some(message::refusal(Some(&self.request.id), &refusal))
    }
}

#[derive(Default)]
pub struct Runs(Mutex<HashMap<Vec<u8>, Arc<Run>>>);

impl Runs {
    pub fn begin(&self, request: Request) -> Arc<Run> {
        let run = Arc::new(Run {
            request,
            stop: CancellationToken::new(),
            left: CancellationToken::new(),
            cancelled: AtomicBool::new(false),
        });
        // An id that runs already is the client's mistake: both are answered, the newer one can be cancelled.
        self.all().insert(key(&run.request.id), run.clone());
        run
    }

    /// Takes a request out; false if somebody else has, who answers it.
    pub fn done(&self, run: &Arc<Run>) -> bool {
        run.left.cancel();
        let (mut all, key) = (self.all(), key(&run.request.id));
        match all.get(&key) {
            Some(now) if Arc::ptr_eq(now, run) => all.remove(&key).is_some(),
            // Another took its place.
            Some(_) => !run.stop.is_cancelled(),
            None => false,
        }
    }

    /// The request that the client cancels.
    pub fn cancel(&self, id: &[u8]) -> Option<Arc<Run>> {
        let run = self.all().get(&key(id)).cloned()?;
        run.cancelled.store(true, Ordering::Release);
        Some(run)
    }

    /// Ends what would never end by itself.
    pub fn stop_streams(&self) {
        for run in self.all().values().filter(|run| run.request.method == Method::Listen) {
            run.stop.cancel();
        }
    }

    /// Ends everything; the caller answers.
    pub fn stop_all(&self) -> Vec<Arc<Run>> {
        let all: Vec<_> = self.all().drain().map(|(_, run)| run).collect();
        all.iter().for_each(|run| run.stop.cancel());
        all
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<Run>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An id in one spelling: strings may be written in escapes.
fn key(id: &[u8]) -> Vec<u8> {
    match message::string(id) {
        Some(text) if id.first() == Some(&b'"') => quote(&text).into_bytes(),
        _ => id.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &'static str) -> Request {
        let line = Bytes::from_static(text.as_bytes());
        let rpc = filters::request::read(&line, 64).expect("a request");
        Request::new(line, rpc)
    }

    #[test]
    fn each_request_is_answered_by_one() {
        let runs = Runs::default();
        let first = runs.begin(request(r#"{"jsonrpc":"2.0","id":"a/b","method":"ping"}"#));
        let second = runs.begin(request(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#));
        assert!(
            runs.cancel(br#""a\/b""#).is_some_and(|run| Arc::ptr_eq(&run, &first)),
            "in another spelling"
        );
        assert!(runs.cancel(b"3").is_none() && first.is_cancelled() && !second.is_cancelled());
        assert!(runs.done(&first) && !runs.done(&first));
        let stopped = runs.stop_all();
        assert_eq!(stopped.len(), 1);
        assert!(second.stop.is_cancelled() && !runs.done(&second), "whoever stops it answers it");
        let told = second.goodbye().expect("the client waits");
        assert!(told.starts_with(br#"{"jsonrpc":"2.0","id":2,"error":"#), "{told:?}");
        assert_eq!(first.goodbye(), None, "it was cancelled");
    }

    #[test]
    fn a_second_request_of_the_same_id_is_answered_too() {
        let runs = Runs::default();
        let first = runs.begin(request(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#));
        let second = runs.begin(request(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#));
        assert!(runs.done(&first) && runs.done(&second));
    }
}
