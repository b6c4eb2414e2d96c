//! Arguments that a call must repeat in its head (2026-07-28, streamable-http, "Custom Headers from Tool Parameters"):
//! learned from the lists that go to the client. On standard input there is no head, so clients need not know of it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use filters::param_headers::Mirrors;
use http::{HeaderName, HeaderValue};
use mcp::json::reader::DEPTH_CEILING;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Front;
use super::client_request::Request;
use super::response::Read;
use mcp::jsonrpc::message;

/// Most tools that are remembered, and pages that are read.
const TOOLS: usize = 10_000;
const PAGES: usize = 100;

#[derive(Default)]
pub struct Learned(Mutex<HashMap<String, Mirrors>>);

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    result: Page<'a>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    tools: Vec<Tool<'a>>,
    #[serde(rename = "nextCursor")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    name: String,
    #[serde(borrow, rename = "inputSchema")]
    schema: Option<&'a RawValue>,
}

impl Learned {
    /// Reads a list of tools; gives the cursor of the next page.
    pub fn note(&self, answer: &[u8]) -> Option<String> {
        let page = serde_json::from_slice::<Answer<'_>>(answer).ok()?.result;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in page.tools {
            let schema = tool.schema.map_or("", RawValue::get);
            match Mirrors::read(schema.as_bytes()) {
                Ok(Some(mirrors)) if known.len() < TOOLS => drop(known.insert(tool.name, mirrors)),
                _ => drop(known.remove(&tool.name)),
            }
        }
        page.next
    }

    /// The headers that repeat the arguments of a call.
    pub fn of(&self, call: &Request) -> Vec<(HeaderName, HeaderValue)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = call.rpc.name.map(|name| name.read(&call.line)).unwrap_or_default();
        let arguments = call.rpc.arguments.map(|span| span.of(&call.line));
        known.get(&*name).map(|mirrors| mirrors.headers(arguments)).unwrap_or_default()
    }
}

impl Front {
    /// Reads the list of tools in the name of a call; whether that tells anything for it that was not known.
    pub(super) async fn learn(&self, call: &Request) -> bool {
        let before = self.mirrors.of(call);
        let params = call.params();
        let meta = message::member(&params, "_meta")
            .map(|span| String::from_utf8_lossy(span.of(&params)).into_owned());
        let Some(meta) = meta else { return false };
        let mut cursor = String::new();
        for _ in 0..PAGES {
            let (id, body) = self.own("tools/list", format!(r#"{{{cursor}"_meta":{meta}}}"#).as_bytes());
            let Ok(rpc) = filters::request::read(&body, DEPTH_CEILING) else { return false };
            let list = Request::new(body, rpc);
            let Ok(response) = self.post(list.head(), list.line.clone(), None).await else { return false };
            let Read::Answer(answer) = self.read(response, id.as_bytes(), None, None).await else {
                return false;
            };
            match self.mirrors.note(&answer) {
                Some(next) => cursor = format!(r#""cursor":{},"#, mcp::json::quote::quote(&next)),
                None => break,
            }
        }
        self.mirrors.of(call) != before
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_call_repeats_what_the_list_says() {
        let learned = Learned::default();
        let list = br#"{"jsonrpc":"2.0","id":1,"result":{"nextCursor":"c","tools":[{"name":"t","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}}}]}}"#;
        assert_eq!(learned.note(list).as_deref(), Some("c"));
        let call = Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"region":"eu"}}}"#,
        );
        let call = Request::new(call.clone(), filters::request::read(&call, 64).expect("a call"));
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
