//! The files of `listen.tls`: read, and checked as a whole. Error messages name the file and what it should
//! contain, never its content.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::sni::hosts;
use crate::config;
use crate::config::read_file;

/// Maximum size of a file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("listen.tls.{key}: cannot read {}: {why}; expected a PEM file", file.display())]
    Unreadable { key: &'static str, file: PathBuf, why: std::io::Error },
    #[error("listen.tls.{key}: {} {what}; expected {expected}", file.display())]
    Unfit { key: &'static str, file: PathBuf, what: String, expected: &'static str },
}

/// The content of the files.
pub struct TlsFiles {
    /// The certificates with their keys. The first one is for all names that no other has.
    pub pairs: Vec<CertPair>,
    /// The CAs that are trusted for clients.
    pub roots: Option<RootCertStore>,
    /// Fingerprint of these.
    pub client_ca_fingerprint: [u8; 32],
    /// Fingerprint of all that was read.
    pub fingerprint: [u8; 32],
}

/// A certificate with its key.
pub struct CertPair {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    leaf: LeafCert,
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// What the certificate says about itself.
struct LeafCert {
    begins: i64,
    ends: i64,
    is_authority: bool,
    has_names: bool,
}

const CERT: &str = "`-----BEGIN CERTIFICATE-----` and what follows it";
const KEY: &str = "`-----BEGIN PRIVATE KEY-----` and what follows it";

impl TlsFiles {
    /// Reads and checks all of them.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn read(settings: &config::ListenerTls) -> Result<Self, TlsError> {
        let mut print = Sha256::new();
        let mut open = |name: &'static str, file: &Path| {
            let bytes =
                bytes(file).map_err(|why| TlsError::Unreadable { key: name, file: file.into(), why })?;
            mix(&mut print, &bytes);
            Ok::<_, TlsError>(bytes)
        };
        let mut pairs = Vec::new();
        for (cert, key) in pairs_of(settings) {
            let chain = certificates("cert", cert, &open("cert", cert)?)?;
            let leaf = leaf(&chain[0]).ok_or_else(|| {
                unfit("cert", cert, "begins with what is no X.509 certificate".into(), CERT)
            })?;
            let text = open("key", key)?;
            let private = PrivateKeyDer::from_pem_slice(&text).map_err(|error| no_key(key, &text, &error))?;
            pairs.push(CertPair { chain, key: private, leaf, cert_file: cert.into(), key_file: key.into() });
        }
        let mut vouchers = [0; 32];
        let roots = match &settings.client_ca {
            Some(file) => {
                let mut roots = RootCertStore::empty();
                let text = open("client_ca", file)?;
                vouchers = Sha256::digest(&text).into();
                for certificate in certificates("client_ca", file, &text)? {
                    roots.add(certificate).map_err(|error| TlsError::unusable("client_ca", file, &error))?;
                }
                Some(roots)
            }
            None => None,
        };
        Ok(Self { pairs, roots, client_ca_fingerprint: vouchers, fingerprint: print.finalize().into() })
    }

    /// Rejects an expired certificate.
    pub fn check_time(&self) -> Result<(), TlsError> {
        let now = now();
        match self.pairs.iter().find(|pair| pair.leaf.ends <= now) {
            None => Ok(()),
            Some(pair) => {
                let what = format!("ended at {}", moment(pair.leaf.ends));
                Err(unfit("cert", &pair.cert_file, what, "one that still holds"))
            }
        }
    }

    /// When the first of the certificates expires.
    pub fn valid_until(&self) -> String {
        self.pairs.iter().map(|pair| pair.leaf.ends).min().map(moment).unwrap_or_default()
    }

    /// Why a client may reject the certificates, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut doubts: Vec<String> = self.pairs.iter().flat_map(CertPair::warnings).collect();
        for pair in self.pairs.iter().skip(1).filter(|pair| hosts(&pair.chain[0]).is_empty()) {
            doubts.push(format!(
                "listen.tls.certificates: the certificate of {} is for no name that a client can ask for",
                pair.cert_file.display()
            ));
        }
        doubts
    }
}

impl CertPair {
    fn warnings(&self) -> Vec<String> {
        let (leaf, file) = (&self.leaf, self.cert_file.display());
        let mut doubts = Vec::new();
        let mut doubt =
            |words: String| doubts.push(format!("listen.tls.cert: the certificate of {file} {words}"));
        if leaf.ends <= now() {
            doubt(format!("ended at {}: clients will refuse it", moment(leaf.ends)));
        }
        if leaf.begins > now() {
            doubt(format!("only begins at {}: clients will refuse it", moment(leaf.begins)));
        }
        if leaf.is_authority {
            doubt("is an authority's own (CA:TRUE), which many clients do not take for a server".into());
        }
        if !leaf.has_names {
            doubt("names no host (subjectAltName): clients will refuse it".into());
        }
        doubts
    }
}

/// All certificates with their keys, the first one first.
fn pairs_of(settings: &config::ListenerTls) -> impl Iterator<Item = (&PathBuf, &PathBuf)> {
    let others = settings.certificates.iter().map(|pair| (&pair.cert, &pair.key));
    std::iter::once((&settings.cert, &settings.key)).chain(others)
}

impl TlsError {
    pub(super) fn unusable(key: &'static str, file: &Path, error: &dyn std::error::Error) -> Self {
        unfit(key, file, format!("cannot be used ({error})"), CERT)
    }

    pub(super) fn pair(cert: &Path, key: &Path, error: &rustls::Error) -> Self {
        let (what, expected) = match error {
            rustls::Error::InconsistentKeys(_) => (
                format!("is not the key of the first certificate in {}", cert.display()),
                "the key that the certificate was made for",
            ),
            error => (format!("cannot be used ({error})"), "an RSA, ECDSA or Ed25519 key"),
        };
        unfit("key", key, what, expected)
    }
}

/// The fingerprint of the files now; `None` if one of them cannot be read.
pub(super) fn fingerprint(settings: &config::ListenerTls) -> Option<[u8; 32]> {
    let mut print = Sha256::new();
    let pairs = pairs_of(settings).flat_map(|(cert, key)| [cert, key]);
    for file in pairs.chain(&settings.client_ca) {
        mix(&mut print, &bytes(file).ok()?);
    }
    Some(print.finalize().into())
}

fn mix(print: &mut Sha256, bytes: &[u8]) {
    print.update((bytes.len() as u64).to_le_bytes());
    print.update(bytes);
}

fn bytes(file: &Path) -> std::io::Result<Vec<u8>> {
    read_file::read(file, MAX_FILE)
}

/// All certificates of a file; at least one.
fn certificates(
    key: &'static str,
    file: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let all = all.map_err(|_| unfit(key, file, "is broken PEM".into(), CERT))?;
    if all.is_empty() {
        return Err(unfit(key, file, "holds no certificate".into(), CERT));
    }
    Ok(all)
}

fn no_key(file: &Path, text: &[u8], error: &pem::Error) -> TlsError {
    let what = if text.windows(9).any(|word| word == b"ENCRYPTED") {
        return unfit(
            "key",
            file,
            "is locked with a passphrase".into(),
            "one without: openssl pkey -in KEY -out OPEN_KEY",
        );
    } else if matches!(error, pem::Error::NoItemsFound) {
        "holds no private key"
    } else {
        "is broken PEM"
    };
    unfit("key", file, what.into(), KEY)
}

fn leaf(der: &[u8]) -> Option<LeafCert> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(LeafCert {
        begins: certificate.validity().not_before.timestamp(),
        ends: certificate.validity().not_after.timestamp(),
        is_authority: certificate.is_ca(),
        has_names: matches!(certificate.subject_alternative_name(), Ok(Some(_))),
    })
}

fn unfit(key: &'static str, file: &Path, what: String, expected: &'static str) -> TlsError {
    TlsError::Unfit { key, file: file.into(), what, expected }
}

fn moment(seconds: i64) -> String {
    DateTime::<Utc>::from_timestamp(seconds, 0).map_or_else(|| seconds.to_string(), |at| at.to_rfc3339())
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    /// Reads a certificate and its key that these functions modify.
    fn read(
        params: impl FnOnce(&mut CertificateParams),
        key: impl FnOnce(String) -> String,
    ) -> Result<TlsFiles, TlsError> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut made = CertificateParams::new(["localhost".to_owned()]).expect("a good name");
        params(&mut made);
        let pair = KeyPair::generate().expect("a key");
        let (cert, private) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        let signed = made.self_signed(&pair).expect("a certificate");
        std::fs::write(&cert, signed.pem()).expect("it is written");
        std::fs::write(&private, key(pair.serialize_pem())).expect("it is written");
        let certificates = Vec::new();
        let client_auth = Default::default();
        TlsFiles::read(&config::ListenerTls {
            cert,
            key: private,
            certificates,
            client_ca: None,
            client_auth,
        })
    }

    #[test]
    fn a_good_pair_leaves_no_doubts() {
        let files = read(|_| (), |key| key).expect("a good pair");
        assert_eq!(files.warnings(), Vec::<String>::new());
        assert!(files.check_time().is_ok());
    }

    #[test]
    fn what_clients_would_refuse_is_told() {
        let ended = read(|params| params.not_after = date_time_ymd(2020, 1, 1), |key| key).expect("a pair");
        assert!(ended.warnings()[0].contains("ended at 2020-01-01"), "{:?}", ended.warnings());
        assert!(ended.check_time().is_err());
        let early = read(|params| params.not_before = date_time_ymd(3000, 1, 1), |key| key).expect("a pair");
        assert!(early.warnings()[0].contains("only begins at 3000-01-01"), "{:?}", early.warnings());
        let authority = |params: &mut CertificateParams| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.subject_alt_names.clear();
        };
        let doubts = read(authority, |key| key).expect("a pair").warnings();
        assert!(doubts.len() == 2 && doubts[0].contains("CA:TRUE"), "{doubts:?}");
    }

    #[test]
    fn a_key_that_cannot_be_used_is_told_with_what_to_do() {
        for (key, words) in [
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "passphrase",
            ),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n", "broken PEM"),
            ("", "holds no private key"),
        ] {
            let Err(error) = read(|_| (), |_| key.into()) else { panic!("it was taken: {words}") };
            let labels = error.to_string();
            assert!(
                labels.contains("a.key") && labels.contains(words) && labels.contains("expected"),
                "{labels}"
            );
        }
    }
}
