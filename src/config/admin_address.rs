//! The address of the admin paths. A health check needs it, even if the rest of the file is invalid.

use std::net::SocketAddr;
use std::path::Path;

use super::diagnostics::{Diagnostics, NodeRef};
use super::yaml::interpolate::Environment;
use super::yaml::node::NodeValue;
use super::yaml::source;
use super::{Config, Listen, loading};

/// A listener that answers `/health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminAddress {
    pub address: SocketAddr,
    pub tls: bool,
}

impl Config {
    pub fn admin_address(&self) -> AdminAddress {
        match &self.admin {
            Some(admin) => AdminAddress { address: admin.address, tls: false },
            None => AdminAddress { address: self.listen.address, tls: self.listen.tls.is_some() },
        }
    }
}

impl AdminAddress {
    /// The address in a file, if that part of the file is readable.
    pub fn of_file(file: &Path) -> Option<Self> {
        let text = String::from_utf8(super::read(file).ok()?).ok()?;
        let name = file.display().to_string();
        Self::of_text(&name, &text, &|variable| std::env::var(variable).ok())
    }

    fn of_text(name: &str, text: &str, environment: &Environment<'_>) -> Option<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let diagnostics = Diagnostics::new(source::Source::new(text), None);
        let (root, _) = loading::tree(name, diagnostics.source(), text).ok()?;
        let root = root?;
        diagnostics.interpolate(&root, environment);
        let root = NodeRef::root(&diagnostics, &root);
        let listen = root.child("listen").filter(|listen| !listen.node.is_null());
        match root.child("admin").filter(|admin| !admin.node.is_null()) {
            Some(admin) => Some(Self { address: address(&admin.child("address")?)?, tls: false }),
            None => {
                let named = listen.as_ref().and_then(|listen| listen.child("address"));
                let tls = listen.as_ref().and_then(|listen| listen.child("tls"));
                Some(Self {
                    address: named.map_or(Some(Listen::default().address), |node_ref| address(&node_ref))?,
                    tls: tls.is_some_and(|tls| !tls.node.is_null()),
                })
            }
        }
    }
}

fn address(node_ref: &NodeRef<'_>) -> Option<SocketAddr> {
    match &node_ref.node.value {
        NodeValue::Scalar(scalar) if !node_ref.node.is_invalid() => scalar.text().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_in_a_file_with_errors_elsewhere() {
        let of = |text: &str| {
            let found = AdminAddress::of_text("c", text, &|name| (name == "PORT").then(|| "81".to_owned()))?;
            Some((found.address.to_string(), found.tls))
        };
        let is = |address: &str, tls| Some((address.to_owned(), tls));
        assert_eq!(of("mcpServers: {a: {bultin: x}}\n"), is("127.0.0.1:8000", false));
        assert_eq!(of("listen: {address: \"0.0.0.0:${PORT}\", nonsense: 1}\n"), is("0.0.0.0:81", false));
        assert_eq!(of("listen: {address: 1.2.3.4:5, tls: {cert: a}}\n"), is("1.2.3.4:5", true));
        let admin = "listen: {address: 1.2.3.4:5, tls: {cert: a}}\nadmin: {address: 127.0.0.1:9}\n";
        assert_eq!(of(admin), is("127.0.0.1:9", false));
        for none in ["listen: {address: 1.2.3.4}\n", "listen: {address: \"1.2.3.4:${NONE}\"}\n", "a: [\n", ""]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
