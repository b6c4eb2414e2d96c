//! Validates a server: which keys go together, and which values are valid.
//!
//! Errors are reported at the key or value itself. Invalid nodes are not checked again.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue};

use super::diagnostics::NodeRef;
use super::limits::{CALL, RESPONSE, STREAM, within};
use super::scalar::duration::ConfigDuration;
use super::scalar::globs::GlobList;
use super::server::{BridgeSetting, CredentialsMode, EraSetting, Isolation};
use super::server_raw::{RawServer, RawTools, RawTransport};
use super::suggest;
use super::yaml::interpolate;

/// A server has exactly one of these keys. Each comes with the keys that require it.
const KINDS: [(&str, &[&str]); 4] = [
    ("builtin", &[]),
    (
        "command",
        &[
            "args",
            "env",
            "cwd",
            "envFile",
            "env_pass",
            "isolation",
            "limits",
            "max_processes",
            "max_processes_per_caller",
        ],
    ),
    ("url", &["headers", "retry", "http2", "tls", "stateless"]),
    ("urls", &["headers", "retry", "balance", "http2", "tls", "stateless"]),
];

/// Most endpoints of one server: a call keeps the tried ones in a 64-bit mask.
const MAX_ENDPOINTS: usize = 64;

/// Headers that the gateway writes itself.
const OWN_HEADERS: [&str; 14] = [
    "accept",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "te",
    "transfer-encoding",
    "upgrade",
];

impl RawServer {
    /// Reports all errors.
    pub(super) fn check(&self, node_ref: &NodeRef<'_>) {
        self.check_kind(node_ref);
        self.check_values(node_ref);
        self.check_credentials(node_ref);
        self.check_endpoints(node_ref);
        self.check_tls(node_ref);
        self.check_stateless(node_ref);
        if self.transport == Some(RawTransport::Sse) {
            self.check_sse(node_ref);
        }
        self.stdio_limits().check(node_ref, self.isolation == Some(Isolation::Session));
        if let Some(isolation) = node_ref.child("isolation")
            && (self.isolation, self.era) == (Some(Isolation::Session), EraSetting::Modern)
        {
            isolation.reject(
                "conflicts with `era: modern`, where a server keeps no sessions",
                "expected `shared`, or another `era`",
            );
        }
    }

    /// Callers share one connection to one URL, in the legacy era.
    fn check_sse(&self, node_ref: &NodeRef<'_>) {
        for key in ["urls", "retry", "stateless"] {
            if let Some(key_ref) = node_ref.child(key).filter(|key_ref| !key_ref.node.is_null()) {
                let message = format!("{}: not allowed with `type: sse`", key_ref.path);
                key_ref.reject_key(message, "such a server has one `url` and one connection", "");
            }
        }
        if let Some(era) = node_ref.child("era").filter(|_| self.era == EraSetting::Modern) {
            era.reject("conflicts with `type: sse`", "this transport has only the legacy revisions");
        }
        let by_caller = [CredentialsMode::Passthrough, CredentialsMode::Exchange].map(Some);
        if let Some(credentials) =
            node_ref.child("credentials").filter(|_| by_caller.contains(&self.credentials))
        {
            credentials.reject(
                "conflicts with `type: sse`, where all callers share one connection",
                "expected `none` or `static`",
            );
        }
    }

    /// Callers share a session only where it says nothing of them, and where there is one.
    fn check_stateless(&self, node_ref: &NodeRef<'_>) {
        let Some(stateless) = node_ref.child("stateless").filter(|_| self.stateless) else { return };
        let by_caller = [CredentialsMode::Passthrough, CredentialsMode::Exchange].map(Some);
        if by_caller.contains(&self.credentials) {
            stateless.reject(
                "conflicts with `credentials`: a shared session is not of one caller",
                "expected `false`, or `credentials` of `none` or `static`",
            );
        } else if self.era == EraSetting::Modern {
            stateless.reject("conflicts with `era: modern`, which has no sessions", "remove one of the two");
        } else if self.bridge == BridgeSetting::Off {
            stateless.reject(
                "conflicts with `bridge: off`: only bridged callers share a session",
                "remove one of the two",
            );
        }
    }

    fn check_tls(&self, node_ref: &NodeRef<'_>) {
        let (Some(tls), Some(node_ref)) = (&self.tls, node_ref.child("tls")) else { return };
        let mut urls = self.url.iter().chain(self.urls.iter().flatten());
        if urls.any(|url| !url.is_tls()) {
            let message = format!("{}: has no effect for `http://`", node_ref.path);
            return node_ref.reject_key(message, "use an `https://` URL, or remove this", "");
        }
        for (here, there, alone) in [
            ("cert", "key", tls.cert.is_some() && !node_ref.has("key")),
            ("key", "cert", tls.key.is_some() && !node_ref.has("cert")),
        ] {
            if let Some(half) = node_ref.child(here).filter(|_| alone) {
                half.reject_key(
                    format!("{}: requires `{there}`", half.path),
                    "set both `cert` and `key`",
                    "",
                );
            }
        }
        if let (Some(name), Some(node_ref)) = (&tls.server_name, node_ref.child("server_name"))
            && rustls::pki_types::ServerName::try_from(name.as_str()).is_err()
        {
            node_ref.reject("not a name", "expected a host such as `mcp.example.com`");
        }
        if tls.insecure_skip_verify
            && tls.ca.is_some()
            && let Some(skip) = node_ref.child("insecure_skip_verify")
        {
            skip.reject("conflicts with `ca`, which would have no effect", "remove one of the two");
        }
    }

    /// Exactly one transport, and no key of another one.
    fn check_kind(&self, node_ref: &NodeRef<'_>) {
        // `null` is how JSON writes a key that is not there.
        let has = |key: &str| node_ref.node.entry(key).is_some_and(|entry| !entry.node.is_null());
        if node_ref.node.entries().iter().any(|entry| suggest::is_unsupported_server_key(&entry.key)) {
            return;
        }
        let mut kinds = KINDS.iter().filter(|(kind, _)| has(kind));
        let Some((kind, own)) = kinds.next() else {
            let meant = |kind: &str| {
                node_ref.node.entries().iter().any(|entry| suggest::is_typo_of(kind, &entry.key))
            };
            if !self.disabled && !KINDS.iter().any(|(kind, _)| meant(kind)) {
                let help =
                    "for example {command: npx, args: [...]}, {url: \"https://...\"} or {builtin: demo}";
                let message = format!("{}: not a server", node_ref.path);
                node_ref.reject_key(message, "expected one of `command`, `url`, `urls` or `builtin`", help);
            }
            return;
        };
        for (other, _) in kinds {
            if let Some(other_ref) = node_ref.child(other) {
                let message = format!("{}: conflicts with `{kind}`", other_ref.path);
                other_ref.reject_key(
                    message,
                    "a server is only one of `command`, `url`, `urls` and `builtin`",
                    "",
                );
            }
        }
        let mut reported = BTreeSet::new();
        let misplaced = KINDS.iter().filter(|(other, _)| !has(other)).flat_map(|(other, keys)| {
            keys.iter().filter(|key| !own.contains(key)).map(move |key| (other, key))
        });
        let misplaced = misplaced.filter(|(_, key)| reported.insert(**key));
        for (other, key) in misplaced {
            if let Some(key_ref) = node_ref.child(key).filter(|_| has(key)) {
                let message = format!("{}: not allowed with `{kind}`", key_ref.path);
                key_ref.reject_key(message, format!("`{key}` requires `{other}`"), "");
            }
        }
        let needs = match self.transport {
            None => return,
            Some(RawTransport::Stdio) => "command",
            Some(_) => "url",
        };
        if let Some(type_ref) = node_ref.child("type").filter(|_| needs != kind.trim_end_matches('s')) {
            type_ref.reject(format!("conflicts with `{kind}`"), format!("this type requires `{needs}`"));
        }
    }

    fn check_values(&self, node_ref: &NodeRef<'_>) {
        if let Some(timeout) = self.timeout {
            within(node_ref, "timeout", timeout, CALL);
        }
        if let Some(startup_timeout) = self.startup_timeout {
            within(
                node_ref,
                "startup_timeout",
                startup_timeout,
                (ConfigDuration::millis(100), ConfigDuration::hours(1)),
            );
        }
        if let (Some(tasks), Some(tasks_ref)) = (&self.tasks, node_ref.child("tasks")) {
            within(&tasks_ref, "after", tasks.after, (ConfigDuration::millis(100), ConfigDuration::hours(1)));
            if let Some(tools) = tasks_ref.child("tools").filter(|_| tasks.tools.is_empty()) {
                tools.reject("names no tool", "expected patterns such as `[\"*report\"]`");
            }
        }
        if let Some(max_response) = self.max_response {
            within(node_ref, "max_response", max_response, RESPONSE);
        }
        if let Some(max_concurrent) = self.max_concurrent {
            within(node_ref, "max_concurrent", max_concurrent, (1, 100_000));
        }
        if let Some(max_stream) = self.max_stream {
            within(node_ref, "max_stream", max_stream, STREAM);
        }
        if let (Some(node_ref), Some(breaker)) = (node_ref.child("circuit_breaker"), self.circuit_breaker) {
            within(&node_ref, "failures", breaker.failures, (1, 1000));
            within(
                &node_ref,
                "open_for",
                breaker.open_for,
                (ConfigDuration::millis(100), ConfigDuration::hours(1)),
            );
        }
        if let Some(node_ref) = node_ref.child("health") {
            within(
                &node_ref,
                "interval",
                self.health.interval,
                (ConfigDuration::millis(100), ConfigDuration::hours(24)),
            );
            within(&node_ref, "unhealthy_after", self.health.unhealthy_after, (1, 100));
        }
        if let Some(node_ref) = node_ref.child("tools") {
            self.tools.check(&node_ref);
        }
        for (key, value) in [("command", &self.command), ("cwd", &self.cwd), ("envFile", &self.env_file)] {
            let bad = value.as_ref().is_some_and(|value| value.trim().is_empty() || value.contains('\0'));
            if let Some(node_ref) = node_ref.child(key).filter(|_| bad) {
                node_ref.reject("empty", "expected a path");
            }
        }
        if let Some(node_ref) = node_ref.child("args") {
            for (index, (node, arg)) in node_ref.node.items().iter().zip(&self.args).enumerate() {
                if arg.expose().contains('\0') {
                    node_ref.item(index, node).reject("contains a NUL byte", "a program cannot receive one");
                }
            }
        }
        let env = node_ref.child("env");
        for entry in env.iter().flat_map(|env| env.node.entries()) {
            let Some((name, value)) = self.env.get_key_value(&entry.key) else { continue };
            let node_ref = env.as_ref().expect("it has an entry").under(entry);
            if name.is_empty() || name.contains(['=', '\0']) {
                node_ref.reject_key(
                    format!("{}: invalid variable name", node_ref.path),
                    "expected a name without `=`",
                    "",
                );
            } else if value.expose().contains('\0') {
                node_ref.reject("contains a NUL byte", "a program cannot receive one");
            }
        }
        for (node_ref, name) in node_ref.child("env_pass").iter().flat_map(NodeRef::texts) {
            if !interpolate::is_name(name) {
                node_ref.reject("invalid variable name", "expected one such as `GITHUB_TOKEN`");
            } else if self.env.contains_key(name) {
                node_ref.reject("also set in `env`", "remove one of the two");
            }
        }
        if let Some(node_ref) = node_ref.child("headers") {
            self.check_headers(&node_ref);
        }
    }

    fn check_headers(&self, node_ref: &NodeRef<'_>) {
        let mut seen = BTreeSet::new();
        for entry in node_ref.node.entries() {
            let (node_ref, name) = (node_ref.under(entry), entry.key.to_ascii_lowercase());
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                node_ref.reject_key(
                    format!("{}: invalid header name", node_ref.path),
                    "expected letters, digits and `-`",
                    "",
                );
            } else if OWN_HEADERS.contains(&name.as_str()) {
                node_ref.reject_key(
                    format!("{}: the gateway sets this header itself", node_ref.path),
                    "remove it",
                    "",
                );
            } else if !seen.insert(name) {
                node_ref.reject_key(
                    format!("{}: duplicate header", node_ref.path),
                    "header names are case-insensitive",
                    "",
                );
            } else if let Some(value) = self.headers.get(&entry.key) {
                let value = value.expose();
                if HeaderValue::from_str(value).is_err() || !value.is_ascii() {
                    let control = value.contains(|c: char| c.is_ascii_control() && c != '\t');
                    let what =
                        if control { "line break or control character" } else { "non-ASCII character" };
                    node_ref.reject(format!("{what} in a header value"), "expected visible ASCII characters");
                }
            }
        }
    }

    fn check_credentials(&self, node_ref: &NodeRef<'_>) {
        let is_invalid =
            node_ref.child("credentials").is_some_and(|credentials| credentials.node.is_invalid());
        if let Some(audience) = node_ref.child("audience").filter(|_| node_ref.has("audience") && !is_invalid)
            && self.credentials != Some(CredentialsMode::Exchange)
        {
            let message = format!("{}: requires `credentials: exchange`", audience.path);
            audience.reject_key(message, "set `credentials: exchange`, or remove this", "");
        }
        let (Some(credentials), Some(credentials_ref)) = (self.credentials, node_ref.child("credentials"))
        else {
            return;
        };
        let has = |key: &str| node_ref.node.entry(key).is_some();
        let authorization = self.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization"));
        if !has("url") && !has("urls") {
            if credentials != CredentialsMode::None {
                credentials_ref
                    .reject("requires `url` or `urls`: only such a server is sent credentials", "remove it");
            }
        } else if credentials == CredentialsMode::Static && !has("headers") {
            credentials_ref.reject("requires `headers`", "add `headers`, or remove this");
        } else if credentials == CredentialsMode::None && authorization {
            credentials_ref.reject("conflicts with `Authorization` in `headers`", "expected `static`");
        } else if credentials == CredentialsMode::Passthrough && authorization {
            let expected = "remove one of the two";
            credentials_ref
                .reject("conflicts with `Authorization` in `headers`: only one can be sent", expected);
        } else if credentials == CredentialsMode::Exchange && authorization {
            let what = "conflicts with `Authorization` in `headers`: only one can be sent";
            credentials_ref.reject(what, "remove one of the two");
        }
    }

    /// Reports errors in `urls`, `balance` and `retry`.
    fn check_endpoints(&self, node_ref: &NodeRef<'_>) {
        if let (Some(retry), Some(node_ref)) = (&self.retry, node_ref.child("retry")) {
            within(&node_ref, "attempts", retry.attempts, (2, 5));
            if let Some(on) = node_ref.child("on") {
                if on.node.items().is_empty() && !on.node.is_invalid() {
                    on.reject("empty: nothing would be retried", "add an entry, or remove `retry`");
                }
                on.check_distinct();
            }
        }
        let Some(urls) = node_ref.child("urls").filter(|urls| !urls.node.is_null()) else { return };
        if urls.node.items().len() > MAX_ENDPOINTS {
            urls.reject("too many", format!("a server has at most {MAX_ENDPOINTS} endpoints"));
        } else if urls.node.items().is_empty() && !urls.node.is_invalid() {
            urls.reject("empty", "expected the URL of each endpoint");
        }
        urls.check_distinct();
        let schemes = self.urls.iter().flatten().map(super::Url::is_tls);
        if schemes.clone().any(|tls| tls) && schemes.clone().any(|tls| !tls) {
            urls.reject("mixed schemes: some are https, some are http", "use one scheme for all of them");
        }
    }
}

impl RawTools {
    fn check(&self, node_ref: &NodeRef<'_>) {
        if self.allow.as_ref().is_some_and(GlobList::is_empty)
            && let Some(allow) = node_ref.child("allow").filter(|allow| allow.node.items().is_empty())
        {
            allow.reject("empty list would hide every tool", "add an entry, or remove the key");
        }
        let mut seen = BTreeSet::new();
        let Some(rename) = node_ref.child("rename") else { return };
        for entry in rename.node.entries() {
            let Some(to) = self.rename.get(&entry.key) else { continue };
            if !seen.insert(&to.0) {
                rename.under(entry).reject("duplicate name", "expected a unique name");
            }
        }
    }
}
