//! A small MCP server in both eras with faulty responses of kinds that no real server is known for.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

pub struct FaultyServer {
    pub url: String,
    task: AbortHandle,
}

impl Drop for FaultyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FaultyServer {
    /// Its one tool has an argument `how`: `hang` (a silent stream), `break` (a stream that breaks), `html`
    /// (not MCP), `other` (a response to another request), `big` (of 4 KiB); anything else is echoed.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let serve = async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        };
        Self { url: format!("http://{address}/mcp"), task: tokio::spawn(serve).abort_handle() }
    }
}

/// One connection; ends on any error, which is the other side's.
async fn serve(stream: TcpStream) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut http_method, mut length) = (String::new(), 0);
        stream.read_line(&mut http_method).await.ok().filter(|read| *read > 0)?;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            length = line.strip_prefix("content-length:").map_or(length, |v| v.trim().parse().unwrap_or(0));
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !http_method.starts_with("POST") {
            send(&mut stream, "405 Method Not Allowed", "application/json", "").await?;
        } else if message.get("id").is_none() {
            send(&mut stream, "202 Accepted", "application/json", "").await?;
        } else {
            answer(&mut stream, &message).await?;
        }
    }
}

async fn answer(stream: &mut BufReader<TcpStream>, message: &Value) -> Option<()> {
    const JSON: &str = "application/json";
    let params = &message["params"];
    let how = params["arguments"]["how"].as_str().unwrap_or_default();
    let mut id = message["id"].clone();
    let mut result = match message["method"].as_str()? {
        "initialize" => json!({"protocolVersion": "2025-11-25"}),
        "server/discover" => json!({"supportedVersions": ["2026-07-28"]}),
        "tools/list" => json!({"tools": [{"name": "do", "inputSchema": {"type": "object"}}]}),
        "prompts/list" => json!({"prompts": [{"name": "ask"}]}),
        "resources/list" => json!({"resources": [{"uri": "fake://one", "name": "one"}]}),
        "resources/templates/list" => {
            json!({"resourceTemplates": [{"uriTemplate": "fake://{id}", "name": "any"}]})
        }
        "ping" => json!({}),
        "tools/call" if matches!(how, "hang" | "break") => return stumble(stream, params, how).await,
        "tools/call" if how == "html" => return send(stream, "200 OK", "text/html", "<p>hello</p>").await,
        "tools/call" => {
            let text = if how == "big" { "x".repeat(4096) } else { how.to_owned() };
            json!({"content": [{"type": "text", "text": text}]})
        }
        method => {
            let error = json!({"code": -32601, "message": format!("Method not found: {method}")});
            let body = json!({"jsonrpc": "2.0", "id": id, "error": error});
            return send(stream, "404 Not Found", JSON, &body.to_string()).await;
        }
    };
    if matches!(message["method"].as_str()?, "initialize" | "server/discover") {
        result["capabilities"] = json!({"tools": {}, "prompts": {}, "resources": {}});
        result["serverInfo"] = json!({"name": "fake", "version": "1"});
        result["instructions"] = json!("Be wary.");
    }
    if message["method"] == "initialize" {
        result["capabilities"]["logging"] = json!({});
    }
    if params["_meta"].get("io.modelcontextprotocol/protocolVersion").is_some() {
        result["resultType"] = json!("complete");
        if message["method"] != "tools/call" {
            result["ttlMs"] = json!(1000);
            result["cacheScope"] = json!("public");
        }
    }
    if how == "other" {
        id = json!("another");
    }
    send(stream, "200 OK", JSON, &json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string()).await
}

/// Begins a stream that does not complete.
async fn stumble(stream: &mut BufReader<TcpStream>, params: &Value, how: &str) -> Option<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut chunk =
        async |text: &str| stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await.ok();
    if how == "break" {
        let params = json!({"progressToken": params["_meta"]["progressToken"], "progress": 1});
        let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
        chunk(&format!("data: {note}\n\n")).await?;
        return None;
    }
    loop {
        chunk(": still here\n\n").await?;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn send(stream: &mut BufReader<TcpStream>, status: &str, kind: &str, body: &str) -> Option<()> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.ok()
}
