//! `toolgate stdio` as seen by the programs that start it: the real binary, its pipes, and a real gateway
//! behind.

mod ends;
mod gone;
mod own;
mod sdks;
mod talk;

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::harness::{TEST_TIMEOUT, initialize};

pub const DEMO: &str = "mcpServers: {demo: {builtin: demo}}\nlog: {level: debug}\n";

/// A bridge, and the client's ends of its pipes.
pub struct StdioClient {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    stderr: JoinHandle<String>,
}

impl StdioClient {
    pub fn start(folder: &Path, message: &[&str]) -> Self {
        Self::start_with(folder, message, |command| command)
    }

    pub fn start_with(
        folder: &Path,
        message: &[&str],
        change: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toolgate"));
        command.arg("stdio").args(message).current_dir(folder).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = change(&mut command).spawn().expect("the binary starts");
        let stdout = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let stderr = tokio::spawn(async move {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text).await;
            text
        });
        Self { stdin: child.stdin.take(), stdout, stderr, child }
    }

    /// A bridge to a gateway.
    pub fn bridge(url: &str, more: &[&str]) -> Self {
        Self::start(&std::env::temp_dir(), &[&["--url", url], more].concat())
    }

    pub async fn say(&mut self, message: &Value) {
        self.raw(format!("{message}\n").as_bytes()).await;
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        self.try_raw(bytes).await.expect("the front reads");
    }

    pub async fn try_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stdin.as_mut().expect("standard input is open").write_all(bytes).await
    }

    /// The next line, which is always a message.
    pub async fn next(&mut self) -> Value {
        self.line().await.expect("another line")
    }

    pub async fn line(&mut self) -> Option<Value> {
        let lines = self.stdout.as_mut().expect("standard output is open");
        let line = tokio::time::timeout(TEST_TIMEOUT, lines.next_line()).await.expect("a line in time");
        line.expect("lines are read").map(|line| {
            let message: Value =
                serde_json::from_str(&line).unwrap_or_else(|_| panic!("no message: {line:?}"));
            let first = message.as_array().map_or(&message, |batch| &batch[0]);
            assert_eq!(first["jsonrpc"], "2.0", "{line}");
            message
        })
    }

    /// The response to this id; messages before it are discarded.
    pub async fn answer(&mut self, id: impl Into<Value>) -> Value {
        let id = id.into();
        loop {
            let message = self.next().await;
            if message.get("method").is_none() && message["id"] == id {
                return message;
            }
        }
    }

    pub async fn ask(&mut self, message: &Value) -> Value {
        self.say(message).await;
        self.answer(message["id"].clone()).await
    }

    /// The next message of this method; messages before it are discarded.
    pub async fn method(&mut self, method: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["method"] == method {
                return message;
            }
        }
    }

    /// Opens a legacy session.
    pub async fn open(&mut self, capabilities: Value) -> Value {
        let answer = self.ask(&initialize(capabilities)).await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{answer}");
        self.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        answer
    }

    /// The client closes its end of standard input.
    pub fn end(&mut self) {
        self.stdin = None;
    }

    /// The client reads no more.
    pub fn deafen(&mut self) {
        self.stdout = None;
    }

    pub fn signal(&self, signal: i32) {
        let pid = self.child.id().expect("it was not reaped") as i32;
        // SAFETY: `kill` only sends a signal, to a child that this value has not reaped yet.
        unsafe { libc::kill(pid, signal) };
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the process can be asked").is_none()
    }

    /// Its exit status, and its standard error.
    pub async fn exit(mut self) -> (ExitStatus, String) {
        let ended = tokio::time::timeout(TEST_TIMEOUT, self.child.wait()).await.expect("it ends in time");
        let said = tokio::time::timeout(TEST_TIMEOUT, self.stderr).await.expect("its log ends");
        (ended.expect("it can be waited for"), said.expect("the log is read"))
    }
}

/// A request of 2026-07-28.
pub fn modern(id: impl Into<Value>, method: &str, mut params: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}

pub fn modern_call(id: impl Into<Value>, tool: &str, arguments: Value) -> Value {
    modern(id, "tools/call", json!({"name": tool, "arguments": arguments}))
}

pub fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

/// A moment in which nothing must happen, for which a test cannot wait otherwise.
pub const MOMENT: Duration = Duration::from_millis(300);
