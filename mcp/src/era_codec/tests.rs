use super::*;
use crate::jsonrpc::message::read;

const LEGACY: EraCodec = Era::Legacy.codec();
const MODERN: EraCodec = Era::Modern.codec();
const INFO: &str = r#"{"name":"n","version":"1"}"#;

#[test]
fn each_served_version_is_of_the_era_whose_codec_names_it() {
    for era in Era::ALL {
        let codec = era.codec();
        assert_eq!((codec.era(), codec.versions()[0]), (era, codec.newest_version()));
        for version in codec.versions() {
            assert_eq!(Era::of_version(version), era, "{version}");
            assert!(!era.other().codec().versions().contains(version), "{version}");
        }
    }
    assert_eq!(Era::of_version("2999-01-01"), Era::Modern, "newer than the last version with `initialize`");
}

#[test]
fn errors_have_the_status_of_their_era() {
    for (error_code, modern) in [
        (code::METHOD_NOT_FOUND, 404),
        (code::PARSE, 400),
        (code::INVALID_REQUEST, 400),
        (code::INVALID_PARAMS, 400),
        (code::HEADER_MISMATCH, 400),
        (code::MISSING_CAPABILITY, 400),
        (code::UNSUPPORTED_VERSION, 400),
        (code::RESOURCE_NOT_FOUND, 200),
        (-32603, 200),
        (-1, 200),
    ] {
        assert_eq!(
            (LEGACY.status_of(error_code), MODERN.status_of(error_code)),
            (200, modern),
            "{error_code}"
        );
    }
    assert_eq!((LEGACY.resource_not_found(), MODERN.resource_not_found()), (-32002, -32602));
    assert_eq!((LEGACY.era_mismatch(), MODERN.era_mismatch()), (-32022, 400));
}

#[test]
fn a_rejection_of_a_kind_of_request_is_no_passing_trouble() {
    let codes: Vec<i64> = (-32800..-31900).filter(|error_code| is_rejection_code(*error_code)).collect();
    assert_eq!(codes, [-32602, -32601, -32600, -32022, -32021, -32020]);
    let statuses: Vec<u16> = (100..600).filter(|status| is_rejection_status(*status)).collect();
    assert_eq!(statuses, [400, 404, 405, 406, 415]);
    let error = |error_code: i64, version: &str| {
        format!(r#"{{"code":{error_code},"message":"m","data":{{"supported":["{version}"]}}}}"#)
    };
    assert!(is_of_modern_server(error(-32022, "2026-07-28").as_bytes()));
    for other in [error(-32022, "2025-11-25"), error(-32602, "2026-07-28"), r#"{"code":-32022}"#.to_owned()] {
        assert!(!is_of_modern_server(other.as_bytes()), "{other}");
    }
}

#[test]
fn a_request_has_the_headers_of_its_servers_era_and_no_others() {
    let sent = |codec: EraCodec, session| {
        let mut headers = codec.mirrored_headers("tools/call", br#"{"name":"caf\u00e9"}"#);
        codec.add_headers(&mut headers, session);
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("visible ASCII")))
            .collect();
        lines.sort();
        lines
    };
    let id = HeaderValue::from_static("s1");
    let session = Some(("2025-06-18", Some(&id)));
    assert_eq!(sent(LEGACY, session), ["mcp-protocol-version: 2025-06-18", "mcp-session-id: s1"]);
    assert_eq!(sent(LEGACY, Some(("2025-06-18", None))), ["mcp-protocol-version: 2025-06-18"]);
    assert!(sent(LEGACY, None).is_empty(), "before `initialize` nothing is negotiated");
    let modern =
        ["mcp-method: tools/call", "mcp-name: =?base64?Y2Fmw6k=?=", "mcp-protocol-version: 2026-07-28"];
    assert_eq!(
        (sent(MODERN, None), sent(MODERN, session)),
        (modern.map(str::to_owned).to_vec(), modern.map(str::to_owned).to_vec())
    );
}

#[test]
fn the_name_in_the_header_is_that_which_the_method_has() {
    let params = br#"{"name":"n","uri":"u","taskId":"t"}"#;
    for (method, name) in [
        ("tools/call", Some("n")),
        ("prompts/get", Some("n")),
        ("resources/read", Some("u")),
        ("tasks/get", Some("t")),
        ("tasks/update", Some("t")),
        ("tasks/cancel", Some("t")),
        ("tools/list", None),
        ("completion/complete", None),
        ("x/own", None),
    ] {
        let headers = MODERN.mirrored_headers(method, params);
        assert_eq!(headers.get(&header_name::METHOD).expect("a method"), method);
        assert_eq!(
            headers.get(&header_name::NAME).map(|value| value.to_str().expect("ASCII")),
            name,
            "{method}"
        );
        assert_eq!(name.is_some(), Method::parse(method).has_name(), "{method}");
    }
}

#[test]
fn the_handshake_is_the_one_of_the_era() {
    for (codec, method, params, next) in [
        (
            LEGACY,
            "initialize",
            r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"n","version":"1"}}"#,
            Some("notifications/initialized"),
        ),
        (
            MODERN,
            "server/discover",
            r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"n","version":"1"}}}"#,
            None,
        ),
    ] {
        assert_eq!((codec.handshake_method(), codec.handshake_notification()), (method, next));
        assert_eq!(codec.handshake_params(INFO), params);
        for word in [Some(codec.handshake_method()), Some(codec.health_check()), codec.listen_method()] {
            let row = word.map(|word| codec.rule(Sender::Client, MessageKind::Request, word));
            assert!(row.is_none_or(|row| row.is_some()), "{word:?} is a method of the era");
        }
    }
    assert_eq!(LEGACY.params(r#""a":1"#, INFO), r#"{"a":1}"#);
    assert!(MODERN.params(r#""a":1"#, INFO).starts_with(br#"{"a":1,"_meta":{"io.m"#));
    let result = br#"{"protocolVersion":"2025-03-26"}"#;
    assert_eq!(LEGACY.handshake_version(result).as_deref(), Some("2025-03-26"));
    assert_eq!(MODERN.handshake_version(result).as_deref(), Some("2026-07-28"));
    assert_eq!(LEGACY.handshake_version(b"{}"), None);
}

#[test]
fn a_result_has_the_members_of_its_clients_era() {
    let cache = Cache { ttl_ms: 7, public: true };
    assert!(LEGACY.list_members(cache, b"{}").is_empty() && LEGACY.result_type().is_empty());
    assert_eq!(
        String::from_utf8(MODERN.list_members(cache, b"{}")).expect("text"),
        r#","resultType":"complete","ttlMs":7,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{}}"#
    );
    let result =
        |codec: EraCodec| codec.handshake_result("2025-06-18", b"{}", INFO.as_bytes(), Some(b"\"i\""));
    assert_eq!(
        result(LEGACY),
        r#"{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"n","version":"1"},"instructions":"i"}"#
    );
    assert_eq!(
        result(MODERN),
        r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"ttlMs":0,"cacheScope":"private","capabilities":{},"instructions":"i","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1"}}}"#
    );
    assert_eq!(
        MODERN.subscription_result("7", b"{}"),
        r#"{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":7,"io.modelcontextprotocol/serverInfo":{}}}"#
    );
    let whole = message::result(b"1", &result(MODERN));
    assert!(read(&whole).is_some_and(|read| read.is_response()));
    assert_eq!(MODERN.unsupported_version("x"), r#"{"supported":["2026-07-28"],"requested":"x"}"#);
}

#[test]
fn sessions_end_and_messages_come_unasked_only_where_there_are_sessions() {
    assert!(LEGACY.has_sessions() && LEGACY.has_nameless_messages() && !LEGACY.disconnect_cancels());
    assert!(!MODERN.has_sessions() && !MODERN.has_nameless_messages() && MODERN.disconnect_cancels());
    assert!(MODERN.has_mirrored_headers() && !LEGACY.has_mirrored_headers());
    for (codec, status, has_id, expired) in [
        (LEGACY, 404, true, true),
        (LEGACY, 404, false, false),
        (LEGACY, 400, true, false),
        (MODERN, 404, true, false),
    ] {
        assert_eq!(codec.is_session_expired(status, has_id), expired, "{codec:?} {status}");
    }
}
