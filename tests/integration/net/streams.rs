//! Silent streams.

use serde_json::json;

use crate::harness::{Gateway, TEST_TIMEOUT};

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_is_kept_open_by_comments() {
    // Longer than the interval in which a stream is authorized again.
    let config = "mcpServers: {demo: {builtin: demo}}\nlimits: {sse_keepalive: 5500ms}\n";
    let gateway = Gateway::start(config).await;
    let session = gateway.initialize("/mcp").await;
    let get = gateway.http.get(gateway.url("/mcp")).header("accept", "text/event-stream");
    let get = get.header("mcp-session-id", &session).header("mcp-protocol-version", "2025-11-25");
    let listen = gateway.modern_request(
        "/mcp",
        "subscriptions/listen",
        json!({"notifications": {"toolsListChanged": true}}),
    );
    let streams = [get, listen].map(|request| async {
        let mut stream = request.send().await.expect("an answer");
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        let mut said = String::new();
        while said.matches(": keep-alive").count() < 2 {
            let chunk = tokio::time::timeout(TEST_TIMEOUT, stream.chunk()).await.expect("a comment in time");
            said += &String::from_utf8_lossy(&chunk.expect("the stream stands").expect("it goes on"));
        }
    });
    futures::future::join_all(streams).await;
}
