//! The first minute of a new user.

use serde_json::json;

use crate::harness::Gateway;

const DEMO: &str = "mcpServers: {demo: {builtin: demo}}\n";

#[tokio::test]
async fn the_demo_tools_answer_in_both_eras() {
    let gateway = Gateway::start(DEMO).await;
    let (status, answer) = gateway.call("demo__echo", json!({"message": "hi"})).await;
    assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("hi")), "{answer}");

    let session = gateway.initialize("/servers/demo/mcp").await;
    let call = json!({"jsonrpc": "2.0", "id": "x", "method": "tools/call",
        "params": {"name": "calculator", "arguments": {"operation": "multiply", "a": 6, "b": 7}}});
    let response = gateway.post("/servers/demo/mcp", Some(&session), &call).send().await.expect("an answer");
    let (status, answer) = crate::harness::read(response).await;
    assert_eq!(
        (status, &answer["id"], &answer["result"]["content"][0]["text"]),
        (200, &json!("x"), &json!("42"))
    );
}

#[tokio::test]
async fn health_says_what_is_there() {
    let gateway = Gateway::start(DEMO).await;
    let health: serde_json::Value = serde_json::from_str(&gateway.get("/health").await).expect("JSON");
    assert_eq!(health, json!({"status": "ok", "servers": 1, "connected": 1, "tools": 5}));
}

#[tokio::test]
async fn the_first_words_say_what_to_paste_into_each_client() {
    let mut gateway = Gateway::start(DEMO).await;
    let url = gateway.url("/mcp");
    for line in [
        "  Claude Code, a command:".to_owned(),
        format!("    claude mcp add --transport http toolgate {url}"),
        "  Claude Code, .mcp.json:".to_owned(),
        format!(r#"    {{"mcpServers": {{"toolgate": {{"type": "http", "url": "{url}"}}}}}}"#),
        "  VS Code, .vscode/mcp.json:".to_owned(),
        format!(r#"    {{"servers": {{"toolgate": {{"type": "http", "url": "{url}"}}}}}}"#),
        "  Cursor, ~/.cursor/mcp.json:".to_owned(),
        format!(r#"    {{"mcpServers": {{"toolgate": {{"url": "{url}"}}}}}}"#),
        "  Codex, ~/.codex/config.toml:".to_owned(),
        "    [mcp_servers.toolgate]".to_owned(),
        format!(r#"    url = "{url}""#),
        "  Gemini CLI, ~/.gemini/settings.json:".to_owned(),
        format!(r#"    {{"mcpServers": {{"toolgate": {{"httpUrl": "{url}"}}}}}}"#),
        "  Claude Desktop, claude_desktop_config.json:".to_owned(),
        format!(
            r#"    {{"mcpServers": {{"toolgate": {{"command": "toolgate", "args": ["stdio", "--url", "{url}"]}}}}}}"#
        ),
    ] {
        gateway.process.wait_for(&line);
    }
}
