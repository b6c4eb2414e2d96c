//! List changes: in whichever session a server reports one, the gateway reads the list first, and then
//! notifies each client once.

use serde_json::json;

use super::{calls, followed, hold, logged, setup_with, shows, staged};
use crate::events::Events;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_only_a_call_tells_of_is_told_once_and_after_the_new_list_stands() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;
    let (mut answer, call) = hold(&gateway, &stage, &session, 1).await;
    stage.with(|state| state.tools.push("new"));
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    call.say(&changed);
    assert_eq!(stream.next().await, Some(changed.clone()));
    assert!(shows(&gateway, &session, "s__new").await, "it stands when it is told");
    call.say(&changed);
    call.answer("done");
    let all = answer.rest().await;
    assert_eq!(all.len(), 1, "only the answer comes on the stream of the call: {all:?}");

    // And on the GET stream of the session.
    stage.with(|state| state.tools.push("newer"));
    followed(&gateway, &stage, 0).await.say(&changed);
    assert_eq!(stream.next().await, Some(changed.clone()));
    assert!(shows(&gateway, &session, "s__newer").await);
    calls(&gateway, &session).await;
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    assert_eq!(stream.rest().await, Vec::<serde_json::Value>::new(), "nothing is told twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stands_obeys_the_settings_of_now() {
    let guard = "guard: {patterns: [{name: word, regex: hush}]}\n";
    let (gateway, stage) = staged("", guard).await;
    let session = gateway.initialize("/mcp").await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;
    calls(&gateway, &session).await;
    let server = followed(&gateway, &stage, 0).await;
    server.say(&logged("hush 1"));
    assert_eq!(stream.next().await, Some(logged("hush 1")));
    // A server that is reached as before keeps its sessions and streams.
    gateway.rewrite(&setup_with(&stage, ", redact: {results: redact}", guard));
    let taken = "toolgate_config_reloads_total{result=\"ok\"}";
    gateway.eventually("the file is taken", async |g| g.metric(taken).await == 1.0).await;
    server.say(&logged("hush 2"));
    assert_eq!(stream.next().await, Some(logged("[redacted:word] 2")));
    // The new supervisor receives its notifications now.
    stage.with(|state| state.tools.push("new"));
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    server.say(&changed);
    assert_eq!(stream.next().await, Some(changed));
    assert!(shows(&gateway, &session, "s__new").await);
}
