//! Heads that HTTP, the origin guard or the limits reject.

use super::{CALL, Case, Form, call_head};
use crate::raw::Head;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let refused = |status: u16| Form::Rpc(status.into(), None);
    for (what, head, status) in heads() {
        cases.push(Case::new(what, head.whole(CALL.as_bytes()), status, refused(status)));
    }
    for (what, head) in encodings() {
        let body = format!("{:x}\r\n{CALL}\r\n0\r\n\r\n", CALL.len());
        let request = [head.bytes(), body.into_bytes()].concat();
        cases.push(Case::new(what, request, 400, refused(400)).saying("connection", "close"));
    }
    cases.extend(unframed());
    for http_method in ["PUT", "PATCH", "HEADER", "get", "post", "TRACE"] {
        let head = call_head().line(&format!("{http_method} /mcp HTTP/1.1"));
        let case =
            Case::new(format!("the verb {http_method}"), head.whole(CALL.as_bytes()), 405, refused(405));
        cases.push(case.saying("allow", "POST, GET, DELETE"));
    }
    for path in [
        "/nope",
        "/mcp//",
        "//mcp",
        "/MCP",
        "/%6dcp",
        "/mcp;x=1",
        "/servers/up",
        "/servers/up/mcp//",
        "/servers/../mcp",
        "/",
    ] {
        let head = call_head().line(&format!("POST {path} HTTP/1.1"));
        cases.push(Case::new(format!("the path {path}"), head.whole(CALL.as_bytes()), 404, Form::Rest));
    }
    // The response is the same as for an existing endpoint that the caller may not use.
    for path in ["/servers/none/mcp", "/servers/UP/mcp"] {
        let head = call_head().line(&format!("POST {path} HTTP/1.1"));
        cases.push(Case::new(format!("the path {path}"), head.whole(CALL.as_bytes()), 404, refused(404)));
    }
    let foreign = call_head().line("POST /nope HTTP/1.1").with("Origin", "https://evil.example");
    cases.push(Case::new("a foreign page on no path", foreign.whole(CALL.as_bytes()), 403, Form::Rest));
    let health = call_head().line("POST /health HTTP/1.1");
    let case = Case::new("POST to /health", health.whole(CALL.as_bytes()), 405, Form::Bare);
    cases.push(case.saying("allow", "GET, HEAD"));
    let long = format!("{CALL}{}", " ".repeat(64 * 1024));
    let large = [
        ("a body over the limit", call_head().whole(long.as_bytes())),
        ("a body over the limit in chunks", call_head().chunked(long.as_bytes(), 4096)),
        ("a body of which only the length is sent", call_head().with("Content-Length", "65537").bytes()),
        ("a length that no machine has", call_head().with("Content-Length", "18446744073709551615").bytes()),
    ];
    for (what, request) in large {
        cases.push(Case::new(what, request, 413, refused(413)).saying("connection", "close"));
    }
    let wide = [
        ("a header over the limit", call_head().with("X-Long", &"x".repeat(9000))),
        (
            "many headers over the limit",
            (0..200).fold(call_head(), |head, n| head.with(&format!("X-{n}"), &"y".repeat(50))),
        ),
        ("a name over the limit", call_head().set("Mcp-Name", &"n".repeat(9000))),
    ];
    let long = call_head().line(&format!("POST /mcp?{} HTTP/1.1", "q".repeat(9000)));
    let long = Case::new("a target over the limit", long.whole(CALL.as_bytes()), 414, refused(414));
    cases.push(long.saying("connection", "close"));
    for (what, head) in wide {
        cases.push(
            Case::new(what, head.whole(CALL.as_bytes()), 431, refused(431)).saying("connection", "close"),
        );
    }
    cases
}

/// Heads with one fault, and the status.
fn heads() -> Vec<(String, Head, u16)> {
    let mut all = Vec::new();
    for kind in [
        "text/plain",
        "text/plain;charset=application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json-rpc",
        "application",
        "json",
        "",
        "application/json, text/plain",
        "text/event-stream",
    ] {
        all.push((format!("the content type {kind:?}"), call_head().set("Content-Type", kind), 415));
    }
    all.push(("no content type".into(), call_head().without("Content-Type"), 415));
    all.push(("two content types".into(), call_head().with("Content-Type", "application/json"), 415));
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8000",
        "0.0.0.0",
        "[::2]",
        "169.254.169.254",
        "localhost:80:80",
        "2130706433",
    ] {
        all.push((format!("the host {host:?}"), call_head().set("Host", host), 403));
    }
    all.push(("no host".into(), call_head().without("Host"), 400));
    let old = call_head().line("POST /mcp HTTP/1.0");
    all.push(("no host in HTTP/1.0".into(), old.without("Host"), 400));
    for origin in [
        "https://evil.example",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "null",
        "file://",
        "localhost",
        "",
        "ftp://localhost",
        "http://127.0.0.1.evil.example",
        "chrome-extension://abc",
    ] {
        all.push((format!("the origin {origin:?}"), call_head().with("Origin", origin), 403));
    }
    let two = call_head().with("Origin", "http://localhost").with("Origin", "https://evil.example");
    all.push(("two origins".into(), two, 403));
    let get = call_head().line("GET /mcp HTTP/1.1");
    all.push(("GET of a foreign page".into(), get.with("Origin", "https://evil.example"), 403));
    let options = call_head().line("OPTIONS /mcp HTTP/1.1");
    all.push(("a preflight of a foreign page".into(), options.with("Origin", "https://evil.example"), 403));
    all
}

/// Ambiguous body lengths.
fn encodings() -> Vec<(&'static str, Head)> {
    let chunked = |head: Head| head.with("Transfer-Encoding", "chunked");
    let coded = |value: &str| call_head().with("Transfer-Encoding", value);
    vec![
        ("a length and an encoding", chunked(call_head().with("Content-Length", "5"))),
        ("an encoding and a length", chunked(call_head()).with("Content-Length", "5")),
        ("a length in capitals and an encoding", chunked(call_head().with("CONTENT-LENGTH", "5"))),
        ("a length of nothing and an encoding", chunked(call_head().with("Content-Length", "0"))),
        ("the encoding twice", chunked(chunked(call_head()))),
        ("the encoding twice in one line", coded("chunked, chunked")),
        ("gzip before the encoding", coded("gzip, chunked")),
    ]
}

/// Bodies without a determinable end.
fn unframed() -> Vec<Case> {
    let chunks = ["size", "-2", "+2", "0x2", "fffffffffffffffff", "2\r\n{}{}{}", "2\n{}\n0\n\n"];
    let case = |chunk: &&str| {
        let head = call_head().with("Transfer-Encoding", "chunked");
        let request = [head.bytes(), format!("{chunk}\r\n{{}}\r\n0\r\n\r\n").into_bytes()].concat();
        Case::nameless(format!("the chunk {chunk:?}"), request, 400, 400).saying("connection", "close")
    };
    chunks.iter().map(case).collect()
}

/// Invalid HTTP: the layer below may answer with an error or close the connection.
pub fn broken() -> Vec<(String, Vec<u8>)> {
    let length = CALL.len().to_string();
    let body = |head: Head| [head.bytes(), CALL.as_bytes().to_vec()].concat();
    let chunked = |head: Head, body: &str| {
        [head.with("Transfer-Encoding", "chunked").bytes(), body.as_bytes().to_vec()].concat()
    };
    let mut all = Vec::new();
    for wrong in
        ["-1", &format!("+{length}"), "0x1ff", &format!("{length} bytes"), "", &format!("{length}, 5"), "1e2"]
    {
        all.push((format!("the length {wrong:?}"), body(call_head().with("Content-Length", wrong))));
    }
    for encoding in ["xchunked", "\"chunked\"", "chunked;q=1", "identity", "chunked, identity", "gzip"] {
        all.push((format!("the encoding {encoding}"), body(call_head().with("Transfer-Encoding", encoding))));
    }
    let old = call_head().line("POST /mcp HTTP/1.0");
    all.push((
        "chunks in HTTP/1.0".into(),
        chunked(old, &format!("{:x}\r\n{CALL}\r\n0\r\n\r\n", CALL.len())),
    ));
    let sized = call_head().with("Content-Length", &length);
    for (name, value) in [
        ("Content-Length", "5"),
        ("Content-Length ", "5"),
        ("Host", "evil.example"),
        ("X", "a\r\n Content-Length: 5"),
        ("X", "a\0b"),
        ("X", "a\rb"),
        ("X Y", "a"),
        ("", "a"),
    ] {
        all.push((format!("the header {name:?}: {value:?} too"), body(sized.clone().with(name, value))));
    }
    all.push(("a host with a user".into(), body(sized.clone().set("Host", "localhost@evil.example"))));
    for line in [
        "POST http://evil.example/mcp HTTP/1.1",
        "POST /mcp HTTP/9.9",
        "POST /mcp",
        "POST /mcp x HTTP/1.1",
        "CONNECT evil.example:443 HTTP/1.1",
        "",
    ] {
        all.push((format!("the line {line:?}"), body(sized.clone().line(line))));
    }
    // Pingora takes a line without digits for the last chunk; the bytes after it must not be taken for a
    // request.
    all.push(("a chunk without a size".into(), chunked(call_head(), &format!("\r\n{CALL}\r\n0\r\n\r\n"))));
    all.push(("the preface of HTTP/2".into(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()));
    all.push(("a TLS ClientHello".into(), b"\x16\x03\x01\0\x05\x01\0\0\x01\0\r\n\r\n".to_vec()));
    all
}
