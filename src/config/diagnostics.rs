//! Collects what is wrong with one file: every reader and checker reports here, and goes on.
//!
//! It decides how a fault is placed and worded around its path, not what a fault is.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use super::diagnostic::{Fault, Faults, MAX_FAULTS};
use super::translations::{Note, Unread};
use super::yaml::interpolate;
use super::yaml::interpolate::Environment;
use super::yaml::line::Line;
use super::yaml::mask_secrets;
use super::yaml::node::{Entry, Node, Value, Wrong};
use super::yaml::source::{Bytes, Source};

/// How a file that the configuration names is read, and why it could not be.
pub(super) type Files<'f> = dyn Fn(&std::path::Path) -> std::io::Result<String> + 'f;

/// The faults found so far in a file.
pub(super) struct Inquest<'t> {
    source: Source<'t>,
    files: Option<&'t Files<'t>>,
    faults: RefCell<Vec<Fault>>,
    told: RefCell<HashSet<(usize, String)>>,
    blots: RefCell<Vec<Bytes>>,
    full: Cell<bool>,
    pub(super) notes: RefCell<Vec<Note>>,
    pub(super) unread: RefCell<Vec<Unread>>,
    pub(super) foreign: Cell<bool>,
}

/// A value of the file with its path, `mcpServers.files.tools.allow[0]`; where checks report.
#[derive(Clone)]
pub(super) struct Spot<'t> {
    pub inquest: &'t Inquest<'t>,
    pub node: &'t Node,
    /// The key that it stands under, if it is a mapping's value.
    pub key: Option<&'t Entry>,
    pub path: String,
}

impl<'t> Inquest<'t> {
    pub(super) fn new(source: Source<'t>, files: Option<&'t Files<'t>>) -> Self {
        let (faults, told, blots, full) = Default::default();
        let (notes, unread, foreign) = Default::default();
        Self { source, files, faults, told, blots, full, notes, unread, foreign }
    }

    pub(super) fn source(&self) -> &Source<'t> {
        &self.source
    }

    /// The text of a file that the configuration names; `None` where none is looked at.
    pub(super) fn file(&self, path: &std::path::Path) -> Option<std::io::Result<String>> {
        self.files.map(|files| files(path))
    }

    /// Nothing was found.
    pub(super) fn is_clean(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    /// Enough was found: more would not be shown.
    pub(super) fn is_full(&self) -> bool {
        self.full.get()
    }

    /// From here on these bytes are shown as `*`.
    pub(super) fn blot(&self, blots: Vec<Bytes>) {
        *self.blots.borrow_mut() = mask_secrets::merge(blots);
    }

    pub(super) fn wrong(&self, wrong: Wrong) {
        self.add(&wrong.bytes, wrong.message, wrong.expected, wrong.help.into());
    }

    /// The file is no YAML from here on, so that its secrets are not known, only guessed.
    pub(super) fn torn(&self, wrong: Wrong, toml: bool) {
        let line = self.source.place(&wrong.bytes).line;
        let mut blots = mask_secrets::guess(&self.source, line);
        if toml {
            // A table's name stands in another line, so that any value may be of `env`.
            let value =
                self.source.line(line).find('=').map(|at| self.source.line_bytes(line).start + at + 1);
            blots.extend(value.map(|from| from..self.source.line_bytes(line).end));
        }
        self.blot(blots);
        self.wrong(wrong);
    }

    /// Something is wrong with the file as a whole.
    pub(super) fn whole(&self, message: String, help: &str) {
        self.faults.borrow_mut().push(Fault::whole(message, help));
    }

    pub(super) fn add(&self, bytes: &Bytes, message: String, expected: String, help: String) {
        // An alias or a merged key brings the same fault to many places.
        if self.is_full() || !self.told.borrow_mut().insert((bytes.start, message.clone())) {
            return;
        }
        let place = self.source.place(bytes);
        let line = mask_secrets::line(&self.source, place.line, &self.blots.borrow());
        let fault = Fault::at(place, &line, message, expected, help);
        let mut faults = self.faults.borrow_mut();
        faults.push(fault);
        self.full.set(faults.len() > MAX_FAULTS);
    }

    /// Fills in the variables of all values. In a server that is switched off a missing one is no fault, but
    /// its value is unknown from then on.
    pub(super) fn fill(&self, root: &Node, environment: &Environment<'_>) {
        let servers = root.entry("mcpServers");
        let mut off: Vec<&Rc<Node>> = Vec::new();
        for entry in root.entries() {
            if servers.is_none_or(|servers| servers.key != entry.key) {
                self.fill_in(&entry.node, environment, true);
            }
        }
        for server in servers.map(|entry| entry.node.entries()).unwrap_or_default() {
            let disabled = server.node.entry("disabled");
            if let Some(disabled) = disabled {
                self.fill_in(&disabled.node, environment, true);
            }
            let disabled = disabled.is_some_and(
                |entry| matches!(&entry.node.value, Value::Scalar(scalar) if scalar.text().eq_ignore_ascii_case("true")),
            );
            if disabled {
                off.push(&server.node);
            } else {
                self.fill_in(&server.node, environment, true);
            }
        }
        // Last, for what they share with others by an alias is the others' fault.
        for node in off {
            self.fill_in(node, environment, false);
        }
    }

    fn fill_in(&self, node: &Node, environment: &Environment<'_>, aloud: bool) {
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.fill_in(item, environment, aloud)),
            Value::Map(entries) => {
                entries.iter().for_each(|entry| self.fill_in(&entry.node, environment, aloud))
            }
            Value::Scalar(scalar) if !scalar.is_filled() && !node.is_faulty() => {
                match interpolate::fill(&scalar.raw, environment) {
                    Ok(None) => {}
                    Ok(Some(text)) => scalar.filled.set(text).expect("it was empty, and nobody else is here"),
                    Err(lacks) => {
                        node.condemn();
                        for lack in lacks.into_iter().filter(|_| aloud) {
                            let bytes = self.find(node, &scalar.raw[lack.bytes]);
                            self.add(&bytes, lack.message, lack.expected.into(), String::new());
                        }
                    }
                }
            }
            Value::Scalar(_) => {}
        }
    }

    /// Where this piece of a value stands in the file; the whole value if it is written in another way there.
    fn find(&self, node: &Node, piece: &str) -> Bytes {
        match self.source.slice(&node.bytes).find(piece) {
            Some(at) => node.bytes.start + at..node.bytes.start + at + piece.len(),
            None => node.bytes.clone(),
        }
    }

    /// The value, unless anything was found.
    pub(super) fn close<T>(self, name: &str, value: Option<T>) -> Result<T, Faults> {
        let faults = self.faults.into_inner();
        match value {
            Some(value) if faults.is_empty() => Ok(value),
            _ if faults.is_empty() => Err(Faults::whole(name, "not a config file", "")),
            _ => Err(Faults::new(name, faults)),
        }
    }
}

impl<'t> Spot<'t> {
    /// The whole file.
    pub(super) fn root(inquest: &'t Inquest<'t>, node: &'t Node) -> Self {
        Self { inquest, node, key: None, path: String::new() }
    }

    /// The value under this key, faulty or not.
    pub(super) fn child(&self, key: &str) -> Option<Spot<'t>> {
        let entry = self.node.entry(key)?;
        Some(self.under(entry))
    }

    pub(super) fn under(&self, entry: &'t Entry) -> Spot<'t> {
        let dot = if self.path.is_empty() { "" } else { "." };
        let path = format!("{}{dot}{}", self.path, entry.key);
        Spot { inquest: self.inquest, node: &entry.node, key: Some(entry), path }
    }

    pub(super) fn item(&self, index: usize, node: &'t Node) -> Spot<'t> {
        Spot { inquest: self.inquest, node, key: None, path: format!("{}[{index}]", self.path) }
    }

    /// The line on which it begins: that of its key, if it has one.
    pub(super) fn line(&self) -> Line {
        let bytes = self.key.map_or(&self.node.bytes, |entry| &entry.key_bytes);
        Line::new(self.inquest.source().place(bytes).line)
    }

    /// Whether there is a value under this key. `null` is how JSON writes a key that is not there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.node.entry(key).is_some_and(|entry| !entry.node.is_null())
    }

    /// The items of the list under this key that could be read, in the order in which they were. To be asked before
    /// the first of them is refused.
    pub(super) fn sound_items(&self, key: &str) -> Vec<Spot<'t>> {
        let Some(list) = self.child(key) else { return Vec::new() };
        let items = list.node.items().iter().enumerate().filter(|(_, node)| !node.is_faulty());
        items.map(|(index, node)| list.item(index, node)).collect()
    }

    /// The texts of this list that were not refused.
    pub(super) fn texts(&self) -> Vec<(Spot<'t>, &'t str)> {
        let items = self.node.items().iter().enumerate().filter(|(_, node)| !node.is_faulty());
        let texts = items.filter_map(|(index, node)| match &node.value {
            Value::Scalar(scalar) => Some((self.item(index, node), scalar.text())),
            _ => None,
        });
        texts.collect()
    }

    /// Reports each text of this list that stood in it before.
    pub(super) fn check_distinct(&self) {
        let mut seen = HashSet::new();
        for (spot, text) in self.texts() {
            if !seen.insert(text) {
                spot.refuse("named twice", "remove one of the two");
            }
        }
    }

    /// Something is wrong with these bytes of the text; the whole value is shown if it is written in another way.
    pub(super) fn refuse_piece(
        &self,
        piece: std::ops::Range<usize>,
        what: impl std::fmt::Display,
        expected: impl Into<String>,
    ) {
        let Value::Scalar(scalar) = &self.node.value else { return self.refuse(what, expected) };
        if scalar.is_filled() {
            // Whoever compiled it cites it, and it may hold a secret by now.
            let help = "the value comes from the environment";
            return self.refuse_with(
                "cannot be compiled with its variables filled in",
                "expected one that compiles",
                help,
            );
        }
        let text = scalar.text();
        let at = self.inquest.source().slice(&self.node.bytes).find(text);
        let Some(at) = at.filter(|_| text.get(piece.clone()).is_some()) else {
            return self.refuse(what, expected);
        };
        if !self.node.is_faulty() {
            self.node.condemn();
            let start = self.node.bytes.start + at;
            let message = format!("{}: {what}", self.path);
            self.inquest.add(
                &(start + piece.start..start + piece.end),
                message,
                expected.into(),
                String::new(),
            );
        }
    }

    /// Something is wrong with the value.
    pub(super) fn refuse(&self, what: impl std::fmt::Display, expected: impl Into<String>) {
        self.refuse_with(what, expected, "");
    }

    pub(super) fn refuse_with(&self, what: impl std::fmt::Display, expected: impl Into<String>, help: &str) {
        if self.node.is_faulty() {
            return;
        }
        self.node.condemn();
        let what = what.to_string();
        let message = if self.path.is_empty() { what } else { format!("{}: {what}", self.path) };
        self.inquest.add(&self.node.bytes, message, expected.into(), help.into());
    }

    /// Something is wrong with the key that it stands under, or with there being one.
    pub(super) fn refuse_key(
        &self,
        message: impl Into<String>,
        expected: impl Into<String>,
        help: impl Into<String>,
    ) {
        match self.key {
            Some(entry) if entry.is_faulty() => {}
            Some(entry) => {
                entry.condemn();
                self.inquest.add(&entry.key_bytes, message.into(), expected.into(), help.into());
            }
            None => self.refuse_with(message.into(), expected, &help.into()),
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
            let Ok((Some(root), _)) = parser::plant(&source, text, 0) else { panic!("not YAML: {text}") };
            let inquest = Inquest::new(source, None);
            let spot = Spot::root(&inquest, &root).child("a").expect("it is there");
            spot.refuse_piece(5..7, "unknown", "");
            let faults = inquest.close("c", None::<()>).expect_err("it was refused");
            let fault = &faults.list()[0];
            assert_eq!((fault.column, fault.len, &*fault.message), (column, len, "a: unknown"), "{text}");
        }
    }
}
