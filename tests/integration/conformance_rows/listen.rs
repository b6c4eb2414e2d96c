//! `subscriptions/listen`: the acknowledgement first, then exactly the requested notifications, once, under
//! the client's own id, from servers of every kind and through reloads.

use serde_json::{Value, json};

use super::ConformanceSetup;
use crate::events::Events;
use crate::harness::{Gateway, stdio_fixture};

pub async fn listen(gateway: &Gateway, path: &str, wanted: Value) -> (Events, Value) {
    let request = gateway.modern_request(path, "subscriptions/listen", json!({"notifications": wanted}));
    listen_by(request).await
}

/// The same for a request that was made already.
pub async fn listen_by(request: reqwest::RequestBuilder) -> (Events, Value) {
    let mut events = Events::open(request).await;
    let first = events.next().await.expect("a first message");
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    assert_eq!(first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1, "{first}");
    (events, first["params"]["notifications"].clone())
}

/// The next notification, which must carry the id of the subscription.
pub async fn next(events: &mut Events) -> Value {
    let message = events.next().await.expect("an announcement");
    assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1, "{message}");
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_told_once_whatever_server_it_is_of() {
    let setup = ConformanceSetup::start().await;
    let gateway = &setup.gateway;
    let both = json!({"toolsListChanged": true, "promptsListChanged": true});
    let (mut all, honoured) = listen(gateway, "/mcp", both.clone()).await;
    assert_eq!(honoured, both);
    let (mut prompts, honoured) =
        listen(gateway, "/mcp", json!({"promptsListChanged": true, "nonsense": true})).await;
    assert_eq!(honoured, json!({"promptsListChanged": true}));
    for server in ["fix", "two", "pipe"] {
        let (status, _) = gateway.call(&format!("{server}__test_trigger_tool_change"), json!({})).await;
        assert_eq!(status, 200);
        assert_eq!(next(&mut all).await["method"], "notifications/tools/list_changed", "{server}");
        // A list request at once shows it.
        let (_, list) = gateway.modern("/mcp", "tools/list", json!({})).await;
        let new = format!("{server}__test_dynamic_tool");
        assert!(list["result"]["tools"].as_array().expect("tools").iter().any(|tool| tool["name"] == *new));
        let (status, _) = gateway.call(&format!("{server}__test_trigger_prompt_change"), json!({})).await;
        assert_eq!(status, 200);
        // The tools do not follow again.
        assert_eq!(next(&mut all).await["method"], "notifications/prompts/list_changed", "{server}");
        assert_eq!(next(&mut prompts).await["method"], "notifications/prompts/list_changed", "{server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_of_several_servers_are_followed_on_one_stream() {
    let setup = ConformanceSetup::start().await;
    let gateway = &setup.gateway;
    for (path, server) in [("/servers/pipe/mcp", "pipe"), ("/servers/two/mcp", "two"), ("/mcp", "fix")] {
        let wanted = json!({"resourceSubscriptions": ["test://watched-resource", "none://such"]});
        let (mut events, honoured) = listen(gateway, path, wanted).await;
        assert_eq!(honoured, json!({"resourceSubscriptions": ["test://watched-resource"]}), "{path}");
        let touch = |uri: &'static str| gateway.call_of(server, "touch", json!({"uri": uri}));
        // The gateway subscribes at the server in the background: the resource is touched until a
        // notification comes.
        let heard = async {
            let output = next(&mut events).await;
            assert_eq!(output["method"], "notifications/resources/updated", "{path}");
            assert_eq!(output["params"]["uri"], "test://watched-resource", "{path}");
        };
        let touching = async {
            loop {
                touch("test://static-text").await;
                touch("test://watched-resource").await;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = heard => {}
            () = touching => unreachable!("it touches for ever"),
        }
    }
}

impl Gateway {
    /// A call that must succeed.
    async fn call_of(&self, server: &str, tool: &str, arguments: Value) {
        let (status, answer) = self.call(&format!("{server}__{tool}"), arguments).await;
        assert_eq!(status, 200, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_a_reload_takes_away_says_goodbye() {
    let setup = ConformanceSetup::start().await;
    let gateway = &setup.gateway;
    let (mut two, _) = listen(gateway, "/servers/two/mcp", json!({"toolsListChanged": true})).await;
    let (mut all, _) = listen(gateway, "/mcp", json!({"toolsListChanged": true})).await;
    let session = gateway.initialize("/servers/two/mcp").await;
    let mut old = Events::of_session(gateway, "/servers/two/mcp", &session).await;
    let servers = json!({"fix": {"url": setup.direct}, "pipe": stdio_fixture()});
    gateway.rewrite(&format!("mcpServers: {servers}\n"));
    let last = two.rest().await.pop().expect("a result");
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!(1), &json!("complete")), "{last}");
    assert_eq!(last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1, "{last}");
    assert_eq!(next(&mut all).await["method"], "notifications/tools/list_changed");
    assert_eq!(old.rest().await, Vec::<Value>::new(), "the session's stream ends");
}
