//! The entries of a list. Prompts, resources and templates are the same in both eras; tools are not.

use serde_json::{Value, json};

use crate::json::object::Object;

/// A tool of a legacy server for a modern client: without `execution`, which says how the tasks of 2025-11-25
/// apply. `None` if it is no object.
pub fn tool_to_modern(tool: &[u8]) -> Option<Vec<u8>> {
    let mut object = Object::read(tool)?;
    object.remove(|name| name == "execution");
    Some(object.with(&[]))
}

/// A tool of a modern server for a legacy client, and whether its output schema was wrapped.
///
/// In 2025-11-25 the root of an output schema is `type: object`. Any other schema becomes the member `result`
/// of an object, and [`super::results::to_legacy`] does the same with the values.
pub fn tool_to_legacy(tool: &[u8]) -> Option<(Vec<u8>, bool)> {
    let object = Object::read(tool)?;
    let Some(schema) = object.get("outputSchema") else { return Some((tool.to_vec(), false)) };
    if Object::read(schema).is_some_and(|schema| schema.get("type") == Some(br#""object""#)) {
        return Some((tool.to_vec(), false));
    }
    let Ok(mut schema) = serde_json::from_slice::<Value>(schema) else {
        // Too deep for that reader, or of a number that it does not have: without a schema the values pass.
        let mut object = object;
        object.remove(|name| name == "outputSchema");
        return Some((object.with(&[]), true));
    };
    // A schema with an identifier of its own resolves its references by itself.
    if schema.get("$id").is_none() {
        move_references(&mut schema);
    }
    let mut wrapped = json!({"type": "object", "properties": {"result": schema}, "required": ["result"]});
    let dialect = wrapped["properties"]["result"].as_object_mut().and_then(|inner| inner.remove("$schema"));
    if let Some(dialect) = dialect {
        wrapped["$schema"] = dialect;
    }
    Some((object.with(&[("outputSchema", wrapped.to_string().as_bytes())]), true))
}

/// References from the root lead through `properties/result` now.
fn move_references(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members {
                match (name.as_str(), &mut *value) {
                    ("$ref" | "$dynamicRef", Value::String(target))
                        if target == "#" || target.starts_with("#/") =>
                    {
                        target.insert_str(1, "/properties/result");
                    }
                    // Values, not schemas.
                    ("const" | "enum" | "default" | "examples", _) => {}
                    _ => move_references(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(move_references),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legacy(tool: &str) -> (String, bool) {
        let (text, wraps) = tool_to_legacy(tool.as_bytes()).expect("an object");
        (String::from_utf8(text).expect("UTF-8"), wraps)
    }

    #[test]
    fn a_modern_tool_has_no_execution() {
        let tool = br#"{"name":"t","execution":{"taskSupport":"optional"},"inputSchema":{"type":"object"}}"#;
        let text = tool_to_modern(tool).expect("an object");
        assert_eq!(text, br#"{"name":"t","inputSchema":{"type":"object"}}"#);
    }

    #[test]
    fn an_output_schema_that_is_no_object_is_wrapped() {
        for plain in
            [r#"{"name":"t"}"#, r#"{"name":"t","outputSchema":{"type":"object","properties":{"a":{}}}}"#]
        {
            assert_eq!(legacy(plain), (plain.to_owned(), false));
        }
        let (text, wraps) = legacy(
            r##"{"name":"t","outputSchema":{"$schema":"d","type":"array","items":{"$ref":"#/$defs/i"},"$defs":{"i":{"const":{"$ref":"#/x"}},"all":{"$ref":"#"}}}}"##,
        );
        assert!(wraps);
        let tool: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            tool["outputSchema"],
            json!({
                "$schema": "d",
                "type": "object",
                "required": ["result"],
                "properties": {"result": {
                    "type": "array",
                    "items": {"$ref": "#/properties/result/$defs/i"},
                    "$defs": {"i": {"const": {"$ref": "#/x"}}, "all": {"$ref": "#/properties/result"}},
                }},
            })
        );
        let (text, wraps) = legacy(r##"{"name":"t","outputSchema":{"$id":"a:b","$ref":"#/$defs/i"}}"##);
        let tool: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&tool["outputSchema"]["properties"]["result"]["$ref"], wraps),
            (&json!("#/$defs/i"), true)
        );
    }
}
