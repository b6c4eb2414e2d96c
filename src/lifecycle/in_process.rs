//! A gateway without listeners: its starter connects to it from within the process.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::reload::Reload;
use super::{
    App, AppError, STARTUP_WAIT, access_log, build_runtime, move_sessions, server_conf, sweep_sessions,
};
use crate::admin::ListenerRole;
use crate::config::Config;
use crate::proxy::Gateway;
use crate::proxy::in_process::{InProcessGateway, Known};

impl App {
    /// Runs a gateway for as long as `work` uses it. `file` is watched for changes, `hangup` makes the
    /// gateway read it at once.
    pub fn run_in_process<T>(
        config: Config,
        file: Option<PathBuf>,
        known: Known,
        hangup: Arc<Notify>,
        work: impl AsyncFnOnce(InProcessGateway) -> T,
    ) -> Result<T, AppError> {
        let app = Self::build_on(build_runtime()?, config)?;
        let config = app.dispatcher.registry.snapshot().config.config.clone();
        let gateway = Gateway {
            dispatcher: app.dispatcher.clone(),
            state: app.state.clone(),
            access_log: access_log(&config),
            role: ListenerRole::Public,
            in_process: Some(known),
        };
        let ready = CancellationToken::new();
        let inside = InProcessGateway::new(gateway, server_conf(&config, app.descriptors), ready.clone());
        let (dispatcher, state, runtime) =
            (app.dispatcher.clone(), app.state.clone(), app.runtime.handle().clone());
        let registry = dispatcher.registry.clone();
        runtime.spawn(async move {
            // Many clients list once, and never again.
            registry.settled(STARTUP_WAIT, STARTUP_WAIT).await;
            ready.cancel();
        });
        runtime.spawn(sweep_sessions(dispatcher.clone()));
        runtime.spawn(move_sessions(dispatcher.clone()));
        runtime.spawn(Reload { file, dispatcher: dispatcher.clone(), state, tls: None, hangup }.run());
        let done = app.runtime.block_on(async move {
            let done = work(inside).await;
            dispatcher.drain.cancel();
            dispatcher.sessions.close().await;
            dispatcher.registry.close().await;
            done
        });
        // Running blocking tasks, such as name resolution, are not awaited.
        app.runtime.shutdown_background();
        Ok(done)
    }
}
