//! Standard error and standard output that are not read or cannot be written: the gateway serves all the
//! same.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::commands::{err, folder_with, toolgate};
use crate::harness::{Gateway, Process, TEST_TIMEOUT, free_port};
use crate::process;

const DROPPED: &str = "toolgate_log_dropped_total";
/// More lines than the buffer holds.
const MANY: usize = 6000;

/// A full pipe.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let waits = |waits: bool| {
        let flags = if waits { 0 } else { libc::O_NONBLOCK };
        // SAFETY: sets a flag of a descriptor that is open.
        assert_eq!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, flags) }, 0);
    };
    waits(false);
    for size in [4096, 1] {
        while (&writer).write(&vec![b'.'; size]).is_ok() {}
    }
    waits(true);
    writer.flush().expect("a pipe has nothing to flush");
    (reader, writer)
}

/// Requests its health so often that not all log lines fit.
fn chatter(port: u16) {
    let connections: Vec<_> = (0..8).map(|_| std::thread::spawn(move || ask(port, MANY / 8))).collect();
    for connection in connections {
        connection.join().expect("all are answered");
    }
}

fn ask(port: u16, times: usize) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
    let mut piece = [0; 4096];
    for _ in 0..times {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let length = stream.read(&mut piece).expect("an answer");
            assert_ne!(length, 0, "closed");
            answer.extend_from_slice(&piece[..length]);
        }
    }
}

/// One server that is up, and one that is down, so that there is something to log.
fn config() -> String {
    let gone = format!("http://127.0.0.1:{}/mcp", free_port());
    let gone = json!({"urls": [gone, gone.replace("/mcp", "/")], "health": {"interval": "100ms"}});
    format!("mcpServers: {{demo: {{builtin: demo}}, gone: {gone}}}\nlog: {{level: debug}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_neither_calls_nor_the_end() {
    let (_reader, writer) = full_pipe();
    let mut gateway = Gateway::start_as(&config(), |command| Process::start_telling(command, writer)).await;
    let calls = (0..64).map(|n| {
        let message = json!({"message": n.to_string()});
        async { (gateway.call("demo__echo", message).await.0, gateway.call("gone__x", json!({})).await.0) }
    });
    for (good, bad) in futures::future::join_all(calls).await {
        assert_eq!((good, bad), (200, 502));
    }
    let port = gateway.port;
    tokio::task::spawn_blocking(move || chatter(port)).await.expect("all are answered");
    assert!(gateway.metric(DROPPED).await > 0.0);
    // Reloads are logged too.
    gateway.rewrite(&format!("{}limits: {{max_body: 1MiB}}\n", config()));
    let ok = "toolgate_config_reloads_total{result=\"ok\"}";
    gateway.eventually("it is reloaded", async |g| g.metric(ok).await == 1.0).await;
    gateway.process.signal(libc::SIGTERM);
    assert!(gateway.process.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_on_when_it_is_read_again_and_says_what_is_missing() {
    let (mut reader, writer) = full_pipe();
    let mut gateway = Gateway::start_as(&config(), |command| Process::start_telling(command, writer)).await;
    let port = gateway.port;
    tokio::task::spawn_blocking(move || chatter(port)).await.expect("all are answered");
    let read = Arc::new(Mutex::new(Vec::new()));
    let into = read.clone();
    let reading = std::thread::spawn(move || {
        let mut piece = [0; 65536];
        while let Ok(length @ 1..) = reader.read(&mut piece) {
            into.lock().expect("no holder panics").extend_from_slice(&piece[..length]);
        }
    });
    let has = |message: &str| {
        let read = read.lock().expect("no holder panics");
        String::from_utf8_lossy(&read).lines().any(|line| line.contains(message))
    };
    gateway.eventually("it is told", async |_| has("log lines were dropped")).await;
    assert_eq!(gateway.call("demo__echo", json!({"message": "again"})).await.0, 200);
    gateway.eventually("the call is told", async |_| has("demo__echo")).await;
    gateway.process.signal(libc::SIGTERM);
    assert!(gateway.process.wait().success());
    reading.join().expect("it ends with the gateway");
    assert!(has("\"stopped\""), "its last words are written");
    let read = read.lock().expect("no holder panics");
    let text = String::from_utf8_lossy(&read);
    let torn =
        text.trim_start_matches('.').lines().find(|line| !line.starts_with('{') || !line.ends_with('}'));
    assert_eq!(torn, None, "lines are whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_ends_even_if_nobody_reads_why() {
    let (_reader, writer) = full_pipe();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("an address");
    let config = format!("listen: {{address: \"{}\"}}\nmcpServers: {{demo: {{builtin: demo}}}}\n", taken.1);
    let folder = folder_with(&config);
    let mut process = Process::start_telling(&mut Gateway::command(folder.path(), &["run"]), writer);
    assert_eq!(process.wait().code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standard_output_that_is_full_stops_no_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let config =
        format!("listen: {{address: \"127.0.0.1:{port}\"}}\nmcpServers: {{demo: {{builtin: demo}}}}\n");
    std::fs::write(folder.path().join("toolgate.yaml"), config).expect("a file");
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" >/dev/full", "sh", env!("CARGO_BIN_EXE_toolgate"), "run"]);
    command.current_dir(folder.path()).env("RUNTIME_DIRECTORY", folder.path());
    let process = Process::start_telling(&mut command, Stdio::null());
    let http = reqwest::Client::new();
    let gateway = Gateway { process, port, folder, http };
    gateway.eventually("it serves", async |g| g.http.get(g.url("/health")).send().await.is_ok()).await;
    assert!(process::runs(gateway.process.id()));
}

#[tokio::test]
async fn a_command_whose_output_cannot_be_written_fails_and_says_so() {
    let folder = folder_with("mcpServers: {demo: {builtin: demo}}\n");
    for message in [&["check"][..], &["schema"], &["explain", "ping"], &["tools"]] {
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", "exec \"$@\" >/dev/full", "sh", env!("CARGO_BIN_EXE_toolgate")]).args(message);
        let done = crate::clients::output(command.current_dir(folder.path()), "").await;
        assert_eq!(done.status.code(), Some(1), "{message:?}: {}", err(&done));
        assert!(err(&done).contains("error: standard output: No space left"), "{}", err(&done));
    }
    assert!(toolgate(folder.path(), &["check"]).await.status.success());
}

/// A server behind stdio that writes terminal control sequences, and then ends with a reason.
const NOISY: &str = r#"import sys; sys.stderr.write("ok\rFAKE 200\x1b[2J\x1b]0;title\x07\u202eabc\nTraceback\nModuleNotFoundError: no module\n"); sys.stderr.flush(); sys.exit(3)"#;

fn noisy(format: &str) -> String {
    let server = json!({"command": "python3", "args": ["-c", NOISY]});
    format!("mcpServers: {{noisy: {server}}}\nlog: {{{format}}}\n")
}

#[tokio::test]
async fn foreign_words_do_nothing_to_a_terminal_and_a_dead_program_says_why_once() {
    let mut gateway = Gateway::start(&noisy("format: text, level: debug")).await;
    let told = gateway.process.wait_for("server is not connected");
    assert!(told.contains("exit status: 3") && told.contains("ModuleNotFoundError: no module"), "{told}");
    // It was started again since.
    let starts = |output: &str| output.matches("the process has started").count();
    gateway.eventually("it is tried again", async |g| starts(&g.process.output()) > 6).await;
    let output = gateway.process.output();
    assert!(output.contains(r"ok\rFAKE 200\u{1b}[2J\u{1b}]0;title\u{7}\u{202e}abc"), "{output}");
    assert!(!output.contains(['\r', '\u{1b}', '\u{7}', '\u{202e}']), "{output}");
    assert_eq!(output.matches("server is not connected").count(), 1, "{output}");
}

#[tokio::test]
async fn what_a_program_writes_to_standard_error_is_told_at_debug_and_the_format_is_json_for_a_pipe() {
    let mut gateway = Gateway::start(&noisy("level: info")).await;
    let told = gateway.process.wait_for("server is not connected");
    assert!(told.starts_with('{'), "{told}");
    let output = gateway.process.output();
    assert!(!output.contains("\"target\":\"toolgate::stdio\""), "{output}");
}

/// Python gives it a terminal of its own, and prints what arrives there.
#[test]
fn on_a_terminal_the_log_is_text() {
    let folder = folder_with(&format!(
        "listen: {{address: \"127.0.0.1:{}\"}}\nmcpServers: {{demo: {{builtin: demo}}}}\n",
        free_port()
    ));
    let script = "import pty, sys; pty.spawn(sys.argv[1:])";
    let mut command = Command::new("python3");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_toolgate"), "run", "-c"])
        .arg(folder.path().join("toolgate.yaml"));
    let mut process = Process::start(command.env("RUNTIME_DIRECTORY", folder.path()).env("NO_COLOR", "1"));
    let output = process.wait_for("server connected");
    assert!(output.contains(" INFO server connected ") && !output.contains('{'), "{output}");
}
