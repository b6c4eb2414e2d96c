//! What only the legacy revisions have: many streams of one session, streams that are gone on with, servers that ask
//! their clients, subscriptions and batches.

mod batches;
mod ends;
mod lists;
mod questions;
mod streams;

use serde_json::json;

use crate::harness::{Gateway, Process, a_fixture, legacy_call};

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
            // Nothing but what a test does shall reach them.
            servers[*name] = json!({"url": url, "health": {"interval": "1h"}});
        }
        let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
        for name in names {
            listed(&gateway, &format!("{name}__echo")).await;
        }
        Self { gateway, _fixtures: fixtures }
    }

    /// Has a session call a server, so that it has a seat there.
    pub async fn sit(&self, session: &str, server: &str) {
        let echo = legacy_call("sit", &format!("{server}__echo"), json!({"message": "hi"}));
        let (status, answer) = self.gateway.say("/mcp", session, &echo).await;
        assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("hi")), "{answer}");
    }
}

/// Waits until a tool is there for modern clients: that its server is up is told before its tools show.
pub async fn listed(gateway: &Gateway, tool: &str) {
    gateway
        .eventually(&format!("{tool} is listed"), async |g| {
            let (_, list) = g.modern("/mcp", "tools/list", json!({})).await;
            let tools = list["result"]["tools"].as_array();
            tools.is_some_and(|tools| tools.iter().any(|listed| listed["name"] == tool))
        })
        .await;
}
