//! What a good config may still get wrong: settings that each are fine and together surprise.
//!
//! Nothing here stops a start. It names settings and never values that may be secret.

use super::server::{Credentials, Kind};
use super::{Config, Server};

impl Config {
    /// What is probably not meant so, one sentence each; for `check` and the log.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.servers.is_empty() {
            warnings.push("mcpServers names no server that is switched on: there is nothing to offer".into());
        }
        if !self.listen.address.ip().is_loopback() && self.listen.allowed_hosts.is_none() {
            warnings.push(
                "listen.address can be reached from other machines, but without listen.allowed_hosts only requests \
                 that name this machine pass"
                    .into(),
            );
        }
        if self.admin.as_ref().is_some_and(|admin| !admin.address.ip().is_loopback()) {
            warnings.push("admin.address can be reached from other machines".into());
        }
        if self.cors_is_wider() {
            warnings.push("cors.origins has origins that listen.allowed_origins turns away".into());
        }
        for (name, server) in &self.servers {
            if server.sends_credentials_in_the_open() {
                warnings.push(format!(
                    "mcpServers.{name}: credentials are sent without encryption (http, not https)"
                ));
            }
        }
        warnings
    }

    fn cors_is_wider(&self) -> bool {
        let Some(cors) = &self.cors else { return false };
        match &self.listen.allowed_origins {
            Some(allowed) if allowed.iter().any(|origin| origin == "*") => false,
            Some(allowed) => cors.origins.iter().any(|origin| !allowed.contains(origin)),
            // Without a list, pages of this machine pass.
            None => cors.origins.iter().any(|origin| {
                let host = origin.split_once("://").map_or("", |(_, host)| host);
                !["localhost", "127.", "[::1]"].iter().any(|start| host.starts_with(start))
            }),
        }
    }
}

impl Server {
    fn sends_credentials_in_the_open(&self) -> bool {
        let Kind::Http { url, .. } = &self.kind else { return false };
        self.credentials != Credentials::None && !url.is_tls() && !url.is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, parse};

    #[test]
    fn what_surprises_is_told() {
        for (text, words) in [
            ("mcpServers: {a: {builtin: demo, disabled: true}}", "names no server"),
            ("mcpServers: {a: {builtin: demo}}\nlisten: {address: \"0.0.0.0:80\"}", "listen.allowed_hosts"),
            ("mcpServers: {a: {builtin: demo}}\nadmin: {address: \"0.0.0.0:90\"}", "admin.address"),
            ("mcpServers: {a: {builtin: demo}}\ncors: {origins: [\"https://a.example\"]}", "cors.origins"),
            ("mcpServers: {a: {url: \"http://a.example\", headers: {X-Key: abc}}}", "mcpServers.a"),
            ("mcpServers: {a: {url: \"http://a.example\", credentials: passthrough}}", "mcpServers.a"),
        ] {
            let warnings = parse("c", text, &|_| None).expect(text).warnings();
            assert!(warnings.len() == 1 && warnings[0].contains(words), "{text}: {warnings:?}");
        }
        assert_eq!(Config::quickstart().warnings(), Vec::<String>::new());
    }
}
