//! What goes on is what was judged: another reader finds in the rebuilt bytes the method, the id and the arguments
//! that stood in the body, the server's own name, and nothing else that is new. The same after secrets were taken out.
#![no_main]

use std::sync::LazyLock;

use bytes::BytesMut;
use filters::agree::{decode, encode, quote};
use filters::guard::{Detector, Redactor};
use filters::{rebuild, rpc};
use fuzz::json::{Members, members, text};
use fuzz::{cut, number};
use libfuzzer_sys::fuzz_target;

static REDACTOR: LazyLock<Redactor> =
    LazyLock::new(|| Redactor::new(&Detector::ALL, &[]).expect("detectors without patterns of one's own"));

fuzz_target!(|data: &[u8]| {
    let (word, mut body) = cut(data, 0);
    let word = String::from_utf8_lossy(word);
    assert_eq!(serde_json::from_str::<String>(&quote(&word)).expect("a JSON string"), word);
    assert_eq!(decode(&encode(&word)).as_deref(), Some(&*word));
    let spare = number(&mut body);
    let Ok(read) = rpc::read(body, 64) else { return };
    let before = members(body).expect("an object");
    if let Some(name) = read.name {
        // Room behind the body or none: the splice moves the one or the other side.
        let mut buffer = BytesMut::with_capacity(body.len() + spare);
        buffer.extend_from_slice(body);
        let sent = rebuild::rename(buffer, name.span, &word);
        let again = rpc::read(&sent, 64).expect("what is sent is as sound as what came");
        assert_eq!(again.name.map(|n| n.read(&sent).into_owned()).as_deref(), Some(&*word));
        let after = members(&sent).expect("an object");
        same(&before, &after, "params");
        let (before, after) = (inner(&before), inner(&after));
        same(&before, &after, "name");
        assert_eq!(text(&after, "name").as_deref(), Some(&*word));
        // All else is equal to the byte.
        assert_eq!(sent[..name.span.start], body[..name.span.start]);
        assert!(sent.ends_with(&body[name.span.end..]));
        assert_eq!(sent.len(), body.len() - name.span.len() + quote(&word).len());
    }
    if let Some(arguments) = read.arguments
        && let Ok(Some((clean, _))) = REDACTOR.redact_at(body, arguments)
    {
        let again = rpc::read(&clean, 64).expect("a message without its secrets is a message");
        let after = members(&clean).expect("an object");
        same(&before, &after, "params");
        same(&inner(&before), &inner(&after), "arguments");
        let arguments = again.arguments.expect("they are still there");
        let found = REDACTOR.scan(arguments.of(&clean)).expect("sound JSON");
        assert!(found.is_empty(), "something was left: {found}");
    }
});

/// The same members in the same order, to the byte, but for one.
fn same(before: &Members<'_>, after: &Members<'_>, but: &str) {
    assert_eq!(before.0.len(), after.0.len());
    for ((key, value), (new_key, new_value)) in before.0.iter().zip(&after.0) {
        assert_eq!(key, new_key);
        if key != but {
            assert_eq!(value.get(), new_value.get(), "{key}");
        }
    }
}

fn inner<'a>(top: &Members<'a>) -> Members<'a> {
    members(top.get("params").expect("there are params").as_bytes()).expect("params are an object")
}
