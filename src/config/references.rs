//! Names that other parts of a file refer to: roles, servers, toolsets.
//!
//! They come from the tree, not from the deserialized values, so that an invalid role is still known.

use super::diagnostics::NodeRef;
use super::suggest;

/// Names in the file, including those of disabled servers.
pub(super) struct References<'t> {
    /// `None` without `rbac`: any role is allowed then.
    roles: Option<Vec<&'t str>>,
    servers: Vec<&'t str>,
    toolsets: Vec<&'t str>,
}

impl<'t> References<'t> {
    pub(super) fn of(root: &NodeRef<'t>) -> Self {
        let keys = |node_ref: Option<NodeRef<'t>>| -> Vec<&'t str> {
            let node = node_ref.map(|node_ref| node_ref.node);
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
    pub(super) fn check_roles(&self, node_ref: Option<NodeRef<'_>>) {
        let Some(roles) = &self.roles else { return };
        for (node_ref, role) in node_ref.iter().flat_map(NodeRef::texts) {
            if !roles.contains(&role) {
                node_ref.reject(
                    "no such role in `rbac.roles`",
                    suggest::did_you_mean(roles, role, "`rbac` has no roles"),
                );
            }
        }
    }

    /// Reports each unknown server name of this list. Patterns are not checked: they may match servers of
    /// later.
    pub(super) fn check_servers(&self, node_ref: Option<NodeRef<'_>>) {
        for (node_ref, server) in node_ref.iter().flat_map(NodeRef::texts) {
            if !server.contains(['*', '?', '[', '{', '\\']) && !self.servers.contains(&server) {
                node_ref.reject(
                    "no such server",
                    suggest::did_you_mean(&self.servers, server, "there are no servers"),
                );
            }
        }
    }

    pub(super) fn check_toolsets(&self, node_ref: Option<NodeRef<'_>>) {
        for (node_ref, toolset) in node_ref.iter().flat_map(NodeRef::texts) {
            if !self.toolsets.contains(&toolset) {
                node_ref.reject(
                    "no such toolset",
                    suggest::did_you_mean(&self.toolsets, toolset, "there are no `toolsets`"),
                );
            }
        }
    }
}
