//! The commands that do not run the gateway.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::clients::{self, Sdk, run, step};
use crate::harness::{Process, free_port, python, root};

pub async fn toolgate(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toolgate"));
    clients::output(command.args(arguments).current_dir(folder), "").await
}

pub fn out(done: &Output) -> String {
    String::from_utf8_lossy(&done.stdout).into_owned()
}

pub fn err(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

pub fn folder_with(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("toolgate.yaml"), config).expect("the configuration is written");
    folder
}

#[tokio::test]
async fn check_sums_up_a_good_file_and_points_at_every_fault_of_a_bad_one() {
    let good =
        folder_with("mcpServers:\n  demo: {builtin: demo}\n  web: {url: \"http://127.0.0.1:1/mcp\"}\n");
    let done = toolgate(good.path(), &["check", "-c", "toolgate.yaml"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    for word in ["is valid", "demo", "built in", "web", "http://127.0.0.1:1/mcp"] {
        assert!(out(&done).contains(word), "{word}: {}", out(&done));
    }

    let bad = folder_with("mcpServers:\n  demo: {builtin: demo}\nlimit: {max_body: 1MiB}\nworkers: some\n");
    for command in ["check", "run"] {
        let done = toolgate(bad.path(), &[command, "-c", "toolgate.yaml"]).await;
        assert_eq!(done.status.code(), Some(2), "{}", err(&done));
        for word in ["toolgate.yaml:3:1", "limits", "toolgate.yaml:4:10", "workers: some"] {
            assert!(err(&done).contains(word), "{word}: {}", err(&done));
        }
    }
    let done = toolgate(bad.path(), &["check", "-c", "missing.yaml"]).await;
    assert_eq!(done.status.code(), Some(2), "{}", err(&done));
}

#[tokio::test]
async fn check_takes_the_files_of_conf() {
    for entry in std::fs::read_dir(root().join("conf")).expect("conf is there") {
        let file = entry.expect("an entry").path().display().to_string();
        let done = toolgate(root(), &["check", "-c", &file]).await;
        assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    }
}

#[tokio::test]
async fn the_schema_takes_the_files_of_conf_and_refuses_unknown_keys() {
    let done = toolgate(root(), &["schema"]).await;
    assert!(done.status.success());
    let schema = out(&done);
    assert!(serde_json::from_str::<Value>(&schema).expect("JSON").is_object());
    // The tools for the tests include a validator.
    const CHECK: &str = "
import json, pathlib, re, sys, jsonschema, yaml

class Loader(yaml.SafeLoader):
    'YAML 1.2, in which `on` is a word and no truth.'
Loader.yaml_implicit_resolvers = {
    first: [(tag, words) for tag, words in all if not tag.endswith(':bool')]
    for first, all in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver('tag:yaml.org,2002:bool', re.compile('^(true|false)$'), list('tf'))

def load(text):
    return yaml.load(text, Loader)

schema = json.load(sys.stdin)
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
files = sorted(pathlib.Path(sys.argv[1]).glob('*.yaml'))
assert files
for file in files:
    for fault in validator.iter_errors(load(file.read_text())):
        sys.exit(f'{file}: {fault.message} at {list(fault.absolute_path)}')
for bad in ['limit: {}', 'mcpServers: {a: {comand: x}}', 'workers: some', 'limits: {max_json_depth: 1000}']:
    assert not validator.is_valid(load(bad)), bad
";
    let mut command = Command::new(python());
    command.args(["-c", CHECK]).arg(root().join("conf"));
    let checked = clients::output(&mut command, &schema).await;
    assert!(checked.status.success(), "{}", err(&checked));
}

#[tokio::test]
async fn tools_lists_what_a_client_would_see() {
    let folder =
        folder_with("mcpServers:\n  demo: {builtin: demo, tools: {rename: {echo: say}, deny: [time]}}\n");
    let done = toolgate(folder.path(), &["tools"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    let listed = out(&done);
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["demo__calculator", "demo__fail", "demo__say", "demo__sleep"], "{listed}");
    assert!(listed.contains("legacy,modern") && listed.contains("(there: echo)"), "{listed}");
    let say = listed.lines().find(|line| line.starts_with("demo__say")).expect("it is listed");
    assert!(say.contains("legacy,modern    (there: echo)  ") && say.split_whitespace().count() > 6, "{say}");

    let dead = format!("mcpServers:\n  gone: {{url: \"http://127.0.0.1:{}/mcp\"}}\n", free_port());
    let done = toolgate(folder_with(&dead).path(), &["tools"]).await;
    assert_eq!(done.status.code(), Some(1), "{}", err(&done));
    assert!(err(&done).contains("`gone` is not connected"), "{}", err(&done));
}

#[tokio::test]
async fn call_prints_the_result_or_says_why_there_is_none() {
    let folder = folder_with("mcpServers:\n  demo: {builtin: demo}\n");
    let call = async |arguments: &[&str]| toolgate(folder.path(), &[&["call"], arguments].concat()).await;
    let done = call(&["demo__echo", r#"{"message": "grüße"}"#]).await;
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    let result: Value = serde_json::from_str(&out(&done)).expect("the result as JSON");
    assert_eq!(result["content"][0]["text"], "grüße");

    let done = call(&["demo__fail"]).await;
    assert_eq!(done.status.code(), Some(1), "{}", out(&done));
    assert!(out(&done).contains("always fails"), "{}", out(&done));
    let done = call(&["demo__nothing"]).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(err(&done).contains("Unknown tool: demo__nothing"), "{}", err(&done));
    let done = call(&["demo__ecko"]).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(err(&done).contains("has a tool `demo__ecko`; did you mean `demo__echo`?"), "{}", err(&done));
    for (bad, why) in [("{\"message\":", "not JSON"), ("[1]", "must be a JSON object")] {
        let done = call(&["demo__echo", bad]).await;
        assert_eq!(done.status.code(), Some(2));
        assert!(err(&done).contains(why), "{}", err(&done));
    }
}

#[tokio::test]
async fn explain_asks_the_one_server_whether_there_is_such_a_thing() {
    // The other server is never started: it would leave a file.
    let folder = folder_with(
        "mcpServers:\n  demo: {builtin: demo}\n  gone: {command: \"false\"}\n  marks: {command: touch, args: [mark]}\n",
    );
    for (line, code, message) in [
        ("tools/call demo__echo", 0, "note      the server `demo` has it"),
        (
            "tools/call demo__ecko",
            1,
            "but no server that is connected has a tool `demo__ecko`; did you mean `demo__echo`?",
        ),
        (
            "tools/call dmo__echo",
            1,
            "but no server has a tool whose name begins like `dmo__echo`; did you mean `demo__echo`?",
        ),
        ("prompts/get demo__echo", 1, "but no server that is connected has a prompt `demo__echo`"),
        (
            "tools/call gone__x",
            0,
            "note      not connected: gone, so whether there is such a thing is not known",
        ),
        ("--offline tools/call demo__ecko", 0, "note      servers were not asked"),
    ] {
        let words_of: Vec<&str> = std::iter::once("explain").chain(line.split(' ')).collect();
        let done = toolgate(folder.path(), &words_of).await;
        assert_eq!(done.status.code(), Some(code), "{line}: {}{}", out(&done), err(&done));
        assert!(out(&done).contains(message), "{line}: {}", out(&done));
        assert_eq!(out(&done).contains("verdict   the call passes"), code == 0, "{line}: {}", out(&done));
    }
    assert!(!folder.path().join("mark").exists());
}

#[tokio::test]
async fn check_warns_of_what_will_not_work_here() {
    let folder = folder_with(
        "mcpServers:\n  demo: {builtin: demo}\n  a: {command: no-such-program-at-all, env_pass: [NO_SUCH_VARIABLE]}\n  \
         b: {command: sh, cwd: /no/such/folder}\ntoolsets: {set: {tools: [\"dmo__*\"]}}\n",
    );
    let done = toolgate(folder.path(), &["check"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    for message in [
        "warning: mcpServers.a.command: there is no program `no-such-program-at-all` on PATH",
        "warning: mcpServers.a.env_pass: the variable `NO_SUCH_VARIABLE` is not set here",
        "warning: mcpServers.b.cwd: there is no folder `/no/such/folder`",
        "warning: toolsets.set.tools: no server's tools match `dmo__*`",
    ] {
        assert!(out(&done).contains(message), "{message}: {}", out(&done));
    }
}

fn demo_plan(prefix: &str) -> [Value; 3] {
    [
        step(&format!("{prefix}echo"), json!({"message": "hi"}), "hi"),
        step(&format!("{prefix}calculator"), json!({"operation": "add", "a": 3, "b": 4}), "7"),
        step(&format!("{prefix}fail"), json!({}), "always fails"),
    ]
}

#[tokio::test]
async fn the_demo_server_speaks_both_eras_over_standard_input_and_output() {
    let server = format!("stdio:{} demo-server --stdio", env!("CARGO_BIN_EXE_toolgate"));
    for (mode, negotiated) in [("legacy", "2025-11-25"), ("auto", "2026-07-28"), ("2026-07-28", "2026-07-28")]
    {
        let ran = run(Sdk::Python, &server, mode, &demo_plan("")).await;
        assert!(ran.ok, "{}", ran.output);
        assert_eq!(ran.seen["negotiated"], negotiated, "{}", ran.output);
        assert_eq!(ran.seen["tools"].as_array().map(Vec::len), Some(5), "{}", ran.output);
    }
}

#[tokio::test]
async fn the_demo_server_speaks_both_eras_over_http() {
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_toolgate"));
    let mut server = Process::start(command.args(["demo-server", "--listen", &address]));
    let url = format!("http://{address}/mcp");
    server.wait_for(&format!("listening on {url}"));
    for (sdk, mode) in [(Sdk::Python, "legacy"), (Sdk::Python, "2026-07-28"), (Sdk::TypeScript, "auto")] {
        let ran = run(sdk, &url, mode, &demo_plan("")).await;
        assert!(ran.ok, "{}", ran.output);
        assert_eq!(ran.seen["tools"].as_array().map(Vec::len), Some(5), "{}", ran.output);
    }
    server.signal(libc::SIGTERM);
    assert!(server.wait().success());
}
