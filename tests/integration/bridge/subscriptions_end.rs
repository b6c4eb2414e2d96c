//! Subscriptions across the eras through the end of their servers, and at servers that have none.

use std::process::Command;

use serde_json::{Value, json};

use super::subscriptions::{WATCHED, ask, touch, uri};
use crate::conformance_rows::listen::{listen, next};
use crate::events::Events;
use crate::harness::{
    Gateway, Process, fixture_of, free_port, legacy_call, node, npm, python, root, stdio_fixture,
};

async fn restarted(era: &'static str, port: u16) -> Process {
    tokio::task::spawn_blocking(move || fixture_of(era, port)).await.expect("the fixture starts").0
}

async fn is_up(gateway: &Gateway, up: bool) {
    let value = f64::from(u8::from(up));
    gateway
        .eventually("it is as it should be", async |g| {
            g.has_metric("toolgate_upstream_up{server=\"s\"}", value).await
        })
        .await;
}

/// A gateway in front of one server of this era, which is checked often.
async fn one(era: &'static str) -> (Gateway, Process, u16) {
    let port = free_port();
    let server = restarted(era, port).await;
    let s = json!({"url": format!("http://127.0.0.1:{port}/mcp"), "health": {"interval": "200ms"}});
    let gateway = Gateway::start(&format!("mcpServers: {}\n", json!({"s": s}))).await;
    is_up(&gateway, true).await;
    (gateway, server, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_of_a_legacy_session_are_made_again_at_a_modern_server_that_was_killed() {
    let (gateway, mut server, port) = one("modern").await;
    let session = gateway.initialize("/mcp").await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;
    for number in 1..=2 {
        let answer = ask(&gateway, "/mcp", &session, "subscribe", &uri(number)).await;
        assert_eq!(answer["result"], json!({}), "{answer}");
    }
    server.kill();
    is_up(&gateway, false).await;
    let answer = ask(&gateway, "/mcp", &session, "subscribe", &uri(3)).await;
    assert!(answer["error"].is_object(), "{answer}");
    let _server = restarted("modern", port).await;
    // What may have been missed is told.
    let mut told = Vec::new();
    for _ in 1..=2 {
        told.push(stream.method("notifications/resources/updated").await["params"]["uri"].clone());
    }
    assert_eq!(told, [uri(1), uri(2)]);
    is_up(&gateway, true).await;
    touch(&gateway, &session, "s", &uri(2)).await;
    assert_eq!(stream.method("notifications/resources/updated").await["params"]["uri"], uri(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_of_a_modern_client_are_made_again_at_a_legacy_server_that_was_killed() {
    let (gateway, mut server, port) = one("legacy").await;
    let wanted = json!({"resourceSubscriptions": [WATCHED]});
    let (mut events, honoured) = listen(&gateway, "/mcp", wanted.clone()).await;
    assert_eq!(honoured, wanted);
    server.kill();
    is_up(&gateway, false).await;
    let _server = restarted("legacy", port).await;
    assert_eq!(next(&mut events).await["params"]["uri"], WATCHED, "it may have changed");
    is_up(&gateway, true).await;
    let session = gateway.initialize("/mcp").await;
    touch(&gateway, &session, "s", WATCHED).await;
    assert_eq!(next(&mut events).await["params"]["uri"], WATCHED);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_at_a_legacy_process_last_through_its_end_and_through_a_reload() {
    let settings = |word: &str| {
        let mut pipe = stdio_fixture();
        pipe["era"] = json!("legacy");
        pipe["env"] = json!({"WORD": word});
        format!("mcpServers: {}\n", json!({"s": pipe}))
    };
    let gateway = Gateway::start(&settings("one")).await;
    is_up(&gateway, true).await;
    let session = gateway.initialize("/mcp").await;
    let wanted = json!({"resourceSubscriptions": [WATCHED]});
    let (mut events, _) = listen(&gateway, "/mcp", wanted).await;
    let crash = legacy_call("crash", "s__crash", json!({}));
    let (_, answer) = gateway.say("/mcp", &session, &crash).await;
    assert!(answer["error"].is_object(), "{answer}");
    assert_eq!(next(&mut events).await["params"]["uri"], WATCHED, "it may have changed");
    is_up(&gateway, true).await;
    touch(&gateway, &session, "s", WATCHED).await;
    assert_eq!(next(&mut events).await["params"]["uri"], WATCHED);
    gateway.rewrite(&settings("another"));
    assert_eq!(next(&mut events).await["params"]["uri"], WATCHED, "it may have changed");
    touch(&gateway, &session, "s", WATCHED).await;
    assert_eq!(next(&mut events).await["params"]["uri"], WATCHED);
    // Without the server there is nothing to follow: the client learns it by the end.
    gateway.rewrite("mcpServers: {demo: {builtin: demo}}\n");
    let last = events.rest().await.pop().expect("a result");
    assert_eq!(last["result"]["resultType"], "complete", "{last}");
}

/// A URI that the server-everything of the TypeScript SDK lists by a template.
const DYNAMIC: &str = "demo://resource/dynamic/text/1";

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_client_follows_resources_of_typescript_servers_of_each_transport() {
    let ports = [free_port(), free_port()];
    let start = |mode: &str, port: u16| {
        let mut command = Command::new(node());
        command.arg(npm("@modelcontextprotocol/server-everything/dist/index.js")).arg(mode);
        let mut process = Process::start(command.env("PORT", port.to_string()));
        process.wait_for("port");
        process
    };
    let _servers = [start("sse", ports[0]), start("streamableHttp", ports[1])];
    let sse = json!({"type": "sse", "url": format!("http://127.0.0.1:{}/sse", ports[0])});
    let http = json!({"url": format!("http://127.0.0.1:{}/mcp", ports[1])});
    let pipe = json!({"command": node(),
        "args": [npm("@modelcontextprotocol/server-everything/dist/index.js"), "stdio"]});
    let servers = json!({"sse": sse, "http": http, "pipe": pipe});
    // An authenticated caller has one session there for its stream and its calls.
    let key = crate::access::key("ann", "");
    let gateway = Gateway::start(&format!("mcpServers: {servers}\nauth:\n  api_keys:\n{key}")).await;
    for server in ["sse", "http", "pipe"] {
        let path = format!("/servers/{server}/mcp");
        let params = json!({"notifications": {"resourceSubscriptions": [DYNAMIC]}});
        let ask = |method: &str, params: Value| {
            gateway.modern_request(&path, method, params).bearer_auth("ann-key")
        };
        let (mut events, honoured) =
            crate::conformance_rows::listen::listen_by(ask("subscriptions/listen", params)).await;
        assert_eq!(honoured, json!({"resourceSubscriptions": [DYNAMIC]}), "{server}");
        let toggle = json!({"name": "toggle-subscriber-updates", "arguments": {}});
        let (status, answer) =
            crate::harness::read(ask("tools/call", toggle).send().await.expect("an answer")).await;
        assert_eq!(status, 200, "{answer}");
        let note = next(&mut events).await;
        assert_eq!(note["params"]["uri"], DYNAMIC, "{server}: {note}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_subscriptions_is_left_out() {
    let mut command = Command::new(python());
    command.arg(root().join("tests/fixture/sse.py")).args(["--port", "0"]);
    let mut server = Process::start(&mut command);
    let line = server.wait_for("sse listening on");
    let url = line.rsplit(' ').next().expect("a URL");
    let s = json!({"type": "sse", "url": url});
    let gateway = Gateway::start(&format!("mcpServers: {}\n", json!({"s": s}))).await;
    is_up(&gateway, true).await;
    let (_, discovered) = gateway.modern("/servers/s/mcp", "server/discover", json!({})).await;
    let resources = &discovered["result"]["capabilities"]["resources"];
    assert!(resources.is_object() && resources["subscribe"] != true, "{discovered}");
    let (_, read) = gateway.modern("/servers/s/mcp", "resources/read", json!({"uri": "sse://info"})).await;
    assert!(read["result"].is_object(), "{read}");
    let wanted = json!({"resourceSubscriptions": ["sse://info"], "toolsListChanged": true});
    let (_events, honoured) = listen(&gateway, "/servers/s/mcp", wanted).await;
    assert_eq!(honoured, json!({"toolsListChanged": true}));
}
