//! Reports the state of this process to systemd (`sd_notify(3)`); elsewhere it does nothing.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends one state, such as `READY=1`, to the socket that systemd has named, if there is one.
pub fn notify(state: &str) {
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&name, state) {
        tracing::warn!(%error, state, "systemd cannot be notified");
    }
}

fn send(name: &str, state: &str) -> std::io::Result<()> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // Never wait for it: a notification is not worth a delay.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_as_one_message_by_path_or_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let abstract_name = format!("toolgate-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).expect("a socket");
        let address = SocketAddr::from_abstract_name(&abstract_name).expect("a name");
        let by_name = UnixDatagram::bind_addr(&address).expect("a socket");
        for (socket, name) in [(by_path, path.display().to_string()), (by_name, format!("@{abstract_name}"))]
        {
            send(&name, "READY=1").expect("it is sent");
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).expect("it came");
            assert_eq!(&buffer[..length], b"READY=1");
        }
        assert!(send("/nowhere/notify", "READY=1").is_err());
    }
}
