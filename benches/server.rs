//! The server behind the end-to-end benches: serves MCP of both eras from memory, as fast as one thread
//! can.
//!
//!     server LISTEN              `IP:PORT`
//!
//! The path selects the behavior: `/mcp` has one tool, `/N/mcp` has N tools `tool0`…. With `?events` the
//! response to a call is a stream of one event. With `?legacy` or `?modern` the server speaks one era only. With `?drip` it is one event every 5 ms with its send time.
//! With `?idle` it is a silent stream; when its client disconnects, the time is printed. Times are
//! nanoseconds since 1970. The server reads every body, but parses no more of it than the bench sends and
//! the gateway makes of it.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}}"#;
/// 404 with this body is what a server says to a method that it does not have (2026-07-28, basic/transports).
const UNKNOWN: &str = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}"#;
const DISCOVERED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private"}}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let Some(listen) = std::env::args().nth(1) else {
        eprintln!("usage: server IP:PORT");
        std::process::exit(2);
    };
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A client that disconnects is not logged.
            let _ = serve(stream).await;
        });
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut held = Vec::with_capacity(512 * 1024);
    let text =
        "Lorem ipsum dolor sit amet, consetetur sadipscing elitr, sed diam nonumy eirmod tempor. ".repeat(3);
    let called = format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"complete","content":[{{"type":"text","text":"{text}"}}],"isError":false}}}}"#
    );
    loop {
        let head = loop {
            if let Some(end) = memmem::find(&held, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut held).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&held[..head]).to_ascii_lowercase();
        let length: usize = text
            .split("content-length:")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next()?.trim().parse().ok())
            .unwrap_or(0);
        while held.len() < head + length {
            if stream.read_buf(&mut held).await? == 0 {
                return Ok(());
            }
        }
        let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let has = |word: &str| memmem::find(&held[head..head + length], word.as_bytes()).is_some();
        let speaks = |era: &str| !target.contains('?') || target.ends_with(era) || target.contains("?events");
        if !text.starts_with("post") {
            stream.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n").await?;
        } else if has("\"tools/call\"") {
            if target.ends_with("?drip") {
                return drip(stream).await;
            }
            if target.ends_with("?idle") {
                return idle(stream).await;
            }
            let called = under_its_id(&called, &held[head..head + length]);
            match target.ends_with("?events") {
                true => stream.write_all(events(&called).as_bytes()).await?,
                false => stream.write_all(json("", &called).as_bytes()).await?,
            }
        } else if has("\"initialize\"") && speaks("?legacy") {
            let answer = under_its_id(INITIALIZED, &held[head..head + length]);
            stream.write_all(json("Mcp-Session-Id: bench\r\n", &answer).as_bytes()).await?;
        } else if has("\"server/discover\"") && speaks("?modern") {
            let answer = under_its_id(DISCOVERED, &held[head..head + length]);
            stream.write_all(json("", &answer).as_bytes()).await?;
        } else if has("\"tools/list\"") {
            let answer = under_its_id(&tools(&target), &held[head..head + length]);
            stream.write_all(json("", &answer).as_bytes()).await?;
        } else if has("\"ping\"") {
            let answer = under_its_id(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, &held[head..head + length]);
            stream.write_all(json("", &answer).as_bytes()).await?;
        } else if has("\"initialize\"") || has("\"server/discover\"") {
            let answer = json("", &under_its_id(UNKNOWN, &held[head..head + length]));
            stream.write_all(answer.replacen("200 OK", "404 Not Found", 1).as_bytes()).await?;
        } else {
            stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await?;
        }
        held.drain(..head + length);
    }
}

/// A response with the id 1, for a request with another id.
fn under_its_id(answer: &str, request: &[u8]) -> String {
    let rest = memmem::find(request, b"\"id\":").map_or(&b"1"[..], |at| &request[at + 5..]);
    let end = rest.iter().position(|byte| matches!(byte, b',' | b'}')).unwrap_or(rest.len());
    let id = std::str::from_utf8(&rest[..end]).unwrap_or("1");
    let (before, after) = answer.split_once("\"id\":1").unwrap_or((answer, ""));
    [before, "\"id\":", id, after].concat()
}

fn json(more: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{more}Content-Length: {length}\r\n\r\n{body}"
    )
}

fn events(body: &str) -> String {
    let event = format!("event: message\ndata: {body}\n\n");
    let length = event.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{event}\r\n0\r\n\r\n"
    )
}

fn tools(target: &str) -> String {
    let count = target.split('/').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let mut names = vec!["write_file".to_owned()];
    names.extend((0..count).map(|number| format!("tool{number}")));
    let mut list = String::new();
    for name in names {
        let comma = if list.is_empty() { "" } else { "," };
        let _ = write!(list, r#"{comma}{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#);
    }
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"complete","tools":[{list}],"ttlMs":0,"cacheScope":"private"}}}}"#
    )
}

const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |started| started.as_nanos())
}

fn progress() -> String {
    let event = format!(
        "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":1,\"progress\":1,\"message\":\"{}\"}}}}\n\n",
        now()
    );
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// One event, then silence; prints when the client disconnected.
async fn idle(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(STREAM).await?;
    stream.write_all(progress().as_bytes()).await?;
    let _ = stream.read(&mut [0; 16]).await;
    println!("{}", now());
    Ok(())
}

/// An event every 5 ms until the client disconnects; each contains its send time.
async fn drip(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(STREAM).await?;
    loop {
        stream.write_all(progress().as_bytes()).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
