//! A legacy session at the gateway.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio_util::sync::CancellationToken;

use mcp::header_name;
use mcp::jsonrpc::message;

pub struct GatewaySession {
    /// `None` at a server that keeps no sessions.
    pub(super) id: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
    /// The capabilities of the server.
    pub(super) capabilities: Bytes,
    /// The gateway has shown whether there is a stream.
    pub stream_settled: CancellationToken,
    /// Ends its stream.
    pub over: CancellationToken,
}

impl GatewaySession {
    pub fn has_id(&self) -> bool {
        self.id.is_some()
    }

    pub fn headers(&self) -> HeaderMap {
        let id = self.id.iter().map(|id| (header_name::SESSION, id.clone()));
        id.chain(self.version.iter().map(|version| (header_name::PROTOCOL_VERSION, version.clone())))
            .collect()
    }

    /// The list changes that the server promised to report.
    pub(super) fn announcements(&self) -> impl Iterator<Item = Bytes> + '_ {
        ["tools", "prompts", "resources"].into_iter().filter_map(|kind| {
            let able = message::member(&self.capabilities, kind)?.of(&self.capabilities);
            let announces = message::member(able, "listChanged").is_some_and(|span| span.of(able) == b"true");
            announces.then(|| message::notification(&format!("notifications/{kind}/list_changed"), b""))
        })
    }
}
