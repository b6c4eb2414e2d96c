//! Real clients with real servers: everything that a user does with tools, through one endpoint.

use futures::StreamExt;
use serde_json::Value;

use crate::clients::{Sdk, inspect, run};
use crate::real_servers_setup::{ASKS_BACK, NOT_CALLED, RealServers, tool_of};

const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";

#[tokio::test(flavor = "multi_thread")]
async fn every_tool_of_five_servers_answers_real_clients_in_both_eras() {
    let servers = RealServers::start().await;
    let url = servers.gateway.url("/mcp");
    let runs = [
        (Sdk::Python, "legacy", LEGACY),
        (Sdk::Python, "auto", MODERN),
        (Sdk::Python, MODERN, MODERN),
        (Sdk::TypeScript, "legacy", LEGACY),
        (Sdk::TypeScript, "auto", MODERN),
        (Sdk::TypeScript, "modern", MODERN),
    ];
    let ran = futures::future::join_all(runs.map(|(sdk, mode, version)| {
        let plan = servers.plan();
        let url = &url;
        async move { (run(sdk, url, mode, &plan).await, version, plan.len()) }
    }));
    for (ran, version, calls) in ran.await {
        assert!(ran.ok && ran.bad().is_empty() && ran.calls.len() == calls, "{}", ran.output);
        assert_eq!(ran.seen["negotiated"], version, "{}", ran.output);
        // The plan covers the whole list.
        let mut listed: Vec<&Value> = ran.seen["tools"].as_array().expect("a list").iter().collect();
        // Another client may have enabled it just now.
        listed.retain(|tool| *tool != "fix__test_dynamic_tool");
        assert_eq!(listed.len(), calls + NOT_CALLED.len(), "{}", ran.output);
        assert!(NOT_CALLED.iter().all(|(tool, _)| ran.has_tool(tool)), "{}", ran.output);
        let prompts = ran.seen["prompts"].as_array().expect("a list");
        let resources = ran.seen["resources"].as_array().expect("a list");
        assert!(prompts.iter().any(|prompt| prompt == "fast__fast_greeting"), "{}", ran.output);
        assert!(resources.iter().any(|uri| uri == "fast://info"), "{}", ran.output);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_calls_every_tool_of_five_servers() {
    let servers = RealServers::start().await;
    let url = &servers.gateway.url("/mcp");
    let mut calls: Vec<(&str, Value)> = Vec::new();
    for era in ["legacy", "modern"] {
        calls.extend(servers.plan().into_iter().map(|step| (era, step)));
    }
    let checked = futures::stream::iter(calls).map(|(era, step)| async move {
        let tool = tool_of(&step);
        let (ok, text) = inspect(url, era, tool, &step["args"]).await;
        let expect = step["expect"].as_str().unwrap_or_default();
        // The expected text as it is written in its JSON.
        let quoted = Value::from(expect).to_string();
        let as_planned = text.contains(expect) || text.contains(&quoted[1..quoted.len() - 1]);
        let errs = text.contains("tool_is_error");
        let fine = if ASKS_BACK.contains(&tool) { !ok } else { as_planned && (ok || errs) };
        (!fine).then(|| format!("{era} {tool}: {ok} {text}"))
    });
    let bad: Vec<String> = checked.buffer_unordered(3).filter_map(async |bad| bad).collect().await;
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
