//! The amount and the format of a server's messages: bursts, streams that are rejected for a while,
//! batches, events of other types.

use std::time::Duration;

use serde_json::json;

use super::scripted_server::SENT;
use super::{calls, followed, hold, logged, staged};
use crate::events::Events;
use crate::harness::{Gateway, legacy_call};
use crate::mock_server::http;

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_any_length_reaches_a_client_that_listens() {
    const COUNT: usize = 3000;
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    calls(&gateway, &session).await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;
    let server = followed(&gateway, &stage, 0).await;
    for number in 0..COUNT {
        server.say(&logged(&number.to_string()));
    }
    for number in 0..COUNT {
        let message = stream.next().await.expect("the stream goes on");
        assert_eq!(message["params"]["data"], number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_its_stream_for_a_while_is_asked_again() {
    for status in ["429 Too Many Requests", "409 Conflict", "400 Bad Request", "503 Service Unavailable"] {
        let (gateway, stage) = staged("", "").await;
        stage.with(|state| state.refuses.insert("GET", status));
        let session = gateway.initialize("/mcp").await;
        calls(&gateway, &session).await;
        let mut stream = Events::of_session(&gateway, "/mcp", &session).await;
        let client = stage.clients()[0].clone();
        let asked = async |_: &Gateway| stage.verbs("GET").contains(&client);
        gateway.eventually("it is asked for its stream", asked).await;
        stage.with(|state| state.refuses.clear());
        followed(&gateway, &stage, 0).await.say(&logged("at last"));
        assert_eq!(stream.next().await.expect("a message")["params"]["data"], "at last", "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_stream_is_asked_for_it_once() {
    for status in ["405 Method Not Allowed", "404 Not Found", "501 Not Implemented"] {
        let (gateway, stage) = staged("", "").await;
        stage.with(|state| state.refuses.insert("GET", status));
        let session = gateway.initialize("/mcp").await;
        calls(&gateway, &session).await;
        let _stream = Events::of_session(&gateway, "/mcp", &session).await;
        let client = stage.clients()[0].clone();
        let asked = || stage.verbs("GET").into_iter().filter(|session| *session == client).count();
        gateway.eventually("it is asked for its stream", async |_| asked() > 0).await;
        // More than two pauses.
        tokio::time::sleep(Duration::from_millis(1800)).await;
        assert_eq!(asked(), 1, "{status}");
        // Its session is not given up for that either.
        calls(&gateway, &session).await;
        assert_eq!(stage.clients(), [client]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_another_kind_do_not_end_a_call() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let (mut stream, call) = hold(&gateway, &stage, &session, 1).await;
    call.raw("event: ping\ndata: {}\n\nevent: endpoint\ndata: /messages\n\n: comment\n\n");
    call.answer("well");
    let all = stream.rest().await;
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["result"]["content"][0]["text"], "well");
    // On the GET stream too.
    let mut listens = Events::of_session(&gateway, "/mcp", &session).await;
    let server = followed(&gateway, &stage, 0).await;
    server.raw("event: ping\ndata: {}\n\n");
    server.say(&logged("more"));
    assert_eq!(listens.next().await.expect("a message")["params"]["data"], "more");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_a_server_are_taken_apart_for_clients_that_know_none() {
    let (gateway, stage) = staged("", "").await;
    stage.with(|state| state.version = Some("2025-03-26"));
    let session = gateway.initialize("/mcp").await;
    let (mut stream, call) = hold(&gateway, &stage, &session, "b").await;
    let mut answer = json!({"jsonrpc": "2.0", "id": stage.sent(), "result": {"content": []}});
    call.raw(&format!("id: 7\ndata: {}\n\n", json!([logged("one"), logged("two")])));
    call.raw(&format!("id: 8\ndata: {}\n\n", json!([logged("three"), answer])));
    let message = [json!("one"), json!("two"), json!("three")];
    for word in message {
        assert_eq!(stream.next().await.expect("a message")["params"]["data"], word);
    }
    answer["id"] = json!("b");
    assert_eq!(stream.next().await.expect("an answer"), answer);
    assert!(stream.last_id.as_ref().is_some_and(|id| id.ends_with(":8")), "{:?}", stream.last_id);

    let mut listens = Events::of_session(&gateway, "/mcp", &session).await;
    let server = followed(&gateway, &stage, 0).await;
    server.say(&json!([logged("four"), logged("five")]));
    for word in ["four", "five"] {
        assert_eq!(listens.next().await.expect("a message")["params"]["data"], word);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_that_answers_one_request_is_that_answer() {
    let (gateway, stage) = staged("", "").await;
    stage.with(|state| {
        state.version = Some("2025-03-26");
        let answer =
            json!([logged("lost"), {"jsonrpc": "2.0", "id": SENT, "result": {"content": [], "x": 1}}]);
        let body = http("200 OK", &["Content-Type: application/json"], &answer.to_string());
        state.answers.insert("odd", body);
        state.tools.push("odd");
    });
    let session = gateway.initialize("/mcp").await;
    calls(&gateway, &session).await;
    stage.change();
    gateway.eventually("the tool is there", async |g| super::shows(g, &session, "s__odd").await).await;
    let (status, answer) = gateway.say("/mcp", &session, &legacy_call(5, "s__odd", json!({}))).await;
    assert_eq!((status, &answer["result"]["x"]), (200, &json!(1)), "{answer}");
}
