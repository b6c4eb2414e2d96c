//! The certificate authorities (CA) that are trusted for clients now. A certificate is verified in the
//! handshake, but its CA may be removed from the file while the connection lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;

/// The CAs of a listener, and how often they have changed.
#[derive(Debug, Default)]
pub(super) struct ClientCa {
    verifier: ArcSwapOption<Verifier>,
    generation: AtomicU64,
}

#[derive(Debug)]
struct Verifier(Arc<dyn ClientCertVerifier>);

impl ClientCa {
    /// How often they have changed.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Replaces the CAs; `None` if no client certificate is requested. Returns the new generation.
    pub(super) fn change(&self, verifier: Option<Arc<dyn ClientCertVerifier>>) -> u64 {
        self.verifier.store(verifier.map(|verifier| Arc::new(Verifier(verifier))));
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether the CAs verify this certificate alone. Intermediate certificates from the client are not
    /// kept.
    fn verifies(&self, certificate: &CertificateDer<'_>) -> bool {
        let verifier = self.verifier.load();
        let verified = |verifier: &Arc<Verifier>| {
            verifier.0.verify_client_cert(certificate, &[], UnixTime::now()).is_ok()
        };
        verifier.as_ref().is_some_and(verified)
    }
}

/// A certificate, and when it was last verified.
#[derive(Debug)]
pub(super) struct VerifiedByCa {
    by: Arc<ClientCa>,
    certificate: CertificateDer<'static>,
    generation: AtomicU64,
}

impl VerifiedByCa {
    /// A certificate that was verified by the CAs of this generation.
    pub(super) fn new(by: Arc<ClientCa>, certificate: &[u8], generation: u64) -> Self {
        let certificate = CertificateDer::from(certificate.to_vec());
        Self { by, certificate, generation: AtomicU64::new(generation) }
    }

    /// Whether it is still trusted; verified again only when the CAs have changed.
    pub(super) fn is_valid(&self) -> bool {
        let generation = self.by.generation();
        if self.generation.load(Ordering::Relaxed) == generation {
            return true;
        }
        let holds = self.by.verifies(&self.certificate);
        if holds {
            self.generation.store(generation, Ordering::Relaxed);
        }
        holds
    }
}
