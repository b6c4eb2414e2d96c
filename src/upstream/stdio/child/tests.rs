//! Real processes: each test starts a few lines of Python. They wait for events, never for time to pass;
//! `SOON` only ends a test that has already failed.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::timeout;

use super::{Child, ConnectionError, ConnectionResponse, ServerCommand};

#[cfg(target_os = "linux")]
mod descendants;
mod endings;
mod messages;
mod starts;

const SOON: Duration = Duration::from_secs(30);

const PRELUDE: &str = r#"
from signal import SIGTERM, SIG_IGN
import ctypes, json, os, signal, socket, subprocess, sys, time
def say(text): sys.stdout.write(text + "\n"); sys.stdout.flush()
def send(**words): say(json.dumps(dict(jsonrpc="2.0", **words)))
def note(what, **params): send(method="test/" + what, params=params)
def heard():
    for line in sys.stdin: yield json.loads(line)
def live(port):
    life = socket.create_connection(("127.0.0.1", port)); life.sendall(b"x"); return life
def forever():
    while True: time.sleep(60)
def daemon(port):
    """Leaves a process in a session of its own, whose parent has ended and which SIGTERM does not end."""
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        signal.signal(SIGTERM, SIG_IGN); life = live(port); note("daemon", pid=os.getpid())
        for n in range(3): os.close(n)
        forever()
    os.wait()
"#;

fn python(script: &str) -> ServerCommand {
    ServerCommand {
        program: "python3".into(),
        args: vec!["-c".into(), format!("{PRELUDE}{script}")],
        env: vec![],
        cwd: None,
        max_line: 1 << 20,
        name: "test".into(),
        limits: crate::config::ProcessLimits::default(),
    }
}

async fn start(script: &str) -> (Child, Receiver<Bytes>) {
    let (notices, told) = mpsc::channel(4096);
    (Child::spawn(&python(script), notices).await.unwrap(), told)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it happens soon")
}

async fn call(child: &Child, method: &str, params: Value) -> Result<ConnectionResponse, ConnectionError> {
    child.request(method, Some(params.to_string().as_bytes()), SOON, None).await
}

fn result(answer: Result<ConnectionResponse, ConnectionError>) -> Value {
    match answer.unwrap() {
        ConnectionResponse::Result(raw) => serde_json::from_slice(&raw).unwrap(),
        ConnectionResponse::Error(raw) => panic!("an error: {raw:?}"),
    }
}

/// The next notification: its name without `test/`, and its params.
async fn told(notices: &mut Receiver<Bytes>) -> (String, Value) {
    let mut message: Value = serde_json::from_slice(&soon(notices.recv()).await.unwrap()).unwrap();
    (message["method"].as_str().unwrap().replace("test/", ""), message["params"].take())
}

/// A socket that a process holds open as long as it lives.
struct Life(TcpListener);

impl Life {
    async fn new() -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (Self(listener), port)
    }

    async fn begins(&self) -> TcpStream {
        let (mut life, _) = soon(self.0.accept()).await.unwrap();
        soon(life.read_u8()).await.unwrap();
        life
    }
}

/// Runs an ignored test of a module as a process of its own.
fn helper(module: &str, name: &str) -> std::process::Command {
    let mut helper = std::process::Command::new(std::env::current_exe().unwrap());
    let (_, module) = module.split_once("::").unwrap();
    helper.args(["--exact", &format!("{module}::{name}"), "--ignored", "--nocapture"]);
    helper
}

async fn ends(mut life: TcpStream) {
    assert!(!matches!(soon(life.read(&mut [0])).await, Ok(1..)));
}
