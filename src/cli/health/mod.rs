//! `toolgate health`: asks the gateway that runs with a configuration file for its state.
//!
//! It speaks HTTP/1.1 by itself, over one connection that it does not keep: a full HTTP client would cost
//! more than the response. The file is read for the address alone, and only if the gateway has not
//! published its address: an error in the file does not mean that the gateway is unhealthy.

mod insecure_tls;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::config::AdminAddress;
use crate::process::admin_address_file::AdminAddressFile;

/// Timeout of each step; Docker gives a check 30 seconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// More than `/ready` ever returns.
const MAX_RESPONSE: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(
        "it asks for a client's certificate: give the operator's paths a listener of their own (`admin`), or ask with --live"
    )]
    Certificate,
}

/// Where the gateway is, by the command line.
pub struct HealthArgs {
    /// `HOST:PORT`; else what the gateway or its file says.
    pub address: Option<String>,
    pub tls: bool,
}

pub fn health(file: &Path, at: HealthArgs, live: bool) -> ExitCode {
    let path = if live { "/health" } else { "/ready" };
    let places = match admin_addresses(file, at) {
        Ok(places) => places,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut why = String::new();
    for place in places {
        let address = place.address;
        match get(place, path) {
            Ok((200, body)) => {
                say!("{body}");
                return ExitCode::SUCCESS;
            }
            Ok((status, body)) => {
                eprintln!("error: {address}{path} answers {status}: {body}");
                return ExitCode::FAILURE;
            }
            // A server that requests a certificate is alive.
            Err(ProbeError::Certificate) if live => {
                say!("alive: {address} asks for a client's certificate");
                return ExitCode::SUCCESS;
            }
            Err(error) => why = format!("{address}{path}: {error}"),
        }
    }
    eprintln!("error: {why}");
    ExitCode::FAILURE
}

/// Possible addresses of the gateway, the likeliest first.
fn admin_addresses(file: &Path, at: HealthArgs) -> Result<Vec<AdminAddress>, String> {
    let mut places = Vec::new();
    if let Some(named) = &at.address {
        let found = named.to_socket_addrs().map_err(|error| format!("--address {named}: {error}"))?;
        places.extend(found.map(|address| AdminAddress { address, tls: at.tls }));
    } else {
        places.extend(AdminAddressFile::of(file).and_then(|sign| sign.at()));
        if let Some(said) = AdminAddress::of_file(file).filter(|said| !places.contains(said)) {
            places.push(said);
        }
    }
    if places.is_empty() {
        return Err(format!(
            "{} does not say where the gateway listens (see `toolgate check`), and none has left word of it; --address HOST:PORT does",
            file.display()
        ));
    }
    for place in &mut places {
        place.address = reachable(place.address);
    }
    Ok(places)
}

/// An unspecified address (all interfaces) cannot be connected to on every system.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, address.port())
}

fn get(AdminAddress { address, tls }: AdminAddress, path: &str) -> Result<(u16, String), ProbeError> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    if !tls {
        return Ok(exchange(stream, address, path)?);
    }
    let asked = Arc::new(insecure_tls::ClientCertRequested::default());
    let answered = insecure_tls::connect(stream, address.ip(), asked.clone());
    let answered = answered.and_then(|stream| exchange(stream, address, path));
    // A server closes the connection of a client without a certificate, perhaps before the client has
    // finished.
    answered.map_err(|error| if asked.was() { ProbeError::Certificate } else { error.into() })
}

fn exchange(mut stream: impl Read + Write, address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    let read = stream.take(MAX_RESPONSE).read_to_string(&mut answer);
    match (parse(&answer), read) {
        // However it ends: a TLS connection may be cut off after the response.
        (Some(answer), _) => Ok(answer),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no answer that HTTP has; does it speak TLS? then give --tls",
        )),
    }
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
