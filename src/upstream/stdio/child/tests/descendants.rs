//! Descendants of a server, in any session: they end with the server.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use serde_json::json;
use tokio::sync::mpsc::Receiver;

use super::{Bytes, Duration, Life, call, ends, result, soon, start, told};
use crate::upstream::stdio::child::ConnectionError;

/// The pid in a process's notification.
async fn pid(notices: &mut Receiver<Bytes>, who: &str) -> u32 {
    let (name, params) = told(notices).await;
    assert_eq!(name, who);
    params["pid"].as_u64().unwrap() as u32
}

fn is_there(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

#[tokio::test]
async fn a_daemon_ends_with_the_server_that_is_stopped() {
    let (life, port) = Life::new().await;
    let (child, mut notices) = start(&format!("daemon({port})\nfor _ in heard(): pass")).await;
    let life = life.begins().await;
    let daemon = pid(&mut notices, "daemon").await;
    assert!(soon(child.stop()).await.unwrap().success());
    assert!(!is_there(daemon));
    ends(life).await;
}

#[tokio::test]
async fn a_daemon_ends_before_the_crash_of_its_server_is_reported() {
    let (life, port) = Life::new().await;
    let (child, mut notices) = start(&format!("daemon({port}); next(heard()); os._exit(3)")).await;
    let _life = life.begins().await;
    let daemon = pid(&mut notices, "daemon").await;
    let answer = soon(call(&child, "m", json!({}))).await;
    assert!(matches!(answer, Err(ConnectionError::Exited { sent: true, .. })), "{answer:?}");
    assert_eq!(soon(child.exited()).await.unwrap().code(), Some(3));
    assert!(!is_there(daemon));
}

#[test]
fn a_daemon_ends_with_the_runtime() {
    let ours = tokio::runtime::Runtime::new().unwrap();
    let theirs = tokio::runtime::Runtime::new().unwrap();
    let (life, port) = ours.block_on(Life::new());
    let (_child, _notices) = theirs.block_on(start(&format!("daemon({port}); forever()")));
    let life = ours.block_on(life.begins());
    drop(theirs);
    ours.block_on(ends(life));
}

#[tokio::test]
async fn the_signal_that_ended_the_server_is_reported() {
    let (child, _notices) = start("os.kill(os.getpid(), signal.SIGSEGV); forever()").await;
    assert_eq!(soon(child.exited()).await.unwrap().signal(), Some(libc::SIGSEGV));
}

#[tokio::test]
async fn a_process_that_forks_faster_than_a_scan_is_caught() {
    let (life, port) = Life::new().await;
    // Each is in a session of its own, and has ended when the next one runs. It does not outlive a test that
    // has failed.
    let comet = r#"
    signal.signal(SIGTERM, SIG_IGN); end = time.monotonic() + 60
    while time.monotonic() < end:
        if os.fork(): os._exit(0)
        os.setsid()
    os._exit(0)
"#;
    let (child, _notices) =
        start(&format!("life = live({port})\nif os.fork() == 0:{comet}\nfor _ in heard(): pass")).await;
    let life = life.begins().await;
    soon(child.stop()).await.unwrap();
    ends(life).await;
}

#[tokio::test]
async fn all_of_a_tree_is_ended() {
    let (life, port) = Life::new().await;
    // 1 + 2 + 4 + 8 + 16 processes, all of which ignore SIGTERM.
    let tree = r#"
    signal.signal(SIGTERM, SIG_IGN); os.setsid()
    for depth in range(4):
        if os.fork() == 0 or os.fork() == 0: continue
        break
    forever()
"#;
    let (child, _notices) =
        start(&format!("life = live({port})\nif os.fork() == 0:{tree}\nfor _ in heard(): pass")).await;
    let life = life.begins().await;
    soon(child.stop()).await.unwrap();
    ends(life).await;
}

#[tokio::test]
async fn a_killed_supervisor_takes_the_server_and_its_group_with_it() {
    let (life, port) = Life::new().await;
    let script = format!(
        r#"
supervisor = os.getppid()
if os.fork() == 0: life = live({port}); forever()
life = live({port}); note("supervisor", pid=supervisor)
for _ in heard(): pass
forever()
"#
    );
    let (child, mut notices) = start(&script).await;
    let lives = [life.begins().await, life.begins().await];
    let supervisor = pid(&mut notices, "supervisor").await;
    // SAFETY: no memory is involved; it is the child's.
    assert_eq!(unsafe { libc::kill(supervisor.cast_signed(), libc::SIGKILL) }, 0);
    assert_eq!(soon(child.exited()).await.unwrap().signal(), Some(libc::SIGKILL));
    for life in lives {
        ends(life).await;
    }
}

#[tokio::test]
async fn signals_do_not_end_a_supervisor() {
    let script = r#"
for words in heard(): os.kill(os.getppid(), words["params"]["signal"]); send(id=words["id"], result={})
"#;
    let (child, _notices) = start(script).await;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2, libc::SIGPIPE, libc::SIGALRM] {
        assert_eq!(result(call(&child, "m", json!({"signal": signal})).await), json!({}));
    }
    assert!(soon(child.stop()).await.unwrap().success());
}

#[tokio::test]
async fn a_supervisor_is_small_and_holds_nothing_of_the_gateway() {
    let gateways = std::hint::black_box(vec![1_u8; 64 << 20]);
    let (child, mut notices) = start("note('supervisor', pid=os.getppid())\nfor _ in heard(): pass").await;
    let supervisor = pid(&mut notices, "supervisor").await;
    let read = |file: &str| fs::read(format!("/proc/{supervisor}/{file}")).unwrap();
    // It may still be giving memory back.
    soon(async {
        while !read("cmdline").starts_with(b"mcp-supervisor test\0") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(read("comm"), b"mcp-supervisor\n");
    assert!(read("environ").iter().all(|byte| *byte == 0));
    let open = fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap();
    let open: Vec<_> = open.map(|fd| fs::read_link(fd.unwrap().path()).unwrap()).collect();
    let open: Vec<_> = open.iter().map(|to| to.to_str().unwrap().split([':', '[']).next().unwrap()).collect();
    assert_eq!(open.len(), 2, "{open:?}");
    assert!(open.contains(&"socket") && open.contains(&"anon_inode"), "{open:?}");
    assert_eq!(fs::read_link(format!("/proc/{supervisor}/cwd")).unwrap().to_str(), Some("/"));
    // Variables of the program and its libraries, for the most part shared.
    let rollup = String::from_utf8(read("smaps_rollup")).unwrap();
    let anonymous = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    let anonymous: usize = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(anonymous << 10 < gateways.len() / 4, "{rollup}");
    child.stop().await;
}
