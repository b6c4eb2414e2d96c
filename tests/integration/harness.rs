//! Starts and stops the programs that the tests use. Everything listens on loopback, on a port that the
//! system chooses, and ends when its value is dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use crate::process::Process;

/// Timeout of each step, on a machine that is busy with other tests: what takes longer hangs.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a test waits for its servers to start before it continues without them.
const STARTS: Duration = Duration::from_secs(20);

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where `tests/tools/setup` puts the real servers and clients.
pub fn tools() -> PathBuf {
    let tools = std::env::var_os("TOOLGATE_TOOLS").map_or_else(|| root().join(".tools"), PathBuf::from);
    assert!(tools.join("venv/bin/python").exists(), "the test tools are missing: run `make setup`");
    tools
}

pub fn python() -> PathBuf {
    tools().join("venv/bin/python")
}

/// The same with the Python SDK 1.x.
pub fn python_v1() -> PathBuf {
    let python = tools().join("venv-mcp1/bin/python");
    assert!(python.exists(), "{} is missing: run `make setup`", python.display());
    python
}

/// Node 22 with the packages of `tests/tools/package.json`.
pub fn node() -> PathBuf {
    tools();
    root().join("tests/tools/node")
}

/// A file of an installed npm package.
pub fn npm(path: &str) -> String {
    let file = tools().join("node/node_modules").join(path);
    assert!(file.exists(), "{} is missing: run `make setup`", file.display());
    file.display().to_string()
}

/// A port that was free a moment ago, and that no other test of this run gets. It is below the range for
/// outgoing connections, so that nothing takes it before its server does.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Parallel runs begin at different ports.
        let step = std::process::id().wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + (step % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Whether golden files are written instead of compared. Such a run proves nothing: it fails afterwards by
/// [`blessed`], and in CI it is refused.
pub fn blesses() -> bool {
    let blesses = std::env::var_os("BLESS").is_some();
    assert!(
        !blesses || std::env::var_os("CI").is_none(),
        "BLESS is set in CI: golden files are only compared there"
    );
    blesses
}

/// Ends a run that has written golden files.
pub fn blessed(what: &str) -> ! {
    panic!("BLESS: {what} was written anew; read the difference, then run the tests without BLESS");
}

/// A running gateway with a configuration file of its own.
pub struct Gateway {
    pub process: Process,
    pub port: u16,
    pub folder: tempfile::TempDir,
    pub http: reqwest::Client,
}

impl Gateway {
    /// Starts the binary with this configuration; `listen` is filled in. Waits until it serves.
    pub async fn start(config: &str) -> Self {
        Self::start_as(config, Process::start).await
    }

    /// The same, for a test that starts the process in its own way.
    pub async fn start_as(config: &str, start: impl FnOnce(&mut Command) -> Process) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the configuration");
        let port = free_port();
        let file = folder.path().join("toolgate.yaml");
        std::fs::write(&file, Self::listening(port, config)).expect("the configuration is written");
        let mut process = start(&mut Self::command(folder.path(), &["run"]));
        process.wait_for("endpoint");
        let http =
            reqwest::Client::builder().no_proxy().read_timeout(TEST_TIMEOUT).build().expect("a client");
        let gateway = Self { process, port, folder, http };
        gateway.eventually("it listens", async |g| g.http.get(g.url("/health")).send().await.is_ok()).await;
        gateway.started().await;
        gateway
    }

    /// Waits until the servers have started, so that their calls are not answered by "still starting". The
    /// wait is bounded, because some never start. If `/ready` is on another address or requires
    /// authentication, there is no wait.
    async fn started(&self) {
        let deadline = Instant::now() + STARTS;
        while self.get("/ready").await.contains(r#""starting":[""#) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The binary with this folder's configuration; its files stay in the folder.
    pub fn command(folder: &Path, message: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toolgate"));
        command.args(message).arg("-c").arg(folder.join("toolgate.yaml")).current_dir(folder);
        command.env("RUNTIME_DIRECTORY", folder);
        command
    }

    /// Replaces `PORT` in the configuration by the gateway's own port.
    fn listening(port: u16, config: &str) -> String {
        let config = config.replace("PORT", &port.to_string());
        if config.contains("listen:") {
            return config;
        }
        format!("listen: {{address: 127.0.0.1:{port}}}\n{config}")
    }

    /// Replaces the configuration file, as an editor does: whole, by a rename.
    pub fn rewrite(&self, config: &str) {
        let new = self.folder.path().join("new.tmp");
        std::fs::write(&new, Self::listening(self.port, config)).expect("the configuration is written");
        std::fs::rename(new, self.folder.path().join("toolgate.yaml")).expect("the file is replaced");
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Waits until a condition holds; panics with the gateway's log if it never does.
    pub async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while !holds(self).await {
            assert!(Instant::now() < deadline, "not in time: {what}\n{}", self.process.story());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The value of a metric, by its name with labels as printed; 0 if it does not exist.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await;
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.map_or(0.0, |value| value.parse().expect("a metric is a number"))
    }

    /// Whether a metric exists with this value.
    pub async fn has_metric(&self, name: &str, value: f64) -> bool {
        let text = self.get("/metrics").await;
        let output = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        output == Some(value)
    }

    pub async fn get(&self, path: &str) -> String {
        let response = self.http.get(self.url(path)).send().await.expect("the gateway answers");
        response.text().await.expect("a body")
    }

    /// A modern request; `params` without `_meta`. Returns status and message; of a stream, the last
    /// message.
    pub async fn modern(&self, path: &str, method: &str, params: Value) -> (u16, Value) {
        let request = self.modern_request(path, method, params);
        read(request.send().await.expect("the gateway answers")).await
    }

    pub fn modern_request(&self, path: &str, method: &str, mut params: Value) -> reqwest::RequestBuilder {
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
        let mut request = self
            .http
            .post(self.url(path))
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", method);
        if let Some(name) = params.get("name").or_else(|| params.get("uri")).and_then(Value::as_str) {
            request = request.header("mcp-name", name);
        }
        request
            .header("content-type", "application/json")
            .body(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string())
    }

    /// A modern tool call on the federated endpoint.
    pub async fn call(&self, tool: &str, arguments: Value) -> (u16, Value) {
        self.modern("/mcp", "tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// Opens a legacy session and returns its id.
    pub async fn initialize(&self, path: &str) -> String {
        self.initialize_with(path, json!({})).await
    }

    /// The same for a client with capabilities.
    pub async fn initialize_with(&self, path: &str, capabilities: Value) -> String {
        let body = initialize(capabilities);
        let response = self.post(path, None, &body).send().await.expect("the gateway answers");
        let id = response.headers().get("mcp-session-id").cloned();
        let (status, answer) = read(response).await;
        assert_eq!(status, 200, "{answer}");
        let id = id.expect("a session id").to_str().expect("an ASCII id").to_owned();
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let response = self.post(path, Some(&id), &note).send().await.expect("the gateway answers");
        assert_eq!(response.status(), 202);
        id
    }

    /// A legacy message in a session, and its response.
    pub async fn say(&self, path: &str, session: &str, body: &Value) -> (u16, Value) {
        read(self.post(path, Some(session), body).send().await.expect("the gateway answers")).await
    }

    /// A counter of the fixture, as its legacy era knows it; `server` is its name here.
    pub async fn count(&self, session: &str, server: &str, name: &str) -> u64 {
        let call = legacy_call("count", &format!("{server}__counter"), json!({"name": name, "add": 0}));
        let (_, answer) = self.say("/mcp", session, &call).await;
        let count = &answer["result"]["structuredContent"]["count"];
        count.as_u64().unwrap_or_else(|| panic!("no count: {answer}"))
    }

    /// A legacy POST.
    pub fn post(&self, path: &str, session: Option<&str>, body: &Value) -> reqwest::RequestBuilder {
        let mut request = self
            .http
            .post(self.url(path))
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .body(body.to_string());
        if let Some(session) = session {
            request = request.header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25");
        }
        request
    }
}

/// The message that opens a legacy session.
pub fn initialize(capabilities: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
        "capabilities": capabilities, "clientInfo": {"name": "test", "version": "1"}}})
}

/// A tool call in the legacy era.
pub fn legacy_call(id: impl Into<Value>, tool: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call",
        "params": {"name": tool, "arguments": arguments}})
}

/// Status and message of a response; of a stream of events, the last message.
pub async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let streams = response
        .headers()
        .get("content-type")
        .is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
    let text = response.text().await.expect("a body");
    let text = if streams {
        let mut data =
            text.lines().filter_map(|line| line.strip_prefix("data:")).filter(|data| !data.trim().is_empty());
        data.next_back().unwrap_or_default().to_owned()
    } else {
        text
    };
    let value = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.clone()));
    (status, value)
}

/// The settings of the fixture as a stdio server, as JSON.
pub fn stdio_fixture() -> Value {
    json!({"command": python(), "args": [root().join("tests/fixture/server.py"), "--stdio"]})
}

/// A Redis of its own on this port, from within a runtime.
pub async fn a_redis(port: u16) -> Process {
    let start = move || {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        let mut process = Process::start(&mut command);
        process.wait_for("Ready to accept connections");
        process
    };
    tokio::task::spawn_blocking(start).await.expect("Redis starts")
}

/// The fixture on a free port, from within a runtime.
pub async fn a_fixture() -> (Process, String) {
    tokio::task::spawn_blocking(|| fixture(0)).await.expect("the fixture starts")
}

/// The fixture of one era on a free port, from within a runtime.
pub async fn a_fixture_of(era: &'static str) -> (Process, String) {
    tokio::task::spawn_blocking(move || fixture_of(era, 0)).await.expect("the fixture starts")
}

/// The fixture of `tests/fixture/server.py`; returns its URL too.
pub fn fixture(port: u16) -> (Process, String) {
    fixture_of("both", port)
}

/// The same, of one era only if `era` says so.
pub fn fixture_of(era: &str, port: u16) -> (Process, String) {
    fixture_with(&["--era", era], port)
}

/// The same with other settings.
pub fn fixture_with(settings: &[&str], port: u16) -> (Process, String) {
    let mut command = Command::new(python());
    command.arg(root().join("tests/fixture/server.py")).args(settings).args(["--port", &port.to_string()]);
    let mut process = Process::start(&mut command);
    let line = process.wait_for("fixture listening on");
    let url = line.rsplit(' ').next().expect("a URL at the end").to_owned();
    (process, url)
}
