//! The URI of a resource as patterns see it: its normal form (RFC 3986 §6.2.2), so that no other spelling
//! bypasses a `deny`. A URI that servers would read in more than one way has none.
//!
//! Only the compared text is changed, not the sent one. It is rejected if the two could differ in meaning:
//! dot segments, encoded slashes, backslashes, double encoding. It is not known how a server reads a URI, so
//! any difference between common readers counts (RFC 3986, WHATWG URL, `path.join`).

mod host;

use std::borrow::Cow;

use host::is_web;

/// Why a URI has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AmbiguousUri {
    #[error("it has a segment `.` or `..`")]
    DotSegment,
    #[error("its path begins with two slashes")]
    DoubleSlash,
    #[error("it has a backslash")]
    Backslash,
    #[error("it has a slash that is percent-encoded")]
    EncodedSlash,
    #[error("it has something that is percent-encoded twice")]
    DoubleEncoded,
    #[error("it has a `%` that encodes nothing, or no UTF-8")]
    Percent,
    #[error("it has a control character, or a space at an end")]
    Control,
    #[error("a file has no query and no fragment")]
    Query,
    #[error("the path of a file begins with a slash")]
    Relative,
    #[error("a URL of its scheme has exactly `//` and then a host")]
    Authority,
    #[error("it has a user, a password or an `@` before its host")]
    User,
    #[error(
        "its host has more than ASCII letters, digits, hyphens and single dots (international names are written as `xn--`)"
    )]
    Host,
    #[error("its host is an IP address, and not in its one canonical form")]
    Address,
    #[error("its port is no number from 1 to 65535 without leading zeros (a file has none)")]
    Port,
    #[error("it has a drive that is written with `|`")]
    Drive,
}

/// The components of a URI or of a pattern over URIs.
struct UriParts<'a> {
    /// Empty if there is none.
    scheme: &'a str,
    authority: Option<&'a str>,
    path: &'a str,
    /// With the `?` or `#` that it begins with.
    rest: &'a str,
}

impl<'a> UriParts<'a> {
    fn of_uri(text: &'a str) -> Self {
        let scheme = text.find(':').map(|at| &text[..at]).filter(|scheme| is_scheme(scheme));
        Self::of(text, scheme, (&['/', '?', '#'], &['?', '#']))
    }

    /// Wildcards may replace letters of a scheme. `?` is such a wildcard, and the beginning of a query is not
    /// known.
    fn of_pattern(text: &'a str) -> Self {
        let any = |scheme: &str| !scheme.contains('/') && text[scheme.len()..].starts_with("://");
        let scheme = text.find(':').map(|at| &text[..at]).filter(|scheme| is_scheme(scheme) || any(scheme));
        Self::of(text, scheme, (&['/'], &[]))
    }

    /// `ends` are the letters at which an authority ends, and those at which a path does.
    fn of(text: &'a str, scheme: Option<&'a str>, ends: (&[char], &[char])) -> Self {
        let after = scheme.map_or(text, |scheme| &text[scheme.len() + 1..]);
        // Without a scheme the server decides its meaning, and it has no authority.
        let (authority, after) = match after.strip_prefix("//").filter(|_| scheme.is_some()) {
            Some(after) => {
                let end = after.find(ends.0).unwrap_or(after.len());
                (Some(&after[..end]), &after[end..])
            }
            None => (None, after),
        };
        let end = after.find(ends.1).unwrap_or(after.len());
        let (path, rest) = after.split_at(end);
        Self { scheme: scheme.unwrap_or_default(), authority, path, rest }
    }

    /// Whether all but the path is in normal form already.
    fn is_plain(&self) -> bool {
        let lower = |text: &str| !text.bytes().any(|b| b.is_ascii_uppercase());
        let host = self.authority.unwrap_or_default();
        lower(self.scheme)
            && lower(host)
            && !host.contains([':', '@'])
            && !host.ends_with('.')
            && (self.scheme != "file" || (self.authority.is_some() && host != "localhost"))
            && (!has_root(self.scheme) || !self.path.is_empty())
            && (!is_web(self.scheme) || !self.rest.contains('#'))
    }

    /// Scheme and authority, in one spelling.
    fn head(&self) -> (String, String) {
        let scheme = self.scheme.to_ascii_lowercase();
        let mut out = scheme.clone();
        if !scheme.is_empty() {
            out.push(':');
        }
        match self.authority {
            Some(authority) => {
                out.push_str("//");
                out.push_str(&self::authority(&scheme, authority));
            }
            // RFC 8089 §2: `file:/a` and `file://localhost/a` are `file:///a`.
            None if scheme == "file" => out.push_str("//"),
            None => {}
        }
        (scheme, out)
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// Whether a text begins as a URI with an authority does.
pub fn is_absolute(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme))
}

fn authority(scheme: &str, authority: &str) -> String {
    let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
    let host = host.to_ascii_lowercase();
    let (name, port) = match host.rsplit_once(':') {
        // The last colon of an IPv6 address is before its bracket.
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (&*host, ""),
    };
    let name = if is_web(scheme) { name.strip_suffix('.').unwrap_or(name) } else { name };
    let dropped = port.is_empty() || host::default_port(scheme) == Some(port);
    let host = if dropped { name.to_owned() } else { format!("{name}:{port}") };
    match user {
        "" if scheme == "file" && host == "localhost" => String::new(),
        "" => host,
        user => format!("{user}@{host}"),
    }
}

/// The normal form of a resource's URI, or of a template's.
///
/// # Errors
/// How it could be read in another way.
pub fn normalize(uri: &str) -> Result<Cow<'_, str>, AmbiguousUri> {
    if uri.contains(char::is_control) || uri.starts_with(' ') || uri.ends_with(' ') {
        return Err(AmbiguousUri::Control);
    }
    if uri.contains('\\') {
        return Err(AmbiguousUri::Backslash);
    }
    let parts = UriParts::of_uri(uri);
    let is_file = parts.scheme.eq_ignore_ascii_case("file");
    if is_file && !parts.rest.is_empty() {
        return Err(AmbiguousUri::Query);
    }
    if is_file && !(parts.path.starts_with('/') || parts.authority.is_some_and(|of| !of.is_empty())) {
        return Err(AmbiguousUri::Relative);
    }
    let authority = decoded(parts.authority.unwrap_or_default(), true)?;
    if authority.contains("%3F") || authority.contains("%23") {
        // A reader that decodes it gets another host and another path.
        return Err(AmbiguousUri::EncodedSlash);
    }
    let path = decoded(parts.path, true)?;
    if path.starts_with("//") {
        return Err(AmbiguousUri::DoubleSlash);
    }
    if path.split('/').any(is_dots) || is_dots(&authority) {
        return Err(AmbiguousUri::DotSegment);
    }
    host::check(&parts.scheme.to_ascii_lowercase(), parts.authority)?;
    if is_file && is_drive(&path) {
        return Err(AmbiguousUri::Drive);
    }
    let rest = decoded(parts.rest, false)?;
    let same = |one: &Cow<'_, str>| matches!(one, Cow::Borrowed(_));
    if same(&path) && same(&rest) && same(&authority) && !path.contains("//") && parts.is_plain() {
        return Ok(Cow::Borrowed(uri));
    }
    let parts = UriParts { authority: parts.authority.map(|_| &*authority), path: &path, ..parts };
    let (scheme, mut out) = parts.head();
    single(if path.is_empty() && has_root(&scheme) { "/" } else { &path }, &mut out);
    out.push_str(match rest.find('#').filter(|_| is_web(&scheme)) {
        Some(at) => &rest[..at],
        None => &rest,
    });
    Ok(if out == uri { Cow::Borrowed(uri) } else { out.into() })
}

/// A pattern over URIs in the spelling of the compared text. A `?` is any letter here.
pub fn normalize_pattern(glob: &str) -> String {
    let parts = UriParts::of_pattern(glob);
    let (scheme, mut out) = parts.head();
    if has_root(&scheme) && parts.path.is_empty() && parts.authority.is_some() {
        return root(&scheme, &out);
    }
    let path = decoded(parts.path, false).unwrap_or(Cow::Borrowed(parts.path));
    // An encoded character is not a wildcard.
    let path = if matches!(path, Cow::Owned(_)) { escaped(parts.path) } else { path };
    single(&path, &mut out);
    out
}

/// A pattern over hosts alone; the compared text has at least the path `/` (RFC 9110 §4.2.3). A query may
/// follow.
fn root(scheme: &str, glob: &str) -> String {
    let from = scheme.len() + "://".len();
    if let Some(at) = glob.find("\\?") {
        return format!("{}/{}", &glob[..at], &glob[at..]);
    }
    match glob.find('?') {
        // It may replace a letter of the host, or begin a query.
        Some(at) if !glob.contains(['{', '[', '\\']) => {
            let (host, end) = (&glob[from..], if glob.ends_with('*') { "" } else { "/" });
            format!("{}{{{host}{end},{}/{}}}", &glob[..from], &glob[from..at], &glob[at..])
        }
        _ if glob.ends_with('*') => glob.to_owned(),
        _ => format!("{glob}/"),
    }
}

/// Whether no path is the path `/`.
fn has_root(scheme: &str) -> bool {
    is_web(scheme) || scheme == "file"
}

/// Windows and WHATWG URL take `/C|/` for `/C:/`.
fn is_drive(path: &str) -> bool {
    matches!(path.as_bytes(), [b'/', letter, b'|', rest @ ..]
        if letter.is_ascii_alphabetic() && matches!(rest, [] | [b'/', ..]))
}

/// A dot segment, also for readers that cut off spaces (Windows) or parameters (`..;a`).
fn is_dots(segment: &str) -> bool {
    let name = segment.split(';').next().unwrap_or_default().trim_matches(' ');
    matches!(name, "." | "..")
}

/// File systems treat several slashes as one.
fn single(path: &str, out: &mut String) {
    for letter in path.chars() {
        if letter != '/' || !path_ends_with_slash(out) {
            out.push(letter);
        }
    }
}

/// The slashes before an authority are not those of a path.
fn path_ends_with_slash(out: &str) -> bool {
    out.ends_with('/') && !out.ends_with("://")
}

/// Decodes unnecessary percent-encodings. In a path no encoding that hides a slash may remain.
fn decoded(text: &str, strict: bool) -> Result<Cow<'_, str>, AmbiguousUri> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    decode(text, strict, |letter, out| out.push(letter)).map(Cow::Owned)
}

/// The same for a pattern, in which some letters are signs.
fn escaped(text: &str) -> Cow<'_, str> {
    let put = |letter, out: &mut String| {
        if matches!(letter, '*' | '?' | '[' | ']' | '{' | '}' | '!' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    };
    decode(text, false, put).map_or(Cow::Borrowed(text), Cow::Owned)
}

fn decode(text: &str, strict: bool, mut put: impl FnMut(char, &mut String)) -> Result<String, AmbiguousUri> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        // All that are encoded in a row are letters of one text.
        let mut bytes = Vec::new();
        rest = &rest[at..];
        while let Some(after) = rest.strip_prefix('%') {
            let byte = after.get(..2).and_then(|hex| {
                hex.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u8::from_str_radix(hex, 16).ok())?
            });
            bytes.push(byte.ok_or(AmbiguousUri::Percent)?);
            rest = &after[2..];
        }
        let letters = std::str::from_utf8(&bytes).map_err(|_| AmbiguousUri::Percent)?;
        for (at, letter) in letters.char_indices() {
            match letter {
                '/' if strict => return Err(AmbiguousUri::EncodedSlash),
                '\\' => return Err(AmbiguousUri::Backslash),
                letter if letter.is_control() => return Err(AmbiguousUri::Control),
                '%' if strict => {
                    let after: String = letters[at + 1..].chars().chain(rest.chars()).take(2).collect();
                    if after.len() == 2 && after.bytes().all(|b| b.is_ascii_hexdigit()) {
                        return Err(AmbiguousUri::DoubleEncoded);
                    }
                    out.push_str("%25");
                }
                '%' | '/' | '?' | '#' => out.push_str(&format!("%{:02X}", letter as u32)),
                '&' | '=' | '+' | ';' if !strict => out.push_str(&format!("%{:02X}", letter as u32)),
                letter => put(letter, &mut out),
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;

    use super::*;

    #[test]
    fn one_resource_has_one_spelling() {
        for (uri, same) in [
            ("file:///pub/a", "file:///pub/a"),
            ("FILE:///pub/a", "file:///pub/a"),
            ("file:/pub/a", "file:///pub/a"),
            ("file://localhost/pub/a", "file:///pub/a"),
            ("file://LOCALHOST/pub/a", "file:///pub/a"),
            ("file:///pub/%73ecret", "file:///pub/secret"),
            ("file:///pub/%7Ea%2Db", "file:///pub/~a-b"),
            ("file:///pub//a///b/", "file:///pub/a/b/"),
            ("file:///a%20b", "file:///a b"),
            ("file:///s%C3%A9cret", "file:///sécret"),
            ("file:///a%28b%29", "file:///a(b)"),
            ("file:///a%23b%3fc", "file:///a%23b%3Fc"),
            ("file:///100%25", "file:///100%25"),
            ("file:///%e2%82%ac", "file:///€"),
            ("file://Documents/Readme", "file://documents/Readme"),
            ("https://Docs.Example:443/A?b=%7E#c", "https://docs.example/A?b=~"),
            ("https://docs.example./a", "https://docs.example/a"),
            ("https://docs.example:8443/a", "https://docs.example:8443/a"),
            ("http://docs.example:/a?x=../y", "http://docs.example/a?x=../y"),
            ("http://docs.example/a?u=http%3A%2F%2Fx", "http://docs.example/a?u=http:%2F%2Fx"),
            ("postgres://Ann@DB.example/t/schema", "postgres://Ann@db.example/t/schema"),
            ("memo://Notes/%31", "memo://notes/1"),
            ("ui:app/main", "ui:app/main"),
            ("urn:isbn:0451450523", "urn:isbn:0451450523"),
            ("file:///pub/{+path}", "file:///pub/{+path}"),
            ("plain text", "plain text"),
            ("web://x/y...z/.a/..b/c..", "web://x/y...z/.a/..b/c.."),
            ("", ""),
        ] {
            let normal = normalize(uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
            assert_eq!(normal, same, "{uri}");
            assert_eq!(
                super::normalize(&normal),
                Ok(Cow::Borrowed(same)),
                "{uri}: it is its own normal form"
            );
            assert_eq!(
                matches!(normal, Cow::Borrowed(_)),
                uri == same,
                "{uri}: nothing is copied for nothing"
            );
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_has_none() {
        for (uri, error) in [
            ("file:///pub/../etc/passwd", AmbiguousUri::DotSegment),
            ("file:///pub/./a", AmbiguousUri::DotSegment),
            ("file:///pub/..", AmbiguousUri::DotSegment),
            ("file:///pub/%2e%2E/etc", AmbiguousUri::DotSegment),
            ("file:///pub/.%2e/etc", AmbiguousUri::DotSegment),
            ("file:///pub/..;x=1/etc", AmbiguousUri::DotSegment),
            ("file:///pub/..%3Bx/etc", AmbiguousUri::DotSegment),
            ("file:///pub/..%20/etc", AmbiguousUri::DotSegment),
            ("file://../etc/passwd", AmbiguousUri::DotSegment),
            ("ui:../main", AmbiguousUri::DotSegment),
            ("urn:a/../b", AmbiguousUri::DotSegment),
            ("../etc/passwd", AmbiguousUri::DotSegment),
            ("https://x/a/..?b", AmbiguousUri::DotSegment),
            ("file:///pub/..%2fetc", AmbiguousUri::EncodedSlash),
            ("file:///pub%2Fsecret", AmbiguousUri::EncodedSlash),
            ("https://good.example%2f@evil/x", AmbiguousUri::EncodedSlash),
            ("https://good.example%3f@evil/x", AmbiguousUri::EncodedSlash),
            ("file:///pub/..\\etc", AmbiguousUri::Backslash),
            ("file:///pub/..%5cetc", AmbiguousUri::Backslash),
            ("file:///pub/%252e%252e/etc", AmbiguousUri::DoubleEncoded),
            ("file:///pub/%25%32%65", AmbiguousUri::DoubleEncoded),
            ("file:///pub/%2", AmbiguousUri::Percent),
            ("file:///pub/%%32e", AmbiguousUri::Percent),
            ("file:///pub/%zz", AmbiguousUri::Percent),
            ("file:///pub/%+1", AmbiguousUri::Percent),
            ("file:///pub/%c0%ae%c0%ae/etc", AmbiguousUri::Percent),
            ("file:///pub/a%00.txt", AmbiguousUri::Control),
            ("file:///pub/a\n", AmbiguousUri::Control),
            (" file:///pub/a", AmbiguousUri::Control),
            ("file:////etc/passwd", AmbiguousUri::DoubleSlash),
            ("//etc/passwd", AmbiguousUri::DoubleSlash),
            ("file:///secret?", AmbiguousUri::Query),
            ("file:///secret#a", AmbiguousUri::Query),
            ("file:etc/passwd", AmbiguousUri::Relative),
            ("file:", AmbiguousUri::Relative),
        ] {
            assert_eq!(normalize(uri), Err(error), "{uri}");
        }
    }

    #[test]
    fn a_pattern_fits_all_spellings_of_what_it_fits() {
        for (glob, uri, fits) in [
            ("file:///pub/*", "file:///pub/a/b", true),
            ("file:///pub/*", "FILE://localhost/%70ub//a", true),
            ("FILE:///pub/*", "file:/pub/a", true),
            ("file://localhost/pub/*", "file:///pub/a", true),
            ("file:///my%20docs/*", "file:///my docs/a", true),
            ("file:///my docs/*", "file:///my%20docs/a", true),
            ("file:///s%C3%A9cret*", "file:///sécret", true),
            ("file:///a%2Ab", "file:///a*b", true),
            ("file:///a%2Ab", "file:///axb", false),
            ("file:///a%23*", "file:///a%23b", true),
            ("https://Docs.Example/*", "https://docs.example:443/x#y", true),
            ("https://*.Example/*", "https://a.EXAMPLE/x", true),
            ("https://docs.example/a\\?*", "https://docs.example/a?b", true),
            ("memo://Notes/?", "memo://notes/1", true),
            ("memo://{a,B}/*", "memo://b/1", true),
            ("*", "ui:app/main", true),
            ("*/secret*", "file:///pub/%73ecret", true),
            ("file:///{a,b}//c", "file:///b/c", true),
            ("*://docs.example/*", "https://Docs.example/a", true),
            ("{file,memo}:///a", "file:/a", true),
            ("file:*", "file:/a", true),
        ] {
            let set = GlobBuilder::new(&normalize_pattern(glob)).build().expect(glob).compile_matcher();
            assert_eq!(set.is_match(&*normalize(uri).expect(uri)), fits, "{glob} {uri}");
        }
    }
}
