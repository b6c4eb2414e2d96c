//! Authentication: which callers are accepted, and how they prove who they are.

use schemars::JsonSchema;
use serde::Deserialize;

use super::api_key::{self, ApiKeyConfig};
use super::client_cert;
use super::client_cert::ClientCertRule;
use super::diagnostics::NodeRef;
use super::issuer::{self, IssuerConfig};
use super::references::References;
use super::scalar::names::{Name, ScopeName, names, scopes};
use super::scalar::secret::Secret;
use super::scalar::url::Url;
use super::scalar::{ScalarValue, scalar};

/// Authentication settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// Callers without credentials are rejected. Otherwise they are anonymous.
    pub required: bool,
    /// Roles of callers without credentials; empty if `required`.
    pub anonymous: Vec<String>,
    /// Scopes that every caller with credentials must have.
    pub required_scopes: Vec<String>,
    /// The accepted issuers of tokens, with unique names.
    pub jwt: Vec<IssuerConfig>,
    /// The accepted keys, with unique ids and hashes.
    pub api_keys: Vec<ApiKeyConfig>,
    /// The accepted client certificates; the first match counts. Empty without `listen.tls.client_ca`.
    pub certificates: Vec<ClientCertRule>,
    /// The metadata document that shows clients where to get a token (RFC 9728).
    pub resource_metadata: Option<ResourceMetadataConfig>,
    /// Where a caller's token is exchanged for one that a server accepts.
    pub exchange: Option<Exchange>,
}

/// The metadata document that shows clients where to get a token (RFC 9728).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceMetadataConfig {
    /// The URL of `/mcp` as authorization servers know it, kept exactly; by default `listen.public_url` and
    /// `/mcp`.
    pub resource: Option<String>,
    /// The authorization servers that issue tokens for it, kept exactly; at least one.
    pub authorization_servers: Vec<String>,
    /// Scopes that clients may request.
    pub scopes_supported: Vec<String>,
}

/// Where a caller's token is exchanged for one that a server accepts (RFC 8693).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// Where tokens are exchanged.
    pub token_endpoint: Url,
    /// The gateway's client id at the authorization server.
    #[serde(deserialize_with = "name")]
    #[schemars(with = "Name")]
    pub client_id: String,
    /// The gateway's client secret, if it has one.
    pub client_secret: Option<Secret>,
}

/// Who may call, and with which credentials.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Auth", default, deny_unknown_fields)]
pub(super) struct RawAuth {
    /// Whether a caller needs credentials. With `false`, callers without any have the roles of `anonymous`.
    required: bool,
    /// Callers without credentials; only with `required: false`.
    anonymous: Option<RawAnonymous>,
    /// Scopes that every token and API key must carry.
    required_scopes: Vec<ScopeName>,
    /// The accepted issuers of tokens (JWT).
    jwt: Vec<issuer::RawIssuer>,
    /// The accepted API keys.
    api_keys: Vec<api_key::RawApiKey>,
    /// The accepted client certificates, verified by `listen.tls.client_ca`. The first matching entry counts.
    /// With both a certificate and a token or an API key, the token or key decides who the caller is.
    certificates: Vec<client_cert::RawClientCert>,
    /// The metadata document that shows clients where to get a token (RFC 9728).
    resource_metadata: Option<RawResourceMetadata>,
    /// The authorization server that exchanges a caller's token for one that a server accepts, for
    /// `credentials: exchange` (RFC 8693).
    exchange: Option<Exchange>,
}

/// Callers without credentials.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawAnonymous {
    /// Roles that they have.
    roles: Vec<Name>,
}

/// The metadata document that shows clients where to get a token (RFC 9728).
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "ResourceMetadata", deny_unknown_fields)]
struct RawResourceMetadata {
    /// The URL of `/mcp` as authorization servers know it. Default: `listen.public_url` and `/mcp`.
    resource: Option<UrlText>,
    /// The authorization servers that issue tokens for the gateway.
    #[schemars(extend("minItems" = 1))]
    authorization_servers: Vec<UrlText>,
    /// Scopes that clients may request.
    #[serde(default)]
    scopes_supported: Vec<ScopeName>,
}

impl Default for RawAuth {
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

impl RawAuth {
    pub(super) fn auth(self, node_ref: &NodeRef<'_>, references: &References<'_>) -> AuthConfig {
        self.check(node_ref, references);
        AuthConfig {
            required: self.required,
            anonymous: names(self.anonymous.map(|anonymous| anonymous.roles).unwrap_or_default()),
            required_scopes: scopes(self.required_scopes),
            jwt: issuer::issuers(self.jwt, node_ref),
            api_keys: api_key::keys(self.api_keys, node_ref, references),
            certificates: client_cert::certificates(self.certificates, node_ref, references),
            resource_metadata: self.resource_metadata.map(|metadata| ResourceMetadataConfig {
                resource: metadata.resource.map(|link| link.0),
                authorization_servers: metadata
                    .authorization_servers
                    .into_iter()
                    .map(|link| link.0)
                    .collect(),
                scopes_supported: scopes(metadata.scopes_supported),
            }),
            // `${SECRET:-}` in a file means that the secret is optional.
            exchange: self.exchange.map(|exchange| Exchange {
                client_secret: exchange.client_secret.filter(|secret| !secret.expose().is_empty()),
                ..exchange
            }),
        }
    }

    fn check(&self, node_ref: &NodeRef<'_>, references: &References<'_>) {
        let anonymous = node_ref.child("anonymous").filter(|_| node_ref.has("anonymous"));
        if let Some(anonymous) = &anonymous {
            if self.required && !node_ref.child("required").is_some_and(|required| required.node.is_invalid())
            {
                let message = "auth.anonymous: has no effect while `required: true`";
                anonymous.reject_key(message, "set `required: false`, or remove this", "");
            }
            references.check_roles(anonymous.child("roles"));
        }
        // An invalid entry would have been an authentication method.
        let means = ["jwt", "api_keys", "certificates"].iter().filter_map(|key| node_ref.child(key));
        if self.required
            && means.flat_map(|means| means.node.items()).next().is_none()
            && !node_ref.node.entries().iter().any(|entry| entry.is_invalid())
        {
            node_ref.reject_key(
                "auth: no authentication method is configured",
                "expected `jwt`, `api_keys` or `certificates`",
                "with `required: false`, callers without credentials are accepted",
            );
        }
        node_ref.child("required_scopes").iter().for_each(NodeRef::check_distinct);
        let metadata = node_ref.child("resource_metadata");
        let servers = metadata.and_then(|metadata| metadata.child("authorization_servers"));
        if let Some(servers) = servers.filter(|servers| servers.node.items().is_empty()) {
            servers.reject("empty", "expected the URL of an authorization server");
        }
    }
}

/// A URL that is compared exactly with what others send, and so is kept unchanged.
struct UrlText(String);

impl ScalarValue for UrlText {
    const EXPECTED: &'static str = "a URL such as `https://id.example.com`";

    fn read(text: &str) -> Result<Self, &'static str> {
        Url::read(text).map(|_| Self(text.into()))
    }
}

scalar!(UrlText);

impl JsonSchema for UrlText {
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
