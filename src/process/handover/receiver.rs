//! The successor's side: it receives the sockets, and reports when it serves.

use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{HandoverError, Sockets, protocol};

/// How long the old gateway may take to reply; the reply needs no other work.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take from the end of its connections to its own.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The old gateway, which waits for the successor's report.
pub struct PendingHandover {
    stream: UnixStream,
    path: PathBuf,
    old: OldProcess,
}

/// Asks the running gateway for its sockets; `None` if there is none.
pub fn receive_sockets(place: &Path) -> Result<Option<(Sockets, PendingHandover)>, HandoverError> {
    let mut stream = match UnixStream::connect(place) {
        Ok(stream) => stream,
        // A socket that a killed process has left behind refuses.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(HandoverError::Path(place.to_owned(), error)),
    };
    // Any other process that listens there would get the clients.
    let old = OldProcess::of(protocol::peer(&stream)?.pid());
    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
    let asked = writeln!(stream, "{}", protocol::HELLO).map_err(HandoverError::from);
    match asked.and_then(|()| protocol::receive(&stream, REPLY_TIMEOUT)) {
        Ok(sockets) => Ok(Some((sockets, PendingHandover { stream, path: place.to_owned(), old }))),
        Err(error) if is_end(&error) && old.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

impl PendingHandover {
    /// The path where it waited.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the old gateway to stop. On success it is certain to stop or has ended.
    pub fn serves(mut self) -> Result<(), HandoverError> {
        let told = writeln!(self.stream, "{}", protocol::SERVING).map_err(HandoverError::from);
        match told.and_then(|()| protocol::line(&mut self.stream, REPLY_TIMEOUT)) {
            Ok(word) if word == protocol::STOPPING => Ok(()),
            Ok(_) => Err(HandoverError::Refused),
            // No other process has the sockets now.
            Err(error) if is_end(&error) && self.old.is_gone() => {
                tracing::warn!("the old gateway ended before it confirmed the handover");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether the other side has closed the connection, rather than being silent.
fn is_end(error: &HandoverError) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    // The sockets come with a line; an end comes without one.
    matches!(error, HandoverError::Protocol)
        || matches!(error, HandoverError::Io(error) if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
}

/// The process of the old gateway. Its pid may be reused once it has ended.
struct OldProcess(Option<OwnedFd>);

impl OldProcess {
    fn of(pid: i32) -> Self {
        // SAFETY: no memory is involved, and no other code owns the returned descriptor.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(opened).ok().filter(|fd| *fd >= 0);
        // SAFETY: as above.
        Self(fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Whether it has ended; waits a moment, because its connections are closed a little before.
    fn is_gone(&self) -> bool {
        // In another namespace, or on an old kernel: unknown.
        let Some(fd) = &self.0 else { return false };
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry that lives through the call.
        unsafe { libc::poll(&raw mut poll, 1, EXIT_TIMEOUT.as_millis() as libc::c_int) == 1 }
    }
}
