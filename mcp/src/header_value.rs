//! Values of `Mcp-Name` and `Mcp-Param-*` (MCP 2026-07-28, basic/transports/streamable-http). A value that a
//! header cannot carry is sent as `=?base64?…?=`.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Decodes the `=?base64?…?=` form of header values; `None` if it is that form and invalid.
pub fn decode(value: &str) -> Option<Cow<'_, str>> {
    match value.strip_prefix("=?base64?").and_then(|v| v.strip_suffix("?=")) {
        None => Some(Cow::Borrowed(value)),
        Some(inner) => String::from_utf8(STANDARD.decode(inner).ok()?).ok().map(Cow::Owned),
    }
}

/// The value of `Mcp-Name` for a name: the name itself, or the `=?base64?…?=` form if a header cannot carry
/// it or would mistake it for that form.
pub fn encode(name: &str) -> Cow<'_, str> {
    let plain = name.bytes().all(|b| (0x20..0x7f).contains(&b)) && name.trim() == name;
    if plain && !(name.starts_with("=?base64?") && name.ends_with("?=")) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(format!("=?base64?{}?=", STANDARD.encode(name)))
}
