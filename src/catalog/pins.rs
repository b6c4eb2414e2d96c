//! Definitions of tools as they were first seen, so that later changes are noticed.
//!
//! A model does what a tool's description says. A server that is trusted on its first day can send something
//! else on its second, when its description is no longer reviewed. So the first definition is remembered, and
//! a different one is logged or hidden until an operator approves it. Only what a model reads or acts on
//! counts: a new icon is no change, nor are other white space, escapes or another order of members.
//!
//! The pins outlive reloads but not the process: to keep one, write its hash into `guard.pins`. This module
//! does not judge whether a *first* definition is harmless.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use mcp::json::quote::quote;
use mcp::json::reader::{DEPTH_CEILING, JsonError, JsonReader};
use sha2::{Digest, Sha256};

/// The members that make up a definition.
const MEMBERS: [&str; 6] = ["name", "title", "description", "inputSchema", "outputSchema", "annotations"];
/// Tools of one server that are remembered, and changes of one tool that are logged.
const TOOLS: usize = 10_000;
const MAX_REPORTED: usize = 8;
/// Longest definition that is kept whole for a diff, and longest diff and line, in bytes.
const MAX_TEXT: usize = 64 * 1024;
const DIFF: usize = 4000;
const LINE: usize = 200;
/// Lines that are compared in full; of more only the ends are.
const COMPARED: usize = 400;

/// What is done about definitions that change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PinMode {
    #[default]
    Off,
    Warn,
    Block,
}

/// The result of comparing a definition with the known one of the tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    Same,
    /// Never seen before; it is now the known one.
    New,
    Changed(PinChange),
}

/// A definition that is not the known one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinChange {
    /// Lines with `-` and `+`, safe to print.
    pub diff: String,
    /// Hashes of the known definition and of this one.
    pub old: String,
    pub new: String,
    /// Seen for the first time, so to be logged. The catalog is rebuilt often.
    pub first_seen: bool,
}

impl Pin {
    /// Whether the tool may be shown and called.
    pub fn shows(&self, mode: PinMode) -> bool {
        mode != PinMode::Block || !matches!(self, Pin::Changed(_))
    }
}

/// The hash of a tool's definition, as in `guard.pins`: 64 hex digits.
pub fn hash(definition: &[u8]) -> String {
    digest(&canonical(definition))
}

/// What was seen, by server and by the server's own name of the tool.
#[derive(Debug, Default)]
pub struct Pins {
    servers: Mutex<HashMap<String, HashMap<String, PinnedTool>>>,
}

#[derive(Debug)]
struct PinnedTool {
    hash: String,
    /// The canonical form, for the diff; empty if it is too long.
    text: String,
    /// A hash that was approved since.
    approved: Option<String>,
    /// Hashes of changes that were logged.
    reported: Vec<String>,
}

impl Pins {
    /// Compares a definition with the known one; `pinned` is the hash that the configuration approves, which
    /// takes precedence over all that was seen.
    pub fn check(
        &self,
        server: &str,
        tool: &str,
        definition: &[u8],
        pinned: Option<&str>,
        mode: PinMode,
    ) -> Pin {
        if mode == PinMode::Off {
            return Pin::Same;
        }
        let text = canonical(definition);
        let new = digest(&text);
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let tools = servers.entry(server.to_owned()).or_default();
        // Beyond what can be remembered a change would go unnoticed.
        if tools.len() >= TOOLS && !tools.contains_key(tool) {
            let diff = format!("the server has shown more than {TOOLS} tools; this one is not remembered");
            return match pinned.is_some_and(|pinned| pinned.eq_ignore_ascii_case(&new)) {
                true => Pin::Same,
                false => Pin::Changed(PinChange { diff, old: String::new(), new, first_seen: false }),
            };
        }
        let mut first = false;
        let known = tools.entry(tool.to_owned()).or_insert_with(|| {
            first = true;
            PinnedTool::new(new.clone(), &text)
        });
        let wanted = pinned.or(known.approved.as_deref()).unwrap_or(&known.hash).to_ascii_lowercase();
        if wanted == new {
            if known.hash != new {
                *known = PinnedTool::new(new, &text);
            }
            return if first && pinned.is_none() { Pin::New } else { Pin::Same };
        }
        let is_news = known.reported.len() < MAX_REPORTED && !known.reported.contains(&new);
        if is_news {
            known.reported.push(new.clone());
        }
        let diff = if known.hash == wanted && !known.text.is_empty() {
            diff(&known.text, &text)
        } else {
            capped(&format!(
                "of the approved definition only the hash is known; this one is\n{}",
                lines('+', &text)
            ))
        };
        Pin::Changed(PinChange { diff, old: wanted, new, first_seen: is_news })
    }

    /// Makes a definition the approved one of its tool, whether it was seen yet or not.
    pub fn approve(&self, server: &str, tool: &str, hash: &str) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let tools = servers.entry(server.to_owned()).or_default();
        let known =
            tools.entry(tool.to_owned()).or_insert_with(|| PinnedTool::new(hash.to_ascii_lowercase(), ""));
        known.approved = Some(hash.to_ascii_lowercase());
    }

    /// The known hashes of a server's tools, by name: to show them, or to write them into a configuration.
    pub fn known(&self, server: &str) -> BTreeMap<String, String> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let tools = servers.get(server).into_iter().flatten();
        tools.map(|(tool, known)| (tool.clone(), known.hash.clone())).collect()
    }
}

impl PinnedTool {
    fn new(hash: String, text: &str) -> Self {
        let text = if text.len() <= MAX_TEXT { text.to_owned() } else { String::new() };
        Self { hash, text, approved: None, reported: Vec::new() }
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The members that count, sorted, without white space, strings in one spelling and numbers as written.
/// Members of the same name stay in their order: this module does not decide which one counts.
fn canonical(definition: &[u8]) -> String {
    let mut members = BTreeMap::new();
    let read = JsonReader::new(definition, DEPTH_CEILING).and_then(|mut r| {
        r.object(|r, key| {
            let key = key.read(definition);
            if !MEMBERS.contains(&&*key) {
                return r.value().map(drop);
            }
            let value = tree(r, definition)?;
            members.entry(key.into_owned()).or_insert_with(Vec::new).push(value);
            Ok(())
        })?;
        r.end()
    });
    if read.is_err() {
        // A text that is no valid definition still differs from the former one.
        return quote(&String::from_utf8_lossy(definition));
    }
    let all = members.into_iter().flat_map(|(key, values)| values.into_iter().map(move |v| (key.clone(), v)));
    let mut out = String::new();
    JsonTree::Object(all.collect()).write(&mut out);
    out
}

enum JsonTree {
    Plain(String),
    Array(Vec<JsonTree>),
    Object(Vec<(String, JsonTree)>),
}

fn tree(r: &mut JsonReader<'_>, text: &[u8]) -> Result<JsonTree, JsonError> {
    match r.peek()? {
        b'{' => {
            let mut members = Vec::new();
            r.object(|r, key| {
                members.push((key.read(text).into_owned(), tree(r, text)?));
                Ok(())
            })?;
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(JsonTree::Object(members))
        }
        b'[' => {
            let mut items = Vec::new();
            r.array(|r| {
                items.push(tree(r, text)?);
                Ok(())
            })?;
            Ok(JsonTree::Array(items))
        }
        b'"' => Ok(JsonTree::Plain(quote(&r.string()?.read(text)))),
        _ => Ok(JsonTree::Plain(String::from_utf8_lossy(r.value()?.of(text)).into_owned())),
    }
}

impl JsonTree {
    fn write(&self, out: &mut String) {
        match self {
            JsonTree::Plain(text) => out.push_str(text),
            JsonTree::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    item.write(out);
                }
                out.push(']');
            }
            JsonTree::Object(members) => {
                out.push('{');
                for (at, (key, value)) in members.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    out.push_str(&quote(key));
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Canonical JSON with a line for each value, and for each line of a text.
fn pretty(text: &str) -> Vec<String> {
    let (mut out, mut line, mut level) = (Vec::new(), String::new(), 0usize);
    let (mut inside, mut skip) = (false, false);
    let mut end = |line: &mut String, level: usize| {
        if !line.trim().is_empty() {
            out.push(std::mem::take(line));
        }
        *line = "  ".repeat(level.min(20));
    };
    for c in text.chars() {
        if inside {
            line.push(c);
            // A long description is shown line by line.
            if skip && c == 'n' {
                end(&mut line, level + 1);
            }
            (inside, skip) = (c != '"' || skip, c == '\\' && !skip);
            continue;
        }
        match c {
            '{' | '[' => {
                line.push(c);
                level += 1;
                end(&mut line, level);
            }
            '}' | ']' => {
                level = level.saturating_sub(1);
                end(&mut line, level);
                line.push(c);
            }
            ',' => {
                line.push(c);
                end(&mut line, level);
            }
            ':' => line.push_str(": "),
            c => {
                inside = c == '"';
                line.push(c);
            }
        }
    }
    end(&mut line, 0);
    out
}

/// What differs between two canonical texts, line by line.
fn diff(old: &str, new: &str) -> String {
    let (old, new) = (pretty(old), pretty(new));
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    let mut out = String::new();
    if old.len().max(new.len()) > COMPARED {
        old.iter().take(COMPARED).for_each(|line| push(&mut out, '-', line, 0));
        new.iter().take(COMPARED).for_each(|line| push(&mut out, '+', line, 0));
        return capped(&out);
    }
    // The longest common subsequence of lines.
    let mut common = vec![vec![0u16; new.len() + 1]; old.len() + 1];
    for (a, old) in old.iter().enumerate().rev() {
        for (b, new) in new.iter().enumerate().rev() {
            common[a][b] = match old == new {
                true => common[a + 1][b + 1] + 1,
                false => common[a + 1][b].max(common[a][b + 1]),
            };
        }
    }
    let (mut a, mut b) = (0, 0);
    while a < old.len() || b < new.len() {
        match (old.get(a), new.get(b)) {
            (Some(x), Some(y)) if x == y => (a, b) = (a + 1, b + 1),
            // Two lines that replace each other: both are shown from where they differ.
            (Some(x), Some(y)) if common[a][b] == common[a + 1][b + 1] => {
                let same = x.bytes().zip(y.bytes()).take_while(|(a, b)| a == b).count();
                push(&mut out, '-', x, same);
                push(&mut out, '+', y, same);
                (a, b) = (a + 1, b + 1);
            }
            (Some(x), y) if y.is_none() || common[a + 1][b] >= common[a][b + 1] => {
                push(&mut out, '-', x, 0);
                a += 1;
            }
            (_, Some(y)) => {
                push(&mut out, '+', y, 0);
                b += 1;
            }
            (_, None) => break,
        }
    }
    capped(&out)
}

fn lines(mark: char, text: &str) -> String {
    let mut out = String::new();
    pretty(text).iter().take(COMPARED).for_each(|line| push(&mut out, mark, line, 0));
    out
}

/// A line of a diff. Invisible characters are escaped: attacks are hidden in them.
fn push(out: &mut String, mark: char, line: &str, same: usize) {
    // Some of what is the same, then what differs.
    let start = if line.len() > LINE { line.floor_char_boundary(same.saturating_sub(40)) } else { 0 };
    let shown = &line[start..line.floor_char_boundary(start + LINE)];
    out.push(mark);
    out.push(' ');
    out.push_str(if start > 0 { "…" } else { "" });
    for c in shown.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
    }
    out.push_str(if start + shown.len() < line.len() { "…\n" } else { "\n" });
}

fn capped(text: &str) -> String {
    match text.len() > DIFF {
        true => format!("{}…", &text[..text.floor_char_boundary(DIFF)]),
        false => text.trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests;
