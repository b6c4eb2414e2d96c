//! The paths: what each takes, and where clients are led, with and without a proxy that removes a part of the path.

use reqwest::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::{SseClient, request, text};
use crate::harness::{Gateway, initialize, legacy_call, read};

const DEMO: &str = "mcpServers: {demo: {builtin: demo}}\ntoolsets: {few: {tools: [demo__echo]}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_calls_tools_of_the_federation_of_one_server_and_of_a_toolset() {
    let gateway = Gateway::start(DEMO).await;
    for (path, tool, count) in [
        ("/sse", "demo__echo", None),
        ("/sse/", "demo__echo", None),
        ("/servers/demo/sse", "echo", None),
        ("/servers/demo/sse/", "echo", None),
        ("/servers/few/sse", "demo__echo", Some(1)),
    ] {
        let mut client = SseClient::open(&gateway, path).await;
        let scope = path.trim_end_matches('/').trim_end_matches("/sse");
        assert_eq!(client.uri.path(), format!("{scope}/messages/"));
        let id = client.uri.query().and_then(|query| query.strip_prefix("session_id=")).expect("an id");
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        let begun = client.initialize("2024-11-05", json!({})).await;
        assert_eq!(begun["result"]["protocolVersion"], "2024-11-05", "{begun}");
        let list = client.say(&request(1, "tools/list")).await;
        let tools = list["result"]["tools"].as_array().expect("a list");
        assert!(tools.iter().any(|listed| listed["name"] == tool), "{list}");
        assert!(count.is_none_or(|count| tools.len() == count), "{list}");
        let answer = client.say(&legacy_call("x", tool, json!({"message": "hi"}))).await;
        assert_eq!(text(&answer), "hi");
    }
    gateway.eventually("all have left", async |g| g.has_metric("toolgate_sessions", 0.0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_path_takes_its_own_method_and_says_so_at_once() {
    let gateway = Gateway::start(DEMO).await;
    let body = initialize(json!({})).to_string();
    for (method, path, allow) in [
        ("POST", "/sse", "GET"),
        ("POST", "/servers/demo/sse/", "GET"),
        ("DELETE", "/sse", "GET"),
        ("HEAD", "/sse", "GET"),
        ("GET", "/messages/", "POST"),
        ("DELETE", "/messages/?session_id=1", "POST"),
        ("PUT", "/mcp", "POST, GET, DELETE"),
    ] {
        let request = gateway.http.request(method.parse().expect("a method"), gateway.url(path));
        let request = request.header("content-type", "application/json").body(body.clone());
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 405, "{method} {path}");
        assert_eq!(response.headers()["allow"], allow, "{method} {path}");
    }
    // Before the body is there: a client that waits for the answer waits for nothing else.
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port)).await.expect("the gateway listens");
    let head = "POST /sse HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("it is taken");
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 405");
    for path in ["/servers/none/sse", "/servers/none/messages/", "/x/sse", "/sse/x"] {
        let (status, _) = read(gateway.http.get(gateway.url(path)).send().await.expect("an answer")).await;
        assert_eq!(status, 404, "{path}");
    }
}

/// A proxy that serves the gateway under `/tools` and removes that; the port.
async fn stripping_proxy(to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n") {
                    head.push(client.read_u8().await.expect("a request line"));
                }
                let line = String::from_utf8(head).expect("a request line");
                // As most proxies do, it has nothing at other paths.
                if !line.contains(" /tools/") {
                    let _ = client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
                    return;
                }
                let line = line.replacen(" /tools/", " /", 1);
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.expect("the gateway listens");
                server.write_all(line.as_bytes()).await.expect("it is taken");
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_that_removes_a_prefix_messages_go_to_the_public_path() {
    // A connection of the proxy serves one request.
    let http = Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
    let named = "listen: {address: \"127.0.0.1:PORT\", public_url: \"http://localhost/tools\"}\n";
    for (listen, relative) in [("", true), (named, false)] {
        let gateway = Gateway::start(&format!("{listen}{DEMO}")).await;
        let proxy = stripping_proxy(gateway.port).await;
        for (path, tool) in [("/sse", "demo__echo"), ("/servers/demo/sse", "echo"), ("/sse/", "demo__echo")] {
            let url = format!("http://127.0.0.1:{proxy}/tools{path}");
            let mut client = SseClient::open_at(&http, &url, None).await;
            assert!(client.uri.path().starts_with("/tools/"), "{}", client.uri);
            client.initialize("2025-06-18", json!({})).await;
            let answer = client.say(&legacy_call(1, tool, json!({"message": "hi"}))).await;
            assert_eq!(text(&answer), "hi", "{path} {relative}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_and_its_messages_may_share_an_http2_connection() {
    let gateway = Gateway::start(DEMO).await;
    let http = Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
    let mut client = SseClient::open_at(&http, &gateway.url("/sse"), None).await;
    client.initialize("2024-11-05", json!({})).await;
    for id in 1..5 {
        let answer =
            client.say(&legacy_call(id, "demo__echo", json!({"message": "x".repeat(100_000)}))).await;
        assert_eq!(text(&answer).len(), 100_000);
    }
    drop(client);
    gateway.eventually("it has left", async |g| g.has_metric("toolgate_sessions", 0.0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_kept_alive_and_not_buffered() {
    let gateway = Gateway::start(&format!("{DEMO}limits: {{sse_keepalive: 20ms}}\n")).await;
    let response = gateway.http.get(gateway.url("/sse")).send().await.expect("an answer");
    let header = |name: &str| response.headers()[name].to_str().expect("ASCII").to_owned();
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!((header("cache-control"), header("x-accel-buffering")), ("no-cache".into(), "no".into()));
    let (mut response, mut seen) = (response, String::new());
    while seen.matches(": keep-alive\n\n").count() < 3 {
        let chunk = response.chunk().await.expect("no break").expect("it goes on");
        seen.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
    }
    assert!(seen.starts_with("event: endpoint\ndata: messages/?session_id="), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_and_other_hosts_get_nothing() {
    let gateway = Gateway::start(DEMO).await;
    let client = SseClient::ready(&gateway, "/sse").await;
    let post = gateway.http.post(client.uri.clone()).header("content-type", "application/json");
    for request in [gateway.http.get(gateway.url("/sse")), post.body(request(1, "ping").to_string())] {
        for (name, value) in [("origin", "https://evil.example"), ("host", "evil.example")] {
            let request = request.try_clone().expect("a copy").header(name, value);
            assert_eq!(request.send().await.expect("an answer").status(), 403, "{name}");
        }
    }
    let page = gateway.http.get(gateway.url("/sse")).header("origin", "http://localhost:3000");
    let allowed = page.send().await.expect("an answer");
    assert_eq!(allowed.headers()["access-control-allow-origin"], "http://localhost:3000");
    let ask = gateway.http.request("OPTIONS".parse().expect("a method"), client.uri.clone());
    let ask = ask.header("origin", "http://localhost:3000").header("access-control-request-method", "POST");
    let answer = ask.send().await.expect("an answer");
    assert_eq!(answer.status(), 204);
    assert!(answer.headers()["access-control-allow-methods"].to_str().expect("ASCII").contains("POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_an_http_error_and_the_stream_goes_on() {
    let gateway = Gateway::start(&format!("{DEMO}limits: {{max_body: 1KiB}}\n")).await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    for (body, status) in [
        ("{", 400),
        ("[]", 400),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, 400),
        (r#"{"jsonrpc":"2.0","method":7}"#, 400),
        (&format!("\"{}\"", "x".repeat(2000)), 413),
    ] {
        assert_eq!(client.post_text(body).await.status(), status, "{body}");
    }
    let plain = gateway.http.post(client.uri.clone()).header("content-type", "text/plain").body("{}");
    assert_eq!(plain.send().await.expect("an answer").status(), 415);
    // With an id that could be read, the error is a message.
    let twice = r#"{"jsonrpc":"2.0","id":5,"method":"ping","method":"ping"}"#;
    assert_eq!(client.post_text(twice).await.status(), 202);
    let error = client.answer(&json!(5)).await;
    assert_eq!(error["error"]["code"], -32600, "{error}");
    assert_eq!(client.say(&request(6, "ping")).await["result"], json!({}));
    for (query, status) in
        [("", 400), ("session_id=", 404), ("session_id=a&session_id=a", 400), ("x=%FF", 400)]
    {
        let mut uri = client.uri.clone();
        uri.set_query(Some(query));
        let post = gateway.http.post(uri).header("content-type", "application/json");
        let (got, answer) =
            read(post.body(request(7, "ping").to_string()).send().await.expect("an answer")).await;
        assert_eq!(got, status, "{query}: {answer}");
        assert_ne!(answer["error"]["message"], Value::Null, "{answer}");
    }
}
