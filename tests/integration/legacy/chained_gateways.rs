//! A gateway behind a gateway: ids of one are ordinary ids for the other.

use serde_json::json;

use super::{accepted, question, staged};
use crate::events::Events;
use crate::harness::{Gateway, legacy_call};

#[tokio::test(flavor = "multi_thread")]
async fn questions_and_streams_lead_back_through_two_gateways() {
    let (inner, stage) = staged("", "").await;
    for path in ["/mcp", "/servers/s/mcp"] {
        let hold = if path == "/mcp" { "s__hold" } else { "hold" };
        let servers = json!({"g": {"url": inner.url(path), "era": "legacy"}});
        let outer = Gateway::start(&format!("mcpServers: {servers}\n")).await;
        outer
            .eventually("it is connected", async |g| g.get("/health").await.contains("\"connected\":1"))
            .await;
        for (path, prefix) in [("/mcp", "g__"), ("/servers/g/mcp", "")] {
            let session = outer.initialize_with(path, json!({"elicitation": {}})).await;
            let before = (stage.with(|state| state.calls.len()), stage.replies().len());
            let call = legacy_call(1, &format!("{prefix}{hold}"), json!({}));
            let mut stream = Events::open(outer.post(path, Some(&session), &call)).await;
            let held = async |_: &Gateway| stage.with(|state| state.calls.len()) > before.0;
            outer.eventually("the server holds it", held).await;
            let call = stage.call().expect("a call");
            call.raw("id: 9\ndata:\n\n");
            call.say(&question(7, "may I?"));
            let id = stream.method("elicitation/create").await["id"].clone();
            assert_eq!(outer.say(path, &session, &accepted(&id)).await.0, 202);
            outer.eventually("the answer is there", async |_| stage.replies().len() > before.1).await;
            assert_eq!(stage.replies().pop().expect("an answer").body["id"], 7);
            call.end();
            stream.rest().await;
            let last = stream.last_id.expect("an id");
            let get = outer.http.get(outer.url(path)).header("mcp-session-id", &session);
            let _resumed = Events::open(get.header("last-event-id", &last)).await;
            let seen = stage.mock.all();
            assert!(seen.iter().any(|seen| seen.header("last-event-id") == Some("9")), "{last}");
        }
    }
}
