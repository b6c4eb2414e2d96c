//! A client's message as a strict reader reads it: JSON-RPC 2.0 §4 and §5, the shapes of the MCP schema,
//! and what Toolgate's README says that it rejects: everything that two readers could read as two messages.

use crate::json::{Members, depth, has_halves, is_clear, members, text};

/// Maximum nesting of a message.
pub const DEPTH: usize = 64;
const MOST_MEMBERS: usize = 128;
const LONGEST_ID: usize = 1024;

const TOP: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
const STRINGS: &[&str] = &["name", "uri", "cursor", "level", "taskId", "protocolVersion"];
const OBJECTS: &[&str] = &["arguments", "clientInfo", "capabilities", "ref", "_meta"];
const OTHERS: &[&str] = &["requestId", "notifications", "inputResponses", "requestState"];
const REFERENCE: &[&str] = &["type", "name", "uri"];
pub const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub const CLIENT: &str = "io.modelcontextprotocol/clientInfo";
const META: &[&str] = &[VERSION, CAPABILITIES, CLIENT, "io.modelcontextprotocol/logLevel", "progressToken"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Notification,
    Response,
}

/// The objects of a message that are parsed.
pub struct Message<'a> {
    pub kind: Kind,
    pub top: Members<'a>,
    pub params: Option<Members<'a>>,
    pub meta: Option<Members<'a>>,
    pub reference: Option<Members<'a>>,
}

/// Reads a message; `None` for what is none.
pub fn read(body: &[u8]) -> Option<Message<'_>> {
    let top = members(body).filter(|_| depth(body) <= DEPTH && !has_halves(body))?;
    if !is_sound(&top, &[TOP]) || text(&top, "jsonrpc").as_deref() != Some("2.0") {
        return None;
    }
    let method = top.get("method").is_some();
    if method && text(&top, "method").is_none() || top.get("id").is_some_and(|id| !is_id(id)) {
        return None;
    }
    let outcomes = ["result", "error"].iter().filter(|key| top.get(key).is_some()).count();
    let kind = match (method, top.get("id").is_some(), outcomes) {
        (true, true, 0) => Kind::Request,
        (true, false, 0) => Kind::Notification,
        (false, _, 1) => Kind::Response,
        _ => return None,
    };
    let mut message = Message { kind, top, params: None, meta: None, reference: None };
    let Some(params) = message.top.get("params") else { return Some(message) };
    let params = members(params.as_bytes()).filter(|all| is_sound(all, &[STRINGS, OBJECTS, OTHERS]))?;
    if !are_strings(&params, STRINGS) {
        return None;
    }
    if OBJECTS.iter().any(|key| params.get(key).is_some_and(|value| !value.starts_with('{'))) {
        return None;
    }
    let inner = |key: &str| params.get(key).map(|raw| members(raw.as_bytes()).expect("it is an object"));
    (message.meta, message.reference) = (inner("_meta"), inner("ref"));
    message.params = Some(params);
    let meta =
        message.meta.as_ref().is_none_or(|meta| is_sound(meta, &[META]) && are_strings(meta, &[VERSION]));
    let reference = message.reference.as_ref();
    let reference =
        reference.is_none_or(|all| is_sound(all, &[REFERENCE]) && are_strings(all, &["name", "uri"]));
    (meta && reference).then_some(message)
}

/// The id of a possible message, if it is determinable: there is one, and it is a valid id.
pub fn id(body: &[u8]) -> Option<&str> {
    let top = members(body)?;
    let mut ids = top.0.iter().filter(|(key, _)| key == "id").map(|(_, id)| id.get());
    ids.next().filter(|id| is_id(id) && ids.next().is_none())
}

fn is_id(raw: &str) -> bool {
    let whole = raw.strip_prefix('-').unwrap_or(raw).bytes().all(|b| b.is_ascii_digit());
    (raw.starts_with('"') || whole) && raw.len() <= LONGEST_ID
}

fn are_strings(all: &Members<'_>, keys: &[&str]) -> bool {
    keys.iter().all(|key| all.get(key).is_none_or(|value| value.starts_with('"')))
}

/// No reader takes another member for a known one, even if it ignores case or accepts duplicate keys.
fn is_sound(all: &Members<'_>, known: &[&[&str]]) -> bool {
    let is_known = |key: &str| known.iter().any(|list| list.contains(&key));
    let looks_known = |key: &str| known.iter().any(|list| list.iter().any(|word| looks_like(key, word)));
    let odd = |key: &str| !is_known(key) && looks_known(key);
    all.0.len() <= MOST_MEMBERS && is_clear(all) && !all.0.iter().any(|(key, _)| odd(key))
}

/// The same letters in another case: by Unicode's full mappings (`ß` is `SS`), or by the Turkish ones.
fn looks_like(key: &str, word: &str) -> bool {
    let plain = key.replace(['İ', 'ı'], "i").replace('ẞ', "ss");
    plain.to_uppercase().to_lowercase() == word.to_lowercase()
}
