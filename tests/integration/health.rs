//! `toolgate health` as an orchestrator calls it: it reports a healthy gateway as healthy, whatever
//! happened to its file.

use std::path::Path;
use std::process::Output;

use tokio::process::Command;

use crate::clients;
use crate::commands::{err, out};
use crate::harness::{Gateway, free_port};

const DEMO: &str = "mcpServers: {demo: {builtin: demo}}\n";

/// Asks with this folder's file; `runtime` is where gateways publish their address.
pub async fn health(folder: &Path, runtime: &Path, message: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toolgate"));
    command.arg("health").args(message).current_dir(folder).env("RUNTIME_DIRECTORY", runtime);
    clients::output(&mut command, "").await
}

async fn asked(gateway: &Gateway, message: &[&str]) -> Output {
    health(gateway.folder.path(), gateway.folder.path(), message).await
}

/// The same where no address could be published, such as in a read-only container.
async fn asked_by_file(gateway: &Gateway, message: &[&str]) -> Output {
    let empty = tempfile::tempdir().expect("a folder");
    health(gateway.folder.path(), empty.path(), message).await
}

fn is_well(done: &Output) {
    assert_eq!(done.status.code(), Some(0), "{}", err(done));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_file_is_no_reason_to_be_unwell() {
    let mut gateway = Gateway::start(DEMO).await;
    is_well(&asked(&gateway, &[]).await);
    is_well(&asked_by_file(&gateway, &["--live"]).await);
    let port = gateway.port;
    for faulty in [
        format!("listen: {{address: \"127.0.0.1:{port}\"}}\nmcpServers: {{demo: {{bultin: demo}}}}\n"),
        format!("listen: {{address: \"127.0.0.1:{port}\", nonsense: 1}}\n"),
    ] {
        gateway.rewrite(&faulty);
        gateway.eventually("it is seen", async |g| g.get("/ready").await.contains("invalid")).await;
        is_well(&asked(&gateway, &[]).await);
        is_well(&asked_by_file(&gateway, &[]).await);
    }
    // This file cannot be parsed: only the gateway knows the address.
    gateway.rewrite("listen: [\n");
    is_well(&asked(&gateway, &["--live"]).await);
    let lost = asked_by_file(&gateway, &["--live"]).await;
    assert_eq!(lost.status.code(), Some(1));
    assert!(err(&lost).contains("--address HOST:PORT"), "{}", err(&lost));
    is_well(&asked_by_file(&gateway, &["--live", "--address", &format!("localhost:{port}")]).await);

    gateway.process.signal(libc::SIGTERM);
    assert!(gateway.process.wait().success());
    for done in [
        asked(&gateway, &["--live"]).await,
        asked_by_file(&gateway, &["--live", "--address", &format!("127.0.0.1:{port}")]).await,
    ] {
        assert_eq!(done.status.code(), Some(1), "it is gone: {}", out(&done));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_waits_for_a_restart_is_not_asked() {
    let mut gateway = Gateway::start(DEMO).await;
    gateway.rewrite(&format!("listen: {{address: \"127.0.0.1:{}\"}}\n{DEMO}", free_port()));
    gateway.process.wait_for("takes effect only after a restart");
    is_well(&asked(&gateway, &[]).await);
    is_well(&asked_by_file(&gateway, &["--address", &format!("127.0.0.1:{}", gateway.port)]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_alive_without_a_required_server_but_not_ready() {
    let config =
        format!("mcpServers: {{gone: {{url: \"http://127.0.0.1:{}/mcp\", required: true}}}}\n", free_port());
    let gateway = Gateway::start(&config).await;
    let done = asked(&gateway, &[]).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(err(&done).contains("503") && err(&done).contains("gone"), "{}", err(&done));
    is_well(&asked(&gateway, &["--live"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_of_operators_is_asked_where_there_is_one() {
    let config = format!("admin: {{address: \"127.0.0.1:{}\"}}\n{DEMO}", free_port());
    let gateway = Gateway::start(&config).await;
    for message in [&[][..], &["--live"]] {
        is_well(&asked(&gateway, message).await);
        is_well(&asked_by_file(&gateway, message).await);
    }
}
