//! A changed file becomes the running configuration, without effect on running work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::events::Events;
use crate::harness::{
    Gateway, Process, TEST_TIMEOUT, a_fixture, free_port, legacy_call, read, stdio_fixture,
};

const DEMO: &str = "mcpServers: {demo: {builtin: demo}}\n";

async fn reloads(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("toolgate_config_reloads_total{{result=\"{result}\"}}")).await
}

/// One of 64 connections: calls until it is stopped, and returns the failures.
async fn hammer(
    gateway: Arc<Gateway>,
    number: usize,
    session: String,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
) -> Vec<String> {
    let own = reqwest::Client::builder().no_proxy().read_timeout(TEST_TIMEOUT).build().expect("a client");
    let mut wrong = Vec::new();
    while !stop.load(Ordering::Relaxed) && wrong.len() < 3 {
        let tool = ["demo__echo", "fix__echo"][number % 2];
        let message = format!("{number}");
        let request = if number % 4 < 2 {
            let params = json!({"name": tool, "arguments": {"message": message}});
            gateway.modern_request("/mcp", "tools/call", params)
        } else {
            gateway.post("/mcp", Some(&session), &legacy_call(number, tool, json!({"message": message})))
        };
        let request = request.build().expect("a request");
        match own.execute(request).await {
            Ok(response) => {
                let (status, answer) = read(response).await;
                if status != 200 || answer["result"]["content"][0]["text"] != message {
                    wrong.push(format!("{tool}: {status} {answer}"));
                }
            }
            Err(error) => wrong.push(format!("{tool}: {error:?}")),
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_connections_do_not_notice_twenty_reloads() {
    let ((_fixture, url), (_other, other)) = tokio::join!(a_fixture(), a_fixture());
    let fixed = format!("demo: {{builtin: demo}}, fix: {{url: \"{url}\"}}");
    // Every rewrite differs: a server that is added and removed, one that changes, a limit.
    let config = |round: usize| {
        let extra = if round.is_multiple_of(2) { "extra: {builtin: demo}, " } else { "" };
        let other = format!("other: {{url: \"{other}\", timeout: {}s}}", 30 + round);
        format!("mcpServers: {{{extra}{fixed}, {other}}}\nlimits: {{max_body: {}KiB}}\n", 4096 - round)
    };
    let gateway = Arc::new(Gateway::start(&config(0)).await);
    gateway
        .eventually("all are connected", async |g| g.get("/health").await.contains("\"connected\":4"))
        .await;
    let session = gateway.initialize("/mcp").await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..64)
        .map(|n| tokio::spawn(hammer(gateway.clone(), n, session.clone(), stop.clone(), done.clone())))
        .collect();

    // Two streams run all the time: a GET stream, and one of a call.
    let listener = gateway.initialize("/mcp").await;
    let mut announced = Events::of_session(&gateway, "/mcp", &listener).await;
    let mut call = legacy_call("s", "fix__stream", json!({"n": 2000, "interval_ms": 10}));
    call["params"]["_meta"] = json!({"progressToken": "p"});
    let mut streamed = Events::open(gateway.post("/mcp", Some(&listener), &call)).await;
    let (going, steps) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let stream = {
        let (going, steps) = (going.clone(), steps.clone());
        tokio::spawn(async move {
            while going.load(Ordering::Relaxed) {
                let next = steps.load(Ordering::Relaxed) + 1;
                let Some(note) = streamed.next().await else { panic!("the stream ended at {next}") };
                if note["method"] == "notifications/progress" {
                    assert_eq!(note["params"]["progress"], next, "one step is missing");
                    steps.store(next, Ordering::Relaxed);
                }
            }
        })
    };
    for round in 1..=20 {
        let before = reloads(&gateway, "ok").await;
        gateway.rewrite(&config(round));
        gateway.eventually("it is reloaded", async |g| reloads(g, "ok").await > before).await;
        let health = if round % 2 == 0 { "\"servers\":4" } else { "\"servers\":3" };
        assert!(gateway.get("/health").await.contains(health), "{}", gateway.get("/health").await);
        let tools = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        assert_eq!(announced.next().await, Some(tools), "round {round}");
        // 32 callers keep the server busy, and a message of the stream waits its turn there.
        let (goal, step) = (done.load(Ordering::Relaxed) + 64, steps.load(Ordering::Relaxed));
        gateway.eventually("calls go on", async |_| done.load(Ordering::Relaxed) >= goal).await;
        gateway
            .eventually("the stream goes on", async |_| {
                stream.is_finished() || steps.load(Ordering::Relaxed) > step
            })
            .await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut wrong = Vec::new();
    for task in tasks {
        wrong.extend(task.await.expect("no panic"));
    }
    assert!(
        wrong.is_empty(),
        "{} of {} calls: {:#?}",
        wrong.len(),
        done.load(Ordering::Relaxed),
        wrong.first()
    );
    going.store(false, Ordering::Relaxed);
    stream.await.expect("the stream runs on");
    assert!(steps.load(Ordering::Relaxed) >= 20);
    assert_eq!(reloads(&gateway, "failed").await, 0.0);
}

/// Changes the settings of the very servers that 32 connections call, again and again.
async fn change_what_is_called(config: impl Fn(usize) -> String, rounds: usize) {
    let gateway = Arc::new(Gateway::start(&config(0)).await);
    gateway
        .eventually("all are connected", async |g| g.get("/health").await.contains("\"connected\":2"))
        .await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let call = async |gateway: Arc<Gateway>, number: usize, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>| {
        let own = reqwest::Client::builder().no_proxy().read_timeout(TEST_TIMEOUT).build().expect("a client");
        let tool = ["pipe__echo", "fix__echo"][number % 2];
        let mut wrong = Vec::new();
        while !stop.load(Ordering::Relaxed) && wrong.len() < 3 {
            let params = json!({"name": tool, "arguments": {"message": "hi"}});
            let request = gateway.modern_request("/mcp", "tools/call", params).build().expect("a request");
            let (status, answer) = read(own.execute(request).await.expect("an answer")).await;
            if status != 200 || answer["result"]["content"][0]["text"] != "hi" {
                wrong.push(format!("{tool}: {status} {answer}"));
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        wrong
    };
    let tasks: Vec<_> =
        (0..32).map(|n| tokio::spawn(call(gateway.clone(), n, stop.clone(), done.clone()))).collect();
    for round in 1..=rounds {
        let before = reloads(&gateway, "ok").await;
        gateway.rewrite(&config(round));
        gateway.eventually("it is reloaded", async |g| reloads(g, "ok").await > before).await;
        let goal = done.load(Ordering::Relaxed) + 64;
        gateway.eventually("calls go on", async |_| done.load(Ordering::Relaxed) >= goal).await;
    }
    // The last new connections are ready too.
    gateway
        .eventually("all are connected", async |g| g.get("/health").await.contains("\"connected\":2"))
        .await;
    stop.store(true, Ordering::Relaxed);
    let mut wrong = Vec::new();
    for task in tasks {
        wrong.extend(task.await.expect("no panic"));
    }
    let count = done.load(Ordering::Relaxed);
    assert!(
        wrong.is_empty(),
        "{} of {count} calls: {:#?}\n{}",
        wrong.len(),
        wrong.first(),
        gateway.process.story()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_do_not_notice_that_the_settings_of_their_server_change() {
    let (_fixture, url) = a_fixture().await;
    let url = url.replace("127.0.0.1", "localhost");
    let config = |round: usize| {
        let settings = json!({"timeout": format!("{}s", 30 + round), "max_concurrent": 1000 + round,
            "health": {"interval": format!("{}s", 10 + round / 3)}});
        let mut servers = json!({"pipe": stdio_fixture(), "fix": {"url": url}});
        for name in ["pipe", "fix"] {
            servers[name]
                .as_object_mut()
                .expect("settings")
                .extend(settings.as_object().expect("settings").clone());
        }
        format!("mcpServers: {servers}\n")
    };
    change_what_is_called(config, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_do_not_notice_that_their_server_is_connected_anew() {
    let (_fixture, url) = a_fixture().await;
    let url = url.replace("127.0.0.1", "localhost");
    let config = |round: usize| {
        let mut pipe = stdio_fixture();
        pipe["env"] = json!({"ROUND": round.to_string()});
        let servers = json!({"pipe": pipe, "fix": {"url": url, "headers": {"x-round": round.to_string()}}});
        format!("mcpServers: {servers}\n")
    };
    change_what_is_called(config, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_new_settings_do_not_work_is_given_up_after_a_while() {
    let (_fixture, url) = a_fixture().await;
    let gateway = Gateway::start(&format!("mcpServers: {{fix: {{url: \"{url}\"}}}}\n")).await;
    let echo = async || gateway.call("fix__echo", json!({"message": "hi"})).await;
    gateway.eventually("it is connected", async |_| echo().await.0 == 200).await;
    gateway.rewrite("mcpServers: {fix: {url: \"http://127.0.0.1:1/mcp\"}}\n");
    gateway.eventually("it is reloaded", async |g| reloads(g, "ok").await == 1.0).await;
    assert_eq!(echo().await.0, 200, "the old connection is used");
    gateway.eventually("the new one counts", async |_| echo().await.0 == 502).await;
    gateway.rewrite(&format!("mcpServers: {{fix: {{url: \"{url}\"}}}}\n"));
    gateway.eventually("the old settings work again", async |_| echo().await.0 == 200).await;
}

#[tokio::test]
async fn a_faulty_file_changes_nothing_and_is_told_everywhere() {
    let mut gateway = Gateway::start(DEMO).await;
    assert!(gateway.get("/ready").await.contains("\"ready\":true"));
    gateway.rewrite("mcpServers: {demo: {builtin: demo}, more: {bultin: demo}}\n");
    gateway.eventually("it is counted", async |g| reloads(g, "failed").await == 1.0).await;
    let ready = gateway.get("/ready").await;
    assert!(ready.contains("configuration is invalid") && ready.contains("bultin"), "{ready}");
    gateway.process.wait_for("the changed configuration is invalid");
    let health: Value = serde_json::from_str(&gateway.get("/health").await).expect("JSON");
    assert_eq!((&health["servers"], &health["tools"]), (&json!(1), &json!(5)));
    assert_eq!(gateway.call("demo__echo", json!({"message": "hi"})).await.0, 200);

    gateway.rewrite("mcpServers: {demo: {builtin: demo}, more: {builtin: demo}}\n");
    gateway.eventually("the good one is taken", async |g| reloads(g, "ok").await == 1.0).await;
    let ready = gateway.get("/ready").await;
    assert!(ready.contains("\"ready\":true") && !ready.contains("invalid"), "{ready}");
    gateway
        .eventually("its server is there", async |g| {
            g.call("more__echo", json!({"message": "hi"})).await.0 == 200
        })
        .await;
}

#[tokio::test]
async fn a_faulty_file_that_is_put_back_is_forgotten() {
    let gateway = Gateway::start(DEMO).await;
    gateway.rewrite("mcpServers: [\n");
    gateway.eventually("it is counted", async |g| reloads(g, "failed").await == 1.0).await;
    gateway.rewrite(DEMO);
    gateway.eventually("all is well", async |g| !g.get("/ready").await.contains("invalid")).await;
    assert_eq!(reloads(&gateway, "ok").await, 0.0, "nothing changed");
}

#[tokio::test]
async fn sighup_reloads_too() {
    let gateway = Gateway::start(DEMO).await;
    // The file becomes a link: the watcher sees the new link, but not changes behind it.
    let link = gateway.folder.path().join("toolgate.yaml");
    let target = tempfile::tempdir().expect("another folder");
    let file = target.path().join("real.yaml");
    std::fs::copy(&link, &file).expect("the file is copied");
    std::fs::remove_file(&link).expect("the file is removed");
    std::os::unix::fs::symlink(&file, &link).expect("a link is put in its place");
    let text = std::fs::read_to_string(&file).expect("the file is read");
    gateway.eventually("the link is read", async |g| g.get("/ready").await.contains("\"ready\":true")).await;
    std::fs::write(&file, text.replace("{builtin: demo}", "{builtin: demo, prefix: d}"))
        .expect("it is written");
    gateway.process.signal(libc::SIGHUP);
    gateway
        .eventually("the change is there", async |g| {
            g.call("d__echo", json!({"message": "hi"})).await.0 == 200
        })
        .await;
}

#[tokio::test]
async fn another_address_waits_for_a_restart_and_the_log_says_so() {
    let mut gateway = Gateway::start(DEMO).await;
    let file = gateway.folder.path().join("toolgate.yaml");
    std::fs::write(&file, "listen: {address: \"127.0.0.1:1\"}\nmcpServers: {d: {builtin: demo}}\n")
        .expect("it is written");
    let line = gateway.process.wait_for("takes effect only after a restart");
    assert!(line.contains("listen.address"), "{line}");
    gateway
        .eventually("the rest is taken over", async |g| {
            g.call("d__echo", json!({"message": "hi"})).await.0 == 200
        })
        .await;
}

#[tokio::test]
async fn other_files_of_the_folder_reload_nothing() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    let failed = "toolgate_config_reloads_total{result=\"failed\"}";
    gateway.rewrite("mcpServers: {demo: {bultin: demo}}\n");
    gateway.eventually("the bad file is counted", async |g| g.metric(failed).await == 1.0).await;
    for number in 0..20 {
        std::fs::write(gateway.folder.path().join("gateway.log"), format!("line {number}")).expect("a log");
    }
    // A signal always reloads; when it is counted, all earlier changes have been checked.
    gateway.process.signal(libc::SIGHUP);
    gateway.eventually("the signal is counted", async |g| g.metric(failed).await >= 2.0).await;
    assert_eq!(gateway.metric(failed).await, 2.0);
    let output = gateway.process.output().matches("the changed configuration is invalid").count();
    assert!(output <= 2, "{}", gateway.process.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_replaced_is_still_watched() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let config = |prefix: &str| {
        format!(
            "listen: {{address: \"127.0.0.1:{port}\"}}\nmcpServers: {{demo: {{builtin: demo, prefix: {prefix}}}}}\n"
        )
    };
    let put = |folder: &std::path::Path, prefix: &str| {
        std::fs::create_dir_all(folder).expect("a folder");
        std::fs::write(folder.join("toolgate.yaml"), config(prefix)).expect("it is written");
    };
    let conf = folder.path().join("conf");
    put(&conf, "a");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_toolgate"));
    command.args(["run", "-c", "conf/toolgate.yaml"]).current_dir(folder.path());
    let mut process = Process::start(command.env("RUNTIME_DIRECTORY", folder.path()));
    process.wait_for("endpoint");
    let gateway = Gateway { process, port, folder, http: reqwest::Client::new() };
    let has = async |prefix: &str| {
        let tool = format!("{prefix}__echo");
        gateway
            .eventually("the change is there", async |g| {
                g.http.get(g.url("/health")).send().await.is_ok()
                    && g.call(&tool, json!({"message": "hi"})).await.0 == 200
            })
            .await;
    };
    has("a").await;
    for (n, prefix) in ["b", "c"].into_iter().enumerate() {
        let new = gateway.folder.path().join("new");
        put(&new, prefix);
        std::fs::rename(&conf, gateway.folder.path().join(format!("old{n}"))).expect("it is moved");
        std::fs::rename(&new, &conf).expect("it takes its place");
        has(prefix).await;
    }
    put(&conf, "d");
    has("d").await;
}

/// Peak memory of the gateway, in MiB.
fn peak(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_regular_file_of_a_sound_size_is_a_configuration() {
    let gateway = Gateway::start(DEMO).await;
    let file = gateway.folder.path().join("toolgate.yaml");
    let put = |make: &dyn Fn(&std::path::Path)| {
        let new = gateway.folder.path().join("new.tmp");
        let _ = std::fs::remove_file(&new);
        make(&new);
        std::fs::rename(&new, &file).expect("it is put in place");
    };
    let before = peak(&gateway);
    type Put<'a> = (&'a str, &'a dyn Fn(&std::path::Path));
    let kinds: [Put<'_>; 4] = [
        ("named pipe", &|at| {
            assert!(std::process::Command::new("mkfifo").arg(at).status().expect("mkfifo").success());
        }),
        ("device", &|at| std::os::unix::fs::symlink("/dev/zero", at).expect("a link")),
        ("larger than 4MiB", &|at| {
            std::fs::File::create(at).and_then(|file| file.set_len(600 << 20)).expect("a large file");
        }),
        ("socket", &|at| drop(std::os::unix::net::UnixListener::bind(at).expect("a socket"))),
    ];
    for (round, (what, make)) in kinds.into_iter().enumerate() {
        let (failed, ok) = (reloads(&gateway, "failed").await, reloads(&gateway, "ok").await);
        put(make);
        gateway.eventually(what, async |g| reloads(g, "failed").await > failed).await;
        let output = format!("the fault says what it is: {what}");
        gateway.eventually(&output, async |g| g.process.story().contains(what)).await;
        // Later changes are seen.
        gateway.rewrite(&format!("{DEMO}limits: {{max_body: {}KiB}}\n", 4000 - round));
        gateway.eventually("it is loaded", async |g| reloads(g, "ok").await > ok).await;
    }
    assert!(peak(&gateway) < before + 64, "{} and then {} MiB", before, peak(&gateway));
}
