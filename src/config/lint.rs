//! Warnings about a valid configuration: settings that are valid alone but surprising together.
//!
//! A warning never stops a start. It names settings and never values that may be secret.

use filters::rbac::Effect;

use super::server::{CredentialsMode, ServerTransport};
use super::{
    ClientAuth, Config, CounterStore, IpNetwork, IssuerConfig, KeyLocation, Pinning, Redact, ServerConfig,
    ServerName, Url,
};

impl Config {
    /// Settings that are probably a mistake, one sentence each; for `check` and the log.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.notes.warnings().map(ToString::to_string).collect();
        if self.servers.is_empty() {
            warnings.push("mcpServers has no enabled server: the gateway has nothing to offer".into());
        }
        if !self.listen.address.ip().is_loopback() && self.listen.allowed_hosts.is_none() {
            warnings.push(
                "listen.address can be reached from other machines, but without listen.allowed_hosts only requests \
                 whose `Host` is this machine are accepted"
                    .into(),
            );
        }
        let requires_cert =
            |tls: &super::ListenerTls| tls.client_ca.is_some() && tls.client_auth == ClientAuth::Required;
        if !self.listen.address.ip().is_loopback()
            && self.auth.is_none()
            && !self.listen.tls.as_ref().is_some_and(requires_cert)
        {
            warnings.push(
                "listen.address can be reached from other machines, and without auth every caller may call \
                 everything: listen.allowed_hosts does not protect it, since callers choose `Host`"
                    .into(),
            );
        }
        if self.listen.tls.is_some()
            && self.listen.public_url.as_ref().is_some_and(|url| url.starts_with("http:"))
        {
            warnings.push("listen.public_url is http://, but the listener has TLS".into());
        }
        if self
            .listen
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca.is_some() && tls.client_auth == ClientAuth::Optional)
            && self.auth.as_ref().is_none_or(|auth| auth.certificates.is_empty())
        {
            warnings.push(
                "listen.tls.client_ca without auth.certificates: with client_auth: optional, certificates have \
                 no effect"
                    .into(),
            );
        }
        let metadata = self.auth.as_ref().and_then(|auth| auth.resource_metadata.as_ref());
        if metadata.is_some() && self.listen.public_url.is_none() && self.listen.address.ip().is_unspecified()
        {
            warnings.push(
                "auth.resource_metadata without listen.public_url: the metadata would name the address \
                 0.0.0.0"
                    .into(),
            );
        }
        if self.admin.as_ref().is_some_and(|admin| !admin.address.ip().is_loopback()) {
            warnings.push("admin.address can be reached from other machines".into());
        }
        for (name, server) in &self.servers {
            if server.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify) {
                warnings.push(format!(
                    "mcpServers.{name}.tls.insecure_skip_verify: the server's certificate is not verified \
                     (man-in-the-middle possible); set `ca` instead"
                ));
            }
        }
        if self.cors_is_wider() {
            warnings.push("cors.origins has origins that listen.allowed_origins rejects".into());
        }
        if self.listen.trusted_proxies.iter().any(IpNetwork::is_everyone) {
            warnings.push(
                "listen.trusted_proxies trusts every address: any caller can forge its client address".into(),
            );
        }
        self.lint_auth(&mut warnings);
        self.lint_access(&mut warnings);
        for (name, server) in &self.servers {
            self.lint_server(name, server, &mut warnings);
            if server.sends_credentials_unencrypted() {
                warnings.push(format!(
                    "mcpServers.{name}: credentials are sent without encryption (http, not https)"
                ));
            }
        }
        warnings
    }

    fn lint_auth(&self, warnings: &mut Vec<String>) {
        let Some(auth) = &self.auth else { return };
        let open = |url: &Url| !url.is_tls() && !url.is_loopback();
        for IssuerConfig { issuer, keys, .. } in &auth.jwt {
            if matches!(keys, KeyLocation::JwksUrl(url) if open(url)) {
                warnings.push(format!(
                    "auth.jwt: the keys of {issuer} are fetched without encryption (http, not https): \
                     they can be replaced on the way (man-in-the-middle possible)"
                ));
            }
        }
        if auth.exchange.as_ref().is_some_and(|exchange| open(&exchange.token_endpoint)) {
            warnings.push("auth.exchange: tokens are sent without encryption (http, not https)".into());
        }
    }

    fn lint_access(&self, warnings: &mut Vec<String>) {
        if let Some(rbac) = &self.rbac {
            if self.auth.is_none() {
                warnings.push("rbac without auth: every caller is anonymous and has no role".into());
            }
            if rbac.default == Effect::Deny && rbac.roles.is_empty() && rbac.rules.is_empty() {
                warnings.push("rbac has no roles and no rules: every call is denied".into());
            }
        }
        let shared = self.rate_limits.as_ref().is_some_and(|limits| limits.store == CounterStore::Redis);
        if let Some(redis) = &self.redis {
            if !shared && self.secrets.keys.is_empty() {
                warnings.push(
                    "redis is not used: rate_limits.store is not redis, and without secrets.key no other process \
                     can read what this one has sealed"
                        .into(),
                );
            }
            if redis.url.has_password() && !redis.url.is_tls() && !redis.url.is_loopback() {
                warnings
                    .push("redis.url: its password is sent without encryption (redis, not rediss)".into());
            }
        }
        if !self.guard.pins.is_empty() && self.servers.values().all(|server| server.pinning == Pinning::Off) {
            warnings.push("guard.pins is not used: no server has `pinning`".into());
        }
        let redacts = |server: &ServerConfig| server.redact != Redact::default();
        if !self.guard.patterns.is_empty() && !self.servers.values().any(redacts) {
            warnings.push("guard.patterns is not used: no server has `redact`".into());
        }
    }

    fn lint_server(&self, name: &ServerName, server: &ServerConfig, warnings: &mut Vec<String>) {
        let Some(auth) = &self.auth else { return };
        match server.credentials {
            CredentialsMode::Passthrough => warnings.push(format!(
                "mcpServers.{name}: with credentials: passthrough the caller's token or key is forwarded to this \
                 server; credentials: exchange sends a token that is issued for it"
            )),
            CredentialsMode::Exchange if auth.jwt.is_empty() => warnings.push(format!(
                "mcpServers.{name}: credentials: exchange requires a token of the caller, but auth.jwt accepts none"
            )),
            _ => {}
        }
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

impl ServerConfig {
    fn sends_credentials_unencrypted(&self) -> bool {
        let urls = match &self.transport {
            ServerTransport::Http { urls, .. } => urls.as_slice(),
            ServerTransport::Sse { url, .. } => std::slice::from_ref(url),
            ServerTransport::Builtin(_) | ServerTransport::Stdio { .. } => return false,
        };
        let open = |url: &super::Url| !url.is_tls() && !url.is_loopback();
        self.credentials != CredentialsMode::None && urls.iter().any(open)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, parse};

    #[test]
    fn surprising_settings_are_reported() {
        for (text, message) in [
            ("mcpServers: {a: {builtin: demo, disabled: true}}", "no enabled server"),
            (
                "mcpServers: {a: {builtin: demo}}\nlisten: {address: \"0.0.0.0:80\", tls: {cert: a, key: b, client_ca: c}}",
                "listen.allowed_hosts",
            ),
            (
                "mcpServers: {a: {builtin: demo}}\nlisten: {address: \"[::]:80\", allowed_hosts: [\"*\"]}",
                "without auth",
            ),
            (
                "mcpServers: {a: {builtin: demo}}\nlisten: {tls: {cert: a, key: b}, public_url: \"http://a.example\"}",
                "listen.public_url",
            ),
            (
                "mcpServers: {a: {builtin: demo}}\n\
                 listen: {tls: {cert: a, key: b, client_ca: c, client_auth: optional}}",
                "without auth.certificates",
            ),
            ("mcpServers: {a: {builtin: demo}}\nadmin: {address: \"0.0.0.0:90\"}", "admin.address"),
            ("mcpServers: {a: {builtin: demo}}\ncors: {origins: [\"https://a.example\"]}", "cors.origins"),
            ("mcpServers: {a: {url: \"http://a.example\", headers: {X-Key: abc}}}", "mcpServers.a"),
            ("mcpServers: {a: {url: \"http://a.example\", credentials: passthrough}}", "mcpServers.a"),
            (
                "mcpServers: {a: {builtin: demo}}\nlisten: {trusted_proxies: [0.0.0.0/0]}",
                "trusts every address",
            ),
            (
                "mcpServers: {a: {builtin: demo}}\nauth: {jwt: [{issuer: i, audience: a, jwks_url: \"http://id.example/\"}]}",
                "the keys of i",
            ),
            (
                "mcpServers: {a: {builtin: demo}}\nauth: {required: false, exchange: {token_endpoint: \"http://id.example/\", client_id: a}}",
                "auth.exchange",
            ),
            ("mcpServers: {a: {builtin: demo}}\nrbac: {default: allow}", "rbac without auth"),
            ("mcpServers: {a: {builtin: demo}}\nauth: {required: false}\nrbac: {}", "every call is denied"),
            ("mcpServers: {a: {builtin: demo}}\nredis: {url: \"redis://h\"}", "redis is not used"),
            (
                "mcpServers: {a: {builtin: demo}}\nrate_limits: {store: redis}\nredis: {url: \"redis://:p@h\"}",
                "its password",
            ),
            ("mcpServers: {a: {builtin: demo}}\nguard: {patterns: [{name: a, regex: a}]}", "guard.patterns"),
            (
                "mcpServers: {a: {url: \"https://a.example\", credentials: passthrough}}\nauth: {required: false}",
                "is forwarded to this server",
            ),
            (
                "mcpServers: {a: {url: \"https://a.example\", credentials: exchange}}\n\
                 auth: {required: false, exchange: {token_endpoint: \"https://id.example/\", client_id: a}}",
                "requires a token",
            ),
        ] {
            let warnings = parse("c", text, &|_| None).expect(text).warnings();
            assert!(warnings.len() == 1 && warnings[0].contains(message), "{text}: {warnings:?}");
        }
        assert_eq!(Config::quickstart().warnings(), Vec::<String>::new());
    }
}
