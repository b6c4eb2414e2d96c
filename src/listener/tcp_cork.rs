//! One packet for the head and the body of a request to a server.
//!
//! Pingora writes and flushes the head by itself and the body after it: two system calls through the whole
//! network stack, and a server that wakes up for a head without its body. The socket is corked (`TCP_CORK`,
//! tcp(7)) just before the head, and uncorked at the end of the same poll, after the body. The kernel
//! uncorks it by itself after 200 ms, so nothing can get stuck. Systems without this option skip it.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::pin::pin;

/// No socket is corked.
const NONE: RawFd = -1;
/// Nothing would uncork the socket: nothing is corked.
const OUTSIDE: RawFd = -2;

thread_local! {
    /// The socket that was corked by the task which this thread polls.
    static CORKED: Cell<RawFd> = const { Cell::new(OUTSIDE) };
}

/// Holds back what is written to the socket until the current poll ends. Without effect outside of
/// [`with_cork`].
pub fn cork(socket: RawFd) {
    let before = CORKED.get();
    if before == OUTSIDE {
        return;
    }
    if before != NONE && before != socket {
        set(before, false);
    }
    CORKED.set(socket);
    set(socket, true);
}

/// Serves requests, one at a time; after each poll the held-back bytes go out.
pub async fn with_cork<T>(serve: impl Future<Output = T>) -> T {
    let mut serve = pin!(serve);
    std::future::poll_fn(|cx| {
        let around = CORKED.replace(NONE);
        let polled = serve.as_mut().poll(cx);
        let socket = CORKED.replace(around);
        if socket != NONE {
            set(socket, false);
        }
        polled
    })
    .await
}

/// Errors are ignored, such as for a closed socket or one that is not TCP: this concerns only speed.
#[cfg(target_os = "linux")]
fn set(socket: RawFd, on: bool) {
    let value = libc::c_int::from(on);
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes at `value`, which lives until the call returns. A descriptor
    // that was closed and reused makes this a hint to another socket, at worst an early packet.
    unsafe {
        libc::setsockopt(socket, libc::IPPROTO_TCP, libc::TCP_CORK, (&raw const value).cast(), size);
    }
}

#[cfg(not(target_os = "linux"))]
fn set(_: RawFd, _: bool) {}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_written_in_one_poll_arrives_as_one() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut out = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
        out.set_nodelay(true).expect("TCP has it");
        let (mut inside, _) = listener.accept().expect("it came");
        inside.set_nonblocking(true).expect("sockets have it");
        let mut seen = [0; 16];
        with_cork(async {
            cork(out.as_raw_fd());
            out.write_all(b"head").expect("it is taken");
            let early = inside.read(&mut seen).expect_err("nothing went out yet");
            assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
            out.write_all(b"body").expect("it is taken");
        })
        .await;
        inside.set_nonblocking(false).expect("sockets have it");
        let got = inside.read(&mut seen).expect("it went out");
        assert_eq!(&seen[..got], b"headbody");
        out.write_all(b"next").expect("it is taken");
        let got = inside.read(&mut seen).expect("the cork is drawn");
        assert_eq!(&seen[..got], b"next");
    }
}
