//! Any bytes as a message: never a panic, and what is accepted says to another reader, strict or lax, what it says
//! to us.
#![no_main]

use filters::json::{Flaw, Reader};
use filters::rpc::{self, Kind, Rpc, Why};
use fuzz::json::{Members, is_json, lax, members, text};
use libfuzzer_sys::fuzz_target;

const DEPTH: usize = 64;

fuzz_target!(|body: &[u8]| {
    let apart = !reader(body);
    match rpc::read(body, DEPTH) {
        Ok(rpc) => same_reading(body, &rpc),
        Err(unreadable) => {
            let _ = unreadable.why.to_string();
            match unreadable.why {
                Why::Json(fault) if apart || fault.what == Flaw::Depth => assert!(fault.at <= body.len()),
                Why::Json(fault) => {
                    assert!(fault.at <= body.len());
                    assert!(!is_json(body), "JSON was refused as none: {fault}");
                }
                _ => assert!(is_json(body), "what is no JSON was called something else"),
            }
            if let Some(id) = unreadable.id {
                assert!(is_json(id.of(body)));
            }
        }
    }
});

/// The reader under all of this takes JSON and nothing else. False where it refuses more than the standard does, on
/// purpose: an unpaired surrogate is grammar, and nesting has no bound.
fn reader(text: &[u8]) -> bool {
    let read = Reader::new(text, 512).and_then(|mut r| {
        let span = r.value()?;
        r.end().map(|()| span)
    });
    match read {
        Ok(span) => assert!(is_json(text) && is_json(span.of(text))),
        Err(fault) if matches!(fault.what, Flaw::Escape | Flaw::Depth) => return false,
        Err(fault) => assert!(!is_json(text), "{fault}"),
    }
    true
}

fn same_reading(body: &[u8], rpc: &Rpc) {
    let top = members(body).expect("what is accepted is an object");
    lax(&top, &["jsonrpc", "id", "method", "params", "result", "error"]);
    assert_eq!(text(&top, "jsonrpc").as_deref(), Some("2.0"));
    assert_eq!(text(&top, "method"), rpc.method.map(|m| m.read(body).into_owned()));
    raw(&top, "id", rpc.id.map(|id| id.of(body)));
    raw(&top, "params", rpc.params.map(|params| params.of(body)));
    let kind = match (top.get("method"), top.get("id")) {
        (Some(_), Some(_)) => Kind::Request,
        (Some(_), None) => Kind::Notification,
        (None, _) => Kind::Response,
    };
    assert_eq!(kind, rpc.kind);
    let Some(params) = rpc.params else {
        assert!(rpc.name.is_none() && rpc.arguments.is_none() && rpc.uri.is_none());
        return;
    };
    let params = members(params.of(body)).expect("params are an object");
    lax(&params, &["name", "uri", "arguments", "_meta", "cursor", "ref", "level", "taskId", "requestId"]);
    let words = [
        ("name", rpc.name),
        ("uri", rpc.uri),
        ("cursor", rpc.cursor),
        ("level", rpc.level),
        ("taskId", rpc.task_id),
        ("protocolVersion", rpc.protocol_version),
    ];
    for (key, ours) in words {
        assert_eq!(text(&params, key), ours.map(|t| t.read(body).into_owned()), "params.{key}");
        if let (Some(ours), Some(said)) = (ours, text(&params, key)) {
            assert!(ours.is(body, &said) && !ours.is(body, &format!("{said}x")));
        }
    }
    let values = [
        ("arguments", rpc.arguments),
        ("clientInfo", rpc.client_info),
        ("capabilities", rpc.capabilities),
        ("requestId", rpc.request_id),
        ("notifications", rpc.notifications),
    ];
    for (key, ours) in values {
        raw(&params, key, ours.map(|span| span.of(body)));
    }
    if let Some(meta) = params.get("_meta") {
        let meta = members(meta.as_bytes()).expect("_meta is an object");
        lax(&meta, &[rpc::META_VERSION, rpc::META_CAPABILITIES, rpc::META_CLIENT, "progressToken"]);
        assert_eq!(
            text(&meta, rpc::META_VERSION),
            rpc.meta.protocol_version.map(|v| v.read(body).into_owned())
        );
        raw(&meta, "progressToken", rpc.meta.progress_token.map(|span| span.of(body)));
        raw(&meta, rpc::META_CLIENT, rpc.meta.client_info.map(|span| span.of(body)));
    }
    if let Some(reference) = params.get("ref") {
        let theirs = members(reference.as_bytes()).expect("ref is an object");
        lax(&theirs, &["name", "uri"]);
        let ours = rpc.reference.expect("a ref that is there is read");
        assert_eq!(text(&theirs, "name"), ours.name.map(|t| t.read(body).into_owned()));
        assert_eq!(text(&theirs, "uri"), ours.uri.map(|t| t.read(body).into_owned()));
    }
}

fn raw(theirs: &Members<'_>, key: &str, ours: Option<&[u8]>) {
    let theirs = theirs.get(key).map(|value| value.as_bytes());
    assert_eq!(theirs, ours, "{key}");
}
