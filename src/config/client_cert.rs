//! Clients' certificates: whom the names in them stand for.

use std::collections::HashMap;

use globset::{GlobBuilder, GlobMatcher};
use schemars::JsonSchema;
use serde::Deserialize;

use super::diagnostics::Spot;
use super::references::Known;
use super::scalar::globs::Glob;
use super::scalar::names::{Name, Scope, names, scopes};
use super::yaml::line::Line;

/// Certificates that are taken, and whom they stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// A good pattern over the principal of a certificate; no two are the same.
    pub subject: String,
    /// The user that it stands for; the principal by default.
    pub user: Option<String>,
    /// Roles of that user.
    pub roles: Vec<String>,
    /// The user's tenant.
    pub tenant: Option<String>,
    /// Scopes, as a token would carry them.
    pub scopes: Vec<String>,
    /// Where it stands.
    pub line: Line,
}

impl Certificate {
    /// The pattern, ready to be asked.
    pub fn matcher(&self) -> GlobMatcher {
        let glob = GlobBuilder::new(&self.subject).build();
        glob.expect("it was compiled when the file was read").compile_matcher()
    }
}

/// Certificates that are taken, and whom they stand for.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Certificate", deny_unknown_fields)]
pub(super) struct Written {
    /// A pattern over the principal: the certificate's first URI, else its first DNS name, else its first e-mail
    /// address, else the common name of its subject. `*` is any text, also across `/` and `.`.
    #[schemars(with = "String", length(min = 1, max = 256))]
    subject: Glob,
    /// The user that it stands for; the principal by default.
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

/// All of them under `auth`, in the order in which they are asked, without those that could not be read.
pub(super) fn certificates(written: Vec<Written>, auth: &Spot<'_>, known: &Known<'_>) -> Vec<Certificate> {
    let spots = auth.sound_items("certificates");
    let mut subjects = HashMap::new();
    for (spot, written) in spots.iter().zip(&written) {
        match (subjects.get(written.subject.text()), spot.child("subject")) {
            (Some(line), Some(subject)) => {
                subject.refuse("the same subject once more", format!("it first stands on line {line}"));
            }
            _ => drop(subjects.insert(written.subject.text().to_owned(), spot.line())),
        }
    }
    spots.iter().zip(written).map(|(spot, written)| written.certificate(spot, known)).collect()
}

/// Certificates can only be known where clients are asked for them.
pub(super) fn check_authority(root: &Spot<'_>) {
    let faulty = |spot: &Option<Spot<'_>>| spot.as_ref().is_some_and(|spot| spot.node.is_faulty());
    let listen = root.child("listen");
    let tls = listen.as_ref().and_then(|listen| listen.child("tls"));
    let asked = tls.as_ref().is_some_and(|tls| tls.has("client_ca"));
    let list = root.child("auth").and_then(|auth| auth.child("certificates"));
    let Some(list) = list.filter(|list| !list.node.items().is_empty()) else { return };
    if !asked && !faulty(&listen) && !faulty(&tls) {
        let help = "clients are only asked for a certificate where it is said who vouches for them";
        list.refuse_key("auth.certificates: needs `listen.tls.client_ca`", "add it, or remove this", help);
    }
}

impl Written {
    fn certificate(self, spot: &Spot<'_>, known: &Known<'_>) -> Certificate {
        known.check_roles(spot.child("roles"));
        for list in ["roles", "scopes"] {
            spot.child(list).iter().for_each(Spot::check_distinct);
        }
        Certificate {
            subject: self.subject.into_text(),
            user: self.user.map(|user| user.0),
            roles: names(self.roles),
            tenant: self.tenant.map(|tenant| tenant.0),
            scopes: scopes(self.scopes),
            line: spot.line(),
        }
    }
}
