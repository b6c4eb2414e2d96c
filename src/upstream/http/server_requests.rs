//! Requests of a server to the gateway itself, in a legacy session of its own or of a client. A ping is
//! answered everywhere. Other requests are rejected, so that the server does not wait. In 2026-07-28 servers
//! send no requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use mcp::Era;
use mcp::json::quote::quote;

use super::sending::response_to;
use super::{HttpEndpoint, UpstreamSession};
use mcp::jsonrpc::message;

/// Replies in flight to one endpoint. If a server sends requests faster than it reads replies, some get none.
pub(crate) const MAX_REPLIES: usize = 64;
/// Timeout of a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest id and method that is repeated in a reply.
const MAX_REPEATED: usize = 1024;

/// The reply to a request of a server to the gateway itself; `None` if the message is no request.
pub fn reply(message: &[u8]) -> Option<Bytes> {
    let read = message::read(message).filter(message::ServerMessage::is_request)?;
    let id = read.id.filter(|id| id.end - id.start <= MAX_REPEATED)?.of(message);
    let method = read.method?.read(message);
    if method == "ping" {
        return Some(message::result(id, b"{}"));
    }
    let short: String = method.chars().take(100).collect();
    // A client rejects what it did not declare so (2025-11-25, client/roots; sampling and elicitation
    // likewise).
    let text = format!("Method not found: the gateway does not offer {short} in a session of its own");
    Some(message::error_response(id, format!(r#"{{"code":-32601,"message":{}}}"#, quote(&text)).as_bytes()))
}

impl HttpEndpoint {
    /// Replies in the background to a request in a message, if there is one.
    pub(crate) fn handle(self: &Arc<Self>, upstream_session: &UpstreamSession, message: &[u8]) {
        let Some(body) = reply(message) else { return };
        let (endpoint, headers) = (self.clone(), self.head(Era::Legacy, Some(upstream_session)));
        tokio::spawn(async move { endpoint.send_response(headers, body).await });
    }

    /// Sends a reply in an upstream session.
    pub async fn reply(&self, upstream_session: &UpstreamSession, body: Bytes) {
        self.send_response(self.head(Era::Legacy, Some(upstream_session)), body).await;
    }

    async fn send_response(&self, mut headers: HeaderMap, body: Bytes) {
        let Ok(_place) = self.replies.try_acquire() else { return };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let request = self.client.post(self.url.clone()).headers(headers).body(body);
        match response_to(request, REPLY_TIMEOUT, false).await {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => {
                tracing::debug!(endpoint = self.label, status = %response.status(), "a reply was rejected");
            }
            Err(error) => tracing::debug!(endpoint = self.label, %error, "a reply did not arrive"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_answered_and_all_else_refused() {
        let reply_to = |message: &str| {
            reply(message.as_bytes()).map(|reply_to| String::from_utf8_lossy(&reply_to).into_owned())
        };
        assert_eq!(
            reply_to(r#"{"jsonrpc":"2.0","id":"p\n","method":"ping"}"#).as_deref(),
            Some(r#"{"jsonrpc":"2.0","id":"p\n","result":{}}"#)
        );
        for method in ["roots/list", "sampling/createMessage", "elicitation/create", "tools/list", "\\\"x"] {
            let refused =
                reply_to(&format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{{}}}}"#));
            let refused: serde_json::Value = serde_json::from_str(&refused.expect("a reply")).expect("JSON");
            assert_eq!(
                (&refused["id"], &refused["error"]["code"]),
                (&7.into(), &(-32601).into()),
                "{method}"
            );
        }
        let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(MAX_REPEATED));
        for none in [
            r#"{"jsonrpc":"2.0","method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
            r#"{"id":7,"method":"ping"}"#,
            "ping",
            &long,
        ] {
            assert_eq!(reply_to(none), None, "{none}");
        }
    }
}
