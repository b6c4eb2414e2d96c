//! The forwarded message is the authorized one: a strict reader finds in the rebuilt bytes the method, the
//! id and the arguments of the body, the server's own name, and nothing else new. The same holds after
//! redaction, and after removal of client capabilities that cannot be forwarded.
#![no_main]

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use filters::guard::{Detector, Redactor};
use fuzz::json::{Members, at, is_json, members, same_but};
use fuzz::message::{self, CAPABILITIES, DEPTH};
use fuzz::{cut, number};
use libfuzzer_sys::fuzz_target;
use mcp::Span;
use mcp::header_value::{decode, encode};
use mcp::json::quote::quote;
use mcp::json::reader::Text;
use mcp::json::splice;
use mcp::jsonrpc::request;
use mcp::jsonrpc::request::Rpc;

static REDACTOR: LazyLock<Redactor> =
    LazyLock::new(|| Redactor::new(&Detector::ALL, &[]).expect("detectors without patterns of one's own"));

fuzz_target!(|data: &[u8]| {
    let (word, mut body) = cut(data, 0);
    let word = String::from_utf8_lossy(word);
    assert_eq!(serde_json::from_str::<String>(&quote(&word)).expect("a JSON string"), word);
    assert_eq!(decode(&encode(&word)).as_deref(), Some(&*word));
    let spare = number(&mut body);
    without(body, &word);
    let Ok(read) = request::read(body, DEPTH) else { return };
    // A reference names a prompt when its arguments are completed.
    let names = [
        (read.name, &["params", "name"][..]),
        (read.reference.and_then(|reference| reference.name), &["params", "ref", "name"]),
    ];
    for (name, path) in names {
        if let Some(name) = name {
            renamed(body, name, path, &word, spare);
        }
    }
    cleaned(body, &read, &word);
});

fn renamed(body: &[u8], name: Text, path: &[&str], word: &str, spare: usize) {
    // Spare capacity behind the body or none: the splice moves the one or the other side.
    let mut buffer = BytesMut::with_capacity(body.len() + spare);
    buffer.extend_from_slice(body);
    let sent = splice::rename(buffer, name.span, word);
    sound(&sent);
    same_but(body, &sent, &[path]);
    let said = at(&sent, path).expect("a name is still there");
    assert_eq!(serde_json::from_str::<String>(said).expect("a string"), word);
    // The rest is equal byte for byte.
    assert_eq!(sent[..name.span.start], body[..name.span.start]);
    assert!(sent.ends_with(&body[name.span.end..]));
    assert_eq!(sent.len(), body.len() - name.span.len() + quote(word).len());
    // Without an own buffer, and with a shared one, the result is the same.
    assert_eq!(sent, splice::rename(BytesMut::from(body), name.span, word));
    let shared = Bytes::copy_from_slice(body);
    let part = shared.slice(name.span.start..);
    let place = Span { start: 0, end: name.span.len() };
    assert_eq!(splice::rename(BytesMut::from(&part[..]), place, word), sent[name.span.start..]);
}

/// Several values are replaced at once, as when a call is prepared for its server.
fn cleaned(body: &[u8], read: &Rpc, word: &str) {
    let mut edits = Vec::new();
    let mut paths: Vec<&[&str]> = Vec::new();
    let said = [
        (read.arguments, &["params", "arguments"][..]),
        (read.input_responses, &["params", "inputResponses"]),
    ];
    for (place, path) in said {
        let Some(place) = place else { continue };
        if let Some((clean, _)) = REDACTOR.redact(place.of(body)).expect("it was read before") {
            edits.push((place, clean));
            paths.push(path);
        }
    }
    if let Some(place) = read.meta.client_capabilities
        && let Some(rest) = splice::remove_member(place.of(body), word)
    {
        edits.push((place, rest));
        paths.push(&["params", "_meta", CAPABILITIES]);
    }
    if edits.is_empty() {
        return;
    }
    // In any order.
    let clean = splice::replace_spans(body, edits.clone());
    edits.reverse();
    assert_eq!(clean, splice::replace_spans(body, edits));
    sound(&clean);
    same_but(body, &clean, &paths);
    let again = request::read(&clean, DEPTH).expect("it is sound");
    for place in [again.arguments, again.input_responses].into_iter().flatten() {
        let found = REDACTOR.scan(place.of(&clean)).expect("sound JSON");
        assert!(found.is_empty(), "something was left: {found}");
    }
    assert_eq!(again.meta.client_capabilities.is_some(), read.meta.client_capabilities.is_some());
}

/// The sent message is as valid as the received one: for the gateway, and for the strict reader.
fn sound(sent: &[u8]) {
    request::read(sent, DEPTH).expect("what is sent is a message");
    message::read(sent).expect("what is sent is a message for others, too");
}

/// An object loses the members of one name, and no others.
fn without(object: &[u8], name: &str) {
    // It is always a part of what was read.
    if !is_json(object) {
        return;
    }
    let Some(rest) = splice::remove_member(object, name) else { return };
    let (before, after) = (members(object).expect("an object"), members(&rest).expect("an object"));
    let all = |members: &Members<'_>| -> Vec<(String, String)> {
        members.0.iter().map(|(key, value)| (key.clone(), value.get().to_owned())).collect()
    };
    let mut kept = all(&before);
    kept.retain(|(key, _)| key != name);
    assert!(kept.len() < before.0.len());
    assert_eq!(kept, all(&after));
}
