//! The host of a URL with a special scheme (WHATWG URL, "special schemes"). Readers map such hosts:
//! international letters, soft hyphens and percent-encodings become other letters, short and octal numbers
//! become addresses. Every host that any reader maps is rejected. The one remaining spelling is compared with
//! patterns.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::AmbiguousUri;

/// The special schemes but `file`: they have `//`, a host, and a port of their own.
pub(super) fn is_web(scheme: &str) -> bool {
    default_port(scheme).is_some()
}

pub(super) fn default_port(scheme: &str) -> Option<&'static str> {
    match scheme {
        "http" | "ws" => Some("80"),
        "https" | "wss" => Some("443"),
        "ftp" => Some("21"),
        _ => None,
    }
}

/// Whether the authority of a URL with such a scheme has one reading only. `scheme` is in lower case.
pub(super) fn check(scheme: &str, authority: Option<&str>) -> Result<(), AmbiguousUri> {
    let is_file = scheme == "file";
    if !is_file && !is_web(scheme) {
        return Ok(());
    }
    let authority = match authority {
        None | Some("") if is_file => return Ok(()),
        // WHATWG takes the following text for the host, after any number of slashes.
        None | Some("") => return Err(AmbiguousUri::Authority),
        Some(authority) => authority,
    };
    if authority.contains('@') {
        return Err(AmbiguousUri::User);
    }
    if authority.starts_with('[') && !authority.contains(']') {
        return Err(AmbiguousUri::Address);
    }
    let end = authority.find(']').map_or(0, |at| at + 1);
    let (host, port) = match authority[end..].find(':') {
        Some(at) => (&authority[..end + at], Some(&authority[end + at + 1..])),
        None => (authority, None),
    };
    match port {
        // A drive (`file://C:/a`) or a port that a file does not have.
        Some(_) if is_file => return Err(AmbiguousUri::Port),
        Some(port) if !is_port(port) => return Err(AmbiguousUri::Port),
        _ => {}
    }
    if let Some(inner) = host.strip_prefix('[') {
        let address: Ipv6Addr =
            inner.strip_suffix(']').and_then(|inner| inner.parse().ok()).ok_or(AmbiguousUri::Address)?;
        let same = address.to_string().eq_ignore_ascii_case(&inner[..inner.len() - 1]);
        // A mapped address is an IPv4 address in another notation.
        return if same && !is_file && address.to_ipv4_mapped().is_none() {
            Ok(())
        } else {
            Err(AmbiguousUri::Address)
        };
    }
    // The host of a file URL is compared unchanged.
    let name = if is_file { host } else { host.strip_suffix('.').unwrap_or(host) };
    let is_valid = |label: &str| !label.is_empty() && label.bytes().all(is_letter) && !is_hollow(label);
    if !name.split('.').all(is_valid) {
        return Err(AmbiguousUri::Host);
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|b| b.is_ascii_digit())
        || last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    if is_number && (is_file || name.parse::<Ipv4Addr>().is_err()) {
        // `Ipv4Addr` parses only the notation that it prints.
        return Err(AmbiguousUri::Address);
    }
    Ok(())
}

/// Nothing (RFC 3986 §3.2.3), a number in its one spelling, or the expression of a template.
fn is_port(port: &str) -> bool {
    let expression = port.strip_prefix('{').and_then(|port| port.strip_suffix('}'));
    port.is_empty()
        || expression.is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        || (port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0') && port.parse::<u16>().is_ok())
}

/// Characters that no reader maps or rejects. Braces belong to templates.
fn is_letter(byte: u8) -> bool {
    byte.is_ascii_graphic() && !br##""#%/:<>?@[\]^`|"##.contains(&byte)
}

/// `xn--host-` encodes nothing: some readers take it for `host`.
fn is_hollow(label: &str) -> bool {
    label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--")) && label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::super::{normalize, normalize_pattern};
    use super::*;

    #[test]
    fn a_host_that_a_reader_maps_to_another_has_no_normal_form() {
        for (uri, error) in [
            ("https:internal.example/x", AmbiguousUri::Authority),
            ("https:/internal.example/x", AmbiguousUri::Authority),
            ("https:///internal.example/x", AmbiguousUri::Authority),
            ("HTTP:internal.example/x", AmbiguousUri::Authority),
            ("ws:/internal.example/x", AmbiguousUri::Authority),
            ("wss:///internal.example/x", AmbiguousUri::Authority),
            ("ftp:internal.example/x", AmbiguousUri::Authority),
            ("https:", AmbiguousUri::Authority),
            ("https://?x", AmbiguousUri::Authority),
            ("https://u@internal.example/x", AmbiguousUri::User),
            ("https://u:p@internal.example/x", AmbiguousUri::User),
            ("https://@internal.example/x", AmbiguousUri::User),
            ("https://:@internal.example/x", AmbiguousUri::User),
            ("https://x@y@internal.example/x", AmbiguousUri::User),
            ("https://ｉnternal.example/x", AmbiguousUri::Host),
            ("https://internal。example/x", AmbiguousUri::Host),
            ("https://int\u{ad}ernal.example/x", AmbiguousUri::Host),
            ("https://internal.\u{212a}example/x", AmbiguousUri::Host),
            ("https://ınternal.example/x", AmbiguousUri::Host),
            ("https://internal.examp\u{2113}e/x", AmbiguousUri::Host),
            ("https://%69nternal.example/x", AmbiguousUri::Host),
            ("https://%EF%BD%89nternal.example/x", AmbiguousUri::Host),
            ("https://xn--internal-.example/x", AmbiguousUri::Host),
            ("https://internal.example../x", AmbiguousUri::Host),
            ("https://internal..example/x", AmbiguousUri::Host),
            ("https://inter nal.example/x", AmbiguousUri::Host),
            ("https://:443/x", AmbiguousUri::Host),
            ("http://127.1/x", AmbiguousUri::Address),
            ("http://127.1./x", AmbiguousUri::Address),
            ("http://2130706433/x", AmbiguousUri::Address),
            ("http://0x7f000001/x", AmbiguousUri::Address),
            ("http://0X7F.1/x", AmbiguousUri::Address),
            ("http://127.0.0.0x1/x", AmbiguousUri::Address),
            ("http://0x/x", AmbiguousUri::Address),
            ("http://0177.0.0.1/x", AmbiguousUri::Address),
            ("http://127.00.0.1/x", AmbiguousUri::Address),
            ("http://a.127/x", AmbiguousUri::Address),
            ("http://[0::1]/x", AmbiguousUri::Address),
            ("http://[0:0:0:0:0:0:0:1]/x", AmbiguousUri::Address),
            ("http://[::0001]/x", AmbiguousUri::Address),
            ("http://[::0.0.0.1]/x", AmbiguousUri::Address),
            ("http://[::ffff:127.0.0.1]/x", AmbiguousUri::Address),
            ("http://[::1/x", AmbiguousUri::Address),
            ("http://[::1]a/x", AmbiguousUri::Address),
            ("http://127.0.0.1:080/x", AmbiguousUri::Port),
            ("https://internal.example:0443/x", AmbiguousUri::Port),
            ("https://internal.example:0/x", AmbiguousUri::Port),
            ("https://internal.example:65536/x", AmbiguousUri::Port),
            ("https://internal.example:+443/x", AmbiguousUri::Port),
            ("https://internal.example:4:43/x", AmbiguousUri::Port),
            ("file://u@localhost/pub/secret", AmbiguousUri::User),
            ("file://localhost:80/pub/secret", AmbiguousUri::Port),
            ("file://localhost:/pub/secret", AmbiguousUri::Port),
            ("file://C:/secret", AmbiguousUri::Port),
            ("file://loc\u{ad}alhost/pub/secret", AmbiguousUri::Host),
            ("file://ｌocalhost/pub/secret", AmbiguousUri::Host),
            ("file://%6cocalhost/pub/secret", AmbiguousUri::Host),
            ("file://localhost./pub/secret", AmbiguousUri::Host),
            ("file://127.0.0.1/pub/secret", AmbiguousUri::Address),
            ("file://[::1]/pub/secret", AmbiguousUri::Address),
            ("file:///C|/secret", AmbiguousUri::Drive),
        ] {
            assert_eq!(normalize(uri), Err(error), "{uri}");
        }
    }

    #[test]
    fn a_host_in_its_one_spelling_has_one_normal_form() {
        for (uri, same) in [
            ("https://Internal.example", "https://internal.example/"),
            ("https://internal.example?x", "https://internal.example/?x"),
            ("https://internal.example#x", "https://internal.example/"),
            ("https://internal.example./x", "https://internal.example/x"),
            ("https://internal.example.:8443/x", "https://internal.example:8443/x"),
            ("https://internal.example:443", "https://internal.example/"),
            ("ftp://internal.example:21/x", "ftp://internal.example/x"),
            ("wss://internal.example:443/x", "wss://internal.example/x"),
            ("ws://internal.example:443/x", "ws://internal.example:443/x"),
            ("http://127.0.0.1:80/x", "http://127.0.0.1/x"),
            ("http://127.0.0.1./x", "http://127.0.0.1/x"),
            ("http://[::1]:80/x", "http://[::1]/x"),
            ("http://[2001:DB8::1]/x", "http://[2001:db8::1]/x"),
            ("https://xn--bcher-kva.example/x", "https://xn--bcher-kva.example/x"),
            ("https://a_b-c.example/x", "https://a_b-c.example/x"),
            ("https://{host}.example:{port}/{+path}", "https://{host}.example:{port}/{+path}"),
            // The servers of other schemes define its meaning.
            ("memo:notes/1", "memo:notes/1"),
            ("postgres://u@127.1:05432/t", "postgres://u@127.1:05432/t"),
        ] {
            assert_eq!(normalize(uri).as_deref(), Ok(same), "{uri}");
            assert_eq!(normalize(same).as_deref(), Ok(same), "{uri}: it is its own normal form");
        }
    }

    #[test]
    fn a_pattern_of_a_host_alone_fits_its_root() {
        for (glob, uri, fits) in [
            ("https://internal.example/*", "https://internal.example", true),
            ("https://internal.example/*", "https://internal.example?x", true),
            ("https://internal.example", "https://internal.example", true),
            ("https://internal.example", "https://internal.example/", true),
            ("https://*.example", "https://internal.example", true),
            ("https://internal.example*", "https://internal.example/x", true),
            ("https://internal.example\\?*", "https://internal.example?x", true),
            ("https://internal.example?*", "https://internal.example?x", true),
            ("https://internal?example", "https://internal.example", true),
            ("https://internal.example", "https://internal.example/x", false),
            ("http://[[]::1]/*", "http://[::1]", true),
        ] {
            let set =
                globset::GlobBuilder::new(&normalize_pattern(glob)).build().expect(glob).compile_matcher();
            assert_eq!(set.is_match(&*normalize(uri).expect(uri)), fits, "{glob} {uri}");
        }
    }
}
