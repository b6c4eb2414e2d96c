//! `isolation: session`: a process of a stdio server for each session, which may ask its client.

use serde_json::{Value, json};

use crate::clients::{Sdk, run, step};
use crate::harness::{Gateway, legacy_call, read, stdio_fixture};

/// A gateway whose processes carry this mark in their environment.
async fn gateway(mark: &str, more: Value) -> Gateway {
    let mut own = stdio_fixture();
    own["isolation"] = json!("session");
    own["env"] = json!({"MARK": mark});
    own.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let servers = json!({"own": own, "demo": {"builtin": "demo"}});
    Gateway::start(&format!("mcpServers: {servers}\n")).await
}

/// How many processes carry the mark.
fn processes(mark: &str) -> usize {
    let mark = format!("MARK={mark}");
    let all = std::fs::read_dir("/proc").expect("Linux").flatten();
    let environments = all.filter_map(|process| std::fs::read(process.path().join("environ")).ok());
    environments.filter(|text| text.split(|byte| *byte == 0).any(|one| one == mark.as_bytes())).count()
}

async fn counted(gateway: &Gateway, session: &str, add: u64) -> String {
    let call = legacy_call(1, "own__counter", json!({"name": "mine", "add": add}));
    let (status, answer) = gateway.say("/mcp", session, &call).await;
    assert_eq!(status, 200, "{answer}");
    answer["result"]["content"][0]["text"].as_str().expect("a text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_sdks_and_eras_are_asked_by_their_process() {
    let gateway = gateway("asks", json!({})).await;
    let plan = [
        step("own__echo", json!({"message": "grüße"}), "grüße"),
        step("own__test_sampling", json!({"prompt": "x"}), "a sampled answer"),
        step("own__test_elicitation", json!({"message": "who?"}), "action=accept"),
        step("own__test_input_required_result_list_roots", json!({}), "file:///root"),
        step("own__test_input_required_result_multiple_inputs", json!({}), "of 1 roots"),
        step("own__test_tool_with_progress", json!({}), "Reported progress"),
        step("own__fail_tool", json!({}), "fail_tool fails"),
    ];
    for sdk in [Sdk::Python, Sdk::TypeScript] {
        for mode in ["legacy", "2026-07-28"] {
            let ran = run(sdk, &gateway.url("/mcp"), mode, &plan).await;
            assert!(
                ran.ok && ran.calls.len() == plan.len(),
                "{sdk:?} {mode}: {:#?}\n{}",
                ran.bad(),
                ran.output
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_has_a_process_which_ends_with_it() {
    let gateway = gateway("one-each", json!({})).await;
    // The gateway's own, which lists the tools.
    let own = processes("one-each");
    assert!(own >= 1);
    let (one, two) = (gateway.initialize("/mcp").await, gateway.initialize("/mcp").await);
    assert_eq!(
        (counted(&gateway, &one, 2).await, counted(&gateway, &one, 3).await),
        ("2".into(), "5".into())
    );
    assert_eq!(counted(&gateway, &two, 1).await, "1", "another process");
    assert_eq!(processes("one-each"), 3 * own);
    let ended = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &one).send().await;
    assert!(ended.expect("an answer").status().is_success());
    gateway.eventually("its process ends", async |_| processes("one-each") == 2 * own).await;
    assert_eq!(counted(&gateway, &two, 1).await, "2", "the other stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_costs_its_session_one_call() {
    let gateway = gateway("ends", json!({})).await;
    let (one, two) = (gateway.initialize("/mcp").await, gateway.initialize("/mcp").await);
    assert_eq!(counted(&gateway, &one, 4).await, "4");
    assert_eq!(counted(&gateway, &two, 7).await, "7");
    let (_, broken) = gateway.say("/mcp", &one, &legacy_call(2, "own__crash", json!({}))).await;
    let words = broken["error"]["message"].as_str().expect("an error");
    assert!(words.contains("has ended"), "{broken}");
    // A new process with a new count.
    assert_eq!(counted(&gateway, &one, 1).await, "1");
    assert_eq!(counted(&gateway, &two, 1).await, "8");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_started_is_told_and_the_port_is_for_the_gateway_alone() {
    let gateway = gateway("none", json!({"command": "no-such-program"})).await;
    let ready = gateway.get("/health").await;
    gateway
        .eventually("the reason", async |gateway| {
            gateway.process.output().contains("the program `no-such-program` is not on PATH")
        })
        .await;
    drop(ready);
    // Ports of this machine on which the gateway listens: all but its own refuse strangers.
    let pid = gateway.process.id();
    let ports = listening(pid);
    assert!(ports.len() >= 2, "{ports:?}");
    let public: u16 = gateway
        .url("")
        .rsplit(':')
        .next()
        .and_then(|port| port.trim_end_matches('/').parse().ok())
        .expect("a port");
    for port in ports.into_iter().filter(|port| *port != public) {
        let url = format!("http://127.0.0.1:{port}/mcp");
        for secret in ["", "0123456789abcdef0123456789abcdef"] {
            let request = gateway.http.post(&url).header("x-toolgate-adapter", secret);
            let (status, _) = read(request.body("{}").send().await.expect("an answer")).await;
            assert_eq!(status, 403);
        }
    }
}

/// The TCP ports on which a process listens (proc(5), `/proc/net/tcp`).
fn listening(pid: u32) -> Vec<u16> {
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("its descriptors")
        .flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = *fields.get(3)? == "0A" && sockets.iter().any(|inode| inode == fields[9]);
            listens.then(|| u16::from_str_radix(fields[1].rsplit(':').next()?, 16).ok())?
        })
        .collect()
}
