//! The identity of a client, from its certificate: read once, in the handshake.
//!
//! The certificate is verified before it comes here. But the person who requested it chose its names, so a
//! name is used unchanged or not at all: a hidden, mixed or doubtful name identifies no client.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use filters::auth::MAX_NAME;
use filters::request::ClientCertificate;
use pingora::listeners::TlsAccept;
use pingora::protocols::Digest;
use pingora::protocols::tls::TlsRef;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::client_ca::{ClientCa, VerifiedByCa};
use super::files::now;

/// What a connection keeps of its certificate.
#[derive(Debug)]
struct PeerCert {
    certificate: Option<ClientCertificate>,
    /// The expiry time, in seconds since 1970.
    ends: i64,
    verified: VerifiedByCa,
}

/// Reads a client's certificate at the end of the handshake, in which the CAs of this generation verified
/// it.
pub(super) struct PeerCertReader {
    pub(super) client_ca: Arc<ClientCa>,
    pub(super) generation: u64,
}

#[async_trait]
impl TlsAccept for PeerCertReader {
    async fn handshake_complete_callback(&self, tls: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
        let der = tls.peer_certificate_der()?;
        let (certificate, ends) = read(der);
        let verified = VerifiedByCa::new(self.client_ca.clone(), der, self.generation);
        Some(Arc::new(PeerCert { certificate, ends, verified }))
    }
}

/// The certificate of a connection, if it has one that identifies a client.
pub fn certificate(connection: Option<&Digest>) -> Option<&ClientCertificate> {
    of(connection)?.certificate.as_ref()
}

/// Whether the certificate has expired since the handshake, or its certificate authority (CA) is no longer
/// trusted.
pub fn is_expired(connection: Option<&Digest>) -> bool {
    of(connection).is_some_and(|peer| peer.ends < now() || !peer.verified.is_valid())
}

fn of(connection: Option<&Digest>) -> Option<&PeerCert> {
    connection?.ssl_digest.as_ref()?.extension.get()
}

/// The certificate, if it identifies a client, and when it expires.
fn read(der: &[u8]) -> (Option<ClientCertificate>, i64) {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return (None, 0) };
    let principal = principal(&certificate);
    if let Err(why) = principal {
        tracing::info!(why, "a client certificate identifies no client");
    }
    let ends = certificate.validity().not_after.timestamp();
    (principal.ok().map(|principal| ClientCertificate { principal }), ends)
}

/// The first URI, otherwise the first DNS name, the first e-mail address, or the common name. If that name
/// is invalid, the next kind is not tried: the invalid name may be an attempt to pass as another.
fn principal(certificate: &X509Certificate<'_>) -> Result<String, &'static str> {
    let names = certificate.subject_alternative_name().map_err(|_| "its alternative names cannot be read")?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let kinds: [NameReader; 3] = [
        |name| if let GeneralName::URI(uri) = name { Some(link(uri)) } else { None },
        |name| if let GeneralName::DNSName(host) = name { Some(host_name(host)) } else { None },
        |name| if let GeneralName::RFC822Name(mail) = name { Some(mailbox(mail)) } else { None },
    ];
    if let Some(found) = kinds.iter().find_map(|kind| names.iter().find_map(kind)) {
        return found;
    }
    let mut common = certificate.subject().iter_common_name();
    match (common.next(), common.next()) {
        (Some(name), None) => common_name(name.as_str().map_err(|_| "its common name is not UTF-8 text")?),
        (None, _) => Err("it has no name"),
        _ => Err("it has several common names"),
    }
}

/// The name if it is of one kind, or what is wrong with it.
type NameReader = fn(&GeneralName<'_>) -> Option<Result<String, &'static str>>;

fn link(uri: &str) -> Result<String, &'static str> {
    let fits = uri.bytes().all(|byte| byte.is_ascii_graphic()) && uri.contains(':');
    sized(uri, fits).ok_or("its URI is not one, or too long")
}

fn host_name(host: &str) -> Result<String, &'static str> {
    let fits = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte));
    sized(&host.to_ascii_lowercase(), fits).ok_or("its DNS name is not one, or too long")
}

fn mailbox(mail: &str) -> Result<String, &'static str> {
    let fits =
        mail.bytes().all(|byte| byte.is_ascii_graphic()) && mail.contains('@') && !mail.contains("://");
    sized(mail, fits).ok_or("its e-mail address is not one, or too long")
}

/// CAs check a common name less than the other names, so it must not look like a URI.
fn common_name(name: &str) -> Result<String, &'static str> {
    let hides = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let fits = name.trim() == name && !name.contains("://") && !name.chars().any(hides);
    sized(name, fits).ok_or("its common name is not a plain one, or too long")
}

fn sized(name: &str, fits: bool) -> Option<String> {
    (fits && !name.is_empty() && name.len() <= MAX_NAME).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().expect("ASCII"))
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().expect("ASCII"))
    }

    fn mail(text: &str) -> SanType {
        SanType::Rfc822Name(text.try_into().expect("ASCII"))
    }

    fn named(params: CertificateParams) -> Result<String, &'static str> {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let (_, certificate) = X509Certificate::from_der(certificate.der()).expect("an X.509 certificate");
        principal(&certificate)
    }

    fn params(common: Option<&str>, names: Vec<SanType>) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(common.into()));
        }
        params.subject_alt_names = names;
        params
    }

    /// A certificate whose extension of alternative names has these bytes.
    fn raw(names: Vec<u8>) -> CertificateParams {
        let mut params = params(Some("cn"), Vec::new());
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
        params
    }

    #[test]
    fn the_uri_goes_before_the_host_before_the_mail_before_the_common_name() {
        let ip = SanType::IpAddress("127.0.0.1".parse().expect("an address"));
        for (common, names, principal) in [
            (
                Some("cn"),
                vec![dns("a.example"), mail("a@example"), uri("spiffe://p/a"), uri("spiffe://p/b")],
                "spiffe://p/a",
            ),
            (Some("cn"), vec![mail("a@example"), dns("A.Example"), dns("b.example")], "a.example"),
            (Some("cn"), vec![ip.clone(), mail("a@example"), mail("b@example")], "a@example"),
            (Some("Jörg Müller"), vec![ip], "Jörg Müller"),
            (None, vec![uri("urn:device:7")], "urn:device:7"),
        ] {
            assert_eq!(named(params(common, names)).as_deref(), Ok(principal));
        }
        assert_eq!(named(params(None, Vec::new())), Err("it has no name"));
    }

    #[test]
    fn a_name_that_is_unfit_names_nobody_and_does_not_pass_the_turn_on() {
        let long = |before: &str| format!("{before}{}", "x".repeat(257));
        for names in [
            vec![uri("spiffe://prod/admin\0.evil"), dns("a.example")],
            vec![uri("spiffe://prod/a b"), uri("spiffe://prod/a")],
            vec![uri("no-scheme")],
            vec![uri("")],
            vec![uri(&long("spiffe://prod/")), dns("a.example")],
            vec![dns("a.example\0.evil"), mail("a@example")],
            vec![dns("spiffe://prod/a")],
            vec![dns("a@example")],
            vec![dns(&long(""))],
            vec![mail("nobody")],
            vec![mail("spiffe://prod/a@b")],
            vec![mail("a@example\0")],
            vec![mail(&long("a@"))],
        ] {
            let what = format!("{names:?}");
            assert!(named(params(Some("cn"), names)).is_err(), "{what}");
        }
        for common in ["", " cn", "spiffe://prod/admin", "a\0b", "a\nb", "a\u{202e}b", &long("")] {
            assert!(named(params(Some(common), Vec::new())).is_err(), "{common:?}");
        }
    }

    #[test]
    fn alternative_names_that_cannot_be_read_name_nobody() {
        for names in [
            // A URI that is not UTF-8.
            vec![0x30, 4, 0x86, 2, 0xff, 0xfe],
            // Longer than it claims.
            vec![0x30, 9, 0x86, 2, b'a', b':'],
            // No list at all.
            vec![0x04, 1, 0],
            Vec::new(),
        ] {
            assert!(named(raw(names.clone())).is_err(), "{names:x?}");
        }
        assert_eq!(named(raw(vec![0x30, 4, 0x86, 2, b'a', b':'])).as_deref(), Ok("a:"), "the frame is right");
    }

    #[test]
    fn many_names_are_no_burden() {
        let mut names: Vec<SanType> = (0..20_000).map(|n| dns(&format!("h{n}.example"))).collect();
        names.push(uri("spiffe://prod/a"));
        assert_eq!(named(params(None, names)).as_deref(), Ok("spiffe://prod/a"));
    }
}
