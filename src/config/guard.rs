//! Settings of the guard: what it searches for in arguments and results, and the approved tool definitions.
//!
//! Each server enables it with `pinning` and `redact`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use filters::guard::Detector;
use schemars::JsonSchema;
use serde::Deserialize;

use super::diagnostics::NodeRef;
use super::scalar::names::Name;
use super::scalar::sha256::Sha256Digest;
use super::yaml::line::Line;

/// Settings of the guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardConfig {
    /// Kinds of sensitive data to search for.
    pub detectors: Vec<Detector>,
    /// Further patterns to search for.
    pub patterns: Vec<CustomPattern>,
    /// Approved definitions: from the federated name of a tool to their SHA-256.
    pub pins: BTreeMap<String, [u8; 32]>,
}

/// A custom pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomPattern {
    /// The replacement of a match, and its name in the log.
    pub name: String,
    /// The regular expression, without look-around and back-references: it takes linear time.
    pub regex: String,
    /// Its line in the file.
    pub line: Line,
}

/// Longest regular expression, in bytes.
const MAX_REGEX: usize = 1024;

fn default_detectors() -> Vec<Detector> {
    Detector::DEFAULT.to_vec()
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self { detectors: default_detectors(), patterns: Vec::new(), pins: BTreeMap::new() }
    }
}

/// Which sensitive data the gateway searches for, and which tool definitions are approved.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename = "Guard", deny_unknown_fields)]
pub(super) struct RawGuard {
    /// Kinds of sensitive data to search for.
    #[serde(default = "default_detectors")]
    detectors: Vec<Detector>,
    /// Further patterns to search for.
    #[serde(default)]
    patterns: Vec<RawPattern>,
    /// Approved definitions: from the federated name of a tool to the SHA-256 of its definition.
    #[serde(default)]
    pins: BTreeMap<String, Sha256Digest>,
}

/// A custom pattern.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "CustomPattern", deny_unknown_fields)]
struct RawPattern {
    /// The name that replaces a match.
    name: Name,
    /// A regular expression without look-around and back-references.
    #[schemars(extend("minLength" = 1, "maxLength" = 1024))]
    regex: String,
}

impl RawGuard {
    pub(super) fn guard(self, node_ref: &NodeRef<'_>) -> GuardConfig {
        if let Some(detectors) = node_ref.child("detectors") {
            detectors.check_distinct();
        }
        for entry in node_ref.child("pins").iter().flat_map(|pins| pins.node.entries()) {
            if entry.key.trim().is_empty() {
                node_ref.under(entry).reject_key(
                    "guard.pins: empty tool name",
                    "expected the name of a tool",
                    "",
                );
            }
        }
        let items = node_ref.valid_items("patterns");
        let patterns: Vec<_> =
            items.iter().zip(self.patterns).map(|(node_ref, raw)| raw.pattern(node_ref)).collect();
        let mut seen = BTreeSet::new();
        for (node_ref, pattern) in items.iter().zip(&patterns) {
            let Some(node_ref) = node_ref.child("name") else { continue };
            if Detector::ALL.iter().any(|detector| detector.as_str() == pattern.name) {
                node_ref.reject("name of a built-in detector", "expected a unique name");
            } else if !seen.insert(&pattern.name) {
                node_ref.reject("duplicate name", "expected a unique name");
            }
        }
        let pins = self.pins.into_iter().map(|(tool, digest)| (tool, digest.0)).collect();
        GuardConfig { detectors: self.detectors, patterns, pins }
    }
}

impl RawPattern {
    fn pattern(self, node_ref: &NodeRef<'_>) -> CustomPattern {
        if let Some(node_ref) = node_ref.child("regex") {
            if self.regex.is_empty() {
                node_ref.reject(
                    "empty regular expression would match everything",
                    "expected a regular expression",
                );
            } else if self.regex.len() > MAX_REGEX {
                node_ref.reject("regular expression is longer than 1024 bytes", "expected a shorter one");
            } else if let Err((piece, what, expected)) = check_pattern(&self.regex) {
                node_ref.reject_part(piece, what, expected);
            }
        }
        CustomPattern { name: self.name.0, regex: self.regex, line: node_ref.line() }
    }
}

/// Compiles the pattern. An error holds the wrong bytes, what is wrong, and what was expected.
fn check_pattern(text: &str) -> Result<(), (Range<usize>, String, String)> {
    let compiled = filters::guard::Redactor::new(&[], &[("pattern".to_owned(), text.to_owned())]);
    let expected = "expected a regular expression without look-around and back-references";
    compiled.map(drop).map_err(|flaw| (0..text.len(), flaw.what, expected.to_owned()))
}
