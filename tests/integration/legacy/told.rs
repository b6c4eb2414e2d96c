//! Changed lists: whatever session a server tells that in, the house looks first, and then tells each client once.

use serde_json::json;

use super::{calls, followed, hold, shows, staged};
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

    // And on the stream of announcements of the session.
    stage.with(|state| state.tools.push("newer"));
    followed(&gateway, &stage, 0).await.say(&changed);
    assert_eq!(stream.next().await, Some(changed.clone()));
    assert!(shows(&gateway, &session, "s__newer").await);
    calls(&gateway, &session).await;
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    assert_eq!(stream.rest().await, Vec::<serde_json::Value>::new(), "nothing is told twice");
}
