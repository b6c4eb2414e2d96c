//! The path of the Unix socket at which a successor asks: in a folder of this user alone.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::HandoverError;
use crate::config::Config;

/// The path from the configuration file. Otherwise a name made of the public address, which no other
/// gateway of this host has. `None` if the system chooses the port: a successor could not find the socket.
pub fn socket_path(config: &Config) -> Option<PathBuf> {
    if let Some(path) = &config.listen.upgrade_socket {
        return Some(path.clone());
    }
    let address = config.listen.address;
    (address.port() != 0).then(|| folder().join(format!("{address}.sock")))
}

/// The folder for the private runtime files of this user's gateways.
pub fn folder() -> PathBuf {
    let named = |name: &str| {
        let value = std::env::var_os(name)?;
        // systemd gives a list, separated by colons.
        let first = value.to_str()?.split(':').next()?.to_owned();
        Path::new(&first).is_absolute().then(|| PathBuf::from(first))
    };
    named("RUNTIME_DIRECTORY")
        .or_else(|| Some(named("XDG_RUNTIME_DIR")?.join("toolgate")))
        .unwrap_or_else(|| std::env::temp_dir().join(format!("toolgate-{}", geteuid())))
}

/// Creates the folder if necessary, and checks that other users cannot write into it: in `/tmp` any user
/// may have created it before.
pub fn prepare(place: &Path) -> Result<(), HandoverError> {
    let folder = match place.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let failed = |error| HandoverError::Path(folder.to_owned(), error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let seen = fs::symlink_metadata(folder).map_err(failed)?;
    let linked = seen.file_type().is_symlink();
    let ours = seen.uid() == geteuid().as_raw() && seen.mode() & 0o022 == 0;
    if linked || !ours { Err(HandoverError::Open(folder.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_that_others_may_write_to_is_not_taken() {
        let base = tempfile::tempdir().expect("a folder");
        let own = base.path().join("own");
        prepare(&own.join("a.sock")).expect("it is made");
        assert_eq!(fs::metadata(&own).expect("it is there").mode() & 0o777, 0o700);
        prepare(&own.join("a.sock")).expect("it may be there already");
        let open = base.path().join("open");
        fs::create_dir(&open).expect("it is made");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("it is opened");
        assert!(matches!(prepare(&open.join("a.sock")), Err(HandoverError::Open(_))));
        let link = base.path().join("link");
        symlink(&own, &link).expect("a link");
        assert!(matches!(prepare(&link.join("a.sock")), Err(HandoverError::Open(_))));
    }

    #[test]
    fn gateways_of_one_host_have_places_of_their_own() {
        let mut config = Config::quickstart();
        let first = socket_path(&config).expect("a place");
        config.listen.address.set_port(8001);
        assert_ne!(Some(first), socket_path(&config));
        config.listen.address.set_port(0);
        assert_eq!(socket_path(&config), None);
        config.listen.upgrade_socket = Some("/run/gate/a.sock".into());
        assert_eq!(socket_path(&config), Some("/run/gate/a.sock".into()));
    }
}
