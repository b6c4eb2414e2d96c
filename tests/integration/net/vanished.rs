//! What has vanished without a word is found out, and does not hold what it had.

use serde_json::json;

use super::call;
use crate::harness::{Gateway, Process};
use crate::procs;
use crate::puppet::{Act, Puppet};
use crate::raw::Client;

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_asked_whether_they_are_there() {
    let puppet = Puppet::start(|seen| match seen.tool() {
        "tool" => Act::Hang(Vec::new()),
        _ => Act::Good,
    })
    .await;
    let server: u16 = puppet.url.split([':', '/']).find_map(|part| part.parse().ok()).expect("a port");
    let gateway = Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\"}}}}\n", puppet.url)).await;
    let (head, body) = call("up__tool", &json!({}));
    let mut client = Client::connect(gateway.port).await;
    assert!(client.send(&head.whole(&body)).await);
    gateway.eventually("the call reaches the server", async |_| puppet.calls().len() == 1).await;
    gateway.eventually("the client is watched", async |g| procs::is_watched(g.port, 0)).await;
    gateway.eventually("the server is watched", async |_| procs::is_watched(0, server)).await;
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
    gateway.eventually("the old one has ended", async |g| !procs::runs(g.process.id())).await;
    let _client = Client::connect(gateway.port).await;
    gateway.eventually("the client is watched", async |g| procs::is_watched(g.port, 0)).await;
}
