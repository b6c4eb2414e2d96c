//! The address of a client: that of the connection, or the one that a trusted proxy reports.

use std::net::IpAddr;

use http::HeaderName;
use pingora::proxy::Session;

use crate::config::Listen;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address. In `X-Forwarded-For` only the entries of trusted proxies count: from the end, the
/// first address that is not a trusted proxy.
pub fn client_addr(session: &Session, listen: &Listen) -> Option<IpAddr> {
    let peer = session.client_addr()?.as_inet()?.ip().to_canonical();
    if listen.trusted_proxies.is_empty() || !listen.trusts(peer) {
        return Some(peer);
    }
    let lines = session.req_header().headers.get_all(&FORWARDED_FOR).iter().rev();
    let entries = lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
    let mut client = peer;
    for entry in entries {
        // An unreadable entry was not written by a trusted proxy.
        let Some(ip) = parse(entry.trim()) else { break };
        client = ip;
        if !listen.trusts(ip) {
            break;
        }
    }
    Some(client)
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn parse(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(ip, _)| ip);
    let v4 = || entry.split_once(':').map(|(ip, _)| ip).filter(|ip| ip.contains('.'));
    let ip: IpAddr =
        bare.unwrap_or(entry).parse().or_else(|error| v4().map_or(Err(error), str::parse)).ok()?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_the_forms_that_proxies_write() {
        for (entry, ip) in [
            ("203.0.113.9", Some("203.0.113.9")),
            ("203.0.113.9:4711", Some("203.0.113.9")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("::ffff:203.0.113.9", Some("203.0.113.9")),
            ("unknown", None),
            ("", None),
            ("203.0.113.9.evil", None),
        ] {
            assert_eq!(parse(entry), ip.map(|ip| ip.parse().expect("an address")), "{entry}");
        }
    }
}
