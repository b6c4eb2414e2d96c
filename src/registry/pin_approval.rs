//! Definitions of tools as they are now, for the operator who approves of one that changed.

use mcp::Era;

use super::{Kept, Registry};
use crate::catalog::pins::hash;
use crate::catalog::{Face, Kind};
use crate::config::Pinning;

/// A tool of a server with `pinning`, in one era.
pub struct Definition {
    /// The federated name.
    pub tool: String,
    pub server: String,
    pub era: Era,
    /// SHA-256 of the definition as the server gives it now.
    pub hash: String,
    /// Whether clients see it.
    pub shown: bool,
    owner: String,
    key: String,
}

/// What became of an approval.
#[derive(Debug, PartialEq, Eq)]
pub enum Approval {
    Done,
    /// No server with `pinning` has such a tool.
    Unknown,
    /// The definition is another by now: its hash in each era.
    Other(Vec<String>),
}

impl Registry {
    /// All tools of servers with `pinning`.
    pub fn definitions(&self) -> Vec<Definition> {
        let house = self.house();
        let kept = self.lock();
        let mut all = Vec::new();
        for kept in kept.values().filter(|kept| kept.called().config.pinning != Pinning::Off) {
            for (era, face) in [(Era::Legacy, &kept.legacy), (Era::Modern, &kept.modern)] {
                let Some(face) = face else { continue };
                let shown = |tool: &str| {
                    let endpoint = house.catalog.endpoint("/mcp");
                    endpoint.is_some_and(|endpoint| endpoint.view(era).tools.contains_key(tool))
                };
                all.extend(of(kept, era, face).map(|d| Definition { shown: shown(&d.tool), ..d }));
            }
        }
        all
    }

    /// Approves of a definition that an operator has looked at: that of this hash, if the tool still has it. It holds
    /// until the process ends.
    pub fn approve(&self, tool: &str, wanted: &str) -> Approval {
        let definitions: Vec<Definition> =
            self.definitions().into_iter().filter(|definition| definition.tool == tool).collect();
        if definitions.is_empty() {
            return Approval::Unknown;
        }
        let mut fits = definitions.iter().filter(|d| d.hash.eq_ignore_ascii_case(wanted)).peekable();
        if fits.peek().is_none() {
            let mut hashes: Vec<String> = definitions.into_iter().map(|d| d.hash).collect();
            hashes.dedup();
            return Approval::Other(hashes);
        }
        for definition in fits {
            self.pins.approve(&definition.owner, &definition.key, &definition.hash);
        }
        tracing::info!(tool, hash = wanted, "a definition was approved; guard.pins would keep that");
        self.stale.notify_one();
        Approval::Done
    }
}

fn of(kept: &Kept, era: Era, face: &Face) -> impl Iterator<Item = Definition> {
    let server = kept.called();
    face.lists.of(Kind::Tools).iter().filter_map(move |item| {
        let own = server.shows(&item.key)?;
        Some(Definition {
            tool: server.federated(own),
            server: server.name.to_string(),
            era,
            hash: hash(item.definition()),
            shown: false,
            owner: super::pin_check::owner(server, era),
            key: item.key.clone(),
        })
    })
}
