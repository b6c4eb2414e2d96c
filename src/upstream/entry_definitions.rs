//! Validates list entries and handshakes in each era, by the official JSON schema of MCP.
//!
//! Clients validate the lists that they read, and one unexpected entry costs them the whole list. So no entry
//! is shown that is invalid in the protocol version that it is shown in. That is the newest version of the
//! era: a list of the older ones is the same list, and each of them only requires less (the tests compare the
//! files). Members that the schema does not define pass, and `format` is not checked: it is an annotation.
//!
//! In a few places the official SDKs, which most clients use, require more than the schema, and they too drop
//! the whole list: [`EntryDefinition::clients`].
//!
//! `definitions/` holds the required parts of the schemas (`schema/mcp/prune` writes them). They use few
//! keywords of JSON Schema, which are implemented here. `jsonschema` keeps the schemas of all drafts in
//! memory once it has compiled anything: 1.4 MiB that a gateway without `validate` does not need. The tests
//! compare both.

use filters::guard::strict_json;
use mcp::Era;
use serde_json::Value;

/// The official definitions of the newest version of each era, a JSON object each.
const DEFINITIONS: [(&str, &str); 2] = [
    ("2025-11-25", include_str!("entry_definitions/2025-11-25.json")),
    ("2026-07-28", include_str!("entry_definitions/2026-07-28.json")),
];
/// Errors that are reported of one entry.
const MAX_REPORTED: usize = 4;

/// The definition of the entries of one list.
pub struct EntryDefinition {
    all: Value,
    /// Of 2025-11-25: clients validate tools of the modern era against it too.
    execution: Option<Value>,
    name: &'static str,
}

impl EntryDefinition {
    /// The definition of this name, such as `ListedTool`, in the newest version of the era. It is small, and
    /// parsed each time: lists seldom change.
    pub fn new(server_era: Era, name: &'static str) -> Self {
        let read = |server_era: Era| -> Value {
            serde_json::from_str(DEFINITIONS[server_era as usize].1).expect("the definitions are JSON")
        };
        let execution = (name == "Tool").then(|| read(Era::Legacy)["ToolExecution"].take());
        Self { all: read(server_era), execution, name }
    }

    /// Validates an entry. The error says where, and what is expected there.
    pub fn check(&self, entry: &[u8]) -> Result<(), String> {
        let entry = strict_json::read(entry)?;
        let mut faults = SchemaErrors::default();
        self.validate(&self.all[self.name], &entry, "", &mut faults);
        self.clients(&entry, &mut faults);
        if faults.0.is_empty() { Ok(()) } else { Err(faults.0.join("; ")) }
    }

    /// Validates one member of an object; undefined members are valid.
    pub fn check_member(&self, name: &str, value: &[u8]) -> Result<(), String> {
        let at = format!("/{name}");
        let value = strict_json::read(value).map_err(|why| format!("{at}: {why}"))?;
        let mut faults = SchemaErrors::default();
        if let Some(schema) = self.all[self.name]["properties"].get(name) {
            self.validate(schema, &value, &at, &mut faults);
        }
        if faults.0.is_empty() { Ok(()) } else { Err(faults.0.join("; ")) }
    }

    /// What the official SDKs require beside the schema. `lastModified` must be a time with seconds and
    /// offset (TypeScript 2.4). `size` must fit 64 bits, and `execution` must be as 2025-11-25 defines it in
    /// either era (Python 2.3).
    fn clients(&self, entry: &Value, faults: &mut SchemaErrors) {
        if let (Some(schema), Some(execution)) = (&self.execution, entry.get("execution")) {
            self.validate(schema, execution, "/execution", faults);
        }
        if !self.name.starts_with("Resource") {
            return;
        }
        let time = entry.get("annotations").and_then(|all| all.get("lastModified")?.as_str());
        if time.is_some_and(|time| !is_time(time)) {
            let expected = "expected a time with seconds and offset, such as 2025-01-12T15:00:58Z";
            faults.add("/annotations/lastModified", expected);
        }
        let size = entry.get("size").and_then(Value::as_f64).filter(|_| self.name == "Resource");
        if size.is_some_and(|size| size.abs() > i64::MAX as f64) {
            faults.add("/size", "expected a number of 64 bits");
        }
    }

    /// Validates a value against a schema, with the keywords of the official definitions.
    fn validate(&self, schema: &Value, value: &Value, at: &str, faults: &mut SchemaErrors) {
        for (word, asked) in schema.as_object().into_iter().flatten() {
            match (word.as_str(), value) {
                ("$ref", _) => {
                    let name = asked.as_str().and_then(|to| to.strip_prefix("#/$defs/"));
                    self.validate(
                        &self.all[name.expect("references lead to definitions")],
                        value,
                        at,
                        faults,
                    );
                }
                ("type", _) if !is_of(value, asked) => {
                    faults.add(
                        at,
                        &format!("expected {}, got {}", asked.as_str().unwrap_or_default(), kind(value)),
                    );
                }
                ("const", _) if value != asked => faults.add(at, &format!("expected {asked}")),
                ("enum", _) if !asked.as_array().is_some_and(|all| all.contains(value)) => {
                    faults.add(at, &format!("expected one of {asked}"));
                }
                ("minimum", Value::Number(number)) if number.as_f64() < asked.as_f64() => {
                    faults.add(at, &format!("expected at least {asked}"));
                }
                ("maximum", Value::Number(number)) if number.as_f64() > asked.as_f64() => {
                    faults.add(at, &format!("expected at most {asked}"));
                }
                ("required", Value::Object(members)) => {
                    let names = asked.as_array().into_iter().flatten().filter_map(Value::as_str);
                    for name in names.filter(|name| !members.contains_key(*name)) {
                        faults.add(at, &format!("the property `{name}` is missing"));
                    }
                }
                ("properties", Value::Object(members)) => {
                    for (name, schema) in asked.as_object().into_iter().flatten() {
                        if let Some(value) = members.get(name) {
                            self.validate(schema, value, &format!("{at}/{name}"), faults);
                        }
                    }
                }
                ("additionalProperties", Value::Object(members)) if asked.is_object() => {
                    let known = &schema["properties"];
                    for (name, value) in members.iter().filter(|(name, _)| known.get(name).is_none()) {
                        let name = name.replace('~', "~0").replace('/', "~1");
                        self.validate(asked, value, &format!("{at}/{name}"), faults);
                    }
                }
                ("items", Value::Array(items)) => {
                    for (number, value) in items.iter().enumerate() {
                        self.validate(asked, value, &format!("{at}/{number}"), faults);
                    }
                }
                _ => {}
            }
        }
    }
}

/// The errors that were found, each once.
#[derive(Default)]
struct SchemaErrors(Vec<String>);

impl SchemaErrors {
    fn add(&mut self, at: &str, what: &str) {
        let fault = if at.is_empty() { what.to_owned() } else { format!("{at}: {what}") };
        if self.0.len() < MAX_REPORTED && !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }
}

fn is_of(value: &Value, kind: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        // 1.0 is an integer.
        Some("integer") => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        _ => false,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// ISO 8601 as strict parsers take it: RFC 3339 without lower case and leap seconds.
fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = || text.ends_with('Z') || bytes[bytes.len() - 3] == b':';
    text.is_ascii()
        && bytes.len() >= 20
        && bytes[10] == b'T'
        && &bytes[17..19] != b"60"
        && ends()
        && chrono::DateTime::parse_from_rfc3339(text).is_ok()
}

#[cfg(test)]
mod tests;
