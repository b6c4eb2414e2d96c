//! New upstream sessions: messages of the old one are not mixed into the new one, the client's state is
//! repeated in it, and the old one is closed when its last call ends.

use serde_json::{Value, json};

use super::scripted_server::ScriptedServer;
use super::{accepted, calls, followed, hold, lists, logged, question, setup_with, staged};
use crate::events::Events;
use crate::harness::{Gateway, legacy_call};

async fn follow(gateway: &Gateway, session: &str, uri: &str) {
    let subscribe =
        json!({"jsonrpc": "2.0", "id": uri, "method": "resources/subscribe", "params": {"uri": uri}});
    let (status, answer) = gateway.say("/mcp", session, &subscribe).await;
    assert_eq!((status, &answer["result"]), (200, &json!({})), "{answer}");
}

fn updated(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_requests_have_ids_of_no_client() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let (mut stream, call) = hold(&gateway, &stage, &session, 1).await;
    let level =
        json!({"jsonrpc": "2.0", "id": 2, "method": "logging/setLevel", "params": {"level": "error"}});
    assert_eq!(gateway.say("/mcp", &session, &level).await.0, 200);
    gateway.eventually("the level is there", async |_| !stage.heard("logging/setLevel").is_empty()).await;
    let mut ids: Vec<Value> = stage.mock.all().into_iter().map(|seen| seen.body["id"].clone()).collect();
    ids.retain(|id| !id.is_null());
    for (at, id) in ids.iter().enumerate() {
        assert!(!ids[..at].contains(id), "{id} twice in {ids:?}");
    }
    call.answer("mine");
    assert_eq!(stream.next().await.expect("an answer")["id"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_follows_and_hears_outlives_its_seat() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;
    follow(&gateway, &session, "test://a").await;
    follow(&gateway, &session, "test://b").await;
    let no_more =
        json!({"jsonrpc": "2.0", "id": 3, "method": "resources/unsubscribe", "params": {"uri": "test://b"}});
    assert_eq!(gateway.say("/mcp", &session, &no_more).await.0, 200);
    let level =
        json!({"jsonrpc": "2.0", "id": 2, "method": "logging/setLevel", "params": {"level": "error"}});
    assert_eq!(gateway.say("/mcp", &session, &level).await.0, 200);
    followed(&gateway, &stage, 0).await.say(&logged("before"));
    assert_eq!(stream.next().await, Some(logged("before")));
    let before = (stage.heard("resources/subscribe").len(), stage.heard("logging/setLevel").len());

    // No call of the client reveals it to the gateway.
    stage.forget();
    assert_eq!(stream.next().await, Some(updated("test://a")), "it may have changed in between");
    let again = stage.heard("resources/subscribe").split_off(before.0);
    let new = stage.clients();
    assert_eq!(new.len(), 1);
    let uris: Vec<&Value> = again.iter().map(|seen| &seen.body["params"]["uri"]).collect();
    assert_eq!(uris, [&json!("test://a")]);
    assert_eq!(again[0].header("mcp-session-id"), Some(new[0].as_str()));
    let level = stage.heard("logging/setLevel").split_off(before.1);
    assert_eq!((level.len(), &level[0].body["params"]), (1, &json!({"level": "error"})));
    followed(&gateway, &stage, 0).await.say(&updated("test://a"));
    assert_eq!(stream.next().await, Some(updated("test://a")));

    // A reload with other settings for the server.
    gateway.rewrite(&setup_with(&stage, ", headers: {X-Other: yes}", ""));
    assert_eq!(stream.next().await, Some(updated("test://a")));
    gateway.eventually("the old session is closed", async |_| !stage.clients().contains(&new[0])).await;
    assert_eq!(stage.clients().len(), 1);
    followed(&gateway, &stage, 0).await.say(&logged("after"));
    assert_eq!(stream.next().await, Some(logged("after")), "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_seat_is_left_when_its_calls_are_done() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize_with("/mcp", json!({"elicitation": {}})).await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;
    let (mut answer, call) = hold(&gateway, &stage, &session, 1).await;
    let (old, listened) = (stage.clients()[0].clone(), followed(&gateway, &stage, 0).await);
    gateway.rewrite(&setup_with(&stage, ", headers: {X-Other: yes}", ""));
    gateway.eventually("there is another session", async |_| stage.clients().len() == 2).await;
    gateway.eventually("nobody listens to the old one", async |_| !listened.is_heard()).await;
    listened.say(&logged("nobody hears it"));
    // The call continues in its session, including its request to the client.
    call.say(&question(7, "may I?"));
    let id = answer.method("elicitation/create").await["id"].clone();
    assert_eq!(gateway.say("/mcp", &session, &accepted(&id)).await.0, 202);
    gateway.eventually("the answer is there", async |_| stage.replies().len() == 1).await;
    assert_eq!(stage.replies()[0].header("mcp-session-id"), Some(old.as_str()));
    assert!(stage.verbs("DELETE").iter().all(|session| *session != old));
    call.answer("done");
    assert_eq!(answer.rest().await.len(), 1);
    gateway.eventually("the old session is closed", async |_| stage.clients().len() == 1).await;
    followed(&gateway, &stage, 0).await.say(&logged("new"));
    assert_eq!(stream.next().await, Some(logged("new")));

    // A server that was removed from the file sends no messages and no requests any more.
    let new = followed(&gateway, &stage, 0).await;
    gateway.rewrite("mcpServers: {demo: {builtin: demo}}\n");
    gateway.eventually("it is left", async |_| stage.clients().is_empty()).await;
    new.say(&question(8, "still here?"));
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    let rest = stream.rest().await;
    assert!(rest.iter().all(|message| message["method"] != "elicitation/create"), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_reaches_only_the_seat_where_it_was_asked() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize_with("/mcp", json!({"elicitation": {}})).await;
    let (mut stream, call) = hold(&gateway, &stage, &session, 1).await;
    call.say(&question(7, "delete it all?"));
    let first = stream.method("elicitation/create").await["id"].clone();
    stage.forget();
    drop((stream, call));
    calls(&gateway, &session).await;
    let (mut stream, call) = hold(&gateway, &stage, &session, 2).await;
    call.say(&question(7, "rather this?"));
    let second = stream.method("elicitation/create").await["id"].clone();
    assert_ne!(first, second);
    assert_eq!(gateway.say("/mcp", &session, &accepted(&first)).await.0, 202);
    assert!(stage.replies().is_empty(), "who asked that is gone");
    assert_eq!(gateway.say("/mcp", &session, &accepted(&second)).await.0, 202);
    gateway.eventually("the answer is there", async |_| stage.replies().len() == 1).await;
    call.answer("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_at_an_endpoint_that_others_are_kept_from() {
    let (one, two) = (ScriptedServer::start().await, ScriptedServer::start().await);
    let servers = json!({"s": {"urls": [one.url(), two.url()], "era": "legacy",
        "health": {"interval": "1h", "unhealthy_after": 2}}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    lists(&gateway, "s__hold").await;
    let session = gateway.initialize("/mcp").await;
    let call = legacy_call(1, "s__hold", json!({}));
    let mut stream = Events::open(gateway.post("/mcp", Some(&session), &call)).await;
    let held = |stage: &ScriptedServer| stage.with(|state| !state.calls.is_empty());
    gateway.eventually("one of them holds it", async |_| held(&one) || held(&two)).await;
    let (here, there) = if held(&one) { (&one, &two) } else { (&two, &one) };
    let upstream_session = here.clients()[0].clone();
    here.with(|state| state.refuses.insert("tools/call", "503 Service Unavailable"));
    // Until it gets no more calls, and another one has the session.
    gateway
        .eventually("the session is at the other", async |g| {
            g.say("/mcp", &session, &legacy_call(2, "s__tool", json!({}))).await.0 == 200
        })
        .await;
    assert_eq!(there.clients().len(), 1);
    assert!(here.clients().contains(&upstream_session), "a call runs there");
    here.call().expect("a call").answer("done");
    assert_eq!(stream.rest().await.pop().expect("an answer")["result"]["content"][0]["text"], "done");
    gateway.eventually("it is left now", async |_| !here.clients().contains(&upstream_session)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_sees_the_newest_token_of_its_caller() {
    let (gateway, stage) = staged(", credentials: passthrough", "").await;
    let with = |request: reqwest::RequestBuilder, token: &str| request.bearer_auth(token);
    let open = crate::harness::initialize(json!({}));
    let response = with(gateway.post("/mcp", None, &open), "one").send().await.expect("an answer");
    let session = response.headers()["mcp-session-id"].to_str().expect("ASCII").to_owned();
    let call = legacy_call("t", "s__tool", json!({}));
    for token in ["one", "two"] {
        let answer = with(gateway.post("/mcp", Some(&session), &call), token).send().await;
        assert_eq!(answer.expect("an answer").status(), 200);
    }
    let get = gateway.http.get(gateway.url("/mcp")).header("mcp-session-id", &session);
    let _stream = Events::open(with(get.header("accept", "text/event-stream"), "two")).await;
    followed(&gateway, &stage, 0).await;
    let roots = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    let noted = with(gateway.post("/mcp", Some(&session), &roots), "three").send().await;
    assert_eq!(noted.expect("an answer").status(), 202);
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(with(end, "four").send().await.expect("an answer").status(), 204);
    gateway.eventually("the session ends", async |_| stage.clients().is_empty()).await;
    let seen = stage.mock.all();
    let last = |http_method: &str, method: &str| {
        let mut all = seen.iter().filter(|seen| seen.http_method == http_method && seen.method() == method);
        let bearer = all.rfind(|seen| seen.header("authorization").is_some())?.header("authorization")?;
        Some(bearer.to_owned())
    };
    for (http_method, method, token) in [
        ("POST", "initialize", "Bearer one"),
        ("POST", "tools/call", "Bearer two"),
        ("GET", "", "Bearer two"),
        ("POST", "notifications/roots/list_changed", "Bearer three"),
        ("DELETE", "", "Bearer four"),
    ] {
        assert_eq!(last(http_method, method).as_deref(), Some(token), "{http_method} {method}");
    }
}
