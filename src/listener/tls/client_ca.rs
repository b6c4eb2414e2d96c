//! Who may vouch for clients at this moment. A certificate is verified in the handshake, but an authority may be taken
//! out of its file while connections stand that it has vouched for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;

/// The authorities of a listener, and how often they have changed.
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

    /// Others take their place, none where nobody is asked for a certificate; gives their turn.
    pub(super) fn change(&self, verifier: Option<Arc<dyn ClientCertVerifier>>) -> u64 {
        self.verifier.store(verifier.map(|verifier| Arc::new(Verifier(verifier))));
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether they vouch for a certificate by itself: what a client has sent between it and an authority is not kept.
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
    /// One that was verified by those who stood at this turn.
    pub(super) fn new(by: Arc<ClientCa>, certificate: &[u8], turn: u64) -> Self {
        let certificate = CertificateDer::from(certificate.to_vec());
        Self { by, certificate, generation: AtomicU64::new(turn) }
    }

    /// Whether it is still vouched for; verified again only when the authorities have changed.
    pub(super) fn is_valid(&self) -> bool {
        let turn = self.by.generation();
        if self.generation.load(Ordering::Relaxed) == turn {
            return true;
        }
        let holds = self.by.verifies(&self.certificate);
        if holds {
            self.generation.store(turn, Ordering::Relaxed);
        }
        holds
    }
}
