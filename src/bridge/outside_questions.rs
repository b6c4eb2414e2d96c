//! Questions that a legacy server asks outside of the stream of a call, on its notification stream (GET). SDKs do that
//! where a tool asks by the session and not by its own request. Such a question does not say which call it belongs to.
//! The session is the caller's own: if one call of it is in progress at that server, the question is asked in this
//! call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mcp::bridge::questions::MAX_QUESTIONS;
use mcp::json::object::Object;
use mcp::jsonrpc::message;
use mcp::method::Method;
use tokio::sync::mpsc;

/// The calls of a session that are in progress, and can ask the client.
#[derive(Default)]
pub(super) struct CallsInProgress {
    calls: Mutex<Vec<AskedCall>>,
    last: AtomicU64,
}

struct AskedCall {
    number: u64,
    /// The serial of the server.
    server: u64,
    questions: mpsc::Sender<Bytes>,
}

/// A call, until it is dropped.
pub(super) struct CallInProgress {
    all: Arc<CallsInProgress>,
    number: u64,
}

impl Drop for CallInProgress {
    fn drop(&mut self) {
        self.all.lock().retain(|call| call.number != self.number);
    }
}

impl CallsInProgress {
    /// Counts a call to the server of this serial; the receiver gets what the server asks, and takes back.
    pub fn begin(self: &Arc<Self>, server: u64) -> (CallInProgress, mpsc::Receiver<Bytes>) {
        let (questions, asked) = mpsc::channel(2 * MAX_QUESTIONS);
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        self.lock().push(AskedCall { number, server, questions });
        (CallInProgress { all: self.clone(), number }, asked)
    }

    /// Hands a request of a server to its only call.
    ///
    /// # Errors
    ///
    /// Why the client cannot be asked.
    pub fn ask(&self, server: u64, question: Bytes) -> Result<(), &'static str> {
        let calls = self.lock();
        let mut of_server = calls.iter().filter(|call| call.server == server);
        match (of_server.next(), of_server.next()) {
            (None, _) => Err("the client cannot be asked outside of a call"),
            (Some(call), None) => {
                call.questions.try_send(question).map_err(|_| "too many requests are open in this call")
            }
            (Some(_), Some(_)) => Err(
                "several calls of the client are in progress; ask on the stream of the call, so that it is clear which one asks",
            ),
        }
    }

    /// A server takes a request back: each call knows its own.
    pub fn cancelled(&self, server: u64, note: &Bytes) {
        for call in self.lock().iter().filter(|call| call.server == server) {
            let _ = call.questions.try_send(note.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<AskedCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a client with these capabilities can be asked anything.
pub(super) fn can_be_asked(capabilities: &[u8]) -> bool {
    let declared = Object::read(capabilities);
    declared.is_some_and(|declared| {
        ["elicitation", "sampling", "roots"].iter().any(|name| declared.get(name).is_some())
    })
}

pub(super) fn is_cancellation(note: &[u8], read: &message::ServerMessage) -> bool {
    read.method.is_some_and(|method| Method::parse(&method.read(note)) == Method::Cancelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_goes_to_the_only_call_at_its_server() {
        let calls = Arc::new(CallsInProgress::default());
        let question = Bytes::from_static(b"?");
        assert!(calls.ask(1, question.clone()).is_err(), "there is no call");
        let (other, mut at_other) = calls.begin(2);
        assert!(calls.ask(1, question.clone()).is_err(), "it is at another server");
        let (_first, mut asked) = calls.begin(1);
        assert_eq!(calls.ask(1, question.clone()), Ok(()));
        assert_eq!(asked.recv().await, Some(question.clone()));
        let (second, mut at_second) = calls.begin(1);
        let why = calls.ask(1, question.clone()).expect_err("there are two");
        assert!(why.contains("several calls"), "{why}");
        calls.cancelled(1, &question);
        assert!(asked.recv().await.is_some() && at_second.recv().await.is_some());
        drop((second, other));
        assert_eq!(calls.ask(1, question), Ok(()));
        assert!(asked.recv().await.is_some() && at_other.recv().await.is_none());
    }

    #[tokio::test]
    async fn questions_without_end_are_declined() {
        let calls = Arc::new(CallsInProgress::default());
        let (_call, _asked) = calls.begin(1);
        let told = (0..1000).filter(|_| calls.ask(1, Bytes::from_static(b"?")).is_ok()).count();
        assert_eq!(told, 2 * MAX_QUESTIONS);
    }

    #[test]
    fn a_client_that_declares_none_of_the_three_is_not_asked() {
        for (capabilities, can) in [
            (&b"{}"[..], false),
            (br#"{"extensions":{},"experimental":{}}"#, false),
            (br#"{"elicitation":{}}"#, true),
            (br#"{"sampling":{"tools":{}}}"#, true),
            (br#"{"roots":{}}"#, true),
            (b"[]", false),
        ] {
            assert_eq!(can_be_asked(capabilities), can);
        }
    }
}
