//! The listening sockets, and how they go from a running gateway to the one that takes its place.
//!
//! The gateway that runs waits at a Unix socket ([`Door`]). A successor connects its servers first, and only when it
//! could serve does it ask for the listening sockets ([`take`]). Both then hold the same sockets, so that no connection
//! is refused or lost in between; the successor says that it accepts, and only that makes the old one stop. Whatever
//! happens to the successor before that word, the old one goes on as if nobody had asked.
//!
//! Pingora's own transfer is not used: there the old process stops whether anybody took its sockets or not.

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

/// The variable of the environment that names the socket of the gateway that started this one.
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

/// The sockets that this process listens on. They are bound here and not by Pingora, which would try for half a minute
/// to get a port that somebody else has.
#[derive(Debug, Default)]
pub struct Sockets(Vec<(SocketAddr, TcpListener)>);

impl Sockets {
    /// Binds what is not there yet and closes what is not wanted any more.
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

    /// A descriptor of its own for who accepts on this socket, and who closes it in the end.
    pub fn dup_for(&self, address: SocketAddr) -> io::Result<RawFd> {
        let (_, listener) = self
            .0
            .iter()
            .find(|(known, _)| *known == address)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let own = listener.try_clone()?;
        // Tokio wants it so; nobody else reads from it.
        own.set_nonblocking(true)?;
        Ok(own.into_raw_fd())
    }
}

/// Holds the sockets for a successor until the process stops. A socket is closed when the last descriptor of it is, so
/// these must go when Pingora closes its own: who comes then shall be refused and not wait for nobody.
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
