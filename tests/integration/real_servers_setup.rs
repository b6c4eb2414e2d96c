//! Five real servers behind one gateway: over HTTP `everything` (the official TypeScript one), `fix` (the
//! Python SDK) and `fast` (FastMCP); over stdio `time` (Python, dual-era) and `files` (TypeScript, legacy),
//! as users paste them.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::clients::step;
use crate::harness::{Gateway, Process, fixture, free_port, node, npm, python, root, tools};

pub struct RealServers {
    pub gateway: Gateway,
    pub fixture: Process,
    pub fixture_port: u16,
    _everything: Process,
    _fast: Process,
    /// The folder that `files` serves.
    pub share: tempfile::TempDir,
}

pub fn everything(port: u16) -> Process {
    everything_over("streamableHttp", port)
}

/// The same over `sse` or `streamableHttp`.
pub fn everything_over(transport: &str, port: u16) -> Process {
    let mut command = Command::new(node());
    command.arg(npm("@modelcontextprotocol/server-everything/dist/index.js")).arg(transport);
    let mut process = Process::start(command.env("PORT", port.to_string()));
    process.wait_for(" on port");
    process
}

fn fast(port: u16) -> Process {
    let mut command = Command::new(python());
    command.arg(root().join("tests/fixture/fast.py")).args(["--port", &port.to_string()]);
    let mut process = Process::start(&mut command);
    process.wait_for("fastmcp listening on");
    process
}

impl RealServers {
    /// Starts all of them, and waits until the gateway is connected to each. The health check interval is
    /// longer than any test: other mechanisms must notice changes.
    pub async fn start() -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let start = |port: u16, how: fn(u16) -> Process| tokio::task::spawn_blocking(move || how(port));
        let (everything, fast, fixture) = tokio::join!(
            start(ports[0], everything),
            start(ports[1], fast),
            start(ports[2], |port| fixture(port).0),
        );
        let share = tempfile::tempdir().expect("a folder to serve");
        let files = json!({"command": node(), "args": [
            npm("@modelcontextprotocol/server-filesystem/dist/index.js"), share.path()]});
        let time =
            json!({"command": tools().join("venv/bin/mcp-server-time"), "args": ["--local-timezone", "UTC"]});
        let url =
            |port: u16| json!({"url": format!("http://127.0.0.1:{port}/mcp"), "health": {"interval": "1h"}});
        // JSON is YAML too.
        let servers = json!({"everything": url(ports[0]), "fast": url(ports[1]), "fix": url(ports[2]),
            "time": time, "files": files});
        let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
        let five = Self {
            gateway,
            fixture: fixture.expect("the fixture starts"),
            fixture_port: ports[2],
            _everything: everything.expect("everything starts"),
            _fast: fast.expect("fast starts"),
            share,
        };
        for server in ["everything", "fast", "fix", "time", "files"] {
            five.up(server, true).await;
        }
        // A server is reported as up before its tools are listed.
        let session = five.gateway.initialize("/mcp").await;
        let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
        five.gateway
            .eventually("the tools of all are listed", async |g| {
                let text = g.say("/mcp", &session, &list).await.1.to_string();
                ["everything__", "fast__", "fix__", "time__", "files__"].iter().all(|of| text.contains(of))
            })
            .await;
        let end = five.gateway.http.delete(five.gateway.url("/mcp")).header("mcp-session-id", &session);
        assert_eq!(end.send().await.expect("an answer").status(), 204);
        five
    }

    /// Waits until the gateway reports a server as up, or down.
    pub async fn up(&self, server: &str, up: bool) {
        let metric = format!("toolgate_upstream_up{{server=\"{server}\"}}");
        let output = if up { 1.0 } else { 0.0 };
        let what = format!("{metric} {output}");
        self.gateway.eventually(&what, async |g| g.has_metric(&metric, output).await).await;
    }

    /// A call of every tool of every server, except [`NOT_CALLED`]. Each needs files of its own.
    pub fn plan(&self) -> Vec<Value> {
        let folder = tempfile::tempdir_in(self.share.path()).expect("a folder for this plan").keep();
        let mut plan = everything_plan("everything");
        plan.extend(files_plan(&folder));
        plan.extend(fixture_plan("fix"));
        plan.extend([
            step("fast__fast_add", json!({"a": 2, "b": 3}), "5"),
            step("fast__fast_upper", json!({"text": "grüße"}), "GRÜSSE"),
            step("time__get_current_time", json!({"timezone": "UTC"}), "\"timezone\""),
            step(
                "time__convert_time",
                json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}),
                "21:00",
            ),
        ]);
        plan
    }
}

/// Tools that no plan calls, and why.
pub const NOT_CALLED: &[(&str, &str)] = &[("fix__crash", "it ends the server")];

/// Tools that send requests to their client, which the Inspector without its window cannot answer.
pub const ASKS_BACK: &[&str] = &[
    "fix__ask_url",
    "fix__test_elicitation",
    "fix__test_elicitation_sep1034_defaults",
    "fix__test_elicitation_sep1330_enums",
    "fix__test_input_required_result_elicitation",
    "fix__test_input_required_result_multi_round",
    "fix__test_input_required_result_multiple_inputs",
    "fix__test_input_required_result_request_state",
    "fix__test_input_required_result_sampling",
    "fix__test_input_required_result_tampered_state",
    "fix__test_missing_capability",
    "fix__test_sampling",
    "fix__test_streaming_elicitation",
];

pub fn tool_of(step: &Value) -> &str {
    step["tool"].as_str().expect("a step names its tool")
}

/// A call of every tool of server-everything, by its name here.
pub fn everything_plan(server: &str) -> Vec<Value> {
    let one = |tool: &str, args: Value, expect: &str| step(&format!("{server}__{tool}"), args, expect);
    vec![
        one("echo", json!({"message": "hi"}), "Echo: hi"),
        one("get-annotated-message", json!({"messageType": "success"}), "completed successfully"),
        one("get-env", json!({}), "PATH"),
        one("get-resource-links", json!({"count": 2}), "2 resource links"),
        one("get-resource-reference", json!({"resourceType": "Text", "resourceId": 1}), "demo://resource"),
        one("get-structured-content", json!({"location": "Chicago"}), "temperature"),
        one("get-sum", json!({"a": 2, "b": 3}), "The sum of 2 and 3 is 5."),
        one("get-tiny-image", json!({}), "image"),
        one("gzip-file-as-resource", gzip(), ""),
        // It runs only as a task of the experimental kind, and reports it.
        one("simulate-research-query", json!({"topic": "gates"}), "requires task augmentation"),
        one("toggle-simulated-logging", json!({}), "simulated"),
        one("toggle-subscriber-updates", json!({}), "simulated"),
        one("trigger-long-running-operation", json!({"duration": 1, "steps": 2}), "operation completed"),
    ]
}

fn gzip() -> Value {
    json!({"name": "a.gz", "data": "data:text/plain;base64,aGk=", "outputType": "resource"})
}

fn files_plan(folder: &Path) -> Vec<Value> {
    let path = |name: &str| folder.join(name).display().to_string();
    for (name, text) in [("a.txt", "one\ntwo\n"), ("edit.txt", "old words"), ("move.txt", "moved")] {
        std::fs::write(folder.join(name), text).expect("a file is written");
    }
    std::fs::write(folder.join("dot.png"), b"\x89PNG\r\n\x1a\n").expect("a file is written");
    let one = |tool: &str, args: Value, expect: &str| step(&format!("files__{tool}"), args, expect);
    let edits = json!([{"oldText": "old", "newText": "new"}]);
    vec![
        one("create_directory", json!({"path": path("made")}), "made"),
        one("directory_tree", json!({"path": path("")}), "a.txt"),
        one("edit_file", json!({"path": path("edit.txt"), "edits": edits}), "+new words"),
        one("get_file_info", json!({"path": path("a.txt")}), "size: 8"),
        one("list_allowed_directories", json!({}), "Allowed directories"),
        one("list_directory", json!({"path": path("")}), "[FILE] a.txt"),
        one("list_directory_with_sizes", json!({"path": path("")}), "8 B"),
        one("move_file", json!({"source": path("move.txt"), "destination": path("there.txt")}), "moved"),
        one("read_file", json!({"path": path("a.txt")}), "two"),
        one("read_media_file", json!({"path": path("dot.png")}), ""),
        one("read_multiple_files", json!({"paths": [path("a.txt"), path("dot.png")]}), "two"),
        one("read_text_file", json!({"path": path("a.txt"), "head": 1}), "one"),
        one("search_files", json!({"path": path(""), "pattern": "a.*"}), "a.txt"),
        one("write_file", json!({"path": path("new.txt"), "content": "written"}), "Successfully wrote"),
    ]
}

/// A call of every tool of the fixture except `crash`, by its name here.
pub fn fixture_plan(server: &str) -> Vec<Value> {
    let one = |tool: &str, args: Value, expect: &str| step(&format!("{server}__{tool}"), args, expect);
    let phone = json!({"contactMethod": "phone", "phone": "+1", "email": "e"});
    let hash = "2 8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4";
    let mut plan = vec![
        one("ask_url", json!({"url": "https://example.com/login"}), "action=accept"),
        one("counter", json!({"name": "plan"}), ""),
        one("echo", json!({"message": "hi"}), "hi"),
        one("echo_bytes", json!({"data": "hi"}), hash),
        one("fail_tool", json!({}), "fail_tool fails"),
        one("json_schema_2020_12_tool", phone, "Valid"),
        one("sleep", json!({"seconds": 0.1}), "slept 0.1"),
        one("stream", json!({"n": 3, "interval_ms": 5}), "streamed 3"),
        one("test_elicitation", json!({"message": "who?"}), "\"email\": \"filled\""),
        one("test_elicitation_sep1034_defaults", json!({}), "John Doe"),
        one("test_elicitation_sep1330_enums", json!({}), "\"titledSingle\": \"value1\""),
        one("test_error_handling", json!({}), "intentionally returns an error"),
        // The supported answers differ between clients.
        one("test_input_required_result_capabilities", json!({}), ""),
        one("test_input_required_result_elicitation", json!({}), "Hello, filled!"),
        // The Inspector has none.
        one("test_input_required_result_list_roots", json!({}), "Roots: "),
        one("test_input_required_result_multi_round", json!({}), "filled likes filled"),
        one("test_input_required_result_multiple_inputs", json!({}), "a sampled answer filled, of 1 roots"),
        one("test_input_required_result_sampling", json!({}), "The model said: a sampled answer"),
        one("test_logging_tool", json!({}), "Logged one message"),
        one("test_missing_capability", json!({}), "The client has sampling"),
        one("test_multiple_content_types", json!({}), "Multiple content types test"),
        one("test_reconnection", json!({}), "Answered after the stream was closed"),
        one("test_sampling", json!({"prompt": "?"}), "LLM response: a sampled answer"),
        one("test_simple_text", json!({}), "simple text response"),
        one("test_streaming_elicitation", json!({}), "\"go_on\": true"),
        one("test_tool_with_logging", json!({}), "Logged three messages"),
        one("test_tool_with_progress", json!({}), "Reported progress"),
        one("test_trigger_prompt_change", json!({}), "The prompts changed"),
        one("test_trigger_tool_change", json!({}), "The tools changed"),
        one("test_x_mcp_header", json!({"region": "here"}), "\"region\": \"here\""),
        one("touch", json!({"uri": "test://watched-resource"}), "touched test://watched-resource"),
    ];
    for state in ["request_state", "tampered_state"] {
        plan.push(one(&format!("test_input_required_result_{state}"), json!({}), "state-ok"));
    }
    for kind in ["audio_content", "embedded_resource", "image_content"] {
        plan.push(one(&format!("test_{kind}"), json!({}), ""));
    }
    plan
}
