//! Bodies on every path: HTTP/1.1 and HTTP/2, with TLS and without, of clients and of servers. The sizes
//! are around 64 KiB, and so are the cuts (ARCHITECTURE.md, Pingora's 64 KiB).

use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::upstream::{Far, for_host, front, put, settings};
use super::{Wire, in_time};
use crate::bodies::{KIB, Sent};
use crate::harness::{Gateway, Process, free_port};
use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, json_answer};
use crate::raw::{Client, Head};
use crate::tls::TestCa;

const EDGE: usize = 64 * KIB;
/// The servers, by their protocol.
const SERVERS: [&str; 4] = ["plain", "secure", "plain2", "secure2"];

/// Answers as the other servers do: with the length and the SHA-256 of the data.
fn weigh(seen: &RecordedRequest) -> MockReply {
    if seen.method() != "tools/call" {
        return MockReply::Good;
    }
    let data = seen.body["params"]["arguments"]["data"].as_str().unwrap_or_default();
    let hash: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = json!([{"type": "text", "text": format!("{} {hash}", data.len())}]);
    MockReply::Say(json_answer(&answer(seen, &json!({"content": text, "resultType": "complete"}))))
}

/// The four servers and two gateways in front of them, one of which has TLS.
struct MatrixSetup {
    /// Ports for clients: the first value is true for HTTP/2, false for HTTP/1.1; the clients themselves
    /// use no TLS.
    ways: Vec<(bool, &'static str, u16)>,
    mock: MockServer,
    _far: [Far; 2],
    _gateways: Vec<(Process, tempfile::TempDir)>,
    /// Holds the CA of all servers.
    _folder: tempfile::TempDir,
    tunnels: Vec<JoinHandle<()>>,
}

impl Drop for MatrixSetup {
    fn drop(&mut self) {
        self.tunnels.iter().for_each(JoinHandle::abort);
    }
}

async fn setups() -> MatrixSetup {
    let authority = TestCa::new("the CA");
    let folder = tempfile::tempdir().expect("a folder");
    let ca = put(folder.path(), "ca.pem", &authority.pem);
    let own = |offers| settings(&for_host(&authority, "localhost"), None, offers);
    let mock = MockServer::start(weigh).await;
    let inner: u16 = mock.url.split([':', '/']).find_map(|part| part.parse().ok()).expect("a port");
    let (secure, fronting) = front(inner, own(&["http/1.1"])).await;
    let far = [Far::start(None).await, Far::start(Some(own(&["h2"]))).await];
    let servers = json!({
        "plain": {"url": mock.url},
        "secure": {"url": format!("https://localhost:{secure}/mcp"), "tls": {"ca": ca}},
        "plain2": {"url": format!("http://127.0.0.1:{}/mcp", far[0].port), "http2": "prior_knowledge"},
        "secure2": {"url": format!("https://localhost:{}/mcp", far[1].port), "tls": {"ca": ca}},
    });
    let pair = for_host(&authority, "localhost");
    let (mut gateways, mut tunnels, mut ways) = (Vec::new(), vec![fronting], Vec::new());
    for tls in [false, true] {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let mut listen = json!({"address": format!("127.0.0.1:{port}")});
        if tls {
            let (cert, key) =
                (put(folder.path(), "own.pem", &pair.cert), put(folder.path(), "own.key", &pair.key));
            listen["tls"] = json!({"cert": cert, "key": key});
        }
        put(folder.path(), "toolgate.yaml", &json!({"listen": listen, "mcpServers": servers}).to_string());
        let command: &mut Command = &mut Gateway::command(folder.path(), &["run"]);
        let mut process = Process::start(command);
        process.wait_for("endpoint");
        gateways.push((process, folder));
        if tls {
            for (two, what, name) in [(false, "h1 over TLS", "http/1.1"), (true, "h2 over TLS", "h2")] {
                let (near, tunnel) = tunnel(port, &authority.pem, name).await;
                ways.push((two, what, near));
                tunnels.push(tunnel);
            }
        } else {
            ways.extend([(false, "h1", port), (true, "h2c", port)]);
        }
        let (two, _, port) = *ways.last().expect("there is one");
        assert!(two, "it is HTTP/2");
        in_time(shown(port)).await;
    }
    MatrixSetup { ways, mock, tunnels, _far: far, _gateways: gateways, _folder: folder }
}

/// Waits until all servers show their tool.
async fn shown(port: u16) {
    loop {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            let list = Wire::open(port).await.ask("/mcp", "tools/list", json!({})).await.message();
            if list["result"]["tools"].as_array().is_some_and(|tools| tools.len() == SERVERS.len()) {
                return;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A port that adds TLS to a connection, with this protocol by ALPN.
async fn tunnel(port: u16, authority: &str, name: &'static str) -> (u16, JoinHandle<()>) {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.as_bytes()).expect("a certificate");
    roots.add(root).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("it has both").with_root_certificates(roots);
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![name.as_bytes().to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let own = listener.local_addr().expect("a bound socket has an address").port();
    let serving = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let connector = connector.clone();
            tokio::spawn(async move {
                // Not ready yet: the client sees a connection that ends.
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                far.set_nodelay(true).expect("a TCP socket has the option");
                let host = ServerName::try_from("localhost").expect("a name");
                let mut far = connector.connect(host, far).await.expect("a handshake");
                assert_eq!(far.get_ref().1.alpn_protocol(), Some(name.as_bytes()));
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (own, serving)
}

/// One connection of either kind.
enum Near {
    One(Client),
    Two(Wire),
}

impl Near {
    async fn open(two: bool, port: u16) -> Self {
        if two { Self::Two(Wire::open(port).await) } else { Self::One(Client::connect(port).await) }
    }

    /// Status and message. With `cut` the body comes in pieces that end at 64 KiB.
    async fn ask(&mut self, tool: &str, body: &[u8], sized: bool, cut: bool) -> (u16, Value) {
        match self {
            Self::One(client) => {
                let head = Head::modern("/mcp", "tools/call", Some(tool));
                let request = match (sized, cut) {
                    (true, _) => head.whole(body),
                    (false, true) => head.chunked(body, EDGE),
                    (false, false) => head.chunked(body, body.len().max(1)),
                };
                let mut rest = &request[..];
                if sized && cut && body.len() > EDGE {
                    let (first, second) = request.split_at(request.len() - body.len() + EDGE);
                    assert!(client.send(first).await, "it is read");
                    rest = second;
                }
                let answer = client.exchange(rest).await.expect("an answer");
                (answer.status, answer.message())
            }
            Self::Two(wire) => {
                let mut request = wire.modern("/mcp", "tools/call", Some(tool));
                if sized {
                    request = request.header("content-length", body.len());
                }
                let request = request.body(()).expect("a good request");
                if body.is_empty() && cut {
                    // An empty frame of its own ends it.
                    let (answer, mut to) = wire.begin(request, false).await;
                    to.send_data(Bytes::new(), true).expect("it is taken");
                    let answer = in_time(super::whole(answer)).await.expect("an answer");
                    return (answer.status, answer.message());
                }
                let piece = if cut { EDGE } else { usize::MAX };
                let answer = wire.exchange(request, body, piece).await.expect("an answer");
                (answer.status, answer.message())
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_at_the_edge_arrive_whole_by_every_way_in_and_out() {
    let setups = setups().await;
    let mut salt = 0;
    for (two, way, port) in &setups.ways {
        let mut near = Near::open(*two, *port).await;
        for server in SERVERS {
            for size in [0, EDGE - 1, EDGE, EDGE + 1, 2 * EDGE, 2 * EDGE + 1] {
                let tool = format!("{server}__tool");
                salt += 1;
                let sent = Sent::new(("/mcp", &tool), size, salt);
                for (sized, cut) in [(true, false), (true, true), (false, false), (false, true)] {
                    let (status, answer) = near.ask(&tool, &sent.body, sized, cut).await;
                    let what = format!("{size} bytes by {way} to {server}, length: {sized}, cut: {cut}");
                    assert_eq!((status, &answer["id"]), (200, &json!(sent.id)), "{what}: {answer}");
                    assert_eq!(answer["result"]["content"][0]["text"], sent.expected, "{what}: {answer}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_no_byte_or_one_is_no_message_by_any_way() {
    let setups = setups().await;
    for (two, way, port) in &setups.ways {
        for body in [&b""[..], b"{", b"1"] {
            for (sized, cut) in [(true, false), (true, true), (false, false), (false, true)] {
                let what = format!("{body:?} by {way}, length: {sized}, cut: {cut}");
                let mut near = Near::open(*two, *port).await;
                let (status, answer) = near.ask("plain__tool", body, sized, cut).await;
                let code = if body == b"1" { -32600 } else { -32700 };
                assert_eq!((status, &answer["error"]["code"]), (400, &json!(code)), "{what}: {answer}");
                assert!(answer.get("id").is_none(), "{what}: {answer}");
                let before = setups.mock.calls().len();
                // The connection is still usable.
                let sent = Sent::new(("/mcp", "plain__tool"), 500, 1);
                let (status, answer) = near.ask("plain__tool", &sent.body, true, false).await;
                assert_eq!((status, &answer["id"]), (200, &json!(sent.id)), "{what}: {answer}");
                assert_eq!(setups.mock.calls().len(), before + 1, "{what}: one call and no more");
            }
        }
    }
    let calls = setups.mock.calls();
    assert!(calls.iter().all(|seen| seen.tool() == "tool"), "nothing else reached the server: {calls:?}");
}
