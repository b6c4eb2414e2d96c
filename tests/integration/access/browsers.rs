//! Web pages in browsers, with authentication.

use serde_json::json;

use super::key;
use crate::harness::Gateway;

const PAGE: &str = "http://localhost:5173";

#[tokio::test]
async fn a_browser_may_ask_without_credentials_and_reads_why_it_is_refused() {
    let gateway = Gateway::start(&format!(
        "mcpServers: {{demo: {{builtin: demo}}}}\nauth:\n  api_keys:\n{}  resource_metadata: {{authorization_servers: [\"https://id.example.com\"]}}\n",
        key("ann", "dev")
    ))
    .await;
    let preflight = async |path: &str, origin: &str| {
        let request =
            gateway.http.request(reqwest::Method::OPTIONS, gateway.url(path)).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let request = request.header("access-control-request-headers", "authorization,mcp-protocol-version");
        request.send().await.expect("an answer")
    };
    let well_known = "/.well-known/oauth-protected-resource/mcp";
    for path in ["/mcp", "/servers/demo/mcp", "/servers/none/mcp", well_known] {
        let response = preflight(path, PAGE).await;
        assert_eq!(response.status(), 204, "{path}");
        assert_eq!(response.headers()["access-control-allow-origin"], PAGE, "{path}");
        let allowed = &response.headers()["access-control-allow-headers"];
        assert_eq!(allowed, "authorization,mcp-protocol-version", "{path}");
        assert_eq!(preflight(path, "https://evil.example").await.status(), 403, "{path}");
    }
    let unauthenticated = gateway.modern_request("/mcp", "tools/list", json!({})).header("origin", PAGE);
    let response = unauthenticated.send().await.expect("an answer");
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["access-control-allow-origin"], PAGE);
    let exposed = response.headers()["access-control-expose-headers"].to_str().expect("ASCII");
    assert!(exposed.contains("WWW-Authenticate"), "{exposed}");
    // Without the headers of a preflight it is an ordinary request.
    let bare = gateway.http.request(reqwest::Method::OPTIONS, gateway.url("/mcp")).header("origin", PAGE);
    assert_eq!(bare.send().await.expect("an answer").status(), 401);
}
