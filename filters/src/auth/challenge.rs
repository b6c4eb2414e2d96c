//! The challenge after a rejection: the `WWW-Authenticate` header (RFC 6750 §3, RFC 9728 §5.1), and the
//! document with the issuers of tokens for this gateway (RFC 9728 §3).
//!
//! Clients compare `resource` of that document with their own URL. The official SDKs require the same origin
//! and the same or a parent path; RFC 9728 §3.3 requires equality. So each endpoint names its own URL, except
//! `/mcp`, which is the configured resource. Over HTTP+SSE the URL is that of the event stream.

use serde_json::json;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
const MAIN: &str = "/mcp";
const SSE: &str = "/sse";
const MESSAGES: &str = "/messages";

/// The content of `/.well-known/oauth-protected-resource`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceMetadata {
    /// The identifier of this gateway: the URL of its endpoint `/mcp` as clients know it.
    pub resource: String,
    pub authorization_servers: Vec<String>,
    pub scopes_supported: Vec<String>,
    /// `scheme://host[:port]` under which clients reach the gateway, and perhaps a path that a proxy removes.
    pub public_url: String,
}

/// The error of a rejection, by RFC 6750 §3.1, and its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeError {
    InvalidRequest(&'static str),
    InvalidToken(&'static str),
    InsufficientScope(&'static str),
}

impl ResourceMetadata {
    /// The document for a request path; `None` if there is none.
    pub fn document(&self, path: &str) -> Option<Vec<u8>> {
        let endpoint = path.strip_prefix(WELL_KNOWN)?;
        // RFC 9728 §3.1 puts the public path here, where a proxy may leave it.
        let endpoint = endpoint.strip_prefix(self.public_path()).unwrap_or(endpoint);
        let resource = match endpoint {
            "" | "/" | MAIN => self.resource.clone(),
            endpoint if is_endpoint(endpoint) => format!("{}{endpoint}", self.origin()),
            _ => return None,
        };
        let mut document = json!({
            "resource": resource,
            "authorization_servers": self.authorization_servers,
            "bearer_methods_supported": ["header"],
        });
        if !self.scopes_supported.is_empty() {
            document["scopes_supported"] = json!(self.scopes_supported);
        }
        Some(document.to_string().into_bytes())
    }

    /// The URL of the document for an endpoint; for an unknown path that of the main endpoint. The path comes
    /// from the client, so an unchecked path must not be echoed.
    fn url(&self, path: &str) -> String {
        let stream = path.strip_suffix(MESSAGES).map(|scope| format!("{scope}{SSE}"));
        let path = stream.as_deref().unwrap_or(path);
        let path = if path == MAIN || is_endpoint(path) { path } else { "" };
        format!("{}{WELL_KNOWN}{path}", self.origin())
    }

    fn public_path(&self) -> &str {
        let rest = self.origin().split_once("://").map_or("", |(_, rest)| rest);
        rest.find('/').map_or("", |at| &rest[at..])
    }

    fn origin(&self) -> &str {
        self.public_url.trim_end_matches('/')
    }
}

/// `/sse`, `/servers/NAME/mcp` or `/servers/NAME/sse`, with a name of plain letters.
fn is_endpoint(path: &str) -> bool {
    let scope = path.strip_suffix(MAIN).or_else(|| path.strip_suffix(SSE));
    let name = scope.and_then(|scope| scope.strip_prefix("/servers/"));
    path == SSE
        || name.is_some_and(|name| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        })
}

/// The value of `WWW-Authenticate`.
pub(super) fn write(
    metadata: Option<&ResourceMetadata>,
    path: &str,
    trouble: Option<ChallengeError>,
    scopes: &[String],
) -> String {
    let mut out = String::from(r#"Bearer realm="mcp""#);
    let mut add = |name: &str, value: &str| {
        out.push_str(", ");
        out.push_str(name);
        out.push_str("=\"");
        // RFC 6750 §3 excludes quotes, backslashes and non-ASCII characters from these.
        out.extend(value.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')));
        out.push('"');
    };
    if let Some(trouble) = trouble {
        let (error, description) = match trouble {
            ChallengeError::InvalidRequest(message) => ("invalid_request", message),
            ChallengeError::InvalidToken(message) => ("invalid_token", message),
            ChallengeError::InsufficientScope(message) => ("insufficient_scope", message),
        };
        add("error", error);
        add("error_description", description);
    }
    if !scopes.is_empty() {
        add("scope", &scopes.join(" "));
    }
    if let Some(metadata) = metadata {
        add("resource_metadata", &metadata.url(path));
    }
    out
}
