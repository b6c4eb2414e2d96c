//! Random messages with secrets in them.

use proptest::prelude::*;
use serde_json::Value;

use super::all;

fn secret() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "4111111111111111",
        "4111 1111 1111 1111",
        "a@b.co",
        "DE89370400440532013000",
        "TCK-123456",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN PRIVATE KEY-----x-----END PRIVATE KEY-----",
    ])
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![secret().prop_map(str::to_owned), "[ -~]{0,12}", "\\PC{0,6}", Just("\n\"\\".to_owned())]
}

fn tree() -> impl Strategy<Value = Value> {
    let text = prop::collection::vec(piece(), 0..4).prop_map(|pieces| Value::String(pieces.join(" ")));
    let number = prop_oneof![any::<i64>().prop_map(Value::from), Just(Value::from(4111111111111111u64))];
    let leaf = prop_oneof![text, number, any::<bool>().prop_map(Value::from), Just(Value::Null)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(piece(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Writes some characters of strings as escapes, which does not change the decoded strings.
fn escaped(json: &str, every: usize) -> String {
    let (mut out, mut inside, mut skip) = (String::new(), false, false);
    for (at, c) in json.chars().enumerate() {
        if skip {
            skip = false;
            out.push(c);
        } else if c == '\\' {
            skip = true;
            out.push(c);
        } else if c == '"' {
            inside = !inside;
            out.push(c);
        } else if inside && at % every == 0 {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    // The text after a backslash must not be an invalid `\uXXXX`.
    if serde_json::from_str::<Value>(&out).is_ok() { out } else { json.to_owned() }
}

/// Whether `after` is `before` but for strings (and card numbers) that were redacted.
fn only_redacted(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(b), Value::Object(a)) => {
            b.len() == a.len()
                && b.iter().all(|(key, value)| a.get(key).is_none_or(|new| only_redacted(value, new)))
                && a.iter().all(|(key, _)| b.contains_key(key) || key.contains("[redacted:"))
        }
        (Value::Array(b), Value::Array(a)) => {
            b.len() == a.len() && b.iter().zip(a).all(|(b, a)| only_redacted(b, a))
        }
        (Value::Number(_), Value::String(a)) => a.starts_with("[redacted:"),
        (Value::String(b), Value::String(a)) => b == a || a.contains("[redacted:"),
        (b, a) => b == a,
    }
}

proptest! {
    #[test]
    fn what_comes_out_is_what_went_in_without_secrets(value in tree(), every in 1usize..9) {
        let redactor = all();
        let json = escaped(&value.to_string(), every);
        match redactor.redact(json.as_bytes()).expect("JSON") {
            None => prop_assert!(redactor.scan(json.as_bytes()).expect("JSON").is_empty()),
            Some((text, findings)) => {
                prop_assert!(findings.total() > 0);
                let after: Value = serde_json::from_slice(&text).expect("still JSON");
                prop_assert!(only_redacted(&value, &after), "{value} became {after}");
                // No finding is left, and a second pass changes nothing.
                prop_assert_eq!(redactor.redact(&text).expect("JSON"), None);
            }
        }
    }

    #[test]
    fn escapes_hide_nothing(secret in secret(), before in "[a-z ü]{0,8} ", every in 1usize..5) {
        let redactor = all();
        let plain = serde_json::to_string(&[format!("{before}{secret}")]).expect("JSON");
        let hidden = escaped(&plain, every);
        let found = redactor.scan(hidden.as_bytes()).expect("JSON");
        prop_assert_eq!(found.total(), 1, "{}", hidden);
        let (text, _) = redactor.redact(hidden.as_bytes()).expect("JSON").expect("a finding");
        let (same, _) = redactor.redact(plain.as_bytes()).expect("JSON").expect("a finding");
        let read = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON");
        prop_assert_eq!(read(&text), read(&same));
    }

    #[test]
    fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = all().redact(&noise);
        let _ = all().redact_message(&noise);
    }
}
