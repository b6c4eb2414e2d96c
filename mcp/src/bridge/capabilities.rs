//! What a server, or a client, declares to be able to do.

use crate::json::object::Object;
use crate::tasks;

/// `ServerCapabilities` of 2025-11-25 as a modern client may read them: the tasks of that revision are not
/// those of the extension. `None` if the text is no object.
pub fn server_to_modern(capabilities: &[u8]) -> Option<Vec<u8>> {
    without(capabilities, "tasks")
}

/// `ServerCapabilities` of 2026-07-28 for a legacy client: extensions are not in its era.
pub fn server_to_legacy(capabilities: &[u8]) -> Option<Vec<u8>> {
    without(capabilities, "extensions")
}

/// `ServerCapabilities` of either era without subscriptions to resources.
pub fn without_subscriptions(capabilities: &[u8]) -> Option<Vec<u8>> {
    let object = Object::read(capabilities)?;
    let mut resources = Object::read(object.get("resources")?)?;
    resources.remove(|member| member == "subscribe");
    Some(object.with(&[("resources", &resources.with(&[]))]))
}

/// `ClientCapabilities` of a legacy client for a modern server. A client of that era cannot be asked whether
/// its roots have changed, and has no tasks of that era.
pub fn client_to_modern(capabilities: &[u8]) -> Option<Vec<u8>> {
    let known = tasks::declare(capabilities, false);
    let mut object = Object::read(known.as_deref().unwrap_or(capabilities))?;
    object.remove(|name| name == "tasks");
    match object.get("roots") {
        Some(_) => Some(object.with(&[("roots", b"{}")])),
        None => Some(object.with(&[])),
    }
}

/// `ClientCapabilities` of a modern client for a legacy server. What is no object there declares nothing.
pub fn client_to_legacy(capabilities: &[u8]) -> Option<Vec<u8>> {
    let mut object = Object::read(capabilities)?;
    let odd: Vec<_> =
        object.iter().filter(|(_, value)| value.first() != Some(&b'{')).map(|(name, _)| name).collect();
    object.remove(|name| name == "extensions" || name == "tasks" || odd.iter().any(|odd| odd == name));
    match object.get("roots") {
        Some(_) => Some(object.with(&[("roots", b"{}")])),
        None => Some(object.with(&[])),
    }
}

fn without(capabilities: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut object = Object::read(capabilities)?;
    object.remove(|member| member == name);
    Some(object.with(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_one_era_has_is_not_declared_in_the_other() {
        let text = |part: Option<Vec<u8>>| String::from_utf8(part.expect("an object")).expect("UTF-8");
        let server = br#"{"tools":{"listChanged":true},"tasks":{"list":{}},"extensions":{"x/y":{}}}"#;
        assert_eq!(
            text(server_to_modern(server)),
            r#"{"tools":{"listChanged":true},"extensions":{"x/y":{}}}"#
        );
        let resources = br#"{"resources":{"subscribe":true,"listChanged":true}}"#;
        assert_eq!(text(server_to_modern(resources)).as_bytes(), resources);
        assert_eq!(text(server_to_legacy(resources)).as_bytes(), resources);
        assert_eq!(text(without_subscriptions(resources)), r#"{"resources":{"listChanged":true}}"#);
        assert_eq!(without_subscriptions(server), None);
        assert_eq!(text(server_to_legacy(server)), r#"{"tools":{"listChanged":true},"tasks":{"list":{}}}"#);
        let client = br#"{"roots":{"listChanged":true},"tasks":{},"extensions":{},"sampling":{}}"#;
        assert_eq!(text(client_to_modern(client)), r#"{"extensions":{},"sampling":{},"roots":{}}"#);
        assert_eq!(text(client_to_legacy(client)), r#"{"sampling":{},"roots":{}}"#);
        assert_eq!(text(client_to_legacy(br#"{"elicitation":5,"sampling":{}}"#)), r#"{"sampling":{}}"#);
        assert_eq!(client_to_legacy(b"[]"), None);
        let extensions = br#"{"extensions":{"io.modelcontextprotocol/tasks":{},"x/y":{}}}"#;
        assert_eq!(text(client_to_modern(extensions)), r#"{"extensions":{"x/y":{}}}"#);
    }
}
