//! The most frequent causes of TLS errors, whose own messages name the internals of a library.

/// The message of a connection error, with a hint if the cause is known.
pub fn with_hint(message: String) -> String {
    let known = [
        (
            "CaUsedAsEndEntity",
            "the certificate is that of an authority (CA:TRUE), which stands for no server; make one with \
             `-addext basicConstraints=critical,CA:FALSE`, or have the authority sign one",
        ),
        ("InvalidContentType", "what answers there speaks no TLS; is it http://?"),
        ("invalid HTTP version parsed", "what answers there may speak TLS; is it https://?"),
    ];
    match known.into_iter().find(|(part, _)| message.contains(part)) {
        Some((_, hint)) => format!("{message}: {hint}"),
        None => message,
    }
}
