//! Names of servers that are valid in a path and in the name of a tool.

use crate::config::scalar::ScalarValue;
use crate::config::scalar::names::ServerName;

/// Longest name.
const MAX: usize = 32;

/// The name if it is valid; else the nearest valid name.
pub(super) fn slug(name: &str) -> String {
    if ServerName::read(name).is_ok() {
        return name.to_owned();
    }
    let whole = words(name);
    // The end of a path says most: `github.com/example/docs`.
    let slug = if whole.len() <= MAX { whole } else { shorter(name) };
    if slug.is_empty() { "server".to_owned() } else { slug }
}

/// Letters and digits; any other characters become one `-` or `_`.
fn words(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => slug.push(c),
            _ if slug.is_empty() || slug.ends_with(['-', '_']) => {}
            '_' => slug.push('_'),
            _ => slug.push('-'),
        }
    }
    slug.trim_end_matches(['-', '_']).to_owned()
}

fn shorter(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').collect();
    let tails = (1..parts.len()).map(|from| words(&parts[from..].join("/")));
    let fit = tails.filter(|tail| !tail.is_empty()).find(|tail| tail.len() <= MAX);
    fit.unwrap_or_else(|| words(&words(name)[..MAX]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_one_that_can_stand_in_a_path() {
        for (name, wanted) in [
            ("files", "files"),
            ("example.time-server", "example-time-server"),
            ("github.com/example/docs", "github-com-example-docs"),
            ("github.com/modelcontextprotocol/servers/tree/main/src/time", "servers-tree-main-src-time"),
            ("My Team Server", "My-Team-Server"),
            ("@scope/server", "scope-server"),
            ("a__b", "a_b"),
            ("_a-", "a"),
            ("Bücher & mehr", "B-cher-mehr"),
            ("日本", "server"),
            ("", "server"),
            (&"x".repeat(40), &"x".repeat(32)),
            (&"y ".repeat(40), &"y-".repeat(16)[..31]),
        ] {
            let slug = slug(name);
            assert_eq!(slug, wanted, "{name}");
            assert!(ServerName::read(&slug).is_ok(), "{slug}");
        }
    }
}
