//! Access control: callers, roles, rules and sessions, over HTTP.

mod access_doc;
mod browsers;
mod budgets;
mod commands;
mod costs;
mod exchange;
mod guards;
mod isolation;
mod random_roles;
mod reach;
mod roles;
mod screens;
mod secrets;
mod shared;
mod unauthenticated;
mod written;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Gateway, read};

/// The line of an API key `NAME-key` for a user `NAME` with these roles.
pub fn key(name: &str, roles: &str) -> String {
    format!(
        "    - {{id: {name}, sha256: \"{}\", user: {name}, roles: [{roles}]}}\n",
        digest(&format!("{name}-key"))
    )
}

pub fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A gateway and a caller with a key.
pub struct Caller<'g> {
    pub gateway: &'g Gateway,
    pub key: String,
}

impl<'g> Caller<'g> {
    pub fn new(gateway: &'g Gateway, name: &str) -> Self {
        Self { gateway, key: format!("{name}-key") }
    }

    pub async fn modern(&self, path: &str, method: &str, params: Value) -> (u16, Value) {
        let request = self.gateway.modern_request(path, method, params).bearer_auth(&self.key);
        read(request.send().await.expect("an answer")).await
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> (u16, Value) {
        self.modern("/mcp", "tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// The raw response to a modern tool call.
    pub async fn response(&self, tool: &str, arguments: Value) -> reqwest::Response {
        let params = json!({"name": tool, "arguments": arguments});
        let request = self.gateway.modern_request("/mcp", "tools/call", params).bearer_auth(&self.key);
        request.send().await.expect("an answer")
    }

    /// Names of a list, in the modern era.
    pub async fn names(&self, path: &str, method: &str, member: &str, key: &str) -> Vec<String> {
        let (status, answer) = self.modern(path, method, json!({})).await;
        assert_eq!(status, 200, "{answer}");
        let entries = answer["result"][member].as_array().expect("a list");
        entries.iter().map(|entry| entry[key].as_str().expect("a name").to_owned()).collect()
    }

    pub async fn tools(&self, path: &str) -> Vec<String> {
        self.names(path, "tools/list", "tools", "name").await
    }

    /// Opens a legacy session.
    pub async fn session(&self, path: &str) -> String {
        let body = crate::harness::initialize(json!({}));
        let response =
            self.gateway.post(path, None, &body).bearer_auth(&self.key).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        response.headers()["mcp-session-id"].to_str().expect("an ASCII id").to_owned()
    }

    pub async fn say(&self, path: &str, session: &str, body: &Value) -> (u16, Value) {
        let request = self.gateway.post(path, Some(session), body).bearer_auth(&self.key);
        read(request.send().await.expect("an answer")).await
    }
}
