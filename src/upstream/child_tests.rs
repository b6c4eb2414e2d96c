//! Real processes: each test starts a few lines of Python. They wait for what happens, never for time to pass;
//! `SOON` only ends a test that has already failed.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::timeout;

use super::lines::{Heard, Lines};
use super::{Child, ChildError, Command, Progress, Response};

const SOON: Duration = Duration::from_secs(30);

const PRELUDE: &str = r#"
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
"#;

fn python(script: &str) -> Command {
    Command {
        program: "python3".into(),
        args: vec!["-c".into(), format!("{PRELUDE}{script}")],
        env: vec![],
        cwd: None,
        max_line: 1 << 20,
        name: "test".into(),
    }
}

async fn start(script: &str) -> (Child, Receiver<Bytes>) {
    let (notices, told) = mpsc::channel(4096);
    (Child::spawn(&python(script), notices).await.unwrap(), told)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it happens soon")
}

async fn call(child: &Child, method: &str, params: Value) -> Result<Response, ChildError> {
    child.request(method, Some(params.to_string().as_bytes()), SOON, None).await
}

fn result(answer: Result<Response, ChildError>) -> Value {
    match answer.unwrap() {
        Response::Result(raw) => serde_json::from_slice(&raw).unwrap(),
        Response::Error(raw) => panic!("an error: {raw:?}"),
    }
}

/// The next notification: its name without `test/`, and its params.
async fn told(notices: &mut Receiver<Bytes>) -> (String, Value) {
    let mut words: Value = serde_json::from_slice(&soon(notices.recv()).await.unwrap()).unwrap();
    (words["method"].as_str().unwrap().replace("test/", ""), words["params"].take())
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

/// Runs an ignored test as a process of its own.
fn helper(name: &str) -> std::process::Command {
    let mut helper = std::process::Command::new(std::env::current_exe().unwrap());
    let (_, module) = module_path!().split_once("::").unwrap();
    helper.args(["--exact", &format!("{module}::{name}"), "--ignored", "--nocapture"]);
    helper
}

async fn ends(mut life: TcpStream) {
    assert!(!matches!(soon(life.read(&mut [0])).await, Ok(1..)));
}

/// Two processes that neither the end of stdin nor SIGTERM ends.
fn stubborn_family(port: u16) -> String {
    format!(
        r#"
signal.signal(signal.SIGTERM, lambda *_: note("term"))
if os.fork() == 0:
    life = live({port}); forever()
life = live({port})
for _ in heard(): pass
note("eof")
forever()
"#
    )
}

const ECHO: &str = r#"
for line in sys.stdin:
    say('{"result" : {"line":%s, "n":1.50e2} ,"id":%d, "jsonrpc":"2.0"}' % (json.dumps(line), json.loads(line)["id"]))
"#;

#[tokio::test]
async fn the_answer_is_the_bytes_that_the_server_wrote() {
    let (child, _notices) = start(ECHO).await;
    let answer = child.request("tools/call", Some(br#"{"a" : 1.0}"#), SOON, None).await.unwrap();
    let sent = r#"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"a\" : 1.0}}\n"#;
    assert_eq!(answer, Response::Result(format!(r#"{{"line":"{sent}", "n":1.50e2}}"#).into()));
    let answer = child.request("a\"b\nc", None, SOON, None).await;
    assert_eq!(result(answer)["line"], "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"a\\\"b\\nc\"}\n");
}

#[tokio::test]
async fn pretty_params_leave_as_one_line() {
    let (child, _notices) = start(ECHO).await;
    let params = b"{\r\n  \"text\": \"a\\nb\",\n\n  \"n\": 1\n}";
    let answer = result(child.request("m", Some(params), SOON, None).await);
    let line = answer["line"].as_str().unwrap();
    assert!(line.contains(r#""params":{    "text": "a\nb",    "n": 1 }"#), "{line}");
}

#[tokio::test]
async fn a_hundred_calls_answered_backwards_reach_their_callers() {
    let (child, _notices) = start(
        r#"
calls = []
for words in heard():
    calls.append(words)
    if len(calls) == 100:
        for words in reversed(calls): send(id=words["id"], result=words["params"])
"#,
    )
    .await;
    let calls = (0..100).map(|n| {
        let child = child.clone();
        tokio::spawn(async move { (n, result(call(&child, "m", json!({"n": n})).await)) })
    });
    for answer in join_all(calls).await {
        let (n, answer) = answer.unwrap();
        assert_eq!(answer, json!({"n": n}));
    }
}

#[tokio::test]
async fn errors_and_batches_are_understood() {
    let (child, _notices) = start(
        r#"
ids = [words["id"] for _, words in zip(range(2), heard())]
say('[{"jsonrpc":"2.0","id":%d,"error":{"code":-1, "message":"no"},"result":null}, {"jsonrpc":"2.0","id":%d,"result":{}}]' % tuple(ids))
forever()
"#,
    )
    .await;
    let (first, second) =
        soon(async { tokio::join!(call(&child, "a", json!({})), call(&child, "b", json!({}))) }).await;
    assert_eq!(first.unwrap(), Response::Error(r#"{"code":-1, "message":"no"}"#.into()));
    assert_eq!(second.unwrap(), Response::Result("{}".into()));
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_and_its_late_answer_dropped() {
    let (child, mut notices) = start(
        r#"
for words in heard():
    if words["method"] == "slow": slow = words["id"]; note("started")
    elif words["method"] == "notifications/cancelled":
        send(id=slow, result={}); note("cancelled", same=words["params"]["requestId"] == slow)
    else: send(id=words["id"], result={})
"#,
    )
    .await;
    let caller = tokio::spawn({
        let child = child.clone();
        async move { call(&child, "slow", json!({})).await }
    });
    assert_eq!(told(&mut notices).await.0, "started");
    caller.abort();
    assert_eq!(told(&mut notices).await, ("cancelled".into(), json!({"same": true})));
    assert_eq!(result(call(&child, "other", json!({})).await), json!({}));
}

#[tokio::test]
async fn initialize_is_not_cancelled_but_a_timeout_is() {
    let (child, mut notices) = start(r#"for words in heard(): note(words["method"])"#).await;
    let short = Duration::from_millis(300);
    let late = child.request("initialize", None, short, None).await;
    assert!(matches!(late, Err(ChildError::Timeout { sent: true, .. })), "{late:?}");
    let late = child.request("tools/call", None, short, None).await;
    assert!(matches!(late, Err(ChildError::Timeout { sent: true, .. })), "{late:?}");
    for expected in ["initialize", "tools/call", "notifications/cancelled"] {
        assert_eq!(told(&mut notices).await.0, expected);
    }
}

#[tokio::test]
async fn two_callers_with_one_progress_token_get_their_own_progress() {
    let (child, mut notices) = start(
        r#"
calls = [words for _, words in zip(range(2), heard())]
tokens = [words["params"]["_meta"]["progressToken"] for words in calls]
assert tokens[0] != tokens[1] and "mine" not in str(tokens), tokens
for words, token in zip(calls, tokens):
    say('{"jsonrpc":"2.0", "method":"notifications/progress","params":{"progress":1.0, "progressToken": %s,"message":"%s"}}'
        % (json.dumps(token), words["params"]["name"]))
send(method="notifications/progress", params={"progressToken": 99, "progress": 1})
for words in calls: send(id=words["id"], result={})
note("done")
forever()
"#,
    )
    .await;
    let token = r#""mine\u00e9\/""#;
    let ask = |name: &'static str| {
        let child = child.clone();
        async move {
            let params = format!(r#"{{"_meta":{{"progressToken" : {token} }},"name":"{name}"}}"#);
            let at = params.find(token).unwrap();
            let (notes, mut noted) = mpsc::channel(4);
            let progress = Progress { token: at..at + token.len(), notes };
            result(child.request("m", Some(params.as_bytes()), SOON, Some(progress)).await);
            let note = noted.try_recv().expect("it came before the answer");
            assert!(noted.recv().await.is_none());
            (name, note)
        }
    };
    for (name, note) in soon(async { <[_; 2]>::from(tokio::join!(ask("one"), ask("two"))) }).await {
        let expected = format!(
            r#"{{"jsonrpc":"2.0", "method":"notifications/progress","params":{{"progress":1.0, "progressToken": {token},"message":"{name}"}}}}"#
        );
        assert_eq!(note, expected);
    }
    // That of a call that is not known went nowhere.
    assert_eq!(told(&mut notices).await.0, "done");
}

#[tokio::test]
async fn a_token_that_is_not_there_is_refused() {
    let (child, _notices) = start(ECHO).await;
    let progress = Progress { token: 5..9, notes: mpsc::channel(1).0 };
    let refused = child.request("m", Some(b"{}"), SOON, Some(progress)).await;
    assert!(matches!(refused, Err(ChildError::NoToken)), "{refused:?}");
}

#[tokio::test]
async fn nonsense_fails_the_call_that_it_answers() {
    let (child, _notices) = start(
        r#"
for words in heard():
    say(words["params"]["say"].replace("ID", str(words["id"])))
"#,
    )
    .await;
    for nonsense in [
        r#"{"jsonrpc":"2.0","id":ID}"#,
        r#"{"jsonrpc":"2.0","id":ID,"result":null}"#,
        r#"{"jsonrpc":"2.0","id":ID,"result":{},"error":{}}"#,
        r#"{"jsonrpc":"2.0","id":ID,"result":{},"method":"m"}"#,
        r#"{"jsonrpc":"2.0","id":ID,"result":[]}"#,
        r#"{"jsonrpc":"2.0","id":ID,"error":"no"}"#,
        r#"{"jsonrpc":"1.0","id":ID,"result":{}}"#,
        r#"{"id":ID,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":ID,"id":ID,"result":{}}"#,
        r#"{"jsonrpc":"2.0","result":{"id":999},"id":ID,"more":tru}"#,
    ] {
        let answer = call(&child, "m", json!({"say": nonsense})).await;
        assert!(matches!(answer, Err(ChildError::Nonsense(_))), "{nonsense}: {answer:?}");
    }
}

#[tokio::test]
async fn garbage_is_stepped_over() {
    let (child, mut notices) = start(
        r#"
for words in heard():
    say('{"id":%d,"method":"ping"}' % words["id"])
    for garbage in [b"", b"  \r", b"Listening on stdio {\"id\": 1}", b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\xfe\"}", b"null", b"[1]", b"[]", b"{",
                    b"[\"2.0\",1,null,null,{}]", b"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{}}", b"{\"jsonrpc\":\"2.0\",\"id\":\"1\",\"result\":{}}", b"x" * 5000]:
        sys.stdout.buffer.write(garbage + b"\n")
    sys.stdout.buffer.write(b'{"jsonrpc":"2.0","id":%d,"result":{}}\r\n' % words["id"])
    sys.stdout.flush()
    note("end")
"#,
    )
    .await;
    assert_eq!(result(call(&child, "m", json!({})).await), json!({}));
    assert_eq!(told(&mut notices).await.0, "end");
    assert_eq!(child.0.line.dropped(), 0);
}

#[tokio::test]
async fn a_line_that_is_too_long_fails_its_call_and_no_other() {
    let script = r#"
calls = [words["id"] for _, words in zip(range(3), heard())]
big = "x" * 3_000_000
send(method="test/big", params={"big": big})
say('{"jsonrpc":"2.0","id":%d,"method":"sampling/createMessage","params":{"big":"%s"}}' % (calls[2], big))
say('{"jsonrpc":"2.0","id":%d,"result":{"big":"%s"}}' % (calls[0], big))
say('{"result":{"id":%d,"big":"\\"}%s"},"jsonrpc":"2.0","id":%d}' % (calls[2], big, calls[1]))
send(id=calls[2], result={})
forever()
"#;
    let child = Child::spawn(&python(script), mpsc::channel(9).0).await.unwrap();
    let ask = || call(&child, "m", json!({}));
    let (head, tail, other) = soon(async { tokio::join!(ask(), ask(), ask()) }).await;
    assert!(matches!(head, Err(ChildError::TooLong(1_048_576))), "{head:?}");
    assert!(matches!(tail, Err(ChildError::TooLong(1_048_576))), "{tail:?}");
    assert_eq!(result(other), json!({}));
}

#[tokio::test]
async fn lines_are_cut_at_their_ends_and_their_limit() {
    // (what comes, in pieces of one byte; what is heard, where a number is the id of a line that was too long)
    type Expected<'a> = &'a [Result<&'a str, Option<u64>>];
    let table: &[(&str, Expected)] = &[
        ("", &[]),
        ("a\n\nb", &[Ok("a"), Ok(""), Ok("b")]),
        ("1234567890123456\nb\n", &[Ok("1234567890123456"), Ok("b")]),
        ("12345678901234567\nb\n", &[Err(None), Ok("b")]),
        ("{\"id\":7,\"result\":{}}\n", &[Err(Some(7))]),
        ("{\"result\":{\"id\":1},\"id\" : 7 }", &[Err(Some(7))]),
        ("{\"result\":\"\\\",\\\"id\\\":1\",\"id\":7,\"x\":[]}\n", &[Err(Some(7))]),
        ("{\"result\":[{\"id\":1}],\"xid\":2}\nb", &[Err(None), Ok("b")]),
        ("{\"id\":7,\"i,d\":8,\"i{d\":9,\"x\":\"id\"}\n", &[Err(Some(7))]),
        ("{\"id\":7,\"method\":\"ping\"}\n", &[Err(None)]),
        ("{\"id\":\"7\",\"result\":{}}\n", &[Err(None)]),
        ("[{\"id\":7,\"result\":{}}]\n", &[Err(None)]),
        ("hello {\"id\":7,\"result\":{}}\n", &[Err(None)]),
    ];
    for (text, expected) in table {
        let (from, mut to): (DuplexStream, DuplexStream) = tokio::io::duplex(1);
        let mut lines = Lines::new(from, 16);
        let write =
            async move { tokio::io::AsyncWriteExt::write_all(&mut to, text.as_bytes()).await.unwrap() };
        let read = async {
            let mut all = vec![];
            while let Some(heard) = lines.next().await.unwrap() {
                all.push(match heard {
                    Heard::Line(line) => Ok(String::from_utf8(line.to_vec()).unwrap()),
                    Heard::TooLong { id, .. } => Err(id),
                });
            }
            all
        };
        let ((), all) = soon(async { tokio::join!(write, read) }).await;
        let all: Vec<_> = all.iter().map(|line| line.as_deref().map_err(|id| *id)).collect();
        assert_eq!(&all, expected, "{text}");
    }
}

#[tokio::test]
async fn the_server_is_told_what_it_cannot_ask_for() {
    let (_child, mut notices) = start(
        r#"
send(id="a\n", method="ping")
send(id=1, method="sampling/\"create")
for words in heard(): note("reply", words=words)
"#,
    )
    .await;
    let (_, ping) = told(&mut notices).await;
    assert_eq!(ping["words"], json!({"jsonrpc": "2.0", "id": "a\n", "result": {}}));
    let (_, sampling) = told(&mut notices).await;
    let message = "the gateway does not offer sampling/\"create to a shared stdio server";
    let error = json!({"code": -32601, "message": message});
    assert_eq!(sampling["words"], json!({"jsonrpc": "2.0", "id": 1, "error": error}));
}

#[tokio::test]
async fn a_subscription_that_the_server_ends_is_over() {
    let (child, _notices) = start(
        r#"
for words in heard():
    send(method="notifications/cancelled", params={"requestId": words["id"]})
    if words["method"] == "tools/call": send(id=words["id"], result={})
"#,
    )
    .await;
    let ended = call(&child, "subscriptions/listen", json!({})).await;
    assert!(matches!(ended, Err(ChildError::Ended)), "{ended:?}");
    // Whoever cancels anything else means a request of its own.
    assert_eq!(result(call(&child, "tools/call", json!({})).await), json!({}));
}

#[tokio::test]
async fn notifications_reach_the_server_and_back() {
    let (child, mut notices) = start(r#"for words in heard(): note("got", words=words)"#).await;
    child.notify("notifications/initialized", None, SOON).await.unwrap();
    child.notify("n", Some(b"{\"a\":\n1}"), SOON).await.unwrap();
    let words = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(told(&mut notices).await.1["words"], words);
    assert_eq!(
        told(&mut notices).await.1["words"],
        json!({"jsonrpc": "2.0", "method": "n", "params": {"a": 1}})
    );
}

#[tokio::test]
async fn notices_that_nobody_takes_hold_nothing_up() {
    let (notices, _kept) = mpsc::channel(1);
    let script = r#"
for words in heard():
    for n in range(1000): note("many", n=n)
    send(id=words["id"], result={})
"#;
    let child = Child::spawn(&python(script), notices).await.unwrap();
    assert_eq!(result(call(&child, "m", json!({})).await), json!({}));
    assert_eq!(child.0.line.dropped(), 999);
}

#[tokio::test]
async fn stderr_is_logged_by_the_line_and_never_blocks() {
    let output = helper("gateway_that_logs").output().unwrap();
    let log = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(log.contains("DEBUG toolgate::stdio: first server=\"test\"\n"), "{log}");
    assert!(log.contains(&format!(" {} server", "y".repeat(4096))), "{log}");
    assert!((90..10_000).contains(&log.matches(": more server").count()), "{log}");
}

#[tokio::test]
#[ignore = "a process of its own, because of its log, for the test above"]
async fn gateway_that_logs() {
    tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::DEBUG).init();
    let (child, _notices) = start(
        r#"
for words in heard():
    sys.stderr.write("first\n" + "y" * 5000 + "\n" + "more\n" * 100_000); sys.stderr.flush()
    send(id=words["id"], result={})
"#,
    )
    .await;
    result(call(&child, "m", json!({})).await);
    child.stop().await;
}

#[tokio::test]
async fn a_process_that_ends_by_itself_is_told_with_its_last_words() {
    let (child, _notices) = start(
        r#"
for words in heard():
    sys.stderr.write("".join(f"line {n}\n    at {n}\n}}\n" for n in range(20)) + "\x1b[31mno such module\r\n"); sys.stderr.flush()
    sys.exit(3)
"#,
    )
    .await;
    let answer = child.request("m", None, SOON, None).await;
    let error = answer.expect_err("it ends").to_string();
    assert!(error.ends_with("(exit status: 3); its last words: line 15 | line 16 | line 17 | line 18 | line 19 | [31mno such module"), "{error}");
    let later = child.request("m", None, SOON, None).await;
    assert_eq!(later.expect_err("it has ended").to_string(), error);
}

#[tokio::test]
async fn what_cannot_be_started_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("no.py");
    std::fs::write(&file, "#!/nowhere/python\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let gone = folder.path().join("gone");
    for (program, cwd, words) in [
        ("no-such-program-here", None, "the program `no-such-program-here` is not on PATH".to_owned()),
        ("/nowhere/program", None, "the program `/nowhere/program` does not exist".to_owned()),
        (
            "./no.py",
            Some(folder.path()),
            "the interpreter of the program `./no.py` does not exist".to_owned(),
        ),
        ("python3", Some(&*gone), format!("its `cwd` {} does not exist", gone.display())),
        ("python3", Some(&*file), format!("its `cwd` {} is not a folder", file.display())),
    ] {
        let command =
            Command { program: program.into(), args: Vec::new(), cwd: cwd.map(Into::into), ..python("") };
        let (notices, _heard) = mpsc::channel(1);
        let Err(ChildError::Spawn { source, .. }) = Child::spawn(&command, notices).await else {
            panic!("{program} is started");
        };
        assert_eq!(source.to_string(), words);
    }
}

#[tokio::test]
async fn a_child_that_does_not_read_holds_up_nobody_for_ever() {
    let (life, port) = Life::new().await;
    let (child, _notices) = start(&format!("life = live({port}); forever()")).await;
    let life = life.begins().await;
    let big = format!(r#"{{"big":"{}"}}"#, "x".repeat(2_000_000));
    let short = Duration::from_millis(500);
    let ask = |params| child.request("m", params, short, None);
    // The first is stuck half-way, the second waits for room, and so does the notification.
    let (first, second, notified) =
        tokio::join!(ask(Some(big.as_bytes())), ask(None), child.notify("n", None, short));
    assert!(matches!(first, Err(ChildError::Timeout { sent: true, .. })), "{first:?}");
    assert!(matches!(second, Err(ChildError::Timeout { sent: false, .. })), "{second:?}");
    assert!(matches!(notified, Err(ChildError::Timeout { sent: false, .. })), "{notified:?}");
    assert!(child.is_alive());
    // Closing its stdin does not end it, SIGTERM does.
    let (waiting, status) = tokio::join!(child.request("m", None, SOON, None), child.stop());
    assert!(matches!(waiting, Err(ChildError::Exited { sent: false, .. })), "{waiting:?}");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status.unwrap()), Some(libc::SIGTERM));
    ends(life).await;
}

#[tokio::test]
async fn what_was_given_up_before_its_turn_never_leaves() {
    let (child, mut notices) = start(
        r#"
signal.signal(signal.SIGUSR1, lambda *_: None)
note("ready", pid=os.getpid()); signal.pause()
for words in heard(): note(words["method"])
"#,
    )
    .await;
    let (_, ready) = told(&mut notices).await;
    let big = format!(r#"{{"big":"{}"}}"#, "x".repeat(500_000));
    let short = Duration::from_millis(500);
    let (stuck, queued) = tokio::join!(
        child.request("stuck", Some(big.as_bytes()), short, None),
        child.request("queued", None, short, None)
    );
    assert!(matches!(stuck, Err(ChildError::Timeout { sent: true, .. })), "{stuck:?}");
    assert!(matches!(queued, Err(ChildError::Timeout { sent: false, .. })), "{queued:?}");
    child.notify("last", None, SOON).await.unwrap();
    // SAFETY: the process is ours and alive.
    unsafe { libc::kill(ready["pid"].as_i64().unwrap() as i32, libc::SIGUSR1) };
    for expected in ["stuck", "notifications/cancelled", "last"] {
        assert_eq!(told(&mut notices).await.0, expected);
    }
}

#[tokio::test]
async fn a_child_that_dies_fails_those_who_wait_and_those_who_come() {
    let (child, _notices) = start(r#"next(heard()); next(heard()); sys.exit(3)"#).await;
    let (first, second) =
        soon(async { tokio::join!(call(&child, "a", json!({})), call(&child, "b", json!({}))) }).await;
    for answer in [first, second] {
        let Err(ChildError::Exited { status: Some(status), sent: true, .. }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(status.code(), Some(3));
    }
    assert_eq!(soon(child.exited()).await.unwrap().code(), Some(3));
    assert!(!child.is_alive());
    let refused = call(&child, "c", json!({})).await;
    assert!(matches!(refused, Err(ChildError::Exited { status: Some(_), sent: false, .. })), "{refused:?}");
    let refused = child.notify("c", None, SOON).await;
    assert!(matches!(refused, Err(ChildError::Exited { status: Some(_), sent: false, .. })), "{refused:?}");
}

#[tokio::test]
async fn the_last_words_of_a_dying_child_are_heard() {
    for _ in 0..10 {
        let (child, _notices) =
            start(r#"send(id=next(heard())["id"], result={"big": "x" * 300_000}); os._exit(0)"#).await;
        assert_eq!(result(call(&child, "m", json!({})).await)["big"].as_str().unwrap().len(), 300_000);
        assert!(soon(child.exited()).await.unwrap().success());
    }
}

/// One who has left the group, and so outlives its parent; it has read a call by then, and holds stdout open.
const ESCAPE: &str = r#"
parent, (wait, go) = os.getpid(), os.pipe()
if os.fork():
    os.read(wait, 1); os._exit(0)
os.setsid()
id = next(heard())["id"]
os.write(go, b"x")
while os.getppid() == parent: time.sleep(0.01)
time.sleep(0.2)
"#;

#[tokio::test]
async fn what_is_still_to_come_after_death_is_heard() {
    let (child, _notices) = start(&format!("{ESCAPE}send(id=id, result={{}})")).await;
    assert_eq!(result(call(&child, "m", json!({})).await), json!({}));
}

#[tokio::test]
async fn one_who_left_the_group_keeps_nobody_waiting() {
    let (life, port) = Life::new().await;
    let (child, _notices) = start(&format!("{ESCAPE}life = live({port}); life.recv(1)")).await;
    let (answer, life) = tokio::join!(call(&child, "m", json!({})), life.begins());
    assert!(matches!(answer, Err(ChildError::Exited { status: Some(_), sent: true, .. })), "{answer:?}");
    // It is alive still, and ends with the test.
    drop(life);
}

#[tokio::test]
async fn a_child_that_closes_its_stdout_is_stopped() {
    let (life, port) = Life::new().await;
    let (child, _notices) = start(&format!("life = live({port}); os.close(1); forever()")).await;
    let life = life.begins().await;
    soon(child.exited()).await.unwrap();
    ends(life).await;
}

#[tokio::test]
async fn a_polite_child_ends_by_the_end_of_its_stdin() {
    let (child, mut notices) = start("note('hello')\nfor _ in heard(): pass\nnote('bye')").await;
    assert_eq!(told(&mut notices).await.0, "hello");
    assert!(soon(child.stop()).await.unwrap().success());
    assert_eq!(told(&mut notices).await.0, "bye");
    drop(child);
    assert!(soon(notices.recv()).await.is_none());
}

#[tokio::test]
async fn a_stubborn_child_is_asked_twice_and_killed_with_its_family() {
    let (life, port) = Life::new().await;
    let (child, mut notices) = start(&stubborn_family(port)).await;
    let lives = [life.begins().await, life.begins().await];
    let status = soon(child.stop()).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    let mut words = vec![told(&mut notices).await.0, told(&mut notices).await.0];
    assert_eq!(words.remove(0), "eof");
    assert_eq!(words, ["term"]);
    for life in lives {
        ends(life).await;
    }
}

#[tokio::test]
async fn a_grandchild_does_not_outlive_the_child() {
    let (life, port) = Life::new().await;
    let script = format!("if os.fork() == 0: life = live({port}); forever()\nnext(heard())");
    let (child, _notices) = start(&script).await;
    let grandchild = life.begins().await;
    child.notify("go", None, SOON).await.unwrap();
    ends(grandchild).await;
    soon(child.exited()).await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_init_reaps_the_orphans() {
    // SAFETY: makes this process the one that inherits orphans, as an init would be.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
    let script = "pid = os.fork()\nif pid == 0: forever()\nnote('orphan', pid=pid); next(heard())";
    let (child, mut notices) = start(script).await;
    let orphan = format!("/proc/{}", told(&mut notices).await.1["pid"]);
    assert!(std::fs::exists(&orphan).unwrap());
    child.stop().await;
    soon(async {
        while std::fs::exists(&orphan).unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_last_drop_stops_the_child() {
    let (life, port) = Life::new().await;
    let (child, _notices) = start(&format!("life = live({port})\nfor _ in heard(): pass")).await;
    let other = child.clone();
    let life = life.begins().await;
    drop(child);
    assert!(other.is_alive());
    drop(other);
    ends(life).await;
}

#[test]
fn a_dropped_runtime_takes_the_child_with_it() {
    let ours = tokio::runtime::Runtime::new().unwrap();
    let theirs = tokio::runtime::Runtime::new().unwrap();
    let (life, port) = ours.block_on(Life::new());
    let (child, _notices) = theirs.block_on(start(&stubborn_family(port)));
    let lives = ours.block_on(async { [life.begins().await, life.begins().await] });
    let waiting = ours.spawn({
        let child = child.clone();
        async move { call(&child, "m", json!({})).await }
    });
    drop(theirs);
    let waiting = ours.block_on(waiting).unwrap();
    assert!(matches!(waiting, Err(ChildError::Exited { .. })), "{waiting:?}");
    ours.block_on(async {
        soon(child.exited()).await;
        for life in lives {
            ends(life).await;
        }
    });
}

#[tokio::test]
async fn the_child_outlives_the_thread_that_asked_for_it_but_not_the_gateway() {
    let runtime = tokio::runtime::Handle::current();
    let asker = std::thread::spawn(move || {
        runtime.block_on(start(
            r#"
signal = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(signal))
for words in heard(): send(id=words["id"], result={"death_signal": signal.value, "leads": os.getpgrp() == os.getpid()})
"#,
        ))
    });
    let (child, _notices) = tokio::task::spawn_blocking(move || asker.join().unwrap()).await.unwrap();
    let answer = result(call(&child, "m", json!({})).await);
    assert_eq!(answer, json!({"death_signal": libc::SIGKILL, "leads": true}));
}

#[tokio::test]
async fn a_killed_gateway_leaves_no_orphans() {
    let (life, port) = Life::new().await;
    let mut gateway = helper("gateway_to_be_killed")
        .env("LIFE", port.to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let lives = [life.begins().await, life.begins().await];
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    for life in lives {
        ends(life).await;
    }
}

#[tokio::test]
#[ignore = "a process of its own for the test above"]
async fn gateway_to_be_killed() {
    let Ok(port) = std::env::var("LIFE") else { return };
    let _child = start(&stubborn_family(port.parse().unwrap())).await;
    // It does not outlive a test that has failed.
    let _ = tokio::io::stdin().read(&mut [0]).await;
}

#[tokio::test]
async fn the_child_inherits_neither_secrets_nor_files() {
    // SAFETY: a plain duplicate, which is not close-on-exec.
    let leaked = unsafe { libc::dup(2) };
    assert!(leaked > 2);
    let folder = tempfile::tempdir().unwrap();
    let mut command = python(
        r#"
for words in heard():
    files = [fd for fd in range(3, 256) if os.path.exists(f"/proc/self/fd/{fd}")]
    send(id=words["id"], result={"env": dict(os.environ), "files": files, "cwd": os.getcwd()})
"#,
    );
    command.env = vec![("LOG".into(), "1".into()), ("LANG".into(), "xx".into())];
    command.cwd = Some(folder.path().to_owned());
    let child = Child::spawn(&command, mpsc::channel(1).0).await.unwrap();
    let answer = result(call(&child, "m", json!({})).await);
    assert_eq!(answer["files"], json!([]));
    assert_eq!(answer["cwd"], folder.path().canonicalize().unwrap().to_str().unwrap());
    assert_eq!((&answer["env"]["LOG"], &answer["env"]["LANG"]), (&json!("1"), &json!("xx")));
    // A version manager's shim may have put something before it.
    assert!(answer["env"]["PATH"].as_str().unwrap().ends_with(&std::env::var("PATH").unwrap()));
    // What the program adds for itself (`python3` may be a script) does not count.
    let prepared = command.prepare();
    let given: Vec<_> = prepared.get_envs().map(|(name, _)| name.to_str().unwrap()).collect();
    assert!(given.contains(&"PATH") && given.contains(&"LOG"), "{given:?}");
    assert!(
        given.iter().all(|name| *name == "LOG" || super::process::is_inherited(name.as_ref())),
        "{given:?}"
    );
    assert!(
        super::process::is_inherited("LC_ALL".as_ref())
            && !super::process::is_inherited("AWS_SECRET_ACCESS_KEY".as_ref())
    );
    // SAFETY: it is ours.
    unsafe { libc::close(leaked) };
}

#[test]
fn the_readme_says_what_programs_get() {
    let readme = include_str!("../../README.md");
    let section = readme.split("### What programs get").nth(1).expect("the section is there");
    let section = section.split("###").next().expect("it ends");
    // What is in lower case is said in words.
    let named: Vec<&str> = section
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .collect();
    for name in super::process::INHERITED {
        assert!(named.contains(&name.to_ascii_uppercase().as_str()), "{name}");
    }
    for name in named {
        assert!(super::process::is_inherited(name.as_ref()), "{name}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let mut command = python("");
    command.program = "/no/such/program".into();
    let Err(failed) = Child::spawn(&command, mpsc::channel(1).0).await else { panic!("it was started") };
    assert_eq!(failed.to_string(), "cannot start `/no/such/program`");
    assert!(std::error::Error::source(&failed).unwrap().to_string().contains("does not exist"));
}
