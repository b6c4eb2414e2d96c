//! The protocol between the two processes: lines, and once the sockets themselves.
//!
//! ```text
//! successor    toolgate 1
//! old          ADDRESS ADDRESS\n          with a descriptor for each
//! successor    serving
//! old          leaving
//! ```

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, getsockopt, recvmsg, sendmsg,
};
use nix::unistd::geteuid;

use super::{HandoverError, Sockets};

pub const HELLO: &str = "toolgate 1";
pub const SERVING: &str = "serving";
pub const STOPPING: &str = "leaving";

/// More than the number of listeners that can exist.
const MAX_SOCKETS: usize = 16;
/// Longer than any line of the protocol.
const MAX_LINE: usize = 2048;

/// The process at the other end; only the same user is accepted.
pub fn peer(stream: &UnixStream) -> Result<UnixCredentials, HandoverError> {
    let peer = getsockopt(stream, PeerCredentials).map_err(io::Error::from)?;
    if peer.uid() == geteuid().as_raw() { Ok(peer) } else { Err(HandoverError::User(peer.uid())) }
}

/// Reads one line, without its end.
pub fn line(stream: &mut UnixStream, timeout: Duration) -> Result<String, HandoverError> {
    stream.set_read_timeout(Some(timeout))?;
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        match byte[0] {
            b'\n' => return String::from_utf8(line).map_err(|_| HandoverError::Protocol),
            _ if line.len() == MAX_LINE => return Err(HandoverError::Protocol),
            other => line.push(other),
        }
    }
}

pub fn send(stream: &UnixStream, sockets: &Sockets) -> Result<(), HandoverError> {
    let names: Vec<String> = sockets.0.iter().map(|(address, _)| address.to_string()).collect();
    let text = format!("{}\n", names.join(" "));
    let fds: Vec<_> = sockets.0.iter().map(|(_, listener)| listener.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let slices = [IoSlice::new(text.as_bytes())];
    let sent = sendmsg::<()>(stream.as_raw_fd(), &slices, &rights, MsgFlags::MSG_NOSIGNAL, None);
    // A line this short is sent as a whole or not at all.
    if sent.map_err(io::Error::from)? == text.len() { Ok(()) } else { Err(HandoverError::Protocol) }
}

pub fn receive(stream: &UnixStream, timeout: Duration) -> Result<Sockets, HandoverError> {
    stream.set_read_timeout(Some(timeout))?;
    let mut text = [0; MAX_LINE];
    let mut slices = [IoSliceMut::new(&mut text)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; MAX_SOCKETS]);
    // Close-on-exec at once: a server process must not hold the port.
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags).map_err(io::Error::from)?;
    let mut fds = Vec::new();
    for control in message.cmsgs().map_err(io::Error::from)? {
        if let ControlMessageOwned::ScmRights(given) = control {
            // SAFETY: the system has just made these descriptors for this process; no other code has them.
            fds.extend(given.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = message.bytes;
    let words = std::str::from_utf8(&text[..length]).ok().and_then(|text| text.strip_suffix('\n'));
    let addresses: Result<Vec<SocketAddr>, _> =
        words.ok_or(HandoverError::Protocol)?.split_ascii_whitespace().map(str::parse).collect();
    let addresses = addresses.map_err(|_| HandoverError::Protocol)?;
    if addresses.len() != fds.len() {
        return Err(HandoverError::Protocol);
    }
    let pairs = addresses.into_iter().zip(fds).map(|(address, fd)| listening(address, fd));
    pairs.collect::<Result<_, _>>().map(Sockets)
}

/// Checks that the descriptor is a listening socket of this address, and takes it.
fn listening(address: SocketAddr, fd: OwnedFd) -> Result<(SocketAddr, TcpListener), HandoverError> {
    use nix::sys::socket::sockopt::AcceptConn;
    let listens = getsockopt(&fd, AcceptConn).unwrap_or(false);
    let listener = TcpListener::from(fd);
    let at = listener.local_addr().ok();
    let right = at.is_some_and(|at| at.ip() == address.ip() && [at.port(), 0].contains(&address.port()));
    if listens && right { Ok((address, listener)) } else { Err(HandoverError::Socket(address)) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn sockets_go_over_and_accept() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let bound = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = bound.local_addr().expect("an address");
        send(&here, &Sockets(vec![(address, bound)])).expect("it is sent");
        let Sockets(got) = receive(&there, PATIENCE).expect("it comes");
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].0, address);
        let client = std::net::TcpStream::connect(address).expect("it listens");
        let (_, from) = got[0].1.accept().expect("it accepts");
        assert_eq!(client.local_addr().expect("an address"), from);
    }

    #[test]
    fn what_is_no_listening_socket_is_refused() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let bound = TcpListener::bind("127.0.0.1:0").expect("a port");
        let other = SocketAddr::new([127, 0, 0, 1].into(), 1);
        send(&here, &Sockets(vec![(other, bound)])).expect("it is sent");
        assert!(matches!(receive(&there, PATIENCE), Err(HandoverError::Socket(_))));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = udp.local_addr().expect("an address");
        let rights = [udp.as_raw_fd()];
        let text = format!("{address}\n");
        sendmsg::<()>(
            here.as_raw_fd(),
            &[IoSlice::new(text.as_bytes())],
            &[ControlMessage::ScmRights(&rights)],
            MsgFlags::empty(),
            None,
        )
        .expect("it is sent");
        assert!(matches!(receive(&there, PATIENCE), Err(HandoverError::Socket(_))));
    }

    #[test]
    fn words_without_sockets_and_silence_are_refused() {
        let (mut here, mut there) = UnixStream::pair().expect("a pair");
        here.write_all(b"127.0.0.1:80\n").expect("written");
        assert!(matches!(receive(&there, PATIENCE), Err(HandoverError::Protocol)));
        assert!(matches!(line(&mut there, Duration::from_millis(20)), Err(HandoverError::Io(_))));
        here.write_all(&[b'x'; MAX_LINE + 2]).expect("written");
        assert!(matches!(line(&mut there, PATIENCE), Err(HandoverError::Protocol)));
        drop(here);
        let (here, there) = UnixStream::pair().expect("a pair");
        drop(here);
        assert!(receive(&there, PATIENCE).is_err(), "the other one is gone");
    }

    #[test]
    fn this_user_is_known() {
        let (here, _there) = UnixStream::pair().expect("a pair");
        assert_eq!(peer(&here).expect("the same user").pid(), std::process::id().cast_signed());
    }
}
