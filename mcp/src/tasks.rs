//! The tasks extension (SEP-2663): who declares it, and the ids in its messages. The tasks of 2025-11-25 are
//! another protocol, and pass as they are.

use crate::json::object::Object;
use crate::json::quote::quote;
use crate::jsonrpc::message;

/// The name of the extension in capabilities.
pub const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// `error.data` for a caller that has not declared it (2026-07-28, error -32021).
pub const REQUIRED: &str = r#"{"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}"#;

/// Whether a client's or a server's capabilities declare the extension.
pub fn is_declared(capabilities: &[u8]) -> bool {
    // Few do, so most texts are only searched.
    if memchr::memmem::find(capabilities, b"tasks").is_none() {
        return false;
    }
    let declared = || {
        let extensions = message::member(capabilities, "extensions")?.of(capabilities);
        Some(message::member(extensions, EXTENSION)?.of(extensions).first() == Some(&b'{'))
    };
    declared().unwrap_or(false)
}

/// Capabilities with the extension or without it; `None` if they are so already, or are no object.
pub fn declare(capabilities: &[u8], wanted: bool) -> Option<Vec<u8>> {
    let object = Object::read(capabilities)?;
    let extensions = object.get("extensions").and_then(Object::read);
    if extensions.as_ref().is_some_and(|extensions| extensions.get(EXTENSION).is_some()) == wanted {
        return None;
    }
    let mut extensions = extensions.or_else(|| Object::read(b"{}"))?;
    let with = match wanted {
        true => extensions.with(&[(EXTENSION, b"{}")]),
        false => {
            extensions.remove(|name| name == EXTENSION);
            extensions.with(&[])
        }
    };
    Some(object.with(&[("extensions", &with)]))
}

/// Whether a result stands for a task.
pub fn is_task(result: &[u8]) -> bool {
    result_type(result).as_deref() == Some("task")
}

/// The `resultType` of a result.
pub fn result_type(result: &[u8]) -> Option<String> {
    message::string(message::member(result, "resultType")?.of(result))
}

/// The task that an object is of: a result, or the params of a notification.
pub fn task_id(object: &[u8]) -> Option<String> {
    message::string(message::member(object, "taskId")?.of(object))
}

/// The object with another task id, if it has one. `kind`: its `resultType`, if that is known.
pub fn with_task_id(object: &[u8], id: &str, kind: Option<&str>) -> Option<Vec<u8>> {
    let object = Object::read(object)?;
    let (id, kind) = (quote(id), kind.map(quote));
    let mut added: Vec<(&str, &[u8])> = Vec::new();
    if object.get("taskId").is_some() {
        added.push(("taskId", id.as_bytes()));
    }
    added.extend(kind.iter().map(|kind| ("resultType", kind.as_bytes())));
    Some(object.with(&added))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_is_declared_by_an_object_at_its_place() {
        let declared = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
        assert!(is_declared(declared.as_bytes()));
        for other in [
            "",
            "[]",
            "{}",
            r#"{"tasks":{}}"#,
            r#"{"extensions":{"io.modelcontextprotocol/tasks":null}}"#,
            r#"{"extensions":{"x":{"io.modelcontextprotocol/tasks":{}}}}"#,
            r#"{"io.modelcontextprotocol/tasks":{}}"#,
        ] {
            assert!(!is_declared(other.as_bytes()), "{other}");
        }
        let text = |object: Option<Vec<u8>>| object.map(|text| String::from_utf8(text).expect("UTF-8"));
        assert_eq!(text(declare(b"{}", true)).as_deref(), Some(declared));
        assert_eq!(text(declare(declared.as_bytes(), false)).as_deref(), Some(r#"{"extensions":{}}"#));
        assert_eq!(declare(declared.as_bytes(), true), None);
        assert_eq!(declare(br#"{"tools":{}}"#, false), None);
        assert_eq!(
            text(declare(br#"{"extensions":{"a/b":{"c":1}},"tools":{}}"#, true)).as_deref(),
            Some(r#"{"tools":{},"extensions":{"a/b":{"c":1},"io.modelcontextprotocol/tasks":{}}}"#)
        );
    }

    #[test]
    fn an_object_gets_another_id_where_it_has_one() {
        let task = br#"{"resultType":"task","taskId":"raw","status":"working"}"#;
        assert!(is_task(task) && !is_task(br#"{"content":[{"resultType":"task"}]}"#));
        assert_eq!(task_id(task).as_deref(), Some("raw"));
        let new = with_task_id(task, "sealed", Some("complete")).expect("an object");
        assert_eq!(new, br#"{"status":"working","taskId":"sealed","resultType":"complete"}"#);
        assert_eq!(with_task_id(b"{}", "sealed", None).expect("an object"), b"{}");
        assert_eq!(with_task_id(b"[]", "sealed", None), None);
    }
}
