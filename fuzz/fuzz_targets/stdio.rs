//! A call to a process as a line of JSON-RPC. A strict reader finds in the line the call with the server's
//! own name and the gateway's own id and token, and nothing else new. Whatever the process answers, the
//! caller gets the content of the response to its own call, or an error.
#![no_main]

use std::cell::LazyCell;

use bytes::{Bytes, BytesMut};
use fuzz::json::{at, is_json, members, same_but, text};
use fuzz::message::DEPTH;
use fuzz::{cut, number};
use libfuzzer_sys::fuzz_target;
use mcp::MessageKind;
use mcp::json::reader::Span;
use mcp::json::splice;
use mcp::jsonrpc::message;
use mcp::jsonrpc::request;
use tokio::runtime::{Builder, Runtime};
use upstream::{Heard, Said};

/// The gateway's own source: the line code is not public.
#[path = "../../src/upstream"]
mod upstream {
    #[allow(dead_code)]
    mod call_timer;
    #[allow(dead_code)]
    pub mod shared_connection;
    pub mod stdio {
        #[allow(dead_code)]
        mod paced;
        #[allow(dead_code)]
        pub mod pipes;
    }

    use std::time::Duration;

    use bytes::Bytes;
    use mcp::Span;
    use shared_connection::{ConnectionError, ConnectionProgress, ConnectionResponse, SharedConnection};
    use stdio::pipes;
    use tokio::io::AsyncReadExt as _;
    use tokio::sync::mpsc;
    pub use toolgate::upstream::{UpstreamError, client_message};

    /// Longest line that is accepted.
    pub const MAX: usize = 300;

    #[derive(Debug, PartialEq)]
    pub enum Said {
        Result(Bytes),
        Error(Bytes),
        /// Invalid, too long, or nothing before the process ended.
        Fault,
    }

    pub struct Heard {
        /// The bytes that were written to the process.
        pub line: Vec<u8>,
        pub said: Said,
        pub notes: Vec<Bytes>,
    }

    /// Calls a process that answers with these bytes, cut in two at `border`, and ends.
    pub async fn ask(
        method: &str,
        params: &Bytes,
        token: Option<Span>,
        answers: &[u8],
        border: usize,
    ) -> Heard {
        let (notices, _taken) = mpsc::channel(4);
        let (connection, queue) = SharedConnection::new("fuzz", notices);
        let (notes, mut noted) = mpsc::channel(64);
        let progress = token.map(|place| ConnectionProgress { token: place.start..place.end, notes });
        let (to, mut written) = tokio::io::duplex(1 << 20);
        let (head, rest) = answers.split_at(border.min(answers.len()));
        let asking = connection.request(method, Some(params), Duration::from_secs(3600), progress);
        let process = async {
            let mut first = Vec::new();
            while !first.ends_with(b"\n") {
                let read = written.read_buf(&mut first).await.expect("the pipe is in memory");
                assert!(read > 0, "the line does not end");
            }
            // It writes these bytes, and no more.
            pipes::read(&connection, head.chain(rest), MAX).await;
            connection.close_input(None, None);
            first
        };
        let working = async {
            tokio::select! {
                both = async { tokio::join!(asking, process) } => both,
                () = pipes::write(&connection, to, queue) => panic!("the process was written to until it ended"),
            }
        };
        let (said, line) = working.await;
        let said = match said {
            Ok(ConnectionResponse::Result(result)) => Said::Result(result),
            Ok(ConnectionResponse::Error(error)) => Said::Error(error),
            Err(
                ConnectionError::TokenRequired
                | ConnectionError::Spawn { .. }
                | ConnectionError::Timeout { .. },
            ) => {
                panic!("none of this can be")
            }
            Err(_) => Said::Fault,
        };
        let notes = std::iter::from_fn(|| noted.try_recv().ok()).collect();
        Heard { line, said, notes }
    }
}

thread_local! {
    static RUNTIME: LazyCell<Runtime> =
        const { LazyCell::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime")) };
}

fuzz_target!(|data: &[u8]| {
    let (word, rest) = cut(data, 0);
    let word = String::from_utf8_lossy(word);
    let (body, mut answers) = cut(rest, 0);
    let border = number(&mut answers);
    let Ok(read) = request::read(body, DEPTH) else { return };
    let (MessageKind::Request, Some(place)) = (read.kind, read.params) else { return };
    let method = read.method_name(body);
    // As the dispatcher sends a call to such a server.
    let mut params = Bytes::copy_from_slice(place.of(body));
    let mut paths: Vec<&[&str]> = Vec::new();
    if let Some(name) = read.name {
        let name = Span { start: name.span.start - place.start, end: name.span.end - place.start };
        params = splice::rename(BytesMut::from(&params[..]), name, &word);
        paths.push(&["name"]);
    }
    let token = read.meta.progress_token.map(|_| {
        let meta = message::member(&params, "_meta").expect("it is still there");
        let token = message::member(meta.of(&params), "progressToken").expect("it is still there");
        Span { start: meta.start + token.start, end: meta.start + token.end }
    });
    let theirs = token.map(|token| params.slice(token.start..token.end));
    let Heard { line, said, notes } =
        RUNTIME.with(|runtime| runtime.block_on(upstream::ask(&method, &params, token, answers, border)));

    // The line that the process reads.
    let line = line.strip_suffix(b"\n").expect("it is a line");
    assert!(!line.contains(&b'\n') && !line.contains(&b'\r'), "two lines");
    let top = members(line).expect("a message");
    let keys: Vec<&str> = top.0.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["jsonrpc", "id", "method", "params"]);
    assert_eq!(text(&top, "jsonrpc").as_deref(), Some("2.0"));
    assert_eq!(text(&top, "method").as_deref(), Some(&*method));
    assert_eq!(top.get("id"), Some("1"));
    if token.is_some() {
        paths.push(&["_meta", "progressToken"]);
        assert_eq!(at(line, &["params", "_meta", "progressToken"]), Some("1"));
    }
    if read.name.is_some() {
        let name = at(line, &["params", "name"]).expect("there is a name");
        assert_eq!(serde_json::from_str::<String>(name).expect("a string"), word);
    }
    // Line ends are white space and are replaced by spaces.
    let flat = |text: &[u8]| -> Vec<u8> {
        text.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }).collect()
    };
    same_but(&flat(place.of(body)), top.get("params").expect("there are params").as_bytes(), &paths);

    // The caller's result: the first line that is a whole response under the id decides.
    let first =
        answers.split(|byte| *byte == b'\n').filter(|line| line.len() <= upstream::MAX).find_map(answer);
    match (&said, &first) {
        (Said::Result(ours), Some(Ok(theirs))) | (Said::Error(ours), Some(Err(theirs))) => {
            assert_eq!(ours, theirs.as_bytes());
        }
        (Said::Fault, _) => {}
        // A batch of responses, which the simple reader above does not accept.
        _ if answers.contains(&b'[') => {}
        _ => panic!("{said:?} for {first:?}"),
    }
    for note in notes {
        assert!(is_json(&note));
        let token = at(&note, &["params", "progressToken"]).expect("a note is about a token");
        assert_eq!(Some(token.as_bytes()), theirs.as_deref());
    }
});

/// The result or error of a line, if it answers the call strictly.
fn answer(line: &[u8]) -> Option<Result<&str, &str>> {
    let all = members(line.trim_ascii())?;
    let known = ["jsonrpc", "id", "method", "params", "result", "error"];
    if known.iter().any(|word| all.0.iter().filter(|(key, _)| key == word).count() > 1) {
        return None;
    }
    let sound = text(&all, "jsonrpc").as_deref() == Some("2.0") && all.get("id") == Some("1");
    let object = |text: &&str| text.starts_with('{');
    // Null counts as missing.
    let member = |key| all.get(key).filter(|value| *value != "null");
    match (member("method"), member("result"), member("error")) {
        (None, Some(result), None) if sound => Some(Ok(result)).filter(|_| object(&result)),
        (None, None, Some(error)) if sound => Some(Err(error)).filter(|_| object(&error)),
        _ => None,
    }
}
