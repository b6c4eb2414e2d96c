//! Tokens whose claims decide.

use serde_json::{Value, json};

use crate::mint::*;

pub fn judged_claims() -> Vec<Case> {
    let (missing, expired, early) =
        (Some("missing_claim"), Some("token_expired"), Some("token_not_yet_valid"));
    let (audience, issuer) = (Some("wrong_audience"), Some("wrong_issuer"));
    let written = |exp: &str| {
        let text = claims(json!({"exp": null})).to_string();
        let payload = format!("{},\"exp\":{exp}}}", &text[..text.len() - 1]);
        raw(r#"{"alg":"RS256","kid":"rsa"}"#, payload, &rsa(), Alg::RS256)
    };
    let names: Vec<String> = (0..600).map(|n| format!("r{n}")).collect();
    vec![
        ("no exp", sound(json!({"exp": null})), missing),
        ("exp null", written("null"), MALFORMED),
        ("exp past", sound(json!({"exp": NOW - 600})), expired),
        ("exp exactly at the end of the leeway", sound(json!({"exp": NOW - LEEWAY})), expired),
        ("exp zero", sound(json!({"exp": 0})), expired),
        ("exp a string", sound(json!({"exp": (NOW + 600).to_string()})), MALFORMED),
        ("exp true", sound(json!({"exp": true})), MALFORMED),
        ("exp a list", sound(json!({"exp": [NOW + 600]})), MALFORMED),
        ("exp negative", sound(json!({"exp": -1})), MALFORMED),
        ("exp the largest 64-bit number", written("18446744073709551615"), MALFORMED),
        ("exp larger than 64 bits", written("99999999999999999999999"), MALFORMED),
        ("exp 1e308", written("1e308"), MALFORMED),
        ("exp 1e999", written("1e999"), MALFORMED),
        ("exp NaN", written("NaN"), MALFORMED),
        ("exp Infinity", written("Infinity"), MALFORMED),
        ("exp in milliseconds", sound(json!({"exp": (NOW + 600) * 1000})), MALFORMED),
        ("nbf in the future", sound(json!({"nbf": NOW + LEEWAY + 1})), early),
        ("nbf a string", sound(json!({"nbf": "0"})), MALFORMED),
        ("iat in the future", sound(json!({"iat": NOW + LEEWAY + 1})), early),
        ("iat a string", sound(json!({"iat": "yesterday"})), MALFORMED),
        ("no aud", sound(json!({"aud": null})), missing),
        ("another aud", sound(json!({"aud": "https://other.example"})), audience),
        ("aud that begins like ours", sound(json!({"aud": format!("{AUDIENCE}/x")})), audience),
        ("aud that ours begins with", sound(json!({"aud": "https://gateway.example"})), audience),
        ("aud in another case", sound(json!({"aud": "https://Gateway.example/mcp"})), audience),
        ("aud with a slash more", sound(json!({"aud": format!("{AUDIENCE}/")})), audience),
        ("aud empty", sound(json!({"aud": ""})), audience),
        ("aud an empty list", sound(json!({"aud": []})), audience),
        ("aud a list without ours", sound(json!({"aud": ["a", "b"]})), audience),
        ("aud a list with a number", sound(json!({"aud": [AUDIENCE, 1]})), MALFORMED),
        ("aud a list in a list", sound(json!({"aud": [[AUDIENCE]]})), MALFORMED),
        ("aud an object", sound(json!({"aud": {AUDIENCE: true}})), MALFORMED),
        ("no iss", sound(json!({"iss": null})), missing),
        ("an unknown iss", sound(json!({"iss": "https://evil.example"})), issuer),
        ("iss with a slash more", sound(json!({"iss": format!("{ALPHA}/")})), issuer),
        ("iss in another case", sound(json!({"iss": "https://ALPHA.example"})), issuer),
        ("iss with a look-alike letter", sound(json!({"iss": "https://\u{0430}lpha.example"})), issuer),
        ("iss with a space", sound(json!({"iss": format!(" {ALPHA}")})), issuer),
        ("iss a list", sound(json!({"iss": [ALPHA]})), MALFORMED),
        ("no sub", sound(json!({"sub": null})), missing),
        ("sub empty", sound(json!({"sub": ""})), MALFORMED),
        ("sub with a line break", sound(json!({"sub": "ada\nroot"})), MALFORMED),
        ("sub that turns text around", sound(json!({"sub": "\u{202e}toor"})), MALFORMED),
        ("sub too long", sound(json!({"sub": "x".repeat(257)})), MALFORMED),
        ("sub an object", sound(json!({"sub": {"name": "ada"}})), MALFORMED),
        ("roles with a number", sound(json!({"roles": ["dev", 1]})), MALFORMED),
        ("roles an object", sound(json!({"roles": {"admin": true}})), MALFORMED),
        ("more roles than are read", sound(json!({"roles": names})), MALFORMED),
        ("scope a number", sound(json!({"scope": 1})), MALFORMED),
    ]
}
