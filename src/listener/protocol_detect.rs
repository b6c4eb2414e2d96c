//! Which HTTP a connection speaks: 1.1, or 2 where the client asks for it. With TLS the handshake has settled that
//! (ALPN); without, a client that knows what it wants begins with HTTP/2's preface, whose first three bytes no request
//! of HTTP/1 has.
//!
//! Pingora would look too, but waits for 24 bytes without end, and gives a silent HTTP/2 client for ever.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::listeners::ALPN;
use pingora::protocols::Stream;
use pingora::proxy::ProxyHttp;
use pingora::server::ShutdownWatch;
use tokio::time::Instant;

use super::http1::Patient;
use super::http2::Multiplex;

/// RFC 9113 §3.4: the preface is `PRI * HTTP/2.0`, and `PRI` is kept free of other meanings.
const PREFACE: [u8; 3] = *b"PRI";

pub struct Tongue<P> {
    patient: Arc<Patient<P>>,
    /// `None` where HTTP/2 is not spoken.
    multiplex: Option<Multiplex<P>>,
    patience: Duration,
}

impl<P> Tongue<P> {
    pub fn new(patient: Arc<Patient<P>>, multiplex: Option<Multiplex<P>>, patience: Duration) -> Self {
        Self { patient, multiplex, patience }
    }

    /// Whether the client speaks HTTP/2; `None` if it says nothing in time.
    async fn is_two(&self, stream: &mut Stream) -> Option<bool> {
        if stream.get_ssl_digest().is_some() {
            return Some(matches!(stream.selected_alpn_proto(), Some(ALPN::H2)));
        }
        let mut first = [0; PREFACE.len()];
        match tokio::time::timeout(self.patience, stream.try_peek(&mut first)).await {
            Ok(Ok(seen)) => Some(seen && first == PREFACE),
            _ => None,
        }
    }
}

#[async_trait]
impl<P> ServerApp for Tongue<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let since = Instant::now();
        match &self.multiplex {
            // Few connections need the room for it.
            Some(multiplex) if self.is_two(&mut stream).await? => {
                Box::pin(multiplex.serve(stream, shutdown)).await;
            }
            _ => self.patient.serve(stream, since, shutdown).await,
        }
        // The loop over the requests of a connection is inside.
        None
    }

    async fn cleanup(&self) {
        self.patient.close().await;
    }
}
