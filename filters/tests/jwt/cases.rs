//! Single tokens: which are accepted, and the reasons for the rejection of all others.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm as Alg, EncodingKey};
use serde_json::{Value, json};

use crate::claim_cases::claim_cases_table;
use crate::mint::*;

/// `None` is accepted.
pub type Case = (&'static str, String, Option<&'static str>);

pub const MALFORMED: Option<&str> = Some("token_malformed");
const ALGORITHM: Option<&str> = Some("algorithm_not_allowed");
const SIGNATURE: Option<&str> = Some("bad_signature");
const UNKNOWN_KEY: Option<&str> = Some("unknown_key");

/// The parts of a valid token.
fn parts() -> [String; 3] {
    let token = valid(json!({}));
    let parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts.try_into().expect("three parts")
}

fn decoded(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(part).expect("base64url")
}

fn unsigned(header: Value) -> String {
    format!("{}.{}.", base64(header.to_string()), base64(claims(json!({})).to_string()))
}

/// With a signature of these bytes.
fn signed_with(header: Value, payload: Value, signature: &[u8]) -> String {
    format!("{}.{}.{}", base64(header.to_string()), base64(payload.to_string()), base64(signature))
}

fn hs(issuer: &str, alg: &str, secret: &[u8]) -> String {
    let kind = match alg {
        "HS384" => Alg::HS384,
        "HS512" => Alg::HS512,
        _ => Alg::HS256,
    };
    token(json!({"alg": alg}), claims(json!({"iss": issuer})), &EncodingKey::from_secret(secret), kind)
}

fn accepted() -> Vec<Case> {
    let by = |alg: &str, kid: &str, key: EncodingKey, kind| {
        token(json!({"alg": alg, "kid": kid, "typ": "JWT"}), claims(json!({})), &key, kind)
    };
    vec![
        ("RS256", by("RS256", "rsa", rsa(), Alg::RS256), None),
        ("PS256 with the RSA key", by("PS256", "rsa", rsa(), Alg::PS256), None),
        ("PS256 with a key for it alone", by("PS256", "pss-only", rsa(), Alg::PS256), None),
        ("ES256", by("ES256", "p256", p256(), Alg::ES256), None),
        ("ES384", by("ES384", "p384", p384(), Alg::ES384), None),
        ("EdDSA", by("EdDSA", "ed", ed25519(), Alg::EdDSA), None),
        ("Ed25519, its newer name", by("Ed25519", "ed", ed25519(), Alg::EdDSA), None),
        ("HS256 with the shared secret", hs(SHARED, "HS256", SECRET), None),
        ("no kid: each key that fits is tried", headed(json!({"kid": null})), None),
        (
            "a PEM key has no name, whatever kid says",
            token(json!({"alg": "RS256", "kid": "any"}), claims(json!({"iss": MUDDLED})), &rsa(), Alg::RS256),
            None,
        ),
        ("typ at+jwt", headed(json!({"typ": "at+jwt"})), None),
        ("typ application/at+JWT", headed(json!({"typ": "application/at+JWT"})), None),
        ("typ jwt", headed(json!({"typ": "jwt"})), None),
        ("aud as a list", valid(json!({"aud": ["x", AUDIENCE]})), None),
        ("the other audience", valid(json!({"aud": "https://gateway.example/other"})), None),
        ("exp within the leeway", valid(json!({"exp": NOW - LEEWAY + 1})), None),
        ("exp with a fraction", valid(json!({"exp": NOW as f64 + 0.5})), None),
        ("nbf within the leeway", valid(json!({"nbf": NOW + LEEWAY})), None),
        ("iat within the leeway", valid(json!({"iat": NOW + LEEWAY})), None),
        ("no iat", valid(json!({"iat": null})), None),
        ("a number as sub", valid(json!({"sub": 42})), None),
        ("no roles and no scopes", valid(json!({"roles": null, "scope": null})), None),
        (
            "headers that bring keys are not looked at",
            headed(json!({"jku": 1, "x5u": [], "x5c": "x", "jwk": "y", "x5t": {}})),
            None,
        ),
    ]
}

fn algorithms() -> Vec<Case> {
    let none = |name: &str| unsigned(json!({"alg": name, "kid": "rsa"}));
    let public_der = {
        let body: String = RSA_PUBLIC.lines().filter(|line| !line.starts_with('-')).collect();
        STANDARD.decode(body).expect("a fixture")
    };
    let [_, payload, signature] = parts();
    vec![
        ("alg none", none("none"), ALGORITHM),
        ("alg None", none("None"), ALGORITHM),
        ("alg NONE", none("NONE"), ALGORITHM),
        ("alg nOnE", none("nOnE"), ALGORITHM),
        ("alg none with spaces", none(" none "), ALGORITHM),
        (
            "alg none with a signature",
            format!("{}.{payload}.{signature}", base64(r#"{"alg":"none"}"#)),
            ALGORITHM,
        ),
        ("alg empty", none(""), ALGORITHM),
        ("alg null", unsigned(json!({"alg": null, "x": 1})), MALFORMED),
        ("alg a number", headed(json!({"alg": 256})), MALFORMED),
        ("alg a list", headed(json!({"alg": ["RS256"]})), MALFORMED),
        ("alg missing", headed(json!({"alg": null})), MALFORMED),
        ("alg in lower case", headed(json!({"alg": "rs256"})), ALGORITHM),
        ("alg with a zero byte", headed(json!({"alg": "RS256\u{0}"})), ALGORITHM),
        (
            "ALG beside alg none",
            raw(r#"{"ALG":"RS256","alg":"none"}"#, claims(json!({})).to_string(), &rsa(), Alg::RS256),
            ALGORITHM,
        ),
        (
            "RS512, which is not on the list",
            token(json!({"alg": "RS512", "kid": "rsa"}), claims(json!({})), &rsa(), Alg::RS512),
            ALGORITHM,
        ),
        ("HS256 with the public key in PEM as secret", hs(ALPHA, "HS256", RSA_PUBLIC.as_bytes()), ALGORITHM),
        (
            "the same where HS256 is allowed by mistake",
            hs(MUDDLED, "HS256", RSA_PUBLIC.as_bytes()),
            ALGORITHM,
        ),
        (
            "the same without the last line break",
            hs(MUDDLED, "HS256", RSA_PUBLIC.trim_end().as_bytes()),
            ALGORITHM,
        ),
        ("the same with the key in DER", hs(MUDDLED, "HS256", &public_der), ALGORITHM),
        ("HS256 with an empty secret", hs(SHARED, "HS256", b""), SIGNATURE),
        (
            "HS256 with another secret",
            hs(SHARED, "HS256", b"another secret of more than 32 bytes"),
            SIGNATURE,
        ),
        ("HS256 with the start of the secret", hs(SHARED, "HS256", &SECRET[..32]), SIGNATURE),
        ("HS512 where HS256 is allowed", hs(SHARED, "HS512", SECRET), ALGORITHM),
        (
            "RS256 for an issuer with a secret",
            token(json!({"alg": "RS256"}), claims(json!({"iss": SHARED})), &rsa(), Alg::RS256),
            ALGORITHM,
        ),
        (
            "a PS256 signature called RS256",
            token(json!({"alg": "RS256", "kid": "rsa"}), claims(json!({})), &rsa(), Alg::PS256),
            SIGNATURE,
        ),
        (
            "an RS256 signature called PS256",
            token(json!({"alg": "PS256", "kid": "rsa"}), claims(json!({})), &rsa(), Alg::RS256),
            SIGNATURE,
        ),
        ("RS256 with a key for PS256 alone", headed(json!({"kid": "pss-only"})), ALGORITHM),
        (
            "ES384 with the P-256 key",
            token(json!({"alg": "ES384", "kid": "p256"}), claims(json!({})), &p384(), Alg::ES384),
            ALGORITHM,
        ),
        (
            "ES256 with the P-384 key",
            token(json!({"alg": "ES256", "kid": "p384"}), claims(json!({})), &p256(), Alg::ES256),
            ALGORITHM,
        ),
        (
            "EdDSA with the RSA key",
            token(json!({"alg": "EdDSA", "kid": "rsa"}), claims(json!({})), &ed25519(), Alg::EdDSA),
            ALGORITHM,
        ),
        ("ES512, which nobody here can check", headed(json!({"alg": "ES512"})), ALGORITHM),
        ("an algorithm of encryption", headed(json!({"alg": "RSA-OAEP"})), ALGORITHM),
        (
            "password-based encryption (CVE-2023-52428)",
            headed(json!({"alg": "PBES2-HS256+A128KW", "p2c": 2147483647})),
            ALGORITHM,
        ),
    ]
}

fn keys() -> Vec<Case> {
    let mine = rsa_other();
    let own = jwk(&mine, Alg::RS256, json!({"kid": "rsa"}));
    let brought = |header: Value| {
        let header = merge(json!({"alg": "RS256", "kid": "rsa"}), header);
        token(header, claims(json!({})), &mine, Alg::RS256)
    };
    let of = |issuer: &str, kid: Option<&str>, key: EncodingKey| {
        let header = merge(json!({"alg": "RS256"}), json!({"kid": kid}));
        token(header, claims(json!({"iss": issuer})), &key, Alg::RS256)
    };
    let named = |kid: &str| of(ALPHA, Some(kid), rsa());
    vec![
        ("the attacker's key in jwk (CVE-2018-0114)", brought(json!({"jwk": own})), SIGNATURE),
        ("the attacker's key in jwk, no kid", brought(json!({"kid": null, "jwk": own})), SIGNATURE),
        ("jku to the attacker", brought(json!({"jku": "https://evil.example/jwks.json"})), SIGNATURE),
        (
            "jku that only begins like the issuer's",
            brought(json!({"jku": "https://alpha.example@evil.example/jwks.json"})),
            SIGNATURE,
        ),
        ("x5u to the attacker", brought(json!({"x5u": "https://evil.example/cert.pem"})), SIGNATURE),
        ("x5c from the attacker", brought(json!({"x5c": ["MIIC"]})), SIGNATURE),
        ("x5t of the attacker", brought(json!({"x5t#S256": "AAAA"})), SIGNATURE),
        ("another key than kid names", brought(json!({})), SIGNATURE),
        ("kid of a key for encryption", of(ALPHA, Some("encryption"), rsa_other()), UNKNOWN_KEY),
        ("kid ../../dev/null", named("../../../../dev/null"), UNKNOWN_KEY),
        ("kid as SQL", named("x' UNION SELECT 'secret' --"), UNKNOWN_KEY),
        ("kid as a command", named("rsa|id"), UNKNOWN_KEY),
        ("kid as a pattern", named("*"), UNKNOWN_KEY),
        ("kid in another case", named("RSA"), UNKNOWN_KEY),
        ("kid with a space", named("rsa "), UNKNOWN_KEY),
        ("kid with a zero byte", named("rsa\u{0}"), UNKNOWN_KEY),
        ("kid empty", named(""), UNKNOWN_KEY),
        ("kid as a number", headed(json!({"kid": 1})), MALFORMED),
        ("kid as an object", headed(json!({"kid": {"$ne": ""}})), MALFORMED),
        ("kid of the other issuer's key", of(ALPHA, Some("beta"), rsa_other()), UNKNOWN_KEY),
        ("issuer A, signed by B without kid", of(ALPHA, None, rsa_other()), SIGNATURE),
        ("issuer B, signed by A", of(BETA, Some("beta"), rsa()), SIGNATURE),
        ("issuer B, with kid of A", of(BETA, Some("rsa"), rsa()), UNKNOWN_KEY),
        ("issuer with keys that were never read", of(UNREAD, Some("rsa"), rsa()), Some("keys_unavailable")),
    ]
}

fn signatures() -> Vec<Case> {
    let [header, payload, signature] = parts();
    let es256 = json!({"alg": "ES256", "kid": "p256"});
    // The order of P-256.
    let n = [
        &[0xff; 4][..],
        &[0; 4],
        &[0xff; 8],
        &[0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51],
    ]
    .concat();
    let forged = |bytes: &[u8]| signed_with(es256.clone(), claims(json!({})), bytes);
    let bytes = decoded(&signature);
    let with_signature = |bytes: &[u8]| format!("{header}.{payload}.{}", base64(bytes));
    let half_hmac = {
        let token = hs(SHARED, "HS256", SECRET);
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        format!("{signed}.{}", base64(&decoded(signature)[..16]))
    };
    let mut flipped = signature.clone().into_bytes();
    flipped[10] = if flipped[10] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).expect("ASCII");
    let admin = base64(claims(json!({"sub": "root"})).to_string());
    let ed = json!({"alg": "EdDSA", "kid": "ed"});
    vec![
        ("an empty signature", format!("{header}.{payload}."), SIGNATURE),
        ("no signature", format!("{header}.{payload}"), Some("unknown_api_key")),
        ("a signature cut short", with_signature(&bytes[..bytes.len() - 3]), SIGNATURE),
        ("a signature with one letter changed", format!("{header}.{payload}.{flipped}"), SIGNATURE),
        ("a signature made longer", with_signature(&[&bytes[..], &[0]].concat()), SIGNATURE),
        ("a signature with a zero before it", with_signature(&[&[0], &bytes[..]].concat()), SIGNATURE),
        ("other claims under the signature", format!("{header}.{admin}.{signature}"), SIGNATURE),
        ("r = s = 0 (CVE-2022-21449)", forged(&[0; 64]), SIGNATURE),
        ("r = s = n", forged(&[&n[..], &n].concat()), SIGNATURE),
        ("r = s = 1", forged(&[&[0; 31][..], &[1], &[0; 31], &[1]].concat()), SIGNATURE),
        ("an ECDSA signature in DER of zeros", forged(&[0x30, 6, 2, 1, 0, 2, 1, 0]), SIGNATURE),
        ("an Ed25519 signature of zeros", signed_with(ed, claims(json!({})), &[0; 64]), SIGNATURE),
        (
            "an RSA signature of zeros",
            signed_with(json!({"alg": "RS256", "kid": "rsa"}), claims(json!({})), &[0; 256]),
            SIGNATURE,
        ),
        (
            "an RSA signature of one",
            signed_with(
                json!({"alg": "RS256", "kid": "rsa"}),
                claims(json!({})),
                &[&[0; 255][..], &[1]].concat(),
            ),
            SIGNATURE,
        ),
        ("half an HMAC", half_hmac, SIGNATURE),
    ]
}

fn forms() -> Vec<Case> {
    let [header, payload, signature] = parts();
    let body = |payload: &str| raw(r#"{"alg":"RS256","kid":"rsa"}"#, payload, &rsa(), Alg::RS256);
    let top = |header: &str| raw(header, claims(json!({})).to_string(), &rsa(), Alg::RS256);
    let text = claims(json!({})).to_string();
    let twice = |more: &str| body(&format!("{}{more}}}", &text[..text.len() - 1]));
    // 256 bytes take 342 letters; the last one has four unused bits.
    let other_last = match signature.as_bytes()[signature.len() - 1] {
        last @ (b'A' | b'Q' | b'g' | b'w') => (last + 1) as char,
        last => unreachable!("not canonical: {last}"),
    };
    vec![
        ("JWE", format!("{header}.AAAA.AAAA.{payload}.{signature}"), MALFORMED),
        ("four parts", format!("{header}.{payload}.{signature}.AAAA"), Some("unknown_api_key")),
        (
            "a token in a token",
            raw(r#"{"alg":"RS256","kid":"rsa","cty":"JWT"}"#, valid(json!({})), &rsa(), Alg::RS256),
            MALFORMED,
        ),
        ("cty over valid claims", headed(json!({"cty": "JWT"})), MALFORMED),
        ("b64 false (RFC 7797)", headed(json!({"b64": false, "crit": ["b64"]})), MALFORMED),
        ("b64 false without crit", headed(json!({"b64": false})), MALFORMED),
        ("crit with an unknown extension", headed(json!({"crit": ["exp"], "exp": NOW})), MALFORMED),
        ("crit empty", headed(json!({"crit": []})), MALFORMED),
        ("zip", headed(json!({"zip": "DEF"})), MALFORMED),
        ("enc", headed(json!({"enc": "A128GCM"})), MALFORMED),
        ("typ logout+jwt", headed(json!({"typ": "logout+jwt"})), MALFORMED),
        ("typ dpop+jwt", headed(json!({"typ": "dpop+jwt"})), MALFORMED),
        ("typ secevent+jwt", headed(json!({"typ": "application/secevent+jwt"})), MALFORMED),
        ("typ oauth-id-jag+jwt", headed(json!({"typ": "oauth-id-jag+jwt"})), MALFORMED),
        ("typ a list", headed(json!({"typ": ["JWT"]})), MALFORMED),
        (
            "a logout token without typ",
            valid(json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}})),
            MALFORMED,
        ),
        ("alg twice, none last", top(r#"{"alg":"RS256","kid":"rsa","alg":"none"}"#), MALFORMED),
        ("alg twice, none first", top(r#"{"alg":"none","kid":"rsa","alg":"RS256"}"#), MALFORMED),
        ("alg twice, once escaped", top(r#"{"alg":"RS256","kid":"rsa","\u0061lg":"RS256"}"#), MALFORMED),
        ("sub twice", twice(r#","sub":"root""#), MALFORMED),
        ("exp twice", twice(r#","exp":9999999999"#), MALFORMED),
        ("aud twice, once escaped", twice(r#","\u0061ud":"x""#), MALFORMED),
        ("a key twice inside a claim", twice(r#","x":{"a":1,"a":2}"#), MALFORMED),
        ("payload a list", body("[]"), MALFORMED),
        ("payload not JSON", body("sub=ada"), MALFORMED),
        (
            "payload not UTF-8",
            raw(r#"{"alg":"RS256","kid":"rsa"}"#, b"{\"iss\":\"\xff\"}", &rsa(), Alg::RS256),
            MALFORMED,
        ),
        ("payload with more after it", body(&format!("{text}{text}")), MALFORMED),
        (
            "payload nested deep",
            body(&format!(r#"{{"a":{}{}}}"#, "[".repeat(4000), "]".repeat(4000))),
            MALFORMED,
        ),
        ("payload with half a surrogate pair", body(r#"{"iss":"\ud800"}"#), MALFORMED),
        ("payload empty", format!("{header}..{signature}"), MALFORMED),
        ("header empty", format!(".{payload}.{signature}"), MALFORMED),
        ("two dots and nothing else", "..".into(), MALFORMED),
        ("padding", format!("{header}.{payload}.{signature}=="), MALFORMED),
        (
            "a signature that ends in spare bits",
            format!("{header}.{payload}.{}{other_last}", &signature[..signature.len() - 1]),
            MALFORMED,
        ),
        (
            "plain base64",
            {
                let t = valid(json!({"x": "\u{fbff}~~~???"}));
                t.replace('-', "+").replace('_', "/")
            },
            MALFORMED,
        ),
        (
            "a zero byte in the middle, percent-coded",
            format!("{header}.{payload}%00.{signature}"),
            Some("bad_credentials"),
        ),
        ("longer than 16 KiB", valid(json!({"x": "x".repeat(16 * 1024)})), MALFORMED),
    ]
}

#[tokio::test]
async fn each_token_is_accepted_or_refused_for_its_reason() {
    let auth = auth();
    let tables = [accepted(), algorithms(), keys(), signatures(), forms(), claim_cases_table()];
    let mut error = Vec::new();
    let mut count = 0;
    for (name, token, expected) in tables.into_iter().flatten() {
        // Twice: a rejected token must not be cached as valid.
        for _ in 0..2 {
            let found = ask(&auth, &token).await.map_err(|rejection| rejection.reason.as_str()).err();
            if found != expected {
                error.push(format!("{name}: {found:?}, expected {expected:?}"));
            }
        }
        count += 1;
    }
    assert!(error.is_empty(), "{} of {count} cases:\n{}", error.len(), error.join("\n"));
    assert!(count >= 60, "{count}");
}

#[tokio::test]
async fn refusals_hold_nothing_of_the_token() {
    let auth = auth();
    let tables = [algorithms(), keys(), signatures(), forms(), claim_cases_table()];
    for (name, token, _) in tables.into_iter().flatten() {
        let rejection = ask(&auth, &token).await.expect_err(name);
        let challenge = rejection.challenge.clone().unwrap_or_default();
        assert!(
            rejection.status == 503 || challenge.starts_with("Bearer realm=\"mcp\", error=\""),
            "{name}: {challenge}"
        );
        assert!(rejection.data.is_none(), "{name}");
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!rejection.message.contains(part) && !challenge.contains(part), "{name}");
        }
        for word in ["root", "evil", "dev/null", "UNION"] {
            assert!(
                !rejection.message.contains(word) && !challenge.contains(word),
                "{name}: {}",
                rejection.message
            );
        }
    }
}
