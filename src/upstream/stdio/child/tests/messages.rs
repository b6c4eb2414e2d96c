//! Messages to a process and from it.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::{Life, SOON, call, ends, python, result, soon, start, told};
use crate::upstream::shared_connection::codec::{LineRead, LineReader};
use crate::upstream::stdio::child::{Child, ConnectionError, ConnectionProgress, ConnectionResponse};

const ECHO: &str = r#"
for line in sys.stdin:
    say('{"result" : {"line":%s, "n":1.50e2} ,"id":%d, "jsonrpc":"2.0"}' % (json.dumps(line), json.loads(line)["id"]))
"#;

#[tokio::test]
async fn the_answer_is_the_bytes_that_the_server_wrote() {
    let (child, _notices) = start(ECHO).await;
    let answer = child.request("tools/call", Some(br#"{"a" : 1.0}"#), SOON, None).await.unwrap();
    let sent = r#"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"a\" : 1.0}}\n"#;
    assert_eq!(answer, ConnectionResponse::Result(format!(r#"{{"line":"{sent}", "n":1.50e2}}"#).into()));
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
    assert_eq!(first.unwrap(), ConnectionResponse::Error(r#"{"code":-1, "message":"no"}"#.into()));
    assert_eq!(second.unwrap(), ConnectionResponse::Result("{}".into()));
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
    assert!(matches!(late, Err(ConnectionError::Timeout { sent: true, .. })), "{late:?}");
    let late = child.request("tools/call", None, short, None).await;
    assert!(matches!(late, Err(ConnectionError::Timeout { sent: true, .. })), "{late:?}");
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
            let progress = ConnectionProgress { token: at..at + token.len(), notes };
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
    // Progress of an unknown call was dropped.
    assert_eq!(told(&mut notices).await.0, "done");
}

#[tokio::test]
async fn a_token_that_is_not_there_is_refused() {
    let (child, _notices) = start(ECHO).await;
    let progress = ConnectionProgress { token: 5..9, notes: mpsc::channel(1).0 };
    let refused = child.request("m", Some(b"{}"), SOON, Some(progress)).await;
    assert!(matches!(refused, Err(ConnectionError::TokenRequired)), "{refused:?}");
}

#[tokio::test]
async fn an_invalid_response_fails_its_call() {
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
        assert!(matches!(answer, Err(ConnectionError::InvalidResponse(_))), "{nonsense}: {answer:?}");
    }
}

#[tokio::test]
async fn invalid_lines_are_skipped() {
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
    assert_eq!(child.0.connection.dropped(), 0);
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
    assert!(matches!(head, Err(ConnectionError::TooLong(1_048_576))), "{head:?}");
    assert!(matches!(tail, Err(ConnectionError::TooLong(1_048_576))), "{tail:?}");
    assert_eq!(result(other), json!({}));
}

#[tokio::test]
async fn lines_are_cut_at_their_ends_and_their_limit() {
    // (input, in chunks of one byte; lines read, where a number is the id of a line that was too long)
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
        let mut lines = LineReader::new(from, 16);
        let write =
            async move { tokio::io::AsyncWriteExt::write_all(&mut to, text.as_bytes()).await.unwrap() };
        let read = async {
            let mut all = vec![];
            while let Some(heard) = lines.next().await.unwrap() {
                all.push(match heard {
                    LineRead::Line(line) => Ok(String::from_utf8(line.to_vec()).unwrap()),
                    LineRead::TooLong { id, .. } => Err(id),
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
async fn unsupported_server_requests_are_declined() {
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
    let message =
        "the gateway does not offer sampling/\"create to a server whose connection all callers share";
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
    assert!(matches!(ended, Err(ConnectionError::SessionClosed)), "{ended:?}");
    // A server that cancels any other id means a request of its own.
    assert_eq!(result(call(&child, "tools/call", json!({})).await), json!({}));
}

#[tokio::test]
async fn notifications_reach_the_server_and_back() {
    let (child, mut notices) = start(r#"for words in heard(): note("got", words=words)"#).await;
    child.notify("notifications/initialized", None, SOON).await.unwrap();
    child.notify("n", Some(b"{\"a\":\n1}"), SOON).await.unwrap();
    let message = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(told(&mut notices).await.1["words"], message);
    assert_eq!(
        told(&mut notices).await.1["words"],
        json!({"jsonrpc": "2.0", "method": "n", "params": {"a": 1}})
    );
}

#[tokio::test]
async fn unread_notifications_delay_nothing() {
    let (notices, _kept) = mpsc::channel(1);
    let script = r#"
for words in heard():
    for n in range(1000): note("many", n=n)
    send(id=words["id"], result={})
"#;
    let child = Child::spawn(&python(script), notices).await.unwrap();
    assert_eq!(result(call(&child, "m", json!({})).await), json!({}));
    assert_eq!(child.0.connection.dropped(), 999);
}

#[tokio::test]
async fn a_child_that_does_not_read_delays_no_call_for_ever() {
    let (life, port) = Life::new().await;
    let (child, _notices) = start(&format!("life = live({port}); forever()")).await;
    let life = life.begins().await;
    let big = format!(r#"{{"big":"{}"}}"#, "x".repeat(2_000_000));
    let short = Duration::from_millis(500);
    let ask = |params| child.request("m", params, short, None);
    // The first is stuck half-way; the second and the notification wait for space.
    let (first, second, notified) =
        tokio::join!(ask(Some(big.as_bytes())), ask(None), child.notify("n", None, short));
    assert!(matches!(first, Err(ConnectionError::Timeout { sent: true, .. })), "{first:?}");
    assert!(matches!(second, Err(ConnectionError::Timeout { sent: false, .. })), "{second:?}");
    assert!(matches!(notified, Err(ConnectionError::Timeout { sent: false, .. })), "{notified:?}");
    assert!(child.is_alive());
    // Closing its stdin does not end it, SIGTERM does.
    let (waiting, status) = tokio::join!(child.request("m", None, SOON, None), child.stop());
    assert!(matches!(waiting, Err(ConnectionError::Exited { sent: false, .. })), "{waiting:?}");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status.unwrap()), Some(libc::SIGTERM));
    ends(life).await;
}

#[tokio::test]
async fn a_call_that_was_given_up_in_the_queue_is_never_sent() {
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
    assert!(matches!(stuck, Err(ConnectionError::Timeout { sent: true, .. })), "{stuck:?}");
    assert!(matches!(queued, Err(ConnectionError::Timeout { sent: false, .. })), "{queued:?}");
    child.notify("last", None, SOON).await.unwrap();
    // SAFETY: the process is ours and alive.
    unsafe { libc::kill(ready["pid"].as_i64().unwrap() as i32, libc::SIGUSR1) };
    for expected in ["stuck", "notifications/cancelled", "last"] {
        assert_eq!(told(&mut notices).await.0, expected);
    }
}
