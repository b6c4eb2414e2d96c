//! The limits of the process: too many connections, too few descriptors, too many bytes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Gateway, Process, TEST_TIMEOUT, a_fixture, free_port};
use crate::mock_server::{MockReply, MockServer};
use crate::process;

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the system takes the connection");
    stream.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
    stream
}

/// Sends a request on a kept connection, and returns the response; empty if it was closed.
fn ask(stream: &mut TcpStream, request: &str) -> String {
    if stream.write_all(request.as_bytes()).is_err() {
        return String::new();
    }
    let mut answer = Vec::new();
    let mut piece = [0; 16384];
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
        }
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if length == Some(body.len()) {
                break;
            }
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A call of a fixture's tool, which needs a connection to it.
fn echo(server: &str) -> String {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": format!("{server}__echo"), "arguments": {"message": "inside"},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                  "io.modelcontextprotocol/clientCapabilities": {}}}})
    .to_string();
    format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMcp-Protocol-Version: 2026-07-28\r\n\
         Mcp-Method: tools/call\r\nMcp-Name: {server}__echo\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_the_limit_is_told_so_and_those_inside_go_on() {
    let config = "mcpServers: {demo: {builtin: demo}}\nlimits: {max_connections: 4}\n";
    let mut gateway = Gateway::start(config).await;
    gateway.http = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
    // The client of the harness may still hold its first connection; it ends with the old client.
    let mut inside: Vec<TcpStream> = Vec::new();
    let until = std::time::Instant::now() + TEST_TIMEOUT;
    while inside.len() < 4 {
        let mut stream = connect(gateway.port);
        if ask(&mut stream, HEALTH).starts_with("HTTP/1.1 200") {
            inside.push(stream);
        }
        assert!(std::time::Instant::now() < until, "{}", gateway.process.story());
    }
    for _ in 0..200 {
        let mut outside = connect(gateway.port);
        let answer = ask(&mut outside, &echo("demo"));
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 1\r\n"), "{answer:?}");
        assert!(answer.contains("\"code\":\"max_connections\"") && answer.ends_with('}'), "{answer}");
        assert_eq!(outside.read(&mut [0; 8]).unwrap_or(0), 0, "and it is closed");
    }
    for stream in &mut inside {
        let answer = ask(stream, &echo("demo"));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("inside"), "{answer}");
    }
    drop(inside.pop());
    let refused = "toolgate_filter_rejections_total{filter=\"listener\",reason=\"max_connections\"}";
    gateway
        .eventually("there is a free slot again", async |g| {
            let answer = g.http.get(g.url("/metrics")).send().await;
            match answer {
                Ok(answer) => answer.text().await.is_ok_and(|text| text.contains(refused)),
                Err(_) => false,
            }
        })
        .await;
    let output = |g: &Gateway| g.process.output().matches("too many connections").count();
    gateway.eventually("it is told", async |g| output(g) > 0).await;
    assert!(output(&gateway) <= 10, "it is told {} times", output(&gateway));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_are_taken_after_a_reload() {
    let config =
        |max: u32| format!("mcpServers: {{demo: {{builtin: demo}}}}\nlimits: {{max_connections: {max}}}\n");
    let mut gateway = Gateway::start(&config(1)).await;
    gateway.http = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
    let mut first = connect(gateway.port);
    gateway
        .eventually("it is inside", async |g| {
            if !ask(&mut first, HEALTH).starts_with("HTTP/1.1 200") {
                first = connect(g.port);
                return false;
            }
            true
        })
        .await;
    assert!(ask(&mut connect(gateway.port), HEALTH).starts_with("HTTP/1.1 503"));
    gateway.rewrite(&config(10));
    gateway
        .eventually("a second is inside", async |g| {
            ask(&mut connect(g.port), HEALTH).starts_with("HTTP/1.1 200")
        })
        .await;
}

/// A gateway that starts with this limit of open files, soft and hard.
async fn with_files(files: u32, config: &str) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let file = folder.path().join("toolgate.yaml");
    std::fs::write(&file, format!("listen: {{address: \"127.0.0.1:{port}\"}}\n{config}")).expect("a file");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("ulimit -n {files}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_toolgate")]);
    command.args(["run", "-c"]).arg(&file).env("RUNTIME_DIRECTORY", folder.path());
    let mut process = Process::start(&mut command);
    process.wait_for("endpoint");
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
    let gateway = Gateway { process, port, folder, http };
    gateway.eventually("it listens", async |g| g.http.get(g.url("/health")).send().await.is_ok()).await;
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_descriptors_fewer_connections_are_taken_and_calls_inside_reach_their_server() {
    let (_fixture, url) = a_fixture().await;
    let mut gateway = with_files(180, &format!("mcpServers: {{fix: {{url: \"{url}\"}}}}\n")).await;
    gateway.process.wait_for("open files are too few");
    gateway.eventually("it is connected", async |g| g.get("/health").await.contains("\"connected\":1")).await;
    let mut all: Vec<TcpStream> = (0..250).map(|_| connect(gateway.port)).collect();
    let mut inside = Vec::new();
    let mut refused = 0;
    for mut stream in all.drain(..) {
        let answer = ask(&mut stream, &echo("fix"));
        if answer.starts_with("HTTP/1.1 200") {
            assert!(answer.contains("inside"), "{answer}");
            inside.push(stream);
        } else {
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503 "), "{answer}");
            refused += 1;
        }
    }
    assert!((10..=22).contains(&inside.len()), "{} inside, {refused} refused", inside.len());
    for stream in &mut inside {
        let answer = ask(stream, &echo("fix"));
        assert!(answer.starts_with("HTTP/1.1 200"), "those inside keep working: {answer:?}");
    }
    drop(inside);
    gateway
        .eventually("all is well when they have left", async |g| {
            ask(&mut connect(g.port), &echo("fix")).starts_with("HTTP/1.1 200")
        })
        .await;
}

/// Lowers or restores the descriptor limit of a process: with 3 it can open none, whichever it has closed
/// before.
fn limit(pid: u32, files: u64) {
    let limit = libc::rlimit { rlim_cur: files, rlim_max: 1024 };
    // SAFETY: it sets a limit of a process that this test has started; the pointers are good for the call.
    let set = unsafe { libc::prlimit(pid.cast_signed(), libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(set, 0, "the limit is set");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_there_are_no_descriptors_is_no_fault_of_a_server() {
    let mock = MockServer::start(|_| MockReply::Good).await;
    let settings = "circuit_breaker: {failures: 1, open_for: 1h}";
    let config = format!("mcpServers: {{fix: {{url: \"{}\", {settings}}}}}\n", mock.url);
    let gateway = with_files(1024, &config).await;
    gateway.eventually("it is connected", async |g| g.get("/health").await.contains("\"connected\":1")).await;
    let mut inside = connect(gateway.port);
    assert!(ask(&mut inside, HEALTH).starts_with("HTTP/1.1 200"));
    let pid = gateway.process.id();
    limit(pid, 3);
    let call = echo("fix").replace("fix__echo", "fix__tool");
    for _ in 0..3 {
        let answer = ask(&mut inside, &call).to_lowercase();
        assert!(answer.starts_with("http/1.1 503 "), "{answer}");
        assert!(answer.contains("retry-after: 1") && answer.contains("\"server\":\"fix\""), "{answer}");
        inside = match answer.contains("connection: close") {
            false => inside,
            true => {
                limit(pid, 1024);
                let mut next = connect(gateway.port);
                assert!(ask(&mut next, HEALTH).starts_with("HTTP/1.1 200"));
                limit(pid, 3);
                next
            }
        };
    }
    limit(pid, 1024);
    let answer = ask(&mut inside, &call);
    assert!(answer.starts_with("HTTP/1.1 200"), "the circuit is closed: {answer}");
}

/// Each session has connections of its own to a server, which wait some seconds for its next call.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_many_clients_leave_descriptors_for_others() {
    let mock = MockServer::start(|_| MockReply::Good).await;
    let gateway = with_files(1024, &format!("mcpServers: {{fix: {{url: \"{}\"}}}}\n", mock.url)).await;
    gateway.eventually("it is connected", async |g| g.get("/health").await.contains("\"connected\":1")).await;
    let pid = gateway.process.id();
    let mut max = 0;
    for number in 0..600 {
        let session = gateway.initialize("/mcp").await;
        let body =
            json!({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "fix__tool"}});
        let answer = gateway.post("/mcp", Some(&session), &body).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "session {number}");
        drop(answer.bytes().await);
        max = max.max(process::descriptors(pid));
    }
    assert!(max < 300, "{max} descriptors were open at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_clients_wait_and_nothing_breaks() {
    // A server that needs none: `max_connections` reserves descriptors for others, but here they are taken
    // away.
    let gateway = with_files(1024, "mcpServers: {demo: {builtin: demo}}\n").await;
    let mut inside: Vec<TcpStream> = (0..8).map(|_| connect(gateway.port)).collect();
    for stream in &mut inside {
        assert!(ask(stream, &echo("demo")).starts_with("HTTP/1.1 200"));
    }
    // The limit is lowered: from here on accepts fail.
    let pid = gateway.process.id();
    limit(pid, process::descriptors(pid) as u64);
    let mut waiting: Vec<TcpStream> = (0..20).map(|_| connect(gateway.port)).collect();
    gateway.eventually("accepts fail", async |g| g.process.output().contains("Accept() failed")).await;
    for _ in 0..20 {
        for stream in &mut inside {
            assert!(ask(stream, &echo("demo")).starts_with("HTTP/1.1 200"), "those inside keep working");
        }
    }
    drop(inside);
    let output = gateway.process.output().matches("Accept() failed").count();
    assert!(output < 100, "it is told {output} times");
    limit(pid, 1024);
    for stream in &mut waiting {
        assert!(ask(stream, &echo("demo")).starts_with("HTTP/1.1 200"), "those that waited are served");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_has_the_limit_that_the_gateway_was_started_with() {
    let server = json!({"command": "sh", "args": ["-c", "ulimit -n >&2; exec sleep 1000"]});
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("127.0.0.1:{}", free_port());
    let socket = folder.path().join(format!("{address}.sock"));
    let config =
        format!("listen: {{address: \"{address}\"}}\nlog: {{level: debug}}\nmcpServers: {{sh: {server}}}\n");
    std::fs::write(folder.path().join("toolgate.yaml"), config).expect("a file");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -Sn 777; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_toolgate"), "run", "-c"]);
    command.arg(folder.path().join("toolgate.yaml")).env("RUNTIME_DIRECTORY", folder.path());
    let mut gateway = Process::start(&mut command);
    gateway.wait_for("777");
    let [soft, hard] = open_files(gateway.id());
    assert_eq!(soft, hard, "its own is raised");
    // And so has a child of a successor, which inherits the raised limit.
    gateway.wait_for("endpoint");
    while !std::fs::exists(&socket).expect("a folder") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gateway.signal(libc::SIGUSR2);
    let line = gateway.wait_for("a successor is started");
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let heir = u32::try_from(line["pid"].as_u64().expect("its number")).expect("a number");
    gateway.wait_for("took over");
    let children = process::children_running(heir, "sleep 1000");
    assert!(!children.is_empty(), "{}", gateway.story());
    assert_eq!(open_files(children[0])[0], "777");
    assert_eq!(open_files(heir), [hard.clone(), hard]);
}

/// The soft and the hard limit of a process.
fn open_files(pid: u32) -> [String; 2] {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let open = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let mut numbers = open.split_whitespace().filter(|word| word.parse::<u64>().is_ok());
    [numbers.next(), numbers.next()].map(|number| number.expect("a number").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_over_the_memory_for_all_are_refused_before_they_are_read() {
    let config = "mcpServers: {demo: {builtin: demo}}\nlimits: {max_buffered: 1MiB, max_body: 1MiB}\n";
    let gateway = Gateway::start(config).await;
    let head = |length: usize| {
        format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nMcp-Protocol-Version: 2026-07-28\r\n\
             Mcp-Method: tools/call\r\nMcp-Name: demo__echo\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    // Announced lengths use no memory.
    let promises: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut promise = connect(gateway.port);
            promise.write_all(head(1_000_000).as_bytes()).expect("written");
            promise.write_all(b"{").expect("written");
            promise
        })
        .collect();
    gateway.eventually("they are counted", async |g| g.metric("toolgate_buffered_bytes").await == 10.0).await;
    assert_eq!(gateway.call("demo__echo", json!({"message": "x".repeat(300_000)})).await.0, 200);
    drop(promises);
    gateway.eventually("they are gone", async |g| g.metric("toolgate_buffered_bytes").await == 0.0).await;
    // One that uses nearly all of it, and does not complete.
    let mut large = connect(gateway.port);
    large.write_all(head(1_000_000).as_bytes()).expect("written");
    large.write_all(&[b' '; 999_999]).expect("written");
    gateway
        .eventually("it is counted", async |g| g.metric("toolgate_buffered_bytes").await == 999_999.0)
        .await;
    let mut second = connect(gateway.port);
    gateway
        .eventually("there is no slot for another", async |g| {
            second = connect(g.port);
            // Only its head: it was answered before its body.
            second.write_all(head(200_000).as_bytes()).expect("written");
            second.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
            let mut start = [0; 1024];
            let length = second.read(&mut start).unwrap_or(0);
            let answer = String::from_utf8_lossy(&start[..length]).to_lowercase();
            assert!(answer.is_empty() || answer.starts_with("http/1.1 503"), "{answer}");
            answer.contains("retry-after: 1\r\n") && answer.contains("connection: close")
        })
        .await;
    // One of unknown length, when it grows.
    let mut chunked = connect(gateway.port);
    let start = head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    chunked.write_all(start.as_bytes()).expect("written");
    let piece = format!("{:x}\r\n{}\r\n", 150_000, " ".repeat(150_000));
    let answer = ask(&mut chunked, &piece);
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("max_buffered"), "{answer}");
    // Small ones pass, and so do large ones when the first has disconnected.
    assert_eq!(gateway.call("demo__echo", json!({"message": "x".repeat(30_000)})).await.0, 200);
    drop(large);
    gateway
        .eventually("there is a free slot again", async |g| {
            g.call("demo__echo", json!({"message": "x".repeat(300_000)})).await.0 == 200
        })
        .await;
}
