//! The side of the running gateway: it waits for a successor, and continues if the successor fails.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;

use super::socket_path::prepare;
use super::{HandoverError, SocketHolder, protocol};

/// How long a process may take to send its request.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a successor may take from the sockets to its first accept. Until then both hold the sockets.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The Unix socket at which successors ask.
pub struct UpgradeListener {
    listener: UnixListener,
    path: PathBuf,
    /// Distinguishes this gateway's file from one that a successor has put in its place.
    inode: u64,
}

impl UpgradeListener {
    /// Replaces any file at this path. This process owns the ports already, so no serving gateway uses that
    /// file.
    pub fn open(place: &Path) -> Result<Self, HandoverError> {
        let failed = |error| HandoverError::Path(place.to_owned(), error);
        prepare(place)?;
        // Under another name first: the path always exists, and always leads to a socket that listens.
        let mut fresh = place.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        let settle = || {
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
            let inode = fs::symlink_metadata(&fresh)?.ino();
            fs::rename(&fresh, place).map(|()| inode)
        };
        let inode = settle().map_err(|error| {
            let _ = fs::remove_file(&fresh);
            failed(error)
        })?;
        Ok(Self { listener, path: place.to_owned(), inode })
    }

    /// Waits until a successor serves, and returns its process id. `asked` is called with true when a
    /// successor has asked, and with false when it failed.
    pub async fn run(mut self, keep: SocketHolder, asked: impl Fn(bool) + Clone + Send + 'static) -> i32 {
        loop {
            let (stream, _) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "successors cannot ask for the sockets at the moment");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let (keep, tell) = (keep.clone(), asked.clone());
            let given =
                tokio::task::spawn_blocking(move || send_sockets(stream.into_std()?, &keep, &tell)).await;
            if !matches!(given, Ok(Ok(_))) {
                asked(false);
            }
            match given {
                Ok(Ok(pid)) => {
                    // The path belongs to the successor now.
                    self.inode = 0;
                    return pid;
                }
                Ok(Err(error)) => tracing::warn!(%error, "a handover failed; this gateway continues"),
                Err(error) => tracing::error!(%error, "a handover broke off; this gateway continues"),
            }
        }
    }
}

impl Drop for UpgradeListener {
    fn drop(&mut self) {
        // A successor may have its own file there by now.
        if fs::symlink_metadata(&self.path).is_ok_and(|seen| seen.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The whole exchange with one successor, one at a time; returns its process id once it serves.
fn send_sockets(
    mut stream: UnixStream,
    keep: &SocketHolder,
    asked: &impl Fn(bool),
) -> Result<i32, HandoverError> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(HELLO_TIMEOUT))?;
    let pid = protocol::peer(&stream)?.pid();
    if protocol::line(&mut stream, HELLO_TIMEOUT)? != protocol::HELLO {
        return Err(HandoverError::Protocol);
    }
    let Some(sockets) = keep.now() else { return Err(HandoverError::Refused) };
    asked(true);
    protocol::send(&stream, &sockets)?;
    tracing::info!(pid, "a successor has got the sockets; it serves soon");
    if protocol::line(&mut stream, START_TIMEOUT)? != protocol::SERVING {
        return Err(HandoverError::Protocol);
    }
    // If this gateway is already stopping, the successor takes over all the same.
    writeln!(stream, "{}", protocol::STOPPING)?;
    Ok(pid)
}
