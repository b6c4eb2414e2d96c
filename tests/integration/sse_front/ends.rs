//! Ends: of a client, of a server, of a configuration, and of the gateway.

use serde_json::json;

use super::{SseClient, text};
use crate::harness::{Gateway, a_fixture, fixture, legacy_call};
use crate::legacy::scripted_server::ScriptedServer;
use crate::legacy::{listed, lists, setup_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_session_and_its_calls() {
    let stage = ScriptedServer::start().await;
    let gateway = Gateway::start(&setup_with(&stage, "", "")).await;
    lists(&gateway, "s__hold").await;
    let client = SseClient::ready(&gateway, "/sse").await;
    client.send(&legacy_call(1, "s__hold", json!({}))).await;
    gateway.eventually("the server holds it", async |_| stage.call().is_some()).await;
    let (call, sent) = (stage.call().expect("a call"), stage.sent());
    let uri = client.uri.clone();
    drop(client);
    gateway
        .eventually("the server knows", async |_| {
            let heard = stage.heard("notifications/cancelled");
            heard.iter().any(|seen| seen.body["params"]["requestId"] == sent)
                && stage.verbs("DELETE").contains(&call.session)
        })
        .await;
    let ping = json!({"jsonrpc": "2.0", "id": 2, "method": "ping"});
    let post = gateway.http.post(uri).header("content-type", "application/json").body(ping.to_string());
    assert_eq!(post.send().await.expect("an answer").status(), 404);
    gateway.eventually("no session is left", async |g| g.has_metric("toolgate_sessions", 0.0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_costs_its_calls_and_no_stream() {
    let (mut server, url) = a_fixture().await;
    let port = url.split(':').nth(2).and_then(|rest| rest.split('/').next()).expect("a port");
    let port: u16 = port.parse().expect("a number");
    let up = format!("fix: {{url: \"{url}\", health: {{interval: 100ms}}}}");
    let gateway = Gateway::start(&format!("mcpServers: {{{up}, demo: {{builtin: demo}}}}\n")).await;
    listed(&gateway, "fix__sleep").await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    assert_eq!(text(&client.say(&legacy_call(0, "fix__echo", json!({"message": "hi"}))).await), "hi");
    let measured = "toolgate_upstream_seconds_count{server=\"fix\"}";
    gateway.eventually("it is measured", async |g| g.has_metric(measured, 1.0).await).await;
    let session = gateway.initialize("/mcp").await;
    client.send(&legacy_call(1, "fix__sleep", json!({"seconds": 3600}))).await;
    gateway.eventually("it runs", async |g| g.count(&session, "fix", "sleep.started").await == 1).await;
    server.kill();
    let error = client.answer(&json!(1)).await;
    assert_eq!(error["error"]["code"], 502, "{error}");
    gateway.eventually("the log says so", async |g| g.process.story().contains("a call failed")).await;
    let echo = |id: &str, tool: &str| legacy_call(id, tool, json!({"message": "hi"}));
    assert_eq!(text(&client.say(&echo("a", "demo__echo")).await), "hi");
    let _server = tokio::task::spawn_blocking(move || fixture(port)).await.expect("it starts");
    let up = "toolgate_upstream_up{server=\"fix\"}";
    gateway.eventually("it is back", async |g| g.has_metric(up, 1.0).await).await;
    assert_eq!(text(&client.say(&echo("b", "fix__echo")).await), "hi", "in the same session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_servers_is_told_on_the_stream_and_an_endpoint_that_goes_ends_it() {
    let two = "mcpServers: {demo: {builtin: demo}, more: {builtin: demo}}\n";
    let gateway = Gateway::start(two).await;
    let mut all = SseClient::ready(&gateway, "/sse").await;
    let mut one = SseClient::ready(&gateway, "/servers/more/sse").await;
    gateway.rewrite("mcpServers: {demo: {builtin: demo}}\n");
    let change = all.events.next().await.expect("a notification");
    assert_eq!(change["method"], "notifications/tools/list_changed");
    let echo = |tool: &str| legacy_call(tool, tool, json!({"message": "hi"}));
    assert_eq!(all.say(&echo("more__echo")).await["error"]["code"], -32602);
    assert_eq!(text(&all.say(&echo("demo__echo")).await), "hi");
    assert_eq!(one.events.next().await, None, "its endpoint is gone");
    assert_eq!(one.post(&echo("echo")).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_calls_finish_and_then_ends_the_stream() {
    let config = "mcpServers: {demo: {builtin: demo}}\nlimits: {drain: 1h}\n";
    let mut gateway = Gateway::start(config).await;
    let mut idle = SseClient::ready(&gateway, "/sse").await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    client.send(&legacy_call(1, "demo__sleep", json!({"seconds": 2}))).await;
    gateway.process.signal(libc::SIGTERM);
    assert_eq!(idle.events.next().await, None, "nothing is in flight there");
    let answer = client.events.next().await.expect("the response comes first");
    assert!(text(&answer).starts_with("slept"), "{answer}");
    assert_eq!(client.events.next().await, None);
    assert!(gateway.process.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_outlast_the_time_to_drain_get_an_error() {
    let config = "mcpServers: {demo: {builtin: demo}}\nlimits: {drain: 1s}\n";
    let mut gateway = Gateway::start(config).await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    client.send(&legacy_call(1, "demo__sleep", json!({"seconds": 3600}))).await;
    gateway.process.signal(libc::SIGTERM);
    let error = client.events.next().await.expect("an error");
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(503)), "{error}");
    assert_eq!(client.events.next().await, None);
    assert!(gateway.process.wait().success());
}
