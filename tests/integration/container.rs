//! The gateway as process 1, as in a container without an init: in a namespace of its own, if the system
//! lets a test make one.

use std::process::Command;

use crate::harness::{Gateway, Process};
use crate::process;

/// Commands that make namespaces; `None` where that is not allowed.
fn unshare() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [
        &["--pid", "--fork", "--kill-child", "--mount-proc"],
        &["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"],
    ];
    let works = |way: &&&[&str]| {
        let tried = Command::new("unshare").args(**way).arg("true").output();
        tried.is_ok_and(|done| done.status.success())
    };
    ways.iter().find(works).copied()
}

/// A gateway that is process 1; returns its pid outside too.
async fn first(config: &str) -> Option<(Gateway, u32)> {
    let Some(way) = unshare() else {
        eprintln!("not tested: no namespace of processes can be made here");
        return None;
    };
    let gateway = Gateway::start_as(config, |command| {
        let mut inside = Command::new("unshare");
        inside.args(way).arg(command.get_program()).args(command.get_args());
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Process::start(inside.current_dir(command.get_current_dir().expect("it has one")))
    })
    .await;
    let pid = process::children(gateway.process.id()).into_iter().next().expect("the gateway");
    Some((gateway, pid))
}

#[tokio::test(flavor = "multi_thread")]
async fn as_process_1_it_looks_after_orphans() {
    // A server that leaves a process behind which is in another process group.
    let server = r#"{command: sh, args: ["-c", "(setsid sleep 2000 &); exec sleep 1000"]}"#;
    let config = format!("mcpServers: {{demo: {{builtin: demo}}, odd: {server}}}\n");
    let Some((gateway, pid)) = first(&config).await else { return };
    let mut orphans = Vec::new();
    gateway
        .eventually("the orphan has come", async |_| {
            orphans = process::children_running(pid, "sleep 2000 ");
            orphans.retain(|orphan| process::command_line(*orphan) == "sleep 2000 ");
            !orphans.is_empty()
        })
        .await;
    // Without its supervisor it is a child of the gateway.
    let supervisors = process::supervisors(pid);
    supervisors.iter().for_each(|supervisor| process::kill(*supervisor));
    gateway
        .eventually("it is the gateway's", async |_| {
            let children = process::children(pid);
            orphans.iter().all(|orphan| children.contains(orphan))
        })
        .await;
    orphans.iter().for_each(|orphan| process::kill(*orphan));
    let lies = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    gateway
        .eventually("all are reaped", async |_| !orphans.iter().any(lies) && !supervisors.iter().any(lies))
        .await;
    let runs = async |_: &Gateway| !process::children_running(pid, "sleep 1000").is_empty();
    gateway.eventually("the server's own process runs", runs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_process_1_it_starts_no_successor() {
    let Some((mut gateway, pid)) = first("mcpServers: {demo: {builtin: demo}}\n").await else { return };
    // SAFETY: sends a signal to a process that this test has started.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), libc::SIGUSR2) }, 0);
    gateway.process.wait_for("as process 1 it cannot be replaced");
    // A gateway that is started beside it does not take over either.
    let mut beside = Process::start(&mut Gateway::command(gateway.folder.path(), &["run", "--upgrade"]));
    assert_eq!(beside.wait().code(), Some(1));
    assert!(beside.output().contains("no running gateway was found"), "{}", beside.output());
    assert!(gateway.get("/ready").await.contains("\"ready\":true"));
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) }, 0);
    assert!(gateway.process.wait().success());
}
