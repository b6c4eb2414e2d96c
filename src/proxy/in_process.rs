//! Connections to the gateway from within its process. The same rules apply as for a client on a socket,
//! but no other client can use this path. So `Host` is not checked, there is no address, and the caller may
//! be known already.

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

/// Capacity of the pipe between the two ends, in bytes.
const PIPE: usize = 64 * 1024;

/// How the caller within the process is known.
#[derive(Clone, Debug)]
pub enum Known {
    /// This caller, regardless of what a request carries.
    As(Caller),
    /// The caller that the credentials of a request name.
    ByCredentials,
}

pub struct InProcessGateway {
    patient: Arc<Http1Server<Gateway>>,
    shutdown: ShutdownWatch,
    /// Cancelled when the servers have answered or their time to start is over.
    ready: CancellationToken,
    /// Only the end of the process shuts it down.
    _never: Arc<watch::Sender<bool>>,
}

impl InProcessGateway {
    /// `ready` is cancelled when the first requests may come.
    pub fn new(gateway: Gateway, conf: ServerConf, ready: CancellationToken) -> Self {
        let timeout = gateway.dispatcher.registry.snapshot().config.config.limits.header_timeout.get();
        let state = gateway.state.clone();
        let proxy = HttpProxy::new(gateway, Arc::new(conf));
        let (never, shutdown) = watch::channel(false);
        let patient = Arc::new(Http1Server::new(proxy, timeout, state));
        Self { patient, shutdown, ready, _never: Arc::new(never) }
    }

    /// The client's end of a new connection. The runtime of the caller serves the connection.
    pub async fn connect(&self) -> DuplexStream {
        self.ready.cancelled().await;
        let (theirs, ours) = tokio::io::duplex(PIPE);
        let (patient, shutdown) = (self.patient.clone(), self.shutdown.clone());
        tokio::spawn(async move { patient.serve(Box::new(ours), Instant::now(), &shutdown).await });
        theirs
    }
}

/// Authorizes a head from within the process.
pub(super) async fn on_head(
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
