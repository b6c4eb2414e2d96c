//! The client half of the conformance suite: its scenario servers, a real client, and the gateway between them. What
//! passes without the gateway must pass with it, check by check.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::process::Command;

use crate::clients::output;
use crate::harness::{node, npm, root};

/// The scenarios without OAuth (there the gateway is the one to log in at, and its servers' logins are none of the
/// client's), by revision.
const SCENARIOS: [(&str, &[&str]); 2] = [
    (
        "2025-11-25",
        &[
            "initialize",
            "tools_call",
            "elicitation-sep1034-client-defaults",
            "sse-retry",
            "json-schema-2020-12-preservation",
        ],
    ),
    (
        "2026-07-28",
        &[
            "tools_call",
            "request-metadata",
            "sep-2322-client-request-state",
            "http-standard-headers",
            "http-custom-headers",
            "http-invalid-tool-headers",
            "json-schema-ref-no-deref",
            "json-schema-2020-12-preservation",
        ],
    ),
];

/// How often each check of a scenario ended how; without those that only tell.
type Checks = BTreeMap<(String, String), usize>;

async fn checks(revision: &str, scenario: &str, through: bool) -> Checks {
    let folder = tempfile::tempdir().expect("a folder for the checks");
    let client = root().join("tests/clients/scenario.mjs");
    let mut command = Command::new(node());
    command.arg(npm("@modelcontextprotocol/conformance/dist/index.js")).args(["client", "--command"]);
    command.arg(format!("{} {}", node().display(), client.display()));
    command.args(["--scenario", scenario, "--spec-version", revision, "-o"]).arg(folder.path());
    if through {
        command.env("TOOLGATE", env!("CARGO_BIN_EXE_toolgate"));
    }
    let done = output(&mut command, "").await;
    let said =
        || format!("{}\n{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let found = std::fs::read_dir(folder.path()).expect("the folder is there").filter_map(Result::ok);
    let file = found.map(|entry| entry.path().join("checks.json")).find(|file| file.exists());
    let file = file.unwrap_or_else(|| panic!("{scenario} at {revision} left no checks: {}", said()));
    let text = std::fs::read_to_string(file).expect("the checks can be read");
    let mut all = Checks::new();
    for check in serde_json::from_str::<Vec<Value>>(&text).expect("checks are JSON") {
        let word = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
        let (id, status) = (word("id"), word("status"));
        assert!(
            !["FAILURE", "WARNING"].contains(&&*status),
            "{scenario} at {revision} (through the gateway: {through}): {id}: {}\n{}",
            check["errorMessage"],
            said()
        );
        if status == "SUCCESS" {
            *all.entry((id, status)).or_default() += 1;
        }
    }
    assert!(!all.is_empty(), "{scenario} at {revision} checked nothing: {}", said());
    all
}

async fn conforms(revision: &str) {
    let (_, scenarios) = SCENARIOS.iter().find(|(of, _)| *of == revision).expect("a revision of the table");
    for scenario in *scenarios {
        let (direct, through) =
            tokio::join!(checks(revision, scenario, false), checks(revision, scenario, true));
        // The gateway has questions of its own, which are checked too.
        for (check, times) in &direct {
            let here = through.get(check).copied().unwrap_or(0);
            assert!(
                here >= *times,
                "{scenario} at {revision}: {check:?} {here} times, without the gateway {times}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2025_11_25_loses_nothing_by_the_gateway() {
    conforms("2025-11-25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2026_07_28_loses_nothing_by_the_gateway() {
    conforms("2026-07-28").await;
}
