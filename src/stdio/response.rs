//! Reads the response to a request: one message, or a stream of events that ends with it. A broken stream
//! is resumed where it stopped, if the gateway allows it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use mcp::rejection::code;
use mcp::{Reason, Rejection};

use super::StdioFrontend;
use super::events::{EventKind, Events, classify, is_stream};
use super::gateway_session::GatewaySession;
use super::in_flight::StdioCall;
use super::transport::cause;
use mcp::jsonrpc::message;

/// The pause before a stream is resumed, if its server does not name one.
const PAUSE: Duration = Duration::from_millis(500);
/// Consecutive attempts to resume without receiving a message.
const MAX_RESUMES: u32 = 5;
/// Bytes of an invalid response that are shown.
const SHOWN: usize = 200;

pub enum ReadOutcome {
    Response(Bytes),
    /// The gateway does not know the session; its own error.
    SessionExpired(Bytes),
    /// The outcome is unknown.
    Failed(Rejection),
    /// It ended without a response, as it should.
    Nothing,
}

impl StdioFrontend {
    /// Reads the response to `id`; messages before it go to the client at once.
    pub(super) async fn read(
        &self,
        response: reqwest::Response,
        id: &[u8],
        call: Option<&StdioCall>,
        session: Option<&GatewaySession>,
    ) -> ReadOutcome {
        if response.status().is_success() && is_stream(&response) {
            return self.follow(response, id, call, session).await;
        }
        let status = response.status();
        let body = match self.whole(response).await {
            Ok(body) => body,
            Err(why) => return ReadOutcome::Failed(broken(&why)),
        };
        let answer = answer(status, &body, id);
        let answer = answer.unwrap_or_else(|rejection| message::rejection_response(Some(id), &rejection));
        match session.is_some_and(GatewaySession::has_id) && is_session_expired(status, &body) {
            true => ReadOutcome::SessionExpired(answer),
            false => ReadOutcome::Response(answer),
        }
    }

    async fn follow(
        &self,
        response: reqwest::Response,
        id: &[u8],
        call: Option<&StdioCall>,
        session: Option<&GatewaySession>,
    ) -> ReadOutcome {
        let mut events = Events::of(response, self.settings.max_response);
        let mut attempts = 0;
        loop {
            let end = loop {
                let message = match events.next().await {
                    Ok(Some(message)) => message,
                    Ok(None) => break String::from("the stream ended without an answer"),
                    Err(why) => break why,
                };
                attempts = 0;
                match classify(&message, Some(id)) {
                    EventKind::Response => return ReadOutcome::Response(message),
                    EventKind::Message => self.out.write(message).await,
                    EventKind::Invalid => {
                        tracing::warn!("a message of the gateway that answers no request is dropped")
                    }
                }
            };
            if call.is_some_and(StdioCall::is_cancelled) {
                return ReadOutcome::Nothing;
            }
            // 2025-11-25, transports, "Resumability and Redelivery": only after an event with an id.
            let (Some(session), Some(last)) = (session, events.last.clone()) else {
                return ReadOutcome::Failed(broken(&end));
            };
            let pause = events.retry.unwrap_or(PAUSE);
            loop {
                if attempts >= MAX_RESUMES {
                    return ReadOutcome::Failed(broken(&end));
                }
                attempts += 1;
                tokio::time::sleep(pause).await;
                match self.transport.get(session.headers(), Some(last.clone())).await {
                    Ok(response) if response.status().is_success() && is_stream(&response) => {
                        let (last, retry) = (events.last.take(), events.retry);
                        events = Events::of(response, self.settings.max_response);
                        (events.last, events.retry) = (last, retry);
                        break;
                    }
                    Ok(response) if response.status().is_client_error() => {
                        return ReadOutcome::Failed(broken(&format!("{end}, and cannot be gone on with")));
                    }
                    _ => {}
                }
            }
        }
    }

    pub(super) async fn whole(&self, mut response: reqwest::Response) -> Result<Bytes, String> {
        let mut body = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(|error| cause(&error))? {
            if body.len() + piece.len() > self.settings.max_response {
                return Err(format!("the answer is longer than {} bytes", self.settings.max_response));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }
}

/// Whether a gateway reports that it does not know the session: 404 by the specification, 400 by some
/// servers, in text or under a code that does not concern parameters.
pub fn is_session_expired(status: StatusCode, body: &[u8]) -> bool {
    let names_session = || {
        let code = message::read(body).and_then(|read| read.error).and_then(|error| code_of(error.of(body)));
        matches!(code, None | Some(code::INVALID_REQUEST | -32001 | -32000))
            && String::from_utf8_lossy(body).to_ascii_lowercase().contains("session")
    };
    status == StatusCode::NOT_FOUND || status == StatusCode::BAD_REQUEST && names_session()
}

/// Whether a response is a temporary error: the gateway has no server yet, or is overloaded.
pub fn passes(answer: &[u8]) -> bool {
    let error = message::read(answer).and_then(|read| read.error);
    // The gateway's own codes are those of HTTP where JSON-RPC has none.
    matches!(error.and_then(|error| code_of(error.of(answer))), Some(429 | 500..=599))
}

/// The code of an error object.
pub fn code_of(error: &[u8]) -> Option<i64> {
    std::str::from_utf8(message::member(error, "code")?.of(error)).ok()?.parse().ok()
}

/// The response to `id` in a whole body.
fn answer(status: StatusCode, body: &Bytes, id: &[u8]) -> Result<Bytes, Rejection> {
    if classify(body, Some(id)) == EventKind::Response {
        return Ok(body.clone());
    }
    // An error whose id is missing or null answers the only request there is.
    let read = message::read(body).filter(|read| read.id.is_none_or(|id| id.of(body) == b"null"));
    if let Some(error) = read.and_then(|read| read.error) {
        return Ok(message::error_response(id, error.of(body)));
    }
    Err(error_of(status, body))
}

/// The error for the client if a response is no message.
pub fn error_of(status: StatusCode, body: &[u8]) -> Rejection {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let detail = if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) };
    Rejection::http(
        502,
        Reason::UpstreamNonsense,
        format!("the gateway answered HTTP {} and no message{detail}", status.as_u16()),
    )
}

fn broken(why: &str) -> Rejection {
    Rejection::http(
        503,
        Reason::UpstreamUnreachable,
        format!(
            "the gateway did not answer to the end ({why}); whether the call was carried out is not known"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_one_to_the_request_or_an_error_without_an_id() {
        let answer = |status, body: &'static str| {
            let status = StatusCode::from_u16(status).expect("a status");
            answer(status, &Bytes::from_static(body.as_bytes()), b"7").map_err(|rejection| rejection.message)
        };
        let good = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
        assert_eq!(answer(200, good).as_deref(), Ok(good.as_bytes()));
        for error in [
            r#"{"jsonrpc":"2.0","error":{"code":401,"message":"no"}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":401,"message":"no"}}"#,
        ] {
            let response = answer(401, error).expect("an error");
            assert_eq!(response, r#"{"jsonrpc":"2.0","id":7,"error":{"code":401,"message":"no"}}"#);
        }
        for (status, body) in [(200, r#"{"jsonrpc":"2.0","id":8,"result":{}}"#), (502, "<html>\n"), (202, "")]
        {
            let message = answer(status, body).expect_err("no answer");
            assert!(message.contains(&format!("HTTP {status}")) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_session_is_forgotten_by_404_or_by_a_400_that_speaks_of_it() {
        assert!(is_session_expired(StatusCode::NOT_FOUND, b""));
        assert!(is_session_expired(StatusCode::BAD_REQUEST, b"No valid Session ID provided"));
        assert!(!is_session_expired(StatusCode::BAD_REQUEST, b"name is missing"));
        assert!(!is_session_expired(StatusCode::OK, b"session"));
        let error = |code| format!(r#"{{"jsonrpc":"2.0","error":{{"code":{code},"message":"no session"}}}}"#);
        assert!(is_session_expired(StatusCode::BAD_REQUEST, error(-32000).as_bytes()));
        assert!(
            !is_session_expired(StatusCode::BAD_REQUEST, error(-32602).as_bytes()),
            "it is about an argument"
        );
    }
}
