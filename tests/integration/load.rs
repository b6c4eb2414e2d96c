//! Load of every kind, for tests in which something happens to the gateway meanwhile: each call must get
//! its correct response, and each stream must end correctly.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::events::Events;
use crate::harness::{Gateway, TEST_TIMEOUT, initialize, legacy_call, read};
use crate::raw;

const CALLS: usize = 0;
const LISTS: usize = 1;
const MULTIPLEXED: usize = 2;
const RAW: usize = 3;
const STREAMED: usize = 4;
const TOLD: usize = 5;
const REFUSED: usize = 6;
pub const KINDS: [&str; 7] =
    ["calls", "lists", "calls over HTTP/2", "calls by hand", "streams", "announcements", "unknown tools"];

/// The tools to call.
#[derive(Clone, Copy)]
pub struct Tools {
    /// Tools that always exist.
    pub stay: &'static [&'static str],
    /// Tools of servers that are added and removed: a call is answered, or the tool is unknown, or its
    /// server is still starting.
    pub pass: &'static [&'static str],
    /// The gateway itself is replaced: sessions are forgotten, and GET streams end cleanly.
    pub replaced: bool,
}

pub struct Load {
    run: Arc<Run>,
    tasks: Vec<JoinHandle<()>>,
}

struct Run {
    gateway: Arc<Gateway>,
    tools: Tools,
    stop: AtomicBool,
    done: [AtomicUsize; KINDS.len()],
}

impl Load {
    /// 72 clients.
    pub fn start(gateway: &Arc<Gateway>, tools: Tools) -> Self {
        let (stop, done) = (AtomicBool::new(false), Default::default());
        let run = Arc::new(Run { gateway: gateway.clone(), tools, stop, done });
        let mut tasks = Vec::new();
        for number in 0..32 {
            tasks.push(tokio::spawn(run.clone().calls(number)));
        }
        for number in 32..40 {
            tasks.push(tokio::spawn(run.clone().multiplexed(number)));
        }
        for number in 40..56 {
            tasks.push(tokio::spawn(run.clone().by_hand(number)));
        }
        for number in 56..64 {
            tasks.push(tokio::spawn(run.clone().streams(number)));
        }
        for number in 64..72 {
            tasks.push(tokio::spawn(run.clone().listens(number)));
        }
        Self { run, tasks }
    }

    /// The number of completed operations, by kind.
    pub fn done(&self) -> [usize; KINDS.len()] {
        self.run.done.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Waits until this many more of all calls with an immediate response are done.
    pub async fn more(&self, calls: usize) {
        let count = || -> usize { self.done()[..=RAW].iter().sum() };
        let goal = count() + calls;
        self.run.gateway.eventually("the load goes on", async |_| self.is_well() && count() >= goal).await;
    }

    /// Whether there was no failure so far.
    pub fn is_well(&self) -> bool {
        assert!(!self.tasks.iter().any(JoinHandle::is_finished), "a client has failed: see above");
        true
    }

    /// Lets all clients finish; each kind must have done something.
    pub async fn end(self) -> [usize; KINDS.len()] {
        self.run.stop.store(true, Ordering::Relaxed);
        let Self { run, tasks } = self;
        for task in tasks {
            task.await.expect("no call failed and no stream was cut");
        }
        run.done.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// Sends a request that was built for another client.
fn by(client: &Client, request: RequestBuilder) -> RequestBuilder {
    RequestBuilder::from_parts(client.clone(), request.build().expect("a request"))
}

fn client() -> Client {
    Client::builder().no_proxy().read_timeout(TEST_TIMEOUT).build().expect("a client")
}

/// One legacy client, which opens a new session when its own is unknown.
struct Member {
    run: Arc<Run>,
    client: Client,
    session: String,
}

impl Member {
    async fn join(run: Arc<Run>) -> Self {
        let mut member = Self { run, client: client(), session: String::new() };
        member.open().await;
        member
    }

    async fn open(&mut self) {
        let noted = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        loop {
            let (client, gateway) = (&self.client, &self.run.gateway);
            let opened = by(client, gateway.post("/mcp", None, &initialize(json!({})))).send().await;
            let opened = opened.expect("the gateway answers");
            assert_eq!(opened.status(), 200);
            let id = opened.headers()["mcp-session-id"].to_str().expect("an ASCII id").to_owned();
            let noted = by(client, gateway.post("/mcp", Some(&id), &noted)).send().await;
            self.session = id;
            match noted.expect("the gateway answers").status().as_u16() {
                202 => return,
                // Another gateway has taken over between the two.
                404 if self.run.tools.replaced => {}
                other => panic!("a notification is answered with {other}"),
            }
        }
    }

    /// The response to a message; once more in a new session if another gateway has taken over.
    async fn say(&mut self, message: &Value) -> (u16, Value) {
        loop {
            let request = self.run.gateway.post("/mcp", Some(&self.session), message);
            let answer = read(by(&self.client, request).send().await.expect("the gateway answers")).await;
            if answer.0 != 404 || !self.run.tools.replaced {
                return answer;
            }
            self.open().await;
        }
    }

    async fn leave(self) {
        let end = self.client.delete(self.run.gateway.url("/mcp"));
        end.header("mcp-session-id", &self.session).send().await.expect("the gateway answers");
    }
}

impl Run {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, kind: usize) {
        self.done[kind].fetch_add(1, Ordering::Relaxed);
    }

    /// The tool of a turn, and whether its server is added and removed.
    fn tool(&self, turn: usize) -> (&'static str, bool) {
        let Tools { stay, pass, .. } = self.tools;
        let at = turn % (stay.len() + pass.len());
        match at.checked_sub(stay.len()) {
            None => (stay[at], false),
            Some(at) => (pass[at], true),
        }
    }

    /// Checks the response to a call of `…__echo`.
    fn echoed(
        &self,
        kind: usize,
        (tool, passes): (&str, bool),
        message: &str,
        (status, answer): (u16, Value),
    ) {
        if passes && answer["error"]["message"].as_str().is_some_and(|why| why.contains("Unknown tool")) {
            assert_eq!(answer["error"]["code"], -32602, "{tool}: {status} {answer}");
            return self.count(REFUSED);
        }
        // Its server is in the file, but not ready yet.
        let why = answer["error"]["message"].as_str().filter(|_| passes).unwrap_or_default();
        for (said, refused) in [("is not reachable now", 502), ("is still starting", 503)] {
            if why.contains(said) {
                assert_eq!(status, refused, "{tool}: {answer}");
                return self.count(REFUSED);
            }
        }
        assert_eq!(status, 200, "{tool}: {answer}");
        assert_eq!(answer["result"]["content"][0]["text"], json!(message), "{tool}: {answer}");
        self.count(kind);
    }

    /// Calls answered with JSON, and lists, in both eras.
    async fn calls(self: Arc<Self>, number: usize) {
        let mut member = Member::join(self.clone()).await;
        let mut turn = number;
        while self.goes_on() {
            turn += 1;
            let (modern, lists) = (turn.is_multiple_of(2), turn.is_multiple_of(5));
            let (tool, message) = (self.tool(turn), format!("{number}-{turn}"));
            let (method, params) = match lists {
                true => ("tools/list", json!({})),
                false => ("tools/call", json!({"name": tool.0, "arguments": {"message": message}})),
            };
            let answer = if modern {
                let request = by(&member.client, self.gateway.modern_request("/mcp", method, params));
                read(request.send().await.unwrap_or_else(|error| panic!("{}: {error:?}", tool.0))).await
            } else {
                member.say(&json!({"jsonrpc": "2.0", "id": turn, "method": method, "params": params})).await
            };
            if !lists {
                self.echoed(CALLS, tool, &message, answer);
                continue;
            }
            let tools = answer.1["result"]["tools"].as_array();
            let tools = tools.unwrap_or_else(|| panic!("no list: {} {}", answer.0, answer.1));
            let names: BTreeSet<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
            for name in self.tools.stay {
                assert!(names.contains(name), "{name} is missing in {names:?}");
            }
            self.count(LISTS);
        }
        member.leave().await;
    }

    /// Calls over one connection of HTTP/2.
    async fn multiplexed(self: Arc<Self>, number: usize) {
        let own = Client::builder().no_proxy().read_timeout(TEST_TIMEOUT).http2_prior_knowledge();
        let own = own.build().expect("a client");
        let mut turn = number;
        while self.goes_on() {
            turn += 1;
            let (tool, message) = (self.tool(turn), format!("{number}-{turn}"));
            let params = json!({"name": tool.0, "arguments": {"message": message}});
            let request = by(&own, self.gateway.modern_request("/mcp", "tools/call", params));
            let answer = request.send().await.unwrap_or_else(|error| panic!("{}: {error:?}", tool.0));
            self.echoed(MULTIPLEXED, tool, &message, read(answer).await);
        }
    }

    /// Calls on a kept connection, by a client that never sends a request twice: an unanswered call is
    /// lost.
    async fn by_hand(self: Arc<Self>, number: usize) {
        let mut connection = raw::Client::connect(self.gateway.port).await;
        let mut turn = number;
        while self.goes_on() {
            turn += 1;
            let (tool, message) = (self.tool(turn), format!("{number}-{turn}"));
            let body = json!({"jsonrpc": "2.0", "id": turn, "method": "tools/call", "params": {
                "name": tool.0, "arguments": {"message": message},
                "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                          "io.modelcontextprotocol/clientCapabilities": {}}}});
            let request = raw::Head::modern("/mcp", "tools/call", Some(tool.0));
            let answer = connection.exchange(&request.whole(body.to_string().as_bytes())).await;
            let answer = answer.unwrap_or_else(|| panic!("{}: closed instead of an answer", tool.0));
            assert!(answer.whole, "{}: the answer is cut", tool.0);
            self.echoed(RAW, tool, &message, (answer.status, answer.message()));
            if answer.closes() {
                connection = raw::Client::connect(self.gateway.port).await;
            }
        }
    }

    /// Calls answered with streams; each step must be there.
    async fn streams(self: Arc<Self>, _: usize) {
        let mut member = Member::join(self.clone()).await;
        while self.goes_on() {
            let mut call = legacy_call("s", "fix__stream", json!({"n": 60, "interval_ms": 10}));
            call["params"]["_meta"] = json!({"progressToken": "p"});
            let request = self.gateway.post("/mcp", Some(&member.session), &call);
            let response = by(&member.client, request).send().await.expect("the gateway answers");
            if response.status() == 404 && self.tools.replaced {
                member.open().await;
                continue;
            }
            let mut events = Events::read(response).await;
            let mut steps = 0;
            loop {
                let note = events.next().await.unwrap_or_else(|| panic!("a stream was cut at step {steps}"));
                if note["id"] == "s" {
                    assert!(note["error"].is_null(), "{note}");
                    break;
                }
                if note["method"] == "notifications/progress" {
                    steps += 1;
                    assert_eq!(note["params"]["progress"], f64::from(steps), "one step is missing");
                }
            }
            assert_eq!(steps, 60);
            self.count(STREAMED);
        }
        member.leave().await;
    }

    /// GET streams: one after the other where the gateway is replaced, otherwise one that does not end.
    async fn listens(self: Arc<Self>, number: usize) {
        let modern = number.is_multiple_of(2);
        let mut member = Member::join(self.clone()).await;
        loop {
            let gateway = &self.gateway;
            let wanted = json!({"notifications": {"toolsListChanged": true}});
            let request = match modern {
                true => gateway.modern_request("/mcp", "subscriptions/listen", wanted),
                false => gateway
                    .http
                    .get(gateway.url("/mcp"))
                    .header("accept", "text/event-stream")
                    .header("mcp-session-id", &member.session)
                    .header("mcp-protocol-version", "2025-11-25"),
            };
            let response = by(&member.client, request).send().await.expect("the gateway answers");
            if response.status() == 404 && self.tools.replaced {
                member.open().await;
                continue;
            }
            let mut events = Events::read(response).await;
            let mut last = Value::Null;
            loop {
                match tokio::time::timeout(Duration::from_secs(1), events.next()).await {
                    Ok(Some(message)) => {
                        last = message;
                        self.count(TOLD);
                    }
                    Ok(None) => break,
                    Err(_) if self.goes_on() => {}
                    Err(_) => {
                        drop(events);
                        return member.leave().await;
                    }
                }
            }
            assert!(self.tools.replaced, "a stream of announcements was cut");
            assert!(!modern || last["result"]["resultType"] == "complete", "its end is not told: {last}");
        }
    }
}
