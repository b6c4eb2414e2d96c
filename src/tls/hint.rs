//! What most often is behind an error of TLS, whose own words name the inside of a library.

/// What to do about an error of a connection with these words, if they are known.
pub fn hint(words: &str) -> Option<&'static str> {
    let known = [
        (
            "CaUsedAsEndEntity",
            "the certificate is that of an authority (CA:TRUE), which stands for no server; make one with \
             `-addext basicConstraints=critical,CA:FALSE`, or have the authority sign one",
        ),
        ("InvalidContentType", "what answers there speaks no TLS; is it http://?"),
        ("invalid HTTP version parsed", "what answers there may speak TLS; is it https://?"),
    ];
    known.into_iter().find(|(part, _)| words.contains(part)).map(|(_, hint)| hint)
}
