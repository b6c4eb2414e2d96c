//! Twenty-five real servers of npm and PyPI behind one gateway, three of them slow to start: all are
//! connected in the end, none was given up, and real clients use them all.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::clients::{Sdk, run, step};
use crate::harness::{Gateway, node, npm, tools};

/// How long the slow ones take before they start.
const SLOW: Duration = Duration::from_secs(25);
/// Two of npm, one of PyPI, which speaks both eras.
const SLOW_ONES: [&str; 3] = ["sheet-music", "memory", "time"];
/// The start of some fifty interpreters on a busy machine.
const MAX_WAIT: Duration = Duration::from_secs(240);

/// Servers of MCP Apps, without arguments, each with a call that needs no network.
fn apps() -> Vec<(&'static str, &'static str, Value)> {
    let time = |name| (name, "get-time", json!({}));
    vec![
        time("basic-preact"),
        time("basic-react"),
        time("basic-solid"),
        time("basic-svelte"),
        time("basic-vanillajs"),
        time("basic-vue"),
        ("budget-allocator", "get-budget-data", json!({})),
        ("cohort-heatmap", "get-cohort-data", json!({})),
        ("customer-segmentation", "get-customer-data", json!({})),
        ("map", "show-map", json!({})),
        ("scenario-modeler", "get-scenario-data", json!({})),
        (
            "shadertoy",
            "render-shadertoy",
            json!({"fragmentShader": "void mainImage(out vec4 c, in vec2 p) { c = vec4(1.0); }"}),
        ),
        ("sheet-music", "play-sheet-music", json!({"abcNotation": "X:1\nT:A\nK:C\nCDEF|"})),
        ("system-monitor", "get-system-info", json!({})),
        ("transcript", "transcribe", json!({})),
        ("video-resource", "play_video", json!({"videoId": "bunny-1mb"})),
        ("wiki-explorer", "get-first-degree-links", json!({"url": "https://example.com/"})),
    ]
}

/// The settings of all servers by name, and one call of each.
fn servers(folder: &Path) -> (Map<String, Value>, Vec<Value>) {
    let repository = folder.join("repository");
    let made = Command::new("git").args(["init", "-q"]).arg(&repository).status().expect("git is there");
    assert!(made.success(), "no repository");
    let path = |name: &str| folder.join(name).display().to_string();
    let (mut servers, mut plan) = (Map::new(), Vec::new());
    let mut add = |name: &str,
                   program: String,
                   args: Vec<String>,
                   env: Value,
                   tool: &str,
                   arguments: Value,
                   expect: &str| {
        let (command, args) = match SLOW_ONES.contains(&name) {
            false => (program, args),
            true => {
                let script = format!(r#"sleep {}; exec "$0" "$@""#, SLOW.as_secs());
                ("sh".to_owned(), [vec!["-c".to_owned(), script, program], args].concat())
            }
        };
        // On a busy machine some fifty interpreters may need minutes to start.
        let settings = json!({"command": command, "args": args, "env": env, "startup_timeout": "4m"});
        servers.insert(name.to_owned(), settings);
        plan.push(step(&format!("{name}__{tool}"), arguments, expect));
    };
    let node = node().display().to_string();
    let script = |name: &str| npm(&format!("@modelcontextprotocol/server-{name}/dist/index.js"));
    let tools_folder = json!({"TOOLGATE_TOOLS": tools()});
    for (name, tool, arguments) in apps() {
        add(
            name,
            node.clone(),
            vec![script(name), "--stdio".into()],
            tools_folder.clone(),
            tool,
            arguments,
            "",
        );
    }
    let of_node = [
        ("everything", vec!["stdio".to_owned()], "echo", json!({"message": "hi"}), "Echo: hi"),
        ("filesystem", vec![path("")], "list_allowed_directories", json!({}), "Allowed directories"),
        ("memory", vec![], "read_graph", json!({}), "entities"),
        (
            "sequential-thinking",
            vec![],
            "sequentialthinking",
            json!({"thought": "a", "thoughtNumber": 1, "totalThoughts": 1, "nextThoughtNeeded": false}),
            "thoughtNumber",
        ),
        // Version 2024-11-05, the first. Its check before it uses the network.
        ("github", vec![], "search_repositories", json!({}), "Invalid input"),
    ];
    for (name, args, tool, arguments, expect) in of_node {
        let args = [vec![script(name)], args].concat();
        let env = json!({"TOOLGATE_TOOLS": tools(), "MEMORY_FILE_PATH": path("memory.jsonl")});
        add(name, node.clone(), args, env, tool, arguments, expect);
    }
    let bin = |name: &str| tools().join("venv/bin").join(name).display().to_string();
    let repository = repository.display().to_string();
    let clock = vec!["--local-timezone".to_owned(), "UTC".to_owned()];
    let git = vec!["--repository".to_owned(), repository.clone()];
    let nothing = json!({"url": "http://127.0.0.1:9/"});
    add(
        "time",
        bin("mcp-server-time"),
        clock,
        json!({}),
        "get_current_time",
        json!({"timezone": "UTC"}),
        "UTC",
    );
    add(
        "git",
        bin("mcp-server-git"),
        git,
        json!({}),
        "git_status",
        json!({"repo_path": repository}),
        "branch",
    );
    // It needs no network there, and reports it.
    add(
        "fetch",
        bin("mcp-server-fetch"),
        vec!["--ignore-robots-txt".into()],
        json!({}),
        "fetch",
        nothing,
        "public address",
    );
    (servers, plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_five_real_servers_connect_and_are_used_though_three_start_slowly() {
    let folder = tempfile::tempdir().expect("a folder");
    let (servers, plan) = servers(folder.path());
    let names: Vec<String> = servers.keys().cloned().collect();
    assert_eq!((names.len(), plan.len()), (25, 25));
    let config = format!("mcpServers: {}\nlog: {{level: debug}}\n", Value::from(servers));
    let begun = Instant::now();
    let gateway = Gateway::start(&config).await;
    let listening = begun.elapsed();
    let up = async |gateway: &Gateway| {
        let metrics = gateway.get("/metrics").await;
        let is_up =
            |name: &&String| !metrics.contains(&format!("toolgate_upstream_up{{server=\"{name}\"}} 1\n"));
        names.iter().filter(is_up).cloned().collect::<Vec<_>>()
    };
    let mut missing = names.clone();
    let mut quick = None;
    while !missing.is_empty() {
        assert!(begun.elapsed() < MAX_WAIT, "not connected: {missing:?}\n{}", gateway.process.story());
        tokio::time::sleep(Duration::from_millis(50)).await;
        missing = up(&gateway).await;
        if quick.is_none() && missing.iter().all(|name| SLOW_ONES.contains(&name.as_str())) {
            quick = Some(begun.elapsed());
        }
    }
    let all = begun.elapsed();
    assert!(all >= SLOW, "the slow ones are not slow: {all:?}");
    // The metric says that it is up before its line is written.
    let connected = |log: &str| log.matches("\"server connected\"").count();
    gateway.eventually("all say so", async |g| connected(&g.process.output()) == names.len()).await;
    // None was given up, none was restarted (one process for each era is right), none of their entries is
    // dropped.
    let log = gateway.process.output();
    for message in ["server is not connected", "server is down", "clients could not read"] {
        let line = log.lines().find(|line| line.contains(message));
        assert_eq!(line, None, "{message}");
    }
    let starts = |log: &str, name: &str| {
        let started = log.lines().filter(|line| line.contains("\"the process has started\""));
        started.filter(|line| line.contains(&format!("\"server\":\"{name}\""))).count()
    };
    let started: Vec<usize> = names.iter().map(|name| starts(&log, name)).collect();
    assert!(started.iter().all(|count| (1..=2).contains(count)), "{names:?}: {started:?}");
    let ran = [
        (Sdk::Python, "legacy"),
        (Sdk::TypeScript, "legacy"),
        (Sdk::Python, "2026-07-28"),
        (Sdk::TypeScript, "modern"),
    ];
    let session = gateway.initialize("/mcp").await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    gateway
        .eventually("the dual-era servers of PyPI are listed in both", async |g| {
            let (_, modern) = g.modern("/mcp", "tools/list", json!({})).await;
            let (_, legacy) = g.say("/mcp", &session, &list).await;
            let (modern, legacy) = (modern.to_string(), legacy.to_string());
            ["fetch__", "git__", "time__"].iter().all(|name| modern.contains(name) && legacy.contains(name))
        })
        .await;
    let (_, legacy) = gateway.say("/mcp", &session, &list).await;
    let (_, modern) = gateway.modern("/mcp", "tools/list", json!({})).await;
    let url = gateway.url("/mcp");
    let runs = ran.map(|(sdk, mode)| {
        let listed = if mode == "legacy" { &legacy } else { &modern };
        let listed: Vec<&Value> =
            listed["result"]["tools"].as_array().expect("a list").iter().map(|tool| &tool["name"]).collect();
        let mut plan = plan.clone();
        plan.retain(|step| listed.contains(&&step["tool"]));
        assert!(mode != "legacy" || plan.len() == 25, "some server lists nothing: {listed:?}");
        let (url, tools) = (&url, Value::from(listed.into_iter().cloned().collect::<Vec<_>>()));
        async move { (run(sdk, url, mode, &plan).await, plan.len(), tools) }
    });
    let mut calls = Vec::new();
    for (ran, planned, tools) in futures::future::join_all(runs).await {
        assert!(ran.ok && ran.bad().is_empty() && ran.calls.len() == planned, "{}", ran.output);
        assert_eq!(ran.seen["tools"], tools, "{}", ran.output);
        calls.push(planned);
    }
    let log = gateway.process.output();
    let again: Vec<usize> = names.iter().map(|name| starts(&log, name)).collect();
    assert_eq!((connected(&log), again), (names.len(), started), "one was restarted while it was used");
    println!(
        "25 servers: listening after {listening:.1?}, 22 of them up after {:.1?}, all after {all:.1?}; {} tools in the legacy era, {} in the modern one; {calls:?} calls by the four clients; {:.1?} in all",
        quick.unwrap_or(all),
        legacy["result"]["tools"].as_array().map_or(0, Vec::len),
        modern["result"]["tools"].as_array().map_or(0, Vec::len),
        begun.elapsed(),
    );
}
