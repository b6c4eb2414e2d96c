//! Connections to the gateway from within its process: all that holds for a client over a socket holds here, but that
//! nobody else can come this way. So there is no `Host` to doubt and no address, and who calls may be known already.

use std::sync::Arc;

use filters::{Caller, ChainRejection, RejectedMessage, RequestHead};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Gateway;
use crate::listener::http1::Http1Server;
use crate::runtime::RuntimeConfig;

/// What lies in a pipe between the two ends, in bytes.
const PIPE: usize = 64 * 1024;

/// Who comes in from within the process.
#[derive(Clone, Debug)]
pub enum Known {
    /// This caller, whatever a request brings.
    As(Caller),
    /// Whoever the credentials of a request say.
    ByCredentials,
}

pub struct InProcessGateway {
    patient: Arc<Http1Server<Gateway>>,
    shutdown: ShutdownWatch,
    /// Its servers have answered, or had the time to.
    ready: CancellationToken,
    /// Nothing shuts it down but the end of the process.
    _never: Arc<watch::Sender<bool>>,
}

impl InProcessGateway {
    /// `ready` is told when its first requests may come.
    pub fn new(gateway: Gateway, conf: ServerConf, ready: CancellationToken) -> Self {
        let timeout = gateway.dispatcher.registry.snapshot().config.config.limits.header_timeout.get();
        let state = gateway.state.clone();
        let proxy = HttpProxy::new(gateway, Arc::new(conf));
        let (never, shutdown) = watch::channel(false);
        let patient = Arc::new(Http1Server::new(proxy, timeout, state));
        Self { patient, shutdown, ready, _never: Arc::new(never) }
    }

    /// The client's end of a new connection. It is served by whatever runtime this is called in.
    pub async fn connect(&self) -> DuplexStream {
        self.ready.cancelled().await;
        let (theirs, ours) = tokio::io::duplex(PIPE);
        let (patient, shutdown) = (self.patient.clone(), self.shutdown.clone());
        tokio::spawn(async move { patient.serve(Box::new(ours), Instant::now(), &shutdown).await });
        theirs
    }
}

/// Judges a head that came from within.
pub(super) async fn greet(
    known: &Known,
    runtime_config: &RuntimeConfig,
    head: &RequestHead<'_>,
) -> Result<Caller, ChainRejection> {
    runtime_config.chain.on_head_unauthenticated(&RequestHead { is_network: false, ..*head }).await?;
    match known {
        Known::As(caller) => Ok(caller.clone()),
        Known::ByCredentials => runtime_config.chain.auth.identify(head).await.map_err(|rejection| {
            ChainRejection { filter: filters::auth::NAME, refused: RejectedMessage { id: None, rejection } }
        }),
    }
}
