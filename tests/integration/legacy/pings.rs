//! Requests of a server to the gateway itself: ping, and its capabilities.

use serde_json::{Value, json};

use super::{calls, followed, hold, staged};
use crate::events::Events;
use crate::harness::{Gateway, fixture_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_that_pings_keeps_the_gateways_own_session() {
    let start = || fixture_with(&["--era", "legacy", "--ping", "0.2"], 0);
    let (_fixture, url) = tokio::task::spawn_blocking(start).await.expect("it starts");
    let gateway =
        Gateway::start(&format!("mcpServers: {{fix: {{url: \"{url}\", health: {{interval: 1h}}}}}}\n")).await;
    super::lists(&gateway, "fix__echo").await;
    let session = gateway.initialize("/mcp").await;
    let _stream = Events::of_session(&gateway, "/mcp", &session).await;
    let count = async |what: &str| gateway.count(&session, "fix", what).await;
    // In the gateway's own session, and in that of a listening client, which never receives it.
    for who in ["toolgate", "test"] {
        let answered = format!("ping.answered.{who}");
        gateway.eventually("pings are answered", async |_| count(&answered).await >= 5).await;
        assert_eq!(count(&format!("ping.lost.{who}")).await, 0, "{who}");
    }
    assert_eq!((count("roots.refused").await, count("roots.lost").await), (1, 0));
}

fn asks(id: &str, method: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_on_any_stream_is_answered_where_it_was_asked() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let mut listening = Events::of_session(&gateway, "/mcp", &session).await;
    calls(&gateway, &session).await;
    let setup = stage.with(|state| {
        let mut sessions = state.sessions.iter();
        sessions.find(|(_, who)| *who == "toolgate").map(|(id, _)| id.clone()).expect("its own session")
    });
    gateway.eventually("it listens", async |_| stage.stream(&setup).is_some()).await;
    let own = stage.stream(&setup).expect("it listens");
    own.say(&asks("own ping", "ping"));
    own.say(&asks("own roots", "roots/list"));
    own.say(&asks("own question", "elicitation/create"));
    // In a client's sessions the gateway answers only pings.
    followed(&gateway, &stage, 0).await.say(&asks("ping of a stream", "ping"));
    let (mut stream, call) = hold(&gateway, &stage, &session, 1).await;
    call.say(&asks("ping of a call", "ping"));
    call.say(&asks("question", "roots/list"));
    let asked = stream.next().await.expect("a question");
    assert_eq!(asked["method"], "roots/list", "its client is not asked whether it is there: {asked}");
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": []}});
    assert_eq!(gateway.say("/mcp", &session, &answer).await.0, 202);

    let reply = |id: &str| stage.replies().into_iter().find(|seen| seen.body["id"] == id);
    let client = stage.clients().remove(0);
    for (id, session, code) in [
        ("own ping", &setup, None),
        ("own roots", &setup, Some(-32601)),
        ("own question", &setup, Some(-32601)),
        ("ping of a stream", &client, None),
        ("ping of a call", &client, None),
    ] {
        gateway.eventually(id, async |_| reply(id).is_some()).await;
        let seen = reply(id).expect("a reply");
        assert_eq!(seen.header("mcp-session-id"), Some(session.as_str()), "{id}");
        assert_eq!(seen.body["error"]["code"].as_i64(), code, "{id}: {}", seen.body);
        assert_eq!(seen.body.get("result").is_some(), code.is_none(), "{id}: {}", seen.body);
    }
    call.answer("done");
    assert_eq!(stream.next().await.expect("an answer")["id"], 1);
    stage.change();
    // Nothing of it was written to the client's own stream.
    followed(&gateway, &stage, 0).await.say(&super::logged("last"));
    assert_eq!(listening.next().await, Some(super::logged("last")));
}
