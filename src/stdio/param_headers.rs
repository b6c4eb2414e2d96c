//! Arguments that a call must repeat in its head (2026-07-28, streamable-http, "Custom Headers from Tool
//! Parameters"). They are learned from the lists that go to the client. Standard input has no head, so
//! clients need not know of it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use filters::param_headers::ParamHeaders;
use http::{HeaderName, HeaderValue};
use mcp::json::reader::DEPTH_CEILING;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::StdioFrontend;
use super::client_request::StdioRequest;
use super::response::ReadOutcome;
use mcp::jsonrpc::message;

/// Maximum number of remembered tools, and of pages that are read.
const TOOLS: usize = 10_000;
const PAGES: usize = 100;

#[derive(Default)]
pub struct ToolHeaders(Mutex<HashMap<String, ParamHeaders>>);

#[derive(Deserialize)]
struct ListResult<'a> {
    #[serde(borrow)]
    result: ToolPage<'a>,
}

#[derive(Deserialize)]
struct ToolPage<'a> {
    #[serde(borrow)]
    tools: Vec<ListedTool<'a>>,
    #[serde(rename = "nextCursor")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct ListedTool<'a> {
    name: String,
    #[serde(borrow, rename = "inputSchema")]
    schema: Option<&'a RawValue>,
}

impl ToolHeaders {
    /// Reads a list of tools; returns the cursor of the next page.
    pub fn note(&self, answer: &[u8]) -> Option<String> {
        let page = serde_json::from_slice::<ListResult<'_>>(answer).ok()?.result;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in page.tools {
            let schema = tool.schema.map_or("", RawValue::get);
            match ParamHeaders::read(schema.as_bytes()) {
                Ok(Some(param_headers)) if known.len() < TOOLS => {
                    drop(known.insert(tool.name, param_headers))
                }
                _ => drop(known.remove(&tool.name)),
            }
        }
        page.next
    }

    /// The headers that repeat the arguments of a call.
    pub fn of(&self, call: &StdioRequest) -> Vec<(HeaderName, HeaderValue)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = call.rpc.name.map(|name| name.read(&call.line)).unwrap_or_default();
        let arguments = call.rpc.arguments.map(|span| span.of(&call.line));
        known.get(&*name).map(|param_headers| param_headers.headers(arguments)).unwrap_or_default()
    }
}

impl StdioFrontend {
    /// Reads the list of tools on behalf of a call. Returns whether this has added headers for it.
    pub(super) async fn learn(&self, call: &StdioRequest) -> bool {
        let before = self.param_headers.of(call);
        let params = call.params();
        let meta = message::member(&params, "_meta")
            .map(|span| String::from_utf8_lossy(span.of(&params)).into_owned());
        let Some(meta) = meta else { return false };
        let mut cursor = String::new();
        for _ in 0..PAGES {
            let (id, body) =
                self.own_request("tools/list", format!(r#"{{{cursor}"_meta":{meta}}}"#).as_bytes());
            let Ok(rpc) = filters::request::read(&body, DEPTH_CEILING) else { return false };
            let list = StdioRequest::new(body, rpc);
            let Ok(response) = self.post(list.head(), list.line.clone(), None).await else { return false };
            let ReadOutcome::Response(answer) = self.read(response, id.as_bytes(), None, None).await else {
                return false;
            };
            match self.param_headers.note(&answer) {
                Some(next) => cursor = format!(r#""cursor":{},"#, mcp::json::quote::quote(&next)),
                None => break,
            }
        }
        self.param_headers.of(call) != before
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_call_repeats_what_the_list_says() {
        let learned = ToolHeaders::default();
        let list = br#"{"jsonrpc":"2.0","id":1,"result":{"nextCursor":"c","tools":[{"name":"t","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}}}]}}"#;
        assert_eq!(learned.note(list).as_deref(), Some("c"));
        let call = Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"region":"eu"}}}"#,
        );
        let call = StdioRequest::new(call.clone(), filters::request::read(&call, 64).expect("a call"));
        let headers = learned.of(&call);
        assert_eq!(headers.len(), 1);
        assert_eq!((headers[0].0.as_str(), headers[0].1.as_bytes()), ("mcp-param-region", &b"eu"[..]));
        // The tool has changed.
        learned.note(
            br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t","inputSchema":{"type":"object"}}]}}"#,
        );
        assert_eq!(learned.of(&call), []);
    }
}
