//! Any bytes as a message: never a panic. Accepted bytes are accepted by a strict reader too, with the same
//! meaning.
#![no_main]

use fuzz::json::{Members, is_json, members, text};
use fuzz::message::{self, DEPTH, Message};
use libfuzzer_sys::fuzz_target;
use mcp::json::reader::{JsonErrorKind, JsonReader, Span, Text};
use mcp::jsonrpc::request;
use mcp::jsonrpc::request::{MessageKind, ParseErrorKind, Rpc};

fuzz_target!(|body: &[u8]| {
    let apart = !reader(body);
    match (request::read(body, DEPTH), message::read(body)) {
        (Ok(rpc), Some(theirs)) => same_reading(body, &rpc, &theirs),
        (Ok(_), None) => panic!("a strict reader refuses what was accepted"),
        (Err(unreadable), Some(_)) => panic!("a strict reader accepts what was refused: {}", unreadable.kind),
        (Err(unreadable), None) => {
            let _ = unreadable.kind.to_string();
            match unreadable.kind {
                ParseErrorKind::Json(fault) if apart || fault.kind == JsonErrorKind::Depth => {
                    assert!(fault.at <= body.len())
                }
                ParseErrorKind::Json(fault) => {
                    assert!(fault.at <= body.len());
                    assert!(!is_json(body), "JSON was refused as none: {fault}");
                }
                _ => assert!(is_json(body), "what is no JSON was called something else"),
            }
            // A rejection uses the id that a strict reader would find, or none.
            if let Some(id) = unreadable.id {
                assert_eq!(message::id(body).map(str::as_bytes), Some(id.of(body)));
            }
        }
    }
});

/// The underlying reader accepts JSON and nothing else. False where it rejects more than the standard, on
/// purpose: an unpaired surrogate is grammatical, and nesting has no bound.
fn reader(text: &[u8]) -> bool {
    let read = JsonReader::new(text, 512).and_then(|mut r| {
        let span = r.value()?;
        r.end().map(|()| span)
    });
    match read {
        Ok(span) => assert!(is_json(text) && is_json(span.of(text))),
        Err(fault) if matches!(fault.kind, JsonErrorKind::Escape | JsonErrorKind::Depth) => return false,
        Err(fault) => assert!(!is_json(text), "{fault}"),
    }
    true
}

fn same_reading(body: &[u8], rpc: &Rpc, theirs: &Message<'_>) {
    let kind = match rpc.kind {
        MessageKind::Request => message::Kind::Request,
        MessageKind::Notification => message::Kind::Notification,
        MessageKind::Response => message::Kind::Response,
    };
    assert_eq!(theirs.kind, kind);
    let top = Side { body, theirs: Some(&theirs.top) };
    top.says("method", rpc.method);
    top.holds("id", rpc.id);
    top.holds("params", rpc.params);
    assert_eq!(rpc.method_name(body), text(&theirs.top, "method").unwrap_or_default());
    let params = Side { body, theirs: theirs.params.as_ref() };
    params.says("name", rpc.name);
    params.says("uri", rpc.uri);
    params.says("cursor", rpc.cursor);
    params.says("level", rpc.level);
    params.says("taskId", rpc.task_id);
    params.says("protocolVersion", rpc.protocol_version);
    params.holds("arguments", rpc.arguments);
    params.holds("clientInfo", rpc.client_info);
    params.holds("capabilities", rpc.capabilities);
    params.holds("requestId", rpc.request_id);
    params.holds("notifications", rpc.notifications);
    params.holds("inputResponses", rpc.input_responses);
    let meta = Side { body, theirs: theirs.meta.as_ref() };
    meta.says(message::VERSION, rpc.meta.protocol_version);
    meta.holds(message::CLIENT, rpc.meta.client_info);
    meta.holds("progressToken", rpc.meta.progress_token);
    // A value that is no object says nothing about the client's capabilities.
    let able = theirs.meta.as_ref().and_then(|meta| meta.get(message::CAPABILITIES));
    let able = able.filter(|value| members(value.as_bytes()).is_some());
    assert_eq!(able.map(str::as_bytes), rpc.meta.client_capabilities.map(|place| place.of(body)));
    assert_eq!(theirs.reference.is_some(), rpc.reference.is_some());
    let reference = Side { body, theirs: theirs.reference.as_ref() };
    reference.says("name", rpc.reference.and_then(|reference| reference.name));
    reference.says("uri", rpc.reference.and_then(|reference| reference.uri));
}

/// One object as the other reader has it, if it exists.
struct Side<'a> {
    body: &'a [u8],
    theirs: Option<&'a Members<'a>>,
}

impl Side<'_> {
    /// The same string, or none.
    fn says(&self, key: &str, ours: Option<Text>) {
        let theirs = self.theirs.and_then(|theirs| text(theirs, key));
        assert_eq!(theirs, ours.map(|ours| ours.read(self.body).into_owned()), "{key}");
        if let (Some(ours), Some(said)) = (ours, theirs) {
            assert!(ours.is(self.body, &said) && !ours.is(self.body, &format!("{said}x")));
            assert_eq!(*ours.bytes(self.body), *said.as_bytes());
        }
        self.holds(key, ours.map(|ours| ours.span));
    }

    /// The same span, or none.
    fn holds(&self, key: &str, ours: Option<Span>) {
        let theirs = self.theirs.and_then(|theirs| theirs.get(key)).map(str::as_bytes);
        let ours = ours.map(|ours| ours.of(self.body));
        assert_eq!(theirs, ours, "{key}");
        assert_eq!(theirs.map(<[u8]>::as_ptr), ours.map(<[u8]>::as_ptr), "{key} stands elsewhere");
    }
}
