//! The variables and fields of conditions.

/// The fields of `caller`, `call` and `server`.
pub(super) fn fields(variable: &str) -> Option<&'static [&'static str]> {
    match variable {
        "caller" => Some(&["user", "tenant", "roles", "scopes", "via", "key", "issuer", "ip", "claims"]),
        "call" => Some(&["method", "tool", "prompt", "resource", "args"]),
        "server" => Some(&["name"]),
        _ => None,
    }
}
