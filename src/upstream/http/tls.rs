//! TLS settings of the connection to an HTTP server, and its HTTP version: trusted certificates, the
//! gateway's own certificate, the server name. Read once, and applied both to Pingora, which relays calls,
//! and to the gateway's own client.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use pingora::listeners::ALPN;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_platform_verifier::BuilderVerifierExt as _;
use sha2::{Digest as _, Sha256};

use crate::config::read_file;
use crate::config::{self, Http2};

/// Largest file that is read.
const MAX_FILE: u64 = 1 << 20;
/// Calls that share a connection of HTTP/2.
const STREAMS: usize = 100;
/// Flow control windows, of one call and of a connection: clients that do not read their responses do not
/// delay those of others.
const WINDOW: u32 = 256 << 10;
const WINDOWS: u32 = WINDOW * STREAMS as u32;
/// HTTP/2 keepalive while calls are in flight; Pingora waits 5 s for the response.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);
/// The largest window that there is (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// How long the authorities of the system serve new clients before they are read again.
const SYSTEM_ROOTS_AGE: Duration = Duration::from_secs(60);

/// Why the files of a server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsError {
    #[error("tls.{key}: cannot read {}: {why}; expected a PEM file", file.display())]
    Unreadable { key: &'static str, file: PathBuf, why: std::io::Error },
    #[error("tls.{key}: {} {what}", file.display())]
    Unfit { key: &'static str, file: PathBuf, what: String },
}

/// The TLS and HTTP settings of one server.
#[derive(Default)]
pub struct UpstreamTls {
    http2: Http2,
    /// The trusted authorities; those of the system if not set.
    roots: Option<Vec<CertificateDer<'static>>>,
    /// The gateway's client certificate.
    client_identity: Option<ClientIdentity>,
    server_name: Option<String>,
    unverified: bool,
    /// What the clients of its endpoints and sessions share.
    verifying: OnceLock<ClientConfig>,
    /// A hash of all settings; 0 for the defaults.
    fingerprint: u64,
}

struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl UpstreamTls {
    /// Reads the files that a server names.
    ///
    /// # Errors
    ///
    /// The first file that cannot be used.
    pub fn read(server: &config::ServerConfig) -> Result<Self, UpstreamTlsError> {
        let none = config::ServerTls::default();
        let settings = server.tls.as_ref().unwrap_or(&none);
        let roots = match &settings.ca {
            Some(file) => {
                let roots = certificates("ca", file)?;
                let mut store = RootCertStore::empty();
                for root in &roots {
                    store
                        .add(root.clone())
                        .map_err(|error| unusable("ca", file, format!("is of no use: {error}")))?;
                }
                Some(roots)
            }
            None => None,
        };
        let own = match (&settings.cert, &settings.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates("cert", cert)?;
                let text = bytes("key", key)?;
                let private = PrivateKeyDer::from_pem_slice(&text)
                    .map_err(|_| unusable("key", key, "holds no private key without a passphrase".into()))?;
                key_matches(&chain, &private).map_err(|_| {
                    unusable(
                        "key",
                        key,
                        format!("is not the key of the first certificate in {}", cert.display()),
                    )
                })?;
                Some(ClientIdentity { chain, key: private })
            }
            _ => None,
        };
        Ok(Self {
            http2: server.http2,
            fingerprint: fingerprint(server),
            roots,
            client_identity: own,
            server_name: settings.server_name.clone(),
            unverified: settings.insecure_skip_verify,
            verifying: OnceLock::new(),
        })
    }

    /// A hash of the settings and the contents of their files; changes when one of them does.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The name for the TLS handshake that the server's certificate must contain.
    pub fn name<'a>(&'a self, host: &'a str) -> &'a str {
        self.server_name.as_deref().unwrap_or(host)
    }

    /// Applies the settings to a Pingora peer.
    pub fn apply(&self, peer: &mut HttpPeer, tls: bool) {
        // The head is rebuilt (`proxy/upstream_request.rs`): connection headers of a client are not used.
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
        // Pingora's pool does not distinguish authorities and versions.
        peer.group_key = self.fingerprint;
        peer.options.alpn = match (self.http2, tls) {
            (Http2::PriorKnowledge, _) => ALPN::H2,
            (Http2::Auto, true) => ALPN::H2H1,
            _ => ALPN::H1,
        };
        peer.options.max_h2_streams = STREAMS;
        peer.options.h2_stream_window_size = Some(WINDOW);
        peer.options.h2_connection_window_size = Some(WINDOWS);
        peer.options.h2_ping_interval = Some(PING);
        if let Some(roots) = &self.roots {
            let roots = roots.iter().map(|root| WrappedX509::new(root.to_vec(), parse_x509));
            peer.options.ca = Some(Arc::from_iter(roots));
        }
        if let Some(own) = &self.client_identity {
            let chain = own.chain.iter().map(|certificate| certificate.to_vec()).collect();
            peer.client_cert_key = Some(Arc::new(CertKey::new(chain, own.key.secret_der().to_vec())));
        }
        peer.options.verify_cert = !self.unverified;
        peer.options.verify_hostname = !self.unverified;
    }

    /// Builds the gateway's own client. Its resolver must return the addresses for any name.
    pub fn client(
        &self,
        url: &reqwest::Url,
        mut builder: reqwest::ClientBuilder,
    ) -> Result<ClientTarget, String> {
        let tls = url.scheme() == "https";
        // With HTTP/2 the server decides how many calls share a connection.
        builder =
            builder.http2_initial_stream_window_size(WINDOW).http2_initial_connection_window_size(MAX_WINDOW);
        builder = builder.http2_keep_alive_interval(PING).http2_keep_alive_timeout(PONG);
        let (both, alpn): (_, &[&[u8]]) = match (self.http2, tls) {
            (Http2::PriorKnowledge, _) => (builder.http2_prior_knowledge(), &[b"h2"]),
            (Http2::Auto, true) if self.server_name.is_none() => (builder, &[b"h2", b"http/1.1"]),
            // With a server name of its own, HTTP/2 would send that name as `:authority`.
            _ => (builder.http1_only(), &[b"http/1.1"]),
        };
        builder = both;
        if self.unverified {
            if let Some(own) = &self.client_identity {
                let pem = own.pem();
                let identity = reqwest::Identity::from_pem(&pem).map_err(|error| error.to_string())?;
                builder = builder.identity(identity);
            }
            builder = builder.tls_danger_accept_invalid_certs(true);
        } else {
            let mut verifying = self.verifying(tls)?;
            verifying.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            builder = builder.tls_backend_preconfigured(verifying);
        }
        let (mut to, mut host_header) = (url.clone(), None);
        if let (true, Some(name)) = (tls, &self.server_name) {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            host_header = HeaderValue::try_from(format!("{}{port}", url.host_str().unwrap_or_default())).ok();
            to.set_host(Some(name)).map_err(|_| "tls.server_name is not a name".to_owned())?;
        }
        let client = builder.build().map_err(|error| error.to_string())?;
        Ok(ClientTarget { url: to, host: host_header, client })
    }

    /// The TLS of the gateway's own clients, which verify certificates.
    fn verifying(&self, tls: bool) -> Result<ClientConfig, String> {
        /// That of clients which meet no certificate.
        static NONE: OnceLock<ClientConfig> = OnceLock::new();
        let place = if tls { &self.verifying } else { &NONE };
        if let Some(made) = place.get() {
            return Ok(made.clone());
        }
        let made = match (&self.roots, &self.client_identity) {
            _ if !tls => no_certificate(trusting(Some(&[])))?,
            (None, None) => system()?,
            (roots, None) => no_certificate(trusting(roots.as_deref()))?,
            (roots, Some(own)) => trusting(roots.as_deref())?
                .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
                .map_err(|error| error.to_string())?,
        };
        Ok(place.get_or_init(|| made).clone())
    }
}

/// How the gateway's own client reaches a server.
pub struct ClientTarget {
    /// Where requests are sent.
    pub url: reqwest::Url,
    /// Their `Host`, if it is not the host of `url`.
    pub host: Option<HeaderValue>,
    pub client: reqwest::Client,
}

impl ClientIdentity {
    fn pem(&self) -> Vec<u8> {
        use base64::Engine as _;
        let block = |label: &str, der: &[u8]| {
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
        };
        let label = match &self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let chain: String = self.chain.iter().map(|certificate| block("CERTIFICATE", certificate)).collect();
        (chain + &block(label, self.key.secret_der())).into_bytes()
    }
}

/// A hash of the current settings and files of a server; 0 for the defaults.
pub fn fingerprint(server: &config::ServerConfig) -> u64 {
    let Some(settings) = server.tls.as_ref() else { return u64::from(server.http2 as u8) };
    let mut hash = Sha256::new();
    for file in [&settings.ca, &settings.cert, &settings.key] {
        let bytes = file.as_deref().map(|file| bytes("ca", file).unwrap_or_default()).unwrap_or_default();
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    hash.update(format!("{:?} {:?}", settings, server.http2));
    let hash = hash.finalize();
    u64::from_le_bytes(hash[..8].try_into().expect("eight of 32 bytes"))
}

type Trusting = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

/// Settings that trust these authorities, or those of the system.
fn trusting(roots: Option<&[CertificateDer<'static>]>) -> Result<Trusting, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let Some(roots) = roots else {
        return builder.with_platform_verifier().map_err(|error| error.to_string());
    };
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| error.to_string())?;
    }
    Ok(builder.with_root_certificates(store))
}

fn no_certificate(trusting: Result<Trusting, String>) -> Result<ClientConfig, String> {
    trusting.map(Trusting::with_no_client_auth)
}

/// Settings that trust the authorities of the system. Servers that connect at the same time share the list.
fn system() -> Result<ClientConfig, String> {
    static KEPT: Mutex<Option<(Instant, ClientConfig)>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((read, config)) = &*kept
        && read.elapsed() < SYSTEM_ROOTS_AGE
    {
        return Ok(config.clone());
    }
    let config = no_certificate(trusting(None))?;
    *kept = Some((Instant::now(), config.clone()));
    Ok(config)
}

fn key_matches(chain: &[CertificateDer<'static>], key: &PrivateKeyDer<'static>) -> Result<(), rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain.to_vec(), key.clone_key())
        .map(drop)
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, UpstreamTlsError> {
    let text = bytes(key, file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|_| unusable(key, file, "is broken PEM".into()))?;
    let sound = |der: &CertificateDer<'_>| {
        use x509_parser::prelude::{FromDer as _, X509Certificate};
        X509Certificate::from_der(der).is_ok()
    };
    if all.is_empty() || !all.iter().all(sound) {
        return Err(unusable(
            key,
            file,
            "holds no certificate; expected `-----BEGIN CERTIFICATE-----`".into(),
        ));
    }
    Ok(all)
}

fn bytes(key: &'static str, file: &Path) -> Result<Vec<u8>, UpstreamTlsError> {
    read_file::read(file, MAX_FILE).map_err(|why| UpstreamTlsError::Unreadable {
        key,
        file: file.into(),
        why,
    })
}

fn unusable(key: &'static str, file: &Path, what: String) -> UpstreamTlsError {
    UpstreamTlsError::Unfit { key, file: file.into(), what }
}
