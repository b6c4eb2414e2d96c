//! The current definitions of tools, for an operator who approves one that changed.

use mcp::Era;

use super::{Registry, RegistryEntry};
use crate::catalog::pins::hash;
use crate::catalog::{ListKind, ServerLists};
use crate::config::Pinning;

/// A tool of a server with `pinning`, in one era.
pub struct PinDefinition {
    /// The qualified name.
    pub tool: String,
    pub server: String,
    pub server_era: Era,
    /// SHA-256 of the server's current definition.
    pub hash: String,
    /// Whether clients see it.
    pub shown: bool,
    owner: String,
    key: String,
}

/// The result of an approval.
#[derive(Debug, PartialEq, Eq)]
pub enum PinApproval {
    Approved,
    /// No server with `pinning` has such a tool.
    Unknown,
    /// The definition has changed since: its hash in each era.
    HashMismatch(Vec<String>),
}

impl Registry {
    /// All tools of servers with `pinning`.
    pub fn definitions(&self) -> Vec<PinDefinition> {
        let snapshot = self.snapshot();
        let kept = self.lock();
        let mut all = Vec::new();
        for kept in kept.values().filter(|kept| kept.active().config.pinning != Pinning::Off) {
            for (server_era, lists) in [(Era::Legacy, &kept.legacy), (Era::Modern, &kept.modern)] {
                let Some(lists) = lists else { continue };
                let shown = |tool: &str| {
                    let endpoint = snapshot.catalog.endpoint("/mcp");
                    endpoint.is_some_and(|endpoint| endpoint.view(server_era).tools.contains_key(tool))
                };
                all.extend(of(kept, server_era, lists).map(|d| PinDefinition { shown: shown(&d.tool), ..d }));
            }
        }
        all
    }

    /// Approves the definition with this hash, which an operator has checked, if the tool still has it. The
    /// approval lasts until the process ends.
    pub fn approve(&self, tool: &str, wanted: &str) -> PinApproval {
        let definitions: Vec<PinDefinition> =
            self.definitions().into_iter().filter(|definition| definition.tool == tool).collect();
        if definitions.is_empty() {
            return PinApproval::Unknown;
        }
        let mut fits = definitions.iter().filter(|d| d.hash.eq_ignore_ascii_case(wanted)).peekable();
        if fits.peek().is_none() {
            let mut hashes: Vec<String> = definitions.into_iter().map(|d| d.hash).collect();
            hashes.dedup();
            return PinApproval::HashMismatch(hashes);
        }
        for definition in fits {
            self.pins.approve(&definition.owner, &definition.key, &definition.hash);
        }
        tracing::info!(tool, hash = wanted, "a definition was approved; guard.pins would keep that");
        self.stale.notify_one();
        PinApproval::Approved
    }
}

fn of(kept: &RegistryEntry, server_era: Era, lists: &ServerLists) -> impl Iterator<Item = PinDefinition> {
    let server = kept.active();
    lists.lists.of(ListKind::Tools).iter().filter_map(move |item| {
        let own = server.visible_tool(&item.key)?;
        Some(PinDefinition {
            tool: server.federated(own),
            server: server.name.to_string(),
            server_era,
            hash: hash(item.definition()),
            shown: false,
            owner: super::pin_check::owner(server, server_era),
            key: item.key.clone(),
        })
    })
}
