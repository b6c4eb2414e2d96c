//! Heads: what the gateway uses of them, what it forwards, and what a response's status means.

use serde_json::json;

use super::{ask, call};
use crate::harness::{Gateway, legacy_call, python};
use crate::mock_server::{self, MockReply, MockServer};
use crate::raw::Client;

/// A stdio server in both eras whose tool answers with the requested error.
const SERVER: &str = r#"
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    p = m.get("params") or {}
    about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}, "resultType": "complete",
             "ttlMs": 0, "cacheScope": "private"}
    answer = {"jsonrpc": "2.0", "id": m["id"]}
    if m["method"] == "initialize": answer["result"] = dict(about, protocolVersion="2025-11-25")
    elif m["method"] == "server/discover": answer["result"] = dict(about, supportedVersions=["2026-07-28"])
    elif m["method"] == "ping": answer["result"] = {}
    elif m["method"] == "tools/list":
        answer["result"] = dict(about, tools=[{"name": "tool", "inputSchema": {"type": "object"}}])
    else: answer["error"] = {"code": p.get("arguments", {}).get("code", -32601), "message": "no"}
    print(json.dumps(answer), flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_would_like_another_protocol_is_served_in_this_one() {
    // It would accept the upgrade.
    let mock = MockServer::start(|seen| match (seen.tool(), seen.header("upgrade")) {
        ("tool", Some(_)) => {
            MockReply::Say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_vec())
        }
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\"}}}}\n", mock.url)).await;
    let mut client = Client::connect(gateway.port).await;
    for (connection, upgrade) in
        [("Upgrade, HTTP2-Settings", "h2c"), ("Upgrade", "websocket"), ("Upgrade", "TLS/1.3")]
    {
        let (head, body) = call("up__tool", &json!({}));
        let head = head.with("Connection", connection).with("Upgrade", upgrade);
        let head = head.with("HTTP2-Settings", "AAMAAABkAAQAAP__");
        for request in [head.whole(&body), head.chunked(&body, 100)] {
            let answer = client.exchange(&request).await.expect("an answer");
            assert_eq!((answer.status, answer.closes()), (200, false), "{upgrade}: {}", answer.message());
        }
    }
    // A client's connection headers do not concern the server either.
    for connection in ["close, host", "\"x\"", "keep-alive, :authority"] {
        let (head, body) = call("up__tool", &json!({}));
        let request = head.with("Connection", connection).whole(&body);
        let answer = Client::connect(gateway.port).await.exchange(&request).await.expect("an answer");
        assert_eq!(answer.status, 200, "{connection}: {}", answer.message());
    }
    for seen in mock.calls() {
        assert_eq!((seen.header("upgrade"), seen.header("http2-settings")), (None, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_before_its_answer_is_no_answer() {
    let mock = MockServer::start(|seen| match seen.tool() {
        "tool" => {
            let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nSet-Cookie: secret=1\r\n\r\n";
            let early = ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 102 Processing\r\n\r\n", hints].concat();
            MockReply::Say([early.as_bytes(), &mock_server::good(seen)].concat())
        }
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\"}}}}\n", mock.url)).await;
    let (head, body) = call("up__tool", &json!({}));
    for line in ["POST /mcp HTTP/1.1", "POST /mcp HTTP/1.0"] {
        let request = head.clone().line(line).whole(&body);
        let answer = Client::connect(gateway.port).await.exchange(&request).await.expect("an answer");
        assert_eq!(answer.status, 200, "{line}: {}", answer.message());
        assert_eq!(answer.header("set-cookie"), None);
    }
    let mut client = Client::connect(gateway.port).await;
    let request = head.clone().with("Expect", "100-continue").whole(&body);
    let mut answer = client.exchange(&request).await.expect("an answer");
    while answer.status < 200 {
        assert_eq!((answer.status, answer.headers.len()), (100, 0), "{:?}", answer.headers);
        answer = client.answer().await.expect("an answer");
    }
    assert_eq!(answer.status, 200, "{}", answer.message());
    // The gateway's own 100 is no final response either.
    assert!(client.send(&head.with("Expect", "100-continue").with("Content-Length", "2").bytes()).await);
    assert_eq!(client.answer().await.map(|answer| answer.status), Some(100));
    let answer = client.exchange(b"{}").await.expect("an answer");
    assert_eq!((answer.status, &answer.message()["error"]["code"]), (400, &json!(-32600)));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_programs_have_the_status_that_servers_of_http_give_them() {
    let of = |era: &str| json!({"command": python(), "args": ["-c", SERVER], "era": era});
    let servers = json!({"up": of("modern"), "old": of("legacy")});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    gateway
        .eventually("both are connected", async |g| g.get("/health").await.contains("\"connected\":2"))
        .await;
    let session = gateway.initialize("/mcp").await;
    for (code, status) in [
        (-32601, 404),
        (-32602, 400),
        (-32600, 400),
        (-32700, 400),
        (-32020, 400),
        (-32021, 400),
        (-32022, 400),
        (-32603, 200),
        (-32000, 200),
        (1, 200),
    ] {
        let answer = ask(gateway.port, "up__tool", &json!({"code": code})).await;
        let message = answer.message();
        assert_eq!((answer.status, &message["error"]["code"]), (status, &json!(code)), "{message}");
        let call = legacy_call(1, "old__tool", json!({"code": code}));
        let (status, answer) = gateway.say("/mcp", &session, &call).await;
        assert_eq!((status, &answer["error"]["code"]), (200, &json!(code)), "in a session");
    }
}
