//! Real processes that wait at a gate, one connection each, until the test lets them go on.

use std::sync::Arc;
use std::time::Duration;

use mcp::Era;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::upstream::stdio::{ServerCommand, Stdio};
use crate::upstream::{ServerHandshake, Upstream, UpstreamError};

/// It only ends a test that has failed already.
const SOON: Duration = Duration::from_secs(60);

const SERVER: &str = r#"
import json, socket, sys
port, kind = int(sys.argv[1]), sys.argv[2]
gate = socket.create_connection(("127.0.0.1", port))
gate.sendall(b"x")
if gate.recv(1) == b"e": sys.exit(1)
era = None
for line in sys.stdin:
    asked = json.loads(line)
    method = asked.get("method")
    if "id" not in asked: continue
    hello = {"capabilities": {}, "serverInfo": {"name": "t", "version": "1"}}
    error = {"code": -32601, "message": "unknown"}
    said = {"error": error}
    if method == "server/discover" and kind in ("dual", "modern") and era != "legacy":
        era = "modern"
        said = {"result": dict(hello, supportedVersions=["2026-07-28"])}
    elif method == "initialize" and kind != "modern" and era != "modern":
        era = "legacy"
        said = {"result": dict(hello, protocolVersion="2025-11-25")}
    elif method == "initialize":
        said = {"error": {"code": -32022, "message": "no", "data": {"supported": ["2026-07-28"]}}}
    elif method == "server/discover" and kind == "silent":
        continue
    sys.stdout.write(json.dumps(dict(jsonrpc="2.0", id=asked["id"], **said)) + "\n")
    sys.stdout.flush()
"#;

struct Gate {
    listener: TcpListener,
    server: Arc<Stdio>,
}

type Greeting = JoinHandle<Result<ServerHandshake, UpstreamError>>;

impl Gate {
    async fn of(kind: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let command = ServerCommand {
            program: "python3".into(),
            args: vec!["-c".into(), SERVER.into(), port.to_string(), kind.into()],
            env: vec![],
            cwd: None,
            max_line: 1 << 20,
            name: "test".into(),
        };
        Self { listener, server: Arc::new(Stdio::new(command, SOON)) }
    }

    fn greet(&self, era: Era) -> Greeting {
        self.greet_for(era, SOON)
    }

    fn greet_for(&self, era: Era, time: Duration) -> Greeting {
        let server = self.server.clone();
        tokio::spawn(async move { server.connect(era, Instant::now() + time).await })
    }

    /// The next process that comes to the gate.
    async fn comes(&self) -> TcpStream {
        let (mut process, _) = soon(self.listener.accept()).await.expect("a connection");
        soon(process.read_u8()).await.expect("a word");
        process
    }

    /// No process waits there.
    fn is_empty(&self) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        self.listener.poll_accept(&mut context).is_pending()
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it happens soon")
}

async fn go(process: &mut TcpStream) {
    process.write_all(b"g").await.expect("it waits at the gate");
}

async fn said(greeting: Greeting) -> Result<String, UpstreamError> {
    soon(greeting).await.expect("no panic").map(|handshake| handshake.version)
}

fn refused(said: Result<String, UpstreamError>, era: Era) -> bool {
    matches!(said, Err(UpstreamError::WrongEra(of, _)) if of == era)
}

async fn is_over(mut process: TcpStream) {
    assert!(matches!(soon(process.read(&mut [0])).await, Ok(0) | Err(_)), "it goes");
}

#[tokio::test]
async fn a_server_of_both_eras_starts_once_for_both() {
    let gate = Gate::of("dual").await;
    let (modern, legacy) = (gate.greet(Era::Modern), gate.greet(Era::Legacy));
    let (mut one, mut two) = (gate.comes().await, gate.comes().await);
    go(&mut one).await;
    go(&mut two).await;
    assert_eq!(said(modern).await, Ok("2026-07-28".into()));
    assert_eq!(said(legacy).await, Ok("2025-11-25".into()));
    assert!(gate.is_empty(), "two processes are enough");
    gate.server.close().await;
}

#[tokio::test]
async fn a_server_of_the_legacy_era_has_one_process() {
    let gate = Gate::of("legacy").await;
    let modern = gate.greet(Era::Modern);
    go(&mut gate.comes().await).await;
    assert!(refused(said(modern).await, Era::Modern));
    assert_eq!(said(gate.greet(Era::Legacy)).await, Ok("2025-11-25".into()));
    assert!(gate.is_empty(), "one is enough");
    gate.server.close().await;
}

#[tokio::test]
async fn a_process_that_refuses_late_serves_the_other_era_if_it_is_there_first() {
    let gate = Gate::of("legacy").await;
    let modern = gate.greet(Era::Modern);
    let mut first = gate.comes().await;
    let legacy = gate.greet(Era::Legacy);
    let second = gate.comes().await;
    go(&mut first).await;
    assert!(refused(said(modern).await, Era::Modern));
    assert_eq!(said(legacy).await, Ok("2025-11-25".into()));
    is_over(second).await;
    gate.server.close().await;
}

#[tokio::test]
async fn a_process_that_says_it_is_modern_settles_that() {
    let gate = Gate::of("modern").await;
    let modern = gate.greet(Era::Modern);
    let first = gate.comes().await;
    let legacy = gate.greet(Era::Legacy);
    let mut second = gate.comes().await;
    go(&mut second).await;
    assert!(refused(said(legacy).await, Era::Legacy));
    assert_eq!(said(modern).await, Ok("2026-07-28".into()));
    is_over(first).await;
    gate.server.close().await;
}

#[tokio::test]
async fn a_second_process_that_cannot_run_beside_the_first_leaves_it_alone() {
    let gate = Gate::of("legacy").await;
    let modern = gate.greet(Era::Modern);
    let mut first = gate.comes().await;
    let legacy = gate.greet(Era::Legacy);
    let mut second = gate.comes().await;
    second.write_all(b"e").await.expect("it waits at the gate");
    is_over(second).await;
    go(&mut first).await;
    assert!(refused(said(modern).await, Era::Modern));
    assert_eq!(said(legacy).await, Ok("2025-11-25".into()));
    gate.server.close().await;
}

#[tokio::test]
async fn a_server_that_never_answers_the_probe_is_there_in_its_own_era() {
    let gate = Gate::of("silent").await;
    let legacy = gate.greet(Era::Legacy);
    go(&mut gate.comes().await).await;
    assert_eq!(said(legacy).await, Ok("2025-11-25".into()));
    assert!(refused(said(gate.greet_for(Era::Modern, Duration::from_millis(300))).await, Era::Modern));
    assert!(gate.server.starts.drain().is_empty(), "of what was only probed nothing is left");
    assert!(gate.server.is_there(Era::Legacy).await);
    gate.server.close().await;
}

#[tokio::test]
async fn calls_are_told_that_a_server_starts() {
    let gate = Gate::of("dual").await;
    let follow = async || gate.server.subscribe("x://y", &Arc::default()).await;
    assert!(matches!(follow().await, Err(UpstreamError::Unreachable(_))));
    let legacy = gate.greet(Era::Legacy);
    let mut process = gate.comes().await;
    assert!(matches!(follow().await, Err(UpstreamError::Starting)));
    go(&mut process).await;
    assert_eq!(said(legacy).await, Ok("2025-11-25".into()));
    assert!(!matches!(follow().await, Err(UpstreamError::Starting)));
    gate.server.close().await;
}

#[tokio::test]
async fn a_start_has_an_end() {
    let gate = Gate::of("dual").await;
    let legacy = gate.greet_for(Era::Legacy, Duration::from_millis(300));
    assert!(matches!(said(legacy).await, Err(UpstreamError::TimedOut(_))));
    assert!(!gate.server.starts.is_under_way(Era::Legacy));
    gate.server.close().await;
}

/// It can run once at a time, and stays a while after it has closed its standard output.
const LOCKED: &str = r#"
import fcntl, json, os, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "resources/subscribe": os.close(1); time.sleep(600)
    if asked["method"] != "initialize": continue
    result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "t", "version": "1"}}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"#;

#[tokio::test]
async fn a_process_that_is_ending_is_waited_for() {
    let lock = tempfile::NamedTempFile::new().expect("a file");
    let path = lock.path().to_str().expect("words").to_owned();
    let command = ServerCommand {
        program: "python3".into(),
        args: vec!["-c".into(), LOCKED.into(), path],
        env: vec![],
        cwd: None,
        max_line: 1 << 20,
        name: "test".into(),
    };
    let server = Arc::new(Stdio::new(command, SOON));
    let greet = async || soon(server.connect(Era::Legacy, Instant::now() + SOON)).await;
    greet().await.expect("it is the only one");
    let asked = tokio::spawn({
        let server = server.clone();
        async move { server.subscribe("x://y", &Arc::default()).await.is_ok() }
    });
    soon(async {
        while server.is_there(Era::Legacy).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    greet().await.expect("it is the only one again");
    assert!(!asked.await.expect("no panic"));
    server.close().await;
}

#[tokio::test]
async fn one_that_ends_at_once_is_told_of_with_its_status_and_last_words() {
    for script in ["echo boom >&2; exit 3", "exec <&-; echo boom >&2; exit 3"] {
        let command = ServerCommand {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![],
            cwd: None,
            max_line: 1 << 20,
            name: "test".into(),
        };
        let server = Stdio::new(command, SOON);
        let error =
            server.connect(Era::Legacy, Instant::now() + SOON).await.expect_err("it ends").to_string();
        assert!(error.contains("exit status: 3") && error.contains("boom"), "{script}: {error}");
    }
}
