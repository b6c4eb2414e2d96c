//! A client that disconnects cancels its modern call, on every transport (2026-07-28: a closed stream is a
//! cancellation). The test checks that it happens; how soon is measured elsewhere.

use serde_json::json;

use super::{ConformanceSetup, message};
use crate::raw::{Client, Head};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_at_its_server_when_the_client_leaves() {
    let setup = ConformanceSetup::start().await;
    for (count, (server, chunked)) in
        [("fix", false), ("two", false), ("pipe", false), ("two", true), ("pipe", true)]
            .into_iter()
            .enumerate()
    {
        let before = setup.count(server, "sleep.cancelled").await;
        let started = setup.count(server, "sleep.started").await;
        let tool = format!("{server}__sleep");
        let head = Head::modern("/mcp", "tools/call", Some(&tool));
        let pad = if chunked { "x".repeat(200_000) } else { String::new() };
        let params = json!({"name": tool, "arguments": {"seconds": 600}, "pad": pad});
        let body = message(count, "tools/call", params, json!({})).to_string();
        let request = if chunked { head.chunked(body.as_bytes(), 9000) } else { head.whole(body.as_bytes()) };
        let mut client = Client::connect(setup.gateway.port).await;
        assert!(client.send(&request).await);
        let what = format!("the call runs at {server} (chunked: {chunked})");
        setup
            .gateway
            .eventually(&what, async |_| setup.count(server, "sleep.started").await == started + 1)
            .await;
        drop(client);
        let what = format!("the call ends at {server} (chunked: {chunked})");
        setup
            .gateway
            .eventually(&what, async |_| setup.count(server, "sleep.cancelled").await == before + 1)
            .await;
    }
}
