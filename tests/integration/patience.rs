//! The timeout of a head, and what it must not cut off.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Gateway, TEST_TIMEOUT};

/// Long enough for the head of a valid request, on a busy machine too.
const CONFIG: &str = "mcpServers: {demo: {builtin: demo}}\nlimits: {header_timeout: 3s}\n";

#[tokio::test]
async fn a_head_that_trickles_in_is_not_waited_for() {
    let gateway = Gateway::start(CONFIG).await;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port)).await.expect("a connection");
    let begun = Instant::now();
    stream.write_all(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await.expect("it is written");
    let (mut read, mut write) = stream.split();
    let trickle = async {
        // Each byte comes before any idle timeout; ends when the gateway has closed.
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let closed = async {
        let mut rest = Vec::new();
        // A reset is an end too: bytes were in flight.
        let _ = read.read_to_end(&mut rest).await;
    };
    tokio::select! {
        () = trickle => {}
        () = closed => {}
        () = tokio::time::sleep(TEST_TIMEOUT) => panic!("still open"),
    }
    assert!(begun.elapsed() >= Duration::from_millis(2900), "closed after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_call_that_takes_longer_than_a_head_may_is_not_cut() {
    let gateway = Gateway::start(CONFIG).await;
    for _ in 0..2 {
        let (status, answer) = gateway.call("demo__sleep", json!({"seconds": 4})).await;
        assert_eq!(status, 200, "{answer}");
    }
}
