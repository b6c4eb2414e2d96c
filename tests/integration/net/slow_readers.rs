//! Clients that read their responses slowly or not at all.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::{ask, call};
use crate::harness::Gateway;
use crate::mock_server::{self, MockReply, MockServer};

const MIB: usize = 1024 * 1024;

/// Begins a call whose response is read slowly: little is buffered in the client's own system.
async fn begin(port: u16, tool: &str, arguments: &serde_json::Value) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("a socket has the option");
    let address = ([127, 0, 0, 1], port).into();
    let mut stream = socket.connect(address).await.expect("the gateway listens");
    let (head, body) = call(tool, arguments);
    stream.write_all(&head.with("Connection", "close").whole(&body)).await.expect("it is taken");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_its_time_is_no_fault_of_its_server() {
    let result =
        json!({"content": [{"type": "text", "text": "x".repeat(24 * MIB)}], "resultType": "complete"});
    let mock =
        MockServer::start(move |seen| match (seen.tool(), seen.body["params"]["arguments"].get("big")) {
            ("tool", Some(_)) => {
                MockReply::Say(mock_server::json_answer(&mock_server::answer(seen, &result)))
            }
            _ => MockReply::Good,
        })
        .await;
    let settings = "timeout: 5s, circuit_breaker: {failures: 1, open_for: 1h}";
    let gateway =
        Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\", {settings}}}}}\n", mock.url)).await;
    let mut stream = begin(gateway.port, "up__tool", &json!({"big": true})).await;
    // Longer than the timeout of a call.
    tokio::time::sleep(Duration::from_millis(5500)).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the answer does not break off");
    assert!(answer.len() > 24 * MIB, "{} bytes\n{}", answer.len(), gateway.process.story());

    // Nor does one that disconnects in the middle of it.
    let mut stream = begin(gateway.port, "up__tool", &json!({"big": true})).await;
    stream.read_exact(&mut [0; 1000]).await.expect("it begins");
    drop(stream);
    let left = |g: &Gateway| g.process.output().contains("\"outcome\":\"client_aborted\"");
    gateway.eventually("it is told as left", async |g| left(g)).await;
    assert_eq!(ask(gateway.port, "up__tool", &json!({})).await.status, 200, "{}", gateway.process.story());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_not_cut_for_one_who_reads_it_steadily() {
    let limits = "limits: {write_timeout: 4s, max_body: 32MiB}";
    let gateway = Gateway::start(&format!("mcpServers: {{demo: {{builtin: demo}}}}\n{limits}\n")).await;
    let mut stream = begin(gateway.port, "demo__echo", &json!({"message": "x".repeat(24 * MIB)})).await;
    let (mut piece, mut got) = (vec![0; MIB], 0);
    loop {
        let read = stream.read(&mut piece).await.expect("the answer does not break off");
        if read == 0 {
            break;
        }
        let before = got / MIB;
        got += read;
        // All of it takes longer than the write timeout.
        if got / MIB > before {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
    assert!(got > 24 * MIB, "{got} bytes\n{}", gateway.process.story());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_leaves_what_the_gateway_answers_itself_is_told_as_left() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\nlimits: {max_body: 32MiB}\n").await;
    let mut stream = begin(gateway.port, "demo__echo", &json!({"message": "x".repeat(24 * MIB)})).await;
    stream.read_exact(&mut [0; 1000]).await.expect("it begins");
    drop(stream);
    let left = |g: &Gateway| g.process.output().contains("\"outcome\":\"client_aborted\"");
    gateway.eventually("it is told as left", async |g| left(g)).await;
    assert!(!gateway.process.output().contains("a call failed"), "{}", gateway.process.story());
}
