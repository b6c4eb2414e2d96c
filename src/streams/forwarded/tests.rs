use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::proxy::gateway_for_tests::{CLIENT_ID, call_of, call_with, server};
use mcp::Reason;

const LOG: &str = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;

/// A call of a server that sends these events, in which `$ID` is the id that it was asked under.
async fn call_of_server(events: &[&str]) -> UpstreamRequest {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("url: \"http://{}/mcp\"", listener.local_addr().expect("an address"));
    let mut request = call_with(&server(&url), |call| call.logs = true);
    let call = call_of(&mut request);
    call.sent.token = Some(Bytes::from_static(b"\"token\""));
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let body = body.replace("$ID", call.sent.wire.as_str());
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let mut asked = Vec::new();
        while !asked.ends_with(b"{}") {
            assert!(socket.read_buf(&mut asked).await.expect("a request") > 0);
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        socket.write_all(format!("{head}{body}").as_bytes()).await.expect("it is read");
    });
    request
}

fn progress(token: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
    )
}

fn stream(request: UpstreamRequest) -> MessageStream {
    start(request, None, &Handle::current(), None, Metrics::new())
}

#[tokio::test]
async fn what_a_server_says_before_its_response_comes_before_it() {
    let events = [&*progress("$ID"), LOG, r#"{"jsonrpc":"2.0","id":$ID,"result":{}}"#];
    let mut messages = stream(call_of_server(&events).await);
    let mut all = Vec::new();
    while let Some(item) = messages.items.recv().await {
        all.push(match item {
            StreamItem::Message(message) => (false, String::from_utf8_lossy(&message).into_owned()),
            StreamItem::Final(message) => (true, String::from_utf8_lossy(&message).into_owned()),
            other => panic!("{other:?}"),
        });
    }
    let response = format!(r#"{{"jsonrpc":"2.0","id":{CLIENT_ID},"result":{{}}}}"#);
    assert_eq!(all, [(false, progress("\"token\"")), (false, LOG.to_owned()), (true, response.clone())]);
    let answer = stream(call_of_server(&events).await).answer().await;
    assert_eq!(answer.expect("an answer"), response, "for who wants only that");
}

#[tokio::test]
async fn a_stream_without_an_answer_says_why() {
    let rejected = stream(call_of_server(&[LOG]).await).answer().await.expect_err("no answer");
    assert_eq!(rejected.status, 502);
    let (out, items) = mpsc::channel::<StreamItem>(1);
    drop(out);
    let ended = MessageStream { items, stream: false, abort_on_drop: None, final_message: None };
    assert_eq!(ended.answer().await.expect_err("no answer").reason, Reason::NoAnswer);
    let accepted = MessageStream::of(StreamItem::Accepted).answer().await;
    assert_eq!(accepted.expect("it is accepted"), "");
}
