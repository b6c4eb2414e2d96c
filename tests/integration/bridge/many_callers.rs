//! Many modern callers at one legacy server: how many sessions they have there, whose they are, and what that
//! costs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::{modern_call, text};
use crate::access::key;
use crate::harness::Gateway;
use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, http, json_answer};
use crate::process::resident;
use crate::raw::{Answer, Client, Head};

const CALLERS: usize = 200;
const CALLS: usize = 10_000;
/// Connections that make calls at a time. Any of them makes those of any caller.
const CONNECTIONS: usize = 16;

/// The sessions of a legacy server, as it knows them itself.
#[derive(Default)]
struct Sessions {
    opened: usize,
    /// Those of clients; the gateway's own is not among them.
    of_clients: HashSet<String>,
    most_at_once: usize,
    /// The callers whose words came in a session.
    callers: HashMap<String, BTreeSet<String>>,
    /// How often a session was asked for its notification stream, which this server does not have.
    streams: HashMap<String, usize>,
    /// Calls without a session, or in one that is not open.
    strays: usize,
}

impl Sessions {
    fn reply(&mut self, seen: &RecordedRequest) -> MockReply {
        let session = seen.header("mcp-session-id").unwrap_or_default();
        match (seen.http_method.as_str(), seen.method()) {
            ("DELETE", _) => {
                self.of_clients.remove(session);
                MockReply::Good
            }
            ("GET", _) => {
                *self.streams.entry(session.to_owned()).or_default() += 1;
                MockReply::Good
            }
            (_, "initialize") => {
                self.opened += 1;
                let id = format!("session-{}", self.opened);
                if seen.body["params"]["clientInfo"]["name"] == "test" {
                    self.of_clients.insert(id.clone());
                    self.most_at_once = self.most_at_once.max(self.of_clients.len());
                }
                let result = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                    "serverInfo": {"name": "mock", "version": "1"}});
                let session = format!("Mcp-Session-Id: {id}");
                let headers = ["Content-Type: application/json", &*session];
                MockReply::Say(http("200 OK", &headers, &answer(seen, &result)))
            }
            // It is legacy only.
            (_, "server/discover") => {
                let error = json!({"jsonrpc": "2.0", "id": seen.body["id"],
                    "error": {"code": -32601, "message": "Method not found"}});
                MockReply::Say(json_answer(&error.to_string()))
            }
            (_, "tools/call") => {
                let word = seen.body["params"]["arguments"]["caller"].as_str().unwrap_or_default();
                self.strays += usize::from(!self.of_clients.contains(session));
                self.callers.entry(session.to_owned()).or_default().insert(word.to_owned());
                let result = json!({"content": [{"type": "text", "text": word}]});
                MockReply::Say(json_answer(&answer(seen, &result)))
            }
            _ => MockReply::Good,
        }
    }
}

struct Setup {
    gateway: Gateway,
    sessions: Arc<Mutex<Sessions>>,
    _server: MockServer,
}

impl Setup {
    /// A gateway with as many keys as there are callers, in front of one legacy server.
    async fn start(limits: &str) -> Self {
        let sessions = Arc::new(Mutex::new(Sessions::default()));
        let seen_by = sessions.clone();
        let server =
            MockServer::start(move |seen| seen_by.lock().expect("no holder panics").reply(seen)).await;
        let keys: String = (0..CALLERS).map(|number| key(&name(number), "")).collect();
        let gateway = Gateway::start(&format!(
            "mcpServers: {{s: {{url: \"{}\", era: legacy}}}}\nlimits: {{{limits}}}\nlog: {{level: error}}\nauth:\n  api_keys:\n{keys}",
            server.url
        ))
        .await;
        Self { gateway, sessions, _server: server }
    }

    /// Makes this many calls, `each` in a row by one caller and then by the next; `judge` gets the name of the caller
    /// with each answer. Returns the number of those that succeeded.
    async fn calls(&self, many: usize, each: usize, judge: fn(&str, &Answer)) -> usize {
        let made = Arc::new(AtomicUsize::new(0));
        let work = (0..CONNECTIONS).map(|_| {
            let (made, port) = (made.clone(), self.gateway.port);
            tokio::spawn(async move {
                let (mut client, mut good) = (Client::connect(port).await, 0);
                loop {
                    let call = made.fetch_add(1, Ordering::Relaxed);
                    if call >= many {
                        return good;
                    }
                    let caller = name(call / each % CALLERS);
                    let answer = client.exchange(&request(&caller)).await.expect("an answer");
                    judge(&caller, &answer);
                    good += usize::from(answer.status == 200);
                }
            })
        });
        let done = futures::future::join_all(work).await;
        done.into_iter().map(|done| done.expect("each call is answered as it should be")).sum()
    }

    fn at_server<T>(&self, read: impl Fn(&Sessions) -> T) -> T {
        read(&self.sessions.lock().expect("no holder panics"))
    }

    fn assert_none_is_shared(&self) {
        self.at_server(|sessions| {
            let shared = sessions.callers.iter().find(|(_, callers)| callers.len() > 1);
            assert_eq!((shared, sessions.strays), (None, 0));
        });
    }
}

fn name(number: usize) -> String {
    format!("caller-{number}")
}

fn request(caller: &str) -> Vec<u8> {
    let call = modern_call(1, "s__tool", json!({"caller": caller}), &json!({"elicitation": {}}));
    Head::modern("/mcp", "tools/call", Some("s__tool"))
        .with("Authorization", &format!("Bearer {caller}-key"))
        .whole(call.to_string().as_bytes())
}

fn own_word(caller: &str, answer: &Answer) {
    let message = answer.message();
    assert_eq!((answer.status, text(&message)), (200, caller), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_have_a_session_each_and_memory_stays() {
    let setup = Setup::start(&format!("max_sessions: {CALLERS}, max_sessions_per_caller: 1")).await;
    let pid = setup.gateway.process.id();
    // Three calls of a caller at a time race for its session.
    setup.calls(CALLS / 2, 3, own_word).await;
    let half = resident(pid);
    setup.calls(CALLS / 2, 3, own_word).await;
    let growth = resident(pid).saturating_sub(half);
    setup.assert_none_is_shared();
    // One for each caller, opened once, and none for each call. The gateway has one of its own.
    setup.at_server(|sessions| {
        assert_eq!((sessions.most_at_once, sessions.callers.len()), (CALLERS, CALLERS));
        assert!(sessions.opened <= CALLERS + 1, "{}", sessions.opened);
        let most = sessions.of_clients.iter().filter_map(|session| sessions.streams.get(session)).max();
        assert_eq!(most, Some(&1), "each asked once for a stream that is not there");
    });
    // If each call left half a kilobyte, it would be more.
    assert!(growth < 2 << 20, "{half} bytes grew by {growth}");
}

/// The caller's own word, or the words of the limit.
fn own_word_or_full(caller: &str, answer: &Answer) {
    if answer.status == 200 {
        return own_word(caller, answer);
    }
    let message = answer.message();
    let said = message["error"]["message"].as_str().unwrap_or_default();
    assert_eq!(answer.status, 503, "{message}");
    assert!(said.contains("limits.max_sessions allows (50)"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_callers_than_sessions_never_share_one() {
    let setup = Setup::start("max_sessions: 50").await;
    // Sessions that are in use stay for a minute: those who get none learn why.
    let good = setup.calls(5 * CALLERS, 5, own_word_or_full).await;
    assert!((50..5 * CALLERS).contains(&good), "{good}");
    setup.assert_none_is_shared();
    setup.at_server(|sessions| assert!(sessions.most_at_once <= 50, "{}", sessions.most_at_once));
    assert!(setup.gateway.metric("toolgate_sessions").await <= 50.0);
}
