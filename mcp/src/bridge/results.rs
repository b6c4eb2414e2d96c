//! The result of a request.

use super::{RELATED_TASK, SERVER_INFO};
use crate::json::object::Object;
use crate::jsonrpc::message::{self, SUBSCRIPTION_ID};
use crate::method::Method;

/// Members that only modern results have (2026-07-28, `Result`, `CacheableResult`).
const MODERN: [&str; 5] = ["resultType", "ttlMs", "cacheScope", "inputRequests", "requestState"];

/// A modern result for a legacy client.
#[derive(Debug, PartialEq, Eq)]
pub enum LegacyResult {
    /// The result of the call.
    Complete(Vec<u8>),
    /// The server asks for input first; the result is read by [`super::questions`].
    InputRequired,
    /// A kind of result that this era has not, by its name.
    Unknown(String),
}

/// Whether the result of this method says how long it may be cached (2026-07-28, `CacheableResult`).
fn is_cacheable(method: Method) -> bool {
    matches!(
        method,
        Method::Discover
            | Method::ToolsList
            | Method::PromptsList
            | Method::ResourcesList
            | Method::TemplatesList
            | Method::ResourcesRead
    )
}

/// The result of a legacy server for a modern client: complete, not to be cached, and with the name of its
/// server. `None` if it is no object.
pub fn to_modern(method: Method, result: &[u8], server_info: Option<&[u8]>) -> Option<Vec<u8>> {
    let mut object = Object::read(result)?;
    object.remove(|name| MODERN.contains(&name));
    let mut meta = Object::read(object.get("_meta").unwrap_or(b"{}")).or_else(|| Object::read(b"{}"))?;
    meta.remove(|name| name == RELATED_TASK || name == SUBSCRIPTION_ID || name == SERVER_INFO);
    let info: Vec<(&str, &[u8])> = server_info.map(|info| (SERVER_INFO, info)).into_iter().collect();
    let meta = meta.with(&info);
    let mut added: Vec<(&str, &[u8])> = vec![("resultType", br#""complete""#)];
    if is_cacheable(method) {
        added.extend([("ttlMs", &b"0"[..]), ("cacheScope", &br#""private""#[..])]);
    }
    if method == Method::ToolsCall && object.get("content").is_none() {
        added.push(("content", b"[]"));
    }
    match meta == b"{}" {
        true => object.remove(|name| name == "_meta"),
        false => added.push(("_meta", &meta)),
    }
    Some(object.with(&added))
}

/// The result of a modern server for a legacy client. `wraps`: the tool's output schema was wrapped, see
/// [`super::entries::tool_to_legacy`]. `None` if it is no object.
pub fn to_legacy(method: Method, result: &[u8], wraps: bool) -> Option<LegacyResult> {
    let mut object = Object::read(result)?;
    match object.get("resultType").map(message::string) {
        // "The client MUST treat the absent field as complete."
        None => {}
        Some(Some(kind)) if kind == "complete" => {}
        Some(Some(kind)) if kind == "input_required" => return Some(LegacyResult::InputRequired),
        Some(kind) => return Some(LegacyResult::Unknown(kind.unwrap_or_default())),
    }
    object.remove(|name| MODERN.contains(&name));
    let mut added: Vec<(&str, &[u8])> = Vec::new();
    let meta = object.get("_meta").and_then(Object::read).map(|mut meta| {
        meta.remove(|name| name == SERVER_INFO || name == SUBSCRIPTION_ID);
        meta.with(&[])
    });
    match &meta {
        Some(meta) if meta != b"{}" => added.push(("_meta", meta)),
        _ => object.remove(|name| name == "_meta"),
    }
    // `structuredContent` is an object there (2025-11-25, `CallToolResult`), any value here.
    let structured = object.get("structuredContent").filter(|_| method == Method::ToolsCall);
    let wrapped = structured
        .filter(|value| wraps || value.first() != Some(&b'{'))
        .map(|value| [br#"{"result":"#, value, b"}"].concat());
    let text = wrapped.as_ref().and(structured).filter(|_| is_without_content(&object)).map(|value| {
        let value = String::from_utf8_lossy(value);
        format!(r#"[{{"type":"text","text":{}}}]"#, crate::json::quote::quote(&value)).into_bytes()
    });
    if method == Method::ToolsCall && object.get("content").is_none() && text.is_none() {
        added.push(("content", b"[]"));
    }
    if let Some(wrapped) = &wrapped {
        added.push(("structuredContent", wrapped));
    }
    if let Some(text) = &text {
        added.push(("content", text));
    }
    Some(LegacyResult::Complete(object.with(&added)))
}

/// A legacy client reads the content, which a server may leave empty where it has structured content.
fn is_without_content(object: &Object<'_>) -> bool {
    object.get("content").is_none_or(|content| content.iter().all(|byte| b"[] \t\r\n".contains(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modern(method: Method, result: &str) -> String {
        String::from_utf8(to_modern(method, result.as_bytes(), None).expect("an object")).expect("UTF-8")
    }

    fn legacy(method: Method, result: &str, wraps: bool) -> String {
        match to_legacy(method, result.as_bytes(), wraps) {
            Some(LegacyResult::Complete(text)) => String::from_utf8(text).expect("UTF-8"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_modern_client_gets_what_its_schema_requires() {
        assert_eq!(
            modern(Method::ToolsCall, r#"{"content":[],"isError":true}"#),
            r#"{"content":[],"isError":true,"resultType":"complete"}"#
        );
        assert_eq!(
            modern(Method::ToolsCall, r#"{"structuredContent":{}}"#),
            r#"{"structuredContent":{},"resultType":"complete","content":[]}"#
        );
        assert_eq!(
            modern(Method::ResourcesRead, r#"{"contents":[],"resultType":"input_required","ttlMs":5}"#),
            r#"{"contents":[],"resultType":"complete","ttlMs":0,"cacheScope":"private"}"#,
            "what only the modern era has is the gateway's to say"
        );
        let related =
            r#"{"messages":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"1"},"a/b":1}}"#;
        assert_eq!(
            modern(Method::PromptsGet, related),
            r#"{"messages":[],"resultType":"complete","_meta":{"a/b":1}}"#
        );
        let named = to_modern(Method::Complete, b"{}", Some(br#"{"name":"s"}"#)).expect("an object");
        assert_eq!(
            String::from_utf8(named).expect("UTF-8"),
            r#"{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"}}}"#
        );
        assert_eq!(to_modern(Method::ToolsCall, b"[]", None), None);
    }

    #[test]
    fn a_legacy_client_gets_no_word_of_the_modern_era() {
        assert_eq!(
            legacy(
                Method::ResourcesRead,
                r#"{"resultType":"complete","ttlMs":1,"cacheScope":"public","contents":[],"_meta":{"io.modelcontextprotocol/serverInfo":{}}}"#,
                false
            ),
            r#"{"contents":[]}"#
        );
        assert_eq!(
            legacy(
                Method::ToolsCall,
                r#"{"content":[{"type":"text","text":"x"}],"structuredContent":[1]}"#,
                true
            ),
            r#"{"content":[{"type":"text","text":"x"}],"structuredContent":{"result":[1]}}"#
        );
        assert_eq!(
            legacy(Method::ToolsCall, r#"{"content":[ ],"structuredContent":"a\"b"}"#, true),
            r#"{"structuredContent":{"result":"a\"b"},"content":[{"type":"text","text":"\"a\\\"b\""}]}"#
        );
        assert_eq!(
            legacy(Method::ToolsCall, r#"{"content":[],"structuredContent":{"a":1}}"#, false),
            r#"{"content":[],"structuredContent":{"a":1}}"#
        );
        assert_eq!(
            legacy(Method::ToolsCall, r#"{"content":[{}],"structuredContent":{"a":1}}"#, true),
            r#"{"content":[{}],"structuredContent":{"result":{"a":1}}}"#
        );
    }

    #[test]
    fn what_is_no_complete_result_is_told_apart() {
        let kind = |result: &str| to_legacy(Method::ToolsCall, result.as_bytes(), false);
        assert_eq!(kind(r#"{"resultType":"input_required"}"#), Some(LegacyResult::InputRequired));
        assert_eq!(kind(r#"{"resultType":"task"}"#), Some(LegacyResult::Unknown("task".into())));
        assert_eq!(kind(r#"{"resultType":7}"#), Some(LegacyResult::Unknown(String::new())));
        assert_eq!(kind("null"), None);
    }
}
