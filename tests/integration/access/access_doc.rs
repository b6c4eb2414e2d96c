//! Runs `docs/access/tutorial.md`: each block of commands in order, in an empty folder, with its expected
//! output.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;

use crate::clients;
use crate::harness::{Process, free_port, root};

/// A block of the page: its commands and the expected parts of their output, line by line and in this
/// order.
struct Block {
    kind: String,
    text: String,
}

fn blocks(page: &str) -> VecDeque<Block> {
    let mut blocks = VecDeque::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(kind), None) => open = Some(Block { kind: kind.to_owned(), text: String::new() }),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_page_does_what_the_page_says() {
    let page = std::fs::read_to_string(root().join("docs/access/tutorial.md")).expect("the page is there");
    let port = free_port();
    let folder = tempfile::tempdir().expect("a folder");
    let binary = Path::new(env!("CARGO_BIN_EXE_toolgate")).parent().expect("it lies in a folder");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").expect("there is a PATH"));
    let mut background = Vec::new();
    let mut last = String::new();
    let (mut ran, mut compared) = (0, 0);
    for block in blocks(&page) {
        let text = block.text.replace("8000", &port.to_string());
        match block.kind.as_str() {
            "sh" => {
                let mut command = tokio::process::Command::new("sh");
                command.args(["-e", "-c", &text]).current_dir(folder.path()).env("PATH", &path);
                let done = clients::output(&mut command, "").await;
                last = String::from_utf8_lossy(&done.stdout).into_owned()
                    + &String::from_utf8_lossy(&done.stderr);
                assert!(done.status.success(), "{text}\n{last}");
                ran += 1;
            }
            "sh background" => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("exec {text}")]).current_dir(folder.path()).env("PATH", &path);
                let mut process = Process::start(&mut command);
                process.wait_for("endpoint");
                let ready = async {
                    while reqwest::get(format!("http://127.0.0.1:{port}/health")).await.is_err() {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                };
                tokio::time::timeout(crate::harness::TEST_TIMEOUT, ready).await.expect("it serves");
                background.push(process);
            }
            "text" => {
                for line in text.lines().filter(|line| !line.trim().is_empty()) {
                    assert!(last.contains(line.trim()), "the page says {line:?}, but it was:\n{last}");
                    compared += 1;
                }
            }
            kind => panic!("a block of an unknown kind: {kind:?}"),
        }
    }
    assert!(ran >= 10 && compared >= 15, "{ran} blocks ran, {compared} lines were compared");
}
