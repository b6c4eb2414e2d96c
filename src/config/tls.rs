//! TLS on the public listener: its files. They are read when the port is opened.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::diagnostics::NodeRef;
use super::scalar::{ScalarValue, scalar};

/// TLS on the public listener. The files are read again when they change; turning TLS on or off needs a
/// restart.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("dependentRequired" = {"client_auth": ["client_ca"]}))]
pub struct ListenerTls {
    /// The gateway's certificate in PEM, with the intermediate ones after it.
    #[serde(deserialize_with = "path")]
    #[schemars(with = "PemFile")]
    pub cert: PathBuf,
    /// Its private key in PEM, without a passphrase.
    #[serde(deserialize_with = "path")]
    #[schemars(with = "PemFile")]
    pub key: PathBuf,
    /// Further certificates, selected by their names: a client gets the one for the name that it requests
    /// (SNI), and `cert` for any other name.
    #[serde(default)]
    pub certificates: Vec<CertAndKey>,
    /// The certificate authorities (CA) of clients, in PEM. Without it the gateway asks no client for a
    /// certificate.
    #[serde(default, deserialize_with = "some_path")]
    #[schemars(with = "Option<PemFile>")]
    pub client_ca: Option<PathBuf>,
    /// Whether a client must have a certificate; only with `client_ca`. Default: `required`.
    #[serde(default)]
    pub client_auth: ClientAuth,
}

/// A further certificate of the gateway's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CertificatePair")]
pub struct CertAndKey {
    /// The certificate in PEM, with the intermediate ones after it.
    #[serde(deserialize_with = "path")]
    #[schemars(with = "PemFile")]
    pub cert: PathBuf,
    /// Its private key in PEM, without a passphrase.
    #[serde(deserialize_with = "path")]
    #[schemars(with = "PemFile")]
    pub key: PathBuf,
}

/// Whether a client must have a certificate. A certificate that it sends must be valid in both cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// A client without a certificate is accepted.
    Optional,
    /// A client without a certificate gets no connection.
    #[default]
    Required,
}

impl ListenerTls {
    /// The CA file for client certificates, and whether they are required.
    pub fn clients(&self) -> Option<(&Path, ClientAuth)> {
        self.client_ca.as_deref().map(|file| (file, self.client_auth))
    }

    pub(super) fn check(&self, node_ref: &NodeRef<'_>) {
        if let Some(auth) = node_ref.child("client_auth").filter(|_| node_ref.has("client_auth"))
            && !node_ref.has("client_ca")
        {
            let help = "without it no client is asked for a certificate";
            auth.reject_key(
                "listen.tls.client_auth: requires `client_ca`",
                "add `client_ca`, or remove this",
                help,
            );
        }
    }
}

/// The path of a file in PEM.
pub(super) struct PemFile(PathBuf);

impl ScalarValue for PemFile {
    const EXPECTED: &'static str = "the path of a PEM file such as `server.pem`";

    fn read(text: &str) -> Result<Self, &'static str> {
        if text.contains("-----BEGIN") {
            return Err("PEM text instead of a path");
        }
        if text.trim().is_empty() || text.contains(char::is_control) {
            Err("not a path")
        } else {
            Ok(Self(text.into()))
        }
    }
}

scalar!(PemFile);

impl JsonSchema for PemFile {
    fn schema_name() -> Cow<'static, str> {
        "PemFile".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "The path of a PEM file.", "type": "string", "minLength": 1})
    }
}

fn path<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    PemFile::deserialize(from).map(|file| file.0)
}

pub(super) fn some_path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(Option::<PemFile>::deserialize(from)?.map(|file| file.0))
}
