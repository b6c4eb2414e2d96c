//! Words that this version does not take, and what to say of them: known ones that are not built yet, ones that
//! other programs use for the same thing, and misspelt ones.
//!
//! Nothing that a file says is ever passed over in silence: a key that would do nothing is a fault, or a warning if another
//! program wrote the file and the key cannot say who may do what.

/// Keys of the config's full design that this version does not have, by the struct they belong to.
const UNSUPPORTED: [(&str, &[&str]); 2] =
    [("Config", &["store", "audit", "agent"]), ("Server", &["openapi", "base_url"])];

/// Values likewise.
const UNSUPPORTED_VALUES: [(&str, &str); 1] = [("Transport", "sse")];

/// What other programs call a thing, and what it is called here.
const ALIASES: [(&str, &str, &str); 44] = [
    ("Config", "servers", "use `mcpServers`"),
    ("Config", "inputs", "interactive inputs are not supported: use `${VAR}`"),
    ("Config", "port", "it is part of `listen.address`"),
    ("Config", "address", "it belongs under `listen`"),
    ("Listen", "port", "it is part of `address`"),
    ("Listen", "host", "it is part of `address`"),
    ("Server", "sandbox", "programs are put into no sandbox here: let `command` do it, as with `docker run`"),
    (
        "Server",
        "sandboxEnabled",
        "programs are put into no sandbox here: let `command` do it, as with `docker run`",
    ),
    ("Server", "endpoints", "use `urls`"),
    ("Server", "load_balance", "use `balance`"),
    ("Server", "retries", "use `retry: {attempts: ...}`"),
    ("Config", "authentication", "use `auth`"),
    ("Config", "authorization", "use `rbac`"),
    ("Config", "rate_limit", "use `rate_limits`, with a list of `rules`"),
    ("Auth", "issuer", "it belongs under `jwt`, a list with one item an issuer"),
    ("Auth", "audience", "it belongs under `jwt`, a list with one item an issuer"),
    ("Auth", "jwks_url", "it belongs under `jwt`, a list with one item an issuer"),
    ("Auth", "roles", "roles are described in the block `rbac`"),
    ("Issuer", "jwks_uri", "use `jwks_url`"),
    ("Issuer", "jwks", "use `jwks_url` or `jwks_file`"),
    ("Issuer", "aud", "use `audience`"),
    ("Issuer", "iss", "use `issuer`"),
    ("Issuer", "clock_skew", "use `leeway`"),
    ("Issuer", "private_key", "use `signing_key`; to check tokens the public one is enough"),
    ("ApiKey", "key", "the key itself is never written down: give its `sha256`"),
    ("ApiKey", "secret", "the key itself is never written down: give its `sha256`"),
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

const NOT_YET: &str = "remove it: it would do nothing";

/// What a key that says who may do what has in it, or one that secures a connection.
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

/// Whether a key may say who may do what.
pub(super) fn is_access(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ACCESS.iter().any(|word| key.contains(word))
        || key.contains("verify")
        || key.contains("tls")
        || key == "agent"
}

/// Whether an unknown key is another program's, so that none of ours was meant by it: of the file's own keys any such, of a
/// server's only what cannot say who may do what.
pub(super) fn is_foreign(name: &str, keys: &[&str], key: &str) -> bool {
    let elsewhere = ALIASES.iter().any(|(of, there, _)| *of == name && *there == key && key != "inputs");
    let later = UNSUPPORTED.iter().any(|(of, later)| *of == name && later.contains(&key) && key != "agent");
    let references =
        elsewhere || later || nearest(keys, key).is_some() || correct_section(name, key).is_some();
    !references && (name != "Server" || !is_access(key))
}

/// A key as it can be shown in a sentence.
pub(super) fn short(key: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut short: String = key.chars().take(64).map(clean).collect();
    if key.chars().nth(64).is_some() {
        short.push('…');
    }
    short
}

/// Whether this version will not have the key of a server, so that nothing more is to be said of that server.
pub(super) fn is_unsupported_server_key(key: &str) -> bool {
    UNSUPPORTED.iter().any(|(name, keys)| *name == "Server" && keys.contains(&key))
}

/// Whether a key that was written is this one, or was probably meant to be.
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

/// Message, expectation and help for a key that a mapping does not take.
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
    if let Some(home) = correct_section(name, key) {
        return (message, format!("it belongs under `{home}`"), String::new());
    }
    (message, "no such key".into(), format!("known keys: {}", keys.join(", ")))
}

/// What is wrong with a word and what is expected, for an enum that does not have it.
pub(super) fn unknown_value(name: &str, message: &[&str], word: &str) -> (String, String) {
    if UNSUPPORTED_VALUES.contains(&(name, word)) {
        return (
            format!("`{word}` is not available in this version"),
            format!("expected {}", one_of(message)),
        );
    }
    if (name, word) == ("Algorithm", "none") {
        return ("unsigned tokens are never accepted".into(), format!("expected {}", one_of(message)));
    }
    match nearest(message, word) {
        Some(near) => ("unknown value".into(), format!("did you mean `{near}`?")),
        None => ("unknown value".into(), format!("expected {}", one_of(message))),
    }
}

/// What is expected in the place of a name that none of these is; `none` is what to say if there are none.
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

/// Words to choose from.
pub(super) fn one_of(message: &[&str]) -> String {
    match message {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => format!("`{}` or `{last}`", first.join("`, `")),
    }
}

/// The part of the config that has this key, for one that was written at the top.
fn correct_section(name: &str, key: &str) -> Option<&'static str> {
    let homes: [(&str, &[&str]); 6] = [
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
    let home = homes.into_iter().find(|(_, keys)| keys.contains(&key))?;
    (name == "Config").then_some(home.0)
}

/// The word that was probably meant: the same but for case and separators, or within a slip or two.
fn nearest<'w>(message: &[&'w str], word: &str) -> Option<&'w str> {
    let bare = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let wanted = bare(word);
    let distance = |references: &str| strsim::damerau_levenshtein(&bare(references), &wanted);
    let (near, distance) =
        message.iter().map(|references| (*references, distance(references))).min_by_key(|(_, far)| *far)?;
    // A third of the word may be wrong: `url` is not `env`.
    (distance <= near.len().min(word.len()) / 3 && distance <= 3).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_one_that_may_have_been_meant() {
        let message = ["address", "mcpServers", "max_body", "url", "env", "args", "command", "limits"];
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
            assert_eq!(nearest(&message, word), near, "{word}");
        }
    }
}
