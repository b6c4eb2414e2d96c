//! The commands that query the servers: the list of tools, and a call of one tool.

use std::collections::HashMap;
use std::process::ExitCode;

use bytes::Bytes;
use mcp::Era;
use mcp::json::quote::quote;

use super::caller;
use super::caller::{CallerArgs, NamedCaller};
use super::{failed, nearest};
use crate::catalog::{ListKind, View};
use crate::config::{self, Config};
use crate::lifecycle::App;
use crate::registry::Snapshot;
use crate::telemetry;
use crate::telemetry::is_control;
use crate::upstream::gateway_meta;
use mcp::jsonrpc::message;

/// Commands that print their result keep the log to warnings.
pub(super) fn without_telemetry(config: &mut Config) {
    config.log.level = config::LogLevel::Warn;
    config.log.format = config::LogFormat::Text;
    telemetry::start(&config.log);
}

/// Lists the tools that callers with these roles see; without roles, all.
pub fn tools(mut config: Config, roles: Vec<String>) -> ExitCode {
    without_telemetry(&mut config);
    caller::warn_of_unknown(&config, &roles);
    let app = match App::build(config) {
        Ok(app) => app,
        Err(error) => return failed(&error),
    };
    let snapshot = app.dispatcher.registry.snapshot();
    let mut down = false;
    let mut endpoint = snapshot.catalog.endpoint("/mcp").cloned();
    if let Some(whole) = endpoint.as_ref().filter(|_| !roles.is_empty()) {
        let caller = CallerArgs { roles, ..CallerArgs::default() }.caller();
        endpoint = Some(app.wait(app.dispatcher.registry.visible_to(&snapshot, whole, &caller)));
    }
    if let Some(endpoint) = endpoint {
        let mut rows: std::collections::BTreeMap<&str, (Vec<&str>, &str, &str)> = Default::default();
        let mut described = HashMap::new();
        for (client_era, view) in [(Era::Legacy, &endpoint.legacy), (Era::Modern, &endpoint.modern)] {
            described.extend(descriptions(view));
            for (name, target) in &view.tools {
                let row = rows.entry(name).or_insert_with(|| (Vec::new(), &target.server.name, &target.name));
                let word = if target.server_era == client_era { client_era.as_str() } else { "bridged" };
                row.0.push(word);
            }
        }
        for (name, (eras, server, own)) in rows {
            let shortened = if name.ends_with(own) { String::new() } else { format!("  (there: {own})") };
            let line = format!("{name:<48} {server:<16} {:<15}{shortened}", eras.join(","));
            let words = described.get(name).map(|words| format!("  {words}")).unwrap_or_default();
            say!("{}", format!("{line}{words}").trim_end());
        }
        for (server, server_era, rejected) in snapshot.catalog.rejected_tools() {
            let is_member = endpoint.members.iter().any(|member| member.serial == server.serial);
            if let Some(own) = server.visible_tool(&rejected.key).filter(|_| is_member) {
                let name = server.federated(own);
                say!("{name:<48} {:<16} {} left out: {}", server.name, server_era.as_str(), rejected.why);
            }
        }
    }
    for server in snapshot.servers.values().filter(|server| !server.is_up()) {
        down = true;
        let why = server.last_error().map_or_else(|| "no answer yet".to_owned(), |error| error.to_string());
        eprintln!("warning: the server `{}` is not connected: {why}", server.name);
    }
    app.run_once(async {});
    if down { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Why no entry of this name is offered, as far as the connected servers show; `None` if there is one.
pub(super) fn missing(snapshot: &Snapshot, kind: ListKind, name: &str) -> Option<String> {
    let endpoint = snapshot.catalog.endpoint("/mcp")?;
    let names = |view: &'_ View| -> Vec<String> {
        let names = if matches!(kind, ListKind::Prompts) { &view.prompts } else { &view.tools };
        names.keys().cloned().collect()
    };
    let mut known = names(&endpoint.legacy);
    known.extend(names(&endpoint.modern));
    if known.iter().any(|known| known == name) {
        return None;
    }
    let thing = if matches!(kind, ListKind::Prompts) { "prompt" } else { "tool" };
    let away: Vec<&str> =
        snapshot.servers.values().filter(|server| !server.is_up()).map(|server| &*server.name).collect();
    let away = match away.as_slice() {
        [] => String::new(),
        away => format!(" (not connected: {})", away.join(", ")),
    };
    let hint = nearest::hint(known.iter().map(String::as_str), name);
    Some(format!("no server that is connected has a {thing} `{name}`{hint}{away}"))
}

/// The descriptions of the tools in a view: the first sentence or so, on one line.
fn descriptions(view: &View) -> HashMap<String, String> {
    let pages = (0..).map_while(|number| {
        let cursor = (number > 0).then(|| format!("p{number}"));
        view.page(ListKind::Tools, cursor.as_deref())
    });
    let tools = pages.flat_map(|page| {
        let mut page: serde_json::Value = serde_json::from_slice(page).unwrap_or_default();
        match page["tools"].take() {
            serde_json::Value::Array(tools) => tools,
            _ => Vec::new(),
        }
    });
    let described = |tool: serde_json::Value| {
        let words = [&tool["description"], &tool["title"]].into_iter().find_map(serde_json::Value::as_str)?;
        Some((tool["name"].as_str()?.to_owned(), first_words(words)))
    };
    tools.filter_map(described).collect()
}

/// As much of a text as fits on a line. It comes from a server, so control characters are escaped.
fn first_words(text: &str) -> String {
    let clean = |c: char| if is_control(c) { ' ' } else { c };
    let text: String = text.chars().take(2000).map(clean).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let sentence = text.find(". ").map_or(text.as_str(), |end| &text[..=end]);
    match sentence.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", sentence[..end].trim_end()),
        None => sentence.to_owned(),
    }
}

/// JSON without control characters for the terminal: they can occur only in strings, and are escaped there.
fn on_a_terminal(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_control(c) && c != '\n' {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// Calls one tool through the whole chain.
pub fn call(mut config: Config, named: Option<NamedCaller>, tool: &str, arguments: &str) -> ExitCode {
    without_telemetry(&mut config);
    match serde_json::from_str::<serde_json::Value>(arguments) {
        Ok(value) if value.is_object() => {}
        Ok(_) => {
            eprintln!("error: the arguments must be a JSON object, such as '{{\"message\": \"hi\"}}'");
            return ExitCode::from(2);
        }
        Err(error) => {
            eprintln!("error: the arguments are not JSON: {error}");
            return ExitCode::from(2);
        }
    }
    if named.is_none() && config.auth.as_ref().is_some_and(|auth| auth.required) {
        eprintln!("error: the configuration asks for credentials; say who calls: --as USER:ROLE,ROLE");
        return ExitCode::from(2);
    }
    if let Some(named) = &named {
        caller::warn_of_unknown(&config, &named.0.roles);
    }
    let app = match App::build(config) {
        Ok(app) => app,
        Err(error) => return failed(&error),
    };
    let snapshot = app.dispatcher.registry.snapshot();
    let modern =
        snapshot.catalog.endpoint("/mcp").is_some_and(|endpoint| endpoint.modern.tools.contains_key(tool));
    let missing = missing(&snapshot, ListKind::Tools, tool);
    let meta = if modern { format!(r#","_meta":{}"#, gateway_meta()) } else { String::new() };
    let params = format!(r#"{{"name":{},"arguments":{arguments}{meta}}}"#, quote(tool));
    let message = message::request("1", "tools/call", params.as_bytes());
    let dispatcher = app.dispatcher.clone();
    let answered = app.run_once(async move {
        dispatcher.answer_internal(named.map(|named| named.0.caller()), None, "/mcp", message).await
    });
    let answer: Bytes = match answered {
        Ok(answer) => answer,
        Err(rejected) => {
            eprintln!("refused by `{}`: {}", rejected.filter, rejected.rejection.message);
            if let Some(missing) = missing {
                eprintln!("{missing}");
            }
            if rejected.filter == filters::rbac::NAME {
                eprintln!("`toolgate explain` tells which role, rule or default decided that");
            }
            return ExitCode::FAILURE;
        }
    };
    let read: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
    let error = read.get("error").is_some() || read["result"]["isError"] == true;
    let shown = read.get("result").or_else(|| read.get("error")).unwrap_or(&read);
    say!("{}", on_a_terminal(&format!("{shown:#}")));
    if error { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_told_on_one_line() {
        for (text, expected) in [
            ("Reads a file. Then more.", "Reads a file."),
            ("  Reads\n\ta\u{1b}[31m file ", "Reads a [31m file"),
            ("v1.2 of it", "v1.2 of it"),
            ("a\u{9b}31m\u{202e}b", "a 31m b"),
            ("", ""),
        ] {
            assert_eq!(first_words(text), expected, "{text:?}");
        }
        assert_eq!(first_words(&"é".repeat(101)).chars().count(), 101);
    }

    #[test]
    fn an_answer_is_json_that_moves_no_cursor() {
        let answer = serde_json::json!({"a\u{202e}b": "\u{1b}[2J\u{9b}31m\u{e0041} ü\n"});
        let shown = on_a_terminal(&format!("{answer:#}"));
        assert!(shown.chars().all(|c| c == '\n' || !is_control(c)), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), answer);
    }
}
