//! Which HTTP version a connection speaks: 1.1, or 2 where the client asks for it. With TLS the handshake
//! has settled it (ALPN). Without TLS, a client with prior knowledge begins with the HTTP/2 preface, whose
//! first three bytes start no HTTP/1 request.
//!
//! Pingora can detect this too, but it waits for 24 bytes without a timeout, and treats a silent client as
//! HTTP/2 forever.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::listeners::ALPN;
use pingora::protocols::Stream;
use pingora::proxy::ProxyHttp;
use pingora::server::ShutdownWatch;
use tokio::time::Instant;

use super::http1::Http1Server;
use super::http2::Http2Server;

/// RFC 9113 §3.4: the preface is `PRI * HTTP/2.0`, and `PRI` has no other meaning.
const PREFACE: [u8; 3] = *b"PRI";

pub struct DetectHttp<P> {
    http1: Arc<Http1Server<P>>,
    /// `None` where HTTP/2 is not spoken.
    http2: Option<Http2Server<P>>,
    timeout: Duration,
}

impl<P> DetectHttp<P> {
    pub fn new(http1: Arc<Http1Server<P>>, http2: Option<Http2Server<P>>, timeout: Duration) -> Self {
        Self { http1, http2, timeout }
    }

    /// Whether the client speaks HTTP/2; `None` if it sends nothing in time.
    async fn is_http2(&self, stream: &mut Stream) -> Option<bool> {
        if stream.get_ssl_digest().is_some() {
            return Some(matches!(stream.selected_alpn_proto(), Some(ALPN::H2)));
        }
        let mut first = [0; PREFACE.len()];
        match tokio::time::timeout(self.timeout, stream.try_peek(&mut first)).await {
            Ok(Ok(matched)) => Some(matched && first == PREFACE),
            _ => None,
        }
    }
}

#[async_trait]
impl<P> ServerApp for DetectHttp<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let started = Instant::now();
        match &self.http2 {
            // Boxed, because few connections need this future.
            Some(http2) if self.is_http2(&mut stream).await? => {
                Box::pin(http2.serve(stream, shutdown)).await;
            }
            _ => self.http1.serve(stream, started, shutdown).await,
        }
        // The loop over the requests of a connection runs inside.
        None
    }

    async fn cleanup(&self) {
        self.http1.close().await;
    }
}
