//! Texts of a server in which other programs fill something in: `${workspaceFolder}`, `$VAR`, `~`.
//!
//! Certain cases are translated. Uncertain ones are passed on unchanged, with a warning that names them.

use std::rc::Rc;

use super::Translation;
use super::draft::{Draft, list, map, scalar};
use super::http::is_variable;
use crate::config::yaml::interpolate;
use crate::config::yaml::node::{Entry, Node, NodeValue};

/// Programs that expand `$VAR` and `~`.
const SHELLS: [&str; 8] = ["sh", "bash", "dash", "zsh", "fish", "cmd", "powershell", "pwsh"];

/// How the names of secrets begin that Copilot's agent puts in their place.
const COPILOT: &str = "COPILOT_MCP_";

pub(super) fn translate(draft: &mut Draft<'_, '_>) {
    let program = draft.text("command").and_then(|command| command.rsplit(['/', '\\']).next());
    let shell = program.is_some_and(|program| SHELLS.contains(&program.trim_end_matches(".exe")));
    let reader = VariableReader {
        translation: draft.translation,
        server: &draft.name,
        expands: draft.translation.expands,
    };
    let mut changed = false;
    let entries = draft.entries.iter().map(|entry| {
        let node = match entry.key.as_str() {
            "command" | "cwd" | "envFile" => reader.node(&entry.node, true),
            // A shell expands its own arguments.
            "args" if shell => None,
            "args" | "env" | "headers" | "url" | "urls" => reader.node(&entry.node, false),
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

struct VariableReader<'a, 'i> {
    translation: &'a Translation<'i>,
    server: &'a str,
    /// `$VAR` is a variable in the program that wrote the file.
    expands: bool,
}

impl VariableReader<'_, '_> {
    /// The value with its texts translated; `None` if it stays unchanged.
    fn node(&self, node: &Node, path: bool) -> Option<Rc<Node>> {
        match &node.value {
            NodeValue::Scalar(text) => {
                let new = self.text(&text.raw, node, path)?;
                Some(scalar(node, new, text.plain))
            }
            NodeValue::List(items) => {
                let new: Vec<_> = items.iter().map(|item| self.node(item, path)).collect();
                new.iter().any(Option::is_some).then(|| {
                    let items =
                        new.into_iter().zip(items).map(|(new, old)| new.unwrap_or_else(|| Rc::clone(old)));
                    list(node, items.collect())
                })
            }
            NodeValue::Map(entries) => {
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
        if !home && !raw.contains(['$', '{']) && !raw.starts_with(COPILOT) {
            return None;
        }
        let mut text = raw.to_owned();
        if home && path {
            text.replace_range(..1, "${HOME}");
            self.translation.note(&node.bytes, format!("`~` is read as `${{HOME}}` ({})", self.server));
        } else if home {
            self.translation.warn(
                &node.bytes,
                format!(
                    "`~` is passed on unchanged ({}): no shell expands it; write `${{HOME}}`",
                    self.server
                ),
            );
        }
        let mut text = self.braces(&text, node);
        self.curly(&mut text, node);
        self.bare(&mut text, node);
        if text.starts_with(COPILOT) && is_variable(&text) && self.expands {
            self.variable(&mut text, node);
        }
        (text != raw).then_some(text)
    }

    /// Predefined `${...}` of other programs.
    fn braces(&self, text: &str, node: &Node) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let double = from.starts_with("${{");
            let (open, close) = if double { ("${{", "}}") } else { ("${", "}") };
            let end = from.find(close).map(|end| end + close.len());
            let Some(end) = end.filter(|_| !before.ends_with('$')) else {
                out.push_str("${");
                rest = &from[2..];
                continue;
            };
            let written = &from[..end];
            let inside = written[open.len()..end - close.len()].trim();
            match self.to_native(inside, double) {
                Some(ours) => {
                    let text = format!("`{written}` is read as `{ours}` ({})", self.server);
                    self.translation.diagnostics.note(&node.bytes, text, inside.starts_with("workspace"));
                    out.push_str(&ours);
                }
                None => out.push_str(written),
            }
            if let Some(id) = inside.strip_prefix("input:") {
                let id = id.split(":-").next().unwrap_or(id);
                let text = format!(
                    "`${{input:{id}}}` is read from the environment as `{}` ({})",
                    interpolate::input(id),
                    self.server
                );
                self.translation.note(&node.bytes, text);
            }
            rest = &from[end..];
        }
        out.push_str(rest);
        out
    }

    /// The equivalent of another program's variable; `None` if it is one of ours or unknown.
    fn to_native(&self, inside: &str, double: bool) -> Option<String> {
        if double {
            // Continue's `${{ secrets.NAME }}`.
            let name = inside.strip_prefix("secrets.").or(inside.strip_prefix("inputs."))?;
            return is_variable(name).then(|| format!("${{{name}}}"));
        }
        let folder =
            || self.translation.folder.clone().filter(|_| (self.translation.environment)(inside).is_none());
        match inside {
            "userHome" => Some("${HOME}".into()),
            "pathSeparator" | "/" => Some("/".into()),
            "workspaceFolder" | "workspaceRoot" => folder(),
            "workspaceFolderBasename" => folder()?.rsplit('/').next().map(str::to_owned),
            _ => {
                let id = inside.strip_prefix("input:")?;
                let default = self.translation.inputs.iter().find(|(known, _)| known == id)?.1.as_ref()?;
                Some(format!("${{{}:-{default}}}", interpolate::input(id)))
            }
        }
    }

    /// OpenCode's `{env:NAME}` and `{file:PATH}`, LibreChat's `{{NAME}}`.
    fn curly(&self, text: &mut String, node: &Node) {
        while let Some(at) =
            text.find("{env:").filter(|at| self.translation.curly && !text[..*at].ends_with('$'))
        {
            let Some(end) = text[at..].find('}').map(|end| at + end) else { return };
            let name = text[at + "{env:".len()..end].to_owned();
            text.replace_range(at..=end, &format!("${{{name}}}"));
            self.translation
                .note(&node.bytes, format!("`{{env:{name}}}` is read as `${{{name}}}` ({})", self.server));
        }
        if text.contains("{file:") && self.translation.curly {
            let text = format!(
                "`{{file:...}}` is passed on unchanged ({}): the gateway does not read the file",
                self.server
            );
            self.translation.warn(&node.bytes, text);
        }
        let word = |text: &str| is_variable(text) && !text.contains(|c: char| c.is_ascii_lowercase());
        let inside = text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
        for name in inside.filter(|name| word(name)) {
            let text = format!(
                "`{{{{{name}}}}}` is passed on unchanged ({}): the gateway does not substitute it",
                self.server
            );
            self.translation.warn(&node.bytes, text);
        }
    }

    /// A text that is the name of a secret in the program that wrote the file.
    fn variable(&self, text: &mut String, node: &Node) {
        if (self.translation.environment)(text).is_some() {
            self.translation
                .note(&node.bytes, format!("`{text}` is read as `${{{text}}}` ({})", self.server));
            *text = format!("${{{text}}}");
        } else {
            let message =
                format!("`{text}` is passed on unchanged ({}): there is no such variable", self.server);
            self.translation.warn(&node.bytes, message);
        }
    }

    /// `$VAR`: translated if the other program expands it and the variable exists; else passed on, with a
    /// warning.
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
            if self.expands && (self.translation.environment)(&name).is_some() {
                text.replace_range(at..end, &format!("${{{name}}}"));
                from = end + 2;
                self.translation
                    .note(&node.bytes, format!("`${name}` is read as `${{{name}}}` ({})", self.server));
            } else {
                self.translation.warn(
                    &node.bytes,
                    format!(
                        "`${name}` is passed on unchanged ({}): a variable is written `${{{name}}}`, with braces",
                        self.server
                    ),
                );
            }
        }
    }
}
