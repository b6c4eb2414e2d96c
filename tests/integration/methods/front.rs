//! The same walk over standard input: what `toolgate stdio` forwards, as a bridge and as a gateway of its
//! own.

use mcp::MessageKind;
use mcp::method;
use serde_json::{Value, json};

use super::walk::{Marks, params, passes, server, setup, words};
use crate::harness::{TEST_TIMEOUT, initialize, legacy_call};
use crate::mock_server::MockServer;
use crate::stdio::{StdioClient, modern};

/// A running bridge, the server behind it, and the messages so far.
struct Walk<'a> {
    front: StdioClient,
    server: &'a MockServer,
    marks: Marks,
    many: bool,
    revision: &'static str,
    /// Messages that must not reach the server, however late.
    kept: Vec<(String, String)>,
}

impl Walk<'_> {
    fn tool(&self) -> &'static str {
        if self.many { "s__tool" } else { "tool" }
    }

    /// Opens a session, and an upstream session with it.
    async fn open(&mut self) {
        let mut hello = initialize(json!({"elicitation": {}, "roots": {"listChanged": true}}));
        hello["params"]["protocolVersion"] = json!(self.revision);
        let answer = self.front.ask(&hello).await;
        assert_eq!(answer["result"]["protocolVersion"], self.revision, "{answer}");
        self.sit().await;
    }

    async fn sit(&mut self) {
        self.front.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        let answer = self.front.ask(&legacy_call("sit", self.tool(), json!({}))).await;
        assert!(answer.get("result").is_some(), "{answer}");
    }

    fn heard(&self, mark: &str) -> bool {
        self.server.all().iter().any(|seen| seen.body.to_string().contains(mark))
    }

    /// A method's message of this kind, and its mark.
    fn message(&self, kind: MessageKind, word: &str) -> (String, Value) {
        let mark = self.marks.next();
        let mut params = params(word, self.many, &mark);
        if word == "initialize" {
            params["protocolVersion"] = json!(self.revision);
        }
        let mut body = match self.revision {
            "2026-07-28" => modern(mark.clone(), word, params),
            _ => json!({"jsonrpc": "2.0", "id": mark, "method": word, "params": params}),
        };
        match kind {
            MessageKind::Request => {}
            MessageKind::Notification => drop(body.as_object_mut().expect("an object").remove("id")),
            MessageKind::Response => {
                body = json!({"jsonrpc": "2.0", "id": mark, "result": {"method": word, "_meta": {"walk": mark}}});
            }
        }
        (mark, body)
    }

    async fn step(&mut self, kind: MessageKind, word: &str, batch: bool) {
        let (mark, body) = self.message(kind, word);
        let what = format!("{} many: {} {kind:?} {word:?} in a batch: {batch}", self.revision, self.many);
        if batch {
            self.front.say(&json!([body])).await;
            if kind == MessageKind::Request {
                let answers = self.front.next().await;
                assert_eq!(answers[0]["id"], json!(mark), "{what}: {answers}");
            }
        } else {
            self.front.say(&body).await;
            match (kind, word, self.revision) {
                (MessageKind::Request, "subscriptions/listen", "2026-07-28") => {
                    // Its response is a stream without end.
                    let began = self.front.method("notifications/subscriptions/acknowledged");
                    assert!(tokio::time::timeout(TEST_TIMEOUT / 4, began).await.is_ok(), "{what}");
                    let cancelled = json!({"requestId": mark});
                    self.front
                        .say(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled}))
                        .await;
                }
                (MessageKind::Request, ..) => {
                    let answer =
                        tokio::time::timeout(TEST_TIMEOUT / 4, self.front.answer(mark.clone())).await;
                    let answer = answer.unwrap_or_else(|_| panic!("{what}: no answer"));
                    assert!(
                        answer.get("result").is_some() || answer.get("error").is_some(),
                        "{what}: {answer}"
                    );
                }
                _ => {}
            }
        }
        // The gateway itself sends a level to many servers, without the mark.
        let output = self.many && word == "logging/setLevel";
        if passes(kind, word, self.revision, self.many) && !output {
            let came = async {
                while !self.heard(&mark) {
                    tokio::task::yield_now().await;
                }
            };
            assert!(tokio::time::timeout(TEST_TIMEOUT / 4, came).await.is_ok(), "{what}");
        } else {
            self.kept.push((mark, what));
        }
        if (kind, word, batch) == (MessageKind::Request, "initialize", false) && self.revision != "2026-07-28"
        {
            // The client has opened a new session.
            self.sit().await;
        }
    }

    async fn all(mut self, batches: bool) {
        for batch in [false, true].into_iter().filter(|batch| !batch || batches) {
            for word in words() {
                for kind in [MessageKind::Request, MessageKind::Notification, MessageKind::Response] {
                    self.step(kind, word, batch).await;
                }
            }
        }
        // All messages were read when the bridge has ended cleanly.
        self.front.end();
        assert!(self.front.exit().await.0.success());
        let seen: Vec<String> = self.server.all().iter().map(|seen| seen.body.to_string()).collect();
        for (mark, what) in self.kept {
            assert!(!seen.iter().any(|body| body.contains(&mark)), "{what}");
        }
    }
}

/// The only messages without an id are those of the list.
fn only_known_notes(server: &MockServer) {
    for seen in server.all().iter().filter(|seen| seen.http_method == "POST" && seen.body.get("id").is_none())
    {
        let word = seen.method();
        let known =
            method::ROWS.iter().any(|row| row.as_str() == word && row.kind == MessageKind::Notification);
        assert!(known && word.starts_with("notifications/"), "{}", seen.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_bridge_only_what_the_list_says_reaches_the_server() {
    let server = server().await;
    let gateway = setup(&server, "legacy").await;
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        for path in ["/mcp", "/servers/s/mcp"] {
            let front = StdioClient::bridge(&gateway.url(path), &[]);
            let many = path == "/mcp";
            let mut walk = Walk {
                front,
                server: &server,
                marks: Marks::of(revision, path),
                many,
                revision,
                kept: Vec::new(),
            };
            walk.open().await;
            walk.all(revision == "2025-03-26").await;
        }
    }
    only_known_notes(&server);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_bridge_of_the_modern_era_only_what_the_list_says_reaches_the_server() {
    let server = server().await;
    let gateway = setup(&server, "modern").await;
    for path in ["/mcp", "/servers/s/mcp"] {
        let front = StdioClient::bridge(&gateway.url(path), &[]);
        let (many, revision) = (path == "/mcp", "2026-07-28");
        let marks = Marks::of(revision, path);
        Walk { front, server: &server, marks, many, revision, kept: Vec::new() }.all(false).await;
    }
    only_known_notes(&server);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_gateway_of_its_own_only_what_the_list_says_reaches_the_server() {
    for (era, revision) in [("legacy", "2025-03-26"), ("legacy", "2025-11-25"), ("modern", "2026-07-28")] {
        let server = server().await;
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            "mcpServers: {{s: {{url: \"{}\", era: {era}, health: {{interval: 1h}}}}, demo: {{builtin: demo}}}}\n",
            server.url
        );
        std::fs::write(folder.path().join("toolgate.yaml"), config).expect("it is written");
        let mut front = StdioClient::start(folder.path(), &["-c", "toolgate.yaml"]);
        if revision == "2026-07-28" {
            listed(&mut front).await;
        }
        let marks = Marks::of(revision, "own");
        let mut walk = Walk { front, server: &server, marks, many: true, revision, kept: Vec::new() };
        if revision != "2026-07-28" {
            walk.open().await;
        }
        walk.all(revision == "2025-03-26").await;
        only_known_notes(&server);
    }
}

/// Waits until the server's lists were read.
async fn listed(front: &mut StdioClient) {
    for n in 0.. {
        let list = front.ask(&modern(n, "tools/list", json!({}))).await;
        if list.to_string().contains("s__tool") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
