//! Real old clients: `sse_client` of the Python SDK 1.x, and the transport of the last and of the first TypeScript SDK.
//! The first one knows no version but 2024-11-05.

use serde_json::{Value, json};

use crate::access::key;
use crate::bridge::Bridged;
use crate::clients::{Ran, Sdk, drive, run, step};
use crate::harness::{Gateway, node, npm, tools};

fn plan(server: &str, can_fill_forms: bool) -> Vec<Value> {
    let tool = |name: &str| format!("{server}__{name}");
    let mut plan = vec![
        step(&tool("test_simple_text"), json!({}), "simple text response"),
        step(&tool("echo"), json!({"message": "grüße"}), "grüße"),
        step(&tool("fail_tool"), json!({}), "fail_tool fails"),
        step(&tool("test_tool_with_progress"), json!({}), "Reported progress"),
    ];
    // A process that all callers share has no client to ask.
    if server != "old_pipe" {
        plan.push(step(&tool("test_sampling"), json!({"prompt": "x"}), "a sampled answer"));
        plan.push(step(&tool("test_input_required_result_list_roots"), json!({}), "file:///root"));
        if can_fill_forms {
            plan.push(step(&tool("test_elicitation"), json!({"message": "who?"}), "action=accept"));
        }
    }
    plan
}

fn assert_ran(ran: &Ran, plan: &[Value], negotiated: &str) {
    assert!(ran.ok && ran.calls.len() == plan.len(), "{:#?}\n{}", ran.bad(), ran.output);
    assert_eq!(ran.seen["negotiated"], negotiated, "{}", ran.output);
    assert!(ran.has_tool("demo__echo") && ran.has_tool("new__echo"), "{}", ran.output);
    assert!(ran.seen["resources"].as_array().is_some_and(|all| !all.is_empty()), "{}", ran.output);
    let told = |call: &Value| call["tool"].as_str().is_some_and(|tool| tool.ends_with("with_progress"));
    let progress: Vec<_> = ran.calls.iter().filter(|call| told(call)).collect();
    assert!(progress.iter().all(|call| call["progress"].as_u64() > Some(0)), "{progress:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_of_both_sdks_use_servers_of_each_era() {
    let bridged = Bridged::start("").await;
    let url = bridged.gateway.url("/sse");
    let all = |forms: bool| -> Vec<Value> {
        ["old", "new", "old_pipe", "new_pipe"].iter().flat_map(|server| plan(server, forms)).collect()
    };
    for (sdk, mode, negotiated) in [
        (Sdk::PythonV1, "2025-11-25", "2025-11-25"),
        (Sdk::PythonV1, "2024-11-05", "2024-11-05"),
        (Sdk::TypeScript, "newest", "2025-11-25"),
        (Sdk::TypeScript, "first", "2024-11-05"),
    ] {
        // Forms came with 2025-06-18; a modern server cannot ask an older client for one.
        let plan = all(negotiated >= "2025-06-18");
        let ran = drive(sdk, "old_sse", &url, mode, &[], &plan).await;
        assert_ran(&ran, &plan, negotiated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_send_their_credentials_with_both_requests() {
    let keys = key("ann", "");
    let config = format!("mcpServers: {{demo: {{builtin: demo}}}}\nauth:\n  api_keys:\n{keys}");
    let gateway = Gateway::start(&config).await;
    let plan = [step("echo", json!({"message": "hi"}), "hi"), step("none", json!({}), "Unknown tool")];
    let url = gateway.url("/servers/demo/sse");
    for (sdk, mode) in [(Sdk::PythonV1, "2025-06-18"), (Sdk::TypeScript, "newest")] {
        let env = [("AUTHORIZATION", "Bearer ann-key")];
        let ran = drive(sdk, "old_sse", &url, mode, &env, &plan).await;
        assert!(ran.ok && ran.calls.len() == plan.len(), "{}", ran.output);
        let ran = drive(sdk, "old_sse", &url, mode, &[], &plan).await;
        assert!(!ran.ok && ran.output.contains("401"), "{}", ran.output);
    }
}

/// It is a stdio server in front of one over HTTP, and tries Streamable HTTP first if it is told so.
#[tokio::test(flavor = "multi_thread")]
async fn mcp_remote_reaches_the_event_stream_also_after_it_tried_streamable_http() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    let plan = [
        step("demo__echo", json!({"message": "hi"}), "hi"),
        step("demo__nothing", json!({}), "Unknown tool"),
        step("demo__calculator", json!({"operation": "add", "a": 3, "b": 4}), "7"),
    ];
    let files = tempfile::tempdir().expect("a folder");
    let (folder, tools) = (files.path().display(), tools().display().to_string());
    let program = format!("{} {}", node().display(), npm("mcp-remote/dist/proxy.js"));
    let command = format!("env TOOLGATE_TOOLS={tools} MCP_REMOTE_CONFIG_DIR={folder} {program}");
    for order in ["sse-only", "http-first"] {
        let url = gateway.url("/sse");
        let server = format!("stdio:{command} {url} --allow-http --transport {order}");
        let ran = run(Sdk::Python, &server, "legacy", &plan).await;
        assert!(ran.ok && ran.calls.len() == plan.len(), "{order}: {}", ran.output);
    }
    let tried = async |g: &Gateway| g.process.output().contains("\"reason\":\"verb\"");
    gateway.eventually("a POST to /sse was tried", tried).await;
}
