//! A lingering close: the rest of what a client sends is read and discarded for a moment.
//!
//! A socket that is closed with unread bytes is reset, and the system then discards what it has not sent
//! yet. A client that is still sending would never learn the reason (RFC 9112 §9.6; nginx calls it
//! `lingering_close`).

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Maximum bytes that are read. A client that sends more is reset.
const MAX_DISCARDED: usize = 8 * 1024 * 1024;

/// A second descriptor of a connection, which keeps it open while its owner closes it.
pub struct LingeringClose(TcpStream);

impl LingeringClose {
    /// `None` if the connection is no TCP socket, or no descriptor is left.
    pub fn on(socket: RawFd) -> Option<Self> {
        if socket < 0 {
            return None;
        }
        // SAFETY: the caller owns the connection that this descriptor belongs to, and closes it later.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        let second: OwnedFd = socket.try_clone_to_owned().ok()?;
        TcpStream::from_std(second.into()).ok().map(Self)
    }

    /// Reads until the client ends its side, for at most this time and [`MAX_DISCARDED`] bytes; then the
    /// connection is closed.
    pub async fn drain(mut self, time: Duration) {
        let rest = async {
            let (mut piece, mut read) = (vec![0; 16 * 1024], 0);
            while let Ok(count @ 1..) = self.0.read(&mut piece).await {
                read += count;
                if read > MAX_DISCARDED {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(time, rest).await;
    }
}
