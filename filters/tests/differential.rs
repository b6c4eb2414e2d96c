//! The reader against an independent one. What it accepts is JSON, what it rejects is not (except for
//! deliberate rejections), and the other reader reads the same values at its places.

use mcp::json::reader::{JsonErrorKind, JsonReader};
use mcp::json::splice::rename;
use mcp::jsonrpc::request;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

fn reader_accepts(text: &[u8]) -> Result<(), mcp::json::reader::JsonError> {
    let mut reader = JsonReader::new(text, 128)?;
    reader.value()?;
    reader.end()
}

/// serde_json without building numbers: its `RawValue` has the grammar only.
fn other_accepts(text: &[u8]) -> bool {
    serde_json::from_slice::<Box<RawValue>>(text).is_ok()
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("JSON has no NaN", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        ".*".prop_map(|s| serde_json::to_string(&s).expect("a string")),
        Just(r#""\u00e9\ud83d\ude00\n\/""#.to_owned()),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|v| format!("[{}]", v.join(" ,\n"))),
            prop::collection::vec((".{0,8}", inner), 0..6).prop_map(|v| {
                let members: Vec<String> = v
                    .into_iter()
                    .map(|(k, v)| format!("{} : {v}", serde_json::to_string(&k).expect("a key")))
                    .collect();
                format!("{{ {} }}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn valid_texts_are_accepted(text in json()) {
        prop_assert_eq!(reader_accepts(text.as_bytes()), Ok(()));
    }

    #[test]
    fn damaged_texts_get_the_same_result_as_from_the_other_reader(
        text in json(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at); } else { bytes[at] = byte; }
        let ours = reader_accepts(&bytes);
        let theirs = other_accepts(&bytes);
        match ours {
            // Unpaired surrogates pass their grammar and not ours.
            Err(fault) if fault.kind == JsonErrorKind::Escape => {}
            ours => prop_assert_eq!(ours.is_ok(), theirs, "{:?} {:?}", ours, String::from_utf8_lossy(&bytes)),
        }
    }

    #[test]
    fn noise_gets_the_same_result_as_from_the_other_reader(text in r#"[\[\]{}:,"\\0-9eE+\-. truefalsn\n]{0,40}"#) {
        let ours = reader_accepts(text.as_bytes());
        if !matches!(ours, Err(fault) if fault.kind == JsonErrorKind::Escape) {
            prop_assert_eq!(ours.is_ok(), other_accepts(text.as_bytes()), "{:?} {:?}", ours, text);
        }
    }

    #[test]
    fn the_sent_message_is_the_checked_one(
        method in "[a-z/]{1,20}", name in ".{1,40}", new in ".{1,80}", arguments in json(), last in any::<bool>(), escaped in any::<bool>(),
    ) {
        let quoted = |s: &str| {
            if escaped {
                let units: String = s.encode_utf16().map(|u| format!("\\u{u:04x}")).collect();
                format!("\"{units}\"")
            } else {
                serde_json::to_string(s).expect("a string")
            }
        };
        let arguments = format!("{{\"x\":{arguments}}}");
        let name_member = format!("\"name\":{}", quoted(&name));
        let rest = format!("\"arguments\":{arguments}");
        let params = if last { format!("{rest},{name_member}") } else { format!("{name_member},{rest}") };
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":{},\"params\":{{{params}}}}}", quoted(&method));
        let read = request::read(body.as_bytes(), 128).expect("a valid message");
        prop_assert_eq!(read.method_name(body.as_bytes()), method.as_str());
        let place = read.name.expect("a name");
        prop_assert_eq!(place.read(body.as_bytes()), name.as_str());
        let sent = rename(bytes::BytesMut::from(body.as_bytes()), place.span, &new);
        let theirs: Value = serde_json::from_slice(&sent).expect("what is sent is JSON");
        prop_assert_eq!(&theirs["method"], method.as_str());
        prop_assert_eq!(&theirs["params"]["name"], new.as_str());
        prop_assert_eq!(&theirs["id"], 7);
        // The arguments are the same bytes.
        let raw = format!("\"arguments\":{arguments}");
        prop_assert!(String::from_utf8(sent.to_vec()).expect("UTF-8").contains(&raw));
    }
}
