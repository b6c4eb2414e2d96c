//! Servers that respond to a call never, once, twice or three times, at once or late, also with the
//! response to another call. Whatever they do, no caller gets a byte that was meant for another (RFC 9112
//! §9.2). All callers use the id 1, as most clients do. Each call has a word of its own, which its
//! responses repeat.
//!
//! `TOOLGATE_FOREIGN_CALLS` is the number of calls (`make foreign` makes 100,000).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Wire, next, pour};
use crate::harness::Gateway;
use crate::mock_server::{RecordedRequest, good};
use crate::raw::{Client, Head};

const CALLERS: usize = 64;

/// A faulty server of HTTP/1.1 or of HTTP/2.
struct Stutterer {
    port: u16,
    serving: JoinHandle<()>,
}

impl Drop for Stutterer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % sides
    }
}

impl Stutterer {
    async fn start(streams: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let last = Arc::new(Mutex::new(String::new()));
        let serving = tokio::spawn(async move {
            let mut seed = 1;
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a TCP socket has the option");
                seed += 1;
                match streams {
                    false => drop(tokio::spawn(speak(stream, Dice(seed), last.clone()))),
                    true => drop(tokio::spawn(speak_in_streams(stream, Dice(seed), last.clone()))),
                }
            }
        });
        Self { port, serving }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }
}

/// A response to a call: content type and body. `last` is the one of an earlier call.
fn answer(seen: &RecordedRequest, dice: &mut Dice, last: &Mutex<String>) -> (&'static str, String) {
    let word = seen.body["params"]["arguments"]["word"].as_str().unwrap_or_default();
    let result = json!({"content": [{"type": "text", "text": word}], "resultType": "complete"});
    // Some servers write the id last.
    let id = &seen.body["id"];
    let mut message = match dice.roll(2) {
        0 => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
        _ => format!(r#"{{"result":{result},"jsonrpc":"2.0","id":{id}}}"#),
    };
    if dice.roll(64) == 0 {
        // Too long to be held until it is validated.
        message =
            format!(r#"{{"result":{result},"_":"{}","jsonrpc":"2.0","id":{id}}}"#, "x".repeat(1_100_000));
    } else if dice.roll(16) == 0 {
        message = std::mem::replace(&mut *last.lock().expect("nobody panics"), message);
    } else {
        last.lock().expect("nobody panics").clone_from(&message);
    }
    if dice.roll(3) > 0 {
        return ("application/json", message);
    }
    let note = |method: &str, params: Value| {
        format!("data: {}\n\n", json!({"jsonrpc": "2.0", "method": method, "params": params}))
    };
    let mut events = String::new();
    if dice.roll(2) == 0 {
        let token = &seen.body["params"]["_meta"]["progressToken"];
        events +=
            &note("notifications/progress", json!({"progressToken": token, "progress": 1, "message": word}));
    }
    if dice.roll(2) == 0 {
        events += &note("notifications/message", json!({"level": "info", "data": word}));
    }
    ("text/event-stream", events + &format!("data: {message}\n\n"))
}

/// The head and the body as they go over HTTP/1.1.
fn framed((kind, body): (&str, String), chunked: bool) -> Vec<u8> {
    let (how, body) = match chunked {
        true => ("Transfer-Encoding: chunked".to_owned(), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())),
        false => (format!("Content-Length: {}", body.len()), body),
    };
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{how}\r\n\r\n{body}").into_bytes()
}

async fn speak(stream: TcpStream, mut dice: Dice, last: Arc<Mutex<String>>) -> Option<()> {
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let mut held = Vec::new();
    loop {
        let seen = request(&mut reader, &mut held).await?;
        if seen.method() != "tools/call" {
            writer.lock().await.write_all(&good(&seen)).await.ok()?;
            continue;
        }
        // Almost always there is a response; without one, a caller waits for the whole timeout.
        let times = if dice.roll(50) == 0 { 0 } else { 1 + [0, 0, 1, 2][dice.roll(4) as usize] };
        let mut all = Vec::new();
        let one = |dice: &mut Dice| framed(answer(&seen, dice, &last), dice.roll(2) == 0);
        if times > 0 {
            all.extend(one(&mut dice));
        }
        let more: Vec<u8> = (1..times).flat_map(|_| one(&mut dice)).collect();
        match dice.roll(4) {
            0 => all.extend(more),
            late => {
                let (writer, pause) = (writer.clone(), Duration::from_micros(dice.roll(1500) * late / 2));
                if !more.is_empty() {
                    tokio::spawn(later(writer, pause, more));
                }
            }
        }
        writer.lock().await.write_all(&all).await.ok()?;
    }
}

async fn later(writer: Arc<tokio::sync::Mutex<OwnedWriteHalf>>, pause: Duration, bytes: Vec<u8>) {
    tokio::time::sleep(pause).await;
    let _ = writer.lock().await.write_all(&bytes).await;
}

pub(super) async fn request(
    reader: &mut (impl AsyncReadExt + Unpin),
    held: &mut Vec<u8>,
) -> Option<RecordedRequest> {
    let end = loop {
        if let Some(at) = memchr::memmem::find(held, b"\r\n\r\n") {
            break at + 4;
        }
        if reader.read_buf(held).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&held[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    let (length, http_method) = (length.unwrap_or(0), head.split(' ').next()?.to_ascii_uppercase());
    while held.len() < end + length {
        if reader.read_buf(held).await.ok()? == 0 {
            return None;
        }
    }
    let body = serde_json::from_slice(&held[end..end + length]).unwrap_or_default();
    held.drain(..end + length);
    Some(RecordedRequest { http_method, headers: Vec::new(), body })
}

/// Frames keep responses apart; the server mixes them up itself, and puts two in one.
async fn speak_in_streams(stream: TcpStream, mut dice: Dice, last: Arc<Mutex<String>>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut to))) = connection.accept().await {
        let (mut dice, last) = (Dice(dice.roll(u64::MAX)), last.clone());
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut whole = Vec::new();
            while let Ok(Some(piece)) = next(&mut body).await {
                whole.extend_from_slice(&piece);
            }
            let body = serde_json::from_slice(&whole).unwrap_or_default();
            let seen = RecordedRequest { http_method: head.method.to_string(), headers: Vec::new(), body };
            let (status, kind, body) = if seen.method() == "tools/call" {
                if dice.roll(50) == 0 {
                    return to.send_reset(h2::Reason::INTERNAL_ERROR);
                }
                let (kind, mut body) = answer(&seen, &mut dice, &last);
                if dice.roll(8) == 0 {
                    body += &answer(&seen, &mut dice, &last).1;
                }
                (200, kind, body)
            } else {
                super::upstream::plain(&good(&seen))
            };
            let mut head = http::Response::builder().status(status);
            if !kind.is_empty() {
                head = head.header("content-type", kind);
            }
            if seen.method() == "initialize" {
                head = head.header("mcp-session-id", "theirs");
            }
            if let Ok(stream) = to.send_response(head.body(()).expect("a head"), body.is_empty()) {
                pour(stream, body.as_bytes(), usize::MAX).await;
            }
        });
    }
}

/// A caller: over HTTP/1.1 or HTTP/2, in a session or without.
struct Caller {
    number: usize,
    port: u16,
    session: Option<String>,
    plain: Option<Client>,
    wire: Option<Wire>,
}

impl Caller {
    /// One call; returns everything that came back.
    async fn call(&mut self, server: &str, word: &str) -> Vec<u8> {
        let tool = format!("{server}__tool");
        let mut meta = json!({"progressToken": 1});
        if self.session.is_none() {
            meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
            meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
        let params = json!({"name": tool, "arguments": {"word": word}, "_meta": meta});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
        if self.number % 4 < 2 {
            let head = match &self.session {
                None => Head::modern("/mcp", "tools/call", Some(&tool)),
                Some(id) => {
                    Head::post("/mcp").with("Mcp-Session-Id", id).with("MCP-Protocol-Version", "2025-11-25")
                }
            };
            let mut client = match self.plain.take() {
                Some(client) => client,
                None => Client::connect(self.port).await,
            };
            let Some(answer) = client.exchange(&head.whole(body.as_bytes())).await else { return Vec::new() };
            if answer.whole && !answer.closes() {
                self.plain = Some(client);
            }
            return answer.body;
        }
        let wire = match self.wire.take() {
            Some(wire) => wire,
            None => Wire::open(self.port).await,
        };
        let request = match &self.session {
            None => wire.modern("/mcp", "tools/call", Some(&tool)),
            Some(id) => http::Request::post(format!("http://127.0.0.1:{}/mcp", self.port))
                .header("accept", "application/json, text/event-stream")
                .header("content-type", "application/json")
                .header("mcp-session-id", id)
                .header("mcp-protocol-version", "2025-11-25"),
        };
        let request = request.header("content-length", body.len()).body(()).expect("a good request");
        let answer = wire.exchange(request, body.as_bytes(), usize::MAX).await;
        self.wire = Some(wire);
        answer.map(|answer| answer.body).unwrap_or_default()
    }
}

/// The words of calls in a response.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let starts = memchr::memmem::find_iter(text, b"word-");
    starts.map(|start| {
        let word = &text[start..];
        let end = word.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'-').unwrap_or(word.len());
        &word[..end]
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_reaches_another_whatever_a_server_answers() {
    let calls =
        std::env::var("TOOLGATE_FOREIGN_CALLS").map_or(4_000, |calls| calls.parse().expect("a number"));
    let (plain, streams) = (Stutterer::start(false).await, Stutterer::start(true).await);
    let settings = "timeout: 2s, health: {interval: 1h}";
    let config = format!(
        "mcpServers: {{plain: {{url: \"{}\", {settings}}}, streams: {{url: \"{}\", http2: prior_knowledge, {settings}}}, \
         shared: {{url: \"{}\", era: legacy, stateless: true, {settings}}}}}\nlog: {{level: error}}\n",
        plain.url(),
        streams.url(),
        plain.url()
    );
    let gateway = Gateway::start(&config).await;
    let made = Arc::new(AtomicUsize::new(0));
    let answered: Arc<[AtomicU64; 8]> = Arc::default();
    let foreign = Arc::new(Mutex::new(HashMap::<String, String>::new()));
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        let session = match number % 2 {
            0 => None,
            // Its calls go by the gateway's own client, since the server may ask it.
            _ if number % 8 > 4 => Some(gateway.initialize_with("/mcp", json!({"elicitation": {}})).await),
            _ => Some(gateway.initialize("/mcp").await),
        };
        let mut caller = Caller { number, port: gateway.port, session, plain: None, wire: None };
        let (made, answered, foreign) = (made.clone(), answered.clone(), foreign.clone());
        callers.push(tokio::spawn(async move {
            loop {
                let count = made.fetch_add(1, Ordering::Relaxed);
                if count >= calls {
                    return;
                }
                let word = format!("word-{number}-{count}");
                // Most calls go to the server whose connections can get out of step.
                let server = match count % 4 {
                    3 => "streams",
                    // Bridged, in one upstream session for all.
                    2 if caller.session.is_none() => "shared",
                    _ => "plain",
                };
                let came = caller.call(server, &word).await;
                let mut own = false;
                for other in words(&came) {
                    own |= other == word.as_bytes();
                    if other != word.as_bytes() {
                        let text = String::from_utf8_lossy(&came[..came.len().min(2000)]).into_owned();
                        foreign.lock().expect("nobody panics").insert(word.clone(), text);
                    }
                }
                let id =
                    memchr::memmem::find(&came, b"\"id\":1,").or(memchr::memmem::find(&came, b"\"id\":1}"));
                assert!(
                    !own || id.is_some(),
                    "{word}: {}",
                    String::from_utf8_lossy(&came[..came.len().min(2000)])
                );
                assert!(memchr::memmem::find(&came, b"tg-").is_none(), "{word}: an id of the gateway's");
                let way = (number % 4) * 2 + usize::from(server == "streams");
                answered[way].fetch_add(u64::from(own), Ordering::Relaxed);
            }
        }));
    }
    for caller in callers {
        caller.await.expect("a caller ends");
    }
    let foreign = foreign.lock().expect("nobody panics");
    let first = foreign.iter().next();
    assert!(foreign.is_empty(), "{} calls of {calls} got what was another's: {first:?}", foreign.len());
    let answered: Vec<u64> = answered.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    println!("{calls} calls, none with a foreign byte; answered by era and way: {answered:?}");
    // The test is meaningful only if most calls get their response, on each path.
    for count in &answered {
        assert!(*count as usize > calls / 64, "{answered:?}");
    }
    assert!(answered.iter().sum::<u64>() as usize > calls / 2, "{answered:?}");
}
