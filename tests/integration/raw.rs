//! HTTP by hand: a client whose every byte the test chooses, and a reader for the responses.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Timeout of a response.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The head of a request, line by line.
#[derive(Clone)]
pub struct Head {
    line: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// The headers of every valid request.
    pub fn of(line: &str) -> Self {
        Self { line: line.to_owned(), headers: Vec::new() }.with("Host", "localhost")
    }

    pub fn post(path: &str) -> Self {
        Self::of(&format!("POST {path} HTTP/1.1"))
            .with("Accept", "application/json, text/event-stream")
            .with("Content-Type", "application/json")
    }

    /// A modern POST whose headers match such a body.
    pub fn modern(path: &str, method: &str, name: Option<&str>) -> Self {
        let head = Self::post(path).with("MCP-Protocol-Version", "2026-07-28").with("Mcp-Method", method);
        match name {
            Some(name) => head.with("Mcp-Name", name),
            None => head,
        }
    }

    /// The same headers under another request line.
    pub fn line(mut self, line: &str) -> Self {
        line.clone_into(&mut self.line);
        self
    }

    /// One more header, even with a name that exists already.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(there, _)| there != name);
        self
    }

    pub fn set(self, name: &str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    /// The head as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let lines = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        format!("{}\r\n{}\r\n", self.line, lines.collect::<String>()).into_bytes()
    }

    /// A whole request with this body, by `Content-Length`.
    pub fn whole(&self, body: &[u8]) -> Vec<u8> {
        [&self.clone().with("Content-Length", &body.len().to_string()).bytes(), body].concat()
    }

    /// A whole request with this body in chunks of at most `size` bytes.
    pub fn chunked(&self, body: &[u8], size: usize) -> Vec<u8> {
        let mut out = self.clone().with("Transfer-Encoding", "chunked").bytes();
        for chunk in body.chunks(size) {
            out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    }
}

/// One connection to the gateway.
pub struct Client {
    reader: OwnedReadHalf,
    pub writer: OwnedWriteHalf,
    held: Vec<u8>,
}

/// One response as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body ended as its framing had announced.
    pub whole: bool,
}

impl Client {
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the gateway listens");
        stream.set_nodelay(true).expect("a TCP socket has the option");
        let (reader, writer) = stream.into_split();
        Self { reader, writer, held: Vec::new() }
    }

    /// Sends bytes; `false` when the gateway accepts no more.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.writer.write_all(bytes).await.is_ok()
    }

    /// Sends a request while it reads the response, as a client does that may be rejected before it is
    /// done.
    pub async fn exchange(&mut self, request: &[u8]) -> Option<Answer> {
        let Self { reader, writer, held } = self;
        let (_, answer) = tokio::join!(writer.write_all(request), in_time(read(reader, held)));
        answer
    }

    /// Sends bytes and the end of data, and reads the response.
    pub async fn exchange_and_close(&mut self, bytes: &[u8]) -> Option<Answer> {
        self.send(bytes).await;
        self.writer.shutdown().await.expect("the gateway has not reset the connection");
        self.answer().await
    }

    /// The next response; `None` when the connection ended without one.
    pub async fn answer(&mut self) -> Option<Answer> {
        in_time(read(&mut self.reader, &mut self.held)).await
    }

    /// Waits for the end of the connection; `false` when something else comes.
    pub async fn ended(&mut self) -> bool {
        self.held.is_empty() && !in_time(more(&mut self.reader, &mut self.held)).await
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(MAX_WAIT, work).await.expect("an answer or an end within a minute")
}

/// Reads more; `false` at the end of the connection, however it ends.
async fn more(reader: &mut OwnedReadHalf, held: &mut Vec<u8>) -> bool {
    reader.read_buf(held).await.is_ok_and(|read| read > 0)
}

async fn read(reader: &mut OwnedReadHalf, held: &mut Vec<u8>) -> Option<Answer> {
    let end = loop {
        if let Some(at) = held.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if !more(reader, held).await {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&held[..end]).into_owned();
    held.drain(..end);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: Vec::new(), whole: true };
    if status < 200 || status == 204 || status == 304 {
        return Some(answer);
    }
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.whole = read_chunks(reader, held, &mut answer.body).await;
    } else if let Some(length) = answer.header("content-length") {
        let length: usize = length.parse().expect("Content-Length is a number");
        while held.len() < length && more(reader, held).await {}
        answer.whole = held.len() >= length;
        answer.body = held.drain(..length.min(held.len())).collect();
    } else {
        while more(reader, held).await {}
        answer.body = std::mem::take(held);
    }
    Some(answer)
}

/// Reads chunks until the last; `false` when the connection ends before that.
async fn read_chunks(reader: &mut OwnedReadHalf, held: &mut Vec<u8>, body: &mut Vec<u8>) -> bool {
    loop {
        let line = loop {
            if let Some(at) = held.windows(2).position(|two| two == b"\r\n") {
                break at;
            }
            if !more(reader, held).await {
                return false;
            }
        };
        let size =
            std::str::from_utf8(&held[..line]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let size = size.expect("a chunk begins with its size");
        let end = line + 2 + size;
        while held.len() < end + 2 {
            if !more(reader, held).await {
                body.extend(held.drain(..).skip(line + 2));
                return false;
            }
        }
        body.extend_from_slice(&held[line + 2..end]);
        held.drain(..end + 2);
        if size == 0 {
            return true;
        }
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_str())
    }

    /// The message: the body as JSON, or the last event of a stream; `Null` when it is none.
    pub fn message(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        let streams = self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        let last = text.lines().filter_map(|line| line.strip_prefix("data:")).rfind(|data| data.trim() != "");
        let json = if streams { last.unwrap_or_default() } else { &text };
        serde_json::from_str(json).unwrap_or_default()
    }

    /// The connection ends after this response.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}
