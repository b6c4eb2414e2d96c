//! Servers that speak HTTP/2, with TLS and without, and servers with certificates of a private CA: calls
//! that Pingora forwards and requests of the gateway itself.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Request, Response};
use rcgen::CertificateParams;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::{Wire, in_time, message, next, pour};
use crate::bodies::{KIB, MIB, PLACES, Sent};
use crate::harness::Gateway;
use crate::mock_server::{MockReply, MockServer, RecordedRequest, good};
use crate::raw::Client;
use crate::tls::{TestCa, TestCert};

mod repeats;
mod tls;

/// An HTTP/2 server; its tool `tool` does what its argument `how` says.
pub(super) struct Far {
    pub(super) port: u16,
    early: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<RecordedRequest>>>,
    go_on: Arc<Notify>,
    left: Arc<Notify>,
    serving: JoinHandle<()>,
}

impl Drop for Far {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(Clone)]
struct H2UpstreamSetup {
    seen: Arc<Mutex<Vec<RecordedRequest>>>,
    /// Long requests are answered before they are read.
    early: Arc<AtomicBool>,
    go_on: Arc<Notify>,
    left: Arc<Notify>,
}

impl Far {
    pub(super) async fn start(tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let early = Arc::<AtomicBool>::default();
        let (seen, go_on, left) = Default::default();
        let setup = H2UpstreamSetup { seen, early: early.clone(), go_on, left };
        let (acceptor, at_home) = (tls.map(|config| TlsAcceptor::from(Arc::new(config))), setup.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (setup, acceptor) = (at_home.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, setup).await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            serve(stream, setup).await;
                        }
                    }
                });
            }
        });
        let H2UpstreamSetup { seen, go_on, left, .. } = setup;
        Self { port, early, seen, go_on, left, serving }
    }

    fn calls(&self) -> Vec<RecordedRequest> {
        let seen = self.seen.lock().expect("no connection panics with the lock");
        seen.iter().filter(|seen| !seen.is_own_request()).cloned().collect()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, setup: H2UpstreamSetup) {
    let mut settings = h2::server::Builder::new();
    settings.initial_window_size(1 << 20).initial_connection_window_size(4 << 20);
    let Ok(mut connection) = settings.handshake::<_, Bytes>(stream).await else { return };
    let freeze = Arc::new(Notify::new());
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, answer))) = accepted else { return };
                tokio::spawn(one(request, answer, setup.clone(), freeze.clone()));
            }
            // It stays open without any answer.
            () = freeze.notified() => std::future::pending().await,
        }
    }
}

async fn one(
    request: Request<h2::RecvStream>,
    mut to: SendResponse<Bytes>,
    setup: H2UpstreamSetup,
    freeze: Arc<Notify>,
) {
    let (head, mut body) = request.into_parts();
    let length = head.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    if setup.early.load(Ordering::SeqCst) && length.is_some_and(|length: usize| length > MIB) {
        let head = Response::builder().status(413).header("content-type", "application/json").body(());
        let mut stream = to.send_response(head.expect("a head"), false).expect("the client is there");
        let error = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "too much"}});
        stream.send_data(error.to_string().into(), true).expect("the client is there");
        return;
    }
    let mut whole = Vec::new();
    while let Ok(Some(piece)) = next(&mut body).await {
        whole.extend_from_slice(&piece);
    }
    let mut headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").to_owned()))
        .collect();
    headers.push((":authority".into(), head.uri.authority().map(ToString::to_string).unwrap_or_default()));
    let seen = RecordedRequest {
        http_method: head.method.to_string(),
        headers,
        body: serde_json::from_slice(&whole).unwrap_or_default(),
    };
    let turn = {
        let mut all = setup.seen.lock().expect("no connection panics with the lock");
        all.push(seen.clone());
        all.iter().filter(|seen| !seen.is_own_request()).count()
    };
    let arguments = &seen.body["params"]["arguments"];
    let text = |text: String| json!({"content": [{"type": "text", "text": text}], "resultType": "complete"});
    let answer =
        |result: &Value| json!({"jsonrpc": "2.0", "id": seen.body["id"], "result": result}).to_string();
    let json = |body: String| (200, "application/json", body);
    let (status, kind, body) = match (seen.tool(), arguments["how"].as_str()) {
        ("", _) | ("tool", None) if arguments["data"].is_null() => plain(&good(&seen)),
        (_, Some("refuse")) if turn == 1 => return to.send_reset(h2::Reason::REFUSED_STREAM),
        (_, Some("reset")) => return to.send_reset(h2::Reason::INTERNAL_ERROR),
        (_, Some("freeze")) => {
            freeze.notify_one();
            return std::future::pending().await;
        }
        (_, Some("hang")) => {
            let _ = std::future::poll_fn(|cx| to.poll_reset(cx)).await;
            return setup.left.notify_one();
        }
        (_, Some("big")) => json(answer(&text("x".repeat(3 * MIB)))),
        (_, Some("head")) => {
            let head =
                Response::builder().header("content-type", "application/json").body(()).expect("a head");
            drop(to.send_response(head, true).expect("the client is there"));
            return;
        }
        (_, Some("trailers")) => {
            let body = answer(&text("done".into()));
            let mut head = Response::builder().header("content-type", "application/json");
            if arguments["sized"] == true {
                head = head.header("content-length", body.len());
            }
            let mut stream = to.send_response(head.body(()).expect("a head"), false).expect("it is there");
            stream.send_data(body.into(), false).expect("the client is there");
            let mut trailers = http::HeaderMap::new();
            trailers.insert("set-cookie", "secret=1".parse().expect("a value"));
            trailers.insert("mcp-session-id", "theirs".parse().expect("a value"));
            return stream.send_trailers(trailers).expect("the client is there");
        }
        (_, Some("events")) => {
            let head =
                Response::builder().header("content-type", "text/event-stream").body(()).expect("a head");
            let mut stream = to.send_response(head, false).expect("the client is there");
            let params = json!({"progressToken": 1, "progress": 1});
            let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
            stream.send_data(format!("data: {note}\n\n").into(), false).expect("the client is there");
            setup.go_on.notified().await;
            let last = answer(&text("done".into()));
            stream.send_data(format!("data: {last}\n\n").into(), true).expect("the client is there");
            return;
        }
        _ => {
            let data = arguments["data"].as_str().unwrap_or_default();
            let hash: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
            json(answer(&text(format!("{} {hash}", data.len()))))
        }
    };
    let mut head = Response::builder().status(status);
    if !kind.is_empty() {
        head = head.header("content-type", kind);
    }
    if seen.method() == "initialize" {
        head = head.header("mcp-session-id", "theirs");
    }
    if let Ok(stream) = to.send_response(head.body(()).expect("a head"), body.is_empty()) {
        pour(stream, body.as_bytes(), usize::MAX).await;
    }
}

/// The parts of an HTTP/1 response.
pub(super) fn plain(answer: &[u8]) -> (u16, &'static str, String) {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, if body.is_empty() { "" } else { "application/json" }, body.to_owned())
}

/// The settings of a server with this certificate, that offers these protocols and may request client
/// certificates.
pub(super) fn settings(pair: &TestCert, clients: Option<&TestCa>, offers: &[&str]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("it has both");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let root = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("a certificate");
            roots.add(root).expect("a certificate");
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().expect("there is a root"))
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let mut config = builder.with_single_cert(chain, key).expect("a good pair");
    config.alpn_protocols = offers.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

pub(super) fn for_host(authority: &TestCa, host: &str) -> TestCert {
    authority.sign(CertificateParams::new([host.to_owned()]).expect("a good name"))
}

pub(super) fn put(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, text).expect("the file is written");
    file.display().to_string()
}

/// A gateway in front of this server, which has these settings too.
async fn before(far: &Far, settings: &str) -> Gateway {
    let url = format!("http://127.0.0.1:{}/mcp", far.port);
    let far = format!("{{url: \"{url}\", http2: prior_knowledge{settings}}}");
    let gateway = Gateway::start(&format!("mcpServers: {{far: {far}}}\n")).await;
    connected(&gateway).await;
    gateway
}

async fn connected(gateway: &Gateway) {
    gateway.eventually("it is connected", async |g| g.get("/health").await.contains("\"connected\":1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_all_sizes_reach_servers_of_http2() {
    let authority = TestCa::new("the CA");
    let folder = tempfile::tempdir().expect("a folder");
    let ca = put(folder.path(), "ca.pem", &authority.pem);
    let (one, two) = tokio::join!(
        Far::start(None),
        Far::start(Some(settings(&for_host(&authority, "localhost"), None, &["h2"])))
    );
    let servers = json!({
        "one": {"url": format!("http://127.0.0.1:{}/mcp", one.port), "http2": "prior_knowledge"},
        "two": {"url": format!("https://localhost:{}/mcp", two.port), "tls": {"ca": ca}},
    });
    let gateway = Gateway::start(&format!("mcpServers: {servers}\nlimits: {{max_body: 20MiB}}\n")).await;
    gateway.eventually("both are there", async |g| g.get("/health").await.contains("\"connected\":2")).await;
    let (wire, mut client) = (Wire::open(gateway.port).await, Client::connect(gateway.port).await);
    let mut salt = 0;
    for size in [0, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB, 16 * MIB] {
        for (path, _) in &PLACES[..2] {
            let tool = if path.contains("servers") { "tool" } else { "one__tool" };
            salt += 1;
            let sent = Sent::new((path, tool), size, salt);
            for sized in [true, false] {
                let what = format!("{size} bytes to {path}, with length: {sized}");
                let mut request = wire.modern(path, "tools/call", Some(tool));
                if sized {
                    request = request.header("content-length", sent.body.len());
                }
                let request = request.body(()).expect("a request");
                let answer = wire.exchange(request, &sent.body, 30_000).await.expect("an answer");
                assert_eq!(
                    answer.message()["result"]["content"][0]["text"],
                    sent.expected,
                    "{what}: {}",
                    answer.message()
                );
                let head = crate::raw::Head::modern(path, "tools/call", Some(tool));
                let request = if sized { head.whole(&sent.body) } else { head.chunked(&sent.body, 30_000) };
                let answer = client.exchange(&request).await.expect("an answer");
                assert_eq!(
                    answer.message()["result"]["content"][0]["text"],
                    sent.expected,
                    "{what}, from HTTP/1.1"
                );
            }
        }
    }
    let seen = two.calls().pop().expect("calls came");
    assert_eq!(seen.header(":authority"), Some(format!("localhost:{}", two.port).as_str()));
    assert_eq!(seen.header("host"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_one_by_one_and_a_client_that_leaves_is_left_by_the_gateway_too() {
    let far = Far::start(None).await;
    let gateway = before(&far, "").await;
    let wire = Wire::open(gateway.port).await;
    #[expect(clippy::async_yields_async, reason = "whether there is an answer at all is a part of the test")]
    let begin = async |how: &str| {
        let (name, body) = message("tools/call", json!({"name": "far__tool", "arguments": {"how": how}}));
        let request = wire.modern("/mcp", "tools/call", name.as_deref()).body(()).expect("a request");
        let (answer, to) = wire.begin(request, false).await;
        assert!(pour(to, &body, usize::MAX).await);
        answer
    };
    let (_, mut body) = in_time(begin("events").await).await.expect("an answer").into_parts();
    let first = in_time(next(&mut body)).await.expect("an event").expect("an event");
    assert!(String::from_utf8_lossy(&first).contains("notifications/progress"));
    far.go_on.notify_one();
    let second = in_time(next(&mut body)).await.expect("an event").expect("an event");
    assert!(String::from_utf8_lossy(&second).contains("done"));
    assert!(in_time(next(&mut body)).await.expect("an end").is_none());

    let hanging = begin("hang").await;
    gateway.eventually("it reaches the server", async |_| far.calls().len() == 2).await;
    drop(hanging);
    in_time(far.left.notified()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_with_trailers_arrives_without_them() {
    let far = Far::start(None).await;
    let gateway = before(&far, "").await;
    let wire = Wire::open(gateway.port).await;
    for sized in [true, false] {
        let arguments = json!({"how": "trailers", "sized": sized});
        let (status, answer) = gateway.call("far__tool", arguments.clone()).await;
        assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("done")), "{answer}");
        let (name, body) = message("tools/call", json!({"name": "far__tool", "arguments": arguments}));
        let request = wire.modern("/mcp", "tools/call", name.as_deref()).body(()).expect("a request");
        let (answer, to) = wire.begin(request, false).await;
        assert!(pour(to, &body, usize::MAX).await);
        let mut body = in_time(answer).await.expect("an answer").into_body();
        let mut whole = Vec::new();
        while let Some(piece) = in_time(next(&mut body)).await.expect("it does not break off") {
            whole.extend_from_slice(&piece);
        }
        assert!(String::from_utf8_lossy(&whole).contains("done"), "sized: {sized}");
        assert_eq!(in_time(body.trailers()).await.expect("it does not break off"), None);
    }
    assert!(!gateway.process.output().contains("a call failed"), "{}", gateway.process.story());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_taken_hold_up_no_others() {
    let far = Far::start(None).await;
    let gateway = before(&far, ", timeout: 10s").await;
    let wire = Wire::with(gateway.port, h2::client::Builder::new().initial_window_size(100)).await;
    let mut kept = Vec::new();
    for _ in 0..40 {
        let (name, body) = message("tools/call", json!({"name": "far__tool", "arguments": {"how": "big"}}));
        let request = wire.modern("/mcp", "tools/call", name.as_deref()).body(()).expect("a request");
        let (answer, to) = wire.begin(request, false).await;
        assert!(pour(to, &body, usize::MAX).await);
        let mut body = in_time(answer).await.expect("an answer").into_body();
        // The first bytes, without a release of the window.
        let first = in_time(body.data()).await.expect("some of it").expect("it does not break off");
        assert!(String::from_utf8_lossy(&first).contains("result"), "{first:?}");
        kept.push(body);
    }
    let (status, answer) = gateway.call("far__tool", json!({})).await;
    assert!(status == 200 && answer["result"].is_object(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_nobody_at_its_end_is_given_up() {
    let far = Far::start(None).await;
    let gateway = before(&far, ", timeout: 1h").await;
    // By Pingora, and by the gateway's own HTTP client.
    for size in [0, 100 * KIB] {
        let arguments = json!({"how": "freeze", "data": "x".repeat(size)});
        let (_, body) = message("tools/call", json!({"name": "far__tool", "arguments": arguments}));
        let head = crate::raw::Head::modern("/mcp", "tools/call", Some("far__tool"));
        let request = head.chunked(&body, 30_000);
        let answer = Client::connect(gateway.port).await.exchange(&request).await.expect("an answer");
        assert_eq!(answer.status, 502, "{}", answer.message());
        let (status, answer) = gateway.call("far__tool", json!({})).await;
        assert_eq!(status, 200, "on another connection: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_http10_get_no_chunks_of_it() {
    let far = Far::start(None).await;
    let gateway = before(&far, "").await;
    far.go_on.notify_one();
    for how in ["plain", "trailers", "events"] {
        let arguments = json!({"how": how});
        let (_, body) = message("tools/call", json!({"name": "far__tool", "arguments": arguments}));
        let head = crate::raw::Head::modern("/mcp", "tools/call", Some("far__tool"));
        let head = head.line("POST /mcp HTTP/1.0").with("Connection", "keep-alive");
        let answer =
            Client::connect(gateway.port).await.exchange(&head.whole(&body)).await.expect("an answer");
        assert_eq!((answer.status, answer.header("transfer-encoding")), (200, None), "{how}");
        assert!(answer.closes() && answer.message()["result"]["content"].is_array(), "{how}: {answer:?}");
    }
}

/// A port that adds TLS in front of another.
pub(super) async fn front(port: u16, config: ServerConfig) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let own = listener.local_addr().expect("a bound socket has an address").port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut near) = acceptor.accept(stream).await else { return };
                let mut far = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (own, serving)
}
