//! A server of the legacy versions whose every message a test chooses: it keeps sessions, holds calls and
//! streams open until the test sends on them, and forgets sessions on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, good, http, json_answer};

/// A stream that is open at the server.
pub struct OpenSession {
    pub session: String,
    /// The id of the call; null for a GET stream.
    pub id: Value,
    out: Mutex<Option<UnboundedSender<Vec<u8>>>>,
}

impl OpenSession {
    /// Sends a message, as an event.
    pub fn say(&self, message: &Value) {
        self.raw(&format!("data: {message}\n\n"));
    }

    pub fn raw(&self, text: &str) {
        let out = self.out.lock().expect("no test panics here");
        // The other side may have disconnected.
        let _ = out.as_ref().map(|out| out.send(text.as_bytes().to_vec()));
    }

    pub fn end(&self) {
        *self.out.lock().expect("no test panics here") = None;
    }

    pub fn answer(&self, text: &str) {
        let result = json!({"content": [{"type": "text", "text": text}]});
        self.say(&json!({"jsonrpc": "2.0", "id": self.id, "result": result}));
        self.end();
    }

    /// Whether the gateway is still connected.
    pub fn is_heard(&self) -> bool {
        let out = self.out.lock().expect("no test panics here");
        out.as_ref().is_some_and(|out| !out.is_closed())
    }
}

#[derive(Default)]
pub struct State {
    /// Known sessions, and the client that opened each.
    pub sessions: BTreeMap<String, String>,
    opened: usize,
    /// GET streams.
    pub streams: Vec<Arc<OpenSession>>,
    /// Calls of `hold`.
    pub calls: Vec<Arc<OpenSession>>,
    /// Its rejections: `method` or HTTP method to status.
    pub refuses: BTreeMap<&'static str, &'static str>,
    pub version: Option<&'static str>,
    /// Its response in an unknown session, byte by byte; 404 if not set.
    pub unknown: Option<Vec<u8>>,
    /// Lists that differ from the initial ones.
    pub lists: BTreeMap<&'static str, Value>,
    /// Its response to a tool call, byte by byte; [`SENT`] is replaced by the id of the request.
    pub answers: BTreeMap<&'static str, Vec<u8>>,
    /// Its tools beside `tool`, `hold` and `late`.
    pub tools: Vec<&'static str>,
}

/// As long as the ids that the gateway sends.
pub const SENT: &str = "tg-0123456789abcdef";

pub struct ScriptedServer {
    pub mock: MockServer,
    state: Arc<Mutex<State>>,
}

impl ScriptedServer {
    pub async fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let kept = state.clone();
        let mock =
            MockServer::start(move |seen| play(&mut kept.lock().expect("no test panics here"), seen)).await;
        Self { mock, state }
    }

    pub fn url(&self) -> &str {
        &self.mock.url
    }

    /// Gives access to its state.
    pub fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().expect("no test panics here"))
    }

    /// The sessions of clients, in the order in which they were opened.
    pub fn clients(&self) -> Vec<String> {
        let of_client = |(id, who): (&String, &String)| (who != "toolgate").then(|| id.clone());
        self.with(|state| state.sessions.iter().filter_map(of_client).collect())
    }

    /// As after a restart: all sessions are unknown, and all streams end.
    pub fn forget(&self) {
        self.with(|state| {
            state.sessions.clear();
            state.streams.drain(..).chain(state.calls.drain(..)).for_each(|open| open.end());
        });
    }

    /// Reports list changes in the gateway's own session.
    pub fn change(&self) {
        let setup = self.with(|state| {
            state.sessions.iter().rev().find(|(_, who)| *who == "toolgate").map(|(id, _)| id.clone())
        });
        let stream = setup.and_then(|setup| self.stream(&setup));
        let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        stream.expect("the gateway listens").say(&changed);
    }

    /// The open GET stream of a session, if the gateway listens there.
    pub fn stream(&self, session: &str) -> Option<Arc<OpenSession>> {
        self.with(|state| {
            let mut all = state.streams.iter().rev();
            all.find(|open| open.session == session && open.is_heard()).cloned()
        })
    }

    /// The last call that it holds.
    pub fn call(&self) -> Option<Arc<OpenSession>> {
        self.with(|state| state.calls.last().cloned())
    }

    /// The requests of a method, in order.
    pub fn heard(&self, method: &str) -> Vec<RecordedRequest> {
        self.mock.all().into_iter().filter(|seen| seen.method() == method).collect()
    }

    /// The id of the last call that reached it.
    pub fn sent(&self) -> Value {
        self.heard("tools/call").last().expect("a call").body["id"].clone()
    }

    /// The clients' answers to its requests.
    pub fn replies(&self) -> Vec<RecordedRequest> {
        let all = self.mock.all().into_iter();
        all.filter(|seen| seen.http_method == "POST" && seen.method().is_empty()).collect()
    }

    /// The requests of an HTTP method, with the sessions that they name.
    pub fn verbs(&self, http_method: &str) -> Vec<String> {
        let all = self.mock.all().into_iter().filter(|seen| seen.http_method == http_method);
        all.map(|seen| seen.header("mcp-session-id").unwrap_or_default().to_owned()).collect()
    }
}

fn play(state: &mut State, seen: &RecordedRequest) -> MockReply {
    let session = seen.header("mcp-session-id").unwrap_or_default().to_owned();
    let word = if seen.http_method == "POST" { seen.method() } else { &seen.http_method };
    if let Some(status) = state.refuses.get(word) {
        return MockReply::Say(http(status, &[], ""));
    }
    if seen.method() == "initialize" {
        state.opened += 1;
        let id = format!("s{:03}", state.opened);
        let who = seen.body["params"]["clientInfo"]["name"].as_str().unwrap_or_default().to_owned();
        state.sessions.insert(id.clone(), who);
        let capabilities =
            json!({"tools": {"listChanged": true}, "resources": {"subscribe": true}, "logging": {}});
        let version = state.version.unwrap_or("2025-11-25");
        let result = json!({"protocolVersion": version, "capabilities": capabilities,
            "serverInfo": {"name": "stage", "version": "1"}});
        let head = format!("Mcp-Session-Id: {id}");
        return MockReply::Say(http(
            "200 OK",
            &["Content-Type: application/json", &head],
            &answer(seen, &result),
        ));
    }
    if seen.method() == "server/discover" {
        return MockReply::Say(http("400 Bad Request", &[], ""));
    }
    if !state.sessions.contains_key(&session) {
        let unknown = state.unknown.clone();
        return MockReply::Say(unknown.unwrap_or_else(|| http("404 Not Found", &[], "")));
    }
    let open = |id: Value| {
        let (out, pieces) = unbounded_channel();
        let open = OpenSession { session: session.clone(), id, out: Mutex::new(Some(out)) };
        (Arc::new(open), MockReply::Pour(pieces))
    };
    match (seen.http_method.as_str(), seen.method()) {
        (_, method) if state.lists.contains_key(method) => {
            MockReply::Say(json_answer(&answer(seen, &state.lists[method])))
        }
        ("DELETE", _) => {
            state.sessions.remove(&session);
            for open in state.streams.iter().chain(&state.calls).filter(|open| open.session == session) {
                open.end();
            }
            MockReply::Say(http("204 No Content", &[], ""))
        }
        ("GET", _) => {
            let (open, act) = open(Value::Null);
            state.streams.push(open);
            act
        }
        (_, "tools/call") if seen.tool() == "hold" => {
            let (open, act) = open(seen.body["id"].clone());
            state.calls.push(open);
            act
        }
        // Reports only after a while that the session is unknown.
        (_, "tools/call") if seen.tool() == "late" => {
            MockReply::Pause(Vec::new(), Duration::from_millis(1500), http("404 Not Found", &[], ""))
        }
        (_, "tools/call") if state.answers.contains_key(seen.tool()) => {
            let id =
                seen.body["id"].as_str().filter(|id| id.len() == SENT.len()).expect("an id of the gateway");
            let answer = String::from_utf8_lossy(&state.answers[seen.tool()]).replace(SENT, id);
            MockReply::Say(answer.into_bytes())
        }
        (_, "tools/list") => {
            let names: Vec<&str> =
                ["tool", "hold", "late"].into_iter().chain(state.tools.iter().copied()).collect();
            MockReply::Say(json_answer(&answer(seen, &crate::mock_server::tools(&names))))
        }
        (_, "resources/list") => {
            let resources = json!([{"uri": "test://a", "name": "a"}, {"uri": "test://b", "name": "b"}]);
            MockReply::Say(json_answer(&answer(seen, &json!({"resources": resources}))))
        }
        (_, "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel") => {
            MockReply::Say(json_answer(&answer(seen, &json!({}))))
        }
        (_, "resources/read") => MockReply::Say(json_answer(&answer(seen, &json!({"contents": []})))),
        (_, "resources/templates/list") => {
            MockReply::Say(json_answer(&answer(seen, &json!({"resourceTemplates": []}))))
        }
        // A client's answer to a request.
        ("POST", "") => MockReply::Say(http("202 Accepted", &[], "")),
        _ => MockReply::Say(good(seen)),
    }
}
