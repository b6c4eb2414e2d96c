//! Tokens that are accepted or rejected by their claims.

use jsonwebtoken::Algorithm as Alg;
use serde_json::json;

use crate::cases::{Case, MALFORMED};
use crate::mint::*;

pub fn claim_cases_table() -> Vec<Case> {
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
        ("no exp", valid(json!({"exp": null})), missing),
        ("exp null", written("null"), MALFORMED),
        ("exp past", valid(json!({"exp": NOW - 600})), expired),
        ("exp exactly at the end of the leeway", valid(json!({"exp": NOW - LEEWAY})), expired),
        ("exp zero", valid(json!({"exp": 0})), expired),
        ("exp a string", valid(json!({"exp": (NOW + 600).to_string()})), MALFORMED),
        ("exp true", valid(json!({"exp": true})), MALFORMED),
        ("exp a list", valid(json!({"exp": [NOW + 600]})), MALFORMED),
        ("exp negative", valid(json!({"exp": -1})), MALFORMED),
        ("exp the largest 64-bit number", written("18446744073709551615"), MALFORMED),
        ("exp larger than 64 bits", written("99999999999999999999999"), MALFORMED),
        ("exp 1e308", written("1e308"), MALFORMED),
        ("exp 1e999", written("1e999"), MALFORMED),
        ("exp NaN", written("NaN"), MALFORMED),
        ("exp Infinity", written("Infinity"), MALFORMED),
        ("exp in milliseconds", valid(json!({"exp": (NOW + 600) * 1000})), MALFORMED),
        ("nbf in the future", valid(json!({"nbf": NOW + LEEWAY + 1})), early),
        ("nbf a string", valid(json!({"nbf": "0"})), MALFORMED),
        ("iat in the future", valid(json!({"iat": NOW + LEEWAY + 1})), early),
        ("iat a string", valid(json!({"iat": "yesterday"})), MALFORMED),
        ("no aud", valid(json!({"aud": null})), missing),
        ("another aud", valid(json!({"aud": "https://other.example"})), audience),
        ("aud that begins like ours", valid(json!({"aud": format!("{AUDIENCE}/x")})), audience),
        ("aud that ours begins with", valid(json!({"aud": "https://gateway.example"})), audience),
        ("aud in another case", valid(json!({"aud": "https://Gateway.example/mcp"})), audience),
        ("aud with a slash more", valid(json!({"aud": format!("{AUDIENCE}/")})), audience),
        ("aud empty", valid(json!({"aud": ""})), audience),
        ("aud an empty list", valid(json!({"aud": []})), audience),
        ("aud a list without ours", valid(json!({"aud": ["a", "b"]})), audience),
        ("aud a list with a number", valid(json!({"aud": [AUDIENCE, 1]})), MALFORMED),
        ("aud a list in a list", valid(json!({"aud": [[AUDIENCE]]})), MALFORMED),
        ("aud an object", valid(json!({"aud": {AUDIENCE: true}})), MALFORMED),
        ("no iss", valid(json!({"iss": null})), missing),
        ("an unknown iss", valid(json!({"iss": "https://evil.example"})), issuer),
        ("iss with a slash more", valid(json!({"iss": format!("{ALPHA}/")})), issuer),
        ("iss in another case", valid(json!({"iss": "https://ALPHA.example"})), issuer),
        ("iss with a look-alike letter", valid(json!({"iss": "https://\u{0430}lpha.example"})), issuer),
        ("iss with a space", valid(json!({"iss": format!(" {ALPHA}")})), issuer),
        ("iss a list", valid(json!({"iss": [ALPHA]})), MALFORMED),
        ("no sub", valid(json!({"sub": null})), missing),
        ("sub empty", valid(json!({"sub": ""})), MALFORMED),
        ("sub with a line break", valid(json!({"sub": "ada\nroot"})), MALFORMED),
        ("sub that turns text around", valid(json!({"sub": "\u{202e}toor"})), MALFORMED),
        ("sub too long", valid(json!({"sub": "x".repeat(257)})), MALFORMED),
        ("sub an object", valid(json!({"sub": {"name": "ada"}})), MALFORMED),
        ("roles with a number", valid(json!({"roles": ["dev", 1]})), MALFORMED),
        ("roles an object", valid(json!({"roles": {"admin": true}})), MALFORMED),
        ("more roles than are read", valid(json!({"roles": names})), MALFORMED),
        ("scope a number", valid(json!({"scope": 1})), MALFORMED),
    ]
}
