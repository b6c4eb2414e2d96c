//! `toolgate health`: asks the gateway that runs with a configuration file how it is.
//!
//! It speaks HTTP/1.1 by itself, over one connection that it does not keep: a client with all that the gateway's own can
//! do would cost more than the answer.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use crate::config::Config;

/// How long anything may take; Docker gives a check 30 seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than `/ready` ever says.
const MOST: u64 = 64 * 1024;

pub fn health(config: &Config, path: &str) -> ExitCode {
    let (address, tls) = match &config.admin {
        Some(admin) => (admin.address, false),
        None => (config.listen.address, config.listen.tls.is_some()),
    };
    if tls {
        // A handshake proves that it is alive; whose certificate it has is the business of clients.
        eprintln!(
            "error: the listener speaks TLS: give the operator's paths a listener of their own (`admin`)"
        );
        return ExitCode::FAILURE;
    }
    match ask(reachable(address), path) {
        Ok((200, body)) => {
            println!("{body}");
            ExitCode::SUCCESS
        }
        Ok((status, body)) => {
            eprintln!("error: {address}{path} answers {status}: {body}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {address}{path}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An address that means all of this machine is none that one can connect to everywhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, address.port())
}

fn ask(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no answer that HTTP has"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(answer), Some((503, "{}".to_owned())));
        for wrong in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0\r\n\r\n", "HTTP/1.1 2\r\n\r\n"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_address_of_all_is_reached_on_this_machine() {
        for (from, to) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80")]
        {
            assert_eq!(reachable(from.parse().expect("an address")), to.parse().expect("an address"));
        }
    }
}
