//! A gateway without listeners: whoever started it speaks to it from within the process.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::reload::Reload;
use super::{App, AppError, START, access, conf, core, move_sessions, sweep};
use crate::admin::Serves;
use crate::config::Config;
use crate::proxy::Gateway;
use crate::proxy::in_process::{Inside, Known};

impl App {
    /// Runs a gateway for as long as `work` speaks to it. `file` is watched for changes, `hangup` has it read at once.
    pub fn inside<T>(
        config: Config,
        file: Option<PathBuf>,
        known: Known,
        hangup: Arc<Notify>,
        work: impl AsyncFnOnce(Inside) -> T,
    ) -> Result<T, AppError> {
        let app = Self::on(core()?, config)?;
        let config = app.door.registry.house().plan.config.clone();
        let gateway = Gateway {
            door: app.door.clone(),
            state: app.state.clone(),
            access: access(&config),
            serves: Serves::Public,
            inside: Some(known),
        };
        let ready = CancellationToken::new();
        let inside = Inside::new(gateway, conf(&config, app.descriptors), ready.clone());
        let (door, state, runtime) = (app.door.clone(), app.state.clone(), app.runtime.handle().clone());
        let registry = door.registry.clone();
        runtime.spawn(async move {
            // Many clients list once, and never again.
            registry.settled(START, START).await;
            ready.cancel();
        });
        runtime.spawn(sweep(door.clone()));
        runtime.spawn(move_sessions(door.clone()));
        runtime.spawn(Reload { file, door: door.clone(), state, tls: None, hangup }.run());
        let done = app.runtime.block_on(async move {
            let done = work(inside).await;
            door.drain.cancel();
            door.sessions.close().await;
            door.registry.close().await;
            done
        });
        // Nothing that still runs is waited for, such as the look-up of a name.
        app.runtime.shutdown_background();
        Ok(done)
    }
}
