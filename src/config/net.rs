//! IP networks: `10.0.0.0/8`, `fd00::/8`, or one address alone.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::scalar::{ScalarValue, scalar};

/// A network: all addresses that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IpNetwork {
    ip: IpAddr,
    bits: u8,
}

impl IpNetwork {
    /// Whether the address is one of it; `::ffff:10.0.0.1` is `10.0.0.1`.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.ip.is_ipv4() && masked(ip, self.bits) == masked(self.ip, self.bits)
    }

    /// Every address of its family.
    pub fn is_everyone(&self) -> bool {
        self.bits == 0
    }
}

/// The address as a number, with only its first bits.
fn masked(ip: IpAddr, bits: u8) -> u128 {
    let (number, width) = match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let rest = width - u32::from(bits);
    number.checked_shr(rest).unwrap_or(0).checked_shl(rest).unwrap_or(0)
}

impl ScalarValue for IpNetwork {
    const EXPECTED: &'static str = "an IP address or a network such as `10.0.0.0/8`";

    fn read(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "not a network";
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let ip = address.parse::<IpAddr>().map_err(|_| WRONG)?;
        if ip != ip.to_canonical() {
            return Err("IPv4-mapped IPv6 address; write it as IPv4");
        }
        let width = if ip.is_ipv4() { 32 } else { 128 };
        let Some(bits) = bits else { return Ok(Self { ip, bits: width }) };
        let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = bits.parse::<u8>().ok().filter(|bits| digits && *bits <= width);
        let bits = bits.ok_or("invalid prefix length")?;
        if masked(ip, bits) != masked(ip, width) {
            return Err("host bits are set: not the first address of a network");
        }
        Ok(Self { ip, bits })
    }
}

scalar!(IpNetwork);

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.bits)
    }
}

impl fmt::Debug for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for IpNetwork {
    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An IP address or a network: `127.0.0.1`, `10.0.0.0/8`, `fd00::/8`.",
            "type": "string",
            "pattern": "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        for (net, ip, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "::1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "fe80::1", true),
            ("::1", "::1", true),
        ] {
            let net = IpNetwork::read(net).expect(net);
            assert_eq!(net.contains(ip.parse().expect(ip)), inside, "{net} {ip}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.1.0.0/8", "a/8", "::/129", "*"]
        {
            assert!(IpNetwork::read(text).is_err(), "{text}");
        }
        assert!(IpNetwork::read("::ffff:10.0.0.1").is_err());
    }
}
