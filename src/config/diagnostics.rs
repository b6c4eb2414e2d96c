//! Collects the errors of one file. Every reader and check reports here and continues.
//!
//! It decides the place and the path of an error, not what counts as an error.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use super::diagnostic::{ConfigError, ConfigErrors, MAX_ERRORS};
use super::translations::{IgnoredKey, Note};
use super::yaml::interpolate;
use super::yaml::interpolate::Environment;
use super::yaml::line::Line;
use super::yaml::mask_secrets;
use super::yaml::node::{Entry, Node, NodeValue, YamlError};
use super::yaml::source::{ByteRange, Source};

/// How a file that the configuration names is read.
pub(super) type Files<'f> = dyn Fn(&std::path::Path) -> std::io::Result<String> + 'f;

/// The errors found so far in a file.
pub(super) struct Diagnostics<'t> {
    source: Source<'t>,
    files: Option<&'t Files<'t>>,
    errors: RefCell<Vec<ConfigError>>,
    reported: RefCell<HashSet<(usize, String)>>,
    masks: RefCell<Vec<ByteRange>>,
    full: Cell<bool>,
    pub(super) notes: RefCell<Vec<Note>>,
    pub(super) ignored: RefCell<Vec<IgnoredKey>>,
    pub(super) foreign: Cell<bool>,
}

/// A value of the file with its path, `mcpServers.files.tools.allow[0]`; where checks report.
#[derive(Clone)]
pub(super) struct NodeRef<'t> {
    pub diagnostics: &'t Diagnostics<'t>,
    pub node: &'t Node,
    /// Its key, if it is the value of a mapping.
    pub key: Option<&'t Entry>,
    pub path: String,
}

impl<'t> Diagnostics<'t> {
    pub(super) fn new(source: Source<'t>, files: Option<&'t Files<'t>>) -> Self {
        let (errors, reported, masks, full) = Default::default();
        let (notes, ignored, foreign) = Default::default();
        Self { source, files, errors, reported, masks, full, notes, ignored, foreign }
    }

    pub(super) fn source(&self) -> &Source<'t> {
        &self.source
    }

    /// The text of a file that the configuration names; `None` where no files are read.
    pub(super) fn file(&self, path: &std::path::Path) -> Option<std::io::Result<String>> {
        self.files.map(|files| files(path))
    }

    /// Nothing was found.
    pub(super) fn is_clean(&self) -> bool {
        self.errors.borrow().is_empty()
    }

    /// More errors would not be listed.
    pub(super) fn is_full(&self) -> bool {
        self.full.get()
    }

    /// From here on these bytes are shown as `*`.
    pub(super) fn mask(&self, masks: Vec<ByteRange>) {
        *self.masks.borrow_mut() = mask_secrets::merge(masks);
    }

    pub(super) fn yaml_error(&self, error: YamlError) {
        self.add(&error.bytes, error.message, error.expected, error.help.into());
    }

    /// The file is not valid YAML from here on, so that its secrets can only be guessed.
    pub(super) fn syntax_error(&self, error: YamlError, toml: bool) {
        let line = self.source.location(&error.bytes).line;
        let mut masks = mask_secrets::guess_secrets(&self.source, line);
        if toml {
            // The name of a table is in another line, so that any value may belong to `env`.
            let value =
                self.source.line(line).find('=').map(|at| self.source.line_bytes(line).start + at + 1);
            masks.extend(value.map(|from| from..self.source.line_bytes(line).end));
        }
        self.mask(masks);
        self.yaml_error(error);
    }

    /// Reports an error of the whole file.
    pub(super) fn file_error(&self, message: String, help: &str) {
        self.errors.borrow_mut().push(ConfigError::whole(message, help));
    }

    pub(super) fn add(&self, bytes: &ByteRange, message: String, expected: String, help: String) {
        // An alias or a merged key repeats the same error in several places.
        if self.is_full() || !self.reported.borrow_mut().insert((bytes.start, message.clone())) {
            return;
        }
        let place = self.source.location(bytes);
        let line = mask_secrets::masked_line(&self.source, place.line, &self.masks.borrow());
        let error = ConfigError::at(place, &line, message, expected, help);
        let mut errors = self.errors.borrow_mut();
        errors.push(error);
        self.full.set(errors.len() > MAX_ERRORS);
    }

    /// Substitutes the variables in all values. In a disabled server a missing variable is no error, but its
    /// value is unknown from then on.
    pub(super) fn interpolate(&self, root: &Node, environment: &Environment<'_>) {
        let servers = root.entry("mcpServers");
        let mut off: Vec<&Rc<Node>> = Vec::new();
        for entry in root.entries() {
            if servers.is_none_or(|servers| servers.key != entry.key) {
                self.interpolate_node(&entry.node, environment, true);
            }
        }
        for server in servers.map(|entry| entry.node.entries()).unwrap_or_default() {
            let disabled = server.node.entry("disabled");
            if let Some(disabled) = disabled {
                self.interpolate_node(&disabled.node, environment, true);
            }
            let disabled = disabled.is_some_and(
                |entry| matches!(&entry.node.value, NodeValue::Scalar(scalar) if scalar.text().eq_ignore_ascii_case("true")),
            );
            if disabled {
                off.push(&server.node);
            } else {
                self.interpolate_node(&server.node, environment, true);
            }
        }
        // Last: a value that an alias shares with an enabled server is an error there.
        for node in off {
            self.interpolate_node(node, environment, false);
        }
    }

    fn interpolate_node(&self, node: &Node, environment: &Environment<'_>, report: bool) {
        match &node.value {
            NodeValue::List(items) => {
                items.iter().for_each(|item| self.interpolate_node(item, environment, report))
            }
            NodeValue::Map(entries) => {
                entries.iter().for_each(|entry| self.interpolate_node(&entry.node, environment, report))
            }
            NodeValue::Scalar(scalar) if !scalar.is_filled() && !node.is_invalid() => {
                match interpolate::interpolate(&scalar.raw, environment) {
                    Ok(None) => {}
                    Ok(Some(text)) => scalar.filled.set(text).expect("it was empty, and nobody else is here"),
                    Err(missing) => {
                        node.mark_invalid();
                        for missing in missing.into_iter().filter(|_| report) {
                            let bytes = self.find(node, &scalar.raw[missing.bytes]);
                            self.add(&bytes, missing.message, missing.expected.into(), String::new());
                        }
                    }
                }
            }
            NodeValue::Scalar(_) => {}
        }
    }

    /// The place of this part of a value in the file; the whole value if it is written differently there.
    fn find(&self, node: &Node, piece: &str) -> ByteRange {
        match self.source.slice(&node.bytes).find(piece) {
            Some(at) => node.bytes.start + at..node.bytes.start + at + piece.len(),
            None => node.bytes.clone(),
        }
    }

    /// The value, unless anything was found.
    pub(super) fn finish<T>(self, name: &str, value: Option<T>) -> Result<T, ConfigErrors> {
        let errors = self.errors.into_inner();
        match value {
            Some(value) if errors.is_empty() => Ok(value),
            _ if errors.is_empty() => Err(ConfigErrors::whole(name, "not a config file", "")),
            _ => Err(ConfigErrors::new(name, errors)),
        }
    }
}

impl<'t> NodeRef<'t> {
    /// The whole file.
    pub(super) fn root(diagnostics: &'t Diagnostics<'t>, node: &'t Node) -> Self {
        Self { diagnostics, node, key: None, path: String::new() }
    }

    /// The value under this key, valid or not.
    pub(super) fn child(&self, key: &str) -> Option<NodeRef<'t>> {
        let entry = self.node.entry(key)?;
        Some(self.under(entry))
    }

    pub(super) fn under(&self, entry: &'t Entry) -> NodeRef<'t> {
        let dot = if self.path.is_empty() { "" } else { "." };
        let path = format!("{}{dot}{}", self.path, entry.key);
        NodeRef { diagnostics: self.diagnostics, node: &entry.node, key: Some(entry), path }
    }

    pub(super) fn item(&self, index: usize, node: &'t Node) -> NodeRef<'t> {
        NodeRef { diagnostics: self.diagnostics, node, key: None, path: format!("{}[{index}]", self.path) }
    }

    /// The line on which it begins: that of its key, if it has one.
    pub(super) fn line(&self) -> Line {
        let bytes = self.key.map_or(&self.node.bytes, |entry| &entry.key_bytes);
        Line::new(self.diagnostics.source().location(bytes).line)
    }

    /// Whether there is a value under this key. `null` is how JSON writes a key that is not there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.node.entry(key).is_some_and(|entry| !entry.node.is_null())
    }

    /// The valid items of the list under this key, in their order. Call it before the first of them is
    /// rejected.
    pub(super) fn valid_items(&self, key: &str) -> Vec<NodeRef<'t>> {
        let Some(list) = self.child(key) else { return Vec::new() };
        let items = list.node.items().iter().enumerate().filter(|(_, node)| !node.is_invalid());
        items.map(|(index, node)| list.item(index, node)).collect()
    }

    /// The texts of this list that were not refused.
    pub(super) fn texts(&self) -> Vec<(NodeRef<'t>, &'t str)> {
        let items = self.node.items().iter().enumerate().filter(|(_, node)| !node.is_invalid());
        let texts = items.filter_map(|(index, node)| match &node.value {
            NodeValue::Scalar(scalar) => Some((self.item(index, node), scalar.text())),
            _ => None,
        });
        texts.collect()
    }

    /// Reports each duplicate text of this list.
    pub(super) fn check_distinct(&self) {
        let mut seen = HashSet::new();
        for (node_ref, text) in self.texts() {
            if !seen.insert(text) {
                node_ref.reject("duplicate entry", "remove one of the two");
            }
        }
    }

    /// Reports these bytes of the text. The whole value is underlined if it is written differently in the
    /// file.
    pub(super) fn reject_part(
        &self,
        piece: std::ops::Range<usize>,
        what: impl std::fmt::Display,
        expected: impl Into<String>,
    ) {
        let NodeValue::Scalar(scalar) = &self.node.value else { return self.reject(what, expected) };
        if scalar.is_filled() {
            // The compiler's message cites the value, which may hold a secret from the environment.
            let help = "the value comes from the environment";
            return self.reject_with(
                "does not compile with its variables substituted",
                "expected a value that compiles",
                help,
            );
        }
        let text = scalar.text();
        let at = self.diagnostics.source().slice(&self.node.bytes).find(text);
        let Some(at) = at.filter(|_| text.get(piece.clone()).is_some()) else {
            return self.reject(what, expected);
        };
        if !self.node.is_invalid() {
            self.node.mark_invalid();
            let start = self.node.bytes.start + at;
            let message = format!("{}: {what}", self.path);
            self.diagnostics.add(
                &(start + piece.start..start + piece.end),
                message,
                expected.into(),
                String::new(),
            );
        }
    }

    /// Something is wrong with the value.
    pub(super) fn reject(&self, what: impl std::fmt::Display, expected: impl Into<String>) {
        self.reject_with(what, expected, "");
    }

    pub(super) fn reject_with(&self, what: impl std::fmt::Display, expected: impl Into<String>, help: &str) {
        if self.node.is_invalid() {
            return;
        }
        self.node.mark_invalid();
        let what = what.to_string();
        let message = if self.path.is_empty() { what } else { format!("{}: {what}", self.path) };
        self.diagnostics.add(&self.node.bytes, message, expected.into(), help.into());
    }

    /// Reports the key itself, or its presence.
    pub(super) fn reject_key(
        &self,
        message: impl Into<String>,
        expected: impl Into<String>,
        help: impl Into<String>,
    ) {
        match self.key {
            Some(entry) if entry.is_invalid() => {}
            Some(entry) => {
                entry.mark_invalid();
                self.diagnostics.add(&entry.key_bytes, message.into(), expected.into(), help.into());
            }
            None => self.reject_with(message.into(), expected, &help.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml::parser;

    #[test]
    fn a_piece_of_a_value_is_underlined_where_it_can_be_found() {
        for (text, column, len) in [
            ("a: x == é + z", 9, 1),
            ("a: \"x == é + z\"", 10, 1),
            ("a: 'x == é + z'", 10, 1),
            ("a: \"x == \\u00e9 + z\"", 4, 17),
            ("a: x\n  == é + z", 4, 1),
        ] {
            let source = Source::new(text);
            let Ok((Some(root), _)) = parser::parse(&source, text, 0) else { panic!("not YAML: {text}") };
            let diagnostics = Diagnostics::new(source, None);
            let node_ref = NodeRef::root(&diagnostics, &root).child("a").expect("it is there");
            node_ref.reject_part(5..7, "unknown", "");
            let errors = diagnostics.finish("c", None::<()>).expect_err("it was refused");
            let error = &errors.list()[0];
            assert_eq!((error.column, error.len, &*error.message), (column, len, "a: unknown"), "{text}");
        }
    }
}
