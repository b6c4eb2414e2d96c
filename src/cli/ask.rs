//! The commands that ask the servers: what tools there are, and one call of one.

use std::process::ExitCode;

use bytes::Bytes;
use filters::Era;
use filters::agree::quote;

use super::failed;
use super::who::{self, Named, Who};
use crate::app::App;
use crate::config::{self, Config};
use crate::upstream::house_meta;
use crate::{protocol, telemetry};

/// Commands that print their result keep the log to warnings.
fn quiet(config: &mut Config) {
    config.log.level = config::Level::Warn;
    config.log.format = config::Format::Text;
    telemetry::start(&config.log);
}

/// Lists the tools, as callers with these roles see them; without roles, all.
pub fn tools(mut config: Config, roles: Vec<String>) -> ExitCode {
    quiet(&mut config);
    who::warn_of_unknown(&config, &roles);
    let app = match App::build(config) {
        Ok(app) => app,
        Err(error) => return failed(&error),
    };
    let house = app.door.registry.house();
    let mut down = false;
    let mut endpoint = house.catalog.endpoint("/mcp").cloned();
    if let Some(whole) = endpoint.as_ref().filter(|_| !roles.is_empty()) {
        let caller = Who { roles, ..Who::default() }.caller();
        endpoint = Some(house.sight(whole, &caller, &app.door.metrics));
    }
    if let Some(endpoint) = endpoint {
        let mut rows: std::collections::BTreeMap<&str, (Vec<&str>, &str, &str)> = Default::default();
        for (era, view) in [(Era::Legacy, &endpoint.legacy), (Era::Modern, &endpoint.modern)] {
            for (name, target) in &view.tools {
                let row = rows.entry(name).or_insert_with(|| (Vec::new(), &target.server.name, &target.name));
                row.0.push(era.word());
            }
        }
        for (name, (eras, server, own)) in rows {
            let shortened = if name.ends_with(own) { String::new() } else { format!("  (there: {own})") };
            say!("{name:<48} {server:<16} {}{shortened}", eras.join(","));
        }
    }
    for server in house.servers.values().filter(|server| !server.is_up()) {
        down = true;
        let why = server.last_error().map_or_else(|| "no answer yet".to_owned(), |error| error.to_string());
        eprintln!("warning: the server `{}` is not connected: {why}", server.name);
    }
    app.once(async {});
    if down { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Calls one tool through the whole chain.
pub fn call(mut config: Config, named: Option<Named>, tool: &str, arguments: &str) -> ExitCode {
    quiet(&mut config);
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
        who::warn_of_unknown(&config, &named.0.roles);
    }
    let app = match App::build(config) {
        Ok(app) => app,
        Err(error) => return failed(&error),
    };
    let house = app.door.registry.house();
    let modern =
        house.catalog.endpoint("/mcp").is_some_and(|endpoint| endpoint.modern.tools.contains_key(tool));
    let meta = if modern { format!(r#","_meta":{}"#, house_meta()) } else { String::new() };
    let params = format!(r#"{{"name":{},"arguments":{arguments}{meta}}}"#, quote(tool));
    let message = protocol::wire::request("1", "tools/call", params.as_bytes());
    let door = app.door.clone();
    let answered =
        app.once(async move { door.call(named.map(|named| named.0.caller()), None, "/mcp", message).await });
    let answer: Bytes = match answered {
        Ok(answer) => answer,
        Err(halt) => {
            eprintln!("refused by `{}`: {}", halt.filter, halt.refusal.message);
            if halt.filter == filters::rbac::NAME {
                eprintln!("`toolgate explain` tells which role, rule or default decided that");
            }
            return ExitCode::FAILURE;
        }
    };
    let read: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
    let error = read.get("error").is_some() || read["result"]["isError"] == true;
    let shown = read.get("result").or_else(|| read.get("error")).unwrap_or(&read);
    say!("{shown:#}");
    if error { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
