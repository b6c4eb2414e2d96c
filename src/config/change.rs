//! What differs between two configs, in words for the log of a reload.
//!
//! It names settings and never values, which may be secret; it does not apply anything.

use std::collections::BTreeMap;
use std::fmt;

use super::Config;
use super::names::ServerName;

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// In words: `server files added`, `limits.max_body changed`.
    pub what: String,
    /// It takes hold only when the process is started anew.
    pub needs_restart: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if self.needs_restart { f.write_str(" (needs a restart)") } else { Ok(()) }
    }
}

impl Config {
    /// What `new` has otherwise; none if it would do the same.
    pub fn changes(&self, new: &Config) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut note = |differs: bool, what: &str, needs_restart: bool| {
            if differs {
                changes.push(Change { what: format!("{what} changed"), needs_restart });
            }
        };
        note(self.listen.address != new.listen.address, "listen.address", true);
        note(self.listen.allowed_origins != new.listen.allowed_origins, "listen.allowed_origins", false);
        note(self.listen.allowed_hosts != new.listen.allowed_hosts, "listen.allowed_hosts", false);
        note(self.admin != new.admin, "admin.address", true);
        note(self.workers != new.workers, "workers", true);
        note(self.log.format != new.log.format, "log.format", true);
        note(self.log.level != new.log.level, "log.level", true);
        note(self.cors != new.cors, "cors", false);
        for ((key, old), (_, new)) in self.limits.values().into_iter().zip(new.limits.values()) {
            // The one limit that a listener takes at its start.
            note(old != new, &format!("limits.{key}"), key == "header_timeout");
        }
        named("server", &self.servers, &new.servers, &mut changes);
        named("toolset", &self.toolsets, &new.toolsets, &mut changes);
        changes
    }
}

fn named<T: PartialEq>(
    noun: &str,
    old: &BTreeMap<ServerName, T>,
    new: &BTreeMap<ServerName, T>,
    changes: &mut Vec<Change>,
) {
    let mut note = |name: &ServerName, verb: &str| {
        changes.push(Change { what: format!("{noun} {name} {verb}"), needs_restart: false });
    };
    for (name, value) in new {
        match old.get(name) {
            None => note(name, "added"),
            Some(before) if before != value => note(name, "changed"),
            Some(_) => {}
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        note(name, "removed");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn what_differs_is_named_and_values_are_not() {
        let read = |text: &str| parse("c", text, &|_| None).expect("a good config");
        let old = read(
            "listen: {address: \"127.0.0.1:1\"}\nmcpServers:\n  a: {url: \"http://a\", headers: {X: old}}\n  b: {builtin: demo}\n",
        );
        let new = read(
            "workers: 3\nlog: {level: debug}\nlimits: {max_body: 1MiB}\ntoolsets: {t: {tools: [\"*\"]}}\n\
             mcpServers:\n  a: {url: \"http://a\", headers: {X: new}}\n  c: {builtin: demo}\n",
        );
        let told: Vec<String> = old.changes(&new).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "listen.address changed (needs a restart)",
                "workers changed (needs a restart)",
                "log.level changed",
                "limits.max_body changed",
                "server a changed",
                "server c added",
                "server b removed",
                "toolset t added",
            ]
        );
        assert_eq!(new.changes(&new), []);
    }
}
