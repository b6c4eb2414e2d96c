//! The demo server by itself: the gateway with only its built-in tools, over HTTP or over standard input
//! and output.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

use super::{failed, print_detached};
use crate::config::{self, Config};
use crate::dispatch::Dispatcher;
use crate::lifecycle::{App, StartOptions};
use crate::session::{OwnerKey, Session, SessionLimits};
use crate::telemetry;
use mcp::jsonrpc::message;
use mcp::version;

const PATH: &str = "/servers/demo/mcp";

/// `demo-server --listen ADDR`
pub fn http(address: SocketAddr) -> ExitCode {
    let mut config = Config::quickstart();
    config.listen.address = address;
    for server in config.servers.values_mut() {
        server.prefix = String::new();
    }
    telemetry::start(&config.log);
    let listening =
        move |_: &Dispatcher| print_detached(format!("demo server listening on http://{address}/mcp\n"));
    let ran = App::run(config, StartOptions::default(), listening);
    ran.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

/// `demo-server --stdio`: one message a line; responses in the order in which they are ready.
pub fn stdio() -> ExitCode {
    let mut config = Config::quickstart();
    config.log.level = config::LogLevel::Warn;
    let max_line = config.limits.max_body.as_usize();
    telemetry::start(&config.log);
    let app = match App::build(config) {
        Ok(app) => app,
        Err(error) => return failed(&error),
    };
    let dispatcher = app.dispatcher.clone();
    app.run_once(async move {
        let (out, mut lines) = mpsc::channel::<Bytes>(64);
        let write = tokio::spawn(async move {
            let mut stdout = tokio::io::stdout();
            while let Some(line) = lines.recv().await {
                let written = async {
                    stdout.write_all(&line).await?;
                    stdout.write_all(b"\n").await?;
                    stdout.flush().await
                };
                if written.await.is_err() {
                    return;
                }
            }
        });
        read(dispatcher, max_line, out).await;
        let _ = write.await;
    });
    ExitCode::SUCCESS
}

async fn read(dispatcher: Arc<Dispatcher>, max_line: usize, out: mpsc::Sender<Bytes>) {
    // The pipe is the session; the one that `initialize` opens beside it is for HTTP.
    let owner = dispatcher.registry.snapshot().config.chain.anonymous();
    let session = dispatcher.sessions.open(
        OwnerKey::new(owner, None),
        &Arc::from(PATH),
        version::NEWEST_LEGACY,
        Bytes::from_static(b"{}"),
        Bytes::from_static(crate::upstream::gateway_info().as_bytes()),
        SessionLimits::UNLIMITED,
    );
    let Ok(session) = session else { return };
    let mut stdin = BufReader::new(tokio::io::stdin());
    loop {
        let mut line = Vec::new();
        match (&mut stdin).take(max_line as u64 + 1).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) if line.len() > max_line => return,
            Ok(_) => {}
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        tokio::spawn(answer(dispatcher.clone(), session.clone(), Bytes::from(line), out.clone()));
    }
}

async fn answer(dispatcher: Arc<Dispatcher>, session: Arc<Session>, line: Bytes, out: mpsc::Sender<Bytes>) {
    let answer = match dispatcher.answer_internal(None, Some(session), PATH, line.clone()).await {
        Ok(answer) => answer,
        Err(rejected) => message::rejection_response(rejected.id.as_deref(), &rejected.rejection),
    };
    if !answer.is_empty() {
        // There is no reader any more: the client has disconnected.
        let _ = out.send(answer).await;
    }
}
