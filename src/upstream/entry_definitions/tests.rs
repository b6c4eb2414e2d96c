//! The definitions equal the official files, older versions require no more, and the validator here finds
//! what a whole validator finds.

use std::collections::BTreeMap;

use filters::guard::Schema;
use serde_json::{Map, Value, json};

use super::*;
use mcp::version::{LEGACY, MODERN, NEWEST_LEGACY, NEWEST_MODERN};

const NAMES: [&str; 4] = ["Tool", "Prompt", "Resource", "ResourceTemplate"];
const HANDSHAKE: [&str; 2] = ["Implementation", "ServerCapabilities"];

/// The definitions of the official file.
fn official(revision: &str) -> Map<String, Value> {
    let file = format!("{}/schema/mcp/{revision}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&file).expect("the official file is there");
    let text = text.replace("#/definitions/", "#/$defs/");
    let mut schema: Value = serde_json::from_str(&text).expect("JSON");
    let defs = if schema.get("$defs").is_some() { "$defs" } else { "definitions" };
    serde_json::from_value(schema[defs].take()).expect("an object")
}

/// Removes the descriptions from a schema; a property may have that name.
fn strip(schema: &mut Value, in_properties: bool) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| strip(item, false)),
        Value::Object(members) => {
            members.retain(|key, _| in_properties || key != "description");
            members.iter_mut().for_each(|(key, value)| strip(value, key == "properties" && !in_properties));
        }
        _ => {}
    }
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(members) => members.iter().for_each(|(key, value)| match value {
            Value::String(to) if key == "$ref" => {
                found.push(to.rsplit('/').next().unwrap_or_default().into())
            }
            value => references(value, found),
        }),
        _ => {}
    }
}

#[test]
fn the_definitions_are_those_of_the_official_files() {
    assert_eq!(DEFINITIONS.map(|(revision, _)| revision), [NEWEST_LEGACY, NEWEST_MODERN]);
    for (revision, text) in DEFINITIONS {
        let official = official(revision);
        let (mut wanted, mut expected) = (
            NAMES.iter().chain(&HANDSHAKE).map(|name| (*name).to_owned()).collect::<Vec<_>>(),
            BTreeMap::new(),
        );
        while let Some(name) = wanted.pop() {
            // Any JSON, whatever the file of 2026-07-28 says of null and fractions.
            let any = json!({});
            let mut definition = if name == "JSONValue" { any } else { official[&name].clone() };
            strip(&mut definition, false);
            if expected.insert(name, definition.clone()).is_none() {
                references(&definition, &mut wanted);
            }
        }
        let ours: BTreeMap<String, Value> = serde_json::from_str(text).expect("JSON");
        assert_eq!(ours, expected, "{revision}: run schema/mcp/prune");
    }
}

/// Whether all that is valid under `new` is valid under `old`, as far as the keywords of the official files
/// go.
fn asks_for_less(old: &Value, new: &Value, olds: &Map<String, Value>, news: &Map<String, Value>, at: &str) {
    let follow = |schema: &Value, all: &Map<String, Value>| match schema["$ref"].as_str() {
        Some(to) => all[to.rsplit('/').next().unwrap_or_default()].clone(),
        None => schema.clone(),
    };
    let (old, new) = (follow(old, olds), follow(new, news));
    for (word, value) in old.as_object().into_iter().flatten() {
        let at = format!("{at}/{word}");
        match word.as_str() {
            "description" | "format" => {}
            "properties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    let newer = new["properties"].get(name);
                    let newer = newer.unwrap_or_else(|| panic!("{at}/{name} is not there any more"));
                    asks_for_less(value, newer, olds, news, &format!("{at}/{name}"));
                }
            }
            "items" | "additionalProperties" if value.is_object() => {
                asks_for_less(value, &new[word], olds, news, &at);
            }
            "required" => {
                let has = |name: &Value| new["required"].as_array().is_some_and(|new| new.contains(name));
                assert!(value.as_array().expect("names").iter().all(has), "{at}");
            }
            "type" | "enum" | "const" | "minimum" | "maximum" | "additionalProperties" => {
                assert_eq!(value, &new[word], "{at}");
            }
            _ => panic!("{at}: what does this ask for?"),
        }
    }
}

#[test]
fn what_fits_the_newest_revision_of_an_era_fits_the_older_ones() {
    for revisions in [LEGACY, MODERN] {
        let newest = official(revisions[0]);
        for old in &revisions[1..] {
            let olds = official(old);
            for name in NAMES.into_iter().chain(HANDSHAKE) {
                asks_for_less(&olds[name], &newest[name], &olds, &newest, &format!("{old} {name}"));
            }
        }
    }
}

fn tool(member: &str, value: Value) -> Value {
    let mut tool = json!({"name": "t", "inputSchema": {"type": "object"}});
    tool[member] = value;
    tool
}

/// A resource and a template.
fn resource(member: &str, value: Value) -> Value {
    let mut resource = json!({"name": "r", "uri": "a://b", "uriTemplate": "a://{b}"});
    resource[member] = value;
    resource
}

fn prompt(member: &str, value: Value) -> Value {
    let mut prompt = json!({"name": "p"});
    prompt[member] = value;
    prompt
}

#[test]
fn entries_that_clients_would_not_take_do_not_fit() {
    let bad = [
        ("Tool", json!({"name": "t"}), "the property `inputSchema` is missing"),
        ("Tool", tool("inputSchema", json!({})), "/inputSchema: the property `type` is missing"),
        ("Tool", tool("inputSchema", json!({"type": "array"})), "/inputSchema/type: expected \"object\""),
        (
            "Tool",
            tool("annotations", json!({"title": null})),
            "/annotations/title: expected string, got null",
        ),
        ("Tool", tool("description", json!(1)), "/description: expected string, got number"),
        ("Tool", tool("icons", json!([{}])), "/icons/0: the property `src` is missing"),
        ("Tool", tool("outputSchema", json!([])), "/outputSchema: expected object, got array"),
        ("Tool", tool("_meta", json!([])), "/_meta: expected object, got array"),
        ("Prompt", prompt("arguments", json!({})), "/arguments: expected array, got object"),
        (
            "Prompt",
            prompt("arguments", json!([{"name": 1}])),
            "/arguments/0/name: expected string, got number",
        ),
        ("Resource", resource("mimeType", json!(null)), "/mimeType: expected string, got null"),
        ("Resource", resource("size", json!("1")), "/size: expected integer, got string"),
        (
            "Resource",
            resource("annotations", json!({"priority": 2})),
            "/annotations/priority: expected at most 1",
        ),
        ("ResourceTemplate", json!({"uriTemplate": "a://{b}"}), "the property `name` is missing"),
    ];
    for server_era in [Era::Legacy, Era::Modern] {
        for (name, entry, why) in &bad {
            let checked = EntryDefinition::new(server_era, name).check(entry.to_string().as_bytes());
            assert_eq!(checked, Err((*why).to_owned()), "{entry}");
        }
        for (name, entry) in [
            ("Tool", tool("more", json!([null]))),
            (
                "Tool",
                tool(
                    "inputSchema",
                    json!({"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "$defs": {}}),
                ),
            ),
            ("Prompt", prompt("arguments", json!([{"name": "a", "more": 1}]))),
            ("Resource", resource("uri", json!("no uri"))),
            ("ResourceTemplate", resource("size", json!("unknown here"))),
        ] {
            assert_eq!(
                EntryDefinition::new(server_era, name).check(entry.to_string().as_bytes()),
                Ok(()),
                "{entry}"
            );
        }
    }
    // Requirements of the official SDKs.
    let beside = [
        ("Tool", tool("execution", json!({"taskSupport": "x"})), true),
        ("Tool", tool("execution", json!({"taskSupport": "optional", "more": 1})), false),
        ("Resource", resource("size", json!(1e300)), true),
        ("Resource", resource("size", json!(1u64 << 53)), false),
        ("Prompt", prompt("annotations", json!({"lastModified": 7})), false),
    ];
    let times = [
        ("2025-01-12T15:00:58Z", false),
        ("2024-02-29T23:59:59.123456+02:00", false),
        ("2023-02-29T23:59:59Z", true),
        ("2025-04-31T00:00:00Z", true),
        ("2025-01-12T15:00:60Z", true),
        ("2025-01-12 15:00:58Z", true),
        ("2025-01-12T15:00:58z", true),
        ("2025-01-12", true),
        ("", true),
        ("2025-01-12T15:00:58", true),
        ("2025-01-12T15:00Z", true),
        ("2025-01-12t15:00:58z", true),
        ("2025-01-12T15:00:58+0200", true),
    ];
    let times =
        times.map(|(time, bad)| ("Resource", resource("annotations", json!({"lastModified": time})), bad));
    for (name, entry, bad) in beside.iter().chain(&times) {
        for server_era in [Era::Legacy, Era::Modern] {
            assert_eq!(
                EntryDefinition::new(server_era, name).check(entry.to_string().as_bytes()).is_err(),
                *bad,
                "{entry}"
            );
        }
    }
    // Where the eras differ.
    let boolean = tool("inputSchema", json!({"type": "object", "properties": {"a": true}})).to_string();
    assert!(EntryDefinition::new(Era::Legacy, "Tool").check(boolean.as_bytes()).is_err());
    assert!(EntryDefinition::new(Era::Modern, "Tool").check(boolean.as_bytes()).is_ok());
}

/// Entries with each of these values instead of each part, and with each part left out.
fn variants(value: &Value) -> Vec<Value> {
    let others = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1.0),
        json!(1.5),
        json!("user"),
        json!([]),
        json!(["a"]),
        json!({}),
        json!({"type": "object"}),
        json!([{"name": "a", "src": "b"}]),
    ];
    let mut all = others.to_vec();
    match value {
        Value::Object(members) => {
            for (name, part) in members {
                let mut without = members.clone();
                without.remove(name);
                all.push(without.into());
                all.extend(variants(part).into_iter().map(|other| {
                    let mut with = members.clone();
                    with.insert(name.clone(), other);
                    with.into()
                }));
            }
        }
        Value::Array(items) => {
            for (at, part) in items.iter().enumerate() {
                all.extend(variants(part).into_iter().map(|other| {
                    let mut with = items.clone();
                    with[at] = other;
                    with.into()
                }));
            }
        }
        _ => {}
    }
    all
}

#[test]
fn what_follows_the_definitions_finds_what_a_whole_validator_finds() {
    let icons = json!([{"src": "a", "mimeType": "b", "sizes": ["any"], "theme": "dark"}]);
    let annotations = json!({"audience": ["user"], "priority": 0.5, "lastModified": "now"});
    let schema =
        json!({"$schema": "a", "type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]});
    let whole = [
        (
            "Tool",
            json!({"name": "t", "title": "T", "description": "d", "icons": icons, "inputSchema": schema,
            "outputSchema": schema, "annotations": {"title": "t", "readOnlyHint": true, "destructiveHint": true,
            "idempotentHint": true, "openWorldHint": true}, "execution": {"taskSupport": "optional"}, "_meta": {"a": 1}}),
        ),
        (
            "Prompt",
            json!({"name": "p", "title": "P", "description": "d", "icons": icons, "_meta": {},
            "arguments": [{"name": "a", "title": "A", "description": "d", "required": true}]}),
        ),
        (
            "Resource",
            json!({"name": "r", "uri": "a:b", "title": "R", "description": "d", "icons": icons, "size": 1,
            "mimeType": "a/b", "annotations": annotations, "_meta": {}}),
        ),
        (
            "ResourceTemplate",
            json!({"name": "r", "uriTemplate": "a:b", "title": "R", "description": "d", "icons": icons,
            "mimeType": "a/b", "annotations": annotations, "_meta": {}}),
        ),
    ];
    let mut seen = [0, 0];
    for (server_era, (_, all)) in [Era::Legacy, Era::Modern].into_iter().zip(DEFINITIONS) {
        for (name, entry) in &whole {
            let definition = EntryDefinition::new(server_era, name);
            let validator = format!(r##"{{"$ref":"#/$defs/{name}","$defs":{all}}}"##);
            let validator = Schema::compile(validator.as_bytes()).expect("a schema");
            for variant in variants(entry).iter().chain([entry]) {
                let mut faults = SchemaErrors::default();
                definition.validate(&definition.all[*name], variant, "", &mut faults);
                let expected = validator.check(Some(variant.to_string().as_bytes()));
                assert_eq!(faults.0.is_empty(), expected.is_ok(), "{variant}: {:?} {expected:?}", faults.0);
                seen[usize::from(expected.is_ok())] += 1;
            }
        }
    }
    assert!(seen[0] > 500 && seen[1] > 100, "{seen:?}");
}

#[test]
fn the_definitions_use_only_words_that_are_followed() {
    fn walk(schema: &Value) {
        for (word, value) in schema.as_object().expect("a schema") {
            match word.as_str() {
                "$ref" | "type" | "const" | "enum" | "minimum" | "maximum" | "required" | "format" => {}
                "properties" => value.as_object().expect("schemas").values().for_each(walk),
                "items" | "additionalProperties" if value.is_object() => walk(value),
                "additionalProperties" => assert_eq!(value, true, "it says nothing"),
                _ => panic!("`{word}` is not followed"),
            }
        }
    }
    for (_, all) in DEFINITIONS {
        let all: Map<String, Value> = serde_json::from_str(all).expect("JSON");
        all.values().for_each(walk);
    }
}
