//! Words that this version does not take, and what to say of them: known ones that are not built yet, ones that
//! other programs use for the same thing, and misspelt ones.
//!
//! Nothing that a file says is ever passed over in silence: a key that would do nothing is a fault, or a warning if another
//! program wrote the file and the key cannot say who may do what.

/// Keys of the config's full design that this version does not have, by the struct they belong to.
const LATER: [(&str, &[&str]); 2] =
    [("Config", &["store", "audit", "agent"]), ("Server", &["openapi", "base_url"])];

/// Values likewise.
const LATER_WORDS: [(&str, &str); 1] = [("Transport", "sse")];

/// What other programs call a thing, and what it is called here.
const ELSEWHERE: [(&str, &str, &str); 44] = [
    ("Config", "servers", "here it is called `mcpServers`"),
    ("Config", "inputs", "nobody is there to be asked: use `${VAR}`"),
    ("Config", "port", "it is a part of `listen.address`"),
    ("Config", "address", "it belongs under `listen`"),
    ("Listen", "port", "it is a part of `address`"),
    ("Listen", "host", "it is a part of `address`"),
    ("Server", "sandbox", "programs are put into no sandbox here: let `command` do it, as with `docker run`"),
    (
        "Server",
        "sandboxEnabled",
        "programs are put into no sandbox here: let `command` do it, as with `docker run`",
    ),
    ("Server", "endpoints", "here it is called `urls`"),
    ("Server", "load_balance", "here it is called `balance`"),
    ("Server", "retries", "here it is `retry: {attempts: ...}`"),
    ("Config", "authentication", "here it is called `auth`"),
    ("Config", "authorization", "here it is called `rbac`"),
    ("Config", "rate_limit", "here it is called `rate_limits`, with a list of `rules`"),
    ("Auth", "issuer", "it belongs under `jwt`, a list with one item an issuer"),
    ("Auth", "audience", "it belongs under `jwt`, a list with one item an issuer"),
    ("Auth", "jwks_url", "it belongs under `jwt`, a list with one item an issuer"),
    ("Auth", "roles", "roles are described in the block `rbac`"),
    ("Issuer", "jwks_uri", "here it is called `jwks_url`"),
    ("Issuer", "jwks", "here it is `jwks_url` or `jwks_file`"),
    ("Issuer", "aud", "here it is called `audience`"),
    ("Issuer", "iss", "here it is called `issuer`"),
    ("Issuer", "clock_skew", "here it is called `leeway`"),
    ("Issuer", "private_key", "here it is called `signing_key`; to check tokens the public one is enough"),
    ("ApiKey", "key", "the key itself is never written down: give its `sha256`"),
    ("ApiKey", "secret", "the key itself is never written down: give its `sha256`"),
    ("ApiKey", "hash", "here it is called `sha256`"),
    ("ApiKey", "role", "here it is `roles: [...]`"),
    ("Listen", "cert", "it belongs under `tls`"),
    ("Listen", "key", "it belongs under `tls`"),
    ("Tls", "certificate", "here it is called `cert`"),
    ("Tls", "private_key", "here it is called `key`"),
    ("Tls", "ca", "here it is called `client_ca`"),
    ("Auth", "mtls", "here it is called `certificates`"),
    ("Certificate", "principal", "here it is called `subject`"),
    ("Certificate", "role", "here it is `roles: [...]`"),
    ("Role", "tools", "it belongs under `allow` or `deny`"),
    ("Role", "servers", "it belongs under `allow` or `deny`"),
    ("RbacRule", "condition", "here it is called `when`"),
    ("RbacRule", "if", "here it is called `when`"),
    ("RateRule", "rate", "here it is called `limit`"),
    ("RateRule", "tools", "it belongs under `match`"),
    ("Redis", "host", "it is a part of `url`"),
    ("CustomPattern", "pattern", "here it is called `regex`"),
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
    let elsewhere = ELSEWHERE.iter().any(|(of, there, _)| *of == name && *there == key && key != "inputs");
    let later = LATER.iter().any(|(of, later)| *of == name && later.contains(&key) && key != "agent");
    let known = elsewhere || later || nearest(keys, key).is_some() || home(name, key).is_some();
    !known && (name != "Server" || !is_access(key))
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
pub(super) fn is_later_server(key: &str) -> bool {
    LATER.iter().any(|(name, keys)| *name == "Server" && keys.contains(&key))
}

/// Whether a key that was written is this one, or was probably meant to be.
pub(super) fn is_meant(key: &str, written: &str) -> bool {
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
    if LATER.iter().any(|(of, later)| *of == name && later.contains(&key)) {
        return (format!("`{key}` is not available in this version"), NOT_YET.into(), String::new());
    }
    let message = format!("unknown key `{key}`");
    if let Some((.., here)) = ELSEWHERE.iter().find(|(of, there, _)| *of == name && *there == key) {
        return (message, (*here).into(), String::new());
    }
    if let Some(near) = nearest(keys, key) {
        return (message, format!("did you mean `{near}`?"), String::new());
    }
    if let Some(home) = home(name, key) {
        return (message, format!("it belongs under `{home}`"), String::new());
    }
    (message, "no such key here".into(), format!("known keys: {}", keys.join(", ")))
}

/// What is wrong with a word and what is expected, for an enum that does not have it.
pub(super) fn unknown_word(name: &str, words: &[&str], word: &str) -> (String, String) {
    if LATER_WORDS.contains(&(name, word)) {
        return (format!("`{word}` is not available in this version"), format!("expected {}", one_of(words)));
    }
    if (name, word) == ("Algorithm", "none") {
        return ("tokens without a signature are never taken".into(), format!("expected {}", one_of(words)));
    }
    match nearest(words, word) {
        Some(near) => ("not a known word".into(), format!("did you mean `{near}`?")),
        None => ("not a known word".into(), format!("expected {}", one_of(words))),
    }
}

/// What is expected in the place of a name that none of these is; `none` is what to say if there are none.
pub(super) fn meant(names: &[&str], name: &str, none: &str) -> String {
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
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => format!("`{}` or `{last}`", first.join("`, `")),
    }
}

/// The part of the config that has this key, for one that was written at the top.
fn home(name: &str, key: &str) -> Option<&'static str> {
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
fn nearest<'w>(words: &[&'w str], word: &str) -> Option<&'w str> {
    let bare = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let wanted = bare(word);
    let distance = |known: &str| strsim::damerau_levenshtein(&bare(known), &wanted);
    let (near, distance) = words.iter().map(|known| (*known, distance(known))).min_by_key(|(_, far)| *far)?;
    // A third of the word may be wrong: `url` is not `env`.
    (distance <= near.len().min(word.len()) / 3 && distance <= 3).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_one_that_may_have_been_meant() {
        let words = ["address", "mcpServers", "max_body", "url", "env", "args", "command", "limits"];
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
            assert_eq!(nearest(&words, word), near, "{word}");
        }
    }
}
