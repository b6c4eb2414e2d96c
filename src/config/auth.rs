//! Who may come in, and by which means.

use schemars::JsonSchema;
use serde::Deserialize;

use super::api_key::{self, ApiKey};
use super::client_cert;
use super::client_cert::Certificate;
use super::diagnostics::Spot;
use super::issuer::{self, Issuer};
use super::references::Known;
use super::scalar::names::{Name, Scope, names, scopes};
use super::scalar::secret::Secret;
use super::scalar::url::Url;
use super::scalar::{Leaf, leaf};

/// Who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whoever has no credentials is turned away; else it comes in as nobody in particular.
    pub required: bool,
    /// Roles of callers without credentials; empty if `required`.
    pub anonymous: Vec<String>,
    /// Scopes that everybody with credentials must have.
    pub required_scopes: Vec<String>,
    /// Whose tokens are taken; no two have the same name.
    pub jwt: Vec<Issuer>,
    /// Keys that are taken; no two have the same id or hash.
    pub api_keys: Vec<ApiKey>,
    /// Clients' certificates that are taken; the first that fits counts. Empty without `listen.tls.client_ca`.
    pub certificates: Vec<Certificate>,
    /// What clients are told of where to get a token.
    pub resource_metadata: Option<ResourceMetadata>,
    /// Where a caller's token is exchanged for one that a server takes.
    pub exchange: Option<Exchange>,
}

/// What clients are told of where to get a token (RFC 9728).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceMetadata {
    /// The URL of `/mcp` as authorization servers know it, letter by letter; by default `listen.public_url` and `/mcp`.
    pub resource: Option<String>,
    /// Who gives out tokens for it, letter by letter; at least one.
    pub authorization_servers: Vec<String>,
    /// Scopes that may be asked for.
    pub scopes_supported: Vec<String>,
}

/// Where a caller's token is exchanged for one that a server takes (RFC 8693).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// Where tokens are exchanged.
    pub token_endpoint: Url,
    /// The gateway's own name there.
    #[serde(deserialize_with = "name")]
    #[schemars(with = "Name")]
    pub client_id: String,
    /// Its secret there, if it has one.
    pub client_secret: Option<Secret>,
}

/// Who may come in, and by which means.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Auth", default, deny_unknown_fields)]
pub(super) struct Written {
    /// Callers without credentials are turned away. With `false` they come in, with the roles of `anonymous`.
    required: bool,
    /// Callers without credentials; only with `required: false`.
    anonymous: Option<Anonymous>,
    /// Scopes that every token must carry.
    required_scopes: Vec<Scope>,
    /// Issuers whose tokens (JWT) are taken.
    jwt: Vec<issuer::Written>,
    /// API keys that are taken.
    api_keys: Vec<api_key::Written>,
    /// Clients' certificates that are taken, of those that `listen.tls.client_ca` vouches for; the first that fits
    /// counts. A token or an API key beside one says who the caller is.
    certificates: Vec<client_cert::Written>,
    /// What clients are told of where to get a token (RFC 9728).
    resource_metadata: Option<WrittenMetadata>,
    /// Where a caller's token is exchanged for one that a server takes, for `credentials: exchange` (RFC 8693).
    exchange: Option<Exchange>,
}

/// Callers without credentials.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Anonymous {
    /// Roles that they have.
    roles: Vec<Name>,
}

/// What clients are told of where to get a token.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "ResourceMetadata", deny_unknown_fields)]
struct WrittenMetadata {
    /// The URL of `/mcp` as authorization servers know it; `listen.public_url` and `/mcp` by default.
    resource: Option<Link>,
    /// Who gives out tokens for it.
    #[schemars(extend("minItems" = 1))]
    authorization_servers: Vec<Link>,
    /// Scopes that may be asked for.
    #[serde(default)]
    scopes_supported: Vec<Scope>,
}

impl Default for Written {
    fn default() -> Self {
        let (anonymous, required_scopes, jwt, api_keys) = Default::default();
        let (certificates, resource_metadata, exchange) = Default::default();
        Self {
            required: true,
            anonymous,
            required_scopes,
            jwt,
            api_keys,
            certificates,
            resource_metadata,
            exchange,
        }
    }
}

impl Written {
    pub(super) fn auth(self, spot: &Spot<'_>, known: &Known<'_>) -> Auth {
        self.check(spot, known);
        Auth {
            required: self.required,
            anonymous: names(self.anonymous.map(|anonymous| anonymous.roles).unwrap_or_default()),
            required_scopes: scopes(self.required_scopes),
            jwt: issuer::issuers(self.jwt, spot),
            api_keys: api_key::keys(self.api_keys, spot, known),
            certificates: client_cert::certificates(self.certificates, spot, known),
            resource_metadata: self.resource_metadata.map(|metadata| ResourceMetadata {
                resource: metadata.resource.map(|link| link.0),
                authorization_servers: metadata
                    .authorization_servers
                    .into_iter()
                    .map(|link| link.0)
                    .collect(),
                scopes_supported: scopes(metadata.scopes_supported),
            }),
            // `${SECRET:-}` is how a file leaves open whether there is one.
            exchange: self.exchange.map(|exchange| Exchange {
                client_secret: exchange.client_secret.filter(|secret| !secret.expose().is_empty()),
                ..exchange
            }),
        }
    }

    fn check(&self, spot: &Spot<'_>, known: &Known<'_>) {
        let anonymous = spot.child("anonymous").filter(|_| spot.has("anonymous"));
        if let Some(anonymous) = &anonymous {
            if self.required && !spot.child("required").is_some_and(|required| required.node.is_faulty()) {
                let message = "auth.anonymous: nobody comes in without credentials";
                anonymous.refuse_key(message, "set `required: false`, or remove this", "");
            }
            known.check_roles(anonymous.child("roles"));
        }
        // What is there but faulty would have let somebody in.
        let means = ["jwt", "api_keys", "certificates"].iter().filter_map(|key| spot.child(key));
        if self.required
            && means.flat_map(|means| means.node.items()).next().is_none()
            && !spot.node.entries().iter().any(|entry| entry.is_faulty())
        {
            spot.refuse_key(
                "auth: nobody could come in",
                "expected `jwt`, `api_keys` or `certificates`",
                "with `required: false` callers come in without credentials",
            );
        }
        spot.child("required_scopes").iter().for_each(Spot::check_distinct);
        let metadata = spot.child("resource_metadata");
        let servers = metadata.and_then(|metadata| metadata.child("authorization_servers"));
        if let Some(servers) = servers.filter(|servers| servers.node.items().is_empty()) {
            servers.refuse("empty", "expected the URL of whoever gives out tokens");
        }
    }
}

/// A URL that is compared with what others wrote, and so kept as it is.
struct Link(String);

impl Leaf for Link {
    const EXPECTED: &'static str = "a URL such as `https://id.example.com`";

    fn read(text: &str) -> Result<Self, &'static str> {
        Url::read(text).map(|_| Self(text.into()))
    }
}

leaf!(Link);

impl JsonSchema for Link {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        Url::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Url::json_schema(generator)
    }
}

fn name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Name::deserialize(from).map(|name| name.0)
}
