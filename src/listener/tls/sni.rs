//! Selects the certificate of a handshake: the one for the name that the client asks for (SNI), else the
//! first.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

#[derive(Debug)]
pub(super) struct SniResolver {
    first: Arc<CertifiedKey>,
    /// In lower case; `*.example.com` for one label in the place of `*`.
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl SniResolver {
    /// If two certificates have the same name, the earlier one wins.
    pub(super) fn new(first: CertifiedKey, others: impl IntoIterator<Item = CertifiedKey>) -> Self {
        let first = Arc::new(first);
        let mut by_name = HashMap::new();
        for pair in std::iter::once(first.clone()).chain(others.into_iter().map(Arc::new)) {
            for name in pair.cert.first().map(hosts).unwrap_or_default() {
                by_name.entry(name).or_insert_with(|| pair.clone());
            }
        }
        Self { first, by_name }
    }

    fn of(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let found = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            self.by_name.get(&name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.by_name.get(&format!("*.{parent}"))
            })
        });
        found.unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for SniResolver {
    fn resolve(&self, handshake: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.of(handshake.server_name()).clone())
    }
}

/// The hosts of a certificate.
pub(super) fn hosts(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(host) => Some(host.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    fn pair(names: &[&str]) -> CertifiedKey {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made =
            CertificateParams::new(names).expect("good names").self_signed(&key).expect("a certificate");
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        CertifiedKey::from_der(vec![made.der().clone()], private, &aws_lc_rs::default_provider())
            .expect("a pair")
    }

    #[test]
    fn the_certificate_is_the_one_for_the_name() {
        let others = [pair(&["*.b.example", "b.example"]), pair(&["x.b.example", "a.example"])];
        let named = SniResolver::new(pair(&["A.example"]), others);
        for (name, first) in [
            (Some("a.example"), "a.example"),
            (Some("A.EXAMPLE"), "a.example"),
            (Some("b.example"), "*.b.example"),
            (Some("y.b.example"), "*.b.example"),
            (Some("x.b.example"), "x.b.example"),
            (Some("z.y.b.example"), "a.example"),
            (Some("example"), "a.example"),
            (Some("*.c.example"), "a.example"),
            (Some(""), "a.example"),
            (None, "a.example"),
        ] {
            assert_eq!(hosts(&named.of(name).cert[0])[0], first, "{name:?}");
        }
    }
}
