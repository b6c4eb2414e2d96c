//! What a server reports about itself in its handshake.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_clients_cannot_read_costs_them_no_server() {
    let capabilities = json!({"tools": [], "prompts": null, "resources": {"listChanged": "yes"}, "logging": true,
        "experimental": {"a": null}});
    let info = json!({"name": "odd", "version": 1, "title": null, "icons": [{"src": 1}], "websiteUrl": null});
    let mock = MockServer::start(move |seen| {
        let mut result = match seen.method() {
            "initialize" => {
                let result = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info});
                let headers = ["Content-Type: application/json", "Mcp-Session-Id: theirs"];
                return MockReply::Say(http("200 OK", &headers, &answer(seen, &result)));
            }
            "server/discover" => json!({"supportedVersions": ["2026-07-28"], "capabilities": capabilities,
                "ttlMs": 0, "cacheScope": "private", "_meta": {"io.modelcontextprotocol/serverInfo": info}}),
            "resources/list" => json!({"resources": []}),
            "resources/templates/list" => json!({"resourceTemplates": []}),
            _ => return MockReply::Good,
        };
        result["resultType"] = json!("complete");
        MockReply::Say(json_answer(&answer(seen, &result)))
    })
    .await;
    let mut gateway = Gateway::start(&format!("mcpServers: {{odd: {{url: \"{}\"}}}}\n", mock.url)).await;
    gateway.eventually("it is listed", async |g| g.get("/health").await.contains("\"tools\":1")).await;
    let url = gateway.url("/servers/odd/mcp");
    for sdk in [Sdk::Python, Sdk::TypeScript] {
        assert!(!run(sdk, &mock.url, "legacy", &[]).await.ok, "{sdk:?} accepts such a handshake by now");
    }
    for (sdk, mode) in [
        (Sdk::Python, "legacy"),
        (Sdk::TypeScript, "legacy"),
        (Sdk::Python, "2026-07-28"),
        (Sdk::TypeScript, "modern"),
    ] {
        let ran = run(sdk, &url, mode, &[step("tool", json!({}), "done")]).await;
        assert!(ran.ok && ran.bad().is_empty(), "{sdk:?} {mode}: {}", ran.output);
    }
    let (_, discovered) = gateway.modern("/servers/odd/mcp", "server/discover", json!({})).await;
    assert_eq!(
        discovered["result"]["capabilities"],
        json!({"tools": {}, "resources": {}, "logging": {}}),
        "{discovered}"
    );
    gateway.process.wait_for("serverInfo/title");
    let log = gateway.process.output();
    for place in
        ["capabilities/tools", "capabilities/experimental/a", "serverInfo/version", "serverInfo/icons/0/src"]
    {
        let output =
            log.lines().filter(|line| line.contains("a part of its handshake") && line.contains(place));
        assert_eq!(output.count(), 1, "{place}: {log}");
    }
}
