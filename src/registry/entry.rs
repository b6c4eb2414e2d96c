//! What the registry knows of one server: its lists in each era, and the former server while a reload replaces it.

use std::sync::Arc;

use mcp::Era;
use tokio::task::JoinHandle;

use super::{ERAS, EraLists};
use crate::catalog::{ListKind, ServerLists, bridged};
use crate::config::BridgeSetting;
use crate::server::Server;

/// A server and what its supervisor found.
pub(super) struct RegistryEntry {
    /// As it is configured.
    pub(super) server: Arc<Server>,
    pub(super) legacy: Option<Arc<ServerLists>>,
    pub(super) modern: Option<Arc<ServerLists>>,
    /// The lists for the era that it does not speak, and those that they were made of.
    pub(super) bridged: Option<[Arc<ServerLists>; 2]>,
    /// A connection was tried at least once.
    pub(super) tried: bool,
    /// The handshake succeeded. The server is reported as up only when the catalog has its lists: whoever
    /// reads that it is up may call it at once.
    pub(super) connected: bool,
    /// The eras in which it is still starting, published with the next snapshot: who reads that it has
    /// started finds its lists.
    pub(super) starting: Option<[bool; 2]>,
    /// Its lists with the new settings, while the former server is still called: an era that the former shows
    /// is not ready.
    pub(super) held: Option<EraLists>,
    pub(super) supervisor: JoinHandle<()>,
    /// The former server before a reload; it is called until `server` is connected.
    pub(super) replaced: Option<Replaced>,
}

pub(super) struct Replaced {
    pub(super) server: Arc<Server>,
    pub(super) supervisor: JoinHandle<()>,
}

impl RegistryEntry {
    pub(super) fn active(&self) -> &Arc<Server> {
        self.replaced.as_ref().map_or(&self.server, |old| &old.server)
    }

    /// The eras in which the active server is still starting, as far as its supervisor has reported.
    pub(super) fn starting(&self) -> [bool; 2] {
        let reported = self.starting.filter(|_| self.replaced.is_none());
        reported.unwrap_or_else(|| ERAS.map(|server_era| self.active().is_starting(server_era)))
    }

    /// The lists for the clients of the era that its server does not speak, if it speaks one and is bridged.
    /// They are made anew only when its own lists change.
    pub(super) fn bridged(
        &mut self,
        legacy: Option<&Arc<ServerLists>>,
        modern: Option<&Arc<ServerLists>>,
    ) -> Option<Arc<ServerLists>> {
        let own = match (legacy, modern) {
            (Some(own), None) | (None, Some(own)) if self.active().config.bridge == BridgeSetting::Auto => {
                own
            }
            _ => {
                self.bridged = None;
                return None;
            }
        };
        match &self.bridged {
            Some([of, made]) if Arc::ptr_eq(of, own) || of == own => Some(made.clone()),
            _ => {
                let made = Arc::new(bridged(own));
                self.bridged = Some([own.clone(), made.clone()]);
                Some(made)
            }
        }
    }

    /// Logs that its server is connected.
    pub(super) fn log_connected(&self) {
        let lists = [(&self.legacy, Era::Legacy), (&self.modern, Era::Modern)];
        let lists =
            lists.into_iter().filter_map(|(era_lists, server_era)| Some((era_lists.as_ref()?, server_era)));
        let (tools, eras): (Vec<usize>, Vec<&str>) = lists
            .map(|(era_lists, server_era)| (era_lists.lists.of(ListKind::Tools).len(), server_era.as_str()))
            .unzip();
        let tools = tools.into_iter().max().unwrap_or(0);
        tracing::info!(server = %self.server.name, eras = eras.join(","), tools, "server connected");
    }
}
