//! The credentials in the head of a request: `Authorization: Bearer …` (RFC 6750 §2.1) or `X-API-Key: …`,
//! once.
//!
//! Tokens in a query or a body are ignored: they end up in logs (MCP, basic/authorization, forbids them).

use http::HeaderName;
use http::header::AUTHORIZATION;

use crate::request::{AmbiguousHeader, RequestHead};

pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Longest token or key, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// The credentials of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Credentials<'a> {
    None,
    /// Only its presence is checked: see [`is_token`].
    Bearer(&'a str),
    Key(&'a str),
}

/// Why the credentials are ambiguous or unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CredentialsError {
    /// A scheme other than Bearer. By RFC 6750 §3 this counts as no credentials, but the caller is not
    /// anonymous.
    Scheme,
    /// "Repeats the same parameter, uses more than one method […] or is otherwise malformed" (RFC 6750 §3.1).
    Request(&'static str),
}

pub(super) fn read<'a>(head: &RequestHead<'a>) -> Result<Credentials<'a>, CredentialsError> {
    // Headers of a caller inside the process have no meaning.
    if !head.is_network {
        return Ok(Credentials::None);
    }
    let bearer = head.single(&AUTHORIZATION).map_err(|AmbiguousHeader| {
        CredentialsError::Request("the header Authorization must stand once, in visible ASCII")
    })?;
    let key = head.single(&API_KEY).map_err(|AmbiguousHeader| {
        CredentialsError::Request("the header X-API-Key must stand once, in visible ASCII")
    })?;
    match (bearer, key) {
        (None, None) => Ok(Credentials::None),
        (Some(value), None) => scheme(value),
        (None, Some(key)) if is_key(key) => Ok(Credentials::Key(key)),
        (None, Some(_)) => Err(CredentialsError::Request("the header X-API-Key must hold one key")),
        (Some(_), Some(_)) => {
            Err(CredentialsError::Request("send either Authorization or X-API-Key, not both"))
        }
    }
}

fn scheme(value: &str) -> Result<Credentials<'_>, CredentialsError> {
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(CredentialsError::Scheme);
    }
    match token.trim_start_matches(' ') {
        "" => Err(CredentialsError::Request("the header Authorization holds no token")),
        token => Ok(Credentials::Bearer(token)),
    }
}

/// Whether this is one `token68` (RFC 9110 §11.2).
pub(super) fn is_token(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
    !body.is_empty() && body.bytes().all(fits)
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= MAX_TOKEN && key.bytes().all(|b| b.is_ascii_graphic())
}
