//! Suggestions for unknown keys and values: keys that are not supported yet, names that other programs use,
//! and typos.
//!
//! No key is ignored silently: a key without effect is an error. It is a warning if another program wrote the
//! file and the key is not about access.

/// Keys of the config's full design that this version does not have, by the struct they belong to.
const UNSUPPORTED: [(&str, &[&str]); 2] =
    [("Config", &["store", "audit", "agent"]), ("Server", &["openapi", "base_url"])];

/// Names in other programs, and what to use here.
const ALIASES: [(&str, &str, &str); 44] = [
    ("Config", "servers", "use `mcpServers`"),
    ("Config", "inputs", "interactive inputs are not supported: use `${VAR}`"),
    ("Config", "port", "it is part of `listen.address`"),
    ("Config", "address", "it belongs under `listen`"),
    ("Listen", "port", "it is part of `address`"),
    ("Listen", "host", "it is part of `address`"),
    ("Server", "sandbox", "sandboxes are not supported: use one in `command`, such as `docker run`"),
    ("Server", "sandboxEnabled", "sandboxes are not supported: use one in `command`, such as `docker run`"),
    ("Server", "endpoints", "use `urls`"),
    ("Server", "load_balance", "use `balance`"),
    ("Server", "retries", "use `retry: {attempts: ...}`"),
    ("Config", "authentication", "use `auth`"),
    ("Config", "authorization", "use `rbac`"),
    ("Config", "rate_limit", "use `rate_limits`, with a list of `rules`"),
    ("Auth", "issuer", "it belongs under `jwt`, a list with one entry per issuer"),
    ("Auth", "audience", "it belongs under `jwt`, a list with one entry per issuer"),
    ("Auth", "jwks_url", "it belongs under `jwt`, a list with one entry per issuer"),
    ("Auth", "roles", "roles are defined in `rbac`"),
    ("Issuer", "jwks_uri", "use `jwks_url`"),
    ("Issuer", "jwks", "use `jwks_url` or `jwks_file`"),
    ("Issuer", "aud", "use `audience`"),
    ("Issuer", "iss", "use `issuer`"),
    ("Issuer", "clock_skew", "use `leeway`"),
    ("Issuer", "private_key", "use `signing_key`; verifying tokens needs only the public key"),
    ("ApiKey", "key", "keys are not stored in the file: use `sha256`"),
    ("ApiKey", "secret", "keys are not stored in the file: use `sha256`"),
    ("ApiKey", "hash", "use `sha256`"),
    ("ApiKey", "role", "use `roles: [...]`"),
    ("Listen", "cert", "it belongs under `tls`"),
    ("Listen", "key", "it belongs under `tls`"),
    ("ListenerTls", "certificate", "use `cert`"),
    ("ListenerTls", "private_key", "use `key`"),
    ("ListenerTls", "ca", "use `client_ca`"),
    ("Auth", "mtls", "use `certificates`"),
    ("Certificate", "principal", "use `subject`"),
    ("Certificate", "role", "use `roles: [...]`"),
    ("Role", "tools", "it belongs under `allow` or `deny`"),
    ("Role", "servers", "it belongs under `allow` or `deny`"),
    ("RbacRule", "condition", "use `when`"),
    ("RbacRule", "if", "use `when`"),
    ("RateRule", "rate", "use `limit`"),
    ("RateRule", "tools", "it belongs under `match`"),
    ("RedisConfig", "host", "it is part of `url`"),
    ("CustomPattern", "pattern", "use `regex`"),
];

const NOT_YET: &str = "remove it: it has no effect";

/// Parts of keys about access, or about the security of a connection.
const ACCESS: [&str; 30] = [
    "access",
    "allow",
    "approv",
    "auth",
    "block",
    "cert",
    "credential",
    "den",
    "disable",
    "enable",
    "env",
    "exclud",
    "expose",
    "filter",
    "forbid",
    "header",
    "include",
    "insecure",
    "key",
    "limit",
    "permission",
    "polic",
    "proxy",
    "role",
    "sandbox",
    "scope",
    "secret",
    "token",
    "tool",
    "trust",
];

/// Whether a key may be about access.
pub(super) fn is_access(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ACCESS.iter().any(|word| key.contains(word))
        || key.contains("verify")
        || key.contains("tls")
        || key == "agent"
}

/// Whether an unknown key belongs to another program and is no typo of ours. In a server, keys about access
/// never count as foreign.
pub(super) fn is_foreign(name: &str, keys: &[&str], key: &str) -> bool {
    let elsewhere = ALIASES.iter().any(|(of, there, _)| *of == name && *there == key && key != "inputs");
    let later = UNSUPPORTED.iter().any(|(of, later)| *of == name && later.contains(&key) && key != "agent");
    let is_ours = elsewhere || later || nearest(keys, key).is_some() || correct_section(name, key).is_some();
    !is_ours && (name != "Server" || !is_access(key))
}

/// A key for display.
pub(super) fn short(key: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut short: String = key.chars().take(64).map(clean).collect();
    if key.chars().nth(64).is_some() {
        short.push('…');
    }
    short
}

/// Whether this version does not support the key of a server; no more errors of that server are useful then.
pub(super) fn is_unsupported_server_key(key: &str) -> bool {
    UNSUPPORTED.iter().any(|(name, keys)| *name == "Server" && keys.contains(&key))
}

/// Whether the written key is this one, or probably a typo of it.
pub(super) fn is_typo_of(key: &str, written: &str) -> bool {
    let elsewhere = [
        ("mcpServers", "servers"),
        ("url", "serverUrl"),
        ("url", "httpUrl"),
        ("url", "host"),
        ("issuer", "iss"),
        ("audience", "aud"),
        ("sha256", "key"),
        ("sha256", "secret"),
        ("sha256", "hash"),
        ("when", "condition"),
        ("when", "if"),
        ("regex", "pattern"),
    ];
    nearest(&[key], written).is_some() || elsewhere.contains(&(key, written))
}

/// Message, expectation and help for an unknown key.
pub(super) fn unknown_key(name: &str, keys: &[&str], key: &str) -> (String, String, String) {
    if UNSUPPORTED.iter().any(|(of, later)| *of == name && later.contains(&key)) {
        return (format!("`{key}` is not available in this version"), NOT_YET.into(), String::new());
    }
    let message = format!("unknown key `{key}`");
    if let Some((.., here)) = ALIASES.iter().find(|(of, there, _)| *of == name && *there == key) {
        return (message, (*here).into(), String::new());
    }
    if let Some(near) = nearest(keys, key) {
        return (message, format!("did you mean `{near}`?"), String::new());
    }
    if let Some(section) = correct_section(name, key) {
        return (message, format!("it belongs under `{section}`"), String::new());
    }
    (message, "no such key".into(), format!("known keys: {}", keys.join(", ")))
}

/// Message and expectation for an unknown value of an enum.
pub(super) fn unknown_value(name: &str, choices: &[&str], word: &str) -> (String, String) {
    if (name, word) == ("Algorithm", "none") {
        return ("unsigned tokens are never accepted".into(), format!("expected {}", one_of(choices)));
    }
    match nearest(choices, word) {
        Some(near) => ("unknown value".into(), format!("did you mean `{near}`?")),
        None => ("unknown value".into(), format!("expected {}", one_of(choices))),
    }
}

/// The expectation for an unknown name; `none` is the text if there are no names.
pub(super) fn did_you_mean(names: &[&str], name: &str, none: &str) -> String {
    match nearest(names, name) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => none.into(),
        None if names.len() > 8 => {
            format!("expected one of {}, …", one_of(&names[..8]).replace(" or ", ", "))
        }
        None => format!("expected {}", one_of(names)),
    }
}

/// A list of choices.
pub(super) fn one_of(choices: &[&str]) -> String {
    match choices {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => format!("`{}` or `{last}`", first.join("`, `")),
    }
}

/// The section of a key that was written at the top level.
fn correct_section(name: &str, key: &str) -> Option<&'static str> {
    let sections: [(&str, &[&str]); 6] = [
        ("limits", super::limits::KEYS),
        ("listen", &["allowed_origins", "allowed_hosts", "trusted_proxies", "public_url", "tls"]),
        ("log", &["format", "level"]),
        (
            "auth",
            &[
                "jwt",
                "api_keys",
                "certificates",
                "anonymous",
                "required_scopes",
                "resource_metadata",
                "exchange",
            ],
        ),
        ("rbac", &["roles"]),
        ("guard", &["detectors", "patterns", "pins"]),
    ];
    let section = sections.into_iter().find(|(_, keys)| keys.contains(&key))?;
    (name == "Config").then_some(section.0)
}

/// The most similar word: equal except for case and separators, or with few typos.
fn nearest<'w>(choices: &[&'w str], word: &str) -> Option<&'w str> {
    let bare = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let wanted = bare(word);
    let distance = |known: &str| strsim::damerau_levenshtein(&bare(known), &wanted);
    let (near, distance) =
        choices.iter().map(|known| (*known, distance(known))).min_by_key(|(_, far)| *far)?;
    // At most a third of the word may differ: `url` is not `env`.
    (distance <= near.len().min(word.len()) / 3 && distance <= 3).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_one_that_may_have_been_meant() {
        let choices = ["address", "mcpServers", "max_body", "url", "env", "args", "command", "limits"];
        for (word, near) in [
            ("adress", Some("address")),
            ("mcp_servers", Some("mcpServers")),
            ("mcpServer", Some("mcpServers")),
            ("MaxBody", Some("max_body")),
            ("max-bdoy", Some("max_body")),
            ("uri", Some("url")),
            ("arg", Some("args")),
            ("cmd", None),
            ("x", None),
            ("", None),
            ("limit", Some("limits")),
        ] {
            assert_eq!(nearest(&choices, word), near, "{word}");
        }
    }
}
