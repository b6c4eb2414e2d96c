//! API keys: the file holds their hashes, so that whoever reads it cannot use them.

use std::collections::HashMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

use super::diagnostics::Spot;
use super::references::Known;
use super::scalar::Leaf;
use super::scalar::names::{Name, Scope, names, scopes};
use super::scalar::secret::Secret;
use super::scalar::sha256::Digest;
use super::yaml::line::Line;

/// A key that is taken, and whom it stands for.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// For logs and limits; no two have the same.
    pub id: String,
    /// The SHA-256 of the key.
    pub sha256: [u8; 32],
    /// The user that it stands for; its id by default.
    pub user: String,
    /// Roles of that user.
    pub roles: Vec<String>,
    /// The user's tenant.
    pub tenant: Option<String>,
    /// Scopes, as a token would carry them.
    pub scopes: Vec<String>,
    /// Where it stands.
    pub line: Line,
}

impl fmt::Debug for ApiKey {
    /// Without the hash: a weak key could be found by it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("sha256", &"***")
            .field("user", &self.user)
            .field("roles", &self.roles)
            .field("tenant", &self.tenant)
            .field("scopes", &self.scopes)
            .finish()
    }
}

/// An API key that is taken.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "ApiKey", deny_unknown_fields)]
pub(super) struct Written {
    /// Names it in the log; no two have the same.
    id: Name,
    /// The SHA-256 of the key, in 64 hexadecimal digits: `printf %s KEY | sha256sum`.
    #[schemars(with = "Digest")]
    sha256: Secret,
    /// The user that it stands for; its id by default.
    user: Option<Name>,
    /// Roles of that user.
    #[serde(default)]
    roles: Vec<Name>,
    /// The user's tenant.
    tenant: Option<Name>,
    /// Scopes, as a token would carry them.
    #[serde(default)]
    scopes: Vec<Scope>,
}

/// The SHA-256 of the empty text, as `printf %s $KEY` has it when the variable is not set.
const NOTHING: [u8; 4] = [0xe3, 0xb0, 0xc4, 0x42];

/// All keys under `auth`, without those that could not be read.
pub(super) fn keys(written: Vec<Written>, auth: &Spot<'_>, known: &Known<'_>) -> Vec<ApiKey> {
    let spots = auth.sound_items("api_keys");
    let keys = spots.iter().zip(written).filter_map(|(spot, key)| Some((spot, key.key(spot, known)?)));
    let keys: Vec<_> = keys.collect();
    let (mut ids, mut hashes) = (HashMap::new(), HashMap::new());
    for (spot, key) in &keys {
        if let (Some(line), Some(id)) = (ids.get(&key.id), spot.child("id")) {
            id.refuse("another key has this id too", format!("the other stands on line {line}"));
        }
        if let (Some(line), Some(hash)) = (hashes.get(&key.sha256), spot.child("sha256")) {
            hash.refuse("the same key once more", format!("it first stands on line {line}"));
        }
        ids.entry(&key.id).or_insert(key.line);
        hashes.entry(&key.sha256).or_insert(key.line);
    }
    keys.into_iter().map(|(_, key)| key).collect()
}

impl Written {
    fn key(self, spot: &Spot<'_>, known: &Known<'_>) -> Option<ApiKey> {
        known.check_roles(spot.child("roles"));
        for list in ["roles", "scopes"] {
            spot.child(list).iter().for_each(Spot::check_distinct);
        }
        let sha256 = self.hash(&spot.child("sha256")?)?;
        Some(ApiKey {
            user: self.user.map_or_else(|| self.id.0.clone(), |user| user.0),
            id: self.id.0,
            sha256,
            roles: names(self.roles),
            tenant: self.tenant.map(|tenant| tenant.0),
            scopes: scopes(self.scopes),
            line: spot.line(),
        })
    }

    /// The hash, or `None` if it was reported.
    fn hash(&self, spot: &Spot<'_>) -> Option<[u8; 32]> {
        let text = self.sha256.expose();
        match Digest::read(text) {
            Ok(Digest(hash)) if hash.starts_with(&NOTHING) => {
                spot.refuse("the SHA-256 of nothing", "expected that of a key: was the variable set?");
                None
            }
            Ok(Digest(hash)) => Some(hash),
            Err(what) => {
                // A hash that lost a digit is still one; anything else is the key, or was meant to be.
                let hash = text.len() > 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                if hash {
                    spot.refuse(what, format!("expected {}", Digest::EXPECTED));
                } else {
                    let expected =
                        "expected the SHA-256 of the key, never the key itself: printf %s KEY | sha256sum";
                    spot.refuse("not a SHA-256", expected);
                }
                None
            }
        }
    }
}
