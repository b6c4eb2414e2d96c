//! Servers over HTTP+SSE (2024-11-05): those of the Python and of the TypeScript SDK.

use std::process::Command;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::clients::{Sdk, run, step};
use crate::harness::{Gateway, Process, free_port, legacy_call, python, root};
use crate::real_servers_setup::everything_over;

fn python_server(port: u16) -> Process {
    let mut command = Command::new(python());
    command.arg(root().join("tests/fixture/sse.py")).args(["--port", &port.to_string()]);
    let mut process = Process::start(&mut command);
    process.wait_for("sse listening on");
    process
}

fn typescript_server(port: u16) -> Process {
    everything_over("sse", port)
}

fn servers(all: &[(&str, u16)]) -> String {
    let all = all.iter().map(|(name, port)| {
        let url = format!("http://127.0.0.1:{port}/sse");
        ((*name).to_owned(), json!({"type": "sse", "url": url, "health": {"interval": "100ms"}}))
    });
    format!("mcpServers: {}\n", Value::Object(all.collect()))
}

async fn is_up(gateway: &Gateway, server: &str, up: bool) {
    let metric = format!("toolgate_upstream_up{{server=\"{server}\"}}");
    let value = f64::from(u8::from(up));
    gateway.eventually(&format!("{metric} {value}"), async |g| g.has_metric(&metric, value).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_rejects_post_is_asked_for_the_older_transport() {
    let ports = [free_port(), free_port()];
    let (_python, typescript) = (python_server(ports[0]), typescript_server(ports[1]));
    let url = |port: u16| format!("http://127.0.0.1:{port}/sse");
    // As people paste them: without `type`, or with one that is not right.
    let servers = json!({"py": {"url": url(ports[0])},
        "ts": {"type": "http", "url": url(ports[1]), "health": {"interval": "100ms"}}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    is_up(&gateway, "py", true).await;
    is_up(&gateway, "ts", true).await;
    let (status, answer) = gateway.call("py__add", json!({"a": 2, "b": 3})).await;
    assert!(status == 200 && answer["result"]["content"][0]["text"] == "5", "{answer}");
    let plan = [
        step("ts__echo", json!({"message": "hi"}), "Echo: hi"),
        step("py__add", json!({"a": 1, "b": 3}), "4"),
    ];
    let ran = run(Sdk::TypeScript, &gateway.url("/mcp"), "legacy", &plan).await;
    assert!(ran.ok && ran.calls.len() == plan.len(), "{}", ran.output);
    let output = gateway.process.output();
    assert_eq!(output.matches("it has the older transport HTTP+SSE").count(), 2, "{output}");
    // It comes back as what it was.
    drop(typescript);
    is_up(&gateway, "ts", false).await;
    let _typescript = typescript_server(ports[1]);
    is_up(&gateway, "ts", true).await;
    gateway
        .eventually("it answers again", async |gateway| {
            gateway.call("ts__echo", json!({"message": "again"})).await.1["result"]["content"][0]["text"]
                == "Echo: again"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_eras_call_the_tools_of_sse_servers_of_both_sdks() {
    let ports = [free_port(), free_port()];
    let (_python, _typescript) = (python_server(ports[0]), typescript_server(ports[1]));
    let gateway = Gateway::start(&servers(&[("py", ports[0]), ("ts", ports[1])])).await;
    is_up(&gateway, "py", true).await;
    is_up(&gateway, "ts", true).await;
    let plan = [
        step("py__add", json!({"a": 2, "b": 3}), "5"),
        step("py__steps", json!({"count": 3}), "3 steps"),
        // One connection serves all callers, so the server has no client to ask.
        step("py__roots", json!({}), "refused: "),
        step("py__fails", json!({}), "Error executing tool fails"),
        step("ts__echo", json!({"message": "hi"}), "Echo: hi"),
        step("ts__get-sum", json!({"a": 2, "b": 3}), "The sum of 2 and 3 is 5"),
    ];
    let url = gateway.url("/mcp");
    let modes = [
        (Sdk::Python, "legacy", "2025-11-25"),
        (Sdk::Python, "auto", "2026-07-28"),
        (Sdk::TypeScript, "legacy", "2025-11-25"),
        (Sdk::TypeScript, "modern", "2026-07-28"),
    ];
    for (sdk, mode, version) in modes {
        let ran = run(sdk, &url, mode, &plan).await;
        assert_eq!(ran.seen["negotiated"], version, "{}", ran.output);
        assert!(ran.ok && ran.calls.len() == plan.len(), "{}", ran.output);
        let resources = ran.seen["resources"].as_array().expect("a list");
        assert!(resources.iter().any(|uri| uri == "sse://info"), "{}", ran.output);
    }
    let (status, answer) = gateway.call("py__add", json!({"a": 2, "b": 3})).await;
    assert!(status == 200 && answer["result"]["resultType"] == "complete", "{answer}");
    let session = gateway.initialize("/mcp").await;
    let mut call = legacy_call(7, "py__steps", json!({"count": 2}));
    call["params"]["_meta"] = json!({"progressToken": "mine"});
    let response = gateway.post("/mcp", Some(&session), &call).send().await.expect("an answer");
    let text = response.text().await.expect("a stream");
    let of_mine = text.matches(r#""progressToken":"mine""#).count();
    assert!(of_mine == 2 && text.contains("2 steps"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sse_server_that_was_killed_is_connected_again() {
    let port = free_port();
    let mut server = python_server(port);
    let gateway = Gateway::start(&servers(&[("py", port)])).await;
    is_up(&gateway, "py", true).await;
    let session = gateway.initialize("/mcp").await;
    let call = legacy_call(1, "py__add", json!({"a": 2, "b": 3}));
    let (_, answer) = gateway.say("/mcp", &session, &call).await;
    assert_eq!(answer["result"]["content"][0]["text"], "5", "{answer}");
    server.kill();
    is_up(&gateway, "py", false).await;
    let (status, answer) = gateway.say("/mcp", &session, &call).await;
    let text = answer.to_string();
    assert!(text.contains("`py` is not reachable now"), "{status} {text}");
    let _server = python_server(port);
    is_up(&gateway, "py", true).await;
    let (_, answer) = gateway.say("/mcp", &session, &call).await;
    assert_eq!(answer["result"]["content"][0]["text"], "5", "the same session: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_origin_gets_nothing_and_the_log_says_so() {
    let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let elsewhere = other.local_addr().expect("an address");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let text = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
                 event: endpoint\ndata: http://{elsewhere}/messages\n\n"
            );
            let _ = stream.write_all(text.as_bytes()).await;
            open.push(stream);
        }
    });
    let gateway = Gateway::start(&servers(&[("bad", port)])).await;
    let named = format!("its `endpoint` event names another origin (http://{elsewhere})");
    gateway.eventually("the log names the origin", async |g| g.process.story().contains(&named)).await;
    is_up(&gateway, "bad", false).await;
    assert!(futures::poll!(std::pin::pin!(other.accept())).is_pending(), "something was sent there");
}
