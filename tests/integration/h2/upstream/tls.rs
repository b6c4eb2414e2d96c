//! TLS to servers of HTTP/2.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn only_servers_that_the_right_authority_vouches_for_are_talked_to() {
    let (ours, other) = (TestCa::new("ours"), TestCa::new("another"));
    let folder = tempfile::tempdir().expect("a folder");
    let ca = put(folder.path(), "ca.pem", &ours.pem);
    let own = ours.client("spiffe://gateway");
    let (cert, key) = (put(folder.path(), "own.pem", &own.cert), put(folder.path(), "own.key", &own.key));
    let start = async |authority: &TestCa, host: &str, clients: Option<&TestCa>| {
        Far::start(Some(settings(&for_host(authority, host), clients, &["h2"]))).await
    };
    for (what, far, tls, works) in [
        ("vouched for", start(&ours, "localhost", None).await, json!({"ca": ca}), true),
        ("by the system's authorities", start(&ours, "localhost", None).await, json!({}), false),
        ("by another", start(&other, "localhost", None).await, json!({"ca": ca}), false),
        ("for another name", start(&ours, "far.example", None).await, json!({"ca": ca}), false),
        (
            "without a look",
            start(&other, "far.example", None).await,
            json!({"insecure_skip_verify": true}),
            true,
        ),
        (
            "with a certificate of its own",
            start(&ours, "localhost", Some(&ours)).await,
            json!({"ca": ca, "cert": cert, "key": key}),
            true,
        ),
        ("without one", start(&ours, "localhost", Some(&ours)).await, json!({"ca": ca}), false),
    ] {
        let servers = json!({"far": {"url": format!("https://localhost:{}/mcp", far.port), "tls": tls}});
        let mut gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
        if works {
            connected(&gateway).await;
            // Short, so that Pingora forwards it; long without length, so that the gateway's own HTTP
            // client does.
            let (status, answer) = gateway.call("far__tool", json!({"data": "x"})).await;
            assert_eq!(status, 200, "{what}: {answer}\n{}", gateway.process.story());
            let wire = Wire::open(gateway.port).await;
            let sent = Sent::new(("/mcp", "far__tool"), 100 * KIB, 1);
            let request = wire.modern("/mcp", "tools/call", Some("far__tool")).body(()).expect("a request");
            let answer = wire.exchange(request, &sent.body, 30_000).await.expect("an answer");
            assert_eq!(answer.message()["result"]["content"][0]["text"], sent.expected, "{what}");
        } else {
            gateway.process.wait_for("server is not connected");
            assert!(far.seen.lock().expect("no panic").is_empty(), "{what}: it was talked to");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_can_have_another_name_in_its_certificate_and_files_are_read_anew() {
    let (ours, next_one) = (TestCa::new("ours"), TestCa::new("the next"));
    let folder = tempfile::tempdir().expect("a folder");
    let ca = put(folder.path(), "ca.pem", &ours.pem);
    let mock = MockServer::start(|_| MockReply::Good).await;
    let inner: u16 = mock.url.split([':', '/']).find_map(|part| part.parse().ok()).expect("a port");
    let offers = ["h2", "http/1.1"];
    // It offers HTTP/2, which the server behind it does not speak.
    let (port, serving) = front(inner, settings(&for_host(&ours, "far.example"), None, &offers)).await;
    let tls = json!({"ca": ca, "server_name": "far.example"});
    let servers =
        json!({"far": {"url": format!("https://localhost:{port}/mcp"), "tls": tls, "http2": "off"}});
    let mut gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    connected(&gateway).await;
    let (status, answer) = gateway.call("far__tool", json!({})).await;
    assert_eq!(status, 200, "{answer}");
    for seen in mock.all() {
        assert_eq!(seen.header("host"), Some(format!("localhost:{port}").as_str()), "{}", seen.method());
    }

    // Another CA, and its certificate on the same port.
    serving.abort();
    let _ = serving.await;
    put(folder.path(), "ca.pem", "nonsense");
    gateway.process.signal(libc::SIGHUP);
    let output = gateway.process.wait_for("the old one goes on");
    assert!(output.contains("far") && output.contains("ca.pem"), "{output}");
    put(folder.path(), "ca.pem", &next_one.pem);
    let (port, _serving) = front(inner, settings(&for_host(&next_one, "far.example"), None, &offers)).await;
    gateway.process.signal(libc::SIGHUP);
    gateway.process.wait_for("the files of its tls were read anew");
    let servers = servers
        .to_string()
        .replace(&servers["far"]["url"].to_string(), &format!("\"https://localhost:{port}/mcp\""));
    gateway.rewrite(&format!("mcpServers: {servers}\n"));
    gateway.eventually("it is reached", async |g| g.call("far__tool", json!({})).await.0 == 200).await;
}
