//! Arguments against the schema of their tool: what matches, the messages, and the cost limit.

use std::time::{Duration, Instant};

use filters::guard::schema::rejection;
use filters::guard::{Schema, Violation};
use mcp::Era;

fn compile(schema: &str) -> Schema {
    Schema::compile(schema.as_bytes()).unwrap_or_else(|e| panic!("{e}: {schema}"))
}

fn refused(schema: &str) -> String {
    Schema::compile(schema.as_bytes()).map(drop).expect_err(&schema[..schema.len().min(200)])
}

fn violations(schema: &str, arguments: &str) -> Vec<(String, String)> {
    match compile(schema).check(Some(arguments.as_bytes())) {
        Ok(()) => Vec::new(),
        Err(violations) => violations.into_iter().map(|v| (v.path, v.what)).collect(),
    }
}

const WEATHER: &str = r##"{
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2, "pattern": "^[A-Z]"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["c", "f"]},
        "places": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 3},
        "when": {"anyOf": [{"type": "string"}, {"type": "integer"}]}
    },
    "required": ["city"],
    "additionalProperties": false,
    "$defs": {"place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}}
}"##;

#[test]
fn what_fits_passes() {
    for arguments in [
        r#"{"city":"Rome"}"#,
        r#"{"city":"Rome","days":14,"unit":"c","places":[{"lat":1.5},{"lat":2}],"when":7}"#,
        r#"{"city":"Rome","days":3.0}"#,
    ] {
        assert_eq!(violations(WEATHER, arguments), [], "{arguments}");
    }
    let anything = compile(r#"{"type":"object"}"#);
    assert_eq!(anything.check(None), Ok(()));
    assert_eq!(anything.check(Some(b" {} ")), Ok(()));
    assert_eq!(compile("{}").check(Some(br#"{"x":[]}"#)), Ok(()));
    assert_eq!(compile("true").check(None), Ok(()));
    assert!(compile("false").check(None).is_err());
    assert!(compile(WEATHER).check(None).is_err());
}

#[test]
fn a_violation_tells_place_and_expectation_but_no_value() {
    for (arguments, path, what) in [
        (r#"{}"#, "", "the property `city` is missing"),
        (r#"{"city":42}"#, "/city", "expected string, got integer"),
        (r#"{"city":"R"}"#, "/city", "expected at least 2 characters"),
        (r#"{"city":"hunter2"}"#, "/city", "expected text that matches the pattern ^[A-Z]"),
        (r#"{"city":"Rome","days":4711}"#, "/days", "expected at most 14"),
        (r#"{"city":"Rome","days":2.5}"#, "/days", "expected integer, got number"),
        (r#"{"city":"Rome","unit":"hunter2"}"#, "/unit", r#"expected one of "c", "f""#),
        (
            r#"{"city":"Rome","places":[{"lat":1},{"lat":"hunter2"}]}"#,
            "/places/1/lat",
            "expected number, got string",
        ),
        (r#"{"city":"Rome","extra~/":"hunter2"}"#, "", "unknown property `extra~/`"),
        (
            r#"{"city":"Rome","when":["hunter2"]}"#,
            "/when",
            "fits none of the forms that are allowed: expected string, got array; or expected integer, got array",
        ),
        (r#"["hunter2"]"#, "", "expected object, got array"),
    ] {
        let found = violations(WEATHER, arguments);
        assert_eq!(found, [(path.to_owned(), what.to_owned())], "{arguments}");
    }
    for (schema, arguments, what) in [
        (r#"{"uniqueItems":true}"#, r#"["hunter2","hunter2"]"#, "expected items that differ from each other"),
        (
            r#"{"prefixItems":[true],"unevaluatedItems":false}"#,
            r#"[1,"hunter2"]"#,
            "more items than are described",
        ),
        (r#"{"not":{"type":"string"}}"#, r#""hunter2""#, "expected anything but what `not` describes"),
        (r#"{"const":5}"#, r#""hunter2""#, "expected 5"),
        (r#"{"contains":{"type":"null"}}"#, r#"["hunter2"]"#, "expected an item that fits `contains`"),
        (
            r#"{"propertyNames":{"maxLength":1}}"#,
            r#"{"ab":"hunter2"}"#,
            "a property's name does not fit: expected at most 1 characters",
        ),
        (r#"{"items":false}"#, r#"["hunter2"]"#, "nothing is allowed here"),
        (r#"{"oneOf":[true,true]}"#, r#""hunter2""#, "fits more than one of the forms in `oneOf`"),
        (
            r#"{"contentEncoding":"base64","$schema":"http://json-schema.org/draft-07/schema#"}"#,
            r#""hunter2!""#,
            "does not fit `contentEncoding`",
        ),
        (r#"{"multipleOf":2}"#, "3", "expected a multiple of 2"),
        (r#"{"dependentRequired":{"a":["b"]}}"#, r#"{"a":"hunter2"}"#, "the property `b` is missing"),
    ] {
        let found = violations(schema, arguments);
        assert_eq!(found.len(), 1, "{schema} {found:?}");
        assert_eq!(found[0].1, what, "{schema}");
    }
}

#[test]
fn violations_are_few_and_short() {
    let many = format!("[{}]", vec!["\"hunter2\""; 100].join(","));
    let found = violations(r#"{"items":{"type":"integer"}}"#, &many);
    assert_eq!(found.len(), 8);
    let long = format!(r#"{{"{}":1}}"#, "é".repeat(500));
    let found = violations(r#"{"additionalProperties":false}"#, &long);
    assert!(found[0].1.len() <= 200, "{found:?}");
    let found = violations(r#"{"additionalProperties":{"type":"string"}}"#, &long);
    assert!(found[0].0.len() <= 200, "{found:?}");
}

#[test]
fn what_two_readers_could_read_differently_fits_nothing() {
    for arguments in [r#"{"a":1,"a":"x"}"#, r#"{"b":{"a":1,"\u0061":2}}"#, r#"{"a":1"#, "{} {}", ""] {
        let found = violations("{}", arguments);
        assert_eq!(found.len(), 1, "{arguments}");
        assert_eq!(found[0].0, "");
    }
    assert!(refused(r#"{"type":"object","type":"array"}"#).contains("twice"));
}

#[test]
fn the_draft_is_the_one_that_the_schema_names() {
    // Before 2019-09 a list in `items` is a tuple; in 2020-12 it is no schema.
    let tuple = r#"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"}]}"#;
    assert_eq!(violations(tuple, "[1]").len(), 1);
    assert!(!refused(r#"{"items":[{"type":"string"}]}"#).is_empty());
    assert_eq!(violations(r#"{"prefixItems":[{"type":"string"}]}"#, "[1]").len(), 1);
    let four = r#"{"$schema":"http://json-schema.org/draft-04/schema#","maximum":3,"exclusiveMaximum":true}"#;
    assert_eq!(violations(four, "3").len(), 1);
    assert!(!refused(r#"{"$schema":"https://evil.example/schema"}"#).is_empty());
}

#[test]
fn no_reference_leads_out_of_the_schema() {
    for to in [
        "http://127.0.0.1:1/x",
        "https://example.com/x.json",
        "file:///etc/passwd",
        "//host/x",
        "x.json",
        "/etc/passwd",
        "http://json-schema.org/draft-07/schema#",
        "json-schema:///x",
        "#anchor",
        "#/$defs/missing",
        "urn:x:y",
        "data:,{}",
    ] {
        let text = format!(r##"{{"properties":{{"a":{{"$ref":"{to}"}}}},"$defs":{{}}}}"##);
        assert!(refused(&text).contains("$ref"), "{to}");
        // Nor from where nothing is compiled.
        let text = format!(r##"{{"$defs":{{"a":{{"$ref":"{to}"}}}}}}"##);
        assert!(refused(&text).contains("$ref"), "{to}");
    }
    assert!(refused(r##"{"$dynamicRef":"#a"}"##).contains("dynamicRef"));
    assert!(refused(r##"{"$defs":{"a":{"$id":"http://evil.example/","$ref":"#/x"}}}"##).contains("$id"));
    assert!(refused(r##"{"$defs":{"a":{"$id":"http://evil.example/","type":"object"}}}"##).contains("$id"));
    // A property may have any name.
    let named =
        r#"{"properties":{"$ref":{"type":"string"},"$id":{"type":"string"},"id":{"type":"integer"}}}"#;
    assert_eq!(violations(named, r#"{"$ref":"http://x","$id":"y","id":1}"#), []);
}

#[test]
fn circular_references_are_followed_through_the_arguments() {
    let tree = r##"{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","required":["v"],
        "properties":{"v":{"type":"integer"},"kids":{"type":"array","items":{"$ref":"#/$defs/node"}}}}}}"##;
    assert_eq!(violations(tree, r#"{"v":1,"kids":[{"v":2},{"v":3,"kids":[]}]}"#), []);
    let found = violations(tree, r#"{"v":1,"kids":[{"v":2},{"v":3,"kids":[{"v":"x"}]}]}"#);
    assert_eq!(found, [("/kids/1/kids/0/v".to_owned(), "expected integer, got string".to_owned())]);
    let json = r##"{"anyOf":[{"type":["string","number","boolean","null"]},{"type":"array","items":{"$ref":"#"}},
        {"type":"object","additionalProperties":{"$ref":"#"}}]}"##;
    assert_eq!(violations(json, r#"{"a":[1,{"b":[null,"x"]}],"c":{"d":{"e":[[[]]]}}}"#), []);
    // In a circle without a step into the arguments there is nothing to validate.
    for circle in [r##"{"$ref":"#"}"##, r##"{"allOf":[{"$ref":"#"}]}"##] {
        let _ = Schema::compile(circle.as_bytes()).map(|schema| schema.check(Some(b"{}")));
    }
}

#[test]
fn patterns_that_look_around_are_held_to_a_bound() {
    let mail = r#"{"properties":{"to":{"type":"string","pattern":"^(?!\\.)(?!.*\\.\\.)([A-Za-z0-9_'+\\-\\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$"}}}"#;
    assert_eq!(violations(mail, r#"{"to":"a.b@example.org"}"#), []);
    assert_eq!(violations(mail, r#"{"to":"a..b@example.org"}"#).len(), 1);
    // Other members may be long.
    let long = format!(r#"{{"to":"a@b.co","text":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(violations(mail, &long), []);
}

/// Schemas and arguments that are made to be slow, on a thread with the stack of a worker.
#[test]
fn nothing_takes_long_or_overflows() {
    let pairs = hostile();
    let worker = std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(move || {
        for (name, schema, arguments) in pairs {
            let start = Instant::now();
            let outcome = match Schema::compile(schema.as_bytes()) {
                Err(e) => format!("refused: {}", &e[..e.len().min(80)]),
                Ok(schema) => match schema.check(Some(arguments.as_bytes())) {
                    Ok(()) => "fits".to_owned(),
                    Err(violations) => format!("{} violations: {:?}", violations.len(), violations[0].what),
                },
            };
            let took = start.elapsed();
            println!("{name:24} {took:>10.1?} {outcome}");
            assert!(took < Duration::from_secs(20), "{name} took {took:?}");
        }
    });
    worker.expect("a thread").join().expect("no overflow and no panic");
}

fn hostile() -> Vec<(&'static str, String, String)> {
    let nest = |open: &str, close: &str, n: usize, core: &str| {
        format!("{}{core}{}", open.repeat(n), close.repeat(n))
    };
    let doubling = |leaf: &str, word: &str| {
        let defs: Vec<String> = (0..40)
            .map(|n| {
                format!(
                    r##""d{n}":{{"{word}":[{{"$ref":"#/$defs/d{0}"}},{{"$ref":"#/$defs/d{0}"}}]}}"##,
                    n + 1
                )
            })
            .collect();
        format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d40":{leaf}}}}}"##, defs.join(","))
    };
    let chain = |n: usize| {
        let defs: Vec<String> =
            (0..n).map(|n| format!(r##""d{n}":{{"$ref":"#/$defs/d{}"}}"##, n + 1)).collect();
        format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d{n}":{{"type":"object"}}}}}}"##, defs.join(","))
    };
    let web = |n: usize| {
        let all: Vec<String> = (0..n).map(|to| format!(r##"{{"$ref":"#/$defs/d{to}"}}"##)).collect();
        let all = all.join(",");
        let defs: Vec<String> = (0..n).map(|d| format!(r#""d{d}":{{"allOf":[{all}]}}"#)).collect();
        format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{}}}}}"##, defs.join(","))
    };
    let twice = |word: &str| {
        format!(
            r##"{{"{word}":[{{"properties":{{"c":{{"$ref":"#"}}}},"required":["x"]}},{{"properties":{{"c":{{"$ref":"#"}}}},"required":["y"]}}]}}"##
        )
    };
    let uneven = (0..30)
        .fold("{}".to_owned(), |inner, _| format!(r#"{{"allOf":[{inner}],"unevaluatedProperties":false}}"#));
    let deep = nest(r#"{"c":"#, "}", 100, "{}");
    let list = format!("[{}]", vec!["1"; 300_000].join(","));
    let text = |n: usize| format!("\"{}!\"", "a".repeat(n));
    let choices: Vec<String> = (0..15_000).map(|n| format!("\"choice {n}\"")).collect();
    let choices = choices.join(",");
    vec![
        ("deep schema", nest(r#"{"not":"#, "}", 60, "{}"), "{}".into()),
        ("deeper schema", nest(r#"{"not":"#, "}", 100, "{}"), "{}".into()),
        ("deepest schema", nest(r#"{"not":"#, "}", 10_000, "{}"), "{}".into()),
        ("deep arrays", nest("[", "]", 100_000, ""), "{}".into()),
        ("deep arguments", "{}".into(), nest("[", "]", 100_000, "")),
        ("long schema", format!(r#"{{"description":"{}"}}"#, "x".repeat(300_000)), "{}".into()),
        ("many properties", format!("{{\"properties\":{{{}}}}}", (0..15_000).map(|n| format!("\"p{n}\":true")).collect::<Vec<_>>().join(",")), "{}".into()),
        ("huge enum", format!(r#"{{"enum":[{choices}]}}"#), "1".into()),
        ("huge enum, long list", format!(r#"{{"items":{{"enum":[{choices}]}}}}"#), list.clone()),
        ("doubling", doubling(r#"{"type":"string"}"#, "allOf"), "{}".into()),
        ("doubling any", doubling(r#"{"type":"string"}"#, "anyOf"), "{}".into()),
        ("doubling true", doubling("true", "allOf"), "{}".into()),
        ("chain of references", chain(3000), "{}".into()),
        ("short chain", chain(80), "{}".into()),
        ("web of references", web(12), "\"x\"".into()),
        ("web of references, object", web(12), "{}".into()),
        ("web of 6", web(6), "\"x\"".into()),
        ("web of 60", web(60), "{}".into()),
        ("circle, two ways", twice("anyOf"), deep.clone()),
        ("circle, all ways", twice("allOf"), deep.clone()),
        ("circle, one way", twice("oneOf"), deep.clone()),
        ("circle, shallow", twice("anyOf"), nest(r#"{"c":"#, "}", 30, "{}")),
        ("circle, not", r##"{"not":{"properties":{"c":{"$ref":"#"}}},"if":{"properties":{"c":{"$ref":"#"}}},"then":{"properties":{"c":{"$ref":"#"}}}}"##.into(), deep.clone()),
        ("circle, unevaluated", r##"{"properties":{"c":{"allOf":[{"$ref":"#"},{"$ref":"#"}],"unevaluatedProperties":false}}}"##.into(), nest(r#"{"c":"#, "}", 60, "{}")),
        ("nested unevaluated", uneven, r#"{"x":1}"#.into()),
        ("long list", r#"{"items":{"type":"string"}}"#.into(), list.clone()),
        ("long unique list", r#"{"uniqueItems":true}"#.into(), format!("[{}]", (0..100_000).map(|n| n.to_string()).collect::<Vec<_>>().join(","))),
        ("list of true trees", format!(r#"{{"items":{}}}"#, nest(r#"{"allOf":[true,true,true,"#, "]}", 29, "true")), list.clone()),
        ("redos", r#"{"pattern":"^(a+)+$"}"#.into(), text(100_000)),
        ("redos, nested", r#"{"pattern":"^((a*)*)*(b|c)$"}"#.into(), text(100_000)),
        ("redos, back-reference", r#"{"pattern":"^(a+)+\\1$"}"#.into(), text(50_000)),
        ("redos, look-around", r#"{"pattern":"^(?=(a+)+$)(?!b)a"}"#.into(), text(50_000)),
        ("redos, look-around, many", r#"{"items":{"pattern":"(?=.*x)(?=.*y)(?:a|aa)+\\b(?<!z)$"}}"#.into(), format!("[{}]", vec![text(2000); 60].join(","))),
        ("wide pattern", r#"{"pattern":"^(\\w{1000}){1000}$"}"#.into(), text(1000)),
        ("many patterns", format!("{{\"patternProperties\":{{{}}}}}", (0..250).map(|n| format!("\"\\\\w{{10}}{n}\":{{}}")).collect::<Vec<_>>().join(",")), "{\"x\":1}".into()),
        ("patterns, many names", format!("{{\"patternProperties\":{{{}}}}}", (0..200).map(|n| format!("\"^[^{n}]*z$\":{{}}")).collect::<Vec<_>>().join(",")), format!("{{{}}}", (0..20_000).map(|n| format!("\"name {n}\":1")).collect::<Vec<_>>().join(","))),
        ("pattern, long text", r#"{"pattern":"^[^z]*z$"}"#.into(), text(8 << 20)),
    ]
}

#[test]
fn much_that_is_well_meant_passes() {
    let properties: Vec<String> =
        (0..500).map(|n| format!(r#""p{n}":{{"type":["string","null"]}}"#)).collect();
    let row = format!(
        r#"{{"type":"object","properties":{{{}}},"additionalProperties":false}}"#,
        properties.join(",")
    );
    let schema = format!(r#"{{"properties":{{"rows":{{"type":"array","items":{row}}}}}}}"#);
    let values: Vec<String> = (0..500).map(|n| format!(r#""p{n}":"x""#)).collect();
    let rows = vec![format!("{{{}}}", values.join(",")); 200].join(",");
    assert_eq!(violations(&schema, &format!(r#"{{"rows":[{rows}]}}"#)), []);
    let text = format!(r#"{{"text":"{}"}}"#, "x".repeat(8 << 20));
    assert_eq!(
        violations(r#"{"properties":{"text":{"type":"string","minLength":1,"pattern":"^x"}}}"#, &text),
        []
    );
}

#[test]
fn a_schema_can_be_shared() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Schema>();
}

#[test]
fn a_refusal_is_one_that_a_model_can_act_on() {
    let violations = [
        Violation { path: "/days".into(), what: "expected at most 14".into() },
        Violation { path: String::new(), what: "the property `city` is missing".into() },
    ];
    let rejected = |client_era| rejection("weather__get", &violations, client_era);
    let modern = rejected(Era::Modern);
    assert_eq!((modern.status, modern.code, modern.reason.as_str()), (400, -32602, "invalid_arguments"));
    assert_eq!(rejected(Era::Legacy).status, 200);
    assert_eq!(
        modern.message,
        "Arguments of `weather__get` do not fit its inputSchema: /days: expected at most 14; the arguments: the property `city` is missing"
    );
    let data: serde_json::Value = serde_json::from_str(&modern.data.expect("data")).expect("JSON");
    assert_eq!(data["violations"][0]["path"], "/days");
    assert_eq!(data["violations"][1]["message"], "the property `city` is missing");
}
