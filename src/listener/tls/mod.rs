//! TLS on the public listener: the settings of handshakes, renewed when their files change.
//!
//! A handshake uses the current settings; open connections continue. New files are used as a whole or not
//! at all: if they are invalid, the old ones stay in use. This module opens no port and authorizes no
//! caller.

mod client_ca;
mod files;
mod peer_cert;
mod sni;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::listeners::tls::{Acceptor, TlsSettings};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use crate::config::{self, ClientAuth};
use client_ca::ClientCa;
pub use files::TlsError;
use files::TlsFiles;
pub use peer_cert::{certificate, is_expired};
use sni::SniResolver;

/// How often the files are checked without a request.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The TLS settings of a listener.
pub struct Tls {
    loaded: ArcSwap<LoadedTls>,
    client_ca: Arc<ClientCa>,
    /// HTTP/2 is offered beside HTTP/1.1.
    http2: bool,
}

/// The settings of a handshake, and the fingerprint of their files.
pub struct LoadedTls {
    pub acceptor: Acceptor,
    settings: config::ListenerTls,
    fingerprint: [u8; 32],
    /// Fingerprint of the CAs for clients.
    client_ca_fingerprint: [u8; 32],
}

/// Warnings about the files, or why they cannot be used, one sentence each.
pub fn warnings(settings: &config::ListenerTls) -> Vec<String> {
    let look = || {
        let files = TlsFiles::read(settings)?;
        let doubts = files.warnings();
        server(files, settings, false).map(|_| doubts)
    };
    look().unwrap_or_else(|error| vec![error.to_string()])
}

impl Tls {
    /// Reads the files for the first time. Warnings about them are logged.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn load(settings: &config::ListenerTls, http2: bool) -> Result<Self, TlsError> {
        let files = TlsFiles::read(settings)?;
        for doubt in files.warnings() {
            tracing::warn!("{doubt}");
        }
        let client_ca = Arc::default();
        let held = LoadedTls::new(files, settings, http2, &client_ca, None)?;
        Ok(Self { loaded: ArcSwap::from_pointee(held), client_ca, http2 })
    }

    /// The current settings.
    pub fn now(&self) -> Arc<LoadedTls> {
        self.loaded.load_full()
    }

    /// Reads the files again, and uses them if they differ and are valid.
    ///
    /// # Errors
    /// Why they were not used; the old ones stay in use.
    pub fn renew(&self, settings: &config::ListenerTls) -> Result<(), TlsError> {
        let held = self.now();
        let files = TlsFiles::read(settings)?;
        if files.fingerprint == held.fingerprint && *settings == held.settings {
            return Ok(());
        }
        files.check_time()?;
        for doubt in files.warnings() {
            tracing::warn!("{doubt}");
        }
        let until = files.valid_until();
        let new = LoadedTls::new(files, settings, self.http2, &self.client_ca, Some(&held))?;
        self.loaded.store(Arc::new(new));
        tracing::info!(%until, "the files of listen.tls were read again");
        Ok(())
    }

    /// Checks the files periodically, forever.
    pub async fn watch(self: Arc<Self>) {
        let mut seen = Some(self.now().fingerprint);
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let settings = self.now().settings.clone();
            let (this, before) = (self.clone(), seen);
            // A disk may be slow.
            let look = move || {
                let print = files::fingerprint(&settings);
                // An invalid file is reported once, not each minute.
                if print != before {
                    this.renew_or_log(&settings);
                }
                print
            };
            seen = tokio::task::spawn_blocking(look).await.unwrap_or(seen);
        }
    }

    /// The same as [`Tls::renew`], but logs the error.
    pub fn renew_or_log(&self, settings: &config::ListenerTls) {
        if let Err(error) = self.renew(settings) {
            tracing::error!(
                "the changed files of listen.tls cannot be used, the old ones stay in use: {error}"
            );
        }
    }
}

impl LoadedTls {
    fn new(
        files: TlsFiles,
        settings: &config::ListenerTls,
        http2: bool,
        client_ca: &Arc<ClientCa>,
        before: Option<&Self>,
    ) -> Result<Self, TlsError> {
        let (print, vouchers) = (files.fingerprint, files.client_ca_fingerprint);
        let (config, verifier) = server(files, settings, http2)?;
        let generation = match before {
            Some(before) if before.client_ca_fingerprint == vouchers => client_ca.generation(),
            _ => client_ca.change(verifier),
        };
        let reader = peer_cert::PeerCertReader { client_ca: client_ca.clone(), generation };
        let mut builder = TlsSettings::with_callbacks(Box::new(reader))
            .expect("Pingora only puts the callbacks into a struct");
        builder.set_cert_resolver(config.cert_resolver.clone());
        let mut acceptor = builder.build();
        // Pingora's own rustls configuration resumes sessions, this one must not; the callbacks stay.
        acceptor.acceptor = Acceptor::from_server_config(Arc::new(config)).acceptor;
        Ok(Self { acceptor, settings: settings.clone(), fingerprint: print, client_ca_fingerprint: vouchers })
    }
}

type VerifiedConfig = (ServerConfig, Option<Arc<dyn ClientCertVerifier>>);

fn server(files: TlsFiles, settings: &config::ListenerTls, http2: bool) -> Result<VerifiedConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider has cipher suites of both versions");
    let clients = settings.clients();
    let mut verified_by = None;
    let builder = match (clients, files.roots) {
        (Some((file, auth)), Some(roots)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match auth {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                ClientAuth::Required => verifier,
            };
            let verifier = verifier.build().map_err(|error| TlsError::unusable("client_ca", file, &error))?;
            verified_by = Some(verifier.clone());
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let pairs: Result<Vec<_>, _> = files
        .pairs
        .into_iter()
        .map(|pair| {
            CertifiedKey::from_der(pair.chain, pair.key, &aws_lc_rs::default_provider())
                .map_err(|error| TlsError::pair(&pair.cert_file, &pair.key_file, &error))
        })
        .collect();
    let mut pairs = pairs?.into_iter();
    let first = pairs.next().expect("the settings name one");
    let mut config = builder.with_cert_resolver(Arc::new(SniResolver::new(first, pairs)));
    let offered: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
    config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
    if clients.is_some() {
        // A resumed session brings its certificate without a new verification: the certificate may have
        // expired, or its CA may have been removed from the file.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok((config, verified_by))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::client::Resumption;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection};

    use super::*;

    /// Exchanges data between both sides until neither has more.
    fn exchange(client: &mut ClientConnection, server: &mut ServerConnection) {
        while client.wants_write() || server.wants_write() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).expect("memory takes it");
            server.read_tls(&mut wire.as_slice()).expect("memory gives it");
            server.process_new_packets().expect("the server is content");
            wire.clear();
            server.write_tls(&mut wire).expect("memory takes it");
            client.read_tls(&mut wire.as_slice()).expect("memory gives it");
            client.process_new_packets().expect("the client is content");
        }
    }

    /// The kind of the second of two handshakes of one client.
    fn second_handshake(with_clients: bool) -> Option<HandshakeKind> {
        let folder = tempfile::tempdir().expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a good name");
        let made = params.self_signed(&key).expect("a certificate");
        let (cert, private) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        std::fs::write(&cert, made.pem()).expect("it is written");
        std::fs::write(&private, key.serialize_pem()).expect("it is written");
        let client_ca = with_clients.then(|| cert.clone());
        let (certificates, client_auth) = (Vec::new(), ClientAuth::Required);
        let settings = config::ListenerTls { cert, key: private, certificates, client_ca, client_auth };
        let files = TlsFiles::read(&settings).expect("good files");
        let server = Arc::new(server(files, &settings, true).expect("good files").0);
        let mut roots = RootCertStore::empty();
        roots.add(made.der().clone()).expect("a certificate");
        let own = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("it has both")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![made.der().clone()], own)
            .expect("a good pair");
        client.resumption = Resumption::in_memory_sessions(4);
        let client = Arc::new(client);
        let mut kind = None;
        for _ in 0..2 {
            let name = "localhost".try_into().expect("a name");
            let mut here = ClientConnection::new(client.clone(), name).expect("a connection");
            let mut there = ServerConnection::new(server.clone()).expect("a connection");
            exchange(&mut here, &mut there);
            kind = there.handshake_kind();
        }
        kind
    }

    #[test]
    fn a_session_is_never_resumed_where_certificates_are_asked_for() {
        assert_eq!(second_handshake(true), Some(HandshakeKind::Full));
        assert_eq!(second_handshake(false), Some(HandshakeKind::Resumed), "else it may be");
    }
}
