//! Features of the legacy versions: many streams of one session, resumed streams, servers' requests to
//! clients, subscriptions and batches.

mod batches;
mod chained_gateways;
mod detached_calls;
mod elicitation;
mod ends;
mod flow;
mod list_changed;
mod lists;
mod pings;
mod questions;
mod restarts;
pub mod scripted_server;
mod settings;
mod shared;
mod streams;
mod upstream_sessions;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::events::Events;
use crate::harness::{Gateway, Process, a_fixture, legacy_call};
use scripted_server::{OpenSession, ScriptedServer};

/// Fixtures by these names behind one gateway.
pub struct Several {
    pub gateway: Gateway,
    _fixtures: Vec<Process>,
}

impl Several {
    pub async fn start(names: &[&str]) -> Self {
        let (mut fixtures, mut servers) = (Vec::new(), json!({}));
        for name in names {
            let (fixture, url) = a_fixture().await;
            fixtures.push(fixture);
            // Only the actions of a test may reach them.
            servers[*name] = json!({"url": url, "health": {"interval": "1h"}});
        }
        let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
        for name in names {
            listed(&gateway, &format!("{name}__echo")).await;
        }
        Self { gateway, _fixtures: fixtures }
    }

    /// Calls a server in a session, so that the session has an upstream session there.
    pub async fn sit(&self, session: &str, server: &str) {
        let echo = legacy_call("sit", &format!("{server}__echo"), json!({"message": "hi"}));
        let (status, answer) = self.gateway.say("/mcp", session, &echo).await;
        assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("hi")), "{answer}");
    }
}

/// Waits until modern clients see a tool: a server is reported as up before its tools are listed.
pub async fn listed(gateway: &Gateway, tool: &str) {
    gateway
        .eventually(&format!("{tool} is listed"), async |g| {
            let (_, list) = g.modern("/mcp", "tools/list", json!({})).await;
            let tools = list["result"]["tools"].as_array();
            tools.is_some_and(|tools| tools.iter().any(|listed| listed["name"] == tool))
        })
        .await;
}

/// A gateway in front of one scripted server, named `s` and with these settings.
async fn staged(settings: &str, rest: &str) -> (Gateway, ScriptedServer) {
    let stage = ScriptedServer::start().await;
    let gateway = Gateway::start(&setup_with(&stage, settings, rest)).await;
    lists(&gateway, "s__hold").await;
    (gateway, stage)
}

/// The configuration of such a gateway.
pub fn setup_with(stage: &ScriptedServer, settings: &str, rest: &str) -> String {
    let url = stage.url();
    format!(
        "mcpServers: {{s: {{url: \"{url}\", era: legacy, health: {{interval: 1h}}{settings}}}, demo: {{builtin: demo}}}}\n{rest}"
    )
}

/// Waits until a tool is there for a new legacy client.
pub async fn lists(gateway: &Gateway, tool: &str) {
    let session = gateway.initialize("/mcp").await;
    gateway.eventually(&format!("{tool} is listed"), async |g| shows(g, &session, tool).await).await;
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
}

async fn shows(gateway: &Gateway, session: &str, tool: &str) -> bool {
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let (_, answer) = gateway.say("/mcp", session, &list).await;
    let tools = answer["result"]["tools"].as_array();
    tools.is_some_and(|tools| tools.iter().any(|listed| listed["name"] == tool))
}

/// Begins a call that the server holds; returns the stream of its response, and the server's end of it.
pub async fn hold(
    gateway: &Gateway,
    stage: &ScriptedServer,
    session: &str,
    id: impl Into<Value>,
) -> (Events, Arc<OpenSession>) {
    let before = stage.with(|state| state.calls.len());
    let call = legacy_call(id, "s__hold", json!({}));
    let stream = Events::open(gateway.post("/mcp", Some(session), &call)).await;
    let held = async |_: &Gateway| stage.with(|state| state.calls.len()) > before;
    gateway.eventually("the server holds it", held).await;
    (stream, stage.call().expect("a call"))
}

/// A call that is answered at once; after it the session has an upstream session.
pub async fn calls(gateway: &Gateway, session: &str) {
    let (status, answer) = gateway.say("/mcp", session, &legacy_call("t", "s__tool", json!({}))).await;
    assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("done")), "{answer}");
}

/// The gateway's open GET stream at the server for a client.
async fn followed(gateway: &Gateway, stage: &ScriptedServer, client: usize) -> Arc<OpenSession> {
    let stream = || stage.clients().get(client).and_then(|id| stage.stream(id));
    gateway.eventually("the gateway listens", async |_| stream().is_some()).await;
    stream().expect("a stream")
}

/// A server's request to its client.
pub fn question(id: impl Into<Value>, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "elicitation/create",
        "params": {"message": message, "requestedSchema": {"type": "object", "properties": {}}}})
}

pub fn accepted(id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept"}})
}

pub fn logged(message: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": message}})
}
