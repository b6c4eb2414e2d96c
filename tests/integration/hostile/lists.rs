//! Handshakes and lists that no valid server would send.

use serde_json::{Value, json};

use super::{HostileSetup, Status, ask, judge, setup_with, works};
use crate::mock_server::{MockReply, RecordedRequest, answer, json_answer, tools};

fn says(seen: &RecordedRequest, result: &Value) -> MockReply {
    MockReply::Say(json_answer(&answer(seen, result)))
}

/// The names that the gateway lists of `bad`, over all pages.
async fn listed(setup: &HostileSetup) -> Vec<String> {
    let mut names = Vec::new();
    let mut cursor = json!({});
    loop {
        let (status, page) = setup.gateway.modern("/mcp", "tools/list", cursor).await;
        assert_eq!(status, 200, "{page}");
        let tools = page["result"]["tools"].as_array().expect("a list").iter();
        let all = tools.map(|tool| tool["name"].as_str().expect("a name").to_owned());
        names.extend(all.filter(|name| name.starts_with("bad__")));
        match page["result"].get("nextCursor") {
            Some(next) => cursor = json!({"cursor": next}),
            None => return names,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_without_a_usable_name_are_left_out() {
    let setup = setup_with(
        |seen| match seen.method() {
            "tools/list" => {
                let list = r#"[{"name":"tool","inputSchema":{"type":"object"}}, {}, null, 1, "x", [], [{"name":"y"}], {"name":null},
                    {"name":1}, {"name":["z"]}, {"name":""}, {"title":"no name"}, {"name":"a","name":"b"},
                    {"name":"twice","inputSchema":{"type":"object"}}, {"name":"twice","inputSchema":{"type":"object"}},
                    {"name":"odd","inputSchema":{"type":"object"},"x":[[[]]]}, {"name":"bare"},
                    {"name":"key","inputSchema":{"type":"object"},"inputSchema":{}}]"#;
                let id = &seen.body["id"];
                let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"tools":{list},"ttlMs":-1,"cacheScope":7}}}}"#);
                MockReply::Say(json_answer(&body))
            }
            _ => MockReply::Good,
        },
        "",
    )
    .await;
    assert_eq!(listed(&setup).await, ["bad__odd", "bad__tool", "bad__twice"]);
    works(&setup.gateway, "bad__tool", None).await;
    works(&setup.gateway, "good__tool", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_lead_in_a_circle_come_to_an_end() {
    for cursors in [&["a"][..], &["a", "b"], &["a", "b", "c"], &[""]] {
        let setup = setup_with(
            move |seen| {
                if seen.method() != "tools/list" {
                    return MockReply::Good;
                }
                let at = seen.body["params"]["cursor"].as_str();
                let next =
                    at.and_then(|at| cursors.iter().position(|cursor| *cursor == at)).map_or(0, |at| at + 1);
                let mut page = tools(&["tool", at.unwrap_or("first")]);
                page["nextCursor"] = json!(cursors[next % cursors.len()]);
                says(seen, &page)
            },
            "",
        )
        .await;
        let few = setup.bad.count("tools/list");
        assert!(few < 50, "asked for {few} pages that lead in a circle of {cursors:?}");
        works(&setup.gateway, "bad__tool", None).await;
        works(&setup.gateway, "good__tool", None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_entries_without_end_are_cut() {
    let endless = |seen: &RecordedRequest| {
        if seen.method() != "tools/list" {
            return MockReply::Good;
        }
        let at: usize =
            seen.body["params"]["cursor"].as_str().map_or(0, |at| at.parse().expect("our own cursor"));
        let mut page = tools(&["tool", &format!("t{at}")]);
        page["nextCursor"] = json!((at + 1).to_string());
        says(seen, &page)
    };
    let setup = setup_with(endless, "").await;
    setup.gateway.eventually("the endless list ends", async |_| listed(&setup).await.len() >= 1000).await;
    assert!(setup.bad.count("tools/list") <= 2000, "{} pages", setup.bad.count("tools/list"));
    works(&setup.gateway, "bad__tool", None).await;
    works(&setup.gateway, "good__tool", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_long_are_cut_by_their_bytes() {
    let pad = "x".repeat(8 << 20);
    let long = move |seen: &RecordedRequest| {
        if seen.method() != "tools/list" {
            return MockReply::Good;
        }
        let at: usize =
            seen.body["params"]["cursor"].as_str().map_or(0, |at| at.parse().expect("our own cursor"));
        let mut page = tools(&["tool", &format!("t{at}")]);
        page["nextCursor"] = json!((at + 1).to_string());
        page["pad"] = json!(pad);
        says(seen, &page)
    };
    let mut setup = setup_with(long, ", era: modern, max_response: 16MiB").await;
    setup.gateway.process.wait_for("the rest is left out");
    setup.gateway.eventually("the long list ends", async |_| listed(&setup).await.len() >= 9).await;
    assert_eq!(setup.bad.count("tools/list"), 8, "pages of a little more than 8 MiB");
    works(&setup.gateway, "bad__t7", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_tools_are_cut_to_what_can_be_kept() {
    let names: Vec<String> = (0..100_000).map(|n| format!("t{n}")).collect();
    let names: Vec<&str> = std::iter::once("tool").chain(names.iter().map(String::as_str)).collect();
    let list = tools(&names);
    let many = move |seen: &RecordedRequest| match seen.method() {
        "tools/list" => says(seen, &list),
        _ => MockReply::Good,
    };
    let setup = setup_with(many, "").await;
    setup.gateway.eventually("the list is there", async |_| !listed(&setup).await.is_empty()).await;
    assert_eq!(listed(&setup).await.len(), 20_000);
    works(&setup.gateway, "bad__tool", None).await;
    works(&setup.gateway, "bad__t19998", None).await;
    works(&setup.gateway, "good__tool", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_handshake_is_nonsense_is_down_and_no_other_is() {
    let handshakes = [
        ("no list", "tools/list", json!({})),
        ("an object for a list", "tools/list", json!({"tools": {"tool": {}}})),
        ("null for a list", "tools/list", json!({"tools": null})),
        ("an array for a result", "tools/list", json!([{"name": "tool"}])),
        (
            "a list too long",
            "tools/list",
            json!({"tools": [{"name": "tool", "description": "x".repeat(70_000)}]}),
        ),
        ("a word for a result", "*", json!("hello")),
        ("no capabilities", "*", json!({"protocolVersion": "2025-11-25", "serverInfo": {}})),
        (
            "capabilities in an array",
            "*",
            json!({"protocolVersion": "2025-11-25", "capabilities": ["tools"]}),
        ),
        ("null", "*", json!(null)),
    ];
    for (what, method, result) in handshakes {
        let play = move |seen: &RecordedRequest| match seen.method() {
            asked @ ("initialize" | "server/discover" | "tools/list") if method == "*" || method == asked => {
                says(seen, &result)
            }
            _ => MockReply::Good,
        };
        let setup = setup_with(play, ", max_response: 64KiB").await;
        assert!(listed(&setup).await.is_empty(), "{what}");
        let answer = ask(&setup.gateway, "bad__tool", None).await.expect("an answer");
        assert_eq!(judge(&answer, 502, Status::Free), Ok(()), "{what}");
        works(&setup.gateway, "good__tool", None).await;
    }
}
