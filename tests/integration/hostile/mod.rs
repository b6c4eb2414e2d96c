//! Servers with a valid handshake that then misbehave: each failure becomes one clear response, in time,
//! and no other server is affected.

mod answers;
mod heads;
mod lists;
mod load;
mod sessions;
mod streams;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::Gateway;
use crate::mock_server::{self, MockReply, MockServer, RecordedRequest};
use crate::raw::{Answer, Client, Head};

/// Longer than the `timeout` of every server here, and far shorter than any default.
const SOON: Duration = Duration::from_secs(30);

/// A tool and what its server does when it is called.
type Trick = (&'static str, fn(&RecordedRequest) -> MockReply);

struct HostileSetup {
    gateway: Gateway,
    bad: MockServer,
    _good: MockServer,
}

/// A gateway in front of the server `bad`, which has these tools beside a valid one, and the server `good`.
/// `settings` are further settings of `bad`.
async fn setup(tricks: Vec<Trick>, settings: &str) -> HostileSetup {
    let play = listing(tricks);
    setup_with(play, settings).await
}

/// The behavior of a server with these tools.
fn listing(tricks: Vec<Trick>) -> impl Fn(&RecordedRequest) -> MockReply + Send + Sync + 'static {
    let names: Vec<&str> = std::iter::once("tool").chain(tricks.iter().map(|(name, _)| *name)).collect();
    let list = mock_server::tools(&names);
    move |seen| match seen.method() {
        "tools/list" => MockReply::Say(mock_server::json_answer(&mock_server::answer(seen, &list))),
        "tools/call" => {
            tricks.iter().find(|(name, _)| *name == seen.tool()).map_or(MockReply::Good, |(_, act)| act(seen))
        }
        _ => MockReply::Good,
    }
}

/// The gateway with a server of any behavior.
async fn setup_with(
    play: impl Fn(&RecordedRequest) -> MockReply + Send + Sync + 'static,
    settings: &str,
) -> HostileSetup {
    let bad = MockServer::start(play).await;
    let good = MockServer::start(|_| MockReply::Good).await;
    let config = format!(
        "mcpServers: {{bad: {{url: \"{}\", health: {{interval: 1h}}{settings}}}, good: {{url: \"{}\"}}}}\n",
        bad.url, good.url
    );
    HostileSetup { gateway: Gateway::start(&config).await, bad, _good: good }
}

/// The head and the body of a call, modern without a session and legacy with one.
fn call(tool: &str, session: Option<&str>) -> (Head, Vec<u8>) {
    let mut params = json!({"name": tool, "arguments": {}});
    let head = match session {
        None => {
            params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {}});
            Head::modern("/mcp", "tools/call", Some(tool))
        }
        Some(id) => Head::post("/mcp").with("Mcp-Session-Id", id).with("MCP-Protocol-Version", "2025-11-25"),
    };
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    (head, body.to_string().into_bytes())
}

/// The two paths of a call: streamed by Pingora, or sent by the gateway's own client, if its body is long
/// and of unknown length.
fn ways((head, body): &(Head, Vec<u8>)) -> [Vec<u8>; 2] {
    [head.whole(body), head.chunked(&[body.as_slice(), &[b' '; 100_000]].concat(), 50_000)]
}

/// Calls a tool over a connection of its own.
async fn ask(gateway: &Gateway, tool: &str, session: Option<&str>) -> Option<Answer> {
    let (head, body) = call(tool, session);
    Client::connect(gateway.port).await.exchange(&head.whole(&body)).await
}

/// How much of the response's head was on its way to the client at the failure.
#[derive(Clone, Copy)]
enum Status {
    /// Nothing: the status is the code.
    Free,
    /// Maybe the status 200; the code is still in the message.
    Maybe200,
}

/// What is wrong with a response that should be the gateway's own, for a failure of `bad`.
fn judge(answer: &Answer, code: i64, status: Status) -> Result<(), String> {
    let message = answer.message();
    let error = &message["error"];
    let leaks = ["www-authenticate", "set-cookie", "mcp-session-id", "content-encoding", "location"];
    let fits = i64::from(answer.status) == code || matches!(status, Status::Maybe200) && answer.status == 200;
    if !fits || error["code"] != code || !answer.whole {
        return Err(format!("expected {code}: {} {message} whole: {}", answer.status, answer.whole));
    }
    if message["id"] != 7 || error["data"]["server"] != "bad" || !error["message"].is_string() {
        return Err(format!("expected the id and the server: {message}"));
    }
    match leaks.iter().find(|name| answer.header(name).is_some()) {
        Some(name) => Err(format!("{name} of the server came through")),
        None => Ok(()),
    }
}

/// Plays every trick in both eras, checks the responses, and checks that the servers still work.
async fn play(setup: &HostileSetup, tricks: &[Trick], code: i64, status: Status) {
    let session = setup.gateway.initialize("/mcp").await;
    let mut wrong = Vec::new();
    for session in [None, Some(session.as_str())] {
        for (name, _) in tricks {
            for (way, request) in ways(&call(&format!("bad__{name}"), session)).iter().enumerate() {
                let start = Instant::now();
                let judged = match Client::connect(setup.gateway.port).await.exchange(request).await {
                    Some(answer) => judge(&answer, code, status),
                    None => Err("no answer".into()),
                };
                let took = start.elapsed();
                let late = if took < SOON { Ok(()) } else { Err(format!("answered after {took:?}")) };
                if let Err(why) = judged.and(late) {
                    wrong.push(format!("{name} in {session:?} by way {way}: {why}"));
                }
            }
            works(&setup.gateway, "good__tool", session).await;
            works(&setup.gateway, "bad__tool", session).await;
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Checks that a tool answers.
async fn works(gateway: &Gateway, tool: &str, session: Option<&str>) {
    let answer = ask(gateway, tool, session).await.expect("an answer");
    assert_eq!(text(&answer), "done", "{tool}: {} {}", answer.status, answer.message());
}

fn text(answer: &Answer) -> Value {
    answer.message()["result"]["content"][0]["text"].clone()
}
