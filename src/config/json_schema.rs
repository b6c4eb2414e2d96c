//! The JSON Schema of the config file, for editors.
//!
//! It is generated from the types that read the file. The reader checks more than a schema can express:
//! duplicate names, or whether a pattern compiles.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::root::RawConfig;

/// A JSON Schema (2020-12) of the config file.
pub fn schema() -> Value {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<RawConfig>();
    let mut schema = Value::from(schema);
    allow_variables(&mut schema);
    if let Value::Object(root) = &mut schema {
        root.insert("title".into(), json!("Toolgate configuration"));
    }
    schema
}

/// A variable may replace any scalar: a narrow scalar also accepts text with `${`.
fn allow_variables(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    if let Some(Value::String(text)) = object.get_mut("description") {
        // The source's line breaks; a paragraph has two.
        *text = text.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
    for key in ["properties", "patternProperties", "$defs"] {
        if let Some(Value::Object(children)) = object.get_mut(key) {
            children.values_mut().for_each(allow_variables);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = object.get_mut(key) {
            allow_variables(child);
        }
    }
    for key in ["anyOf", "oneOf"] {
        // Several alternatives for one scalar need the variable only once.
        if let Some(Value::Array(children)) = object.get_mut(key)
            && !children.iter().any(is_narrow)
        {
            children.iter_mut().for_each(allow_variables);
        }
    }
    let narrow = is_narrow(schema);
    if narrow && let Value::Object(object) = schema {
        let mut outer = Map::new();
        for key in ["title", "description", "default"] {
            if let Some(value) = object.remove(key) {
                outer.insert(key.into(), value);
            }
        }
        let inner = std::mem::take(object);
        outer.insert("anyOf".into(), json!([inner, {"type": "string", "pattern": "\\$\\{"}]));
        *object = outer;
    }
}

/// Whether it is a scalar that does not accept every text.
fn is_narrow(schema: &Value) -> bool {
    let types = match schema.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let constrained = ["pattern", "enum", "const"].iter().any(|key| schema.get(key).is_some());
    let alternatives = ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    types.contains(&"integer")
        || types.contains(&"boolean") && !types.contains(&"string")
        || constrained
        || types.is_empty() && alternatives.into_iter().any(is_narrow)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::yaml::node::Node;
    use crate::config::yaml::parser;
    use crate::config::yaml::source::Source;

    const FULL: &str = include_str!("../../conf/toolgate.yaml");

    fn known(schema: &Value, keys: &mut BTreeSet<String>) {
        if let Some(Value::Object(properties)) = schema.get("properties") {
            keys.extend(properties.keys().cloned());
        }
        if let Some(Value::Object(parts)) = schema.get("$defs") {
            parts.values().for_each(|part| known(part, keys));
        }
    }

    fn written(node: &Node, keys: &mut BTreeSet<String>) {
        for entry in node.entries() {
            keys.insert(entry.key.clone());
            written(&entry.node, keys);
        }
        node.items().iter().for_each(|item| written(item, keys));
    }

    #[test]
    fn the_full_example_has_every_key_of_the_schema() {
        let (mut wanted, mut found) = (BTreeSet::new(), BTreeSet::new());
        known(&schema(), &mut wanted);
        let Ok((Some(root), _)) = parser::parse(&Source::new(FULL), FULL, 0) else { panic!("not YAML") };
        written(&root, &mut found);
        let missing: Vec<_> = wanted.difference(&found).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn it_has_a_schema_version_and_defaults() {
        let schema = schema();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["title"], "Toolgate configuration");
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["$defs"]["Limits"]["properties"]["max_body"]["default"], "4MiB");
        assert_eq!(schema["$defs"]["Server"]["properties"]["disabled"]["anyOf"][1]["pattern"], "\\$\\{");
    }
}
