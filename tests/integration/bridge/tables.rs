//! What clients of each era see of servers of the other.

use serde_json::{Value, json};

use super::{Bridged, able, modern_call, send};
use crate::harness::{Gateway, a_fixture_of, legacy_call};

async fn names(gateway: &Gateway, session: &str, method: &str, key: &str) -> [Vec<String>; 2] {
    let read = |answer: &Value| -> Vec<String> {
        let list = answer["result"].as_object().and_then(|result| result.values().find_map(Value::as_array));
        let list = list.unwrap_or_else(|| panic!("no list: {answer}"));
        list.iter().map(|entry| entry[key].as_str().expect("a name").to_owned()).collect()
    };
    let (_, modern) = gateway.modern("/mcp", method, json!({})).await;
    let ask = json!({"jsonrpc": "2.0", "id": 1, "method": method});
    let (_, legacy) = gateway.say("/mcp", session, &ask).await;
    [read(&modern), read(&legacy)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federated_list_is_one_list_in_either_era() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let session = gateway.initialize("/mcp").await;
    for (method, key) in [
        ("tools/list", "name"),
        ("prompts/list", "name"),
        ("resources/list", "uri"),
        ("resources/templates/list", "uriTemplate"),
    ] {
        let [modern, legacy] = names(gateway, &session, method, key).await;
        assert_eq!(modern, legacy, "{method}");
        assert!(!modern.is_empty(), "{method}");
    }
    let [modern, _] = names(gateway, &session, "tools/list", "name").await;
    for server in ["old", "new", "old_pipe", "new_pipe"] {
        assert!(modern.contains(&format!("{server}__echo")), "{server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_have_the_form_of_the_clients_era() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let session = gateway.initialize("/mcp").await;
    for server in ["old", "old_pipe"] {
        let tool = format!("{server}__counter");
        let call = modern_call(1, &tool, json!({"name": "form", "add": 3}), &json!({}));
        let (status, said) = send(gateway, "/mcp", "", &call).await;
        let result = &said["result"];
        assert_eq!((status, &result["resultType"]), (200, &json!("complete")), "{said}");
        assert_eq!(result["structuredContent"]["count"], 3, "{said}");
        assert!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"].is_string(), "{said}");
        let unknown = modern_call(2, &format!("{server}__fail_tool"), json!({}), &json!({}));
        let (_, said) = send(gateway, "/mcp", "", &unknown).await;
        assert_eq!(said["result"]["isError"], true, "{said}");
        let read = json!({"uri": "test://nothing/at/all"});
        let (status, said) = gateway.modern(&format!("/servers/{server}/mcp"), "resources/read", read).await;
        assert_eq!((status, &said["error"]["code"]), (400, &json!(-32602)), "{said}");
    }
    for server in ["new", "new_pipe"] {
        let call = legacy_call("c", &format!("{server}__counter"), json!({"name": "form", "add": 3}));
        let (status, said) = gateway.say("/mcp", &session, &call).await;
        let result = said["result"].as_object().unwrap_or_else(|| panic!("{said}"));
        assert_eq!((status, &result["structuredContent"]["count"]), (200, &json!(3)), "{said}");
        for word in ["resultType", "ttlMs", "cacheScope"] {
            assert!(!result.contains_key(word), "{said}");
        }
        assert_eq!(said["id"], "c");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_asks_only_what_its_client_has_declared() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    // A legacy server learns it from the capabilities of the session that its call runs in.
    let call = modern_call(1, "old__test_elicitation", json!({"message": "who?"}), &json!({}));
    let (_, said) = send(gateway, "/mcp", "", &call).await;
    assert!(said["error"].is_object() || said["result"]["isError"] == true, "{said}");
    // A modern server answers with an error of its era, which becomes one of the client's.
    let session = gateway.initialize("/mcp").await;
    let call = legacy_call(1, "new__test_elicitation", json!({"message": "who?"}));
    let (status, said) = gateway.say("/mcp", &session, &call).await;
    assert_eq!(status, 200);
    assert_ne!(said["error"]["code"], -32021, "{said}");
    assert!(said["error"].is_object() || said["result"]["isError"] == true, "{said}");
    // A tool that is only for clients with sampling is there for those that have it.
    let call = modern_call(1, "old__test_sampling", json!({"prompt": "x"}), &able());
    let (_, said) = send(gateway, "/mcp", "", &call).await;
    assert_eq!(said["result"]["resultType"], "input_required", "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_bridge_off_the_client_learns_why() {
    let (_old, url) = a_fixture_of("legacy").await;
    let gateway = Gateway::start(&format!("mcpServers: {{old: {{url: \"{url}\", bridge: off}}}}\n")).await;
    let call = modern_call(1, "old__echo", json!({"message": "x"}), &json!({}));
    let (status, said) = send(&gateway, "/mcp", "", &call).await;
    assert_eq!(status, 400, "{said}");
    let message = said["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("legacy") && message.contains("modern"), "{said}");
}
