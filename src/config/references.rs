//! The names that other parts of a file may refer to: roles, servers, toolsets.
//!
//! They are taken from the tree and not from what was read, so that a faulty role is still a known one.

use super::diagnostics::Spot;
use super::suggest;

/// Names as they stand in the file; servers that are switched off are among them.
pub(super) struct Known<'t> {
    /// `None` without `rbac`: any role may be meant then.
    roles: Option<Vec<&'t str>>,
    servers: Vec<&'t str>,
    toolsets: Vec<&'t str>,
}

impl<'t> Known<'t> {
    pub(super) fn of(root: &Spot<'t>) -> Self {
        let keys = |spot: Option<Spot<'t>>| -> Vec<&'t str> {
            let node = spot.map(|spot| spot.node);
            node.map(|node| node.entries()).unwrap_or_default().iter().map(|entry| &*entry.key).collect()
        };
        let rbac = root.child("rbac").filter(|rbac| !rbac.node.is_null());
        Self {
            roles: rbac.map(|rbac| keys(rbac.child("roles"))),
            servers: keys(root.child("mcpServers")),
            toolsets: keys(root.child("toolsets")),
        }
    }

    /// Reports each role of this list that `rbac` does not have.
    pub(super) fn check_roles(&self, spot: Option<Spot<'_>>) {
        let Some(roles) = &self.roles else { return };
        for (spot, role) in spot.iter().flat_map(Spot::texts) {
            if !roles.contains(&role) {
                spot.refuse(
                    "`rbac.roles` has no such role",
                    suggest::meant(roles, role, "`rbac` has no roles"),
                );
            }
        }
    }

    /// Reports each name of this list that no server has. Patterns may fit what is added later.
    pub(super) fn check_servers(&self, spot: Option<Spot<'_>>) {
        for (spot, server) in spot.iter().flat_map(Spot::texts) {
            if !server.contains(['*', '?', '[', '{', '\\']) && !self.servers.contains(&server) {
                spot.refuse("no such server", suggest::meant(&self.servers, server, "there are no servers"));
            }
        }
    }

    pub(super) fn check_toolsets(&self, spot: Option<Spot<'_>>) {
        for (spot, toolset) in spot.iter().flat_map(Spot::texts) {
            if !self.toolsets.contains(&toolset) {
                spot.refuse(
                    "no such toolset",
                    suggest::meant(&self.toolsets, toolset, "there are no `toolsets`"),
                );
            }
        }
    }
}
