//! A new process takes over from the running one, and no caller notices; one that fails changes nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::events::Events;
use crate::harness::{Gateway, Process, a_fixture, free_port, legacy_call, python, stdio_fixture};
use crate::load::{KINDS, Load, Tools};
use crate::process;
use crate::raw::{Client, Head};

fn successor(gateway: &Gateway) -> Process {
    Process::start(&mut Gateway::command(gateway.folder.path(), &["run", "--upgrade"]))
}

fn socket(gateway: &Gateway) -> std::path::PathBuf {
    gateway.folder.path().join(format!("127.0.0.1:{}.sock", gateway.port))
}

/// Waits until a successor could ask; the socket comes a moment after the listeners.
async fn can_be_asked(gateway: &Gateway) {
    gateway.eventually("a successor can ask", async |g| socket(g).exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn load_of_all_kinds_does_not_notice_two_upgrades() {
    let (_fixture, url) = a_fixture().await;
    let pipe = stdio_fixture();
    let config = format!(
        "mcpServers: {{demo: {{builtin: demo}}, fix: {{url: \"{url}\", required: true}}, pipe: {}}}\nlimits: {{drain: 60s}}\n",
        with_required(pipe)
    );
    let tools = Tools { stay: &["demo__echo", "fix__echo", "pipe__echo"], pass: &[], replaced: true };
    let gateway = Arc::new(Gateway::start(&config).await);
    gateway.eventually("all are there", async |g| g.get("/health").await.contains("\"connected\":3")).await;
    can_be_asked(&gateway).await;
    let load = Load::start(&gateway, tools);
    let mut generations: Vec<Process> = Vec::new();
    for round in 1..=2 {
        load.more(500).await;
        // A call whose response is a stream begins before the upgrade and ends after it.
        let session = gateway.initialize("/mcp").await;
        let mut call = legacy_call("s", "fix__stream", json!({"n": 100, "interval_ms": 20}));
        call["params"]["_meta"] = json!({"progressToken": "p"});
        let mut streamed = Events::open(gateway.post("/mcp", Some(&session), &call)).await;
        assert_eq!(streamed.next().await.expect("a step")["params"]["progress"], 1.0);

        let mut new = successor(&gateway);
        tokio::task::spawn_blocking(move || {
            new.wait_for("took over from the gateway that ran before");
            new
        })
        .await
        .map(|new| generations.push(new))
        .expect("the successor serves");
        let mut steps = 1;
        let last = loop {
            let note = streamed.next().await.unwrap_or_else(|| panic!("round {round}: cut at {steps}"));
            if !note["id"].is_null() {
                break note;
            }
            if note["method"] == "notifications/progress" {
                steps += 1;
                assert_eq!(note["params"]["progress"], f64::from(steps), "one step is missing");
            }
        };
        assert_eq!((steps, &last["id"]), (100, &json!("s")), "{last}");
        let fresh = reqwest::Client::new();
        let ready = fresh.get(gateway.url("/ready")).send().await.expect("an answer");
        assert_eq!(ready.status(), 200, "the successor is ready");
        // It does not know earlier sessions; clients open new ones (404).
        gateway
            .eventually("the old one has ended", async |_| {
                load.is_well()
                    && match round {
                        1 => !process::runs(gateway.process.id()),
                        _ => !process::runs(generations[0].id()),
                    }
            })
            .await;
        let http = reqwest::Client::new();
        let again = http
            .post(gateway.url("/mcp"))
            .header("mcp-session-id", &session)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2025-11-25")
            .body(legacy_call(1, "fix__echo", json!({"message": "x"})).to_string());
        assert_eq!(again.send().await.expect("an answer").status(), 404);
        let metrics =
            http.get(gateway.url("/metrics")).send().await.expect("metrics").text().await.expect("text");
        assert!(metrics.contains("toolgate_requests_total{"), "{metrics}");
    }
    load.more(500).await;
    let done = load.end().await;
    println!("{KINDS:?}: {done:?}");
    assert!(done[..KINDS.len() - 1].iter().all(|count| *count > 0), "{KINDS:?} {done:?}");
    let mut gateway = Arc::into_inner(gateway).expect("nobody else has it");
    assert!(gateway.process.wait().success(), "{}", gateway.process.story());
    assert!(generations[0].wait().success(), "{}", generations[0].story());
    for (gone, name) in [(&gateway.process, "the first"), (&generations[0], "the second")] {
        assert!(!gone.output().contains("were cut"), "{name}: {}", gone.story());
    }
    generations[1].signal(libc::SIGTERM);
    assert!(generations[1].wait().success());
    assert!(!socket(&gateway).exists(), "the last one tidies up");
}

/// The settings of a server that must be connected before a gateway takes over.
fn with_required(mut server: Value) -> Value {
    server["required"] = json!(true);
    server
}

/// Sends a request on a kept connection, and returns head and body of the response.
fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is written");
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let length = stream.read(&mut piece).expect("an answer");
        assert_ne!(length, 0, "closed before the answer: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..length]);
        if answer.ends_with(b"}") {
            return String::from_utf8(answer).expect("text").to_lowercase();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_answered_once_more_and_told_to_close() {
    let mut gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    can_be_asked(&gateway).await;
    let mut idle = TcpStream::connect(("127.0.0.1", gateway.port)).expect("it listens");
    assert!(!ask(&mut idle).contains("connection: close"));
    let mut new = successor(&gateway);
    gateway.process.wait_for("a successor serves");
    new.wait_for("took over");
    gateway.process.wait_for("stopping");
    let answer = ask(&mut idle);
    assert!(answer.contains("200 ok") && answer.contains("connection: close"), "{answer}");
    assert_eq!(idle.read(&mut [0; 16]).expect("an end"), 0);
    assert!(gateway.process.wait().success());
    let mut fresh = TcpStream::connect(("127.0.0.1", gateway.port)).expect("it listens");
    assert!(!ask(&mut fresh).contains("connection: close"));
}

#[tokio::test(flavor = "multi_thread")]
async fn quit_alone_is_no_outage() {
    let mut gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    gateway.process.signal(libc::SIGQUIT);
    gateway.process.wait_for("SIGQUIT does nothing");
    assert_eq!(gateway.call("demo__echo", json!({"message": "hi"})).await.0, 200);
    assert!(gateway.get("/ready").await.contains("\"ready\":true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_quit_after_the_new_one_is_told_that_it_hands_over() {
    let mut gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    can_be_asked(&gateway).await;
    let mut asks = UnixStream::connect(socket(&gateway)).expect("it can be asked");
    asks.write_all(b"toolgate 1\n").expect("it is written");
    gateway.process.wait_for("a successor has got the sockets");
    gateway.process.signal(libc::SIGQUIT);
    gateway.process.wait_for("this gateway hands over already");
    drop(asks);
    gateway.process.wait_for("a handover failed");
    gateway.process.signal(libc::SIGQUIT);
    gateway.process.wait_for("this gateway continues\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_fails_changes_nothing() {
    let mut gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    can_be_asked(&gateway).await;
    let well = async |gateway: &Gateway| {
        let fresh = reqwest::Client::new();
        let ready =
            fresh.get(gateway.url("/ready")).send().await.expect("an answer").text().await.expect("text");
        assert!(ready.contains("\"ready\":true"), "{ready}");
        assert_eq!(gateway.call("demo__echo", json!({"message": "hi"})).await.0, 200);
        assert!(process::runs(gateway.process.id()));
    };
    // It dies as soon as it has the sockets.
    let mut early = UnixStream::connect(socket(&gateway)).expect("it can be asked");
    early.write_all(b"toolgate 1\n").expect("it is written");
    gateway.process.wait_for("a successor has got the sockets");
    drop(early);
    gateway.process.wait_for("a handover failed");
    well(&gateway).await;
    // It violates the protocol.
    let mut strange = UnixStream::connect(socket(&gateway)).expect("it can be asked");
    strange.write_all(b"GET / HTTP/1.1\r\n").expect("it is written");
    let mut said = String::new();
    strange.read_to_string(&mut said).expect("an end");
    assert_eq!(said, "", "it gets nothing");
    well(&gateway).await;
    // Its file is invalid.
    let faulty = gateway.folder.path().join("faulty.yaml");
    std::fs::write(&faulty, "mcpServers: {demo: {bultin: demo}}\n").expect("a file");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_toolgate"));
    command.args(["run", "--upgrade", "-c"]).arg(&faulty).env("RUNTIME_DIRECTORY", gateway.folder.path());
    assert_eq!(Process::start(&mut command).wait().code(), Some(2));
    well(&gateway).await;
    // It needs a port that another process has.
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = other.local_addr().expect("an address");
    let config = format!(
        "listen: {{address: \"127.0.0.1:{}\"}}\nadmin: {{address: \"{taken}\"}}\nmcpServers: {{demo: {{builtin: demo}}}}\n",
        gateway.port
    );
    std::fs::write(&faulty, config).expect("a file");
    let mut clash = Process::start(&mut command);
    assert_eq!(clash.wait().code(), Some(1));
    assert!(clash.output().contains("cannot listen on"), "{}", clash.output());
    well(&gateway).await;
    // It is killed while it waits for a server that never comes.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = format!(
        "listen: {{address: \"127.0.0.1:{}\"}}\nmcpServers: {{far: {{url: \"http://{}/mcp\", required: true}}}}\n",
        gateway.port,
        silent.local_addr().expect("an address")
    );
    std::fs::write(&faulty, config).expect("a file");
    let mut waiting = Process::start(&mut command);
    tokio::task::spawn_blocking(move || {
        silent.accept().expect("it looks for its server");
        waiting.kill();
    })
    .await
    .expect("it is killed");
    well(&gateway).await;
    // And a valid one still takes over.
    let mut new = successor(&gateway);
    new.wait_for("took over from the gateway that ran before");
    assert!(gateway.process.wait().success(), "{}", gateway.process.story());
    assert_eq!(gateway.call("demo__echo", json!({"message": "hi"})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_starts_its_own_successor_at_sigusr2() {
    let mut gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    can_be_asked(&gateway).await;
    gateway.process.signal(libc::SIGUSR2);
    gateway.process.wait_for("took over from the gateway that ran before");
    assert!(gateway.process.wait().success(), "{}", gateway.process.story());
    let (status, answer) = gateway.call("demo__echo", json!({"message": "hi"})).await;
    assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("hi")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_nothing_starts_anew_unless_the_port_is_taken() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    can_be_asked(&gateway).await;
    let mut command = Gateway::command(gateway.folder.path(), &["run", "--upgrade"]);
    let elsewhere = tempfile::tempdir().expect("a folder");
    let mut lost = Process::start(command.env("RUNTIME_DIRECTORY", elsewhere.path()));
    assert_eq!(lost.wait().code(), Some(1));
    let said = lost.output();
    assert!(said.contains("no running gateway was found") && said.contains("cannot listen on"), "{said}");
    let port = gateway.port;
    assert_eq!(gateway.call("demo__echo", json!({"message": "hi"})).await.0, 200);
    drop(gateway);
    let folder = tempfile::tempdir().expect("a folder");
    let config =
        format!("listen: {{address: \"127.0.0.1:{port}\"}}\nmcpServers: {{demo: {{builtin: demo}}}}\n");
    std::fs::write(folder.path().join("toolgate.yaml"), config).expect("a file");
    let mut new = Process::start(&mut Gateway::command(folder.path(), &["run", "--upgrade"]));
    new.wait_for("endpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_successor_at_a_time_is_started() {
    let mut gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    can_be_asked(&gateway).await;
    // A successor waits for a required server that does not answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let far =
        format!("far: {{url: \"http://{}/mcp\", required: true}}", silent.local_addr().expect("an address"));
    gateway.rewrite(&format!("mcpServers: {{demo: {{builtin: demo}}, {far}}}\n"));
    let pid = gateway.process.id();
    let successors = || process::children_running(pid, "--upgrade");
    for round in 0..6 {
        gateway.process.signal(libc::SIGUSR2);
        let refused = "SIGUSR2 does nothing: a successor was started before";
        gateway
            .eventually("the signal is seen", async |g| match round {
                0 => successors().len() == 1,
                _ => g.process.output().matches(refused).count() == round,
            })
            .await;
    }
    let only = successors();
    assert_eq!(only.len(), 1);
    assert_eq!(gateway.call("demo__echo", json!({"message": "hi"})).await.0, 200);
    // When that one has failed there may be another.
    process::kill(only[0]);
    gateway.process.wait_for("the successor has ended; this gateway goes on");
    gateway.rewrite("mcpServers: {demo: {builtin: demo}}\n");
    gateway.process.signal(libc::SIGUSR2);
    gateway.process.wait_for("took over from the gateway that ran before");
    assert!(gateway.process.wait().success(), "{}", gateway.process.story());
    assert_eq!(gateway.call("demo__echo", json!({"message": "hi"})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_at_another_address_replaces_the_one_that_started_it() {
    let admin = free_port();
    let rest =
        format!("admin: {{address: \"127.0.0.1:{admin}\"}}\nmcpServers: {{demo: {{builtin: demo}}}}\n");
    let mut gateway = Gateway::start_as(&rest, Process::start).await;
    can_be_asked(&gateway).await;
    let (before, other) = (socket(&gateway), free_port());
    // A client on the address that does not change.
    let mut stays = TcpStream::connect(("127.0.0.1", admin)).expect("it listens");
    ask(&mut stays);
    gateway.rewrite(&format!("listen: {{address: \"127.0.0.1:{other}\"}}\n{rest}"));
    gateway.process.wait_for("takes effect only after a restart");
    gateway.process.signal(libc::SIGUSR2);
    gateway.process.wait_for("took over from the gateway that ran before");
    assert!(gateway.process.wait().success(), "{}", gateway.process.story());
    assert!(TcpStream::connect(("127.0.0.1", gateway.port)).is_err(), "the old address is given up");
    for port in [other, admin] {
        let mut fresh = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        ask(&mut fresh);
    }
    assert!(!before.exists(), "and so is its socket");
    gateway.port = other;
    assert_eq!(gateway.call("demo__echo", json!({"message": "hi"})).await.0, 200);
    can_be_asked(&gateway).await;
}

/// An old gateway that sends its sockets and then does this.
fn predecessor(place: &std::path::Path, port: u16, then: &str) -> Process {
    let script = format!(
        "
import os, socket, sys, time
listens = socket.create_server(('127.0.0.1', {port}))
waits = socket.socket(socket.AF_UNIX)
waits.bind(sys.argv[1])
waits.listen()
print('waits', flush=True)
asks, _ = waits.accept()
lines = asks.makefile('r', buffering=1)
assert lines.readline() == 'toolgate 1\\n'
if {then:?} == 'end at once':
    os._exit(9)
socket.send_fds(asks, [b'127.0.0.1:{port}\\n'], [listens.fileno()])
assert lines.readline() == 'serving\\n'
if {then:?} == 'end':
    os._exit(9)
asks.shutdown(socket.SHUT_RDWR)
time.sleep(1000)
"
    );
    let mut old = Process::start(std::process::Command::new(python()).args(["-c", &script]).arg(place));
    old.wait_for("waits");
    old
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_goes_on_if_the_old_one_ends_before_its_last_word() {
    for then in ["end", "end at once", "go on"] {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let config =
            format!("listen: {{address: \"127.0.0.1:{port}\"}}\nmcpServers: {{demo: {{builtin: demo}}}}\n");
        std::fs::write(folder.path().join("toolgate.yaml"), config).expect("a file");
        // A folder that is the user's alone, as tempfile makes it.
        let mut old = predecessor(&folder.path().join(format!("127.0.0.1:{port}.sock")), port, then);
        let mut process = Process::start(&mut Gateway::command(folder.path(), &["run", "--upgrade"]));
        if then == "go on" {
            assert_eq!(process.wait().code(), Some(1), "{}", process.output());
            assert!(process.output().contains("the handover failed"), "{}", process.output());
            assert!(process::runs(old.id()));
            continue;
        }
        assert_eq!(old.wait().code(), Some(9), "{}", old.output());
        process.wait_for("endpoint");
        let gateway = Gateway { process, port, folder, http: reqwest::Client::new() };
        can_be_asked(&gateway).await;
        assert_eq!(gateway.call("demo__echo", json!({"message": "hi"})).await.0, 200, "{then}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_connection_of_before_it_is_ready_too_and_closes_it() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\nlimits: {drain: 60s}\n").await;
    can_be_asked(&gateway).await;
    let mut old = Client::connect(gateway.port).await;
    let ready = Head::of("GET /ready HTTP/1.1").bytes();
    let answer = old.exchange(&ready).await.expect("an answer");
    assert_eq!((answer.status, answer.closes()), (200, false));
    let mut new = successor(&gateway);
    let new = tokio::task::spawn_blocking(move || {
        new.wait_for("took over from the gateway that ran before");
        new
    });
    let _new = new.await.expect("the successor serves");
    gateway.eventually("the old one stops", async |g| g.process.output().contains("\"stopping\"")).await;
    let answer = old.exchange(&ready).await.expect("an answer");
    assert_eq!((answer.status, answer.closes()), (200, true), "{:?}", String::from_utf8_lossy(&answer.body));
}
