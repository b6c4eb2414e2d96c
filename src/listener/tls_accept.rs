//! TLS around an application of Pingora: the handshake, within the timeout for a head.
//!
//! Pingora can do it in its listener, but it gives a silent client a minute there, and fixes the TLS
//! settings at the start. Here a connection comes in as plain TCP, and the handshake uses the current
//! settings.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as Tcp;
use pingora::server::ShutdownWatch;

use super::tls::Tls;

pub struct TlsAcceptor<A> {
    inner: Arc<A>,
    tls: Arc<Tls>,
    timeout: Duration,
}

impl<A> TlsAcceptor<A> {
    pub fn new(inner: A, tls: Arc<Tls>, timeout: Duration) -> Self {
        Self { inner: Arc::new(inner), tls, timeout }
    }

    async fn handshake(&self, stream: Tcp, from: &str) -> Option<Stream> {
        let held = self.tls.now();
        match tokio::time::timeout(self.timeout, held.acceptor.tls_handshake(stream)).await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                let io = error.root_cause().downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                // Load balancers only check whether the port is open. This is not logged.
                if matches!(io, Some(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)) {
                    tracing::debug!(client = from, %error, "a client disconnected in the TLS handshake");
                } else {
                    tracing::info!(client = from, %error, "a TLS handshake failed");
                }
                None
            }
            Err(_) => {
                tracing::debug!(client = from, "a TLS handshake did not complete in time");
                None
            }
        }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for TlsAcceptor<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        if stream.get_ssl_digest().is_some() {
            // A further request of a connection whose handshake was done.
            return self.inner.process_new(stream, shutdown).await;
        }
        let address =
            stream.get_socket_digest().and_then(|socket| socket.peer_addr().map(ToString::to_string));
        let from = address.unwrap_or_default();
        let Ok(stream) = stream.into_any().downcast::<Tcp>() else {
            tracing::error!("a TLS listener got a connection that is not plain TCP");
            return None;
        };
        // Boxed, so that its memory is not kept as long as the connection.
        let stream = Box::pin(self.handshake(*stream, &from)).await?;
        self.inner.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}
