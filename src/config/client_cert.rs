//! Client certificates and their users.

use std::collections::HashMap;

use globset::{GlobBuilder, GlobMatcher};
use schemars::JsonSchema;
use serde::Deserialize;

use super::diagnostics::NodeRef;
use super::references::References;
use super::scalar::globs::Glob;
use super::scalar::names::{Name, ScopeName, names, scopes};
use super::yaml::line::Line;

/// The accepted client certificates, and their users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertRule {
    /// A valid, unique pattern over the principal of a certificate.
    pub subject: String,
    /// The user of the certificate. Default: the principal.
    pub user: Option<String>,
    /// Roles of that user.
    pub roles: Vec<String>,
    /// The user's tenant.
    pub tenant: Option<String>,
    /// The scopes of that user, as in a token.
    pub scopes: Vec<String>,
    /// Its line in the file.
    pub line: Line,
}

impl ClientCertRule {
    /// The compiled pattern.
    pub fn matcher(&self) -> GlobMatcher {
        let glob = GlobBuilder::new(&self.subject).build();
        glob.expect("it was compiled when the file was read").compile_matcher()
    }
}

/// The accepted client certificates, and their users.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Certificate", deny_unknown_fields)]
pub(super) struct RawClientCert {
    /// A pattern over the principal: the certificate's first URI, else its first DNS name, else its first
    /// e-mail address, else the common name of its subject. `*` is any text, also across `/` and `.`.
    #[schemars(with = "String", length(min = 1, max = 256))]
    subject: Glob,
    /// The user of the certificate. Default: the principal.
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

/// All valid entries under `auth`, in their order of matching.
pub(super) fn certificates(
    raw: Vec<RawClientCert>,
    auth: &NodeRef<'_>,
    references: &References<'_>,
) -> Vec<ClientCertRule> {
    let items = auth.valid_items("certificates");
    let mut subjects = HashMap::new();
    for (node_ref, raw) in items.iter().zip(&raw) {
        match (subjects.get(raw.subject.text()), node_ref.child("subject")) {
            (Some(line), Some(subject)) => {
                subject.reject("duplicate subject", format!("first used on line {line}"));
            }
            _ => drop(subjects.insert(raw.subject.text().to_owned(), node_ref.line())),
        }
    }
    items.iter().zip(raw).map(|(node_ref, raw)| raw.certificate(node_ref, references)).collect()
}

/// Reports `auth.certificates` without a CA: the gateway then asks no client for a certificate.
pub(super) fn check_authority(root: &NodeRef<'_>) {
    let is_invalid =
        |node_ref: &Option<NodeRef<'_>>| node_ref.as_ref().is_some_and(|node_ref| node_ref.node.is_invalid());
    let listen = root.child("listen");
    let tls = listen.as_ref().and_then(|listen| listen.child("tls"));
    let asked = tls.as_ref().is_some_and(|tls| tls.has("client_ca"));
    let list = root.child("auth").and_then(|auth| auth.child("certificates"));
    let Some(list) = list.filter(|list| !list.node.items().is_empty()) else { return };
    if !asked && !is_invalid(&listen) && !is_invalid(&tls) {
        let help = "the gateway asks clients for a certificate only if `client_ca` is set";
        list.reject_key("auth.certificates: requires `listen.tls.client_ca`", "add it, or remove this", help);
    }
}

impl RawClientCert {
    fn certificate(self, node_ref: &NodeRef<'_>, references: &References<'_>) -> ClientCertRule {
        references.check_roles(node_ref.child("roles"));
        for list in ["roles", "scopes"] {
            node_ref.child(list).iter().for_each(NodeRef::check_distinct);
        }
        ClientCertRule {
            subject: self.subject.into_text(),
            user: self.user.map(|user| user.0),
            roles: names(self.roles),
            tenant: self.tenant.map(|tenant| tenant.0),
            scopes: scopes(self.scopes),
            line: node_ref.line(),
        }
    }
}
