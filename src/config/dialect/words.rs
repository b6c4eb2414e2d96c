//! Texts of a server in which other programs fill something in: `${workspaceFolder}`, `$VAR`, `~`.
//!
//! What is certain is written as it is here; what is not goes out as it stands, with a warning that names it.

use std::rc::Rc;

use super::Reading;
use super::draft::{Draft, list, map, scalar};
use super::http::is_variable;
use crate::config::env;
use crate::config::tree::{Entry, Node, Value};

/// Programs to which `$VAR` and `~` are what they look like.
const SHELLS: [&str; 8] = ["sh", "bash", "dash", "zsh", "fish", "cmd", "powershell", "pwsh"];

pub(super) fn translate(draft: &mut Draft<'_, '_>) {
    let program = draft.text("command").and_then(|command| command.rsplit(['/', '\\']).next());
    let shell = program.is_some_and(|program| SHELLS.contains(&program.trim_end_matches(".exe")));
    let words = Words { reading: draft.reading, server: &draft.name, expands: draft.reading.expands };
    let mut changed = false;
    let entries = draft.entries.iter().map(|entry| {
        let node = match entry.key.as_str() {
            "command" | "cwd" | "envFile" => words.node(&entry.node, true),
            // A shell reads its arguments itself.
            "args" if shell => None,
            "args" | "env" | "headers" | "url" | "urls" => words.node(&entry.node, false),
            _ => None,
        };
        changed |= node.is_some();
        let node = node.unwrap_or_else(|| Rc::clone(&entry.node));
        Entry::new(entry.key.clone(), entry.key_bytes.clone(), node)
    });
    let entries: Vec<Entry> = entries.collect();
    if changed {
        draft.entries = entries;
        draft.changed = true;
    }
}

struct Words<'a, 'i> {
    reading: &'a Reading<'i>,
    server: &'a str,
    /// `$VAR` is a variable where the file comes from.
    expands: bool,
}

impl Words<'_, '_> {
    /// The value with its texts translated; `None` if it stays as it is.
    fn node(&self, node: &Node, path: bool) -> Option<Rc<Node>> {
        match &node.value {
            Value::Scalar(text) => {
                let new = self.text(&text.raw, node, path)?;
                Some(scalar(node, new, text.plain))
            }
            Value::List(items) => {
                let new: Vec<_> = items.iter().map(|item| self.node(item, path)).collect();
                new.iter().any(Option::is_some).then(|| {
                    let items =
                        new.into_iter().zip(items).map(|(new, old)| new.unwrap_or_else(|| Rc::clone(old)));
                    list(node, items.collect())
                })
            }
            Value::Map(entries) => {
                let new: Vec<_> = entries.iter().map(|entry| self.node(&entry.node, path)).collect();
                new.iter().any(Option::is_some).then(|| {
                    let entries = new.into_iter().zip(entries).map(|(new, old)| {
                        let node = new.unwrap_or_else(|| Rc::clone(&old.node));
                        Entry::new(old.key.clone(), old.key_bytes.clone(), node)
                    });
                    map(node, entries.collect())
                })
            }
        }
    }

    fn text(&self, raw: &str, node: &Node, path: bool) -> Option<String> {
        let home = raw == "~" || raw.starts_with("~/");
        if !home && !raw.contains('$') {
            return None;
        }
        let mut text = raw.to_owned();
        if home && path {
            text.replace_range(..1, "${HOME}");
            self.reading.note(&node.bytes, format!("`~` is read as `${{HOME}}` ({})", self.server));
        } else if home {
            self.reading.warn(
                &node.bytes,
                format!(
                    "`~` is passed on as it stands ({}): no shell reads it; write `${{HOME}}`",
                    self.server
                ),
            );
        }
        self.braces(&mut text, node);
        self.bare(&mut text, node);
        (text != raw).then_some(text)
    }

    /// `${...}` that VS Code knows by itself.
    fn braces(&self, text: &mut String, node: &Node) {
        for (inside, ours) in [("userHome", "${HOME}"), ("pathSeparator", "/"), ("/", "/")] {
            self.replace(text, inside, ours, node);
        }
        if let Some(folder) = self.reading.folder.as_deref()
            && (self.reading.environment)("workspaceFolder").is_none()
            && text.contains("${workspaceFolder}")
            && !text.contains("$${workspaceFolder}")
        {
            *text = text.replace("${workspaceFolder}", folder);
            self.reading.warn(
                &node.bytes,
                format!("`${{workspaceFolder}}` is read as the folder of this file ({})", self.server),
            );
        }
        for (id, default) in &self.reading.inputs {
            let written = format!("${{input:{id}}}");
            if !text.contains(&written) {
                continue;
            }
            let name = env::input(id);
            self.reading.note(
                &node.bytes,
                format!("`{written}` is read from the environment as `{name}` ({})", self.server),
            );
            if let Some(default) = default {
                *text = text.replace(&written, &format!("${{{name}:-{default}}}"));
            }
        }
    }

    fn replace(&self, text: &mut String, inside: &str, ours: &str, node: &Node) {
        let written = format!("${{{inside}}}");
        if text.contains(&written) && !text.contains(&format!("${written}")) {
            *text = text.replace(&written, ours);
            self.reading.note(&node.bytes, format!("`{written}` is read as `{ours}` ({})", self.server));
        }
    }

    /// `$VAR`: filled in if the file's program would and there is such a variable; else sent out, with a warning.
    fn bare(&self, text: &mut String, node: &Node) {
        let mut from = 0;
        while let Some(at) = text[from..].find('$').map(|at| from + at) {
            let name: String =
                text[at + 1..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let end = at + 1 + name.len();
            from = end;
            // A second `$` escapes the first.
            if text[at + 1..].starts_with('$') {
                from = at + 2;
                continue;
            }
            let looks =
                is_variable(&name) && !name.contains(|c: char| c.is_ascii_lowercase()) && name.len() > 1;
            if !looks {
                continue;
            }
            if self.expands && (self.reading.environment)(&name).is_some() {
                text.replace_range(at..end, &format!("${{{name}}}"));
                from = end + 2;
                self.reading
                    .note(&node.bytes, format!("`${name}` is read as `${{{name}}}` ({})", self.server));
            } else {
                self.reading.warn(
                    &node.bytes,
                    format!(
                        "`${name}` is passed on as it stands ({}): a variable is written `${{{name}}}`, with braces",
                        self.server
                    ),
                );
            }
        }
    }
}
