//! Arguments that a head repeats: which schemas can be followed, and which heads agree.

use filters::RequestHead;
use filters::param_headers::{InvalidParamHeader, ParamHeaders};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mcp::Rejection;

/// The headers of a call, and its arguments.
type Case = (&'static [(&'static str, &'static [u8])], &'static str);

fn schema(properties: &str) -> String {
    format!(r#"{{"type":"object","properties":{{{properties}}}}}"#)
}

fn mirrors() -> ParamHeaders {
    let schema = schema(
        r#""region":{"type":"string","x-mcp-header":"Region"},"count":{"x-mcp-header":"Count","type":"integer"},
           "urgent":{"type":"boolean","x-mcp-header":"Urgent"},"free":{"type":"string"},
           "deep":{"type":"object","properties":{"er":{"type":"string","x-mcp-header":"Deeper"}}}"#,
    );
    ParamHeaders::read(schema.as_bytes()).expect("sound annotations").expect("some")
}

fn agree(headers: &[(&str, &[u8])], arguments: Option<&str>) -> Result<(), Rejection> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        map.append(name, HeaderValue::from_bytes(value).expect("a value"));
    }
    let head = RequestHead {
        http_method: &Method::POST,
        path: "/mcp",
        headers: &map,
        authority: None,
        peer: None,
        certificate: None,
        is_network: true,
    };
    mirrors().verify(&head, arguments.map(str::as_bytes))
}

#[test]
fn a_head_that_repeats_its_arguments_is_let_through() {
    let cases: &[Case] = &[
        (&[], "{}"),
        (&[], r#"{"region":null,"count":null,"free":"x"}"#),
        (&[], r#"{"region":{"no":"header"},"count":[1]}"#),
        (&[("Mcp-Param-Region", b"eu")], r#"{"region":"eu"}"#),
        (&[("mcp-param-region", b"")], r#"{"region":""}"#),
        (&[("mcp-param-region", b"=?base64?ZXU=?=")], r#"{"region":"eu"}"#),
        (&[("mcp-param-region", b"=?base64?R3LDvMOfZQ==?=")], r#"{"region":"Grüße"}"#),
        (&[("mcp-param-region", b"=?base64?R3LDvMOfZQ==?=")], r#"{"region":"Gr\u00fc\u00dfe"}"#),
        (&[("mcp-param-region", b"=?base64?PT9iYXNlNjQ/ZXU9Pz0=?=")], r#"{"region":"=?base64?eu=?="}"#),
        (&[("mcp-param-region", b"eu")], r#"{"re\u0067ion":"eu"}"#),
        (&[("mcp-param-count", b"42")], r#"{"count":42}"#),
        (&[("mcp-param-count", b"42.0")], r#"{"count":42}"#),
        (&[("mcp-param-count", b"42")], r#"{"count":42.000}"#),
        (&[("mcp-param-count", b"1000")], r#"{"count":1e3}"#),
        (&[("mcp-param-count", b"1e3")], r#"{"count":1e3}"#),
        (&[("mcp-param-count", b"0")], r#"{"count":-0}"#),
        (&[("mcp-param-count", b"-7")], r#"{"count":-7.0}"#),
        (&[("mcp-param-count", b"4.5")], r#"{"count":4.5}"#),
        (&[("mcp-param-count", b"-450")], r#"{"count":-0.0450e+4}"#),
        (&[("mcp-param-count", b"45.0")], r#"{"count":4500e-2}"#),
        (&[("mcp-param-count", b"0")], r#"{"count":0.0e-400}"#),
        (&[("mcp-param-count", b"1e400")], r#"{"count":1e400}"#),
        (
            &[("mcp-param-count", b"9007199254740993000000000001")],
            r#"{"count":9007199254740993000000000001}"#,
        ),
        (&[("mcp-param-urgent", b"true")], r#"{"urgent":true}"#),
        (&[("mcp-param-urgent", b"false")], r#"{"urgent":false}"#),
        (&[("mcp-param-deeper", b"x")], r#"{"deep":{"er":"x"}}"#),
        (&[("mcp-param-other", b"anything"), ("mcp-param-other", b"twice")], "{}"),
    ];
    for (headers, arguments) in cases {
        if let Err(rejection) = agree(headers, Some(arguments)) {
            panic!("{headers:?} {arguments}: {}", rejection.message);
        }
    }
    agree(&[], None).expect("no arguments, nothing to repeat");
}

#[test]
fn a_head_that_tells_another_story_is_refused() {
    let cases: &[Case] = &[
        (&[], r#"{"region":"eu"}"#),
        (&[], r#"{"urgent":false}"#),
        (&[], r#"{"region":""}"#),
        (&[("mcp-param-region", b"us")], r#"{"region":"eu"}"#),
        (&[("mcp-param-region", b"EU")], r#"{"region":"eu"}"#),
        (&[("mcp-param-region", b"eu")], "{}"),
        (&[("mcp-param-region", b"eu")], r#"{"region":null}"#),
        (&[("mcp-param-region", b"null")], r#"{"region":null}"#),
        (&[("mcp-param-region", b"eu")], r#"{"region":["eu"]}"#),
        (&[("mcp-param-region", b"eu"), ("mcp-param-region", b"eu")], r#"{"region":"eu"}"#),
        (&[("mcp-param-region", b"Gr\xc3\xbc\xc3\x9fe")], r#"{"region":"Grüße"}"#),
        (&[("mcp-param-region", b"=?base64?ZXU?=")], r#"{"region":"eu"}"#),
        (&[("mcp-param-region", b"=?base64?ZXX=?=")], r#"{"region":"eu"}"#),
        (&[("mcp-param-region", b"=?base64?eu=?=")], r#"{"region":"=?base64?eu=?="}"#),
        (&[("mcp-param-region", b"eu")], r#"{"region":"eu","region":"eu"}"#),
        (&[("mcp-param-region", b"eu")], r#"{"region":"us","re\u0067ion":"eu"}"#),
        (&[("mcp-param-count", b"43")], r#"{"count":42}"#),
        (&[("mcp-param-count", b"42.5")], r#"{"count":42}"#),
        (&[("mcp-param-count", b"")], r#"{"count":0}"#),
        (&[("mcp-param-count", b".")], r#"{"count":0}"#),
        (&[("mcp-param-count", b"-")], r#"{"count":0}"#),
        (&[("mcp-param-count", b"0x2a")], r#"{"count":42}"#),
        (&[("mcp-param-count", b"9007199254740992")], r#"{"count":9007199254740993}"#),
        (&[("mcp-param-count", b"4.2e1")], r#"{"count":42}"#),
        (&[("mcp-param-count", b"9007199254740992")], r#"{"count":9007199254740993e0}"#),
        (&[("mcp-param-count", b"1")], r#"{"count":0.99999999999999999999e0}"#),
        (&[("mcp-param-count", b"0")], r#"{"count":1e-400}"#),
        (&[("mcp-param-urgent", b"1")], r#"{"urgent":true}"#),
        (&[("mcp-param-urgent", b"True")], r#"{"urgent":true}"#),
        (&[("mcp-param-deeper", b"x")], r#"{"er":"x"}"#),
        (&[("mcp-param-deeper", b"x")], r#"{"deep":"x"}"#),
    ];
    for (headers, arguments) in cases {
        let rejection = agree(headers, Some(arguments)).expect_err(arguments);
        assert_eq!((rejection.status, rejection.code), (400, -32020), "{headers:?} {arguments}");
    }
    agree(&[("mcp-param-region", b"eu")], None).expect_err("no arguments at all");
}

#[test]
fn invalid_annotations_are_distinguished_from_valid_ones() {
    let many: Vec<String> =
        (0..65).map(|n| format!(r#""a{n}":{{"type":"string","x-mcp-header":"A{n}"}}"#)).collect();
    let cases: &[(&str, Option<InvalidParamHeader>)] = &[
        (r#""a":{"type":"string","x-mcp-header":"A"}"#, None),
        (r#""a":{"type":"string","x-mcp-\u0068eader":"!#$%&'*+-.^_`|~"}"#, None),
        (r#""a":{"type":"string","default":{"x-mcp-header":7}}"#, None),
        (r#""a":{"type":"string","x-mcp-header":""}"#, Some(InvalidParamHeader::Name("a".into()))),
        (r#""a":{"type":"string","x-mcp-header":7}"#, Some(InvalidParamHeader::Name("a".into()))),
        (r#""a":{"type":"string","x-mcp-header":"A B"}"#, Some(InvalidParamHeader::Name("a".into()))),
        (r#""a":{"type":"string","x-mcp-header":"A:B"}"#, Some(InvalidParamHeader::Name("a".into()))),
        (r#""a":{"type":"string","x-mcp-header":"Ä"}"#, Some(InvalidParamHeader::Name("a".into()))),
        (r#""a":{"type":"string","x-mcp-header":"A\t"}"#, Some(InvalidParamHeader::Name("a".into()))),
        (r#""a":{"type":"number","x-mcp-header":"A"}"#, Some(InvalidParamHeader::Type("a".into()))),
        (r#""a":{"type":["string"],"x-mcp-header":"A"}"#, Some(InvalidParamHeader::Type("a".into()))),
        (r#""a":{"x-mcp-header":"A"}"#, Some(InvalidParamHeader::Type("a".into()))),
        (
            r#""a":{"type":"array","items":{"type":"string","x-mcp-header":"A"}}"#,
            Some(InvalidParamHeader::Place),
        ),
        (r#""a":{"allOf":[{"type":"string","x-mcp-header":"A"}]}"#, Some(InvalidParamHeader::Place)),
        (
            r#""a":{"$defs":{"b":{"properties":{"c":{"type":"string","x-mcp-header":"A"}}}}}"#,
            Some(InvalidParamHeader::Place),
        ),
        (
            r#""a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}"#,
            Some(InvalidParamHeader::Duplicate("b".into())),
        ),
        (&many.join(","), Some(InvalidParamHeader::TooMany)),
    ];
    for (properties, expected) in cases {
        let read = ParamHeaders::read(schema(properties).as_bytes());
        assert_eq!(read.err().as_ref(), expected.as_ref(), "{properties}");
    }
    assert_eq!(ParamHeaders::read(br#"{"x-mcp-header":"A"}"#), Err(InvalidParamHeader::Place), "at the root");
    assert_eq!(ParamHeaders::read(schema(r#""a":{"type":"string"}"#).as_bytes()), Ok(None));
}

#[test]
fn what_is_made_of_arguments_agrees_with_them() {
    let arguments = r#"{"region":" Grüße\n","count":4.20e1,"urgent":false,"deep":{"er":"=?base64?x?="}}"#;
    let made = mirrors().headers(Some(arguments.as_bytes()));
    let made: Vec<(&str, &[u8])> =
        made.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(made.len(), 4);
    assert!(made.contains(&("mcp-param-count", b"42")));
    agree(&made, Some(arguments)).expect("our own head agrees");
    assert!(mirrors().headers(Some(br#"{"region":null}"#)).is_empty());
}
