//! Bodies of every size over HTTP/2, in pieces of any size, with and without their length.

use crate::bodies::{BodySetup, KIB, MIB, PLACES, Sent, setup};

use super::{Answer, Wire, in_time};
use crate::harness::Gateway;
use crate::raw::{Client, Head};

fn check(sent: &Sent, answer: &Answer, what: &str) {
    let message = answer.message();
    assert_eq!(answer.status, 200, "{what}: {message}");
    assert_eq!(message["id"], sent.id, "{what}");
    assert_eq!(message["result"]["content"][0]["text"], sent.expected, "{what}: {message}");
}

async fn ask(wire: &Wire, place: (&str, &str), sent: &Sent, sized: bool, piece: usize) -> Answer {
    let (path, tool) = place;
    let mut request = wire.modern(path, "tools/call", Some(tool));
    if sized {
        request = request.header("content-length", sent.body.len());
    }
    wire.exchange(request.body(()).expect("a good request"), &sent.body, piece).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_all_sizes_and_cuts_arrive_whole_over_h2() {
    let BodySetup { gateway, _fixtures } = setup().await;
    let wire = Wire::open(gateway.port).await;
    let mut salt = 0;
    for size in [0, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB, 16 * MIB] {
        for place in &PLACES[..if size > MIB { 2 } else { 4 }] {
            salt += 1;
            let sent = Sent::new(*place, size, salt);
            for (sized, piece) in
                [(true, usize::MAX), (true, 777), (true, 16 * KIB), (false, usize::MAX), (false, 5000)]
            {
                let what = format!("{size} bytes to {place:?} in pieces of {piece}, with length: {sized}");
                check(&sent, &ask(&wire, *place, &sent, sized, piece).await, &what);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_a_time_share_a_connection_and_get_their_own_answers() {
    let BodySetup { gateway, _fixtures } = setup().await;
    let wire = Wire::open(gateway.port).await;
    let calls = (0..60).map(|turn| {
        let wire = &wire;
        async move {
            let place = PLACES[turn % 4];
            let sent = Sent::new(place, 500 + turn * 3997, turn);
            let answer = ask(wire, place, &sent, turn % 3 != 0, 9000).await;
            check(&sent, &answer, &format!("request {turn}"));
        }
    });
    in_time(futures::future::join_all(calls)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_and_its_neighbours_are_not() {
    let BodySetup { gateway, _fixtures } = setup().await;
    // Made first: a connection without requests is closed soon.
    let sent = Sent::new(PLACES[0], 20 * MIB + 1, 1);
    let wire = Wire::open(gateway.port).await;
    for sized in [true, false] {
        let answer = ask(&wire, PLACES[0], &sent, sized, 16 * KIB).await;
        assert_eq!((answer.status, answer.message()["error"]["code"].as_i64()), (413, Some(413)));
        let small = Sent::new(PLACES[0], 1000, 2);
        check(&small, &ask(&wire, PLACES[0], &small, true, 500).await, "on the same connection");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_nobody_reads_are_refused_and_hold_up_no_others() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    let session = gateway.initialize("/mcp").await;
    let wire = Wire::open(gateway.port).await;
    let get = |http_method: &str| {
        http::Request::builder()
            .method(http_method)
            .uri(format!("http://127.0.0.1:{}/mcp", wire.port))
            .header("accept", "text/event-stream")
            .header("mcp-session-id", &session)
            .header("mcp-protocol-version", "2025-11-25")
            .body(())
            .expect("a request")
    };
    let mut kept = Vec::new();
    for http_method in ["GET", "DELETE", "GET", "GET", "GET", "GET"] {
        let (answer, mut to) = wire.begin(get(http_method), false).await;
        to.send_data(vec![b' '; 200 * KIB].into(), false).expect("it is taken");
        assert_eq!(in_time(answer).await.expect("an answer").status().as_u16(), 400, "{http_method}");
        kept.push(to);
    }
    let sent = Sent::new(("/mcp", "demo__echo"), MIB, 1);
    assert_eq!(ask(&wire, ("/mcp", "demo__echo"), &sent, true, usize::MAX).await.status, 200);
    // An empty body counts as none.
    let (answer, mut to) = wire.begin(get("GET"), false).await;
    to.send_data(bytes::Bytes::new(), true).expect("it is taken");
    assert_eq!(in_time(answer).await.expect("an answer").status().as_u16(), 200);
    let mut client = Client::connect(gateway.port).await;
    let head = Head::of("GET /mcp HTTP/1.1").with("Accept", "text/event-stream");
    let head = head.with("Mcp-Session-Id", &session).with("MCP-Protocol-Version", "2025-11-25");
    let answer = client.exchange(&head.whole(b"{}")).await.expect("an answer");
    assert_eq!((answer.status, answer.closes()), (400, true), "over HTTP/1.1");
}
