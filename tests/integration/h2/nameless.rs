//! Errors that name no request, on reused HTTP/1.1 connections: a message about one call that arrives while
//! another call waits reaches no client (RFC 9112 §9.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::foreign::request;
use crate::harness::Gateway;
use crate::mock_server::{good, http, json_answer};
use crate::raw::{Answer, Client, Head};

/// Messages that name no request, with the word of another call in them.
const FORMS: [fn(&str) -> Vec<u8>; 8] = [
    |word| {
        json_answer(&format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":-32000,"message":"{word}"}}}}"#))
    },
    |word| json_answer(&format!(r#"{{"jsonrpc":"2.0","error":{{"code":-32000,"message":"{word}"}}}}"#)),
    |word| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":-32000,"message":"{word}"}}}}"#);
        http("400 Bad Request", &["Content-Type: application/json"], &body)
    },
    |word| http("422 No", &["Content-Type: application/json"], &format!(r#"{{"message":"{word}"}}"#)),
    |word| http("500 No", &["Content-Type: application/json"], &format!(r#"["{word}"]"#)),
    |word| http("401 No", &["Content-Type: application/json"], &format!(r#"{{"message":"{word}"}}"#)),
    |word| http("302 Found", &[&format!("Location: /{word}")], ""),
    |word| {
        let note = |text: &str| {
            let params = json!({"level": "info", "data": text});
            format!(
                "data: {}\n\n",
                json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
            )
        };
        let error = format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":-32000,"message":"{word}"}}}}"#);
        http("200 OK", &["Content-Type: text/event-stream"], &format!("{}data: {error}\n\n", note(word)))
    },
];

/// A server that sends one more message about each call: while the next call waits, or a moment after its
/// own response.
#[derive(Clone, Copy)]
enum When {
    Next,
    After(Duration),
}

struct Babbler {
    port: u16,
    /// How often it did so.
    said: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Babbler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Babbler {
    async fn start(form: fn(&str) -> Vec<u8>, when: When) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let said = Arc::<AtomicUsize>::default();
        let count = said.clone();
        let serve = async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a TCP socket has the option");
                tokio::spawn(babble(stream, form, when, count.clone()));
            }
        };
        Self { port, said, task: tokio::spawn(serve).abort_handle() }
    }
}

async fn babble(
    mut stream: TcpStream,
    form: fn(&str) -> Vec<u8>,
    when: When,
    said: Arc<AtomicUsize>,
) -> Option<()> {
    let (mut held, mut last) = (Vec::new(), None::<String>);
    loop {
        let seen = request(&mut stream, &mut held).await?;
        if seen.method() != "tools/call" {
            stream.write_all(&good(&seen)).await.ok()?;
            continue;
        }
        let word = seen.body["params"]["arguments"]["word"].as_str()?.to_owned();
        if let (When::Next, Some(last)) = (when, last.take()) {
            said.fetch_add(1, Ordering::Relaxed);
            stream.write_all(&form(&last)).await.ok()?;
        }
        let result = json!({"content": [{"type": "text", "text": word}], "resultType": "complete"});
        let answer = json!({"jsonrpc": "2.0", "id": seen.body["id"], "result": result});
        stream.write_all(&json_answer(&answer.to_string())).await.ok()?;
        if let When::After(pause) = when {
            tokio::time::sleep(pause).await;
            said.fetch_add(1, Ordering::Relaxed);
            stream.write_all(&form(&word)).await.ok()?;
        }
        last = Some(word);
    }
}

/// The path of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Path {
    /// Streamed by Pingora.
    Streamed,
    /// By the gateway's own client, because the body is long and of unknown length.
    Carried,
    /// By the same, because the caller accepts only JSON.
    OnlyJson,
}

const PATHS: [Path; 3] = [Path::Streamed, Path::Carried, Path::OnlyJson];

async fn call(gateway: &Gateway, path: Path, session: Option<&str>, tool: &str, word: &str) -> Answer {
    let mut params = json!({"name": tool, "arguments": {"word": word}});
    let mut head = match session {
        None => {
            params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {}});
            Head::modern("/mcp", "tools/call", Some(tool))
        }
        Some(id) => Head::post("/mcp").with("Mcp-Session-Id", id).with("MCP-Protocol-Version", "2025-11-25"),
    };
    if path == Path::OnlyJson {
        head = head.set("Accept", "application/json");
    }
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let bytes = match path {
        Path::Carried => head.chunked(&[body.as_bytes(), &[b' '; 100_000]].concat(), 50_000),
        _ => head.whole(body.as_bytes()),
    };
    Client::connect(gateway.port).await.exchange(&bytes).await.expect("an answer")
}

fn holds(answer: &Answer, word: &str) -> bool {
    let there = |text: &[u8]| memchr::memmem::find(text, word.as_bytes()).is_some();
    there(&answer.body) || answer.header("location").is_some_and(|place| place.contains(word))
}

async fn before(servers: &[Babbler]) -> Gateway {
    let servers: String = servers
        .iter()
        .enumerate()
        .map(|(n, server)| {
            format!("  s{n}: {{url: \"http://127.0.0.1:{}/mcp\", health: {{interval: 1h}}}}\n", server.port)
        })
        .collect();
    Gateway::start(&format!("mcpServers:\n{servers}log: {{level: error}}\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_request_is_no_answer_to_the_next_caller() {
    let mut servers = Vec::new();
    for n in 0..FORMS.len() * PATHS.len() {
        servers.push(Babbler::start(FORMS[n / PATHS.len()], When::Next).await);
    }
    let gateway = before(&servers).await;
    for (n, server) in servers.iter().enumerate() {
        let (path, tool) = (PATHS[n % PATHS.len()], format!("s{n}__tool"));
        let what = format!("form {} {path:?}", n / PATHS.len());
        let first = call(&gateway, path, None, &tool, "word-ann").await;
        assert!(holds(&first, "word-ann"), "{what}: {}", first.message());
        // It goes where the first went, and the server sends another message about the first. If the
        // connection was not returned to the pool yet, the next call but one finds it.
        let mut tries = 0;
        let second = loop {
            tries += 1;
            let second = call(&gateway, path, None, &tool, &format!("word-bob{tries}")).await;
            for other in (1..tries).map(|n| format!("word-bob{n}")).chain(["word-ann".to_owned()]) {
                assert!(!holds(&second, &other), "{what}: {} {}", second.status, second.message());
            }
            if server.said.load(Ordering::Relaxed) > 0 {
                break second;
            }
            assert!(tries < 20, "{what}: it was another connection each time");
        };
        assert!(second.message()["error"]["message"].is_string(), "{what}: {}", second.message());
        assert_eq!(second.message()["id"], 1, "{what}");
        // After that no call gets it, on any connection.
        for word in ["word-cid", "word-dan"] {
            let next = call(&gateway, path, None, &tool, word).await;
            assert!(!holds(&next, "word-ann") && !holds(&next, "word-bob"), "{what}: {}", next.message());
            assert!(holds(&next, word), "{what}: {}", next.message());
        }
        let [ann, bob] = [gateway.initialize("/mcp").await, gateway.initialize("/mcp").await];
        for (session, word) in
            [(&ann, "word-eve"), (&bob, "word-fay"), (&ann, "word-eve"), (&bob, "word-fay")]
        {
            let answer = call(&gateway, path, Some(session), &tool, word).await;
            let other = if word == "word-eve" { "word-fay" } else { "word-eve" };
            for foreign in [other, "word-ann", "word-bob", "word-cid", "word-dan"] {
                assert!(!holds(&answer, foreign), "{what} {word}: {}", answer.message());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_request_reaches_nobody_whenever_it_comes() {
    let mut servers = Vec::new();
    for (n, form) in FORMS.iter().enumerate() {
        let pause = Duration::from_micros([0, 50, 200, 400, 800, 1_500, 3_000, 0][n]);
        servers.push(Babbler::start(*form, When::After(pause)).await);
    }
    let gateway = Arc::new(before(&servers).await);
    let callers = (0..18).map(|number| {
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let path = PATHS[number % 3];
            let session = if number % 2 == 0 { None } else { Some(gateway.initialize("/mcp").await) };
            let mut answered = 0;
            for count in 0..24 {
                let tool = format!("s{}__tool", count % FORMS.len());
                let own = format!("word-{number}-");
                let answer = call(&gateway, path, session.as_deref(), &tool, &format!("{own}{count}")).await;
                let text = String::from_utf8_lossy(&answer.body);
                let foreign = text.matches("word-").count() - text.matches(&own).count();
                assert_eq!(foreign, 0, "{path:?} {number}: {text}");
                answered += usize::from(text.contains(&format!("{own}{count}\"")) && text.contains("result"));
            }
            answered
        })
    });
    let mut answered = 0;
    for caller in callers.collect::<Vec<_>>() {
        answered += caller.await.expect("a caller ends");
    }
    let said: usize = servers.iter().map(|server| server.said.load(Ordering::Relaxed)).sum();
    assert!(answered > 18 * 24 / 2 && said > 100, "{answered} answers, {said} things said beside them");
}

/// A server that is correct except for the id of its errors: its errors are reported when the call is sent
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_an_error_without_an_id_are_heard_on_a_connection_of_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let serve = async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut held = Vec::new();
                while let Some(seen) = request(&mut stream, &mut held).await {
                    let bad = seen.body["params"]["arguments"]["word"] == "bad";
                    let answer = if bad { FORMS[2]("the words") } else { good(&seen) };
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    };
    let server = Babbler { port, said: Arc::default(), task: tokio::spawn(serve).abort_handle() };
    let servers = [server];
    for path in PATHS {
        let gateway = before(&servers).await;
        assert_eq!(call(&gateway, path, None, "s0__tool", "good").await.status, 200, "{path:?}");
        let first = call(&gateway, path, None, "s0__tool", "bad").await;
        // It may have come on a new connection, where it was accepted at once.
        let output = first.message().to_string();
        assert!(output.contains("names no request") || holds(&first, "the words"), "{path:?}: {output}");
        let second = call(&gateway, path, None, "s0__tool", "bad").await;
        assert!(holds(&second, "the words"), "{path:?}: {}", second.message());
        assert_eq!((second.status, &second.message()["id"]), (400, &json!(1)), "{path:?}");
    }
}
