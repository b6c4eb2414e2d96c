//! The servers of the matrix behind one gateway. All but the built-in one are the project's fixture.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;

use super::clients::{Client, Legacy};
use super::features::listed;
use crate::access::key;
use crate::harness::{Gateway, Process, TEST_TIMEOUT, fixture_with, free_port, stdio_fixture};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    LegacyHttp,
    LegacyStdio,
    Sse,
    ModernHttp,
    ModernStdio,
    Builtin,
}

use Upstream::{Builtin, LegacyHttp, LegacyStdio, ModernHttp, ModernStdio};

pub const UPSTREAMS: [Upstream; 6] =
    [LegacyHttp, LegacyStdio, Upstream::Sse, ModernHttp, ModernStdio, Builtin];

impl Upstream {
    /// The name in the page.
    pub fn title(self) -> &'static str {
        match self {
            LegacyHttp => "legacy HTTP",
            LegacyStdio => "legacy stdio",
            Upstream::Sse => "HTTP+SSE",
            ModernHttp => "modern HTTP",
            ModernStdio => "modern stdio",
            Builtin => "built-in",
        }
    }

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            LegacyHttp => "old",
            LegacyStdio => "pipe",
            Upstream::Sse => "sse",
            ModernHttp => "new",
            ModernStdio => "new_pipe",
            Builtin => "demo",
        }
    }

    /// The settings of the fixture, if the test starts it.
    fn settings(self) -> Option<&'static [&'static str]> {
        match self {
            LegacyHttp => Some(&["--era", "legacy"]),
            Upstream::Sse => Some(&["--sse"]),
            ModernHttp => Some(&["--era", "modern"]),
            LegacyStdio | ModernStdio | Builtin => None,
        }
    }
}

/// The legacy program with `isolation: session`.
pub const OWN: &str = "own";

// A call that lasts must not end by its time.
const REST: &str = "limits: {call_timeout: 10m}\n\
    rbac: {roles: {all: {allow: {servers: [\"*\"]}}}}\n\
    auth:\n  required: false\n  anonymous: {roles: [all]}\n  api_keys:\n";

pub struct World {
    pub gateway: Gateway,
    /// A session that looks what has reached the servers.
    watcher: String,
    running: Mutex<BTreeMap<&'static str, (Process, u16)>>,
}

async fn start(settings: &'static [&'static str], port: u16) -> Process {
    let (process, _) =
        tokio::task::spawn_blocking(move || fixture_with(settings, port)).await.expect("the fixture starts");
    process
}

impl World {
    pub async fn start() -> Self {
        let (mut pipe, mut own, mut new_pipe) = (stdio_fixture(), stdio_fixture(), stdio_fixture());
        pipe["era"] = json!("legacy");
        own["isolation"] = json!("session");
        new_pipe["era"] = json!("modern");
        let mut servers =
            json!({"pipe": pipe, "own": own, "new_pipe": new_pipe, "demo": {"builtin": "demo"}});
        for client in ["legacy", "sse", "modern"] {
            servers[format!("one_{client}")] = json!({"builtin": "demo", "max_concurrent": 1});
        }
        let over_http = UPSTREAMS.into_iter().filter_map(|up| Some((up, up.settings()?, free_port())));
        let started =
            over_http.map(|(up, settings, port)| async move { (up, (start(settings, port).await, port)) });
        let mut running = BTreeMap::new();
        for (up, (process, port)) in futures::future::join_all(started).await {
            let url = |end: &str| format!("http://127.0.0.1:{port}/{end}");
            servers[up.name()] = match up {
                Upstream::Sse => json!({"type": "sse", "url": url("sse"), "health": {"interval": "200ms"}}),
                _ => json!({"url": url("mcp"), "health": {"interval": "200ms"}}),
            };
            running.insert(up.name(), (process, port));
        }
        let config = format!("mcpServers: {servers}\n{REST}{}", key("modern", "all"));
        let gateway = Gateway::start(&config).await;
        let mut legacy = Legacy::open(&gateway, "/mcp").await;
        for server in ["old", "pipe", "own", "sse", "new", "new_pipe"] {
            let deadline = Instant::now() + TEST_TIMEOUT;
            while !listed(&mut legacy, "tools/list", "tools", &format!("{server}__echo")).await {
                assert!(Instant::now() < deadline, "{server} is not listed\n{}", gateway.process.story());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let what = format!("{server} is listed for modern clients");
            gateway.eventually(&what, async |gateway| lists(gateway, server).await).await;
        }
        let watcher = gateway.initialize("/mcp").await;
        Self { gateway, watcher, running: Mutex::new(running) }
    }

    /// Waits until a count of a server has this value.
    pub async fn counts(&self, server: &str, name: &str, count: u64) {
        let what = format!("{name} of {server} is {count}");
        let holds = async |gateway: &Gateway| gateway.count(&self.watcher, server, name).await == count;
        self.gateway.eventually(&what, holds).await;
    }

    /// Whether a call holds the only place of a server.
    pub async fn is_taken(&self, server: &str) -> bool {
        let (status, said) = self.gateway.call(&format!("{server}__echo"), json!({"message": "free"})).await;
        assert!(status == 200 || status == 503, "{status}: {said}");
        status == 503
    }

    /// Starts a server that has ended, if the gateway does not do it.
    pub async fn restart(&self, up: Upstream) {
        let Some(settings) = up.settings() else { return };
        let port = {
            let mut running = self.running.lock().await;
            let (mut process, port) = running.remove(up.name()).expect("it ran");
            process.kill();
            port
        };
        let process = start(settings, port).await;
        self.running.lock().await.insert(up.name(), (process, port));
    }
}

/// Whether the endpoint of a server has its lists for modern clients.
async fn lists(gateway: &Gateway, server: &str) -> bool {
    let (_, answer) = gateway.modern(&format!("/servers/{server}/mcp"), "tools/list", json!({})).await;
    answer["result"]["tools"].as_array().is_some_and(|tools| tools.iter().any(|tool| tool["name"] == "echo"))
}
