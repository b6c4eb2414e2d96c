//! The differences between two configurations, as text for the log of a reload.
//!
//! It names settings and never values, which may be secret; it does not apply anything.

use std::collections::BTreeMap;
use std::fmt;

use super::scalar::names::ServerName;
use super::{AuthConfig, Config, GuardConfig, RateLimits, RbacConfig};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// For example `server files added`, `limits.max_body changed`.
    pub what: String,
    /// It takes effect only after a restart.
    pub needs_restart: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if self.needs_restart { f.write_str(" (needs a restart)") } else { Ok(()) }
    }
}

impl Config {
    /// The differences of `new`; empty if it behaves the same.
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
        note(self.listen.trusted_proxies != new.listen.trusted_proxies, "listen.trusted_proxies", false);
        note(self.listen.public_url != new.listen.public_url, "listen.public_url", false);
        note(self.listen.http2 != new.listen.http2, "listen.http2", true);
        note(self.listen.upgrade_socket != new.listen.upgrade_socket, "listen.upgrade_socket", true);
        let (tls, new_tls) = (&self.listen.tls, &new.listen.tls);
        note(tls != new_tls, "listen.tls", tls.is_some() != new_tls.is_some());
        note(self.admin != new.admin, "admin.address", true);
        note(self.workers != new.workers, "workers", true);
        note(self.log.format != new.log.format, "log.format", true);
        note(self.log.level != new.log.level, "log.level", true);
        note(self.cors != new.cors, "cors", false);
        note(self.secrets != new.secrets, "secrets", false);
        for ((key, old), (_, new)) in self.limits.values().into_iter().zip(new.limits.values()) {
            // The only limit that a listener reads at its start.
            note(old != new, &format!("limits.{key}"), key == "header_timeout");
        }
        named("server", &self.servers, &new.servers, &mut changes);
        named("toolset", &self.toolsets, &new.toolsets, &mut changes);
        block("auth", &self.auth, &new.auth, AuthConfig::parts, &mut changes);
        block("rbac", &self.rbac, &new.rbac, RbacConfig::parts, &mut changes);
        block("rate_limits", &self.rate_limits, &new.rate_limits, RateLimits::parts, &mut changes);
        block("redis", &self.redis, &new.redis, |_, _| Vec::new(), &mut changes);
        parts("guard", &self.guard.parts(&new.guard), &mut changes);
        changes
    }
}

/// The keys of a block, each with whether it differs.
type Parts = Vec<(&'static str, bool)>;

impl AuthConfig {
    fn parts(&self, new: &AuthConfig) -> Parts {
        vec![
            ("required", self.required != new.required),
            ("anonymous", self.anonymous != new.anonymous),
            ("required_scopes", self.required_scopes != new.required_scopes),
            ("jwt", self.jwt != new.jwt),
            ("api_keys", self.api_keys != new.api_keys),
            ("certificates", self.certificates != new.certificates),
            ("resource_metadata", self.resource_metadata != new.resource_metadata),
            ("exchange", self.exchange != new.exchange),
        ]
    }
}

impl RbacConfig {
    fn parts(&self, new: &RbacConfig) -> Parts {
        vec![
            ("default", self.default != new.default),
            ("roles", self.roles != new.roles),
            ("scopes", self.scopes != new.scopes),
            ("rules", self.rules != new.rules),
        ]
    }
}

impl RateLimits {
    fn parts(&self, new: &RateLimits) -> Parts {
        vec![
            ("store", self.store != new.store),
            ("on_failure", self.on_failure != new.on_failure),
            ("timeout", self.timeout != new.timeout),
            ("rules", self.rules != new.rules),
        ]
    }
}

impl GuardConfig {
    fn parts(&self, new: &GuardConfig) -> Parts {
        vec![
            ("detectors", self.detectors != new.detectors),
            ("patterns", self.patterns != new.patterns),
            ("pins", self.pins != new.pins),
        ]
    }
}

/// An optional block, with its differences.
fn block<T: PartialEq>(
    name: &str,
    old: &Option<T>,
    new: &Option<T>,
    differing: impl Fn(&T, &T) -> Parts,
    changes: &mut Vec<Change>,
) {
    let mut note = |action: &str| {
        changes.push(Change { what: format!("{name} {action}"), needs_restart: false });
    };
    match (old, new) {
        (None, Some(_)) => note("added"),
        (Some(_), None) => note("removed"),
        (Some(old), Some(new)) if old != new => {
            let keys = differing(old, new);
            if keys.is_empty() { note("changed") } else { parts(name, &keys, changes) }
        }
        _ => {}
    }
}

fn parts(name: &str, parts: &[(&'static str, bool)], changes: &mut Vec<Change>) {
    for (key, _) in parts.iter().filter(|(_, differs)| *differs) {
        changes.push(Change { what: format!("{name}.{key} changed"), needs_restart: false });
    }
}

fn named<T: PartialEq>(
    noun: &str,
    old: &BTreeMap<ServerName, T>,
    new: &BTreeMap<ServerName, T>,
    changes: &mut Vec<Change>,
) {
    let mut note = |name: &ServerName, action: &str| {
        changes.push(Change { what: format!("{noun} {name} {action}"), needs_restart: false });
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
        let reported: Vec<String> = old.changes(&new).iter().map(ToString::to_string).collect();
        assert_eq!(
            reported,
            [
                "listen.address changed (needs a restart)",
                "workers changed (needs a restart)",
                "log.level changed (needs a restart)",
                "limits.max_body changed",
                "server a changed",
                "server c added",
                "server b removed",
                "toolset t added",
            ]
        );
        assert_eq!(new.changes(&new), []);
    }

    #[test]
    fn blocks_are_added_changed_and_removed_and_do_not_change_by_moving() {
        let read = |text: &str| {
            parse("c", &format!("mcpServers: {{a: {{builtin: demo}}}}\n{text}"), &|_| None)
                .expect("a good config")
        };
        let old = "auth:\n  api_keys: [{id: a, sha256: HASH}]\n\
                   rbac:\n  roles: {r: {allow: {tools: [\"*\"]}}}\n\
                   rate_limits:\n  rules: [{name: n, key: [], limit: 1/1s}]\n"
            .replace("HASH", &"a".repeat(64));
        let moved = old.replace("  r", "  # nothing new\n\n  r").replace("  api", "\n\n  api");
        assert_ne!(old, moved);
        assert_eq!(read(&old).changes(&read(&moved)), []);
        assert_eq!(read(&old).rbac, read(&moved).rbac);
        let new =
            old.replace("id: a", "id: b").replace("1/1s", "2/1s").replace("rbac:", "rbac:\n  default: allow");
        let new = format!("{new}redis: {{url: \"redis://h\"}}\nguard: {{detectors: []}}\n");
        let reported = |old: &str, new: &str| -> Vec<String> {
            read(old).changes(&read(new)).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            reported(&old, &new),
            [
                "auth.api_keys changed",
                "rbac.default changed",
                "rate_limits.rules changed",
                "redis added",
                "guard.detectors changed",
            ]
        );
        assert_eq!(reported(&old, ""), ["auth removed", "rbac removed", "rate_limits removed"]);
        assert_eq!(
            reported("redis: {url: \"redis://h\"}\n", "redis: {url: \"redis://i\"}\n"),
            ["redis changed"]
        );
    }
}
