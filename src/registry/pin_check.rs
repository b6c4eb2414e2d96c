//! Tools whose definitions changed: logged, and hidden if the server's settings say so.

use std::collections::BTreeMap;
use std::sync::Arc;

use mcp::Era;

use crate::catalog::pins::{Pin, PinMode, Pins};
use crate::catalog::{ListKind, ServerLists};
use crate::config::Pinning;
use crate::server::Server;
use crate::telemetry::Metrics;

/// The lists without the tools that must not be shown. `pinned` are approved hashes by qualified name.
pub fn without_changed(
    pins: &Pins,
    server: &Arc<Server>,
    server_era: Era,
    lists: &Arc<ServerLists>,
    pinned: &BTreeMap<String, [u8; 32]>,
    metrics: &Metrics,
) -> Arc<ServerLists> {
    let mode = match server.config.pinning {
        Pinning::Off => return lists.clone(),
        Pinning::Warn => PinMode::Warn,
        Pinning::Block => PinMode::Block,
    };
    let owner = owner(server, server_era);
    let mut hidden = Vec::new();
    for item in lists.lists.of(ListKind::Tools) {
        let name = server.visible_tool(&item.key).map(|own| server.federated(own));
        let approved = name.as_ref().and_then(|name| pinned.get(name)).map(hex);
        let pin = pins.check(&owner, &item.key, item.definition(), approved.as_deref(), mode);
        if !pin.shows(mode) {
            hidden.push(item.key.clone());
        }
        if let Pin::Changed(change) = pin
            && change.first_seen
        {
            metrics.tool_changed(&server.name);
            let name = name.as_deref().unwrap_or(&item.key);
            let visibility_text = if mode == PinMode::Block {
                "hidden until guard.pins approves it"
            } else {
                "shown all the same"
            };
            tracing::warn!(server = %server.name, tool = name, old = change.old, new = change.new, diff = change.diff, "the definition of a tool changed; it is {visibility_text}");
        }
    }
    if hidden.is_empty() {
        return lists.clone();
    }
    Arc::new(ServerLists {
        handshake: lists.handshake.clone(),
        lists: lists.lists.without(&hidden),
        events: lists.events,
        era: lists.era,
    })
}

/// The key under which a server's definitions are remembered: one per era, as its definitions may differ
/// between eras.
pub fn owner(server: &Server, server_era: Era) -> String {
    format!("{} {}", server.name, server_era.as_str())
}

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
