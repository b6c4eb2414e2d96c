//! The admin address of a running gateway, in a file beside its socket, for health checks. The
//! configuration file may be invalid, or may name another address by now, which takes effect only after a
//! restart.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::handover::{folder, prepare};
use crate::config::read_file;
use crate::config::{self, AdminAddress};

/// Maximum size of the file, in bytes.
const MAX: u64 = 4096;

/// The file of the gateway that runs with one configuration file.
#[derive(Clone, Debug)]
pub struct AdminAddressFile(PathBuf);

impl AdminAddressFile {
    /// `None` for a path that is not UTF-8.
    pub fn of(file: &Path) -> Option<Self> {
        let file = std::path::absolute(file).ok()?;
        let name = config::hash_of(file.as_os_str().as_encoded_bytes())?;
        Some(Self(folder().join(format!("{name}.at"))))
    }

    /// Writes the admin address of this process. The gateway runs even if this fails.
    pub fn publish(&self, at: AdminAddress) {
        let words =
            format!("{} {} {}\n", at.address, if at.tls { "tls" } else { "plain" }, std::process::id());
        let hung = prepare(&self.0).map_err(|error| error.to_string()).and_then(|()| {
            // Replaced atomically for concurrent readers.
            let fresh = self.0.with_extension(std::process::id().to_string());
            let put = fs::write(&fresh, words).and_then(|()| fs::rename(&fresh, &self.0));
            put.map_err(|error| error.to_string())
        });
        if let Err(error) = hung {
            tracing::debug!(error, "health checks use the configuration file alone");
        }
    }

    /// Removes the file at the end of this process, unless it is a successor's.
    pub fn remove(&self) {
        if self.read().is_ok_and(|(_, pid)| pid == std::process::id()) {
            let _ = fs::remove_file(&self.0);
        }
    }

    /// The published address, if a gateway of this user wrote it.
    pub fn at(&self) -> Option<AdminAddress> {
        self.read().ok().map(|(at, _)| at)
    }

    fn read(&self) -> io::Result<(AdminAddress, u32)> {
        // Other users may have write access to the parent folder.
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
        let file = AdminAddressFile(base.path().join("run/a.at"));
        assert_eq!(file.at(), None);
        let at = AdminAddress { address: "127.0.0.1:8443".parse().expect("an address"), tls: true };
        file.publish(at);
        assert_eq!(file.at(), Some(at));
        fs::write(&file.0, "127.0.0.1:1 plain 1\n").expect("another has its own there");
        file.remove();
        assert!(file.at().is_some_and(|at| !at.tls), "that one stays");
        file.publish(at);
        file.remove();
        assert_eq!(file.at(), None);
    }
}
