//! API keys. The file holds their hashes, so that a reader of the file cannot use the keys.

use std::collections::HashMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

use super::diagnostics::NodeRef;
use super::references::References;
use super::scalar::ScalarValue;
use super::scalar::names::{Name, ScopeName, names, scopes};
use super::scalar::secret::Secret;
use super::scalar::sha256::Sha256Digest;
use super::yaml::line::Line;

/// An accepted key and its user.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyConfig {
    /// For logs and limits; no two have the same.
    pub id: String,
    /// The SHA-256 of the key.
    pub sha256: [u8; 32],
    /// The user of the key. Default: the id.
    pub user: String,
    /// Roles of that user.
    pub roles: Vec<String>,
    /// The user's tenant.
    pub tenant: Option<String>,
    /// The scopes of that user, as in a token.
    pub scopes: Vec<String>,
    /// Its line in the file.
    pub line: Line,
}

impl fmt::Debug for ApiKeyConfig {
    /// Without the hash: a weak key could be found by it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyConfig")
            .field("id", &self.id)
            .field("sha256", &"***")
            .field("user", &self.user)
            .field("roles", &self.roles)
            .field("tenant", &self.tenant)
            .field("scopes", &self.scopes)
            .finish()
    }
}

/// An accepted API key.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "ApiKey", deny_unknown_fields)]
pub(super) struct RawApiKey {
    /// A unique name, which the log shows.
    id: Name,
    /// The SHA-256 of the key, in 64 hexadecimal digits: `printf %s KEY | sha256sum`.
    #[schemars(with = "Sha256Digest")]
    sha256: Secret,
    /// The user of the key. Default: the id.
    user: Option<Name>,
    /// Roles of that user.
    #[serde(default)]
    roles: Vec<Name>,
    /// The user's tenant.
    tenant: Option<Name>,
    /// The scopes of that user, as in a token.
    #[serde(default)]
    scopes: Vec<ScopeName>,
}

/// The SHA-256 of the empty text, as `printf %s $KEY` has it when the variable is not set.
const EMPTY_SHA256_START: [u8; 4] = [0xe3, 0xb0, 0xc4, 0x42];

/// All valid keys under `auth`.
pub(super) fn keys(
    raw: Vec<RawApiKey>,
    auth: &NodeRef<'_>,
    references: &References<'_>,
) -> Vec<ApiKeyConfig> {
    let items = auth.valid_items("api_keys");
    let keys =
        items.iter().zip(raw).filter_map(|(node_ref, key)| Some((node_ref, key.key(node_ref, references)?)));
    let keys: Vec<_> = keys.collect();
    let (mut ids, mut hashes) = (HashMap::new(), HashMap::new());
    for (node_ref, key) in &keys {
        if let (Some(line), Some(id)) = (ids.get(&key.id), node_ref.child("id")) {
            id.reject("duplicate id", format!("first used on line {line}"));
        }
        if let (Some(line), Some(hash)) = (hashes.get(&key.sha256), node_ref.child("sha256")) {
            hash.reject("duplicate key hash", format!("first used on line {line}"));
        }
        ids.entry(&key.id).or_insert(key.line);
        hashes.entry(&key.sha256).or_insert(key.line);
    }
    keys.into_iter().map(|(_, key)| key).collect()
}

impl RawApiKey {
    fn key(self, node_ref: &NodeRef<'_>, references: &References<'_>) -> Option<ApiKeyConfig> {
        references.check_roles(node_ref.child("roles"));
        for list in ["roles", "scopes"] {
            node_ref.child(list).iter().for_each(NodeRef::check_distinct);
        }
        let sha256 = self.hash(&node_ref.child("sha256")?)?;
        Some(ApiKeyConfig {
            user: self.user.map_or_else(|| self.id.0.clone(), |user| user.0),
            id: self.id.0,
            sha256,
            roles: names(self.roles),
            tenant: self.tenant.map(|tenant| tenant.0),
            scopes: scopes(self.scopes),
            line: node_ref.line(),
        })
    }

    /// The hash, or `None` if it was reported.
    fn hash(&self, node_ref: &NodeRef<'_>) -> Option<[u8; 32]> {
        let text = self.sha256.expose();
        match Sha256Digest::read(text) {
            Ok(Sha256Digest(hash)) if hash.starts_with(&EMPTY_SHA256_START) => {
                node_ref.reject(
                    "SHA-256 of an empty string (is the variable set?)",
                    "expected the SHA-256 of a key",
                );
                None
            }
            Ok(Sha256Digest(hash)) => Some(hash),
            Err(what) => {
                // A hash that lost a digit is still a hash. Any other text is the key itself, or was meant to
                // be.
                let hash = text.len() > 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                if hash {
                    node_ref.reject(what, format!("expected {}", Sha256Digest::EXPECTED));
                } else {
                    let expected =
                        "expected the SHA-256 of the key, never the key itself: printf %s KEY | sha256sum";
                    node_ref.reject("not a SHA-256", expected);
                }
                None
            }
        }
    }
}
