//! Grows the tree of a YAML file from the events of its parser.
//!
//! Aliases share what they stand for, `<<` is merged, keys that are set twice and tags are reported. What is not
//! YAML ends it (`syntax.rs`), and so do too many values.

use std::collections::HashMap;
use std::rc::Rc;

use serde_saphyr::granit_parser::{
    self, Event, Parser, ScalarStyle, Span as Mark, StrInput, StructureStyle, Tag,
};

use super::node::{Entry, MAX_DEPTH, Node, Scalar, Value, Wrong};
use super::source::{Bytes, Source};
use super::syntax_error;

/// Values that a file may hold, an aliased one counted each time: an alias bomb ends here.
const MAX_NODES: usize = 200_000;

/// Reads the file. `Ok(None)` is a file without a value; the list holds what is wrong with the YAML beside that.
/// `Err` is a file that cannot be understood past this point. `shift` bytes stand before the text that the source does
/// not have.
pub(crate) fn plant(
    source: &Source<'_>,
    text: &str,
    shift: usize,
) -> Result<(Option<Rc<Node>>, Vec<Wrong>), Wrong> {
    let mut options =
        granit_parser::options! { flow_nesting_limit: MAX_DEPTH, block_nesting_limit: MAX_DEPTH };
    options.set_emit_comments(false);
    let events = Parser::new_from_str_with_options(text, options);
    let (anchors, wrong) = Default::default();
    let mut gardener = Gardener { source, events, shift, anchors, weight: 0, wrong };
    let root = gardener.document()?;
    Ok((root, gardener.wrong))
}

struct Gardener<'s, 't> {
    source: &'s Source<'s>,
    events: Parser<'t, StrInput<'t>>,
    shift: usize,
    anchors: HashMap<usize, Rc<Node>>,
    weight: usize,
    wrong: Vec<Wrong>,
}

impl<'t> Gardener<'_, 't> {
    fn document(&mut self) -> Result<Option<Rc<Node>>, Wrong> {
        let mut root = None;
        while let Some((event, bytes)) = self.next()? {
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                _ if root.is_some() => {
                    return Err(Wrong::new(bytes, "a second document", "a config file is only one"));
                }
                event => root = Some(self.node(event, bytes)?),
            }
        }
        Ok(root.filter(|node| !node.is_null()))
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, Bytes)>, Wrong> {
        match self.events.next_event() {
            None => Ok(None),
            Some(Ok((event, mark))) => Ok(Some((event, bytes(mark, self.shift)))),
            Some(Err(error)) => {
                let at = self.source.byte(error.marker().line(), error.marker().col() + 1);
                Err(syntax_error::wrong(&error, at, self.source))
            }
        }
    }

    fn must(&mut self) -> Result<(Event<'t>, Bytes), Wrong> {
        self.next()?.ok_or_else(|| Wrong::new(0..0, "the file ends too early", ""))
    }

    /// Counts a value, or an alias with all that hangs on it.
    fn count(&mut self, weight: usize, bytes: &Bytes) -> Result<(), Wrong> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight <= MAX_NODES {
            return Ok(());
        }
        Err(Wrong::new(
            bytes.clone(),
            format!("the file holds more than {MAX_NODES} values"),
            "this is one too many",
        ))
    }

    fn node(&mut self, event: Event<'t>, bytes: Bytes) -> Result<Rc<Node>, Wrong> {
        if let Event::Alias(id) = event {
            let Some(node) = self.anchors.get(&id).cloned() else {
                self.wrong.push(Wrong::new(
                    bytes.clone(),
                    "an alias inside of its own anchor",
                    "it has no end",
                ));
                return Ok(Rc::new(Node::new(bytes, Value::List(Vec::new())).known(false)));
            };
            self.count(node.weight, &bytes)?;
            return Ok(node);
        }
        self.count(1, &bytes)?;
        let before = self.weight;
        let (anchor, mut node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, self.scalar(text.into(), style, tag.as_deref(), bytes))
            }
            Event::SequenceStart(style, anchor, tag) => {
                let known = self.tag(tag.as_deref(), "seq", &bytes);
                (anchor, self.list(style, bytes)?.known(known))
            }
            Event::MappingStart(style, anchor, tag) => {
                let known = self.tag(tag.as_deref(), "map", &bytes);
                (anchor, self.map(style, bytes)?.known(known))
            }
            other => {
                return Err(Wrong::new(bytes, format!("{other:?} has no place here"), ""));
            }
        };
        node.weight = 1 + self.weight - before;
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn scalar(&mut self, raw: String, style: ScalarStyle, tag: Option<&Tag>, bytes: Bytes) -> Node {
        let text = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str") || tag.parts() == ("", "!"));
        let known = text || self.tag(tag, "", &bytes);
        let plain = style == ScalarStyle::Plain && !text;
        Node::new(bytes, Value::Scalar(Scalar::new(raw, plain))).known(known)
    }

    /// Whether a node with this tag can be read.
    fn tag(&mut self, tag: Option<&Tag>, fitting: &str, bytes: &Bytes) -> bool {
        let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema_tag(fitting)) else { return true };
        let message = format!("the tag `{}` is not understood", tag.original());
        self.wrong.push(Wrong::new(bytes.clone(), message, "write the value without a tag"));
        false
    }

    fn list(&mut self, style: StructureStyle, start: Bytes) -> Result<Node, Wrong> {
        let mut items = Vec::new();
        loop {
            let (event, bytes) = self.must()?;
            if event == Event::SequenceEnd {
                return Ok(Node::new(span(style, start, bytes), Value::List(items)));
            }
            items.push(self.node(event, bytes)?);
        }
    }

    fn map(&mut self, style: StructureStyle, start: Bytes) -> Result<Node, Wrong> {
        let mut entries = Vec::new();
        let mut seen: HashMap<String, Bytes> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, key_bytes) = self.must()?;
            let (key, plain) = match event {
                Event::MappingEnd => {
                    self.merge(&mut entries, &mut seen, merged);
                    return Ok(Node::new(span(style, start, key_bytes), Value::Map(entries)));
                }
                Event::Scalar(text, style, ..) => (text.into_owned(), style == ScalarStyle::Plain),
                other => {
                    self.node(other, key_bytes.clone())?;
                    self.skip()?;
                    self.wrong.push(Wrong::new(
                        key_bytes,
                        "a key that is not a word",
                        "keys are plain text here",
                    ));
                    continue;
                }
            };
            self.count(1, &key_bytes)?;
            let (event, bytes) = self.must()?;
            let block = matches!(
                event,
                Event::SequenceStart(StructureStyle::Block, ..)
                    | Event::MappingStart(StructureStyle::Block, ..)
            );
            let empty = bytes.is_empty();
            let mut node = self.node(event, bytes)?;
            // What begins on the next line, or is not there at all, is best shown at its key.
            if (block || empty)
                && let Some(node) = Rc::get_mut(&mut node)
            {
                node.bytes = key_bytes.clone();
            }
            if key == "<<" && plain {
                merged.push((key_bytes, node));
                continue;
            }
            if key.contains("${") {
                let wrong = Wrong::new(key_bytes, "a variable in a key", "only values may hold variables");
                self.wrong.push(wrong);
                continue;
            }
            if key.starts_with("//") && plain {
                // It has swallowed what follows: nothing past it is what it looks like.
                return Err(Wrong::new(
                    key_bytes,
                    "`//` does not begin a comment",
                    "comments begin with `#`",
                ));
            }
            if let Some(first) = seen.get(&key) {
                let line = self.source.place(first).line;
                let message = format!("`{key}` is set twice");
                self.wrong.push(Wrong::new(key_bytes, message, format!("it was first set on line {line}")));
                continue;
            }
            seen.insert(key.clone(), key_bytes.clone());
            entries.push(Entry::new(key, key_bytes, node));
        }
    }

    fn skip(&mut self) -> Result<(), Wrong> {
        let (event, bytes) = self.must()?;
        self.node(event, bytes).map(drop)
    }

    /// `<<: *defaults` and `<<: [*a, *b]`: what the mapping says itself goes before, then the earlier of the list.
    fn merge(
        &mut self,
        entries: &mut Vec<Entry>,
        seen: &mut HashMap<String, Bytes>,
        merged: Vec<(Bytes, Rc<Node>)>,
    ) {
        for (bytes, node) in merged {
            let maps = if node.items().is_empty() { std::slice::from_ref(&node) } else { node.items() };
            for map in maps {
                if !matches!(map.value, Value::Map(_)) {
                    let expected = "`<<` takes a mapping or a list of mappings";
                    self.wrong.push(Wrong::new(bytes.clone(), format!("{} to merge", map.kind()), expected));
                }
                for entry in map.entries() {
                    if !seen.contains_key(&entry.key) {
                        seen.insert(entry.key.clone(), entry.key_bytes.clone());
                        entries.push(entry.clone());
                    }
                }
            }
        }
    }
}

fn bytes(mark: Mark, shift: usize) -> Bytes {
    let at = |marker: granit_parser::Marker| marker.byte_offset().unwrap_or_default().saturating_sub(shift);
    at(mark.start)..at(mark.end).max(at(mark.start))
}

/// A flow collection is shown whole, a block one at its start.
fn span(style: StructureStyle, start: Bytes, end: Bytes) -> Bytes {
    if style == StructureStyle::Flow { start.start..end.end } else { start }
}
