//! Clients and servers with connection faults: they are slow, disconnect, send too much or nothing, and
//! only they are affected.

mod heads;
mod outcome_classification;
mod slow_readers;
mod streams;
mod vanished;

use serde_json::{Value, json};

use crate::raw::{Answer, Client, Head};

/// The head and the body of a modern call.
fn call(tool: &str, arguments: &Value) -> (Head, Vec<u8>) {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool,
        "arguments": arguments, "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}}}});
    (Head::modern("/mcp", "tools/call", Some(tool)), body.to_string().into_bytes())
}

/// A call on a connection of its own.
async fn ask(port: u16, tool: &str, arguments: &Value) -> Answer {
    let (head, body) = call(tool, arguments);
    Client::connect(port).await.exchange(&head.whole(&body)).await.expect("an answer")
}
