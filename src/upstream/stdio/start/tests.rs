//! Real processes that wait at a gate, one connection each, until the test releases them.

use std::sync::Arc;
use std::time::Duration;

use mcp::Era;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::upstream::stdio::{ServerCommand, Stdio};
use crate::upstream::{ServerHandshake, SharedSubscriptions as _, Upstream, UpstreamError};

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
    reply = {"error": error}
    if method == "server/discover" and kind in ("dual", "modern") and era != "legacy":
        era = "modern"
        reply = {"result": dict(hello, supportedVersions=["2026-07-28"])}
    elif method == "initialize" and kind != "modern" and era != "modern":
        era = "legacy"
        reply = {"result": dict(hello, protocolVersion="2025-11-25")}
    elif method == "initialize":
        reply = {"error": {"code": -32022, "message": "no", "data": {"supported": ["2026-07-28"]}}}
    elif method == "server/discover" and kind == "silent":
        continue
    sys.stdout.write(json.dumps(dict(jsonrpc="2.0", id=asked["id"], **reply)) + "\n")
    sys.stdout.flush()
"#;

struct Gate {
    listener: TcpListener,
    server: Arc<Stdio>,
}

type Connecting = JoinHandle<Result<ServerHandshake, UpstreamError>>;

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
            limits: crate::config::ProcessLimits::default(),
        };
        Self { listener, server: Arc::new(Stdio::new(command, SOON)) }
    }

    fn start(&self, server_era: Era) -> Connecting {
        self.connect_within(server_era, SOON)
    }

    fn connect_within(&self, server_era: Era, time: Duration) -> Connecting {
        let server = self.server.clone();
        tokio::spawn(async move { server.connect(server_era, Instant::now() + time).await })
    }

    /// The next process that connects to the gate.
    async fn comes(&self) -> TcpStream {
        let (mut process, _) = soon(self.listener.accept()).await.expect("a connection");
        soon(process.read_u8()).await.expect("a word");
        process
    }

    /// Whether no process waits there.
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

async fn version_of(connecting: Connecting) -> Result<String, UpstreamError> {
    soon(connecting).await.expect("no panic").map(|handshake| handshake.version)
}

fn refused(version: Result<String, UpstreamError>, server_era: Era) -> bool {
    matches!(version, Err(UpstreamError::WrongEra(of, _)) if of == server_era)
}

async fn is_over(mut process: TcpStream) {
    assert!(matches!(soon(process.read(&mut [0])).await, Ok(0) | Err(_)), "it goes");
}

#[tokio::test]
async fn a_server_of_both_eras_starts_once_for_both() {
    let gate = Gate::of("dual").await;
    let (modern, legacy) = (gate.start(Era::Modern), gate.start(Era::Legacy));
    let (mut one, mut two) = (gate.comes().await, gate.comes().await);
    go(&mut one).await;
    go(&mut two).await;
    assert_eq!(version_of(modern).await, Ok("2026-07-28".into()));
    assert_eq!(version_of(legacy).await, Ok("2025-11-25".into()));
    assert!(gate.is_empty(), "two processes are enough");
    gate.server.close().await;
}

#[tokio::test]
async fn a_server_of_the_legacy_era_has_one_process() {
    let gate = Gate::of("legacy").await;
    let modern = gate.start(Era::Modern);
    go(&mut gate.comes().await).await;
    assert!(refused(version_of(modern).await, Era::Modern));
    assert_eq!(version_of(gate.start(Era::Legacy)).await, Ok("2025-11-25".into()));
    assert!(gate.is_empty(), "one is enough");
    gate.server.close().await;
}

#[tokio::test]
async fn a_process_that_refuses_late_serves_the_other_era_if_it_is_there_first() {
    let gate = Gate::of("legacy").await;
    let modern = gate.start(Era::Modern);
    let mut first = gate.comes().await;
    let legacy = gate.start(Era::Legacy);
    let second = gate.comes().await;
    go(&mut first).await;
    assert!(refused(version_of(modern).await, Era::Modern));
    assert_eq!(version_of(legacy).await, Ok("2025-11-25".into()));
    is_over(second).await;
    gate.server.close().await;
}

#[tokio::test]
async fn a_process_that_says_it_is_modern_settles_that() {
    let gate = Gate::of("modern").await;
    let modern = gate.start(Era::Modern);
    let first = gate.comes().await;
    let legacy = gate.start(Era::Legacy);
    let mut second = gate.comes().await;
    go(&mut second).await;
    assert!(refused(version_of(legacy).await, Era::Legacy));
    assert_eq!(version_of(modern).await, Ok("2026-07-28".into()));
    is_over(first).await;
    gate.server.close().await;
}

#[tokio::test]
async fn a_second_process_that_cannot_run_beside_the_first_leaves_it_alone() {
    let gate = Gate::of("legacy").await;
    let modern = gate.start(Era::Modern);
    let mut first = gate.comes().await;
    let legacy = gate.start(Era::Legacy);
    let mut second = gate.comes().await;
    second.write_all(b"e").await.expect("it waits at the gate");
    is_over(second).await;
    go(&mut first).await;
    assert!(refused(version_of(modern).await, Era::Modern));
    assert_eq!(version_of(legacy).await, Ok("2025-11-25".into()));
    gate.server.close().await;
}

#[tokio::test]
async fn a_server_that_never_answers_the_probe_is_there_in_its_own_era() {
    let gate = Gate::of("silent").await;
    let legacy = gate.start(Era::Legacy);
    go(&mut gate.comes().await).await;
    assert_eq!(version_of(legacy).await, Ok("2025-11-25".into()));
    assert!(refused(
        version_of(gate.connect_within(Era::Modern, Duration::from_millis(300))).await,
        Era::Modern
    ));
    assert!(gate.server.starts.drain().is_empty(), "of what was only probed nothing is left");
    assert!(gate.server.is_there(Era::Legacy).await);
    gate.server.close().await;
}

#[tokio::test]
async fn calls_report_that_a_server_is_starting() {
    let gate = Gate::of("dual").await;
    let follow = async || gate.server.subscribe("x://y", &Arc::default()).await;
    assert!(matches!(follow().await, Err(UpstreamError::Unreachable(_))));
    let legacy = gate.start(Era::Legacy);
    let mut process = gate.comes().await;
    assert!(matches!(follow().await, Err(UpstreamError::Starting)));
    go(&mut process).await;
    assert_eq!(version_of(legacy).await, Ok("2025-11-25".into()));
    assert!(!matches!(follow().await, Err(UpstreamError::Starting)));
    gate.server.close().await;
}

#[tokio::test]
async fn a_start_has_an_end() {
    let gate = Gate::of("dual").await;
    let legacy = gate.connect_within(Era::Legacy, Duration::from_millis(300));
    assert!(matches!(version_of(legacy).await, Err(UpstreamError::TimedOut(_))));
    assert!(!gate.server.starts.is_under_way(Era::Legacy));
    gate.server.close().await;
}

/// Only one can run at a time, and it stays a while after it has closed its standard output.
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
        limits: crate::config::ProcessLimits::default(),
    };
    let server = Arc::new(Stdio::new(command, SOON));
    let start = async || soon(server.connect(Era::Legacy, Instant::now() + SOON)).await;
    start().await.expect("it is the only one");
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
    start().await.expect("it is the only one again");
    assert!(!asked.await.expect("no panic"));
    server.close().await;
}

#[tokio::test]
async fn a_process_that_ends_at_once_is_reported_with_status_and_stderr() {
    for script in ["echo boom >&2; exit 3", "exec <&-; echo boom >&2; exit 3"] {
        let command = ServerCommand {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![],
            cwd: None,
            max_line: 1 << 20,
            name: "test".into(),
            limits: crate::config::ProcessLimits::default(),
        };
        let server = Stdio::new(command, SOON);
        let error =
            server.connect(Era::Legacy, Instant::now() + SOON).await.expect_err("it ends").to_string();
        assert!(error.contains("exit status: 3") && error.contains("boom"), "{script}: {error}");
    }
}
