//! Results for a client as its era has them.

use bytes::Bytes;

use super::{EraCodec, META_SERVER};
use crate::json::quote::quote;
use crate::jsonrpc::message::SUBSCRIPTION_ID;

/// How long, and for whom, a client may keep a result (2026-07-28, caching).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    pub ttl_ms: u64,
    /// All callers may share it.
    pub public: bool,
}

impl Cache {
    const PRIVATE: Cache = Cache { ttl_ms: 0, public: false };

    fn members(self) -> String {
        let scope = if self.public { "public" } else { "private" };
        format!(r#""ttlMs":{},"cacheScope":"{scope}""#, self.ttl_ms)
    }
}

const COMPLETE: &str = r#""resultType":"complete""#;

impl EraCodec {
    /// The member that each result has, without commas; empty in the legacy era.
    pub const fn result_type(self) -> &'static str {
        if self.is_modern() { COMPLETE } else { "" }
    }

    /// The last members of a list result, each after a comma; none in the legacy era.
    pub fn list_members(self, cache: Cache, server_info: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if self.is_modern() {
            out.extend_from_slice(format!(",{COMPLETE},{}", cache.members()).as_bytes());
            add_meta(&mut out, server_info);
        }
        out
    }

    /// The result of the client's handshake; `version` is the negotiated one. All parts are JSON text.
    pub fn handshake_result(
        self,
        version: &str,
        capabilities: &[u8],
        server_info: &[u8],
        instructions: Option<&[u8]>,
    ) -> Bytes {
        let mut out = Vec::with_capacity(capabilities.len() + server_info.len() + 200);
        if self.is_modern() {
            let versions: Vec<String> = self.versions().iter().map(|version| quote(version)).collect();
            let versions = versions.join(",");
            let head = format!(
                r#"{{{COMPLETE},"supportedVersions":[{versions}],{},"capabilities":"#,
                Cache::PRIVATE.members()
            );
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(capabilities);
        } else {
            out.extend_from_slice(
                format!(r#"{{"protocolVersion":{},"capabilities":"#, quote(version)).as_bytes(),
            );
            out.extend_from_slice(capabilities);
            out.extend_from_slice(br#","serverInfo":"#);
            out.extend_from_slice(server_info);
        }
        if let Some(instructions) = instructions {
            out.extend_from_slice(br#","instructions":"#);
            out.extend_from_slice(instructions);
        }
        if self.is_modern() {
            add_meta(&mut out, server_info);
        }
        out.push(b'}');
        Bytes::from(out)
    }

    /// The result that ends a subscription of a client, whose request has `id`.
    pub fn subscription_result(self, id: &str, server_info: &[u8]) -> Bytes {
        let mut out =
            format!(r#"{{{},"_meta":{{"{SUBSCRIPTION_ID}":{id},"{META_SERVER}":"#, self.result_type())
                .into_bytes();
        out.extend_from_slice(server_info);
        out.extend_from_slice(b"}}");
        Bytes::from(out)
    }

    /// `error.data` for a version that is not served; `requested` is its text.
    pub fn unsupported_version(self, requested: &str) -> String {
        let supported: Vec<String> = self.versions().iter().map(|version| quote(version)).collect();
        format!(r#"{{"supported":[{}],"requested":{}}}"#, supported.join(","), quote(requested))
    }
}

fn add_meta(out: &mut Vec<u8>, server_info: &[u8]) {
    out.extend_from_slice(format!(r#","_meta":{{"{META_SERVER}":"#).as_bytes());
    out.extend_from_slice(server_info);
    out.push(b'}');
}
