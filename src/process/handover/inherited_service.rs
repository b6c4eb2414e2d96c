//! A Pingora service that gets an existing listening socket, and signals when it accepts.

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::pin::pin;
use std::task::Poll;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::listeners::{ListenerConfig, TcpSocketOptions};
use pingora::protocols::TcpKeepalive;
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::listening::Service;
use tokio::sync::watch;

/// The size of a TLS record, nearly (RFC 8446 §5.2).
const RECORD: usize = 16 * 1024;
/// Write buffer: nearly all heads with short bodies fit.
const PACKET: usize = 2048;

/// Counts the services that accept.
#[derive(Clone)]
pub struct ListenersReady(watch::Sender<usize>);

impl Default for ListenersReady {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl ListenersReady {
    /// Waits until this many accept.
    pub async fn wait_all(&self, count: usize) {
        // The sender is owned here, so it cannot be gone.
        let _ = self.0.subscribe().wait_for(|open| *open >= count).await;
    }
}

pub struct InheritedService<A> {
    service: Service<A>,
    address: SocketAddr,
    socket: RawFd,
    ready: ListenersReady,
}

impl<A: ServerApp + Send + Sync + 'static> InheritedService<A> {
    /// Pingora owns `socket` from here on, and closes it when it stops to accept. Accepted connections get
    /// these TCP keepalive settings. `secure`: the bytes that are read are TLS records.
    pub fn new(
        mut service: Service<A>,
        address: SocketAddr,
        socket: RawFd,
        watched: TcpKeepalive,
        secure: bool,
        opening: ListenersReady,
    ) -> Self {
        let mut options = TcpSocketOptions::default();
        options.tcp_keepalive = Some(watched);
        // Readers bring a buffer of their own, or read TLS records; Pingora's buffer, of 64 KiB, would be
        // kept for each connection. Writes up to this size go out in one packet with their head.
        let buffers = L4BufferSettings::new(if secure { RECORD } else { 0 }, PACKET);
        let listener = ListenerConfig::tcp(address.to_string()).tcp_socket_options(options);
        service.add_listener(listener.l4_buffer(buffers));
        Self { service, address, socket, ready: opening }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> pingora::services::Service for InheritedService<A> {
    async fn start_service(&mut self, fds: Option<ListenFds>, shutdown: ShutdownWatch, tasks: usize) {
        // Pingora looks up this table of inherited sockets before it binds.
        if let Some(fds) = &fds {
            fds.lock().add(self.address.to_string(), self.socket);
        }
        let opening = self.ready.clone();
        let mut serve = pin!(self.service.start_service(fds, shutdown, tasks));
        let mut first = true;
        std::future::poll_fn(move |cx| {
            let served = serve.as_mut().poll(cx);
            // An inherited socket is served without any wait before the accepting tasks exist.
            if std::mem::take(&mut first) && served.is_pending() {
                opening.0.send_modify(|open| *open += 1);
            }
            match served {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        pingora::services::Service::listen_addresses(&self.service)
    }
}
