//! A changed configuration file becomes the running configuration, as a whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};

use super::file_watch::FileWatcher;
use crate::config;
use crate::dispatch::Dispatcher;
use crate::listener::tls::Tls;
use crate::process::state::ProcessState;
use crate::runtime::RuntimeConfig;

/// Editors write a file in several steps; the last one counts.
const DEBOUNCE: Duration = Duration::from_millis(150);
/// How often the watched folder is checked for replacement.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

pub struct Reload {
    /// `None` in the quickstart, which has no file.
    pub file: Option<PathBuf>,
    pub dispatcher: Arc<Dispatcher>,
    pub state: Arc<ProcessState>,
    /// Of the public listener.
    pub tls: Option<Arc<Tls>>,
    /// SIGHUP.
    pub hangup: Arc<Notify>,
}

impl Reload {
    /// Waits for changes of the file and for SIGHUP.
    pub async fn run(self) {
        let (touched, mut touches) = mpsc::channel(1);
        let mut folder = self.file.clone().as_deref().map(|file| FileWatcher::of(file, touched.clone()));
        let this = Arc::new(self);
        let mut last = this.read().await;
        if let Some(text) = &last {
            // The file may have been saved while the servers were connecting, before the watch began.
            let loaded = this.dispatcher.registry.snapshot().config.config.hash.clone();
            if config::hash_of(text) != Some(loaded) {
                this.check_file().await;
            }
        }
        let mut tick = interval(POLL_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = this.hangup.notified() => true,
                Some(()) = touches.recv() => false,
                _ = tick.tick() => match &mut folder {
                    Some(folder) => {
                        if !folder.renew() {
                            continue;
                        }
                        false
                    }
                    None => continue,
                },
            };
            if !asked {
                tokio::time::sleep(DEBOUNCE).await;
                while touches.try_recv().is_ok() {}
                // A file with unchanged content is ignored, valid or not.
                let text = this.read().await;
                if text == last {
                    continue;
                }
                last = text;
            }
            this.check_file().await;
        }
    }

    /// The content of the file; `None` if it cannot be read.
    async fn read(self: &Arc<Self>) -> Option<Vec<u8>> {
        let this = self.clone();
        let read = move || this.file.as_deref().and_then(|file| config::read(file).ok());
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Reading files, certificates and keys too, takes as long as their disks do: nothing else waits for
    /// it.
    async fn check_file(self: &Arc<Self>) {
        let this = self.clone();
        let look = move || match &this.file {
            Some(file) => this.reload(file),
            None => tracing::info!("nothing to reload: the gateway runs without a configuration file"),
        };
        if tokio::task::spawn_blocking(look).await.is_err() {
            tracing::error!("a reload broke off, the old configuration stays in effect");
        }
    }

    fn reload(&self, file: &Path) {
        let faulty = |message: String, first: String| {
            tracing::error!(file = %file.display(), "the changed configuration is invalid, the old one goes on:\n{message}");
            self.dispatcher.metrics.reloaded(false);
            self.state.set_config_fault(Some(first));
        };
        let new = match config::load(file) {
            Ok(new) => new,
            // Not every reader of `/ready` may see lines of the file.
            Err(faults) => return faulty(faults.to_string(), faults.one_line().to_string()),
        };
        let before = self.dispatcher.registry.snapshot().config.clone();
        let changes = before.config.changes(&new);
        let renamed = before.config.listen.tls != new.listen.tls;
        if let (Some(tls), Some(settings), false) = (&self.tls, &new.listen.tls, renamed) {
            tls.renew_or_log(settings);
        }
        let stale: Vec<String> = before.stale().into_iter().map(str::to_owned).collect();
        if changes.is_empty() && stale.is_empty() {
            if self.state.config_fault().is_some() {
                tracing::info!(file = %file.display(), "the configuration file is valid again and in effect");
            }
            self.state.set_config_fault(None);
            return;
        }
        let hash = new.hash.clone();
        let runtime_config = match RuntimeConfig::new(new, Some(&before), &self.dispatcher.runtime) {
            Ok(runtime_config) => runtime_config,
            Err(error) => return faulty(error.to_string(), error.to_string()),
        };
        // Newly named files are a part of the change, which is applied as a whole.
        if let (Some(tls), Some(settings), true) = (&self.tls, &runtime_config.config.listen.tls, renamed)
            && let Err(error) = tls.renew(settings)
        {
            return faulty(error.to_string(), error.to_string());
        }
        self.dispatcher.bridge.apply(&runtime_config.config);
        self.dispatcher.registry.clone().apply(runtime_config.clone());
        self.dispatcher.metrics.config(&hash);
        self.dispatcher.metrics.reloaded(true);
        self.state.set_config_fault(None);
        for server in stale {
            tracing::info!(%server, "the files of its tls were read anew");
        }
        for change in &changes {
            if change.needs_restart {
                tracing::warn!(
                    change = change.what,
                    "changed in the file, but takes effect only after a restart"
                );
            } else {
                tracing::info!(change = change.what, "reloaded");
            }
        }
    }
}
