//! What a running gateway leaves beside its socket for a health check: where it answers operators. The file may name
//! another address by now, which takes effect only after a restart, or be faulty.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::handover::{folder, prepare};
use crate::config::read_file;
use crate::config::{self, AdminAddress};

/// Longest sign, in bytes.
const MAX: u64 = 4096;

/// The sign of the gateway that runs with one configuration file.
#[derive(Clone, Debug)]
pub struct AdminAddressFile(PathBuf);

impl AdminAddressFile {
    /// None for a path that is no text.
    pub fn of(file: &Path) -> Option<Self> {
        let file = std::path::absolute(file).ok()?;
        let name = config::hash_of(file.as_os_str().as_encoded_bytes())?;
        Some(Self(folder().join(format!("{name}.at"))))
    }

    /// This process answers there. It runs as well where nothing can be written.
    pub fn publish(&self, at: AdminAddress) {
        let words =
            format!("{} {} {}\n", at.address, if at.tls { "tls" } else { "plain" }, std::process::id());
        let hung = prepare(&self.0).map_err(|error| error.to_string()).and_then(|()| {
            // Whole or not at all, for who reads it at this moment.
            let fresh = self.0.with_extension(std::process::id().to_string());
            let put = fs::write(&fresh, words).and_then(|()| fs::rename(&fresh, &self.0));
            put.map_err(|error| error.to_string())
        });
        if let Err(error) = hung {
            tracing::debug!(error, "health checks go by the configuration file alone");
        }
    }

    /// This process ends; a successor's sign stays.
    pub fn remove(&self) {
        if self.read().is_ok_and(|(_, pid)| pid == std::process::id()) {
            let _ = fs::remove_file(&self.0);
        }
    }

    /// What the gateway has left, if it was one of this user.
    pub fn at(&self) -> Option<AdminAddress> {
        self.read().ok().map(|(at, _)| at)
    }

    fn read(&self) -> io::Result<(AdminAddress, u32)> {
        // Others may write into the folder above it.
        if fs::symlink_metadata(&self.0)?.uid() != geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let text = read_file::read_text(&self.0, MAX)?;
        let parse = || {
            let mut words = text.split_ascii_whitespace();
            let (address, tls) = (words.next()?.parse().ok()?, words.next()? == "tls");
            Some((AdminAddress { address, tls }, words.next()?.parse().ok()?))
        };
        parse().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_where_and_goes_with_its_gateway() {
        let base = tempfile::tempdir().expect("a folder");
        let sign = AdminAddressFile(base.path().join("run/a.at"));
        assert_eq!(sign.at(), None);
        let at = AdminAddress { address: "127.0.0.1:8443".parse().expect("an address"), tls: true };
        sign.publish(at);
        assert_eq!(sign.at(), Some(at));
        fs::write(&sign.0, "127.0.0.1:1 plain 1\n").expect("another has its own there");
        sign.remove();
        assert!(sign.at().is_some_and(|at| !at.tls), "that one stays");
        sign.publish(at);
        sign.remove();
        assert_eq!(sign.at(), None);
    }
}
