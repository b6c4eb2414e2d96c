//! Estimates the cost of a schema before it is compiled.
//!
//! An untrusted server writes the schema. Its size does not limit the cost: thirty definitions that each
//! refer twice to the next are a billion checks, and a chain of ten thousand references overflows a stack. So
//! the schema is measured with each reference expanded, and rejected if it is too expensive.
//!
//! It follows every member of every object, even those without meaning: that is never less than what is
//! compiled. Circular references end where they close. *Their* cost depends on the arguments, and is metered
//! during the check (`metered_json`).

use std::collections::HashMap;

use serde_json::Value;

/// Levels that values nest in a schema.
const DEPTH: usize = 64;
/// Values in a schema, and values when each reference is written out.
const NODES: usize = 20_000;
const WEIGHT: u64 = 100_000;
/// Levels when each reference is written out.
const HEIGHT: u32 = 200;
/// `pattern` and keys of `patternProperties`: how many, and their bytes in all.
const PATTERNS: usize = 256;
const PATTERN_BYTES: usize = 16 * 1024;

/// The result of the estimate.
#[derive(Clone, Copy, Debug)]
pub(super) struct SchemaCost {
    /// Schemas without constraints (`true`, `{}`), with references expanded. A check passes them without
    /// accessing a value, so they cost no budget.
    pub no_op: u64,
    /// Levels, with references written out.
    pub height: u32,
    /// Some reference points back to one of its ancestors.
    pub circular: bool,
}

pub(super) fn estimate_cost(schema: &Value) -> Result<SchemaCost, String> {
    let draft = schema.get("$schema").and_then(Value::as_str).unwrap_or_default();
    let old = draft.contains("draft-04");
    let mut parser = Counter { root: schema, old, nodes: 0, patterns: 0, pattern_bytes: 0 };
    parser.count(schema, 0)?;
    let mut measure = Estimator { root: schema, known: HashMap::new(), circular: false };
    let part = measure.value(schema, 0)?;
    Ok(SchemaCost { no_op: part.no_op, height: part.height, circular: measure.circular })
}

struct Counter<'a> {
    root: &'a Value,
    /// Draft 4 uses `id` for `$id`.
    old: bool,
    nodes: usize,
    patterns: usize,
    pattern_bytes: usize,
}

impl<'a> Counter<'a> {
    fn count(&mut self, value: &'a Value, depth: usize) -> Result<(), String> {
        self.nodes += 1;
        if depth > DEPTH {
            return Err(format!("it nests deeper than {DEPTH} levels"));
        }
        if self.nodes > NODES {
            return Err(format!("it has more than {NODES} values"));
        }
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.count(item, depth + 1)),
            Value::Object(members) => {
                for (key, value) in members {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(to)) => drop(target(self.root, to)?),
                        // The targets of these are only known during a check.
                        ("$dynamicRef" | "$recursiveRef", Value::String(_)) => {
                            return Err(format!("`{key}` is not followed"));
                        }
                        // It changes the meaning of each reference below it.
                        (word @ ("$id" | "id"), Value::String(_))
                            if depth > 0 && (word == "$id" || self.old) && is_schema(members) =>
                        {
                            return Err("a part of it has an `$id` of its own".into());
                        }
                        ("pattern", Value::String(pattern)) => self.pattern(pattern)?,
                        ("patternProperties", Value::Object(all)) => {
                            all.keys().try_for_each(|pattern| self.pattern(pattern))?;
                        }
                        _ => {}
                    }
                    self.count(value, depth + 1)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        self.patterns += 1;
        self.pattern_bytes += pattern.len();
        if self.patterns > PATTERNS || self.pattern_bytes > PATTERN_BYTES {
            return Err(format!("it has more than {PATTERNS} patterns, or {PATTERN_BYTES} bytes of them"));
        }
        Ok(())
    }
}

/// Whether an object with an `$id` can be a schema, and not an example of data.
fn is_schema(members: &serde_json::Map<String, Value>) -> bool {
    ["$ref", "type", "properties", "$defs", "definitions", "allOf", "anyOf", "oneOf", "items", "$anchor"]
        .iter()
        .any(|word| members.contains_key(*word))
}

/// The target of a reference: a place in the same document, as a JSON pointer.
fn target<'a>(root: &'a Value, to: &str) -> Result<&'a Value, String> {
    let pointer = to
        .strip_prefix('#')
        .filter(|pointer| pointer.is_empty() || pointer.starts_with('/'))
        .ok_or("a `$ref` leads out of it; only `#` and `#/…` are followed")?;
    let pointer = percent_decoded(pointer).ok_or("a `$ref` is no JSON pointer")?;
    root.pointer(&pointer).ok_or_else(|| "a `$ref` leads nowhere".into())
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
        out.push(u8::from_str_radix(hex, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(out).ok()
}

/// Members whose `true` and `false` are no branches of a check.
const FLAGS: &[&str] = &[
    "additionalProperties",
    "unevaluatedProperties",
    "additionalItems",
    "uniqueItems",
    "nullable",
    "deprecated",
    "readOnly",
    "writeOnly",
    "default",
];

/// The cost of a part of a schema with its references expanded.
#[derive(Clone, Copy, Default)]
struct PartCost {
    weight: u64,
    no_op: u64,
    height: u32,
}

impl PartCost {
    fn add(&mut self, part: PartCost, times: u64) -> Result<(), String> {
        self.weight = self.weight.saturating_add(part.weight.saturating_mul(times));
        self.no_op = self.no_op.saturating_add(part.no_op.saturating_mul(times));
        self.height = self.height.max(part.height);
        match self.weight > WEIGHT {
            true => Err(format!("with its references it has more than {WEIGHT} values")),
            false => Ok(()),
        }
    }
}

struct Estimator<'a> {
    root: &'a Value,
    /// By address; nothing while a value is being measured.
    known: HashMap<*const Value, Option<PartCost>>,
    circular: bool,
}

impl<'a> Estimator<'a> {
    /// `above` levels are above the value at this place.
    fn value(&mut self, value: &'a Value, above: u32) -> Result<PartCost, String> {
        let (members, items) = match value {
            Value::Object(members) => (Some(members), None),
            Value::Array(items) => (None, Some(items)),
            Value::Bool(_) => return Ok(PartCost { weight: 1, no_op: 1, height: 1 }),
            _ => return Ok(PartCost { weight: 1, no_op: 0, height: 1 }),
        };
        let known = self.known.get(&std::ptr::from_ref(value)).copied();
        if above + known.flatten().map_or(1, |known| known.height) > HEIGHT {
            return Err(format!("with its references it nests deeper than {HEIGHT} levels"));
        }
        match known {
            Some(Some(known)) => return Ok(known),
            Some(None) => {
                self.circular = true;
                return Ok(PartCost { weight: 1, no_op: 1, height: 1 });
            }
            None => {}
        }
        self.known.insert(std::ptr::from_ref(value), None);
        let empty = members.is_some_and(serde_json::Map::is_empty);
        let mut sum = PartCost { weight: 1, no_op: u64::from(empty), height: 0 };
        for item in items.into_iter().flatten() {
            sum.add(self.value(item, above + 1)?, 1)?;
        }
        if let Some(members) = members {
            // A validated value is validated again for what it covers, at each level.
            let again = ["unevaluatedProperties", "unevaluatedItems"];
            let times = if again.iter().any(|word| members.contains_key(*word)) { 3 } else { 1 };
            for (key, value) in members {
                let part = self.value(value, above + 1)?;
                let flag = value.is_boolean() && FLAGS.contains(&key.as_str());
                // Definitions cost where they are referred to.
                let defines = matches!(key.as_str(), "$defs" | "definitions");
                let part = if defines { PartCost { weight: 1, no_op: 0, height: 0 } } else { part };
                sum.add(if flag { PartCost { no_op: 0, ..part } } else { part }, times)?;
                if let ("$ref", Value::String(to)) = (key.as_str(), value) {
                    let root = self.root;
                    sum.add(self.value(target(root, to)?, above + 1)?, times)?;
                }
            }
        }
        sum.height += 1;
        self.known.insert(std::ptr::from_ref(value), Some(sum));
        Ok(sum)
    }
}
