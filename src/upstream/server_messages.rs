//! The one filter of a server's messages, except responses: which of them it may send, what is counted, and
//! what of one a client may see. All paths ask it: relayed streams, the gateway's own client, calls of servers
//! without HTTP, notification streams of sessions, and resource updates.
//!
//! It answers nobody and keeps nothing. What a session does with a message (ids, requests, progress) is
//! decided there; to which request a response belongs, where it is read.

use bytes::Bytes;
use mcp::MessageKind;
use mcp::jsonrpc::message;
use mcp::jsonrpc::message::ServerMessage;
use mcp::method::{self, Destination, Method, MethodRule, Sender};

use super::ResponseRedactor;
use crate::telemetry::DroppedMessage;

/// What the closed list says about a message.
#[derive(Clone, Copy, Debug)]
pub enum Judged {
    /// Its request decides what becomes of it.
    Response,
    /// The server may send it, to the destination of this row.
    Allowed(&'static MethodRule),
    /// It goes nowhere, and is counted.
    Dropped,
}

/// The filter for the messages of one server.
#[derive(Clone, Copy)]
pub struct ServerMessageFilter<'a> {
    /// Its configured name.
    pub server: &'a str,
    /// The protocol version whose list counts: that in which the client gets its messages.
    pub version: &'static str,
}

impl ServerMessageFilter<'_> {
    /// Reads a message. What is no JSON-RPC message is counted.
    pub fn read(&self, message: &[u8]) -> Option<ServerMessage> {
        let read = message::read(message);
        if read.is_none() {
            self.count("_other", "_other");
        }
        read
    }

    /// Judges a message by the closed list. `declared` may allow what the version does not define.
    pub fn judge(
        &self,
        message: &[u8],
        read: &ServerMessage,
        declared: impl FnOnce(MessageKind, &str) -> Option<&'static MethodRule>,
    ) -> Judged {
        let Some(word) = read.method.map(|method| method.read(message)) else {
            if read.is_response() {
                return Judged::Response;
            }
            self.count("_other", "_other");
            return Judged::Dropped;
        };
        let (kind, shown) = match read.is_request() {
            true => (MessageKind::Request, "request"),
            false => (MessageKind::Notification, "notification"),
        };
        let row = method::find(Sender::Server, kind, &word, self.version);
        match row.or_else(|| declared(kind, &word)) {
            Some(row) => Judged::Allowed(row),
            None => {
                self.count(shown, Method::parse(&word).as_str());
                Judged::Dropped
            }
        }
    }

    /// Whether a message is a notification that may go to the client of the request that it came with.
    pub fn is_for_client(&self, message: &[u8], read: &ServerMessage) -> bool {
        matches!(
            self.judge(message, read, |_, _| None),
            Judged::Allowed(row) if row.kind == MessageKind::Notification && row.destination == Destination::Client
        )
    }

    /// The method of a notification that is for the gateway; `None` for all other messages.
    pub fn for_gateway(&self, message: &[u8], read: &ServerMessage) -> Option<Method> {
        match self.judge(message, read, |_, _| None) {
            Judged::Allowed(row)
                if row.kind == MessageKind::Notification && row.destination == Destination::Gateway =>
            {
                Some(row.method)
            }
            _ => None,
        }
    }

    fn count(&self, kind: &'static str, method: &'static str) {
        DroppedMessage { from: Sender::Server.as_str(), kind, method, server: self.server }.count();
    }
}

/// A message that is no response, as a client may see it. One that must not be passed on is dropped.
pub fn redacted(redactor: Option<&ResponseRedactor>, message: Bytes) -> Option<Bytes> {
    match redactor {
        Some(redactor) => redactor.message(&message).ok().map(|clean| clean.unwrap_or(message)),
        None => Some(message),
    }
}

#[cfg(test)]
pub mod tests {
    use mcp::version::{LEGACY, MODERN};

    use super::*;

    /// What no client may get outside of a response, whatever the path, the era and the version.
    pub const HOSTILE: &[&str] = &[
        "",
        "null",
        "[]",
        r#"[{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"HOSTILE"}}]"#,
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"HOSTILE"}} x"#,
        r#"{"method":"notifications/message","params":{"level":"info","data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"1.0","method":"notifications/message","params":{"level":"info","data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","method":"x","method":"notifications/message","params":{"data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"params":{"data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","method":7,"params":{"data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"notifications/message","params":{"level":"info","data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"notifications/message","params":{"data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"notifications/progress","params":{"progressToken":1,"message":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"notifications/progress","params":{"progressToken":1,"message":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"notifications/resources/updated","params":{"uri":"u","_meta":{"io.modelcontextprotocol/subscriptionId":1},"x":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"x/own","params":{"data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","method":"x/own","params":{"data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","method":"Notifications/Message","params":{"level":"info","data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized","params":{"data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed","params":{"data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"data":"HOSTILE"}}"#,
        r#"{"jsonrpc":"2.0","method":"elicitation/create","params":{"message":"HOSTILE"}}"#,
    ];

    #[test]
    fn no_hostile_message_is_for_a_client_in_any_version() {
        for version in LEGACY.iter().chain(MODERN) {
            let filter = ServerMessageFilter { server: "s", version };
            for message in HOSTILE {
                let passes = filter
                    .read(message.as_bytes())
                    .is_some_and(|read| filter.is_for_client(message.as_bytes(), &read));
                assert!(!passes, "{version}: {message}");
            }
        }
    }

    #[test]
    fn a_notification_goes_where_its_row_says() {
        let filter = ServerMessageFilter { server: "s", version: MODERN[0] };
        for (method, client, gateway) in [
            ("notifications/message", true, false),
            ("notifications/progress", true, false),
            ("notifications/resources/updated", false, true),
            ("notifications/subscriptions/acknowledged", false, true),
            ("notifications/elicitation/complete", false, false),
        ] {
            let message = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{}}}}"#);
            let read = filter.read(message.as_bytes()).expect("a message");
            assert_eq!(filter.is_for_client(message.as_bytes(), &read), client, "{method}");
            assert_eq!(filter.for_gateway(message.as_bytes(), &read).is_some(), gateway, "{method}");
        }
    }

    #[test]
    fn what_a_client_has_declared_may_pass_though_its_version_lacks_it() {
        let filter = ServerMessageFilter { server: "s", version: "2025-03-26" };
        let message = br#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{}}"#;
        let read = filter.read(message).expect("a message");
        let declared = |kind, word: &str| method::find(Sender::Server, kind, word, "2025-11-25");
        assert!(
            matches!(filter.judge(message, &read, declared), Judged::Allowed(row) if row.method == Method::Elicit)
        );
        assert!(matches!(filter.judge(message, &read, |_, _| None), Judged::Dropped));
        let response = br#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        let read = filter.read(response).expect("a message");
        assert!(matches!(filter.judge(response, &read, |_, _| None), Judged::Response));
    }
}
