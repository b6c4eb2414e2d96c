//! Servers that start slowly: what clients and operators see meanwhile, and that they are ready in the end,
//! in each era that they speak, without a second start.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::events::Events;
use crate::harness::{Gateway, TEST_TIMEOUT, legacy_call, python, read, root};
use crate::mock_server::{MockReply, MockServer, answer};
use crate::process;

/// The fixture, behind a gate: each process appends a line to `starts` and waits until there is a file
/// `go`.
fn gated(folder: &Path) -> Value {
    let script = format!(
        "echo $$ >> {0}/starts; until [ -e {0}/go ]; do sleep 0.05; done; exec {1} {2} --stdio",
        folder.display(),
        python().display(),
        root().join("tests/fixture/server.py").display()
    );
    json!({"command": "sh", "args": ["-c", script]})
}

fn starts(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("starts")).map_or(0, |text| text.lines().count())
}

fn open(folder: &Path) {
    std::fs::write(folder.join("go"), "").expect("the gate opens");
}

fn shows(list: &Value, tool: &str) -> bool {
    list["result"]["tools"].as_array().is_some_and(|tools| tools.iter().any(|listed| listed["name"] == tool))
}

async fn modern_shows(gateway: &Gateway, tool: &str) -> bool {
    shows(&gateway.modern("/mcp", "tools/list", json!({})).await.1, tool)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_process_of_both_eras_is_started_once_in_each_and_missed_by_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let servers = json!({"slow": gated(folder.path()), "demo": {"builtin": "demo"}});
    let mut gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    gateway.process.wait_for("some servers are still starting");
    let ready: Value = serde_json::from_str(&gateway.get("/ready").await).expect("JSON");
    assert_eq!((&ready["ready"], &ready["starting"]), (&json!(true), &json!(["slow"])), "{ready}");
    gateway.eventually("both processes start", async |_| starts(folder.path()) == 2).await;

    // Ready servers can be used, and calls of the others report why not.
    assert!(modern_shows(&gateway, "demo__echo").await);
    assert!(!modern_shows(&gateway, "slow__echo").await);
    let request = json!({"name": "slow__echo", "arguments": {"message": "hi"}});
    for path in ["/mcp", "/servers/slow/mcp"] {
        let call = gateway.modern_request(path, "tools/call", request.clone());
        let response = call.send().await.expect("an answer");
        let wait = response.headers().get("retry-after").cloned();
        let (status, answer) = read(response).await;
        assert_eq!((status, &answer["error"]["code"]), (503, &json!(503)), "{answer}");
        assert_eq!(answer["error"]["data"]["server"], "slow", "{answer}");
        assert_eq!(wait.as_ref().map(|wait| wait.as_bytes()), Some(&b"2"[..]));
        assert!(
            answer["error"]["message"].as_str().is_some_and(|m| m.contains("still starting")),
            "{answer}"
        );
    }
    let (status, answer) = gateway.call("demo__nothing", json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)), "{answer}");
    let session = gateway.initialize("/mcp").await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;

    open(folder.path());
    gateway.eventually("it is there in the modern era", async |g| modern_shows(g, "slow__echo").await).await;
    let (status, answer) = gateway.call("slow__echo", json!({"message": "hi"})).await;
    assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("hi")), "{answer}");
    let changed = json!("notifications/tools/list_changed");
    let output = async {
        loop {
            let note = stream.next().await.expect("the stream goes on");
            let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
            if note["method"] == changed && shows(&gateway.say("/mcp", &session, &list).await.1, "slow__echo")
            {
                return;
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, output).await.expect("clients are told");
    assert_eq!(starts(folder.path()), 2, "nothing was restarted on the way");
    // One process serves both eras.
    let running = || process::children_running(gateway.process.id(), "server.py --stdio").len();
    gateway.eventually("one of the two ends", async |_| running() == 1).await;
    let call = legacy_call(7, "slow__echo", json!({"message": "old"}));
    let (status, answer) = gateway.say("/mcp", &session, &call).await;
    assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("old")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_both_eras_runs_once_and_without_a_bridge_in_each() {
    for (bridge, processes) in [("auto", 1), ("off", 2)] {
        let folder = tempfile::tempdir().expect("a folder");
        open(folder.path());
        let mut server = gated(folder.path());
        server["bridge"] = json!(bridge);
        let gateway = Gateway::start(&format!("mcpServers: {}\n", json!({"quick": server}))).await;
        gateway.eventually("it is there", async |g| modern_shows(g, "quick__echo").await).await;
        let session = gateway.initialize("/mcp").await;
        let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
        let shown = async |g: &Gateway| shows(&g.say("/mcp", &session, &list).await.1, "quick__echo");
        gateway.eventually("in the legacy era too", shown).await;
        let running = || process::children_running(gateway.process.id(), "server.py --stdio").len();
        gateway.eventually("so many processes", async |_| running() == processes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_while_all_servers_start_is_told_when_they_are_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let servers = json!({"slow": gated(folder.path())});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    // Whatever era its server turns out to speak, this client can use it.
    let (status, answer) = gateway.modern("/mcp", "server/discover", json!({})).await;
    assert_eq!(
        (status, &answer["result"]["capabilities"]["tools"]["listChanged"]),
        (200, &json!(true)),
        "{answer}"
    );
    let response = gateway.post("/mcp", None, &crate::harness::initialize(json!({}))).send().await;
    let response = response.expect("an answer");
    let session = response.headers()["mcp-session-id"].to_str().expect("ASCII").to_owned();
    let (_, discovered) = read(response).await;
    for list in ["tools", "prompts", "resources"] {
        assert_eq!(discovered["result"]["capabilities"][list]["listChanged"], true, "{discovered}");
    }
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;
    open(folder.path());
    let output = tokio::time::timeout(TEST_TIMEOUT, stream.next()).await.expect("clients are told");
    assert!(output.is_some_and(|note| note["method"].as_str().is_some_and(|m| m.ends_with("list_changed"))));
    gateway.eventually("its tools are there", async |g| modern_shows(g, "slow__echo").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_both_eras_does_not_choose_before_a_server_without_a_bridge_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut slow = gated(folder.path());
    slow["bridge"] = json!("off");
    let gateway = Gateway::start(&format!("mcpServers: {}\n", json!({"slow": slow}))).await;
    let (status, answer) = gateway.modern("/mcp", "server/discover", json!({})).await;
    assert_eq!((status, &answer["error"]["data"]["server"]), (503, &json!("slow")), "{answer}");
    open(folder.path());
    gateway.eventually("its tools are there", async |g| modern_shows(g, "slow__echo").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_wait_for_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = json!({"mcpServers": {"slow": gated(folder.path())}});
    std::fs::write(folder.path().join("toolgate.yaml"), config.to_string()).expect("the file is written");
    let mut command = tokio::process::Command::from(Gateway::command(folder.path(), &["tools"]));
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    let child = child.expect("it starts");
    let both = async {
        while starts(folder.path()) < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, both).await.expect("it is asked in both eras");
    open(folder.path());
    let output = child.wait_with_output().await.expect("it ends");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let echo = out.lines().find(|line| line.starts_with("slow__echo ")).expect("the tool is listed");
    assert!(echo.contains("modern"), "{out}{err}");
    assert_eq!(starts(folder.path()), 2);
}

#[tokio::test]
async fn a_server_over_http_that_hangs_in_one_era_is_asked_in_the_other_and_heard_when_it_answers() {
    let (say, late) = tokio::sync::mpsc::unbounded_channel();
    let late = std::sync::Mutex::new(Some(late));
    let mock = MockServer::start(move |seen| match seen.method() {
        "server/discover" => match late.lock().expect("nobody panics with it").take() {
            Some(late) => MockReply::Pour(late),
            None => MockReply::Good,
        },
        _ => MockReply::Good,
    })
    .await;
    let gateway =
        Gateway::start(&format!("mcpServers: {{p: {{url: \"{}\", bridge: off}}}}\n", mock.url)).await;
    gateway.eventually("it is asked in the other era", async |_| mock.count("initialize") > 0).await;
    let session = gateway.initialize("/mcp").await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let there = async |g: &Gateway| shows(&g.say("/mcp", &session, &list).await.1, "p__tool");
    gateway.eventually("it is there for old clients", there).await;
    assert!(!modern_shows(&gateway, "p__tool").await);
    assert_eq!(mock.count("server/discover"), 1);

    let asked = mock.all().into_iter().find(|seen| seen.method() == "server/discover").expect("it was asked");
    let hello = json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
        "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
    say.send(format!("data: {}\n\n", answer(&asked, &hello)).into_bytes()).expect("it is waited for");
    gateway.eventually("a late answer counts", async |g| modern_shows(g, "p__tool").await).await;
}

/// A server of both eras whose settings a reload changes is called over the old connection until the new
/// one has answered in each known era. So no client is told that the server does not speak its era.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_reload_no_client_loses_its_era_for_a_moment() {
    let (say, late) = tokio::sync::mpsc::unbounded_channel();
    let late = std::sync::Mutex::new(Some(late));
    let mock = MockServer::start(move |seen| match (seen.method(), seen.header("x-new")) {
        ("server/discover", Some(_)) => match late.lock().expect("nobody panics with it").take() {
            Some(late) => MockReply::Pour(late),
            None => MockReply::Good,
        },
        _ => MockReply::Good,
    })
    .await;
    let up =
        |headers: &str| format!("mcpServers: {{p: {{url: \"{}\", headers: {{{headers}}}}}}}\n", mock.url);
    let gateway = Gateway::start(&up("")).await;
    let session = gateway.initialize("/mcp").await;
    let legacy = crate::harness::legacy_call(1, "p__tool", json!({}));
    gateway.eventually("it is there in one era", async |g| g.call("p__tool", json!({})).await.0 == 200).await;
    let both = async |g: &Gateway| g.say("/mcp", &session, &legacy).await.1["result"].is_object();
    gateway.eventually("it is there in both", both).await;

    gateway.rewrite(&up("X-New: \"1\""));
    let new = |method: &str| {
        mock.all().iter().any(|seen| seen.method() == method && seen.header("x-new").is_some())
    };
    // The new connection has answered in the legacy era, and its lists are read; in the modern one it has
    // not.
    let listed = async |g: &Gateway| {
        let (status, answer) = g.call("p__tool", json!({})).await;
        assert_eq!(status, 200, "{answer}");
        new("tools/list")
    };
    gateway.eventually("its lists are read anew", listed).await;
    for _ in 0..50 {
        for (status, answer) in
            [gateway.call("p__tool", json!({})).await, gateway.say("/mcp", &session, &legacy).await]
        {
            assert_eq!(status, 200, "{answer}");
            assert!(answer["result"].is_object(), "{answer}");
        }
        assert!(modern_shows(&gateway, "p__tool").await);
    }
    assert!(!new("tools/call"), "the one before is called");

    let asked = mock.all();
    let asked =
        asked.iter().find(|seen| seen.method() == "server/discover" && seen.header("x-new").is_some());
    let hello = json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
        "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
    let hello = answer(asked.expect("it was asked"), &hello);
    say.send(format!("data: {hello}\n\n").into_bytes()).expect("it is waited for");
    let called = async |g: &Gateway| {
        let (status, answer) = g.call("p__tool", json!({})).await;
        assert_eq!(status, 200, "{answer}");
        new("tools/call")
    };
    gateway.eventually("the new connection is called", called).await;
    assert!(gateway.say("/mcp", &session, &legacy).await.1["result"].is_object());
}
