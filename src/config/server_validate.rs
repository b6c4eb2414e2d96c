//! What may stand beside what in a server, and which values fit.
//!
//! Reported at the key or value itself; what was found faulty before is not looked at again.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue};

use super::diagnostics::Spot;
use super::limits::{CALL, RESPONSE, STREAM, within};
use super::scalar::duration::Span;
use super::scalar::globs::Globs;
use super::server::Credentials;
use super::server_raw::{Transport, Written, WrittenTools};
use super::suggest;
use super::yaml::interpolate;

/// The keys of which a server has exactly one, each with those that only go with it.
const KINDS: [(&str, &[&str]); 4] = [
    ("builtin", &[]),
    ("command", &["args", "env", "cwd", "envFile", "env_pass"]),
    ("url", &["headers", "retry", "http2", "tls"]),
    ("urls", &["headers", "retry", "balance", "http2", "tls"]),
];

/// Most endpoints of one server: a call remembers in one word which of them it has tried.
const MOST: usize = 64;

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

impl Written {
    /// Reports all that does not fit.
    pub(super) fn check(&self, spot: &Spot<'_>) {
        self.check_kind(spot);
        self.check_values(spot);
        self.check_credentials(spot);
        self.check_pool(spot);
        self.check_tls(spot);
    }

    fn check_tls(&self, spot: &Spot<'_>) {
        let (Some(tls), Some(spot)) = (&self.tls, spot.child("tls")) else { return };
        let mut urls = self.url.iter().chain(self.urls.iter().flatten());
        if urls.any(|url| !url.is_tls()) {
            let message = format!("{}: of no use for `http://`", spot.path);
            return spot.refuse_key(message, "the URL has to be `https://`, or remove this", "");
        }
        for (here, there, alone) in [
            ("cert", "key", tls.cert.is_some() && !spot.has("key")),
            ("key", "cert", tls.key.is_some() && !spot.has("cert")),
        ] {
            if let Some(half) = spot.child(here).filter(|_| alone) {
                half.refuse_key(
                    format!("{}: needs `{there}`", half.path),
                    "a certificate and its key go together",
                    "",
                );
            }
        }
        if let (Some(name), Some(spot)) = (&tls.server_name, spot.child("server_name"))
            && rustls::pki_types::ServerName::try_from(name.as_str()).is_err()
        {
            spot.refuse("not a name", "expected a host such as `mcp.example.com`");
        }
        if tls.insecure_skip_verify
            && tls.ca.is_some()
            && let Some(skip) = spot.child("insecure_skip_verify")
        {
            skip.refuse("contradicts `ca`, which would not be asked", "remove one of the two");
        }
    }

    /// Exactly one kind, and nothing that belongs to another.
    fn check_kind(&self, spot: &Spot<'_>) {
        // `null` is how JSON writes a key that is not there.
        let has = |key: &str| spot.node.entry(key).is_some_and(|entry| !entry.node.is_null());
        if spot.node.entries().iter().any(|entry| suggest::is_later_server(&entry.key)) {
            return;
        }
        let mut kinds = KINDS.iter().filter(|(kind, _)| has(kind));
        let Some((kind, own)) = kinds.next() else {
            let meant =
                |kind: &str| spot.node.entries().iter().any(|entry| suggest::is_meant(kind, &entry.key));
            if !self.disabled && !KINDS.iter().any(|(kind, _)| meant(kind)) {
                let help =
                    "for example {command: npx, args: [...]}, {url: \"https://...\"} or {builtin: demo}";
                let message = format!("{}: not a server", spot.path);
                spot.refuse_key(message, "expected one of `command`, `url`, `urls` or `builtin`", help);
            }
            return;
        };
        for (other, _) in kinds {
            if let Some(other_spot) = spot.child(other) {
                let message = format!("{}: cannot stand beside `{kind}`", other_spot.path);
                other_spot.refuse_key(
                    message,
                    "a server is only one of `command`, `url`, `urls` and `builtin`",
                    "",
                );
            }
        }
        let mut told = BTreeSet::new();
        let strangers = KINDS.iter().filter(|(other, _)| !has(other)).flat_map(|(other, keys)| {
            keys.iter().filter(|key| !own.contains(key)).map(move |key| (other, key))
        });
        let strangers = strangers.filter(|(_, key)| told.insert(**key));
        for (other, key) in strangers {
            if let Some(key_spot) = spot.child(key).filter(|_| has(key)) {
                let message = format!("{}: of no use beside `{kind}`", key_spot.path);
                key_spot.refuse_key(message, format!("`{key}` goes with `{other}`"), "");
            }
        }
        let needs = match self.transport {
            None => return,
            Some(Transport::Stdio) => "command",
            Some(_) => "url",
        };
        if let Some(type_spot) = spot.child("type").filter(|_| needs != kind.trim_end_matches('s')) {
            type_spot.refuse(format!("does not fit `{kind}`"), format!("this type goes with `{needs}`"));
        }
    }

    fn check_values(&self, spot: &Spot<'_>) {
        if let Some(timeout) = self.timeout {
            within(spot, "timeout", timeout, CALL);
        }
        if let Some(startup_timeout) = self.startup_timeout {
            within(spot, "startup_timeout", startup_timeout, (Span::millis(100), Span::hours(1)));
        }
        if let Some(max_response) = self.max_response {
            within(spot, "max_response", max_response, RESPONSE);
        }
        if let Some(max_concurrent) = self.max_concurrent {
            within(spot, "max_concurrent", max_concurrent, (1, 100_000));
        }
        if let Some(max_stream) = self.max_stream {
            within(spot, "max_stream", max_stream, STREAM);
        }
        if let (Some(spot), Some(breaker)) = (spot.child("circuit_breaker"), self.circuit_breaker) {
            within(&spot, "failures", breaker.failures, (1, 1000));
            within(&spot, "open_for", breaker.open_for, (Span::millis(100), Span::hours(1)));
        }
        if let Some(spot) = spot.child("health") {
            within(&spot, "interval", self.health.interval, (Span::millis(100), Span::hours(24)));
            within(&spot, "unhealthy_after", self.health.unhealthy_after, (1, 100));
        }
        if let Some(spot) = spot.child("tools") {
            self.tools.check(&spot);
        }
        for (key, value) in [("command", &self.command), ("cwd", &self.cwd), ("envFile", &self.env_file)] {
            let bad = value.as_ref().is_some_and(|value| value.trim().is_empty() || value.contains('\0'));
            if let Some(spot) = spot.child(key).filter(|_| bad) {
                spot.refuse("empty", "expected a path");
            }
        }
        if let Some(spot) = spot.child("args") {
            for (index, (node, arg)) in spot.node.items().iter().zip(&self.args).enumerate() {
                if arg.expose().contains('\0') {
                    spot.item(index, node).refuse("holds a zero byte", "no program can be given one");
                }
            }
        }
        let env = spot.child("env");
        for entry in env.iter().flat_map(|env| env.node.entries()) {
            let Some((name, value)) = self.env.get_key_value(&entry.key) else { continue };
            let spot = env.as_ref().expect("it has an entry").under(entry);
            if name.is_empty() || name.contains(['=', '\0']) {
                spot.refuse_key(
                    format!("{}: not the name of a variable", spot.path),
                    "expected a name without `=`",
                    "",
                );
            } else if value.expose().contains('\0') {
                spot.refuse("holds a zero byte", "no program can be given one");
            }
        }
        for (spot, name) in spot.child("env_pass").iter().flat_map(Spot::texts) {
            if !interpolate::is_name(name) {
                spot.refuse("not the name of a variable", "expected one such as `GITHUB_TOKEN`");
            } else if self.env.contains_key(name) {
                spot.refuse("`env` sets this variable too", "remove one of the two");
            }
        }
        if let Some(spot) = spot.child("headers") {
            self.check_headers(&spot);
        }
    }

    fn check_headers(&self, spot: &Spot<'_>) {
        let mut seen = BTreeSet::new();
        for entry in spot.node.entries() {
            let (spot, name) = (spot.under(entry), entry.key.to_ascii_lowercase());
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                spot.refuse_key(
                    format!("{}: not the name of a header", spot.path),
                    "expected letters, digits and `-`",
                    "",
                );
            } else if OWN_HEADERS.contains(&name.as_str()) {
                spot.refuse_key(
                    format!("{}: the gateway sets this header itself", spot.path),
                    "remove it",
                    "",
                );
            } else if !seen.insert(name) {
                spot.refuse_key(format!("{}: set twice", spot.path), "header names have no case", "");
            } else if let Some(value) = self.headers.get(&entry.key) {
                let value = value.expose();
                if HeaderValue::from_str(value).is_err() || !value.is_ascii() {
                    let control = value.contains(|c: char| c.is_ascii_control() && c != '\t');
                    let what =
                        if control { "a line break or control character" } else { "a letter beyond ASCII" };
                    spot.refuse(format!("{what} in a header"), "expected visible ASCII characters");
                }
            }
        }
    }

    fn check_credentials(&self, spot: &Spot<'_>) {
        let faulty = spot.child("credentials").is_some_and(|credentials| credentials.node.is_faulty());
        if let Some(audience) = spot.child("audience").filter(|_| spot.has("audience") && !faulty)
            && self.credentials != Some(Credentials::Exchange)
        {
            let message = format!("{}: of no use without `credentials: exchange`", audience.path);
            audience.refuse_key(message, "it says what tokens are exchanged for", "");
        }
        let (Some(credentials), Some(spot_here)) = (self.credentials, spot.child("credentials")) else {
            return;
        };
        let has = |key: &str| spot.node.entry(key).is_some();
        let authorization = self.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization"));
        if !has("url") && !has("urls") {
            if credentials != Credentials::None {
                spot_here.refuse("only a server with a `url` is sent credentials", "remove it");
            }
        } else if credentials == Credentials::Static && !has("headers") {
            spot_here.refuse("no `headers` to take credentials from", "add `headers`, or remove this");
        } else if credentials == Credentials::None && authorization {
            spot_here.refuse("contradicts the `Authorization` in `headers`", "expected static");
        } else if credentials == Credentials::Passthrough && authorization {
            let expected = "remove one of the two";
            spot_here.refuse(
                "the client's `Authorization` and the one in `headers` cannot both be sent",
                expected,
            );
        } else if credentials == Credentials::Exchange && authorization {
            let what = "the exchanged token and the `Authorization` in `headers` cannot both be sent";
            spot_here.refuse(what, "remove one of the two");
        }
    }

    /// Reports what does not fit of `urls`, `balance` and `retry`.
    fn check_pool(&self, spot: &Spot<'_>) {
        if let (Some(retry), Some(spot)) = (&self.retry, spot.child("retry")) {
            within(&spot, "attempts", retry.attempts, (2, 5));
            if let Some(on) = spot.child("on") {
                if on.node.items().is_empty() && !on.node.is_faulty() {
                    on.refuse("empty: nothing would be tried again", "name some, or remove `retry`");
                }
                on.check_distinct();
            }
        }
        let Some(urls) = spot.child("urls").filter(|urls| !urls.node.is_null()) else { return };
        if urls.node.items().len() > MOST {
            urls.refuse("too many", format!("a server has at most {MOST} endpoints"));
        } else if urls.node.items().is_empty() && !urls.node.is_faulty() {
            urls.refuse("empty", "expected the URL of each endpoint");
        }
        urls.check_distinct();
        let schemes = self.urls.iter().flatten().map(super::Url::is_tls);
        if schemes.clone().any(|tls| tls) && schemes.clone().any(|tls| !tls) {
            urls.refuse("some are https and some are http", "equal endpoints are reached in the same way");
        }
    }
}

impl WrittenTools {
    fn check(&self, spot: &Spot<'_>) {
        if self.allow.as_ref().is_some_and(Globs::is_empty)
            && let Some(allow) = spot.child("allow").filter(|allow| allow.node.items().is_empty())
        {
            allow.refuse("empty, which would hide every tool", "name some, or remove the key");
        }
        let mut seen = BTreeSet::new();
        let Some(rename) = spot.child("rename") else { return };
        for entry in rename.node.entries() {
            let Some(to) = self.rename.get(&entry.key) else { continue };
            if !seen.insert(&to.0) {
                rename
                    .under(entry)
                    .refuse("another tool is given this name too", "expected a name of its own");
            }
        }
    }
}
