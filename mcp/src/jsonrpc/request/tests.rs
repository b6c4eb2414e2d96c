use super::*;

fn why(body: &str) -> ParseErrorKind {
    read(body.as_bytes(), 64).expect_err(body).kind
}

#[test]
fn a_call_is_read_as_places_in_its_bytes() {
    let body = br#" {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"s__t","arguments":{"x":[1]},"_meta":{"progressToken":7}}} "#;
    let rpc = read(body, 64).expect("a valid call");
    assert_eq!(rpc.kind, MessageKind::Request);
    assert_eq!(rpc.id.expect("id").of(body), b"\"a\"");
    assert_eq!(rpc.method_name(body), "tools/call");
    assert_eq!(rpc.name.expect("name").read(body), "s__t");
    assert_eq!(rpc.arguments.expect("arguments").of(body), br#"{"x":[1]}"#);
    assert_eq!(rpc.meta.progress_token.expect("token").of(body), b"7");
}

#[test]
fn what_another_reader_could_take_differently_is_refused() {
    let dup = |key: &str| ParseErrorKind::DuplicateKey(key.into());
    for (body, expected) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#, dup("method")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","m\u0065thod":"b"}"#, dup("method")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","x":1,"x":2}"#, dup("x")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"a","n\u0061me":"b"}}"#, dup("name")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":{"q":1,"q":1}}}"#, dup("q")),
        (r#"{"jsonrpc":"2.0","id":1,"Method":"a"}"#, ParseErrorKind::LookalikeKey("Method".into(), "method")),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","paramſ":{}}"#,
            ParseErrorKind::LookalikeKey("paramſ".into(), "params"),
        ),
        (r#"{"jsonrpc":"2.0","ıd":1,"method":"a"}"#, ParseErrorKind::LookalikeKey("ıd".into(), "id")),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"notiﬁcations":{}}}"#,
            ParseErrorKind::LookalikeKey("notiﬁcations".into(), "notifications"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"reque\u017Ftid":1}}"#,
            ParseErrorKind::LookalikeKey("requeſtid".into(), "requestId"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":{"progreẞToken":1}}}"#,
            ParseErrorKind::LookalikeKey("progreẞToken".into(), "progressToken"),
        ),
        (r#"{"jsonrpc":"2.0","İD":1,"method":"a"}"#, ParseErrorKind::LookalikeKey("İD".into(), "id")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[]}"#, ParseErrorKind::Object("params")),
        (r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#, ParseErrorKind::Id),
        (r#"{"jsonrpc":"2.0","id":1.0,"method":"a"}"#, ParseErrorKind::Id),
        (r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#, ParseErrorKind::Version),
        (r#"{"id":1,"method":"a"}"#, ParseErrorKind::Version),
        (r#"{"jsonrpc":"2.0","id":1}"#, ParseErrorKind::Method),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","result":{}}"#, ParseErrorKind::Shape),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, ParseErrorKind::Shape),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"a"}]"#, ParseErrorKind::Batch),
        (r#""x""#, ParseErrorKind::NotAnObject),
    ] {
        assert_eq!(why(body), expected, "{body}");
    }
}

#[test]
fn the_id_is_known_even_if_it_comes_after_the_error() {
    let body = br#"{"jsonrpc":"2.0","method":1,"id":42}"#;
    let refused = read(body, 64).expect_err("method is no string");
    assert_eq!(refused.id.expect("id").of(body), b"42");
}

#[test]
fn depth_is_counted_over_the_whole_message() {
    let deep = |n: usize| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"arguments":{{"x":{}{}}}}}}}"#,
            "[".repeat(n),
            "]".repeat(n)
        )
    };
    assert!(read(deep(61).as_bytes(), 64).is_ok());
    assert!(matches!(why(&deep(62)), ParseErrorKind::Json(JsonError { kind: JsonErrorKind::Depth, .. })));
}
