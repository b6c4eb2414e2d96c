//! Which keys are accepted.

use filters::auth::{Algorithm, KeyError, KeySet};
use jsonwebtoken::Algorithm as Alg;
use serde_json::{Value, json};

use crate::mint::*;

fn pem(name: &str) -> String {
    let path = format!("{}/tests/keys/{name}.pem", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("a fixture")
}

fn served(keys: &KeySet) -> Vec<Algorithm> {
    Algorithm::ALL.into_iter().filter(|algorithm| keys.serves(*algorithm)).collect()
}

#[test]
fn public_keys_and_certificates_in_pem_serve_the_algorithms_of_their_type() {
    use Algorithm::*;
    let rsa = vec![RS256, RS384, RS512, PS256, PS384, PS512];
    for (name, expected) in [
        ("rsa-public", rsa.clone()),
        ("rsa-pkcs1-public", rsa.clone()),
        ("rsa-certificate", rsa),
        ("p256-public", vec![ES256]),
        ("p384-public", vec![ES384]),
        ("ed25519-public", vec![EdDSA]),
        ("ed25519-certificate", vec![EdDSA]),
    ] {
        let keys = KeySet::from_pem(&pem(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(served(&keys), expected, "{name}");
    }
    let both = KeySet::from_pem(&(pem("p256-public") + &pem("p384-public"))).expect("two keys");
    assert_eq!((both.len(), served(&both)), (2, vec![ES256, ES384]));
}

#[test]
fn the_three_spellings_of_one_key_are_one_key() {
    let mark = |name| KeySet::from_pem(&pem(name)).expect("a fixture").fingerprint();
    assert_eq!(mark("rsa-public"), mark("rsa-pkcs1-public"));
    assert_eq!(mark("rsa-public"), mark("rsa-certificate"));
    assert_ne!(mark("rsa-public"), mark("p256-public"));
}

#[test]
fn weak_private_and_foreign_keys_in_pem_are_refused() {
    for (name, expected) in [
        ("rsa1024-public", KeyError::RsaSize),
        ("p521-public", KeyError::Unsupported),
        ("secp256k1-public", KeyError::Unsupported),
        ("ed448-public", KeyError::Unsupported),
        ("p256-compressed-public", KeyError::Coordinates),
        ("rsa", KeyError::Private),
        ("p256", KeyError::Private),
    ] {
        assert_eq!(KeySet::from_pem(&pem(name)).err(), Some(expected), "{name}");
    }
    for text in [
        "",
        "not PEM",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----",
    ] {
        assert_eq!(KeySet::from_pem(text).err(), Some(KeyError::Pem), "{text}");
    }
}

#[test]
fn a_public_key_that_is_cut_short_or_goes_on_is_refused() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    for name in ["rsa-public", "p256-public", "ed25519-public", "rsa-certificate"] {
        let text = pem(name);
        let label = if name.ends_with("certificate") { "CERTIFICATE" } else { "PUBLIC KEY" };
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(body).expect("a fixture");
        let wrap = |der: &[u8]| {
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
        };
        assert!(KeySet::from_pem(&wrap(&der)).is_ok());
        for end in 0..der.len() {
            assert!(KeySet::from_pem(&wrap(&der[..end])).is_err(), "{name} up to {end}");
        }
        assert!(KeySet::from_pem(&wrap(&[&der[..], &[0]].concat())).is_err(), "{name} and more");
    }
}

#[test]
fn secrets_are_long_and_no_pem_texts() {
    use Algorithm::*;
    let secret = |length| KeySet::from_secret(&vec![b'x'; length]);
    for length in [0, 1, 16, 31] {
        assert_eq!(secret(length).err(), Some(KeyError::ShortSecret), "{length}");
    }
    for (length, expected) in [(32, vec![HS256]), (48, vec![HS256, HS384]), (64, vec![HS256, HS384, HS512])] {
        assert_eq!(served(&secret(length).expect("long enough")), expected, "{length}");
    }
    assert_eq!(KeySet::from_secret(RSA_PUBLIC.as_bytes()).err(), Some(KeyError::PemAsSecret));
}

#[test]
fn bad_keys_of_a_set_are_skipped_and_good_ones_kept() {
    let rsa_with = |more: Value| jwk(&rsa(), Alg::RS256, more);
    let p256_with = |more: Value| jwk(&p256(), Alg::ES256, more);
    let exponent = |e: &[u8]| rsa_with(json!({ "e": base64(e) }));
    for (name, key, expected) in [
        ("symmetric", json!({"kty": "oct", "k": base64(SECRET), "kid": "rsa"}), KeyError::Symmetric),
        ("private", rsa_with(json!({"d": "AQAB"})), KeyError::Private),
        ("for encryption", rsa_with(json!({"use": "enc"})), KeyError::NotForSignatures),
        ("use a list", rsa_with(json!({"use": ["sig"]})), KeyError::NotForSignatures),
        ("for wrapping", rsa_with(json!({"key_ops": ["wrapKey"]})), KeyError::NotForSignatures),
        ("alg of another type", rsa_with(json!({"alg": "ES256"})), KeyError::AlgorithmMismatch),
        ("alg symmetric", rsa_with(json!({"alg": "HS256"})), KeyError::AlgorithmMismatch),
        ("alg none", rsa_with(json!({"alg": "none"})), KeyError::AlgorithmMismatch),
        ("alg of encryption", rsa_with(json!({"alg": "RSA-OAEP"})), KeyError::AlgorithmMismatch),
        ("alg of another curve", p256_with(json!({"alg": "ES384"})), KeyError::AlgorithmMismatch),
        ("P-256 called P-384", p256_with(json!({"crv": "P-384"})), KeyError::Coordinates),
        ("P-256 without y", p256_with(json!({"y": null})), KeyError::Coordinates),
        ("P-256 with a short x", p256_with(json!({"x": base64([1; 31])})), KeyError::Coordinates),
        ("P-521", json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}), KeyError::Unsupported),
        ("X25519", json!({"kty": "OKP", "crv": "X25519", "x": base64([1; 32])}), KeyError::Unsupported),
        (
            "Ed25519 of 31 bytes",
            json!({"kty": "OKP", "crv": "Ed25519", "x": base64([1; 31])}),
            KeyError::Coordinates,
        ),
        (
            "a type of the future",
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}),
            KeyError::Unsupported,
        ),
        ("no type", json!({"n": "AA", "e": "AQAB"}), KeyError::Unsupported),
        ("RSA of 1024 bits", rsa_with(json!({"n": base64([0xff; 128])})), KeyError::RsaSize),
        (
            "RSA of 2040 bits with zeros before",
            rsa_with(json!({"n": base64([&[0; 2][..], &[0xff; 255]].concat())})),
            KeyError::RsaSize,
        ),
        ("RSA of 16384 bits", rsa_with(json!({"n": base64([0xff; 2048])})), KeyError::RsaSize),
        ("RSA with exponent 1", exponent(&[1]), KeyError::RsaNumbers),
        ("RSA with exponent 2", exponent(&[2]), KeyError::RsaNumbers),
        ("RSA without exponent", exponent(&[]), KeyError::RsaNumbers),
        ("RSA with a huge exponent", exponent(&[0xff; 64]), KeyError::RsaNumbers),
        ("RSA with n that is no base64url", rsa_with(json!({"n": "???"})), KeyError::Coordinates),
        ("kid a number", rsa_with(json!({"kid": 7})), KeyError::Name),
        ("not an object", json!("key"), KeyError::NoKeys),
    ] {
        let good = jwk(&ed25519(), Alg::EdDSA, json!({"kid": "good"}));
        let keys = jwks(&[key, good]);
        assert_eq!((keys.len(), keys.skipped()), (1, &[(0, expected)][..]), "{name}");
        assert_eq!(served(&keys), [Algorithm::EdDSA], "{name}");
    }
    assert_eq!(jwks(&[rsa_with(json!({"key_ops": ["verify"]}))]).len(), 1);
    assert_eq!(served(&jwks(&[rsa_with(json!({"alg": "PS384"}))])), [Algorithm::PS384]);
}

#[test]
fn what_is_no_key_set_is_refused_as_a_whole() {
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, r#"{"keys":[]} x"#, "<html>"] {
        assert!(KeySet::from_jwks(text.as_bytes()).is_err(), "{text}");
    }
    let many = json!({"keys": vec![json!({}); 257]}).to_string();
    assert_eq!(KeySet::from_jwks(many.as_bytes()).err(), Some(KeyError::TooLarge));
    let long = format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(600 * 1024));
    assert_eq!(KeySet::from_jwks(long.as_bytes()).err(), Some(KeyError::TooLarge));
    let withdrawn = KeySet::from_jwks(br#"{"keys":[]}"#).expect("an issuer may withdraw all keys");
    assert!(withdrawn.is_empty() && withdrawn.is_loaded());
    assert!(!KeySet::empty().is_loaded());
}

#[test]
fn secrets_are_not_shown() {
    let keys = KeySet::from_secret(SECRET).expect("long enough");
    assert_eq!(format!("{keys:?}"), r#"["-"]"#);
}
