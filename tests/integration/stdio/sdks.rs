//! Real clients start the bridge as they start any server: the Python and the TypeScript SDK, in both eras,
//! with a bridge and with a gateway of its own.

use serde_json::{Value, json};

use crate::clients::{Sdk, run, step};
use crate::commands::folder_with;
use crate::harness::{Gateway, a_fixture};

fn plan(modern: bool) -> Vec<Value> {
    let mut plan = vec![
        step("fix__test_simple_text", json!({}), "simple"),
        step("fix__test_tool_with_progress", json!({}), "Reported progress"),
        step("fix__test_tool_with_logging", json!({}), "Logged"),
        step("fix__test_error_handling", json!({}), "intentionally"),
        step("fix__test_elicitation", json!({"message": "who?"}), "accept"),
        step("fix__test_sampling", json!({"prompt": "?"}), "a sampled answer"),
        step("demo__calculator", json!({"operation": "add", "a": 3, "b": 4}), "7"),
        step("demo__nothing", json!({}), "Unknown tool"),
    ];
    if modern {
        plan.push(step("fix__test_x_mcp_header", json!({"region": "eu", "priority": 2}), "eu"));
    }
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sdks_work_with_it_in_both_eras_and_both_ways() {
    let (_fixture, url) = a_fixture().await;
    let config = format!("mcpServers: {{fix: {{url: \"{url}\"}}, demo: {{builtin: demo}}}}\n");
    let gateway = Gateway::start(&config).await;
    crate::legacy::listed(&gateway, "fix__test_simple_text").await;
    let folder = folder_with(&config);
    let binary = env!("CARGO_BIN_EXE_toolgate");
    let bridge = format!("stdio:{binary} stdio --url {}", gateway.url("/mcp"));
    let own = format!("stdio:{binary} stdio -c {}", folder.path().join("toolgate.yaml").display());
    for server in [&bridge, &own] {
        for (mode, negotiated) in
            [("legacy", "2025-11-25"), ("auto", "2026-07-28"), ("2026-07-28", "2026-07-28")]
        {
            for sdk in [Sdk::Python, Sdk::TypeScript] {
                let ran = run(sdk, server, mode, &plan(mode != "legacy")).await;
                assert!(ran.ok, "{server}: {:?}\n{}", ran.bad(), ran.output);
                assert_eq!(ran.seen["negotiated"], negotiated, "{}", ran.output);
                assert!(
                    ran.has_tool("demo__echo") && ran.has_tool("fix__test_simple_text"),
                    "{}",
                    ran.output
                );
                assert!(
                    ran.seen["resources"].as_array().is_some_and(|all| !all.is_empty()),
                    "{}",
                    ran.output
                );
            }
        }
    }
}
