//! How a process ends: by itself, with its gateway, or on request.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt;

use super::{Life, SOON, call, ends, helper, result, soon, start, told};
use crate::upstream::stdio::child::ConnectionError;

/// Two processes that neither the end of stdin nor SIGTERM ends.
fn stubborn_family(port: u16) -> String {
    format!(
        r#"
signal.signal(signal.SIGTERM, lambda *_: note("term"))
if os.fork() == 0:
    life = live({port}); forever()
life = live({port})
for _ in heard(): pass
note("eof")
forever()
"#
    )
}

#[tokio::test]
async fn a_child_that_dies_fails_pending_and_new_calls() {
    let (child, _notices) = start(r#"next(heard()); next(heard()); sys.exit(3)"#).await;
    let (first, second) =
        soon(async { tokio::join!(call(&child, "a", json!({})), call(&child, "b", json!({}))) }).await;
    for answer in [first, second] {
        let Err(ConnectionError::Exited { status: Some(status), sent: true, .. }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(status.code(), Some(3));
    }
    assert_eq!(soon(child.exited()).await.unwrap().code(), Some(3));
    assert!(!child.is_alive());
    let refused = call(&child, "c", json!({})).await;
    assert!(
        matches!(refused, Err(ConnectionError::Exited { status: Some(_), sent: false, .. })),
        "{refused:?}"
    );
    let refused = child.notify("c", None, SOON).await;
    assert!(
        matches!(refused, Err(ConnectionError::Exited { status: Some(_), sent: false, .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_last_output_of_a_dying_child_is_read() {
    for _ in 0..10 {
        let (child, _notices) =
            start(r#"send(id=next(heard())["id"], result={"big": "x" * 300_000}); os._exit(0)"#).await;
        assert_eq!(result(call(&child, "m", json!({})).await)["big"].as_str().unwrap().len(), 300_000);
        assert!(soon(child.exited()).await.unwrap().success());
    }
}

/// A process that has left the group, and has read a call by the time its parent ends; it holds stdout open.
const ESCAPE: &str = r#"
wait, go = os.pipe()
if os.fork():
    os.read(wait, 1); sys.exit(0)
os.setsid()
id = next(heard())["id"]
"#;

#[cfg(target_os = "linux")]
#[tokio::test]
async fn output_after_the_end_of_a_child_is_read() {
    let last = r#"signal.signal(SIGTERM, lambda *_: (send(id=id, result={}), os._exit(0)))"#;
    let (child, _notices) = start(&format!("{ESCAPE}{last}; os.write(go, b'x'); forever()")).await;
    assert_eq!(result(call(&child, "m", json!({})).await), json!({}));
}

#[tokio::test]
async fn a_process_that_left_the_group_delays_no_call() {
    let (life, port) = Life::new().await;
    let stays =
        format!("signal.signal(SIGTERM, SIG_IGN); life = live({port}); os.write(go, b'x'); forever()");
    let (child, _notices) = start(&format!("{ESCAPE}{stays}")).await;
    let (answer, life) = tokio::join!(call(&child, "m", json!({})), life.begins());
    assert!(matches!(answer, Err(ConnectionError::Exited { status: Some(_), sent: true, .. })), "{answer:?}");
    // It can be found on Linux only.
    if cfg!(target_os = "linux") {
        ends(life).await;
    }
}

#[tokio::test]
async fn a_child_that_closes_its_stdout_is_stopped() {
    let (life, port) = Life::new().await;
    let (child, _notices) = start(&format!("life = live({port}); os.close(1); forever()")).await;
    let life = life.begins().await;
    soon(child.exited()).await.unwrap();
    ends(life).await;
}

#[tokio::test]
async fn a_polite_child_ends_by_the_end_of_its_stdin() {
    let (child, mut notices) = start("note('hello')\nfor _ in heard(): pass\nnote('bye')").await;
    assert_eq!(told(&mut notices).await.0, "hello");
    assert!(soon(child.stop()).await.unwrap().success());
    assert_eq!(told(&mut notices).await.0, "bye");
    drop(child);
    assert!(soon(notices.recv()).await.is_none());
}

#[tokio::test]
async fn a_stubborn_child_is_signalled_twice_and_killed_with_its_group() {
    let (life, port) = Life::new().await;
    let (child, mut notices) = start(&stubborn_family(port)).await;
    let lives = [life.begins().await, life.begins().await];
    let status = soon(child.stop()).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    let mut message = vec![told(&mut notices).await.0, told(&mut notices).await.0];
    assert_eq!(message.remove(0), "eof");
    assert_eq!(message, ["term"]);
    for life in lives {
        ends(life).await;
    }
}

#[tokio::test]
async fn a_grandchild_does_not_outlive_the_child() {
    let (life, port) = Life::new().await;
    let script = format!("if os.fork() == 0: life = live({port}); forever()\nnext(heard())");
    let (child, _notices) = start(&script).await;
    let grandchild = life.begins().await;
    child.notify("go", None, SOON).await.unwrap();
    ends(grandchild).await;
    soon(child.exited()).await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_init_reaps_the_orphans() {
    // SAFETY: makes this process the one that inherits orphans, as an init would be.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
    let script = "pid = os.fork()\nif pid == 0: forever()\nnote('orphan', pid=pid); next(heard())";
    let (child, mut notices) = start(script).await;
    let orphan = format!("/proc/{}", told(&mut notices).await.1["pid"]);
    assert!(std::fs::exists(&orphan).unwrap());
    child.stop().await;
    soon(async {
        while std::fs::exists(&orphan).unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_last_drop_stops_the_child() {
    let (life, port) = Life::new().await;
    let (child, _notices) = start(&format!("life = live({port})\nfor _ in heard(): pass")).await;
    let other = child.clone();
    let life = life.begins().await;
    drop(child);
    assert!(other.is_alive());
    drop(other);
    ends(life).await;
}

#[test]
fn a_dropped_runtime_takes_the_child_with_it() {
    let ours = tokio::runtime::Runtime::new().unwrap();
    let theirs = tokio::runtime::Runtime::new().unwrap();
    let (life, port) = ours.block_on(Life::new());
    let (child, _notices) = theirs.block_on(start(&stubborn_family(port)));
    let lives = ours.block_on(async { [life.begins().await, life.begins().await] });
    let waiting = ours.spawn({
        let child = child.clone();
        async move { call(&child, "m", json!({})).await }
    });
    drop(theirs);
    let waiting = ours.block_on(waiting).unwrap();
    assert!(matches!(waiting, Err(ConnectionError::Exited { .. })), "{waiting:?}");
    ours.block_on(async {
        soon(child.exited()).await;
        for life in lives {
            ends(life).await;
        }
    });
}

#[tokio::test]
async fn a_killed_gateway_leaves_no_orphans() {
    let (life, port) = Life::new().await;
    for script in [stubborn_family(port), format!("daemon({port}); life = live({port}); forever()")] {
        let mut gateway = helper(module_path!(), "gateway_to_be_killed")
            .env("SCRIPT", script)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let lives = [life.begins().await, life.begins().await];
        gateway.kill().unwrap();
        gateway.wait().unwrap();
        for life in lives {
            ends(life).await;
        }
    }
}

#[tokio::test]
#[ignore = "a process of its own for the test above"]
async fn gateway_to_be_killed() {
    let Ok(script) = std::env::var("SCRIPT") else { return };
    let _child = start(&script).await;
    // It does not outlive a test that has failed.
    let _ = tokio::io::stdin().read(&mut [0]).await;
}
