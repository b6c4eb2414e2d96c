//! How a process is started, what it gets, and what is logged of it.

use serde_json::json;
use tokio::sync::mpsc;

use super::{SOON, call, helper, python, result, start};
use crate::upstream::stdio::child::{Child, ConnectionError, ServerCommand};

#[tokio::test]
async fn stderr_is_logged_by_the_line_and_never_blocks() {
    let output = helper(module_path!(), "gateway_that_logs").output().unwrap();
    let log = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(log.contains("DEBUG toolgate::stdio: first server=\"test\"\n"), "{log}");
    assert!(log.contains(&format!(" {} server", "y".repeat(4096))), "{log}");
    assert!((90..10_000).contains(&log.matches(": more server").count()), "{log}");
}

#[tokio::test]
#[ignore = "a process of its own, because of its log, for the test above"]
async fn gateway_that_logs() {
    tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::DEBUG).init();
    let (child, _notices) = start(
        r#"
for words in heard():
    sys.stderr.write("first\n" + "y" * 5000 + "\n" + "more\n" * 100_000); sys.stderr.flush()
    send(id=words["id"], result={})
"#,
    )
    .await;
    result(call(&child, "m", json!({})).await);
    child.stop().await;
}

#[tokio::test]
async fn a_process_that_ends_by_itself_is_reported_with_its_last_lines() {
    let (child, _notices) = start(
        r#"
for words in heard():
    sys.stderr.write("".join(f"line {n}\n    at {n}\n}}\n" for n in range(20)) + "\x1b[31mno such module\r\n"); sys.stderr.flush()
    sys.exit(3)
"#,
    )
    .await;
    let answer = child.request("m", None, SOON, None).await;
    let error = answer.expect_err("it ends").to_string();
    assert!(error.ends_with("(exit status: 3); its last words: line 15 | line 16 | line 17 | line 18 | line 19 | [31mno such module"), "{error}");
    let later = child.request("m", None, SOON, None).await;
    assert_eq!(later.expect_err("it has ended").to_string(), error);
}

#[tokio::test]
async fn what_cannot_be_started_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("no.py");
    std::fs::write(&file, "#!/nowhere/python\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let gone = folder.path().join("gone");
    for (program, cwd, message) in [
        ("no-such-program-here", None, "the program `no-such-program-here` is not on PATH".to_owned()),
        ("/nowhere/program", None, "the program `/nowhere/program` does not exist".to_owned()),
        (
            "./no.py",
            Some(folder.path()),
            "the interpreter of the program `./no.py` does not exist".to_owned(),
        ),
        ("python3", Some(&*gone), format!("its `cwd` {} does not exist", gone.display())),
        ("python3", Some(&*file), format!("its `cwd` {} is not a folder", file.display())),
    ] {
        let command = ServerCommand {
            program: program.into(),
            args: Vec::new(),
            cwd: cwd.map(Into::into),
            ..python("")
        };
        let (notices, _heard) = mpsc::channel(1);
        let Err(ConnectionError::Spawn { source, .. }) = Child::spawn(&command, notices).await else {
            panic!("{program} is started");
        };
        assert_eq!(source.to_string(), message);
    }
}

#[tokio::test]
async fn the_child_outlives_the_thread_that_asked_for_it_but_not_the_gateway() {
    let runtime = tokio::runtime::Handle::current();
    let asker = std::thread::spawn(move || {
        runtime.block_on(start(
            r#"
signal = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(signal))
for words in heard(): send(id=words["id"], result={"death_signal": signal.value, "leads": os.getpgrp() == os.getpid()})
"#,
        ))
    });
    let (child, _notices) = tokio::task::spawn_blocking(move || asker.join().unwrap()).await.unwrap();
    let answer = result(call(&child, "m", json!({})).await);
    assert_eq!(answer, json!({"death_signal": libc::SIGKILL, "leads": true}));
}

#[tokio::test]
async fn the_child_inherits_neither_secrets_nor_files() {
    // SAFETY: a plain duplicate, which is not close-on-exec.
    let leaked = unsafe { libc::dup(2) };
    assert!(leaked > 2);
    let folder = tempfile::tempdir().unwrap();
    let mut command = python(
        r#"
for words in heard():
    files = [fd for fd in range(3, 256) if os.path.exists(f"/proc/self/fd/{fd}")]
    send(id=words["id"], result={"env": dict(os.environ), "files": files, "cwd": os.getcwd()})
"#,
    );
    command.env = vec![("LOG".into(), "1".into()), ("LANG".into(), "xx".into())];
    command.cwd = Some(folder.path().to_owned());
    let child = Child::spawn(&command, mpsc::channel(1).0).await.unwrap();
    let answer = result(call(&child, "m", json!({})).await);
    assert_eq!(answer["files"], json!([]));
    assert_eq!(answer["cwd"], folder.path().canonicalize().unwrap().to_str().unwrap());
    assert_eq!((&answer["env"]["LOG"], &answer["env"]["LANG"]), (&json!("1"), &json!("xx")));
    // A version manager's shim may have put something before it.
    assert!(answer["env"]["PATH"].as_str().unwrap().ends_with(&std::env::var("PATH").unwrap()));
    // Variables that the program adds for itself (`python3` may be a script) do not count.
    let prepared = command.prepare();
    let given: Vec<_> = prepared.get_envs().map(|(name, _)| name.to_str().unwrap()).collect();
    assert!(given.contains(&"PATH") && given.contains(&"LOG"), "{given:?}");
    assert!(
        given.iter().all(|name| *name == "LOG" || crate::upstream::stdio::spawn::is_inherited(name.as_ref())),
        "{given:?}"
    );
    assert!(
        crate::upstream::stdio::spawn::is_inherited("LC_ALL".as_ref())
            && !crate::upstream::stdio::spawn::is_inherited("AWS_SECRET_ACCESS_KEY".as_ref())
    );
    // SAFETY: it is ours.
    unsafe { libc::close(leaked) };
}

#[test]
fn the_page_says_what_programs_get() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration/environment.md"))
            .expect("the page is there");
    let section = page.split("## What programs get").nth(1).expect("the section is there");
    let section = section.split("##").next().expect("it ends");
    // Names in lower case are described in prose.
    let named: Vec<&str> = section
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .collect();
    for name in crate::upstream::stdio::spawn::INHERITED {
        assert!(named.contains(&name.to_ascii_uppercase().as_str()), "{name}");
    }
    for name in named {
        assert!(crate::upstream::stdio::spawn::is_inherited(name.as_ref()), "{name}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let mut command = python("");
    command.program = "/no/such/program".into();
    let Err(failed) = Child::spawn(&command, mpsc::channel(1).0).await else { panic!("it was started") };
    assert_eq!(failed.to_string(), "cannot start `/no/such/program`");
    assert!(std::error::Error::source(&failed).unwrap().to_string().contains("does not exist"));
}
