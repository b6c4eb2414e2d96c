//! Requests that the gateway must reject, one by one; no part of them reaches a server.
//!
//! Each table has one gateway in front of one server that records every byte. After a rejection the
//! connection must remain usable, or end if the response says so.

mod http;
mod json;
mod legacy;
mod message;
mod modern;

use serde_json::{Value, json};

use crate::harness::Gateway;
use crate::mock_server::{MockReply, MockServer};
use crate::raw::{Answer, Client, Head};

/// A call that would reach the server.
const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"up__tool","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;

/// The code for an unsupported version; its data name the supported ones.
const UNSUPPORTED: i64 = -32022;

/// The head that belongs to [`CALL`].
fn call_head() -> Head {
    Head::modern("/mcp", "tools/call", Some("up__tool"))
}

/// [`CALL`] with one part replaced by another.
fn call_but(part: &str, by: &str) -> String {
    assert!(CALL.contains(part), "{part} is not in the call");
    CALL.replacen(part, by, 1)
}

/// A request and the expected response.
struct Case {
    what: String,
    request: Vec<u8>,
    status: u16,
    form: Form,
    headers: Vec<(&'static str, &'static str)>,
}

#[derive(Debug)]
enum Form {
    /// A JSON-RPC error with this code, and this id or none.
    Rpc(i64, Option<Value>),
    /// The error object of REST paths.
    Rest,
    /// No error object: the HTTP layer below answered, or there is nothing to report.
    Bare,
}

impl Case {
    fn new(what: impl Into<String>, request: Vec<u8>, status: u16, form: Form) -> Self {
        Self { what: what.into(), request, status, form, headers: Vec::new() }
    }

    /// A JSON-RPC rejection, under the id 7 of [`CALL`].
    fn rpc(what: impl Into<String>, request: Vec<u8>, status: u16, code: i64) -> Self {
        Self::new(what, request, status, Form::Rpc(code, Some(json!(7))))
    }

    /// One without an id.
    fn nameless(what: impl Into<String>, request: Vec<u8>, status: u16, code: i64) -> Self {
        Self::new(what, request, status, Form::Rpc(code, None))
    }

    /// With a header that the response must have.
    fn saying(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// What is wrong with the response.
    fn judge(&self, answer: &Answer) -> Result<(), String> {
        let message = answer.message();
        let fail = |what: &str| Err(format!("{what}: {} {message} {:?}", answer.status, answer.headers));
        if answer.status != self.status || !answer.whole {
            return fail(&format!("expected {} {:?}", self.status, self.form));
        }
        if !matches!(self.form, Form::Bare) && answer.header("x-request-id").is_none() {
            return fail("no X-Request-Id");
        }
        if self.headers.iter().any(|(name, value)| answer.header(name) != Some(value)) {
            return fail(&format!("expected {:?}", self.headers));
        }
        let error = &message["error"];
        let spoken = error["message"].as_str().is_some_and(|words| !words.is_empty());
        match &self.form {
            Form::Rpc(code, id) => {
                if message["jsonrpc"] != "2.0" || error["code"] != *code || !spoken {
                    return fail(&format!("expected code {code}"));
                }
                let data = &error["data"];
                let named = data["supported"] == json!(["2026-07-28"]) && data["requested"].is_string();
                if *code == UNSUPPORTED && !named {
                    return fail("expected the revisions in data");
                }
                if message.get("id") != id.as_ref() {
                    return fail(&format!("expected id {id:?}"));
                }
            }
            Form::Rest if !error["code"].is_string() || !error["request_id"].is_string() || !spoken => {
                return fail("expected the REST form");
            }
            Form::Bare if !message.is_null() => return fail("expected no words"),
            _ => {}
        }
        Ok(())
    }
}

/// A gateway in front of one server, `up`, that records its requests.
async fn setup() -> (Gateway, MockServer) {
    let mock = MockServer::start(|_| MockReply::Good).await;
    let config = format!(
        "mcpServers: {{up: {{url: \"{}\", health: {{interval: 1h}}}}, other: {{builtin: demo}}}}\n\
         limits: {{max_body: 64KiB, max_header: 8KiB}}\n",
        mock.url
    );
    (Gateway::start(&config).await, mock)
}

/// Sends every case over a connection of its own and reports all failures.
async fn run(setup: (Gateway, MockServer), cases: Vec<Case>) {
    let (gateway, mock) = setup;
    let mut wrong = Vec::new();
    for case in &cases {
        let mut client = Client::connect(gateway.port).await;
        let judged = match client.exchange(&case.request).await {
            None => Err("no answer".to_owned()),
            Some(answer) => match case.judge(&answer) {
                Ok(()) => after(&mut client, answer.closes()).await,
                Err(why) => Err(why),
            },
        };
        if let Err(why) = judged {
            wrong.push(format!("{}: {why}", case.what));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(mock.calls().is_empty(), "reached the server: {:?}", mock.calls());
    // The same server does record a valid call.
    let mut client = Client::connect(gateway.port).await;
    let answer = client.exchange(&call_head().whole(CALL.as_bytes())).await.expect("an answer");
    assert_eq!((answer.status, mock.calls().len()), (200, 1), "{}", answer.message());
}

/// After the response, the connection ends if that was announced, and is usable if not.
async fn after(client: &mut Client, closes: bool) -> Result<(), String> {
    if closes {
        return if client.ended().await { Ok(()) } else { Err("more came after the last answer".into()) };
    }
    let list = call_but("tools/call", "tools/list");
    let request = Head::modern("/mcp", "tools/list", None).whole(list.as_bytes());
    match client.exchange(&request).await {
        Some(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("the connection is of no use afterwards: {other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_json_are_refused() {
    run(setup().await, json::cases()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_no_sound_message_is_refused() {
    run(setup().await, message::cases()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_two_http_readers_could_take_differently_are_refused() {
    run(setup().await, http::cases()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_requests_whose_head_and_body_disagree_are_refused() {
    run(setup().await, modern::cases()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_requests_without_their_session_are_refused() {
    let setup = setup().await;
    let [all, single] = [setup.0.initialize("/mcp").await, setup.0.initialize("/servers/up/mcp").await];
    let cases = legacy::cases(&all, &single);
    run(setup, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_http_itself_forbids_get_no_further() {
    let (gateway, mock) = setup().await;
    let mut wrong = Vec::new();
    for (what, request) in http::broken() {
        let mut client = Client::connect(gateway.port).await;
        match client.exchange(&request).await {
            Some(answer) if !(400..500).contains(&answer.status) => wrong.push(format!("{what}: {answer:?}")),
            Some(answer) if answer.closes() && !client.ended().await => {
                wrong.push(format!("{what}: goes on"))
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(mock.calls().is_empty(), "reached the server: {:?}", mock.calls());
}
