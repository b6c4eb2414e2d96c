//! Untrusted values that come back: ids of requests and events, cursors, list entries, messages of servers.
//! Issued values are resolved, others are not, and no bytes make anything panic.
#![no_main]

use bytes::Bytes;
use fuzz::cut;
use fuzz::json::{at, is_json, members, same_but};
use libfuzzer_sys::fuzz_target;
use mcp::jsonrpc::message;
use mcp::jsonrpc::request;
use mcp::method::Method;
use toolgate::catalog::{ListKind, Page};
use toolgate::session::id_map;

/// The id of an upstream session.
const UPSTREAM_SESSION: u64 = 7;

fuzz_target!(|data: &[u8]| {
    let (id, message) = cut(data, 0);
    requests(id);
    messages(message);
    messages(id);
    announcements(&Bytes::copy_from_slice(message));
    events(&String::from_utf8_lossy(id));
    for kind in ListKind::ALL {
        lists(&Bytes::copy_from_slice(message), kind);
    }
    assert_eq!(message::same_id(id, message), message::same_id(message, id));
});

/// A client answers with an id: an id that resolves was made by `tag_request`.
fn requests(id: &[u8]) {
    if !is_json(id) {
        return;
    }
    let Some((session, own)) = id_map::parse_request_id(id) else { return };
    let said: String = serde_json::from_slice(id).expect("only strings lead home");
    assert_eq!(said, format!("tg:{session}:{own}"), "two ids for one place");
    assert!(is_json(own.as_bytes()));
}

fn messages(message: &[u8]) {
    let Some(read) = message::read(message) else { return };
    assert!(is_json(message));
    let all = members(message).expect("an object");
    for (key, ours) in
        [("id", read.id), ("params", read.params), ("result", read.result), ("error", read.error)]
    {
        assert_eq!(all.get(key).map(str::as_bytes), ours.map(|span| span.of(message)), "{key}");
    }
    let Some(id) = read.id else { return };
    let moved = id_map::tag_request(message, &read, UPSTREAM_SESSION);
    let there = message::read(&moved).expect("a message with another id");
    let place = there.id.expect("it has one");
    // The client can answer under the id that it reads; this resolves to the server's own id.
    let whole = request::read(message, 64).is_ok();
    match id_map::parse_request_id(place.of(&moved)) {
        Some((session, own)) => {
            assert_eq!(session, UPSTREAM_SESSION);
            assert!(message::same_id(own.as_bytes(), id.of(message)));
        }
        None => assert!(!whole, "an id that does not lead home"),
    }
    same_but(message, &moved, &[&["id"], &["params", "_meta", "progressToken"]]);
    let token = |text| at(text, &["params", "_meta", "progressToken"]);
    assert_eq!(token(message).is_some(), token(&moved).is_some());
    if let (Some(own), Some(said)) = (token(message), token(&moved)) {
        let said: String = serde_json::from_str(said).expect("a string");
        assert_eq!(said, format!("tg:{UPSTREAM_SESSION}:{own}"));
    }
    let _ = message::is_list_change(message);
}

/// The part of a notification that reaches a client: unchanged, except for an id that can be resolved.
fn announcements(message: &Bytes) {
    let Some(read) = message::read(message) else { return };
    let Some(method) = read.method.map(|method| method.read(message)) else { return };
    let known = Method::parse(&method);
    match id_map::ServerMessageKind::of(message, &read, known) {
        id_map::ServerMessageKind::Request(id) => assert_eq!(Some(id), read.id),
        id_map::ServerMessageKind::Cancelled(id) => {
            assert_eq!(method, id_map::CANCELLED);
            let moved = id_map::tag_id(message, id, UPSTREAM_SESSION);
            same_but(message, &moved, &[&["params", "requestId"]]);
            let id = |text| at(text, &["params", "requestId"]);
            if let (Some(own), Some(said)) = (id(message), id(&moved)) {
                let said: String = serde_json::from_str(said).expect("a string");
                assert_eq!(said, format!("tg:{UPSTREAM_SESSION}:{own}"));
            }
        }
        id_map::ServerMessageKind::ListChanged => assert!(known.is_list_changed()),
        id_map::ServerMessageKind::Progress(place) => {
            assert_eq!(known, Method::Progress);
            assert!(is_json(place.of(message)));
        }
        id_map::ServerMessageKind::Other => assert!(read.id.is_none() && !known.is_list_changed()),
    }
}

fn events(id: &str) {
    let given = id_map::event_id(id, UPSTREAM_SESSION);
    assert_eq!(id_map::parse_event_id(&given), Some((UPSTREAM_SESSION, id)));
    if let Some((serial, own)) = id_map::parse_event_id(id) {
        assert_eq!(id, format!("tg:{serial}:{own}"), "two ids for one place");
    }
}

/// A server's list: each entry is kept as it was written; after a rename everything but the name is.
fn lists(result: &Bytes, kind: ListKind) {
    let Ok(page) = Page::read(result, kind) else { return };
    for item in &page.items {
        assert!(!item.key.is_empty());
        let before = members(item.definition()).expect("an entry is an object");
        assert_eq!(fuzz::json::text(&before, kind.key()).as_deref(), Some(item.key.as_str()));
        let renamed = item.renamed("files__\"x\"");
        let after = members(&renamed).expect("an entry is an object");
        assert_eq!(fuzz::json::text(&after, kind.key()).as_deref(), Some("files__\"x\""));
        for ((key, value), (new_key, new_value)) in before.0.iter().zip(&after.0) {
            assert_eq!(key, new_key);
            assert!(key == kind.key() || value.get() == new_value.get());
        }
    }
}
