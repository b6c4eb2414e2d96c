//! Against a server of its own on loopback, which speaks just enough HTTP.

use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::upstream::Progress;

const WELCOME: &str = "event: endpoint\ndata: messages?session=7\n\n";
const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

/// A request that the server got: its first line, and the body.
type Seen = (String, Value);
type Streams = Arc<std::sync::Mutex<Option<mpsc::UnboundedSender<String>>>>;

/// A server whose streams begin with these bytes.
async fn server(begin: String) -> (Arc<Sse>, UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/v1/sse", listener.local_addr().expect("an address"));
    let (seen, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let streams = Streams::default();
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve(connection, begin.clone(), streams.clone(), seen.clone()));
        }
    });
    let file = format!("mcpServers: {{s: {{type: sse, url: \"{url}\", max_response: 1KiB}}}}");
    let config = crate::config::parse("c", &file, &|_| None).expect("a good config");
    let limits = UpstreamLimits::of(&config.servers["s"], &config.limits);
    let sse = Sse::new("s", &url, HeaderMap::new(), &limits, Arc::default()).expect("an upstream");
    (Arc::new(sse), requests)
}

async fn serve(
    connection: TcpStream,
    begin: String,
    streams: Streams,
    seen: mpsc::UnboundedSender<Seen>,
) -> Option<()> {
    let mut connection = BufReader::new(connection);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        connection.read_line(&mut first).await.ok().filter(|read| *read > 0)?;
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).await.ok()?;
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await.ok()?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let _ = seen.send((first.trim().to_owned(), body.clone()));
        if first.starts_with("GET") {
            let (sender, mut events) = mpsc::unbounded_channel();
            *streams.lock().expect("no panic") = Some(sender);
            connection.write_all(begin.as_bytes()).await.ok()?;
            while let Some(event) = events.recv().await {
                connection.write_all(event.as_bytes()).await.ok()?;
            }
            return None;
        }
        let (status, messages) = answer(&body);
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: 8\r\n\r\nAccepted");
        connection.write_all(head.as_bytes()).await.ok()?;
        let stream = streams.lock().expect("no panic").clone()?;
        for message in messages {
            let _ = stream.send(format!("event: message\ndata: {message}\n\n"));
        }
    }
}

/// The status of a POST request, and the messages on the stream.
fn answer(body: &Value) -> (&'static str, Vec<Value>) {
    let id = &body["id"];
    let result = |result: Value| json!({"result": result, "jsonrpc": "2.0", "id": id});
    match (body["method"].as_str(), body["params"]["name"].as_str()) {
        (Some("initialize"), _) => {
            let info = json!({"name": "old", "version": "1"});
            let greeting =
                json!({"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": info});
            ("202 Accepted", vec![result(greeting)])
        }
        (Some("tools/call"), Some("steps")) => {
            let params = json!({"progressToken": body["params"]["_meta"]["progressToken"], "progress": 1});
            let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
            ("202 Accepted", vec![note, result(json!({"content": []}))])
        }
        (Some("tools/call"), Some("asks")) => {
            let ask = |id: &str, method: &str| json!({"jsonrpc": "2.0", "id": id, "method": method});
            let change = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
            (
                "202 Accepted",
                vec![ask("a", "ping"), ask("b", "roots/list"), change, result(json!({"content": []}))],
            )
        }
        (Some("tools/call"), Some("long")) => ("202 Accepted", vec![result(json!({"x": "y".repeat(2000)}))]),
        (Some("tools/call"), Some("broken")) => ("500 Internal Server Error", vec![]),
        (Some("tools/call"), Some("forgotten")) => ("404 Not Found", vec![]),
        (Some("tools/call"), Some("never")) => ("202 Accepted", vec![]),
        (Some(_), _) if !id.is_null() => ("202 Accepted", vec![result(json!({}))]),
        _ => ("202 Accepted", vec![]),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

async fn call(sse: &Sse, tool: &str, progress: Option<Progress>) -> Result<RpcOutcome, UpstreamError> {
    let params = format!(r#"{{"_meta":{{"progressToken":"mine"}},"name":"{tool}"}}"#);
    let ask = UpstreamCall {
        server_era: Era::Legacy,
        method: "tools/call",
        params: params.into(),
        progress,
        timeout: Duration::from_secs(60),
    };
    sse.call(ask).await
}

/// The next request whose body has this method, or this id.
async fn next(requests: &mut UnboundedReceiver<Seen>, what: &str) -> Seen {
    loop {
        let (line, body) = requests.recv().await.expect("the server runs");
        if body["method"] == what || body["id"] == what {
            return (line, body);
        }
    }
}

#[tokio::test]
async fn a_server_of_2024_11_05_is_called_over_its_stream() {
    let (sse, mut requests) = server(format!("{STREAM}: hello\n\n{WELCOME}")).await;
    let modern = sse.connect(Era::Modern, soon()).await.expect_err("only the legacy era");
    assert!(matches!(modern, UpstreamError::WrongEra(Era::Modern, _)));
    let handshake = sse.connect(Era::Legacy, soon()).await.expect("a handshake");
    assert_eq!((handshake.version.as_str(), handshake.faults.len()), ("2024-11-05", 0));
    assert!(handshake.has_capability("tools", None));
    assert_eq!(requests.recv().await.expect("a request").0, "GET /v1/sse HTTP/1.1");
    let (line, body) = next(&mut requests, "initialize").await;
    assert_eq!(
        (line.as_str(), &body["params"]["protocolVersion"]),
        ("POST /v1/messages?session=7 HTTP/1.1", &json!("2025-11-25"))
    );
    next(&mut requests, "notifications/initialized").await;

    let (notes, mut noted) = mpsc::channel(4);
    let start = br#"{"_meta":{"progressToken":"#.len();
    let token = Some((Bytes::from_static(b"\"mine\""), mcp::Span { start, end: start + 6 }));
    let result = call(&sse, "steps", Some(Progress { token, notes })).await;
    assert_eq!(result, Ok(RpcOutcome::Result(Bytes::from_static(br#"{"content":[]}"#))));
    let note: Value = serde_json::from_slice(&noted.recv().await.expect("a note")).expect("JSON");
    assert_eq!(note["params"]["progressToken"], "mine");
    let error = call(&sse, "broken", None).await.expect_err("it is refused");
    assert_eq!(error, UpstreamError::InvalidResponse("HTTP 500 Internal Server Error".into()));
    assert!(call(&sse, "steps", None).await.is_ok(), "another call is not affected");
}

#[tokio::test]
async fn requests_of_the_server_are_declined_and_list_changes_reported() {
    let (sse, mut requests) = server(format!("{STREAM}{WELCOME}")).await;
    sse.connect(Era::Legacy, soon()).await.expect("a handshake");
    let (changed, mut changes) = mpsc::channel(1);
    let watching = sse.clone();
    let watched = tokio::spawn(async move { watching.watch_lists(Era::Legacy, &changed).await });
    assert!(call(&sse, "asks", None).await.is_ok());
    assert_eq!(next(&mut requests, "a").await.1["result"], json!({}));
    assert_eq!(next(&mut requests, "b").await.1["error"]["code"], -32601);
    changes.recv().await.expect("a change");
    sse.close().await;
    let end = watched.await.expect("no panic").expect_err("it is closed");
    assert_eq!(end, UpstreamError::Unreachable("its event stream has ended: the gateway closes it".into()));
}

#[tokio::test]
async fn a_call_that_is_given_up_is_cancelled_after_it_was_accepted() {
    let (sse, mut requests) = server(format!("{STREAM}{WELCOME}")).await;
    sse.connect(Era::Legacy, soon()).await.expect("a handshake");
    let (calling, sent) = (sse.clone(), next(&mut requests, "tools/call"));
    let call = tokio::spawn(async move { call(&calling, "never", None).await });
    let id = sent.await.1["id"].clone();
    call.abort();
    let (_, cancelled) = next(&mut requests, "notifications/cancelled").await;
    assert_eq!(cancelled["params"]["requestId"], id);
}

#[tokio::test]
async fn an_answer_that_is_too_long_fails_its_own_call_only() {
    let (sse, _requests) = server(format!("{STREAM}{WELCOME}")).await;
    sse.connect(Era::Legacy, soon()).await.expect("a handshake");
    let both = tokio::join!(call(&sse, "long", None), call(&sse, "steps", None));
    assert_eq!(both.0, Err(UpstreamError::TooLarge(1024)));
    assert!(both.1.is_ok() && call(&sse, "steps", None).await.is_ok());
}

#[tokio::test]
async fn a_server_that_has_forgotten_the_stream_is_connected_again() {
    let (sse, mut requests) = server(format!("{STREAM}{WELCOME}")).await;
    sse.connect(Era::Legacy, soon()).await.expect("a handshake");
    let updates = Arc::<UpdateQueue>::default();
    assert!(sse.subscribe("test://a", &updates).await.is_ok());
    let (changed, _changes) = mpsc::channel(1);
    let (watched, lost) = tokio::join!(sse.watch_lists(Era::Legacy, &changed), call(&sse, "forgotten", None));
    let why = "its event stream has ended: the server answers HTTP 404 Not Found to a message";
    assert_eq!(
        (watched, lost),
        (Err(UpstreamError::Unreachable(why.into())), Err(UpstreamError::Unreachable(why.into())))
    );
    assert_eq!(call(&sse, "steps", None).await, Err(UpstreamError::Unreachable(why.into())));
    while requests.try_recv().is_ok() {}
    sse.connect(Era::Legacy, soon()).await.expect("a second handshake");
    assert!(call(&sse, "steps", None).await.is_ok());
    next(&mut requests, "resources/subscribe").await;
    assert!(updates.next().await.contains("test://a"), "it may have changed in between");
}

#[tokio::test]
async fn a_server_without_a_good_endpoint_event_stays_down_with_the_reason() {
    let long = format!("{STREAM}event: endpoint\ndata: /{}\n\n", "m".repeat(endpoint::MAX_ENDPOINT_EVENT));
    let plain = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let ended = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 8\r\n\r\n: hello\n";
    for (begin, why) in [
        (
            format!("{STREAM}event: endpoint\ndata: http://evil.example/messages\n\n"),
            "names another origin (http://evil.example), where nothing is sent",
        ),
        (format!("{STREAM}event: endpoint\ndata: {{\"uri\":\"/messages\"}}\n\n"), "is not a URI"),
        (format!("{STREAM}event: endpoint\ndata:\n\n"), "is empty"),
        (format!("{STREAM}data: /messages\n\n"), "its first event is not `endpoint`"),
        (long, "its first event is longer than 8192 bytes"),
        (ended.to_owned(), "its stream ended before an `endpoint` event"),
        (plain.to_owned(), "HTTP 200 OK without an event stream"),
        ("HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n".to_owned(), "needs `type: http`"),
        ("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_owned(), "needs `type: http`"),
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n".to_owned(), "HTTP 401"),
    ] {
        let (sse, mut requests) = server(begin).await;
        let error = sse.connect(Era::Legacy, soon()).await.expect_err(why).to_string();
        assert!(error.contains(why), "{why}: {error}");
        assert!(
            requests.recv().await.expect("the stream").0.starts_with("GET") && requests.try_recv().is_err()
        );
        let error = call(&sse, "steps", None).await.expect_err("it is down").to_string();
        assert!(error.contains("it is not connected"), "{error}");
    }
}

#[tokio::test]
async fn an_endpoint_event_that_does_not_come_is_not_waited_for_longer_than_the_start() {
    let (sse, _requests) = server(format!("{STREAM}: hello\n\n")).await;
    let error =
        sse.connect(Era::Legacy, Instant::now() + Duration::from_secs(2)).await.expect_err("no event");
    assert!(error.to_string().contains("no `endpoint` event came within its `startup_timeout`"), "{error}");
}
