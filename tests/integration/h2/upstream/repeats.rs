//! Which calls are sent again.

use super::*;

/// A proxy port that sends the given message to the clients of another port.
async fn meddler(port: u16, message: Vec<u8>) -> (u16, Arc<Notify>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let own = listener.local_addr().expect("a bound socket has an address").port();
    let say = Arc::new(Notify::new());
    let output = say.clone();
    let serving = tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
            let (output, message) = (output.clone(), message.clone());
            tokio::spawn(async move {
                let ((mut from, mut to), (mut back, mut on)) = (near.into_split(), far.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut on).await });
                let mut piece = vec![0; 65536];
                loop {
                    let bytes = tokio::select! {
                        read = tokio::io::AsyncReadExt::read(&mut back, &mut piece) => match read {
                            Ok(read) if read > 0 => &piece[..read],
                            _ => return,
                        },
                        () = output.notified() => &message,
                    };
                    if tokio::io::AsyncWriteExt::write_all(&mut to, bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (own, say, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_takes_no_more_calls_costs_none() {
    // A GOAWAY with ENHANCE_YOUR_CALM, and all begun streams continue.
    let away = [&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff][..], &11_u32.to_be_bytes()].concat();
    let mut far = Far::start(None).await;
    let (port, say, _serving) = meddler(far.port, away).await;
    far.port = port;
    let gateway = before(&far, "").await;
    let wire = Wire::open(gateway.port).await;
    for _ in 0..3 {
        // It keeps the connection in use.
        let (name, body) =
            message("tools/call", json!({"name": "far__tool", "arguments": {"how": "events"}}));
        let request = wire.modern("/mcp", "tools/call", name.as_deref()).body(()).expect("a request");
        let (answer, to) = wire.begin(request, false).await;
        assert!(pour(to, &body, usize::MAX).await);
        let mut body = in_time(answer).await.expect("an answer").into_body();
        assert!(in_time(next(&mut body)).await.expect("an event").is_some());
        say.notify_waiters();
        for _ in 0..20 {
            let (status, answer) = gateway.call("far__tool", json!({})).await;
            assert_eq!(status, 200, "{answer}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        far.go_on.notify_one();
        assert!(in_time(next(&mut body)).await.expect("it goes on").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_before_it_has_read_is_not_at_fault() {
    let far = Far::start(None).await;
    let gateway = before(&far, ", circuit_breaker: {failures: 1, open_for: 1h}").await;
    far.early.store(true, Ordering::SeqCst);
    let (status, answer) = gateway.call("far__tool", json!({"data": "x".repeat(3 * MIB)})).await;
    assert_eq!(status, 502, "{answer}");
    let (status, answer) = gateway.call("far__tool", json!({})).await;
    assert_eq!(status, 200, "the circuit is closed: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_repeated_only_if_its_server_did_not_look_at_it() {
    for (how, times, status) in [("refuse", 2, 200), ("reset", 1, 502)] {
        let far = Far::start(None).await;
        let gateway = before(&far, "").await;
        let (got, answer) = gateway.call("far__tool", json!({"how": how})).await;
        assert_eq!((got, far.calls().len()), (status, times), "{how}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_alone_is_no_answer() {
    let far = Far::start(None).await;
    let gateway = before(&far, "").await;
    for sized in [true, false] {
        // Over HTTP/1.1 and HTTP/2; by the gateway's own HTTP client too.
        let arguments = json!({"how": "head", "data": "x".repeat(if sized { 0 } else { 100 * KIB })});
        let (name, body) = message("tools/call", json!({"name": "far__tool", "arguments": arguments}));
        let head = crate::raw::Head::modern("/mcp", "tools/call", name.as_deref());
        let request = if sized { head.whole(&body) } else { head.chunked(&body, 30_000) };
        let answer = Client::connect(gateway.port).await.exchange(&request).await.expect("an answer");
        assert_eq!(answer.status, 502, "{}", answer.message());
        let wire = Wire::open(gateway.port).await;
        let mut request = wire.modern("/mcp", "tools/call", name.as_deref());
        if sized {
            request = request.header("content-length", body.len());
        }
        let answer =
            wire.exchange(request.body(()).expect("a request"), &body, 30_000).await.expect("an answer");
        assert_eq!(answer.status, 502, "{}", answer.message());
    }
}
