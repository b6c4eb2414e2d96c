//! Dead connections are detected, and release what they held.

use serde_json::json;

use super::call;
use crate::harness::{Gateway, Process};
use crate::mock_server::{MockReply, MockServer};
use crate::process;
use crate::raw::Client;

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_asked_whether_they_are_there() {
    let mock = MockServer::start(|seen| match seen.tool() {
        "tool" => MockReply::Hang(Vec::new()),
        _ => MockReply::Good,
    })
    .await;
    let server: u16 = mock.url.split([':', '/']).find_map(|part| part.parse().ok()).expect("a port");
    let gateway = Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\"}}}}\n", mock.url)).await;
    let (head, body) = call("up__tool", &json!({}));
    let mut client = Client::connect(gateway.port).await;
    assert!(client.send(&head.whole(&body)).await);
    gateway.eventually("the call reaches the server", async |_| mock.calls().len() == 1).await;
    gateway.eventually("the client is watched", async |g| process::is_watched(g.port, 0)).await;
    gateway.eventually("the server is watched", async |_| process::is_watched(0, server)).await;
    drop(client);

    // With a socket that another process made, too.
    let socket = gateway.folder.path().join(format!("127.0.0.1:{}.sock", gateway.port));
    gateway.eventually("a successor can ask", async |_| socket.exists()).await;
    let mut next = Process::start(&mut Gateway::command(gateway.folder.path(), &["run", "--upgrade"]));
    let next = tokio::task::spawn_blocking(move || {
        next.wait_for("took over from the gateway that ran before");
        next
    });
    let _next = next.await.expect("the successor serves");
    gateway.eventually("the old one has ended", async |g| !process::runs(g.process.id())).await;
    let _client = Client::connect(gateway.port).await;
    gateway.eventually("the client is watched", async |g| process::is_watched(g.port, 0)).await;
}
