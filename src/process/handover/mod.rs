//! The listening sockets, and how a running gateway hands them to its successor.
//!
//! The running gateway waits at a Unix socket ([`UpgradeListener`]). A successor connects its servers
//! first. Only when it could serve, it asks for the listening sockets ([`receive_sockets`]). Both then hold
//! the same sockets, so no connection is refused or lost in between. The successor reports that it accepts,
//! and only that makes the old gateway stop. Whatever happens to the successor before that, the old gateway
//! continues as before.
//!
//! Pingora's own transfer is not used: with it, the old process stops even if no process has taken its
//! sockets.

mod donor;
mod inherited_service;
mod protocol;
mod receiver;
mod socket_path;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{IntoRawFd, RawFd};
use std::path::PathBuf;

use tokio::sync::watch;

pub use donor::UpgradeListener;
pub use inherited_service::{InheritedService, ListenersReady};
pub use receiver::{PendingHandover, receive_sockets};
pub use socket_path::{folder, prepare, socket_path};

/// The environment variable with the socket of the gateway that started this one.
pub const PREDECESSOR: &str = "TOOLGATE_PREDECESSOR";

#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Path(PathBuf, io::Error),
    #[error("the folder {} could be changed by others; it must be yours alone", .0.display())]
    Open(PathBuf),
    #[error("the other process runs as another user ({0})")]
    User(u32),
    #[error("the other process does not speak as expected")]
    Protocol,
    #[error("what came for {0} is not a socket that listens there")]
    Socket(SocketAddr),
    #[error("the gateway that runs has not let go of its place")]
    Refused,
    #[error("the other process: {0}")]
    Io(#[from] io::Error),
}

/// The sockets that this process listens on. They are bound here and not by Pingora, which would retry for
/// half a minute if another process has the port.
#[derive(Debug, Default)]
pub struct Sockets(Vec<(SocketAddr, TcpListener)>);

impl Sockets {
    /// Binds the missing sockets and closes those that are not wanted any more.
    pub fn complete(mut self, wanted: &[SocketAddr]) -> Result<Self, (SocketAddr, io::Error)> {
        self.0.retain(|(address, _)| wanted.contains(address));
        for address in wanted {
            if !self.0.iter().any(|(known, _)| known == address) {
                let listener = TcpListener::bind(address).map_err(|error| (*address, error))?;
                self.0.push((*address, listener));
            }
        }
        Ok(self)
    }

    /// A duplicate descriptor of this socket for a service that accepts on it and closes it in the end.
    pub fn dup_for(&self, address: SocketAddr) -> io::Result<RawFd> {
        let (_, listener) = self
            .0
            .iter()
            .find(|(known, _)| *known == address)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let own = listener.try_clone()?;
        // Tokio requires it; no other code reads from it.
        own.set_nonblocking(true)?;
        Ok(own.into_raw_fd())
    }
}

/// Holds the sockets for a successor until the process stops. A socket is closed with its last descriptor.
/// So these must be closed when Pingora closes its own: later clients must be refused, not wait in vain.
#[derive(Clone)]
pub struct SocketHolder(watch::Sender<Option<std::sync::Arc<Sockets>>>);

impl SocketHolder {
    pub fn new(sockets: Sockets) -> Self {
        Self(watch::Sender::new(Some(sockets.into())))
    }

    pub fn now(&self) -> Option<std::sync::Arc<Sockets>> {
        self.0.borrow().clone()
    }

    pub fn close(&self) {
        self.0.send_replace(None);
    }
}
