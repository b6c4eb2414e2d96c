//! What servers may send to clients: the same list, from the other side.

use mcp::MessageKind;
use mcp::method;
use mcp::method::{Destination, ROWS, Sender};
use serde_json::{Value, json};

use crate::harness::{Gateway, initialize};
use crate::legacy::scripted_server::ScriptedServer;
use crate::legacy::{hold, listed, lists, setup_with};
use crate::mock_server::{MockReply, MockServer};

fn words() -> Vec<&'static str> {
    let unknown = ["", "Notifications/message", "notifications/x/list_changed", "vendor/event"];
    let mut all: Vec<&str> = ROWS.iter().map(method::MethodRule::as_str).chain(unknown).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn reaches(kind: MessageKind, word: &str, revision: &str) -> bool {
    method::find(Sender::Server, kind, word, revision)
        .is_some_and(|row| row.destination == Destination::Client)
}

#[tokio::test]
async fn a_legacy_client_hears_what_its_revision_has_and_other_questions_are_declined() {
    let stage = ScriptedServer::start().await;
    let gateway = Gateway::start(&setup_with(&stage, "", "")).await;
    lists(&gateway, "s__hold").await;
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut body = initialize(json!({"sampling": {}, "roots": {}}));
        body["params"]["protocolVersion"] = json!(revision);
        let opened = gateway.post("/mcp", None, &body).send().await.expect("an answer");
        let session = opened.headers()["mcp-session-id"].to_str().expect("an id").to_owned();
        let before = stage.replies().len();
        let (mut stream, open) = hold(&gateway, &stage, &session, "held").await;
        let (mut expected, mut declined) = (Vec::new(), Vec::new());
        for (number, word) in words().into_iter().enumerate() {
            open.say(&json!({"jsonrpc": "2.0", "method": word, "params": {"level": "info", "data": "x"}}));
            open.say(&json!({"jsonrpc": "2.0", "id": number, "method": word, "params": {}}));
            if reaches(MessageKind::Notification, word, revision) {
                expected.push((word, false));
            }
            match reaches(MessageKind::Request, word, revision) {
                true => expected.push((word, true)),
                false => declined.push(number as u64),
            }
        }
        // No message at all, or more than one at a time.
        for odd in [
            json!({"jsonrpc": "2.0"}),
            json!({"jsonrpc": "2.0", "id": "held"}),
            json!({"jsonrpc": "2.0", "id": "x", "result": {}, "error": {"code": 1, "message": "m"}}),
            json!({"jsonrpc": "2.0", "method": 7}),
        ] {
            open.say(&odd);
        }
        open.answer("done");
        let mut said = stream.rest().await;
        assert_eq!(said.pop().expect("an answer")["id"], "held");
        let heard: Vec<(&str, bool)> =
            said.iter().map(|m| (m["method"].as_str().unwrap_or("?"), m.get("id").is_some())).collect();
        assert_eq!(heard, expected, "{revision}");
        let output = || -> Vec<Value> {
            stage.replies().split_off(before).into_iter().map(|seen| seen.body).collect()
        };
        gateway.eventually("all others are declined", async |_| output().len() == declined.len()).await;
        let mut ids: Vec<u64> = output().iter().filter_map(|body| body["id"].as_u64()).collect();
        ids.sort_unstable();
        assert_eq!(ids, declined, "{revision}");
        for body in output() {
            // The gateway answers a ping for the client.
            let ping =
                body["id"].as_u64() == words().iter().position(|word| *word == "ping").map(|n| n as u64);
            assert!(
                if ping { body["result"].is_object() } else { body["error"]["code"] == -32601 },
                "{body}"
            );
        }
    }
    let dropped = "toolgate_messages_dropped_total{from=\"server\",kind=\"notification\",method=\"tools/call\",server=\"s\"}";
    assert_eq!(gateway.metric(dropped).await, 3.0);
}

#[tokio::test]
async fn a_modern_client_hears_progress_and_log_messages_of_its_call_and_nothing_else() {
    let server = MockServer::start(|seen| match seen.method() {
        "tools/call" => {
            let mut body = String::new();
            for word in words() {
                body += &format!("data: {}\n\n", json!({"jsonrpc": "2.0", "method": word, "params": {}}));
            }
            let result = json!({"content": [], "resultType": "complete"});
            body +=
                &format!("data: {}\n\n", json!({"jsonrpc": "2.0", "id": seen.body["id"], "result": result}));
            MockReply::Say(crate::mock_server::http("200 OK", &["Content-Type: text/event-stream"], &body))
        }
        _ => MockReply::Good,
    })
    .await;
    let gateway =
        Gateway::start(&format!("mcpServers: {{p: {{url: \"{}\", era: modern}}}}\n", server.url)).await;
    listed(&gateway, "p__tool").await;
    let request = gateway.modern_request("/mcp", "tools/call", json!({"name": "p__tool", "arguments": {}}));
    let mut said = crate::events::Events::open(request).await.rest().await;
    assert!(said.pop().expect("an answer")["result"].is_object());
    let heard: Vec<&str> = said.iter().map(|m| m["method"].as_str().unwrap_or("?")).collect();
    assert_eq!(heard, ["notifications/message", "notifications/progress"]);
}
