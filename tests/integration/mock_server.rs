//! A mock server: it completes the handshake as a real one does, in both eras, records all requests, and
//! answers each as the test specifies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinHandle, JoinSet};

/// A request as it reached the server.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    pub http_method: String,
    pub headers: Vec<(String, String)>,
    /// `Null` when it is not JSON.
    pub body: Value,
}

impl RecordedRequest {
    pub fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }

    pub fn tool(&self) -> &str {
        self.body["params"]["name"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is a request of the gateway itself, for the handshake and the lists.
    pub fn is_own_request(&self) -> bool {
        let handshakes = ["initialize", "notifications/initialized", "server/discover", "ping"];
        self.body.is_null() && ["GET", "DELETE"].contains(&self.http_method.as_str())
            || handshakes.contains(&self.method())
            || self.method().ends_with("/list")
            || self.method() == "subscriptions/listen"
    }
}

/// What the server does with a request.
pub enum MockReply {
    /// Answers like a valid server.
    Good,
    /// These bytes, and on to the next request.
    Say(Vec<u8>),
    /// These bytes, then the end of the connection.
    Cut(Vec<u8>),
    /// These bytes, then a reset.
    Reset(Vec<u8>),
    /// These bytes, then silence until the other side disconnects.
    Hang(Vec<u8>),
    /// The first bytes, then the second ones repeatedly, with a pause between.
    Repeat(Vec<u8>, Vec<u8>, Duration),
    /// The first bytes, and after a pause the second ones and the end of the connection.
    Pause(Vec<u8>, Duration, Vec<u8>),
    /// The head of a stream of events with these messages, then each that the test sends, up to a `Null`.
    Stream(Vec<Value>, broadcast::Receiver<Value>),
    /// A stream of events: the received bytes, to the end of either side.
    Pour(UnboundedReceiver<Vec<u8>>),
}

type MockScript = dyn Fn(&RecordedRequest) -> MockReply + Send + Sync;

pub struct MockServer {
    pub url: String,
    seen: Arc<Mutex<Vec<RecordedRequest>>>,
    accepted: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl MockServer {
    pub async fn start(play: impl Fn(&RecordedRequest) -> MockReply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("a bound socket has an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (play, log): (Arc<MockScript>, _) = (Arc::new(play), seen.clone());
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(stream, play.clone(), log.clone()));
            }
        });
        Self { url, seen, accepted, serving }
    }

    /// All recorded requests without the gateway's own handshakes.
    pub fn calls(&self) -> Vec<RecordedRequest> {
        let seen = self.seen.lock().expect("no connection panics with the lock");
        seen.iter().filter(|seen| !seen.is_own_request()).cloned().collect()
    }

    /// All recorded requests.
    pub fn all(&self) -> Vec<RecordedRequest> {
        self.seen.lock().expect("no connection panics with the lock").clone()
    }

    /// How many requests of this method reached it.
    pub fn count(&self, method: &str) -> usize {
        let seen = self.seen.lock().expect("no connection panics with the lock");
        seen.iter().filter(|seen| seen.method() == method).count()
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Closes the port and all connections.
    pub async fn close(self) {
        self.serving.abort();
        while !self.serving.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for MockServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut stream: TcpStream, play: Arc<MockScript>, log: Arc<Mutex<Vec<RecordedRequest>>>) {
    let mut held = Vec::new();
    while let Some(seen) = request(&mut stream, &mut held).await {
        log.lock().expect("no connection panics with the lock").push(seen.clone());
        let sent = match play(&seen) {
            MockReply::Good => stream.write_all(&good(&seen)).await,
            MockReply::Say(bytes) => stream.write_all(&bytes).await,
            MockReply::Cut(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            MockReply::Reset(bytes) => {
                let _ = stream.write_all(&bytes).await;
                stream.set_zero_linger().expect("a TCP socket has the option");
                return;
            }
            MockReply::Hang(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.read(&mut [0]).await;
                return;
            }
            MockReply::Pause(first, pause, second) => {
                let _ = stream.write_all(&first).await;
                tokio::time::sleep(pause).await;
                let _ = stream.write_all(&second).await;
                return;
            }
            MockReply::Stream(first, mut more) => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                for message in first {
                    let _ = stream.write_all(event(&message).as_bytes()).await;
                }
                while let Ok(message) = more.recv().await {
                    if message.is_null() || stream.write_all(event(&message).as_bytes()).await.is_err() {
                        return;
                    }
                }
                return;
            }
            MockReply::Pour(mut pieces) => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
                let mut sent = stream.write_all(head.as_bytes()).await;
                let mut left = [0];
                while sent.is_ok() {
                    tokio::select! {
                        piece = pieces.recv() => match piece {
                            Some(piece) => sent = stream.write_all(&piece).await,
                            None => return,
                        },
                        _ = stream.read(&mut left) => return,
                    }
                }
                sent
            }
            MockReply::Repeat(first, again, pause) => {
                let mut sent = stream.write_all(&first).await;
                while sent.is_ok() {
                    sent = stream.write_all(&again).await;
                    tokio::time::sleep(pause).await;
                }
                sent
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Reads one request with a `Content-Length` body, which is how the gateway sends them. Bytes that are no
/// request are recorded as one with an empty HTTP method, so that a test sees them.
async fn request(stream: &mut TcpStream, held: &mut Vec<u8>) -> Option<RecordedRequest> {
    let end = loop {
        if let Some(at) = held.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(held).await.ok()? == 0 {
            let garbage = String::from_utf8_lossy(held).into_owned();
            held.clear();
            let seen =
                RecordedRequest { http_method: String::new(), headers: Vec::new(), body: garbage.into() };
            return Some(seen).filter(|seen| seen.body != "");
        }
    };
    let head = String::from_utf8_lossy(&held[..end]).into_owned();
    held.drain(..end);
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers: Vec<(String, String)> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    headers.push((":path".into(), path));
    let http_method = head.split(' ').next().unwrap_or_default().to_owned();
    let mut seen = RecordedRequest { http_method, headers, body: Value::Null };
    let length = seen.header("content-length").map_or(0, |n| n.parse().expect("a number"));
    while held.len() < length {
        if stream.read_buf(held).await.ok()? == 0 {
            return None;
        }
    }
    seen.body = serde_json::from_slice(&held[..length]).unwrap_or_default();
    held.drain(..length);
    Some(seen)
}

/// The response of a valid server; its only tool is `tool`.
pub fn good(seen: &RecordedRequest) -> Vec<u8> {
    let info = json!({"name": "mock", "version": "1"});
    let result = match (seen.http_method.as_str(), seen.method()) {
        ("DELETE", _) => return http("204 No Content", &[], ""),
        ("GET", _) => return http("405 Method Not Allowed", &[], ""),
        (_, "initialize") => {
            let result =
                json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info});
            return http(
                "200 OK",
                &["Content-Type: application/json", "Mcp-Session-Id: theirs"],
                &answer(seen, &result),
            );
        }
        (_, "server/discover") => json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
            "resultType": "complete", "ttlMs": 0, "cacheScope": "private", "serverInfo": info}),
        (_, "tools/list") => tools(&["tool"]),
        (_, "tools/call") => {
            json!({"content": [{"type": "text", "text": "done"}], "resultType": "complete"})
        }
        (_, "ping") => json!({}),
        (_, method) if method.starts_with("notifications/") => return http("202 Accepted", &[], ""),
        _ => {
            let error =
                json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": {"code": -32601, "message": "?"}});
            return http("404 Not Found", &["Content-Type: application/json"], &error.to_string());
        }
    };
    json_answer(&answer(seen, &result))
}

fn event(message: &Value) -> String {
    format!("data: {message}\n\n")
}

/// The acknowledgement of a `subscriptions/listen`.
pub fn acknowledged(seen: &RecordedRequest, notifications: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {
        "_meta": {"io.modelcontextprotocol/subscriptionId": seen.body["id"]}, "notifications": notifications}})
}

/// A list of tools by these names.
pub fn tools(names: &[&str]) -> Value {
    let tools: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "inputSchema": {"type": "object"}})).collect();
    json!({"tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"})
}

/// The message that answers a request.
pub fn answer(seen: &RecordedRequest, result: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": seen.body["id"], "result": result}).to_string()
}

pub fn json_answer(body: &str) -> Vec<u8> {
    http("200 OK", &["Content-Type: application/json"], body)
}

/// A whole HTTP response.
pub fn http(status: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length =
        if status.starts_with("204") { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("HTTP/1.1 {status}\r\n{headers}{length}\r\n{body}").into_bytes()
}
