//! Heads: what of them is heard, what goes on, and what an answer's status says.

use serde_json::json;

use super::ask;
use crate::harness::{Gateway, legacy_call, python};

/// A stdio server in both eras whose tool answers with the error that it is asked for.
const SERVER: &str = r#"
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    p = m.get("params") or {}
    about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}, "resultType": "complete",
             "ttlMs": 0, "cacheScope": "private"}
    answer = {"jsonrpc": "2.0", "id": m["id"]}
    if m["method"] == "initialize": answer["result"] = dict(about, protocolVersion="2025-11-25")
    elif m["method"] == "server/discover": answer["result"] = dict(about, supportedVersions=["2026-07-28"])
    elif m["method"] == "ping": answer["result"] = {}
    elif m["method"] == "tools/list":
        answer["result"] = dict(about, tools=[{"name": "tool", "inputSchema": {"type": "object"}}])
    else: answer["error"] = {"code": p.get("arguments", {}).get("code", -32601), "message": "no"}
    print(json.dumps(answer), flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_programs_have_the_status_that_servers_of_http_give_them() {
    let servers = json!({"up": {"command": python(), "args": ["-c", SERVER]}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    gateway.eventually("it is connected", async |g| g.get("/health").await.contains("\"tools\":1")).await;
    let session = gateway.initialize("/mcp").await;
    for (code, status) in [
        (-32601, 404),
        (-32602, 400),
        (-32600, 400),
        (-32700, 400),
        (-32020, 400),
        (-32021, 400),
        (-32022, 400),
        (-32603, 200),
        (-32000, 200),
        (1, 200),
    ] {
        let answer = ask(gateway.port, "up__tool", &json!({"code": code})).await;
        let message = answer.message();
        assert_eq!((answer.status, &message["error"]["code"]), (status, &json!(code)), "{message}");
        let call = legacy_call(1, "up__tool", json!({"code": code}));
        let (status, answer) = gateway.say("/mcp", &session, &call).await;
        assert_eq!((status, &answer["error"]["code"]), (200, &json!(code)), "in a session");
    }
}
