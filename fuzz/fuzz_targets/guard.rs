//! Hostile schemas, arguments and texts: never a panic, never more than the bounded cost (the run has a
//! time limit per input), and redacted output is JSON without findings.
#![no_main]

use std::sync::LazyLock;

use filters::guard::{Detector, Redactor, Schema};
use fuzz::cut;
use fuzz::json::is_json;
use libfuzzer_sys::fuzz_target;

static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| {
    let own = [("ticket".to_owned(), r"\bT-[0-9]{4}\b".to_owned()), ("greedy".to_owned(), "x.*y".to_owned())];
    Redactor::new(&Detector::ALL, &own).expect("sound patterns")
});

fuzz_target!(|data: &[u8]| {
    let (schema, arguments) = cut(data, 0);
    if let Ok(schema) = Schema::compile(schema) {
        if let Err(violations) = schema.check(Some(arguments)) {
            assert!(!violations.is_empty());
            assert!(violations.iter().all(|v| v.path.len() <= 200 && v.what.len() <= 200));
        }
        let _ = schema.check(None);
    }
    for text in [schema, arguments] {
        redact(text);
    }
});

fn redact(text: &[u8]) {
    let found = REDACTOR.scan(text);
    match REDACTOR.redact(text) {
        Err(fault) => assert_eq!(found, Err(fault)),
        Ok(None) => assert!(found.expect("it was read a moment ago").is_empty()),
        Ok(Some((clean, told))) => {
            assert_eq!(found.as_ref(), Ok(&told));
            assert!(is_json(&clean), "what was JSON is none any more");
            let left = REDACTOR.scan(&clean).expect("it is JSON");
            let own = ["ticket", "greedy"];
            // A custom pattern may match the redacted text, and cut a word so that the text before it looks
            // like a key.
            if !told.iter().any(|(name, _)| own.contains(&&**name)) {
                assert!(left.iter().all(|(name, _)| own.contains(&&**name)), "something was left: {left}");
            }
        }
    }
    if let Ok(Some((clean, _))) = REDACTOR.redact_message(text) {
        assert!(is_json(&clean));
    }
}
