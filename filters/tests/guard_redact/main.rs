//! Secrets in JSON: what is found, what is not, and that all other bytes stay the same.

use filters::guard::{Detector, Redactor};

mod random;

fn all() -> Redactor {
    let ticket = ("ticket".to_owned(), "TCK-[0-9]{6}".to_owned());
    Redactor::new(&Detector::ALL, &[ticket]).expect("sound patterns")
}

fn names(redactor: &Redactor, text: &str) -> String {
    let json = serde_json::to_string(&[text]).expect("a string is JSON");
    redactor.scan(json.as_bytes()).expect("JSON").to_string()
}

// Joined here, so that secret scanners do not report this file.
fn keys() -> Vec<String> {
    let mix = |n: usize| "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xYzZ".chars().cycle().take(n).collect::<String>();
    let low = |n: usize| "0123456789abcdef7e".chars().cycle().take(n).collect::<String>();
    vec![
        format!("{}{}", "AKIA", "IOSFODNN7EXAMPLE"),
        format!("{}{}", "ghp_", mix(36)),
        format!("{}{}", "github_pat_", mix(82)),
        format!("{}{}", "glpat-", mix(20)),
        format!("{}{}", "sk-proj-", mix(48)),
        format!("{}{}", "sk-ant-api03-", mix(90)),
        format!("{}{}", "sk-", mix(48)),
        format!("{}{}", "xoxb-", "123456789012-1234567890123-aBcDeFgHiJkL"),
        format!("https://{}{}", "hooks.slack.com/services/", "T00AB12CD/B00XY34ZW/aBcDeFgHiJkLmNoPqRsT"),
        format!("{}{}", "AIza", mix(35)),
        format!("{}{}", "sk_live_", mix(24)),
        format!("{}{}", "npm_", mix(36)),
        format!("SG.{}.{}", mix(22), mix(43)),
        format!("{}{}", "hf_", mix(34)),
        format!("{}{}", "dop_v1_", low(64)),
        format!("{}.{}.{}", "eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxMjM0NTY3ODkwIn0", mix(43)),
    ]
}

#[test]
fn what_is_a_secret_is_found() {
    let redactor = all();
    for card in [
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "5555555555554444",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "30569309025904",
        "3530111333300000",
        "2223003122003222",
        "4222222222222",
        "pay with 4111111111111111.",
        "(4111111111111111)",
        "card:4111111111111111,exp",
        "room 12 4111 1111 1111 1111 09",
        "Karte №4111111111111111",
        "ключ4111111111111111",
    ] {
        assert_eq!(names(&redactor, card), "credit_card (1)", "{card}");
    }
    for iban in [
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
        "NO9386011117947",
        "to FR1420041010050500013M02606, please",
        "MT84MALT011000012345MTLCAST001S",
        "GB29 NWBK 6016 1331 9268 19 IS MINE",
    ] {
        assert_eq!(names(&redactor, iban), "iban (1)", "{iban}");
    }
    for mail in ["a@b.co", "first.last+tag@sub.example.org", "<x@y.example>", "ü a@b.example ü", "A@B.COM"]
    {
        assert_eq!(names(&redactor, mail), "email (1)", "{mail}");
    }
    for kind in ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "] {
        let pem = format!("-----BEGIN {kind}PRIVATE KEY-----\nMIIB\n-----END {kind}PRIVATE KEY-----");
        assert_eq!(names(&redactor, &pem), "private_key (1)", "{pem}");
        assert_eq!(names(&redactor, &pem.replace('\n', "\\n")), "private_key (1)", "{pem}");
        assert_eq!(names(&redactor, &pem[..40]), "private_key (1)", "cut off: {pem}");
    }
    for key in keys() {
        for text in [key.clone(), format!("TOKEN={key}"), format!("({key})"), format!("\"{key}\", and")] {
            assert_eq!(names(&redactor, &text), "api_key (1)", "{text}");
        }
    }
    assert_eq!(names(&redactor, "see TCK-123456"), "ticket (1)");
}

#[test]
fn a_number_is_a_card_number_in_whatever_form_it_is_written() {
    let redactor = all();
    for number in [
        "4111111111111111",
        "-4111111111111111",
        "4111111111111111.0",
        "4111111111111111.000e0",
        "4.111111111111111e15",
        "4.111111111111111E+15",
        "-4.1111111111111110e15",
        "41111111.11111111e8",
        "411111111111111100000e-5",
        "0.0000004111111111111111e22",
        // As read by a reader that keeps 53 bits.
        "4.11111111111111100001e15",
    ] {
        let found = redactor.scan(format!("{{\"n\":{number}}}").as_bytes()).expect("JSON");
        assert_eq!(found.total(), 1, "{number}");
    }
    for number in [
        "4111111111111112",
        "4.111111111111112e15",
        "4.1e15",
        "1e400",
        "-0",
        "4111111111111111e9",
        "0.4111111111111111",
    ] {
        let found = redactor.scan(format!("[{number}]").as_bytes()).expect("JSON");
        assert!(found.is_empty(), "{number}");
    }
}

#[test]
fn what_only_looks_like_a_secret_is_left_alone() {
    let redactor = all();
    for text in [
        // Order numbers, times, counters, ids.
        "order 4111111111111112",
        "1700000000000",
        "1700000000000000",
        "1700000000000000000",
        "20240131235959000",
        "175928847299117063",
        "1234567890123456",
        "0000000000000000",
        "9999999999999999",
        "8888888888888888",
        "41111111111111111111111",
        "a4111111111111111",
        "4111111111111111b",
        "0.4111111111111111",
        "4111111111111111.25",
        "id-4111111111111111",
        "4111111111111111-a",
        "x_4111111111111111",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "41 11 11 11 11 11 11 11",
        "4111  1111  1111  1111",
        "4111 1111-1111 1111",
        "4111.1111.1111.1111",
        // Telephone numbers, dates, versions.
        "+49 30 901820-4711 0815",
        "+1 (555) 010-9999, 555-0100",
        "2024-01-31 12:30:45.123456",
        "10.0.17763.1",
        "192.168.100.200 10.1.2.3",
        "3.14159265358979323846",
        // UUIDs and hashes.
        "550e8400-e29b-41d4-a716-446655440000",
        "41111111-1111-1111-1111-111111111111",
        "d41d8cd98f00b204e9800998ecf8427e",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        // Almost an IBAN.
        "DE89370400440532013001",
        "DE8937040044053201300",
        "DE893704004405320130000",
        "XX89370400440532013000",
        "ADE89370400440532013000",
        "IC 8937 0400 4405 3201 3000",
        "ISO 9001 AND GB18030",
        "MD5 AB12 CD34 EF56",
        // Almost an address.
        "a@b",
        "@everyone",
        "pkg@1.2.3",
        "left @ right.com",
        "x@y.1",
        // Public keys, and text about keys.
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----",
        "BEGIN PRIVATE KEY",
        "the PRIVATE KEY is elsewhere",
        "-----BEGIN PRIVATE KEY",
        // Almost a key.
        "sk-learn-based-classification-model",
        "task-3f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d",
        "AKIA",
        "AKIAshort",
        "sk_test_xxxxxxxxxxxxxxxxxxxxxxxx",
        "ghp_000000000000000000000000000000000000",
        "npm_install",
        "hf_token",
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJ.eyJ.eyJ",
        "xoxb-short",
        "mask-4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c",
        "TCK-12345",
        "",
    ] {
        assert_eq!(names(&redactor, text), "", "{text}");
    }
}

#[test]
fn only_the_secret_is_replaced() {
    let redactor = all();
    for (json, expected) in [
        (r#"{"a":"4111111111111111","b":1.10}"#, r#"{"a":"[redacted:credit_card]","b":1.10}"#),
        (r#"["x 4111 1111 1111 1111 y"]"#, r#"["x [redacted:credit_card] y"]"#),
        (r#"["4111111111111111 5555555555554444"]"#, r#"["[redacted:credit_card] [redacted:credit_card]"]"#),
        (r#"{"n": 4111111111111111 }"#, r#"{"n": "[redacted:credit_card]" }"#),
        (r#"[4111111111111111.0]"#, r#"["[redacted:credit_card]"]"#),
        (r#"["a\u0040b.co \u00fc\n\/"]"#, r#"["[redacted:email] \u00fc\n\/"]"#),
        (r#"["\"\ud83d\ude00 \u0061@b.c\u006f, é\\"]"#, r#"["\"\ud83d\ude00 [redacted:email], é\\"]"#),
        (r#"["\u0034111111111111111"]"#, r#"["[redacted:credit_card]"]"#),
        (r#"["4111\u00201111\u00201111\u00201111"]"#, r#"["[redacted:credit_card]"]"#),
        (
            r#"["-----BEGIN PRIVATE KEY-----\nMI\/B\n-----END PRIVATE KEY-----\n"]"#,
            r#"["[redacted:private_key]\n"]"#,
        ),
        (
            r#"{"a@b.co":1,"c@d.co":{"TCK-123456":null}}"#,
            r#"{"[redacted:email#1]":1,"[redacted:email#2]":{"[redacted:ticket#3]":null}}"#,
        ),
        (r#""a@b.co""#, r#""[redacted:email]""#),
    ] {
        let (text, findings) = redactor.redact(json.as_bytes()).expect("JSON").expect("a finding");
        assert_eq!(String::from_utf8(text).expect("UTF-8"), expected);
        assert_eq!(findings, redactor.scan(json.as_bytes()).expect("JSON"));
        assert!(!findings.is_empty());
    }
}

#[test]
fn the_skeleton_of_a_message_stays() {
    let redactor = all();
    for (message, expected) in [
        (
            r#"{"id":1,"result":{"resultType":"input_required","requestState":"a@b.co 4111111111111111","inputRequests":{"q":{"message":"a@b.co"}}}}"#,
            r#"{"id":1,"result":{"resultType":"input_required","requestState":"a@b.co 4111111111111111","inputRequests":{"q":{"message":"[redacted:email]"}}}}"#,
        ),
        (
            r#"{"jsonrpc":"2.0","id":4111111111111111,"result":{"content":[{"type":"text","text":"a@b.co"}],"nextCursor":"a@b.co","n@o.co":2}}"#,
            r#"{"jsonrpc":"2.0","id":4111111111111111,"result":{"content":[{"type":"text","text":"[redacted:email]"}],"nextCursor":"a@b.co","[redacted:email#1]":2}}"#,
        ),
        (
            r#"{"method":"notifications/progress","params":{"progressToken":4111111111111111,"message":"a@b.co","_meta":{"progressToken":"a@b.co","x":"a@b.co"}}}"#,
            r#"{"method":"notifications/progress","params":{"progressToken":4111111111111111,"message":"[redacted:email]","_meta":{"progressToken":"a@b.co","x":"[redacted:email]"}}}"#,
        ),
        (
            r#"{"id":"a@b.co","error":{"code":-32000,"message":"no a@b.co","data":["a@b.co"]}}"#,
            r#"{"id":"a@b.co","error":{"code":-32000,"message":"no [redacted:email]","data":["[redacted:email]"]}}"#,
        ),
        (r#"{"result":{"name":{"x":"a@b.co"}}}"#, r#"{"result":{"name":{"x":"[redacted:email]"}}}"#),
    ] {
        let (text, findings) = redactor.redact_message(message.as_bytes()).expect("JSON").expect("a finding");
        assert_eq!(String::from_utf8(text).expect("UTF-8"), expected);
        assert_eq!(findings, redactor.scan_message(message.as_bytes()).expect("JSON"));
    }
    let quiet = br#"{"jsonrpc":"2.0","id":"a@b.co","method":"a@b.co","x":"a@b.co","result":{}}"#;
    assert_eq!(redactor.redact_message(quiet).expect("JSON"), None);
}

#[test]
fn invalid_json_is_reported_and_not_skipped() {
    let redactor = all();
    for text in [&br#"{"a":"a@b.co""#[..], b"[\"a@b.co\"] x", b"[\"a@b.co \xff\"]", b"a@b.co"] {
        assert!(redactor.redact(text).is_err());
    }
    assert!(redactor.redact(format!("[\"a@b.co\", {}", "[".repeat(600)).as_bytes()).is_err());
    // Servers send unpaired surrogates; the text around them is searched.
    let (text, _) = redactor.redact(br#"["\ud800 a@b.co"]"#).expect("JSON").expect("a finding");
    assert!(String::from_utf8(text).expect("UTF-8").contains("[redacted:email]"));
}

#[test]
fn the_deepest_text_fits_a_worker_s_stack() {
    let worker = std::thread::Builder::new().stack_size(1024 * 1024).spawn(|| {
        let json = format!("{}\"a@b.co\"{}", "{\"a\":[".repeat(256), "]}".repeat(256));
        let (text, _) = all().redact(json.as_bytes()).expect("JSON").expect("a finding");
        assert_eq!(String::from_utf8(text).expect("UTF-8"), json.replace("a@b.co", "[redacted:email]"));
    });
    worker.expect("a thread").join().expect("no overflow");
}

#[test]
fn an_invalid_pattern_is_reported_with_its_name() {
    let new = |name: &str, pattern: &str| {
        Redactor::new(&[], &[(name.into(), pattern.into())]).map(drop).map_err(|flaw| flaw.to_string())
    };
    assert_eq!(new("a", "x+"), Ok(()));
    for (name, pattern, word) in [
        ("bad", "(", "no regular expression"),
        ("look", "(?=x)x", "no regular expression"),
        ("huge", "(?:[\\w]{1000}){1000}", "no regular expression"),
        ("empty", "x*", "empty text"),
        ("email", "x", "taken"),
        ("two words", "x", "name"),
        ("", "x", "name"),
    ] {
        let error = new(name, pattern).expect_err(name);
        assert!(error.contains(word) && error.contains(name), "{error}");
    }
}

#[test]
fn only_the_detectors_that_are_asked_for_find() {
    let text = r#"["4111111111111111 a@b.co DE89370400440532013000"]"#;
    for detector in Detector::ALL {
        let redactor = Redactor::new(&[detector, detector], &[]).expect("no patterns");
        let found = redactor.scan(text.as_bytes()).expect("JSON").to_string();
        let expected = format!("{} (1)", detector.as_str());
        assert_eq!(found, if text_has(detector) { expected } else { String::new() });
    }
    let none = Redactor::new(&[], &[]).expect("nothing");
    assert_eq!(none.redact(b"[\"\\u0040").expect("not looked at"), None);
    fn text_has(detector: Detector) -> bool {
        matches!(detector, Detector::CreditCard | Detector::Email | Detector::Iban)
    }
}

/// Texts that are slow for backtracking searches: time must grow only with the length.
#[test]
fn no_text_makes_the_search_slow() {
    let redactor = all();
    let jwt = "eyJaaaaaaaa.eyJaaaaaaaa.aaaaaaaaaaaaaaaa ";
    for piece in [
        "4111 ",
        "4111-",
        "1",
        "a@",
        "a@b.co.",
        "@",
        "DE89 ",
        "DE89",
        "-----BEGIN PRIVATE KEY",
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----",
        "eyJaaaaaaaa.",
        "eyJ-AKIAIOSFODNN7EXAMPLE-",
        "sk-",
        "eyJaaaaaaaa..",
        jwt,
        "\\u0040",
        "\\u0034111",
        "\\\"",
        "TCK-123456",
        "SG.",
        "x.y@z.",
        "4111111111111111 ",
    ] {
        let time = |n: usize| {
            let json = format!("[\"{}\"]", piece.repeat(n / piece.len()));
            let start = std::time::Instant::now();
            let found = redactor.redact(json.as_bytes());
            assert!(found.is_ok(), "{piece}");
            start.elapsed()
        };
        time(1 << 12);
        let (short, long) = (time(1 << 15), time(1 << 20));
        // 32 times the text; a quadratic search would take 1024 times as long.
        assert!(long < short * 300 + std::time::Duration::from_millis(300), "{piece}: {short:?}, {long:?}");
    }
}
