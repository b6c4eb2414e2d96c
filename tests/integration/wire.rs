//! Every kind of message that the gateway makes itself: checked against the official types, and compared
//! with `golden/wire.json`, so that a change is seen. `BLESS=1` writes the file again.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::clients::assert_types;
use crate::events::Events;
use crate::faulty_server::FaultyServer;
use crate::harness::{Gateway, blessed, blesses, free_port, initialize, legacy_call, read, root};

const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";
const ERROR: &str = "JSONRPCErrorResponse";

struct WireRecording {
    gateway: Gateway,
    _fake: FaultyServer,
    fake_url: String,
    gone: u16,
    /// A legacy session at /mcp.
    session: String,
    golden: Map<String, Value>,
    typed: Vec<Value>,
}

impl WireRecording {
    async fn open() -> Self {
        let fake = FaultyServer::start().await;
        let gone = free_port();
        let fake_url = fake.url.clone();
        let mut gateway = Gateway::start(&config(&fake_url, gone, "")).await;
        // A response that fails after its head ends the connection, which that head could not announce.
        gateway.http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .read_timeout(crate::harness::TEST_TIMEOUT)
            .build()
            .expect("a client");
        gateway
            .eventually("two are connected", async |g| g.get("/health").await.contains("\"connected\":2"))
            .await;
        let session = gateway.initialize("/mcp").await;
        Self { gateway, _fake: fake, fake_url, gone, session, golden: Map::new(), typed: Vec::new() }
    }

    /// Records a message under a name, with its status.
    fn note(&mut self, name: &str, kind: &str, revision: &str, status: u16, mut message: Value) {
        self.typed.push(json!({"type": kind, "revision": revision, "message": message}));
        mask(&mut message);
        let before = self.golden.insert(name.to_owned(), json!({"status": status, "message": message}));
        assert!(before.is_none(), "{name} twice");
    }

    async fn modern(&mut self, name: &str, kind: &str, method: &str, params: Value) {
        let (status, message) = self.gateway.modern("/mcp", method, params).await;
        self.note(&format!("modern: {name}"), kind, MODERN, status, message);
    }

    async fn legacy(&mut self, name: &str, kind: &str, method: &str, params: Value) {
        let body = json!({"jsonrpc": "2.0", "id": "one", "method": method, "params": params});
        let (status, message) = self.gateway.say("/mcp", &self.session, &body).await;
        self.note(&format!("legacy: {name}"), kind, LEGACY, status, message);
    }

    /// A rejection of a request.
    async fn refused(&mut self, name: &str, revision: &str, request: reqwest::RequestBuilder) {
        let (status, message) = read(request.send().await.expect("an answer")).await;
        self.note(&format!("refused: {name}"), ERROR, revision, status, message);
    }
}

fn config(fake: &str, gone: u16, more: &str) -> String {
    let fake = json!({"url": fake, "timeout": "1s", "max_response": "1KiB"});
    let gone = json!({"url": format!("http://127.0.0.1:{gone}/mcp")});
    format!(
        "mcpServers: {{{more}fake: {fake}, gone: {gone}, demo: {{builtin: demo}}}}\nlimits: {{max_body: 64KiB}}\n"
    )
}

/// Replaces values that differ from run to run by fixed ones.
fn mask(value: &mut Value) {
    match value {
        Value::String(text) if text == env!("CARGO_PKG_VERSION") => *text = "VERSION".into(),
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(members) => members.values_mut().for_each(mask),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_messages_are_as_they_were_and_of_the_official_types() {
    let mut book = WireRecording::open().await;
    results(&mut book).await;
    refusals_of_bodies(&mut book).await;
    refusals_of_requests(&mut book).await;
    failures_of_servers(&mut book).await;
    announcements(&mut book).await;
    assert_types(&book.typed).await;
    compare(&book.golden);
}

async fn results(book: &mut WireRecording) {
    let opened = book.gateway.post("/mcp", None, &initialize(json!({})));
    let (status, message) = read(opened.send().await.expect("an answer")).await;
    book.note("legacy: initialize", "InitializeResult", LEGACY, status, message);
    let opened = book.gateway.post("/servers/fake/mcp", None, &initialize(json!({})));
    let (status, message) = read(opened.send().await.expect("an answer")).await;
    book.note("legacy: initialize at one server", "InitializeResult", LEGACY, status, message);
    book.legacy("ping", "EmptyResult", "ping", json!({})).await;
    book.legacy("logging/setLevel", "EmptyResult", "logging/setLevel", json!({"level": "info"})).await;
    book.modern("server/discover", "DiscoverResult", "server/discover", json!({})).await;
    for (method, kind) in [
        ("tools/list", "ListToolsResult"),
        ("prompts/list", "ListPromptsResult"),
        ("resources/list", "ListResourcesResult"),
        ("resources/templates/list", "ListResourceTemplatesResult"),
    ] {
        book.legacy(method, kind, method, json!({})).await;
        book.modern(method, kind, method, json!({})).await;
    }
    book.legacy("tools/call", "CallToolResult", "tools/call", call("demo__echo", "hi")).await;
    book.modern("tools/call", "CallToolResult", "tools/call", call("demo__echo", "hi")).await;
}

fn call(tool: &str, how: &str) -> Value {
    json!({"name": tool, "arguments": {"how": how, "message": how}})
}

async fn refusals_of_bodies(book: &mut WireRecording) {
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{}1{}}}"#,
        "[".repeat(99),
        "]".repeat(99)
    );
    let long =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{}"}}}}"#, "x".repeat(70_000));
    for (name, body) in [
        ("not JSON", "{".to_owned()),
        ("not an object", "1".to_owned()),
        ("a batch", "[]".to_owned()),
        ("not JSON-RPC", r#"{"id":1,"method":"ping"}"#.to_owned()),
        ("a duplicate key", r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#.to_owned()),
        ("too deep", deep),
        ("too large", long),
        ("a response that nobody waits for", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned()),
    ] {
        let params = json!({});
        let request = book.gateway.modern_request("/mcp", "ping", params).body(body);
        book.refused(name, MODERN, request).await;
    }
}

async fn refusals_of_requests(book: &mut WireRecording) {
    let modern = |method: &str, params: Value| book.gateway.modern_request("/mcp", method, params);
    let post = |session: Option<&str>, body: &Value| book.gateway.post("/mcp", session, body);
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let body = |meta: Value| {
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}).to_string()
    };
    let unsupported = json!({"io.modelcontextprotocol/protocolVersion": "2099-01-01",
        "io.modelcontextprotocol/clientCapabilities": {}});
    let session = book.session.clone();
    let full = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {}});
    let requests = [
        ("a missing header", MODERN, {
            let request = post(None, &json!({})).header("mcp-protocol-version", MODERN);
            request.body(body(full.clone()))
        }),
        ("no _meta", MODERN, modern("tools/list", json!({})).body(body(json!({})))),
        ("an unsupported revision", MODERN, {
            let request = post(None, &json!({})).header("mcp-protocol-version", "2099-01-01");
            request.header("mcp-method", "tools/list").body(body(unsupported))
        }),
        (
            "header and body disagree",
            MODERN,
            modern("tools/list", json!({})).body({
                let meta = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {}});
                json!({"jsonrpc": "2.0", "id": 1, "method": "prompts/list", "params": {"_meta": meta}})
                    .to_string()
            }),
        ),
        ("a header twice", MODERN, modern("tools/list", json!({})).header("mcp-method", "tools/list")),
        ("an unknown tool (modern)", MODERN, modern("tools/call", call("none", ""))),
        ("an unknown tool (legacy)", LEGACY, post(Some(&session), &legacy_call(1, "none", json!({})))),
        ("an unknown resource (modern)", MODERN, modern("resources/read", json!({"uri": "none://x"}))),
        ("an unknown prompt (modern)", MODERN, modern("prompts/get", json!({"name": "none"}))),
        ("an unknown method (modern)", MODERN, modern("none/such", json!({}))),
        ("a method of the other era (modern)", MODERN, modern("ping", json!({}))),
        ("an unknown cursor (modern)", MODERN, modern("tools/list", json!({"cursor": "x"}))),
        ("an unknown method (legacy)", LEGACY, {
            post(Some(&session), &json!({"jsonrpc": "2.0", "id": 1, "method": "none/such"}))
        }),
        ("no session", LEGACY, post(None, &ping)),
        ("an unknown session", LEGACY, post(Some("none"), &ping)),
        ("a foreign page", LEGACY, post(Some(&session), &ping).header("origin", "https://evil.example")),
        ("a foreign host", LEGACY, post(Some(&session), &ping).header("host", "evil.example")),
        ("another verb", LEGACY, book.gateway.http.put(book.gateway.url("/mcp"))),
        ("a server that was never reached", MODERN, modern("tools/call", call("gone__do", ""))),
        ("an endpoint that was never reached", LEGACY, {
            book.gateway.post("/servers/gone/mcp", None, &initialize(json!({})))
        }),
    ];
    for (name, revision, request) in requests {
        book.refused(name, revision, request).await;
    }
}

async fn failures_of_servers(book: &mut WireRecording) {
    for how in ["html", "other", "big", "hang"] {
        let request = book.gateway.modern_request("/mcp", "tools/call", call("fake__do", how));
        book.refused(&format!("a server that does: {how}"), MODERN, request).await;
    }
    let mut params = call("fake__do", "break");
    params["_meta"]["progressToken"] = json!("p");
    let mut stream = Events::open(book.gateway.modern_request("/mcp", "tools/call", params)).await;
    let all = stream.rest().await;
    assert_eq!((all.len(), &all[0]["method"]), (2, &json!("notifications/progress")), "{all:?}");
    book.note("refused: a stream that broke", ERROR, MODERN, 200, all[1].clone());
    let (status, answer) = book.gateway.call("fake__do", json!({"how": "well"})).await;
    assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("well")), "{answer}");
}

async fn announcements(book: &mut WireRecording) {
    let wanted = json!({"notifications": {"toolsListChanged": true, "promptsListChanged": true,
        "resourceSubscriptions": ["fake://one", "none://such"]}});
    let mut listen = Events::open(book.gateway.modern_request("/mcp", "subscriptions/listen", wanted)).await;
    let first = listen.next().await.expect("the acknowledgement");
    book.note("modern: listen, acknowledged", "SubscriptionsAcknowledgedNotification", MODERN, 200, first);
    let session = book.session.clone();
    let mut stream = Events::of_session(&book.gateway, "/mcp", &session).await;
    book.gateway.rewrite(&config(&book.fake_url, book.gone, "more: {builtin: demo}, "));
    let changed = listen.next().await.expect("an announcement");
    book.note("modern: list_changed", "ToolListChangedNotification", MODERN, 200, changed);
    let changed = stream.next().await.expect("an announcement");
    book.note("legacy: list_changed", "ToolListChangedNotification", LEGACY, 200, changed);
    book.gateway.process.signal(libc::SIGTERM);
    let last = listen.rest().await.pop().expect("a result at the end");
    book.note("modern: listen, at the end", "SubscriptionsListenResult", MODERN, 200, last);
}

fn compare(golden: &Map<String, Value>) {
    let file: PathBuf = root().join("tests/integration/golden/wire.json");
    if blesses() {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("the folder is made");
        let text = serde_json::to_string_pretty(golden).expect("JSON");
        std::fs::write(&file, text + "\n").expect("the golden file is written");
        blessed("golden/wire.json");
    }
    let text = std::fs::read_to_string(&file).expect("the golden file is there; BLESS=1 makes it");
    let was: Map<String, Value> = serde_json::from_str(&text).expect("the golden file is JSON");
    for (name, message) in golden {
        assert_eq!(was.get(name), Some(message), "{name} is not what it was (BLESS=1 if it should not be)");
    }
    assert_eq!(was.len(), golden.len(), "a message is gone");
}
