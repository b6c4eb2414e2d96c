//! Issuers of tokens: which are accepted, how signatures are verified, and what the claims mean.

use std::collections::HashMap;
use std::path::PathBuf;

use filters::auth::Algorithm;
use schemars::JsonSchema;
use serde::Deserialize;

use super::claims::{self, Audience, Claims};
use super::diagnostics::NodeRef;
use super::limits::within;
use super::scalar::duration::ConfigDuration;
use super::scalar::names::Name;
use super::scalar::secret::Secret;
use super::scalar::url::Url;
use super::suggest;

/// An accepted issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerConfig {
    /// The exact value of `iss` in its tokens.
    pub issuer: String,
    /// A token must have one of these in `aud`; at least one.
    pub audience: Vec<String>,
    /// The keys that verify signatures.
    pub keys: KeyLocation,
    /// A private key in PEM, for `toolgate token`.
    pub signing_key: Option<PathBuf>,
    /// The accepted algorithms; at least one, all for the kind of `keys`.
    pub algorithms: Vec<Algorithm>,
    /// The allowed difference of clocks.
    pub leeway: ConfigDuration,
    /// How often `KeyLocation::JwksUrl` is read again.
    pub refresh: ConfigDuration,
    /// The claims of a token that hold user, roles, scopes and tenant.
    pub claims: Claims,
}

/// The keys that verify signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLocation {
    /// A set of keys that is fetched.
    JwksUrl(Url),
    /// A set of keys in a file.
    JwksFile(PathBuf),
    /// One public key: PEM text, else the path of a PEM file.
    PublicKey(String),
    /// A shared secret of at least 32 bytes.
    Secret(Secret),
}

/// An accepted issuer of tokens, with exactly one of `jwks_url`, `jwks_file`, `public_key` and `secret`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Issuer", deny_unknown_fields)]
#[schemars(
    extend("oneOf" = [
        {"required": ["jwks_url"]},
        {"required": ["jwks_file"]},
        {"required": ["public_key"]},
        {"required": ["secret"]},
    ]),
    extend("dependentRequired" = {"refresh": ["jwks_url"]})
)]
pub(super) struct RawIssuer {
    /// The exact value of `iss` in its tokens.
    issuer: Name,
    /// The accepted audiences: `aud` of a token must contain one of them.
    audience: Audience,
    /// Where its public keys are fetched.
    jwks_url: Option<Url>,
    /// The file that its public keys are in, as a JWK set.
    jwks_file: Option<String>,
    /// Its public key as PEM, or the path of a `.pem` file.
    public_key: Option<String>,
    /// A secret that it shares with the gateway, for HS256, HS384 and HS512: at least 32 bytes.
    secret: Option<Secret>,
    /// The private key in PEM that `toolgate token` signs with; a `secret` needs none.
    signing_key: Option<String>,
    /// The accepted signature algorithms. Default: HS256 with `secret`, else all with a public key.
    #[schemars(extend("minItems" = 1))]
    algorithms: Option<Vec<Algorithm>>,
    /// The allowed difference of clocks: 0s to 5m.
    #[serde(default = "leeway")]
    leeway: ConfigDuration,
    /// How often `jwks_url` is read again: 10s to 1d.
    #[serde(default = "refresh")]
    refresh: ConfigDuration,
    /// The claims of a token that hold user, roles, scopes and tenant.
    #[serde(default)]
    claims: claims::RawClaims,
}

const fn leeway() -> ConfigDuration {
    ConfigDuration::secs(30)
}

const fn refresh() -> ConfigDuration {
    ConfigDuration::mins(5)
}

/// Keys of which an issuer has exactly one.
const SOURCES: [&str; 4] = ["jwks_url", "jwks_file", "public_key", "secret"];
/// Shortest secret, in bytes: as long as the hash of HS256 (RFC 7518 §3.2).
const MIN_SECRET: usize = 32;

/// All issuers under `auth`, without those that could not be understood.
pub(super) fn issuers(raw: Vec<RawIssuer>, auth: &NodeRef<'_>) -> Vec<IssuerConfig> {
    let items = auth.valid_items("jwt");
    let mut seen = HashMap::new();
    for (node_ref, raw) in items.iter().zip(&raw) {
        match (seen.get(&raw.issuer.0), node_ref.child("issuer")) {
            (Some(line), Some(issuer)) => {
                issuer.reject("duplicate issuer", format!("first used on line {line}"));
            }
            _ => drop(seen.insert(raw.issuer.0.clone(), node_ref.line())),
        }
    }
    items.iter().zip(raw).filter_map(|(node_ref, raw)| raw.issuer(node_ref)).collect()
}

impl RawIssuer {
    fn issuer(self, node_ref: &NodeRef<'_>) -> Option<IssuerConfig> {
        self.check(node_ref);
        let keys = match (self.jwks_url, self.jwks_file, self.public_key, self.secret) {
            (Some(url), None, None, None) => KeyLocation::JwksUrl(url),
            (None, Some(file), None, None) => KeyLocation::JwksFile(file.into()),
            (None, None, Some(key), None) => KeyLocation::PublicKey(key),
            (None, None, None, Some(secret)) => KeyLocation::Secret(secret),
            // None or several: already reported, or one of them is invalid.
            _ => return None,
        };
        let usual = || match keys {
            KeyLocation::Secret(_) => vec![Algorithm::HS256],
            _ => Algorithm::ASYMMETRIC.to_vec(),
        };
        Some(IssuerConfig {
            issuer: self.issuer.0,
            audience: self.audience.0,
            algorithms: self.algorithms.unwrap_or_else(usual),
            keys,
            signing_key: self.signing_key.map(PathBuf::from),
            leeway: self.leeway,
            refresh: self.refresh,
            claims: self.claims.claims(),
        })
    }

    fn check(&self, node_ref: &NodeRef<'_>) {
        within(node_ref, "leeway", self.leeway, (ConfigDuration::secs(0), ConfigDuration::mins(5)));
        within(node_ref, "refresh", self.refresh, (ConfigDuration::secs(10), ConfigDuration::hours(24)));
        if let Some(audience) = node_ref.child("audience") {
            if self.audience.0.is_empty() && audience.node.items().is_empty() {
                audience.reject("empty", "expected at least one audience");
            }
            audience.check_distinct();
        }
        self.check_keys(node_ref);
        self.check_algorithms(node_ref);
    }

    fn check_keys(&self, node_ref: &NodeRef<'_>) {
        let mut sources = SOURCES.iter().filter(|source| node_ref.has(source));
        let Some(source) = sources.next() else {
            let meant = |key: &str| SOURCES.iter().any(|source| suggest::is_typo_of(source, key));
            if !node_ref.node.entries().iter().any(|entry| entry.is_invalid() || meant(&entry.key)) {
                let expected = "expected one of `jwks_url`, `jwks_file`, `public_key` or `secret`";
                node_ref.reject("missing `jwks_url`, `jwks_file`, `public_key` or `secret`", expected);
            }
            return;
        };
        for other in sources.filter_map(|other| node_ref.child(other)) {
            let message = format!("{}: conflicts with `{source}`", other.path);
            let expected = "an issuer has only one of `jwks_url`, `jwks_file`, `public_key` and `secret`";
            other.reject_key(message, expected, "");
        }
        let useless = [
            ("refresh", *source != "jwks_url", "`refresh` requires `jwks_url`"),
            ("signing_key", *source == "secret", "`toolgate token` signs with the secret"),
        ];
        for (key, useless, why) in useless {
            if let Some(key) = node_ref.child(key).filter(|_| useless && node_ref.has(key)) {
                key.reject_key(format!("{}: not allowed with `{source}`", key.path), why, "");
            }
        }
        for (key, value) in [("jwks_file", &self.jwks_file), ("signing_key", &self.signing_key)] {
            let (Some(value), Some(node_ref)) = (value, node_ref.child(key)) else { continue };
            if value.contains("-----BEGIN") {
                node_ref.reject("key instead of a path", "expected the path of a file");
            } else if value.trim().is_empty() || value.contains(char::is_control) {
                node_ref.reject("not a path", "expected the path of a file");
            }
        }
        if let (Some(key), Some(node_ref)) = (&self.public_key, node_ref.child("public_key")) {
            check_public_key(key, &node_ref);
        }
        if let (Some(secret), Some(node_ref)) = (&self.secret, node_ref.child("secret"))
            && secret.expose().len() < MIN_SECRET
        {
            let help = "generate one: openssl rand -hex 32";
            node_ref.reject_with("secret too short", "expected at least 32 bytes", help);
        }
    }

    fn check_algorithms(&self, node_ref: &NodeRef<'_>) {
        let Some(list) = node_ref.child("algorithms").filter(|_| self.algorithms.is_some()) else { return };
        if list.node.items().is_empty() {
            list.reject("empty: no token would be accepted", "add an entry, or remove the key");
        }
        list.check_distinct();
        if !SOURCES.iter().any(|source| node_ref.has(source)) {
            return;
        }
        let secret = node_ref.has("secret");
        let shared = |text: &str| text.starts_with("HS");
        for (item, _) in list.texts().iter().filter(|(_, text)| shared(text) != secret) {
            if secret {
                item.reject("requires a public key", "expected HS256, HS384 or HS512 with `secret`");
            } else {
                item.reject(
                    "requires a `secret`",
                    "expected a public-key algorithm such as RS256, ES256 or EdDSA",
                );
            }
        }
    }
}

/// Checks for PEM of a public key, or a path. The key itself is read later.
fn check_public_key(text: &str, node_ref: &NodeRef<'_>) {
    if let Some((_, after)) = text.split_once("-----BEGIN ") {
        let label = after.split("-----").next().unwrap_or_default();
        if label.ends_with("PRIVATE KEY") {
            let expected = "expected a public key: openssl pkey -in KEY.pem -pubout";
            node_ref.reject("private key instead of a public key", expected);
        } else if !label.ends_with("PUBLIC KEY") {
            node_ref.reject("PEM block is not a public key", "expected `-----BEGIN PUBLIC KEY-----`");
        } else if !after.contains(&format!("-----END {label}-----")) {
            node_ref.reject("incomplete PEM", format!("expected `-----END {label}-----` at its end"));
        }
    } else if !text.to_ascii_lowercase().ends_with(".pem") || text.contains(char::is_control) {
        node_ref.reject("not a public key", "expected PEM text, or the path of a .pem file");
    }
}
