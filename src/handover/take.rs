//! The successor's side: it gets the sockets, and says when it serves.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{HandoverError, Sockets, wire};

/// How long the old gateway may take for an answer; it has nothing to do but to give it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The old gateway, which waits for a word.
pub struct Taking(UnixStream);

/// Asks the gateway that runs for its sockets; `None` if there is none.
pub fn take(place: &Path) -> Result<Option<(Sockets, Taking)>, HandoverError> {
    let mut stream = match UnixStream::connect(place) {
        Ok(stream) => stream,
        // A socket that a killed process has left behind refuses.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(HandoverError::Place(place.to_owned(), error)),
    };
    // Whoever else waits there would get our clients.
    wire::peer(&stream)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", wire::HELLO)?;
    let sockets = wire::receive(&stream, PATIENCE)?;
    Ok(Some((sockets, Taking(stream))))
}

impl Taking {
    /// Tells the old gateway to leave; it is sure to when this is well.
    pub fn serves(mut self) -> Result<(), HandoverError> {
        writeln!(self.0, "{}", wire::SERVING)?;
        match wire::line(&mut self.0, PATIENCE)?.as_str() {
            wire::LEAVING => Ok(()),
            _ => Err(HandoverError::Refused),
        }
    }
}
