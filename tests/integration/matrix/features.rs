//! What each client tries at each server. A feature that does not come through panics with the reason.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::clients::Client;
use super::servers::{OWN, Upstream, World};
use crate::harness::{Gateway, TEST_TIMEOUT};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    List,
    Call,
    Structured,
    ToolError,
    Progress,
    Log,
    CancelByMessage,
    CancelByLeaving,
    ElicitationForm,
    ElicitationUrl,
    Sampling,
    Roots,
    ListChange,
    Subscription,
    Completion,
    Reconnect,
    Resume,
}

use Feature::*;

pub const FEATURES: [Feature; 17] = [
    List,
    Call,
    Structured,
    ToolError,
    Progress,
    Log,
    CancelByMessage,
    CancelByLeaving,
    ElicitationForm,
    ElicitationUrl,
    Sampling,
    Roots,
    ListChange,
    Subscription,
    Completion,
    Reconnect,
    Resume,
];

impl Feature {
    pub fn title(self) -> &'static str {
        match self {
            List => "lists",
            Call => "tool call",
            Structured => "structured result",
            ToolError => "error of a tool",
            Progress => "progress",
            Log => "log messages",
            CancelByMessage => "cancellation by a message",
            CancelByLeaving => "cancellation by leaving",
            ElicitationForm => "elicitation, form",
            ElicitationUrl => "elicitation, URL",
            Sampling => "sampling",
            Roots => "roots",
            ListChange => "change of a list",
            Subscription => "subscription to a resource",
            Completion => "completion",
            Reconnect => "restart of the server",
            Resume => "broken stream",
        }
    }

    /// Whether a legacy stdio server needs `isolation: session` for it: the message does not say which call it
    /// belongs to.
    pub fn needs_own_process(self) -> bool {
        matches!(self, Log | ElicitationForm | ElicitationUrl | Sampling | Roots)
    }
}

/// One cell, and a feature in it.
pub struct At<'a> {
    pub world: &'a World,
    pub up: Upstream,
    pub feature: Feature,
    /// A text that only this cell has.
    pub mark: String,
}

impl At<'_> {
    fn server(&self) -> &'static str {
        match self.up {
            Upstream::LegacyStdio if self.feature.needs_own_process() => OWN,
            up => up.name(),
        }
    }

    fn named(&self, name: &str) -> String {
        format!("{}__{name}", self.server())
    }

    fn is_builtin(&self) -> bool {
        self.up == Upstream::Builtin
    }

    fn tool(&self, name: &str, arguments: Value) -> Value {
        json!({"name": self.named(name), "arguments": arguments})
    }
}

/// Tries one feature with an open client of `/mcp`.
pub async fn attempt<C: Client>(at: &At<'_>, client: &mut C) {
    match at.feature {
        List => lists(at, client).await,
        Call => {
            let said = client.call(&at.named("echo"), json!({"message": at.mark})).await;
            assert_eq!(said.text(), at.mark);
        }
        Structured => {
            let counted = client.call(&at.named("counter"), json!({"name": at.mark, "add": 3})).await;
            let result = &counted.message["result"];
            assert_eq!(result["structuredContent"], json!({"count": 3}), "{}", counted.message);
            assert_eq!(counted.text(), "3");
        }
        ToolError => {
            let tool = if at.is_builtin() { "fail" } else { "fail_tool" };
            let failed = client.call(&at.named(tool), json!({})).await;
            assert_eq!(failed.message["result"]["isError"], true, "{}", failed.message);
            assert!(failed.text().contains("fails"), "{}", failed.message);
        }
        Progress => {
            let mut params = at.tool("stream", json!({"n": 3, "interval_ms": 5}));
            params["_meta"]["progressToken"] = json!(at.mark);
            let done = client.request("tools/call", params).await;
            assert_eq!(done.text(), "streamed 3");
            let notes = done.notes("notifications/progress");
            let steps: Vec<&Value> = notes.iter().map(|params| &params["progress"]).collect();
            assert_eq!(steps, [1.0, 2.0, 3.0], "{:?}", done.events);
            assert!(notes.iter().all(|params| params["progressToken"] == at.mark), "{notes:?}");
        }
        Log => {
            client.log_level("info").await;
            let done = client.call(&at.named("stream"), json!({"n": 3, "interval_ms": 5})).await;
            assert_eq!(done.text(), "streamed 3");
            let notes = done.notes("notifications/message");
            let words: Vec<&Value> = notes.iter().map(|params| &params["data"]).collect();
            assert_eq!(words, ["step 1", "step 2", "step 3"], "log messages");
            assert!(notes.iter().all(|params| params["level"] == "info"), "{notes:?}");
        }
        CancelByMessage => {
            let mut client = sleeps::<C>(at).await;
            client.cancel().await;
            has_ended::<C>(at).await;
        }
        CancelByLeaving => {
            sleeps::<C>(at).await.leave().await;
            has_ended::<C>(at).await;
        }
        ElicitationForm | ElicitationUrl | Sampling | Roots => asks(at, client).await,
        ListChange => list_change(at, client).await,
        Subscription => subscription::<C>(at).await,
        Completion => {
            let of = json!({"type": "ref/prompt", "name": at.named("test_prompt_with_arguments")});
            let params = json!({"ref": of, "argument": {"name": "arg1", "value": "par"}});
            let done = client.request("completion/complete", params).await.message;
            assert_eq!(done["result"]["completion"]["values"], json!(["paris", "park", "party"]), "{done}");
        }
        Reconnect => unreachable!("all clients of a server at once"),
        Resume => {
            let mut breaking = C::open(&at.world.gateway, "/mcp").await;
            let mut params = if at.is_builtin() {
                at.tool("echo", json!({"message": at.mark}))
            } else {
                at.tool("stream", json!({"n": 4, "interval_ms": 50}))
            };
            params["_meta"]["progressToken"] = json!(at.mark);
            let done = breaking.broken("tools/call", params).await;
            assert_eq!(done.text(), if at.is_builtin() { at.mark.as_str() } else { "streamed 4" });
            let notes = done.notes("notifications/progress");
            let steps: Vec<&Value> = notes.iter().map(|params| &params["progress"]).collect();
            let all = if at.is_builtin() { vec![] } else { vec![1.0, 2.0, 3.0, 4.0] };
            assert_eq!(steps, all, "{:?}", done.events);
        }
    }
}

/// Whether a list has this entry on one of its pages.
pub async fn listed<C: Client>(client: &mut C, method: &str, key: &str, name: &str) -> bool {
    let mut params = json!({});
    loop {
        let page = client.request(method, params).await.message;
        let entries = page["result"][key].as_array().unwrap_or_else(|| panic!("no list: {page}"));
        if entries.iter().any(|entry| entry["name"] == name) {
            return true;
        }
        let Some(next) = page["result"].get("nextCursor") else { return false };
        params = json!({"cursor": next});
    }
}

async fn lists<C: Client>(at: &At<'_>, client: &mut C) {
    assert!(listed(client, "tools/list", "tools", &at.named("echo")).await, "no tool");
    if at.is_builtin() {
        return;
    }
    let prompt = at.named("test_simple_prompt");
    assert!(listed(client, "prompts/list", "prompts", &prompt).await, "no prompt");
    assert!(listed(client, "resources/list", "resources", "watched-resource").await, "no resource");
    let all = "resources/templates/list";
    assert!(listed(client, all, "resourceTemplates", "template").await, "no template");
}

/// Of the built-in server, each client has one with one place: it shows which calls run.
fn one<C: Client>() -> String {
    format!("one_{}", C::NAME)
}

/// A client whose call has reached the server, where it lasts.
async fn sleeps<C: Client>(at: &At<'_>) -> C {
    let gateway = &at.world.gateway;
    if !at.is_builtin() {
        let mut client = C::open(gateway, "/mcp").await;
        let arguments = json!({"seconds": 600, "mark": at.mark});
        client.begin("tools/call", at.tool("sleep", arguments)).await;
        at.world.counts(at.server(), &format!("{}.started", at.mark), 1).await;
        return client;
    }
    let tool = format!("{}__sleep", one::<C>());
    loop {
        let mut client = C::open(gateway, "/mcp").await;
        client.begin("tools/call", json!({"name": tool, "arguments": {"seconds": 600}})).await;
        for _ in 0..50 {
            if at.world.is_taken(&one::<C>()).await {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The look itself had the place when the call came.
        client.leave().await;
    }
}

/// Waits until that call has ended at the server.
async fn has_ended<C: Client>(at: &At<'_>) {
    if at.is_builtin() {
        let free = async |_: &Gateway| !at.world.is_taken(&one::<C>()).await;
        at.world.gateway.eventually("the call has ended", free).await;
    } else {
        at.world.counts(at.server(), &format!("{}.cancelled", at.mark), 1).await;
    }
}

/// The server asks the client during a call; the result has the client's answer.
async fn asks<C: Client>(at: &At<'_>, client: &mut C) {
    let url = format!("https://example.com/{}", at.mark);
    let (tool, arguments, method, expected) = match at.feature {
        ElicitationForm => {
            ("test_elicitation", json!({"message": at.mark}), "elicitation/create", "my username")
        }
        ElicitationUrl => ("ask_url", json!({"url": url}), "elicitation/create", "action=accept"),
        Sampling => ("test_sampling", json!({"prompt": at.mark}), "sampling/createMessage", "said to"),
        _ => ("test_input_required_result_list_roots", json!({}), "roots/list", "Roots: root file:///root"),
    };
    let done = client.call(&at.named(tool), arguments).await;
    assert!(done.text().contains(expected), "{}", done.message);
    assert_eq!(done.asked.len(), 1, "{:?}", done.asked);
    let (asked, params) = (&done.asked[0]["method"], &done.asked[0]["params"]);
    assert_eq!(asked, method);
    match at.feature {
        ElicitationForm => assert_eq!(params["message"], at.mark),
        ElicitationUrl => assert_eq!((&params["mode"], &params["url"]), (&json!("url"), &json!(url))),
        Sampling => assert!(done.text().contains(&at.mark), "{}", done.message),
        _ => {}
    }
}

/// The client hears of a tool that comes and of its end, and the list is as it was told.
async fn list_change<C: Client>(at: &At<'_>, client: &mut C) {
    let mut listening = C::open(&at.world.gateway, "/mcp").await;
    listening.listen(None).await;
    let tool = at.named("test_dynamic_tool");
    let before = listed(&mut listening, "tools/list", "tools", &tool).await;
    for expected in [!before, before] {
        let said = client.call(&at.named("test_trigger_tool_change"), json!({})).await;
        assert_eq!(said.text(), "The tools changed");
        // Changes of other servers are told too.
        loop {
            listening.heard("notifications/tools/list_changed").await;
            if listed(client, "tools/list", "tools", &tool).await == expected {
                break;
            }
        }
    }
}

/// The client hears of a change of its resource, and of no other.
async fn subscription<C: Client>(at: &At<'_>) {
    let path = format!("/servers/{}/mcp", at.server());
    let uri = |what: &str| format!("test://template/{}-{what}/data", at.mark);
    let mut client = C::open(&at.world.gateway, &path).await;
    let mut touching = C::open(&at.world.gateway, &path).await;
    client.listen(Some(&uri("mine"))).await;
    // A server over HTTP learns of the subscription before its stream stands.
    let deadline = Instant::now() + TEST_TIMEOUT;
    let note = loop {
        assert!(Instant::now() < deadline, "no update");
        for what in ["other", "mine"] {
            let said = touching.call("touch", json!({"uri": uri(what)})).await;
            assert_eq!(said.text(), format!("touched {}", uri(what)));
        }
        let heard = client.heard("notifications/resources/updated");
        if let Ok(note) = tokio::time::timeout(Duration::from_millis(500), heard).await {
            break note;
        }
    };
    assert_eq!(note["params"]["uri"], uri("mine"), "{note}");
}

/// A call that changes a count of the server, and what it is then; `None` if the server did not answer.
pub async fn counted<C: Client>(at: &At<'_>, client: &mut C, add: u64) -> Option<u64> {
    let answer = client.call(&at.named("counter"), json!({"name": at.mark, "add": add})).await.message;
    answer["result"]["structuredContent"]["count"].as_u64()
}

/// Ends the process of the server, by a call which cannot be answered then.
pub async fn crash<C: Client>(at: &At<'_>, client: &mut C) {
    let ended = client.call(&at.named("crash"), json!({})).await.message;
    assert!(ended.get("result").is_none(), "{ended}");
}

/// The same client goes on at the new process, which has lost the count.
pub async fn goes_on<C: Client>(at: &At<'_>, client: &mut C) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(count) = counted(at, client, 1).await {
            assert!((1..7).contains(&count), "{count}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the server does not come back for the client");
}
