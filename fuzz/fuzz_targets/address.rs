//! What comes back from strangers: ids of requests and events, cursors, entries of lists, messages of servers. What was
//! given out leads home, what was not leads nowhere, and no bytes make anything panic.
#![no_main]

use bytes::Bytes;
use fuzz::cut;
use fuzz::json::{at, is_json, members, same_but};
use libfuzzer_sys::fuzz_target;
use mcp::jsonrpc::message;
use mcp::jsonrpc::request;
use mcp::method::Method;
use toolgate::catalog::{Kind, Page};
use toolgate::session::id_map;

/// The number of a seat.
const SEAT: u64 = 7;

fuzz_target!(|data: &[u8]| {
    let (id, message) = cut(data, 0);
    requests(id);
    messages(message);
    messages(id);
    announcements(&Bytes::copy_from_slice(message));
    events(&String::from_utf8_lossy(id));
    for kind in Kind::ALL {
        lists(&Bytes::copy_from_slice(message), kind);
    }
    assert_eq!(message::same_id(id, message), message::same_id(message, id));
});

/// A client answers with an id: whatever leads home was made by `return_address`.
fn requests(id: &[u8]) {
    if !is_json(id) {
        return;
    }
    let Some((seat, own)) = id_map::home(id) else { return };
    let said: String = serde_json::from_slice(id).expect("only strings lead home");
    assert_eq!(said, format!("tg:{seat}:{own}"), "two ids for one place");
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
    let moved = id_map::return_address(message, &read, SEAT);
    let there = message::read(&moved).expect("a message with another id");
    let place = there.id.expect("it has one");
    // What the client takes for an id, it can answer under; and that leads to the server's own.
    let whole = request::read(message, 64).is_ok();
    match id_map::home(place.of(&moved)) {
        Some((seat, own)) => {
            assert_eq!(seat, SEAT);
            assert!(message::same_id(own.as_bytes(), id.of(message)));
        }
        None => assert!(!whole, "an id that does not lead home"),
    }
    same_but(message, &moved, &[&["id"], &["params", "_meta", "progressToken"]]);
    let token = |text| at(text, &["params", "_meta", "progressToken"]);
    assert_eq!(token(message).is_some(), token(&moved).is_some());
    if let (Some(own), Some(said)) = (token(message), token(&moved)) {
        let said: String = serde_json::from_str(said).expect("a string");
        assert_eq!(said, format!("tg:{SEAT}:{own}"));
    }
    let _ = message::is_news_of_lists(message);
}

/// What of an announcement reaches a client: as it was, but for an id that leads back.
fn announcements(message: &Bytes) {
    let Some(read) = message::read(message) else { return };
    let Some(method) = read.method.map(|method| method.read(message)) else { return };
    let known = Method::of(&method);
    match id_map::Matter::of(message, &read, known) {
        id_map::Matter::Asks(id) => assert_eq!(Some(id), read.id),
        id_map::Matter::Withdraws(id) => {
            assert_eq!(method, id_map::CANCELLED);
            let moved = id_map::marked(message, id, SEAT);
            same_but(message, &moved, &[&["params", "requestId"]]);
            let id = |text| at(text, &["params", "requestId"]);
            if let (Some(own), Some(said)) = (id(message), id(&moved)) {
                let said: String = serde_json::from_str(said).expect("a string");
                assert_eq!(said, format!("tg:{SEAT}:{own}"));
            }
        }
        id_map::Matter::Lists => assert!(known.is_list_changed()),
        id_map::Matter::Progresses(place) => {
            assert_eq!(known, Method::Progress);
            assert!(is_json(place.of(message)));
        }
        id_map::Matter::Other => assert!(read.id.is_none() && !known.is_list_changed()),
    }
}

fn events(id: &str) {
    let given = id_map::event_id(id, SEAT);
    assert_eq!(id_map::event_home(&given), Some((SEAT, id)));
    if let Some((serial, own)) = id_map::event_home(id) {
        assert_eq!(id, format!("tg:{serial}:{own}"), "two ids for one place");
    }
}

/// A server's list: each entry is kept as it was written, and under another name all but the name is.
fn lists(result: &Bytes, kind: Kind) {
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
