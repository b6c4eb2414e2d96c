//! Watches the folder of the file, because editors and Kubernetes replace the file rather than write it.
//!
//! The system watches the folder itself, even if it is renamed. So the path is checked every few seconds
//! for whether the same folder is still there.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

pub struct FileWatcher {
    path: PathBuf,
    name: Option<OsString>,
    touched: mpsc::Sender<()>,
    watched: Option<WatchedFolder>,
    failure_logged: bool,
}

struct WatchedFolder {
    /// Dropping it ends the watch.
    _watcher: RecommendedWatcher,
    /// Device and inode.
    folder: (u64, u64),
    /// The folder itself was changed. A new folder at its path may have its inode.
    lost: Arc<AtomicBool>,
}

impl FileWatcher {
    /// Sends on `touched` at each change that may concern the file.
    pub fn of(file: &Path, touched: mpsc::Sender<()>) -> Self {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = file.file_name().map(ToOwned::to_owned);
        let mut folder =
            Self { path: folder.to_owned(), name, touched, watched: None, failure_logged: false };
        folder.renew();
        folder
    }

    /// Whether the file must be read because a change could have been missed: the path now has another
    /// folder, or one that cannot be watched.
    pub fn renew(&mut self) -> bool {
        let now = fs::metadata(&self.path).map(|seen| (seen.dev(), seen.ino())).ok();
        let same =
            |watched: &WatchedFolder| Some(watched.folder) == now && !watched.lost.load(Ordering::Relaxed);
        if self.watched.as_ref().is_some_and(same) {
            return false;
        }
        self.watched = now.and_then(|folder| match self.watch(folder) {
            Ok(watched) => Some(watched),
            Err(error) => {
                if !std::mem::replace(&mut self.failure_logged, true) {
                    tracing::warn!(folder = %self.path.display(), %error, "the file cannot be watched; it is checked periodically and at SIGHUP");
                }
                None
            }
        });
        true
    }

    fn watch(&self, folder: (u64, u64)) -> notify::Result<WatchedFolder> {
        let lost = Arc::new(AtomicBool::new(false));
        let (path, name, touched, lose) =
            (self.path.clone(), self.name.clone(), self.touched.clone(), lost.clone());
        // Kubernetes mounts the file as a link through `..data`, and replaces that.
        let ours = move |path: &PathBuf| {
            let touched = path.file_name();
            touched == name.as_deref()
                || touched.is_some_and(|touched| touched.as_encoded_bytes().starts_with(b".."))
        };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            if event.kind.is_access() {
                return;
            }
            if event.paths.contains(&path) {
                lose.store(true, Ordering::Relaxed);
            }
            // Other files of the folder, such as a log, do not matter.
            if event.paths.iter().any(&ours) {
                // If the channel is full, a check is pending already.
                let _ = touched.try_send(());
            }
        })?;
        watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
        Ok(WatchedFolder { _watcher: watcher, folder, lost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_replaced_is_watched_again() {
        let base = tempfile::tempdir().expect("a folder");
        let path = base.path().join("conf");
        fs::create_dir(&path).expect("it is made");
        let file = path.join("toolgate.yaml");
        fs::write(&file, "a").expect("it is written");
        let (touched, mut touches) = mpsc::channel(1);
        let mut folder = FileWatcher::of(&file, touched);
        assert!(!folder.renew(), "it is watched already");
        fs::rename(&path, base.path().join("old")).expect("it is moved");
        assert!(folder.renew(), "there is none");
        assert!(folder.renew(), "nor now");
        fs::create_dir(&path).expect("it is made");
        fs::write(&file, "b").expect("it is written");
        assert!(folder.renew(), "another one");
        assert!(!folder.renew(), "which is watched now");
        while touches.try_recv().is_ok() {}
        fs::write(&file, "c").expect("it is written");
        touches.blocking_recv().expect("it is told");
    }
}
