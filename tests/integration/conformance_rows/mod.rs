//! The rows of the conformance suite that a gateway is most likely to lose, each held by a test of our own through the
//! federated `/mcp` with three real servers (the suite itself runs against one server's own path).
//!
//! | Row | Test |
//! |---|---|
//! | server-stateless: what a request must carry | `stateless::a_request_without_its_envelope_is_refused_under_its_id` |
//! | server-stateless: methods that are no more | `stateless::methods_of_the_old_era_are_unknown_at_the_modern_wire` |
//! | server-stateless: capabilities, tools-list, caching, json-schema-2020-12 | `stateless::what_discover_promises_is_there`, `stateless::lists_are_ordered_cacheable_and_keep_their_schemas` |
//! | server-stateless: listen | `listen`, `promises`, `list_changed` |
//! | server-stateless: log messages, no requests on a stream | `streams` |
//! | dns-rebinding-protection | `stateless::a_strange_host_or_resource_is_refused` |
//! | sep-2164-resource-not-found | the same, and `streams::that_a_resource_is_not_there_comes_in_its_servers_words` |
//! | http-header-validation, http-custom-headers, http-invalid-tool-headers | `headers` |
//! | input-required-result-*, sep-2322-client-request-state | `input` |
//! | server-sse-multiple-streams | `stateless::streams_side_by_side_keep_their_own_tokens` |
//! | request-metadata, http-standard-headers | `streams::a_server_hears_its_own_names_and_what_the_client_says_of_itself` |
//! | sse-retry, server-session-lifecycle | `streams` |
//! | json-schema-ref-no-deref | `conformance_client` |
//! | a client that disconnects (not in the suite) | `leaving` |
//!
//! More rows of the legacy era (session-lifecycle, sse-polling, sampling and elicitation on a stream) are in `sessions`,
//! `running_calls` and `conformance`.

mod headers;
mod input;
mod leaving;
mod list_changed;
pub mod listen;
mod promises;
mod stateless;
mod streams;

use serde_json::{Value, json};

use crate::harness::{Gateway, Process, a_fixture, stdio_fixture};

/// Three real servers: `fix` and `two` over HTTP, `pipe` over stdio.
pub struct ConformanceSetup {
    pub gateway: Gateway,
    /// Where `fix` is without the gateway.
    pub direct: String,
    _servers: [Process; 2],
}

impl ConformanceSetup {
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// The same with more settings.
    pub async fn with(more: &str) -> Self {
        let ((fix, direct), (two, url)) = tokio::join!(a_fixture(), a_fixture());
        let servers = json!({"fix": {"url": direct}, "two": {"url": url}, "pipe": stdio_fixture()});
        let gateway = Gateway::start(&format!("mcpServers: {servers}\n{more}")).await;
        for server in ["fix__", "two__", "pipe__"] {
            listed(&gateway, server).await;
        }
        Self { gateway, direct, _servers: [fix, two] }
    }

    /// What a count of a server's modern side is.
    pub async fn count(&self, server: &str, name: &str) -> u64 {
        let (_, answer) =
            self.gateway.call(&format!("{server}__counter"), json!({"name": name, "add": 0})).await;
        let count = &answer["result"]["structuredContent"]["count"];
        count.as_u64().unwrap_or_else(|| panic!("no count: {answer}"))
    }
}

/// Waits until modern clients see a tool by this prefix: a server that is connected is not yet listed.
pub async fn listed(gateway: &Gateway, prefix: &str) {
    gateway
        .eventually(&format!("{prefix} is listed"), async |g| {
            let (_, list) = g.modern("/mcp", "tools/list", json!({})).await;
            let mut tools = list["result"]["tools"].as_array().into_iter().flatten();
            tools.any(|tool| tool["name"].as_str().is_some_and(|name| name.starts_with(prefix)))
        })
        .await;
}

/// A modern message with this id, as its body.
pub fn message(id: impl Into<Value>, method: &str, mut params: Value, capabilities: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}
