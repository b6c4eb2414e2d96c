//! The client's requests in flight. Only the code that removes a request from here answers it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mcp::json::quote::quote;
use mcp::{Reason, Rejection};
use tokio_util::sync::CancellationToken;

use super::client_request::StdioRequest;
use mcp::jsonrpc::message;
use mcp::method::Method;

/// A request in flight.
pub struct StdioCall {
    pub request: StdioRequest,
    /// Ends the work on it.
    pub stop: CancellationToken,
    /// The request was passed to the connection, or never will be.
    pub detached: CancellationToken,
    cancelled: AtomicBool,
}

impl StdioCall {
    /// The client wants no response any more.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// The response to a request that ends with the process.
    pub fn cancel_response(&self) -> Option<Bytes> {
        if self.is_cancelled() {
            return None;
        }
        if self.request.method == Method::Listen {
            // 2026-07-28, basic/transports/stdio: the message for a subscription that the server ends.
            let params = [&br#"{"requestId":"#[..], &self.request.id, b"}"].concat();
            return Some(message::notification("notifications/cancelled", &params));
        }
        let rejection =
            Rejection::http(503, Reason::Stopping, "toolgate stdio is stopping; the call was cancelled");
        Some(message::rejection_response(Some(&self.request.id), &rejection))
    }
}

#[derive(Default)]
pub struct StdioCalls(Mutex<HashMap<Vec<u8>, Arc<StdioCall>>>);

impl StdioCalls {
    pub fn begin(&self, request: StdioRequest) -> Arc<StdioCall> {
        let call = Arc::new(StdioCall {
            request,
            stop: CancellationToken::new(),
            detached: CancellationToken::new(),
            cancelled: AtomicBool::new(false),
        });
        // An id that is in flight already is the client's mistake: both are answered, the newer one can be
        // cancelled.
        self.all().insert(key(&call.request.id), call.clone());
        call
    }

    /// Removes a request; false if other code has removed it, which then answers it.
    pub fn done(&self, call: &Arc<StdioCall>) -> bool {
        call.detached.cancel();
        let (mut all, key) = (self.all(), key(&call.request.id));
        match all.get(&key) {
            Some(now) if Arc::ptr_eq(now, call) => all.remove(&key).is_some(),
            // Another took its place.
            Some(_) => !call.stop.is_cancelled(),
            None => false,
        }
    }

    /// The request that the client cancels.
    pub fn cancel(&self, id: &[u8]) -> Option<Arc<StdioCall>> {
        let call = self.all().get(&key(id)).cloned()?;
        call.cancelled.store(true, Ordering::Release);
        Some(call)
    }

    /// Ends streams, which would never end by themselves.
    pub fn stop_streams(&self) {
        for call in self.all().values().filter(|call| call.request.method == Method::Listen) {
            call.stop.cancel();
        }
    }

    /// Ends everything; the caller answers.
    pub fn stop_all(&self) -> Vec<Arc<StdioCall>> {
        let all: Vec<_> = self.all().drain().map(|(_, call)| call).collect();
        all.iter().for_each(|call| call.stop.cancel());
        all
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<StdioCall>>> {
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

    fn request(text: &'static str) -> StdioRequest {
        let line = Bytes::from_static(text.as_bytes());
        let rpc = filters::request::read(&line, 64).expect("a request");
        StdioRequest::new(line, rpc)
    }

    #[test]
    fn each_request_is_answered_by_one() {
        let in_flight = StdioCalls::default();
        let first = in_flight.begin(request(r#"{"jsonrpc":"2.0","id":"a/b","method":"ping"}"#));
        let second = in_flight.begin(request(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#));
        assert!(
            in_flight.cancel(br#""a\/b""#).is_some_and(|call| Arc::ptr_eq(&call, &first)),
            "in another spelling"
        );
        assert!(in_flight.cancel(b"3").is_none() && first.is_cancelled() && !second.is_cancelled());
        assert!(in_flight.done(&first) && !in_flight.done(&first));
        let stopped = in_flight.stop_all();
        assert_eq!(stopped.len(), 1);
        assert!(second.stop.is_cancelled() && !in_flight.done(&second), "whoever stops it answers it");
        let response = second.cancel_response().expect("the client waits");
        assert!(response.starts_with(br#"{"jsonrpc":"2.0","id":2,"error":"#), "{response:?}");
        assert_eq!(first.cancel_response(), None, "it was cancelled");
    }

    #[test]
    fn a_second_request_of_the_same_id_is_answered_too() {
        let in_flight = StdioCalls::default();
        let first = in_flight.begin(request(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#));
        let second = in_flight.begin(request(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#));
        assert!(in_flight.done(&first) && in_flight.done(&second));
    }
}
