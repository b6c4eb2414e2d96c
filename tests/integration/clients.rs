//! Real MCP clients, run as programs: the Python SDK, the TypeScript SDK and the Inspector.

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::harness::{node, python, python_v1, root, tools};

/// A client that takes longer hangs.
const MAX_WAIT: Duration = Duration::from_secs(120);
/// Clients are whole interpreters; more at a time than this only slow each other down.
static SLOTS: Semaphore = Semaphore::const_new(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    Python,
    /// The Python SDK 1.x.
    PythonV1,
    TypeScript,
}

/// The result of a client.
#[derive(Debug)]
pub struct Ran {
    /// The client and its mode.
    pub name: String,
    /// All calls matched the plan.
    pub ok: bool,
    /// `{"tool", "ok", "is_error", "text"}` each.
    pub calls: Vec<Value>,
    /// `{"negotiated", "tools", "prompts", "resources"}`, if the client got that far.
    pub seen: Value,
    /// All of its output, for reading.
    pub output: String,
}

impl Ran {
    /// The calls that were not as expected.
    pub fn bad(&self) -> Vec<&Value> {
        self.calls.iter().filter(|call| call["ok"] != true).collect()
    }

    pub fn has_tool(&self, name: &str) -> bool {
        self.seen["tools"].as_array().is_some_and(|tools| tools.iter().any(|tool| tool == name))
    }
}

/// One call of a plan.
pub fn step(tool: &str, args: Value, expect: &str) -> Value {
    if expect.is_empty() {
        json!({"tool": tool, "args": args})
    } else {
        json!({"tool": tool, "args": args, "expect": expect})
    }
}

/// Runs a plan (see `tests/clients/all_tools.py`) in one of the client's modes.
pub async fn run(sdk: Sdk, url: &str, mode: &str, plan: &[Value]) -> Ran {
    drive(sdk, "all_tools", url, mode, &[], plan).await
}

/// Runs a plan with one of the programs in `tests/clients` that exist for both SDKs.
pub async fn drive(
    sdk: Sdk,
    script: &str,
    url: &str,
    mode: &str,
    env: &[(&str, &str)],
    plan: &[Value],
) -> Ran {
    let (program, script) = match sdk {
        Sdk::Python => (python(), format!("tests/clients/{script}.py")),
        Sdk::PythonV1 => (python_v1(), format!("tests/clients/{script}.py")),
        Sdk::TypeScript => (node(), format!("tests/clients/{script}.mjs")),
    };
    let mut command = Command::new(program);
    command.arg(root().join(script)).args([url, mode]).envs(env.iter().copied());
    let done = output(&mut command, &Value::from(plan).to_string()).await;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let mut lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let seen = match lines.last() {
        Some(last) if last.get("negotiated").is_some() => lines.pop().unwrap_or_default(),
        _ => Value::Null,
    };
    let name = format!("{sdk:?} {mode}");
    let output = format!("{name}:\n{text}\n{}", String::from_utf8_lossy(&done.stderr));
    Ran { name, ok: done.status.success(), calls: lines, seen, output }
}

/// One call with the Inspector: whether it succeeded, and what it printed.
pub async fn inspect(url: &str, era: &str, tool: &str, args: &Value) -> (bool, String) {
    let mut command = Command::new(root().join("tests/clients/inspector"));
    command.args([url, era, "tools/call", "--tool-name", tool]);
    for (name, value) in args.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        command.arg("--tool-arg").arg(format!("{name}={value}"));
    }
    let done = output(&mut command, "").await;
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    (done.status.success(), text)
}

/// Checks messages with the official types: each `{"type", "revision", "message"}`. Panics with the errors.
pub async fn assert_types(messages: &[Value]) {
    let lines: Vec<String> = messages.iter().map(Value::to_string).collect();
    let mut command = Command::new(python());
    command.arg(root().join("tests/clients/wire_types.py"));
    let done = output(&mut command, &lines.join("\n")).await;
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains(&format!("{} valid, 0 invalid", messages.len())), "{said}");
}

/// Runs a program to its end, with this on its standard input.
pub async fn output(command: &mut Command, input: &str) -> Output {
    tools();
    let _slot = SLOTS.acquire().await.expect("the semaphore is never closed");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A program that ends without reading closes the pipe.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let done = tokio::time::timeout(MAX_WAIT, child.wait_with_output()).await;
    done.unwrap_or_else(|_| panic!("{command:?} is not done in time")).expect("its output is read")
}
