//! The cost of searching for secrets, and of validating arguments against a schema.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use filters::guard::{Detector, Redactor, Schema};

const SIZES: [(&str, usize); 2] = [("1KiB", 1024), ("64KiB", 64 * 1024)];

fn message(text: &str, size: usize) -> Vec<u8> {
    let fill: String = text.chars().cycle().take(size.saturating_sub(80)).collect();
    // A text cut off in the middle of an escape would be invalid.
    let fill = fill.trim_end_matches(|c| c != ' ');
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{fill}"}}]}}}}"#)
        .into_bytes()
}

fn clean(c: &mut Criterion) {
    let usual = Redactor::new(&Detector::DEFAULT, &[]).expect("no patterns");
    let all = Redactor::new(&Detector::ALL, &[]).expect("no patterns");
    let ticket = [("ticket".to_owned(), "TCK-[0-9]{6}".to_owned())];
    let custom = Redactor::new(&Detector::DEFAULT, &ticket).expect("a pattern");
    let mut group = c.benchmark_group("redact_clean");
    for (form, redactor, text) in [
        ("prose", &usual, "Lorem ipsum dolor sit amet, no. 42 of 2024-01-31;\\n consectetur \\\"elit\\\" "),
        ("escaped", &usual, "Lorem \\u00fcpsum dolor sit amet, no. 42 of 2024-01-31;\\n consectetur "),
        ("mail", &all, "Lorem @ipsum dolor sit amet, no. 42 of 2024-01-31;\\n consectetur "),
        ("pattern", &custom, "Lorem ipsum dolor sit amet, no. 42 of 2024-01-31;\\n consectetur "),
        (
            "numbers",
            &usual,
            "{\\\"id\\\": 1700000000000, \\\"n\\\": 175928847299117063, \\\"x\\\": 3.14159265} ",
        ),
    ] {
        for (name, size) in SIZES {
            let message = message(text, size);
            group.throughput(Throughput::Bytes(message.len() as u64));
            group.bench_function(format!("{form}/{name}"), |b| {
                b.iter(|| assert!(redactor.redact_message(&message).expect("JSON").is_none()))
            });
        }
    }
    group.finish();
}

fn found(c: &mut Criterion) {
    let usual = Redactor::new(&Detector::DEFAULT, &[]).expect("no patterns");
    let mut group = c.benchmark_group("redact_found");
    for (name, size) in SIZES {
        let text = "Lorem ipsum dolor sit amet, 4111 1111 1111 1111 of 2024-01-31;\\n consectetur elit ";
        let message = message(text, size);
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| usual.redact_message(&message).expect("JSON").expect("cards"))
        });
    }
    group.finish();
}

fn schema(c: &mut Criterion) {
    let text = br##"{"type":"object","properties":{"path":{"type":"string","minLength":1},"mode":{"enum":["r","w"]},
        "lines":{"type":"array","items":{"$ref":"#/$defs/range"}}},"required":["path"],"additionalProperties":false,
        "$defs":{"range":{"type":"object","properties":{"from":{"type":"integer"},"to":{"type":"integer"}}}}}"##;
    let schema = Schema::compile(text).expect("a schema");
    let fits = br#"{"path":"/srv/readme.md","mode":"r","lines":[{"from":1,"to":20},{"from":40,"to":60}]}"#;
    let wrong = br#"{"path":7,"mode":"x","lines":[{"from":1,"to":20},{"from":40,"to":"60"}]}"#;
    let mut group = c.benchmark_group("schema");
    group.bench_function("compile", |b| b.iter(|| Schema::compile(text).expect("a schema")));
    group.bench_function("fits", |b| b.iter(|| schema.check(Some(fits)).expect("fits")));
    group.bench_function("fits_not", |b| b.iter(|| schema.check(Some(wrong)).expect_err("fits not")));
    group.finish();
}

criterion_group!(benches, clean, found, schema);
criterion_main!(benches);
