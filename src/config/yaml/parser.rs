//! Builds the tree of a YAML file from the events of its parser.
//!
//! Aliases share their node, and `<<` is merged. Duplicate keys and tags are reported. A syntax error stops
//! the parser (`yaml/syntax_error.rs`), and so do too many values.

use std::collections::HashMap;
use std::rc::Rc;

use serde_saphyr::granit_parser::{
    self, Event, Parser, ScalarStyle, Span as Mark, StrInput, StructureStyle, Tag,
};

use super::node::{Entry, MAX_DEPTH, Node, NodeValue, Scalar, YamlError};
use super::source::{ByteRange, Source};
use super::syntax_error;

/// The highest number of values in a file. An aliased one counts each time, against alias bombs.
const MAX_NODES: usize = 200_000;

/// Reads the file. `Ok(None)` is a file without a value; the list holds further errors of the YAML. `Err` is
/// an error that stops the parser. `shift` is the number of bytes in front of the text that the source does
/// not have.
pub(crate) fn parse(
    source: &Source<'_>,
    text: &str,
    shift: usize,
) -> Result<(Option<Rc<Node>>, Vec<YamlError>), YamlError> {
    let mut options =
        granit_parser::options! { flow_nesting_limit: MAX_DEPTH, block_nesting_limit: MAX_DEPTH };
    options.set_emit_comments(false);
    let events = Parser::new_from_str_with_options(text, options);
    let (anchors, error) = Default::default();
    let mut builder = TreeBuilder { source, events, shift, anchors, weight: 0, errors: error };
    let root = builder.document()?;
    Ok((root, builder.errors))
}

struct TreeBuilder<'s, 't> {
    source: &'s Source<'s>,
    events: Parser<'t, StrInput<'t>>,
    shift: usize,
    anchors: HashMap<usize, Rc<Node>>,
    weight: usize,
    errors: Vec<YamlError>,
}

impl<'t> TreeBuilder<'_, 't> {
    fn document(&mut self) -> Result<Option<Rc<Node>>, YamlError> {
        let mut root = None;
        while let Some((event, bytes)) = self.next()? {
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                _ if root.is_some() => {
                    return Err(YamlError::new(bytes, "second YAML document", "a config file has only one"));
                }
                event => root = Some(self.node(event, bytes)?),
            }
        }
        Ok(root.filter(|node| !node.is_null()))
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, ByteRange)>, YamlError> {
        match self.events.next_event() {
            None => Ok(None),
            Some(Ok((event, mark))) => Ok(Some((event, bytes(mark, self.shift)))),
            Some(Err(error)) => {
                let at = self.source.byte(error.marker().line(), error.marker().col() + 1);
                Err(syntax_error::yaml_error(&error, at, self.source))
            }
        }
    }

    fn next_required(&mut self) -> Result<(Event<'t>, ByteRange), YamlError> {
        self.next()?.ok_or_else(|| YamlError::new(0..0, "the file ends too early", ""))
    }

    /// Counts a value, or an alias with all that hangs on it.
    fn count(&mut self, weight: usize, bytes: &ByteRange) -> Result<(), YamlError> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight <= MAX_NODES {
            return Ok(());
        }
        Err(YamlError::new(
            bytes.clone(),
            format!("the file has more than {MAX_NODES} values"),
            "first value over the limit",
        ))
    }

    fn node(&mut self, event: Event<'t>, bytes: ByteRange) -> Result<Rc<Node>, YamlError> {
        if let Event::Alias(id) = event {
            let Some(node) = self.anchors.get(&id).cloned() else {
                self.errors.push(YamlError::new(
                    bytes.clone(),
                    "alias inside its own anchor",
                    "the value would be infinite",
                ));
                return Ok(Rc::new(Node::new(bytes, NodeValue::List(Vec::new())).valid_if(false)));
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
                let valid = self.tag(tag.as_deref(), "seq", &bytes);
                (anchor, self.list(style, bytes)?.valid_if(valid))
            }
            Event::MappingStart(style, anchor, tag) => {
                let valid = self.tag(tag.as_deref(), "map", &bytes);
                (anchor, self.map(style, bytes)?.valid_if(valid))
            }
            other => {
                return Err(YamlError::new(bytes, format!("unexpected {other:?}"), ""));
            }
        };
        node.weight = 1 + self.weight - before;
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn scalar(&mut self, raw: String, style: ScalarStyle, tag: Option<&Tag>, bytes: ByteRange) -> Node {
        let text = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str") || tag.parts() == ("", "!"));
        let valid = text || self.tag(tag, "", &bytes);
        let plain = style == ScalarStyle::Plain && !text;
        Node::new(bytes, NodeValue::Scalar(Scalar::new(raw, plain))).valid_if(valid)
    }

    /// Whether a node with this tag is readable.
    fn tag(&mut self, tag: Option<&Tag>, fitting: &str, bytes: &ByteRange) -> bool {
        let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema_tag(fitting)) else { return true };
        let message = format!("unsupported tag `{}`", tag.original());
        self.errors.push(YamlError::new(bytes.clone(), message, "write the value without a tag"));
        false
    }

    fn list(&mut self, style: StructureStyle, start: ByteRange) -> Result<Node, YamlError> {
        let mut items = Vec::new();
        loop {
            let (event, bytes) = self.next_required()?;
            if event == Event::SequenceEnd {
                return Ok(Node::new(span(style, start, bytes), NodeValue::List(items)));
            }
            items.push(self.node(event, bytes)?);
        }
    }

    fn map(&mut self, style: StructureStyle, start: ByteRange) -> Result<Node, YamlError> {
        let mut entries = Vec::new();
        let mut seen: HashMap<String, ByteRange> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, key_bytes) = self.next_required()?;
            let (key, plain) = match event {
                Event::MappingEnd => {
                    self.merge(&mut entries, &mut seen, merged);
                    return Ok(Node::new(span(style, start, key_bytes), NodeValue::Map(entries)));
                }
                Event::Scalar(text, style, ..) => (text.into_owned(), style == ScalarStyle::Plain),
                other => {
                    self.node(other, key_bytes.clone())?;
                    self.skip()?;
                    self.errors.push(YamlError::new(
                        key_bytes,
                        "key is not a string",
                        "expected a string as key",
                    ));
                    continue;
                }
            };
            self.count(1, &key_bytes)?;
            let (event, bytes) = self.next_required()?;
            let block = matches!(
                event,
                Event::SequenceStart(StructureStyle::Block, ..)
                    | Event::MappingStart(StructureStyle::Block, ..)
            );
            let empty = bytes.is_empty();
            let mut node = self.node(event, bytes)?;
            // An error in a value on the next line, or in an absent value, points to its key.
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
                let error = YamlError::new(key_bytes, "variable in a key", "only values may hold variables");
                self.errors.push(error);
                continue;
            }
            if key.starts_with("//") && plain {
                // The key contains the text that follows, so nothing after it is reliable.
                return Err(YamlError::new(
                    key_bytes,
                    "`//` does not begin a comment",
                    "comments begin with `#`",
                ));
            }
            if let Some(first) = seen.get(&key) {
                let line = self.source.location(first).line;
                let message = format!("duplicate key `{key}`");
                self.errors.push(YamlError::new(key_bytes, message, format!("first set on line {line}")));
                continue;
            }
            seen.insert(key.clone(), key_bytes.clone());
            entries.push(Entry::new(key, key_bytes, node));
        }
    }

    fn skip(&mut self) -> Result<(), YamlError> {
        let (event, bytes) = self.next_required()?;
        self.node(event, bytes).map(drop)
    }

    /// `<<: *defaults` and `<<: [*a, *b]`: keys of the mapping itself take precedence, then earlier entries
    /// of the list.
    fn merge(
        &mut self,
        entries: &mut Vec<Entry>,
        seen: &mut HashMap<String, ByteRange>,
        merged: Vec<(ByteRange, Rc<Node>)>,
    ) {
        for (bytes, node) in merged {
            let maps = if node.items().is_empty() { std::slice::from_ref(&node) } else { node.items() };
            for map in maps {
                if !matches!(map.value, NodeValue::Map(_)) {
                    let expected = "`<<` takes a mapping or a list of mappings";
                    self.errors.push(YamlError::new(
                        bytes.clone(),
                        format!("cannot merge {}", map.kind()),
                        expected,
                    ));
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

fn bytes(mark: Mark, shift: usize) -> ByteRange {
    let at = |marker: granit_parser::Marker| marker.byte_offset().unwrap_or_default().saturating_sub(shift);
    at(mark.start)..at(mark.end).max(at(mark.start))
}

/// An error points to a whole flow collection, but only to the start of a block.
fn span(style: StructureStyle, start: ByteRange, end: ByteRange) -> ByteRange {
    if style == StructureStyle::Flow { start.start..end.end } else { start }
}
