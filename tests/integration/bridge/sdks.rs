//! Both official SDKs, as clients of each era, use servers of each era; their own callbacks answer what a
//! server asks.

use serde_json::{Value, json};

use super::Bridged;
use crate::clients::{Sdk, run, step};

fn plan(server: &str) -> Vec<Value> {
    let tool = |name: &str| format!("{server}__{name}");
    let mut plan = vec![
        step(&tool("test_simple_text"), json!({}), "simple text response"),
        step(&tool("echo"), json!({"message": "grüße"}), "grüße"),
        step(&tool("counter"), json!({"name": "sdk", "add": 0}), "0"),
        step(&tool("fail_tool"), json!({}), "fail_tool fails"),
        step(&tool("test_tool_with_progress"), json!({}), "Reported progress"),
    ];
    // A process that all callers share has no client to ask.
    if server != "old_pipe" {
        plan.extend([
            step(&tool("test_sampling"), json!({"prompt": "x"}), "a sampled answer"),
            step(&tool("test_elicitation"), json!({"message": "who?"}), "action=accept"),
            step(&tool("test_input_required_result_list_roots"), json!({}), "file:///root"),
            step(&tool("test_input_required_result_multiple_inputs"), json!({}), "of 1 roots"),
            step(&tool("test_streaming_elicitation"), json!({}), "action=accept"),
        ]);
    }
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sdks_use_servers_of_each_era() {
    let bridged = Bridged::start("").await;
    let url = bridged.gateway.url("/mcp");
    for sdk in [Sdk::Python, Sdk::TypeScript] {
        for mode in ["legacy", "2026-07-28"] {
            let all: Vec<Value> =
                ["old", "new", "old_pipe", "new_pipe"].iter().flat_map(|server| plan(server)).collect();
            let ran = run(sdk, &url, mode, &all).await;
            assert!(ran.ok, "{sdk:?} {mode}: {:#?}\n{}", ran.bad(), ran.output);
            assert_eq!(ran.calls.len(), all.len(), "{sdk:?} {mode}");
        }
    }
}
