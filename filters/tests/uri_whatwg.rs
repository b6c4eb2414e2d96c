//! Normal forms of URIs against WHATWG URL, the standard of browsers and Node. For every URI with a normal
//! form such a reader finds the same host and port.

use filters::uri::normalize;
use proptest::prelude::*;
use url::Url;

fn host() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("internal.example".to_owned()),
        Just("127.0.0.1".to_owned()),
        Just("localhost".to_owned()),
        "[a-zA-Z0-9._~!$&'()*+,;=-]{1,6}",
        "(0x|0X|0)?[0-9a-f]{1,4}",
        "\\[[0-9a-fA-F:.]{2,12}\\]",
        "(xn--|XN--)[a-z0-9-]{0,6}",
        "%[0-9a-fA-F]{2}",
        prop::sample::select(vec![
            ".", ":", "@", "/", "\u{ad}", "。", "ｉ", "ı", "ſ", "K", "ß", "²", " ", "\\", "|"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 1..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_has_a_normal_form_names_one_host(
        scheme in "(https?|wss?|ftp|HTTPS|file)",
        slashes in prop_oneof![1 => "/{0,4}", 4 => Just("//".to_owned())],
        host in host(),
        port in prop_oneof![3 => Just(String::new()), 2 => ":[0-9]{0,6}"],
        path in "(/[a-z]{0,3}){0,2}",
    ) {
        let uri = format!("{scheme}:{slashes}{host}{port}{path}");
        if let (Ok(normal), Ok(theirs)) = (normalize(&uri), Url::parse(&uri)) {
            let (head, rest) = normal.split_once("://").expect("a host");
            prop_assert_eq!(head, theirs.scheme(), "{} {}", uri, normal);
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let port = theirs.port().map_or_else(String::new, |port| format!(":{port}"));
            // A dot at the end names the same host.
            let host = theirs.host_str().unwrap_or_default();
            let read = format!("{}{port}", host.strip_suffix('.').unwrap_or(host));
            prop_assert_eq!(authority, read, "{} {}", uri, normal);
            prop_assert_eq!(theirs.username(), "", "{} {}", uri, normal);
            prop_assert_eq!(path.is_empty(), theirs.path().is_empty(), "{} {}", uri, normal);
            prop_assert_eq!(filters::uri::normalize(&normal), Ok(normal.clone()), "{}", uri);
        }
    }
}
