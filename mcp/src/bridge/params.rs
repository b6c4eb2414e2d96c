//! The params of a client's request.

use super::{ENVELOPE, RELATED_TASK};
use crate::json::object::Object;

/// Members of the params of a retry (2026-07-28, `InputResponseRequestParams`).
const RETRY: [&str; 2] = ["inputResponses", "requestState"];

/// What the modern era says of a client in each request. The texts are JSON.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    pub version: &'a str,
    pub client_info: &'a [u8],
    pub capabilities: &'a [u8],
    /// The level of logs that the client asked for; without it the server sends none.
    pub log_level: Option<&'a [u8]>,
}

/// The params of a modern request for a legacy server: without what the modern era says of the client, and
/// without the members of a retry. `_meta` keeps what else is in it, such as the progress token and the trace.
///
/// `None` if the params are no object.
pub fn to_legacy(params: &[u8]) -> Option<Vec<u8>> {
    let mut object = Object::read(params)?;
    object.remove(|name| RETRY.contains(&name));
    let Some(meta) = object.get("_meta") else { return Some(object.with(&[])) };
    // A token must be a string or a number; SDKs of the legacy era end the call over any other.
    let mut kept = Object::read(meta)?;
    let is_token = matches!(kept.get("progressToken"), Some([b'"' | b'-' | b'0'..=b'9', ..]));
    kept.remove(|name| {
        ENVELOPE.contains(&name) || name == RELATED_TASK || name == "progressToken" && !is_token
    });
    if kept.is_empty() {
        object.remove(|name| name == "_meta");
        return Some(object.with(&[]));
    }
    Some(object.with(&[("_meta", &kept.with(&[]))]))
}

/// The params of a legacy request for a modern server, with the envelope. Members that would speak for the
/// envelope, or for a retry, are the gateway's to set. `task` of 2025-11-25 is not in this era.
///
/// `None` if the params, or `_meta` in them, are no object.
pub fn to_modern(params: &[u8], envelope: &Envelope<'_>) -> Option<Vec<u8>> {
    let mut object = Object::read(params)?;
    object.remove(|name| RETRY.contains(&name) || name == "task");
    let mut meta = Object::read(object.get("_meta").unwrap_or(b"{}"))?;
    meta.remove(|name| ENVELOPE.contains(&name));
    let version = crate::json::quote::quote(envelope.version);
    let mut added: Vec<(&str, &[u8])> = vec![
        (ENVELOPE[0], version.as_bytes()),
        (ENVELOPE[1], envelope.client_info),
        (ENVELOPE[2], envelope.capabilities),
    ];
    added.extend(envelope.log_level.map(|level| (ENVELOPE[3], level)));
    Some(object.with(&[("_meta", &meta.with(&added))]))
}

/// The params of a retry: those of the call, with the answers and the server's state, byte for byte.
/// `responses` is a JSON object, `state` a JSON string.
pub fn retry(params: &[u8], responses: &[u8], state: Option<&[u8]>) -> Option<Vec<u8>> {
    let mut object = Object::read(params)?;
    object.remove(|name| RETRY.contains(&name));
    let mut added: Vec<(&str, &[u8])> = vec![("inputResponses", responses)];
    added.extend(state.map(|state| ("requestState", state)));
    Some(object.with(&added))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legacy(params: &str) -> Option<String> {
        to_legacy(params.as_bytes()).map(|text| String::from_utf8(text).expect("UTF-8"))
    }

    #[test]
    fn a_legacy_server_gets_the_params_without_the_envelope() {
        let envelope = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{}},"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"io.modelcontextprotocol/logLevel":"debug""#;
        for (sent, got) in [
            (
                format!(r#"{{"name":"t","_meta":{{{envelope}}},"arguments":{{"a":1}}}}"#),
                r#"{"name":"t","arguments":{"a":1}}"#,
            ),
            (
                format!(r#"{{"name":"t","_meta":{{{envelope},"progressToken":7,"traceparent":"00-1"}}}}"#),
                r#"{"name":"t","_meta":{"progressToken":7,"traceparent":"00-1"}}"#,
            ),
            (format!(r#"{{"_meta":{{{envelope},"progressToken":null}}}}"#), "{}"),
            (
                format!(r#"{{"_meta":{{{envelope},"progressToken":"p"}}}}"#),
                r#"{"_meta":{"progressToken":"p"}}"#,
            ),
            (r#"{"uri":"a:b","inputResponses":{"k":{}},"requestState":"s"}"#.into(), r#"{"uri":"a:b"}"#),
        ] {
            assert_eq!(legacy(&sent).as_deref(), Some(got));
        }
        assert_eq!(legacy("[]"), None);
        assert_eq!(legacy(r#"{"_meta":1}"#), None);
    }

    #[test]
    fn a_modern_server_gets_the_envelope_that_the_gateway_wrote() {
        let envelope = Envelope {
            version: "2026-07-28",
            client_info: br#"{"name":"c"}"#,
            capabilities: br#"{"roots":{}}"#,
            log_level: None,
        };
        let sent = br#"{"name":"t","task":{"ttl":1},"requestState":"forged","_meta":{"io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"progressToken":1}}"#;
        let got = to_modern(sent, &envelope).expect("an object");
        assert_eq!(
            String::from_utf8(got).expect("UTF-8"),
            r#"{"name":"t","_meta":{"progressToken":1,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c"},"io.modelcontextprotocol/clientCapabilities":{"roots":{}}}}"#
        );
        let logs = Envelope { log_level: Some(br#""debug""#), ..envelope };
        let got = to_modern(b"{}", &logs).expect("an object");
        assert!(
            String::from_utf8(got)
                .expect("UTF-8")
                .ends_with(r#""io.modelcontextprotocol/logLevel":"debug"}}"#)
        );
        assert_eq!(to_modern(br#"{"_meta":[]}"#, &logs), None);
    }

    #[test]
    fn a_retry_carries_the_state_as_it_was() {
        let call = br#"{"name":"t","inputResponses":{},"_meta":{}}"#;
        let got = retry(call, br#"{"k":{"action":"accept"}}"#, Some(br#""a\u0041""#)).expect("an object");
        assert_eq!(
            String::from_utf8(got).expect("UTF-8"),
            r#"{"name":"t","_meta":{},"inputResponses":{"k":{"action":"accept"}},"requestState":"a\u0041"}"#
        );
    }
}
