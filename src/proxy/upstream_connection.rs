//! The connection to an HTTP/1 server. Bytes that lie on it before a request was sent are no response (RFC
//! 9112 §9.2). A connection on which responses and requests may no longer match is not reused.

use std::os::fd::RawFd;

/// Whether a connection that is about to be reused has unread bytes or has ended. Pingora checks too, but
/// by the runtime's readiness state, which lags on a busy machine. Costs one system call and copies
/// nothing.
pub fn is_touched(socket: RawFd) -> bool {
    let mut byte = [0_u8; 1];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes at most one byte at `byte`, which lives until the call returns.
    let read = unsafe { libc::recv(socket, byte.as_mut_ptr().cast(), byte.len(), flags) };
    read >= 0 || !matches!(std::io::Error::last_os_error().kind(), std::io::ErrorKind::WouldBlock)
}

/// Shuts down a connection that Pingora would put back into its pool. Its next user finds the end.
pub fn end(socket: RawFd) {
    // SAFETY: nothing of this process's memory is touched. The caller owns the exchange that the socket
    // belongs to.
    unsafe {
        libc::shutdown(socket, libc::SHUT_RDWR);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let ours = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
        (ours, listener.accept().expect("it came").0)
    }

    /// Waits for what the other side has sent, without reading it.
    fn arrived(ours: &TcpStream) {
        ours.peek(&mut [0; 1]).expect("something comes");
    }

    #[test]
    fn what_lies_on_a_connection_is_seen_and_left_there() {
        let (mut ours, mut server) = pair();
        assert!(!is_touched(ours.as_raw_fd()));
        server.write_all(b"x").expect("it is taken");
        arrived(&ours);
        assert!(is_touched(ours.as_raw_fd()));
        assert_eq!(ours.read(&mut [0; 8]).expect("it is still there"), 1);
        assert!(!is_touched(ours.as_raw_fd()));
        drop(server);
        arrived(&ours);
        assert!(is_touched(ours.as_raw_fd()), "the end is something too");
    }

    #[test]
    fn an_ended_connection_is_found_so_by_both_sides() {
        let (ours, mut server) = pair();
        end(ours.as_raw_fd());
        assert!(is_touched(ours.as_raw_fd()));
        assert_eq!(server.read(&mut [0; 8]).expect("the end"), 0);
    }
}
