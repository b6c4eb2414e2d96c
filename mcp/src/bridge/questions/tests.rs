use super::*;

fn question(method: Method, params: &str) -> Question {
    Question { key: "k".into(), method, params: params.as_bytes().to_vec() }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn a_result_that_asks_is_read() {
    let asked = read(
        br#"{"resultType":"input_required","requestState":"s\u0041","inputRequests":{"name":{"method":"elicitation/create","params":{"message":"m"}},"roots":{"method":"roots/list"}}}"#,
    )
    .expect("a result that asks");
    assert_eq!(asked.state.as_deref(), Some(&br#""s\u0041""#[..]), "byte for byte");
    let keys: Vec<_> = asked.questions.iter().map(|asked| (asked.key.as_str(), asked.method)).collect();
    assert_eq!(keys, [("name", Method::Elicit), ("roots", Method::RootsList)]);
    assert_eq!(text(&asked.questions[1].params), "{}");
    assert!(read(br#"{"requestState":"later"}"#).expect("a state alone").questions.is_empty());
}

#[test]
fn what_cannot_be_asked_is_an_error() {
    let many: Vec<String> =
        (0..=MAX_QUESTIONS).map(|key| format!(r#""{key}":{{"method":"roots/list"}}"#)).collect();
    let many = format!(r#"{{"inputRequests":{{{}}}}}"#, many.join(","));
    let long = format!(r#"{{"inputRequests":{{"{}":{{"method":"roots/list"}}}}}}"#, "k".repeat(MAX_KEY + 1));
    for wrong in [
        "[]",
        "{}",
        r#"{"inputRequests":{}}"#,
        r#"{"inputRequests":[]}"#,
        r#"{"requestState":1}"#,
        r#"{"inputRequests":{"a":{"method":"tools/call"}}}"#,
        r#"{"inputRequests":{"a":{"method":"ping"}}}"#,
        r#"{"inputRequests":{"a":{}}}"#,
        r#"{"inputRequests":{"a":1}}"#,
        r#"{"inputRequests":{"a":{"method":"roots/list","params":1}}}"#,
        r#"{"inputRequests":{"a":{"method":"roots/list"},"\u0061":{"method":"roots/list"}}}"#,
        &many,
        &long,
    ] {
        assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn a_client_is_asked_what_it_declared() {
    let (form, url) = (r#"{"message":"m"}"#, r#"{"mode":"url","url":"a:b","message":"m"}"#);
    for (method, params, capabilities, may) in [
        (Method::Elicit, form, r#"{"elicitation":{}}"#, true),
        (Method::Elicit, url, r#"{"elicitation":{}}"#, false),
        (Method::Elicit, form, r#"{"elicitation":{"url":{}}}"#, false),
        (Method::Elicit, form, r#"{"elicitation":{"url":{},"form":{}}}"#, true),
        (Method::Elicit, url, r#"{"elicitation":{"url":{}}}"#, true),
        (Method::Elicit, form, r#"{"sampling":{}}"#, false),
        (Method::CreateMessage, r#"{"messages":[]}"#, r#"{"sampling":{}}"#, true),
        (Method::CreateMessage, r#"{"messages":[],"tools":[]}"#, r#"{"sampling":{}}"#, false),
        (Method::CreateMessage, r#"{"messages":[],"toolChoice":{}}"#, r#"{"sampling":{"tools":{}}}"#, true),
        (Method::RootsList, "{}", r#"{"roots":{}}"#, true),
        (Method::RootsList, "{}", "{}", false),
        (Method::RootsList, "{}", "null", false),
    ] {
        assert_eq!(
            is_declared(&question(method, params), capabilities.as_bytes()),
            may,
            "{params} {capabilities}"
        );
    }
}

#[test]
fn a_form_is_what_the_revision_of_the_client_knows() {
    let form = question(
        Method::Elicit,
        r#"{"mode":"form","message":"m","_meta":{"x":1},"requestedSchema":{"type":"object","properties":{
            "a":{"type":"string","default":"x"},"b":{"type":"boolean","default":true},
            "c":{"type":"string","oneOf":[{"const":"r","title":"Red"},{"const":"g"}]}}}}"#,
    );
    let newest = to_legacy(&form, "2025-11-25", "e").expect("it can be asked");
    assert!(text(&newest).contains(r#""mode":"form""#) && !text(&newest).contains("_meta"));
    let older: Value =
        serde_json::from_slice(&to_legacy(&form, "2025-06-18", "e").expect("it can be asked")).expect("JSON");
    assert_eq!(
        older,
        json!({"message": "m", "requestedSchema": {"type": "object", "properties": {
            "a": {"type": "string"},
            "b": {"type": "boolean", "default": true},
            "c": {"type": "string", "enum": ["r", "g"], "enumNames": ["Red", "g"]},
        }}})
    );
    assert!(to_legacy(&form, "2025-03-26", "e").is_err());
    let several = question(
        Method::Elicit,
        r#"{"message":"m","requestedSchema":{"properties":{"a":{"type":"array","items":{}}}}}"#,
    );
    assert!(to_legacy(&several, "2025-06-18", "e").expect_err("several choices").contains("\"a\""));
}

#[test]
fn a_url_has_an_id_and_samples_have_one_part() {
    let url = question(Method::Elicit, r#"{"mode":"url","url":"a:b","message":"m"}"#);
    let asked = to_legacy(&url, "2025-11-25", "e1").expect("it can be asked");
    assert!(text(&asked).ends_with(r#""elicitationId":"e1"}"#));
    assert!(to_legacy(&url, "2025-06-18", "e1").is_err());
    let sample = |content: &str| {
        let sample = question(
            Method::CreateMessage,
            &format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#),
        );
        to_legacy(&sample, "2025-06-18", "")
    };
    assert!(
        text(&sample(r#"[{"type":"text","text":"x"}]"#).expect("one part"))
            .contains(r#""content":{"text":"x","type":"text"}"#)
    );
    assert!(sample(r#"[{},{}]"#).is_err());
}

#[test]
fn a_request_of_a_legacy_server_is_an_input_request() {
    let asked = to_modern(Method::Elicit, br#"{"message":"m","elicitationId":"e","task":{},"_meta":{}}"#);
    assert_eq!(
        text(&asked.expect("a question")),
        r#"{"method":"elicitation/create","params":{"message":"m"}}"#
    );
    assert_eq!(to_modern(Method::Ping, b"{}"), None);
    let result = input_required(&[("1".into(), b"{}".to_vec()), ("2\"".into(), b"[]".to_vec())], "s\"");
    assert_eq!(
        text(&result),
        r#"{"resultType":"input_required","inputRequests":{"1":{},"2\"":[]},"requestState":"s\""}"#
    );
    let answers = input_responses(&[("a\"".into(), b"{\"x\":1}".to_vec()), ("b".into(), b"{}".to_vec())]);
    assert_eq!(text(&answers), r#"{"a\"":{"x":1},"b":{}}"#);
    let error = br#"{"code":-32042,"message":"m","data":{"elicitations":[{"mode":"url","elicitationId":"1","url":"a:b","message":"open"}]}}"#;
    let asked = of_error(error).expect("one question");
    assert_eq!(asked.len(), 1);
    assert!(text(&asked[0]).contains(r#""url":"a:b""#));
    assert_eq!(of_error(br#"{"code":-32042}"#), None);
}
