//! Files of other programs, given to the real binary unchanged.

use std::path::Path;
use std::process::Output;

use tokio::process::Command;

use crate::clients;
use crate::commands::{err, out};

async fn toolgate(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toolgate"));
    command
        .args(arguments)
        .current_dir(folder)
        .env("INPUT_API_KEY", "hunter2")
        .env("PASSED", "through")
        .env("KEPT", "back");
    clients::output(&mut command, "").await
}

/// A file of VS Code, in the folder and with the variables that it uses.
fn vscode() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join(".vscode")).expect("a folder");
    let file = r#"{
	// servers of this workspace
	"inputs": [{"type": "promptString", "id": "api-key", "password": true}],
	"servers": {
		"py": {"type": "stdio", "command": "sh", "args": ["-c", "env > seen; exec cat"], "envFile": "${workspaceFolder}/.env",
			"env": {"BOTH": "env", "KEY": "${input:api-key}"}, "env_pass": ["PASSED"]}, // the last
	}
}"#;
    std::fs::write(folder.path().join(".vscode/mcp.json"), file).expect("it is written");
    std::fs::write(folder.path().join(".env"), "FROM_FILE=\"a b\"\nBOTH=file\n").expect("it is written");
    folder
}

#[tokio::test]
async fn a_file_of_vs_code_is_checked_and_written_anew() {
    let folder = vscode();
    let done = toolgate(folder.path(), &["check", "-c", ".vscode/mcp.json"]).await;
    assert_eq!(done.status.code(), Some(0), "{}{}", out(&done), err(&done));
    for message in [
        "note: line 4: `servers` is read as `mcpServers`",
        "note: line 6: `${input:api-key}` is read from the environment as `INPUT_API_KEY` (py)",
        "warning: line 5: `${workspaceFolder}` is read as `",
    ] {
        assert!(out(&done).contains(message), "{message}: {}", out(&done));
    }
    let done = toolgate(folder.path(), &["check", "--print", "-c", ".vscode/mcp.json"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    let printed = out(&done);
    assert!(printed.starts_with("mcpServers:\n") && !printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("KEY: \"${INPUT_API_KEY}\"") && err(&done).contains("is read as"), "{printed}");
    std::fs::write(folder.path().join("toolgate.yaml"), &printed).expect("it is written");
    let done = toolgate(folder.path(), &["check"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    assert!(!out(&done).contains("note:"), "{}", out(&done));
}

#[tokio::test]
async fn a_program_gets_the_variables_that_were_meant_for_it() {
    let folder = vscode();
    // It is no MCP server, so the command fails once it has been started.
    toolgate(folder.path(), &["tools", "-c", ".vscode/mcp.json"]).await;
    let seen = std::fs::read_to_string(folder.path().join("seen")).expect("the program ran");
    for line in ["FROM_FILE=a b", "BOTH=env", "KEY=hunter2", "PASSED=through"] {
        assert!(seen.lines().any(|seen| seen == line), "{line}: {seen}");
    }
    assert!(!seen.contains("KEPT="), "{seen}");
}

#[tokio::test]
async fn a_file_of_codex_is_taken_by_its_ending() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = "model = \"x\"\n[mcp_servers.demo]\ncommand = \"sh\"\nargs = [\"-c\", \"true\"]\nenabled = false\n\
                [mcp_servers.web]\nurl = \"http://127.0.0.1:1/mcp\"\nbearer_token_env_var = \"INPUT_API_KEY\"\n";
    std::fs::write(folder.path().join("config.toml"), file).expect("it is written");
    let done = toolgate(folder.path(), &["check", "-c", "config.toml"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    assert!(
        out(&done).contains("is disabled, so it is left out")
            && out(&done).contains("http   http://127.0.0.1:1/mcp"),
        "{}",
        out(&done)
    );
    assert!(!out(&done).contains("hunter2"), "{}", out(&done));

    std::fs::write(folder.path().join("config.yaml"), file).expect("it is written");
    let done = toolgate(folder.path(), &["check", "-c", "config.yaml"]).await;
    assert_eq!(done.status.code(), Some(2), "{}", out(&done));
    assert!(err(&done).contains("the file is TOML") && err(&done).contains("mcpServers:"), "{}", err(&done));
}

#[tokio::test]
async fn a_piece_of_a_file_is_shown_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let piece = "\"demo\": {\"command\": \"sh\", \"args\": [\"--token\", \"hunter3\"]},\n";
    std::fs::write(folder.path().join("piece.json"), piece).expect("it is written");
    let done = toolgate(folder.path(), &["check", "-c", "piece.json"]).await;
    assert_eq!(done.status.code(), Some(2), "{}", out(&done));
    assert!(err(&done).contains("mcpServers:\n") && !err(&done).contains("hunter3"), "{}", err(&done));
    let done = toolgate(folder.path(), &["check", "--print", "-c", "piece.json"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    let whole = "mcpServers:\n  demo:\n    command: sh\n    args: [--token, hunter3]\n";
    assert_eq!(out(&done), whole);
}

#[tokio::test]
async fn a_file_of_variables_that_is_no_file_stops_nothing_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = async |path: &str| {
        let config = format!("mcpServers: {{a: {{command: sh, envFile: \"{path}\"}}}}\n");
        std::fs::write(folder.path().join("toolgate.yaml"), config).expect("it is written");
        let done = toolgate(folder.path(), &["check"]).await;
        (done.status.code(), out(&done) + &err(&done))
    };
    // Opening a pipe without a writer would wait forever.
    let pipe = std::ffi::CString::new(format!("{}/pipe", folder.path().display())).expect("a path");
    // SAFETY: a path that lives through the call.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    for (path, message) in
        [("pipe", "not a regular file"), ("/dev/zero", "not a regular file"), (".", "not a regular file")]
    {
        let (code, output) = run(path).await;
        assert!(
            code == Some(2)
                && output.contains("mcpServers.a.envFile: cannot be read")
                && output.contains(message),
            "{output}"
        );
    }
    std::fs::write(folder.path().join("bad"), "A=1\nhunter3\n").expect("it is written");
    let (code, output) = run("bad").await;
    assert!(
        code == Some(2)
            && output.contains("line 2 of the file is not a variable")
            && !output.contains("hunter3"),
        "{output}"
    );
    let (code, output) = run("gone").await;
    assert!(code == Some(0) && output.contains("envFile: no such file"), "{output}");
}
