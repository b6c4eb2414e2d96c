//! The user in the claims of a verified token: name, tenant, roles and scopes, at configured paths. It checks
//! no signature and no time: the token is already verified.

use serde_json::{Map, Value};

use super::jwt::TokenError;
use crate::request::{AuthMethod, Identity};

/// Most roles, and most scopes, of one token. More is refused, not cut: among those cut off could be the role
/// that denies.
pub const MAX_NAMES: usize = 512;
/// Longest user or tenant name, in bytes.
pub const MAX_NAME: usize = 256;

/// The path of a claim: its whole name (`https://x.example/roles`) or names with dots between them
/// (`realm_access.roles`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPaths {
    pub user: String,
    pub roles: String,
    pub scopes: String,
    pub tenant: Option<String>,
}

impl Default for ClaimPaths {
    fn default() -> Self {
        Self { user: "sub".into(), roles: "roles".into(), scopes: "scope".into(), tenant: None }
    }
}

impl ClaimPaths {
    /// The identity that the claims describe.
    pub(super) fn read(&self, issuer: &str, claims: Map<String, Value>) -> Result<Identity, TokenError> {
        let user = find(&claims, &self.user).ok_or(TokenError::Missing("the claim that names the user"))?;
        let user =
            name(user).ok_or(TokenError::Malformed("the claim that names the user is not a plain name"))?;
        let tenant = match self.tenant.as_deref().and_then(|path| find(&claims, path)) {
            None => None,
            Some(tenant) => Some(
                name(tenant)
                    .ok_or(TokenError::Malformed("the claim that names the tenant is not a plain name"))?,
            ),
        };
        let roles = names(find(&claims, &self.roles), false)
            .ok_or(TokenError::Malformed("the claim of roles is not a list of at most 512 names"))?;
        let scopes = names(find(&claims, &self.scopes), true)
            .ok_or(TokenError::Malformed("the claim of scopes is not a list of at most 512 names"))?;
        Ok(Identity {
            user,
            tenant,
            roles,
            scopes,
            auth_method: AuthMethod::Jwt,
            issuer: Some(issuer.to_owned()),
            api_key_id: None,
            claims,
        })
    }
}

/// The value at a path. A claim with that whole name takes precedence over a nested one; `null` is no value.
fn find<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let found = claims.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        rest.split('.').try_fold(claims.get(first)?, |value, key| value.get(key))
    });
    found.filter(|value| !value.is_null())
}

/// A name for logs and limits: not empty, not too long, and without characters that hide or reorder text.
fn name(value: &Value) -> Option<String> {
    match value {
        Value::String(name) if is_plain(name) => Some(name.clone()),
        Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.to_string()),
        _ => None,
    }
}

fn is_plain(name: &str) -> bool {
    let hides = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    !name.trim().is_empty() && name.len() <= MAX_NAME && !name.chars().any(hides)
}

/// A list of strings, or one string (with `split`: several, with spaces between them, RFC 6749 §3.3); sorted,
/// each once. Absent is empty.
fn names(value: Option<&Value>, split: bool) -> Option<Vec<String>> {
    let names: Vec<&str> = match value {
        None => Vec::new(),
        Some(Value::String(all)) if split => all.split(' ').collect(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(list)) => list.iter().map(Value::as_str).collect::<Option<_>>()?,
        Some(_) => return None,
    };
    let names = names.into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let names = sorted_unique(names);
    (names.len() <= MAX_NAMES).then_some(names)
}

/// Sorted, each once.
pub(super) fn sorted_unique(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn a_whole_name_goes_before_a_path() {
        let claims =
            claims(json!({"a.b": 1, "a": {"b": 2, "c": {"d": 3}}, "https://x.y/roles": 4, "n": null}));
        for (path, found) in [("a.b", Some(1)), ("a.c.d", Some(3)), ("https://x.y/roles", Some(4))] {
            assert_eq!(find(&claims, path).and_then(Value::as_i64), found, "{path}");
        }
        for path in ["n", "a.", ".a", "a..b", "a.c.d.e", "", "b"] {
            assert_eq!(find(&claims, path), None, "{path}");
        }
    }

    #[test]
    fn a_name_is_text_that_can_be_shown_or_a_whole_number() {
        for (value, expected) in [
            (json!("ada"), Some("ada")),
            (json!("Ada Lovelace"), Some("Ada Lovelace")),
            (json!("auth0|5f7c"), Some("auth0|5f7c")),
            (json!("Zoë 🦀"), Some("Zoë 🦀")),
            (json!(42), Some("42")),
            (json!(-7), Some("-7")),
            (json!(u64::MAX), Some("18446744073709551615")),
        ] {
            assert_eq!(name(&value).as_deref(), expected, "{value}");
        }
        for value in [
            json!(""),
            json!("  "),
            json!("a\nb"),
            json!("a\u{0}"),
            json!("a\u{85}"),
            json!("abc\u{202e}nimda"),
            json!("ad\u{200b}min"),
            json!("x".repeat(257)),
            json!(1.5),
            json!(true),
            json!(["ada"]),
            json!({"name": "ada"}),
        ] {
            assert_eq!(name(&value), None, "{value}");
        }
    }

    #[test]
    fn names_come_as_a_list_or_as_one_string() {
        let read = |value: Value, split| names(Some(&value), split);
        assert_eq!(read(json!("b a  b"), true), Some(vec!["a".into(), "b".into()]));
        assert_eq!(read(json!("b a"), false), Some(vec!["b a".into()]));
        assert_eq!(read(json!(["b", "a", ""]), false), Some(vec!["a".into(), "b".into()]));
        assert_eq!(names(None, true), Some(vec![]));
        for value in [json!(["a", 1]), json!({"a": true}), json!(1), json!([["a"]])] {
            assert_eq!(read(value.clone(), true), None, "{value}");
        }
        let many: Vec<String> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
        assert_eq!(read(json!(many), false), None);
    }
}
