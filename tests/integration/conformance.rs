//! The official conformance suite through the gateway: each check that passes at the fixture itself passes,
//! none fails. In front of a server of the other era some checks cannot pass; each of them is named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::process::Command;

use crate::clients::output;
use crate::harness::{Gateway, a_fixture_of, fixture_of, root};

/// How often each check passed, by scenario, id and name: an id alone is not unique.
pub type Passed = BTreeMap<[String; 3], usize>;

/// A check of a scenario, and how it ended.
pub struct Check {
    pub id: String,
    pub name: String,
    pub status: String,
    pub message: String,
}

/// The results that a scenario wrote to its folder.
pub fn checks(folder: &Path) -> Option<Vec<Check>> {
    let text = std::fs::read_to_string(folder.join("checks.json")).ok()?;
    let checks: Vec<Value> = serde_json::from_str(&text).expect("checks are JSON");
    let read = |check: Value| {
        let word = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
        Check { id: word("id"), name: word("name"), status: word("status"), message: word("errorMessage") }
    };
    Some(checks.into_iter().map(read).collect())
}

pub fn folders(within: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(within).expect("the folder is there").filter_map(Result::ok);
    found.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Panics with the checks that passed less often through the gateway than without it. They may pass more
/// often: the gateway sends requests of its own.
pub fn assert_nothing_lost(direct: &Passed, through: &Passed, what: &str) {
    let count = |check| through.get(check).copied().unwrap_or(0);
    let lost = direct.iter().filter(|(check, times)| count(*check) < **times);
    let lost: Vec<String> = lost
        .map(|(check, times)| {
            format!("{}: {} times, without the gateway {times}", check.join(": "), count(check))
        })
        .collect();
    assert!(lost.is_empty(), "{what}: passed less often through the gateway:\n{}", lost.join("\n"));
}

/// Runs the suite at a version and returns the passed checks; panics if one failed.
async fn passed(url: &str, revision: &str) -> Passed {
    passed_except(url, revision, &[]).await
}

/// The same; the checks of these scenarios and ids may fail.
async fn passed_except(url: &str, revision: &str, may_fail: &[(&str, &str)]) -> Passed {
    let folder = tempfile::tempdir().expect("a folder for the checks");
    let mut command = Command::new(root().join("tests/tools/conformance"));
    let done = output(command.args([url, revision]).arg(folder.path()), "").await;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "the suite did not run: {said}\n{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let mut passed = Passed::new();
    let [run] = &folders(folder.path())[..] else { panic!("one folder for the run") };
    for folder in folders(run) {
        // `server-SCENARIO-TIME`.
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let time = "-2026-07-28T12-00-00-000Z".len();
        let scenario = &name["server-".len()..name.len() - time];
        for Check { id, name, status, message } in checks(&folder).into_iter().flatten() {
            let may_fail = may_fail.contains(&(scenario, &*id));
            assert!(
                status != "FAILURE" || may_fail,
                "{revision} at {url}: {scenario}: {id}: {name}: {message}\n{said}"
            );
            if status == "SUCCESS" {
                *passed.entry([scenario.to_owned(), id, name]).or_default() += 1;
            }
        }
    }
    passed
}

/// Through the gateway, no check fewer passes than directly; `known` is their last known number.
async fn conforms(era: &'static str, revision: &str, known: usize) {
    let start = tokio::task::spawn_blocking(move || fixture_of(era, 0));
    let (_fixture, url) = start.await.expect("the fixture starts");
    let gateway = Gateway::start(&format!("mcpServers: {{fix: {{url: \"{url}\"}}}}\n")).await;
    gateway
        .eventually("it is connected", async |g| {
            g.has_metric("toolgate_upstream_up{server=\"fix\"}", 1.0).await
        })
        .await;
    let directly = passed(&url, revision).await;
    let count: usize = directly.values().sum();
    assert!(count >= known, "the fixture itself passes only {count} of {known}");
    let here = passed(&gateway.url("/servers/fix/mcp"), revision).await;
    assert_nothing_lost(&directly, &here, revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_2026_07_28_passes_through_the_gateway() {
    conforms("both", "2026-07-28", 152).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_2025_11_25_passes_through_the_gateway() {
    conforms("both", "2025-11-25", 84).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_2025_06_18_passes_through_the_gateway() {
    conforms("both", "2025-06-18", 56).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_only_legacy_passes_the_suite_of_its_revision_as_directly() {
    conforms("legacy", "2025-11-25", 84).await;
}

/// Through the gateway, so many checks pass at a server of the other era, and only these fail.
async fn conforms_bridged(era: &'static str, revision: &str, floor: usize, may_fail: &[(&str, &str)]) {
    let (_fixture, url) = a_fixture_of(era).await;
    let gateway = Gateway::start(&format!("mcpServers: {{fix: {{url: \"{url}\"}}}}\n")).await;
    gateway
        .eventually("it is connected", async |g| {
            g.has_metric("toolgate_upstream_up{server=\"fix\"}", 1.0).await
        })
        .await;
    let passed = passed_except(&gateway.url("/servers/fix/mcp"), revision, may_fail).await;
    let count: usize = passed.values().sum();
    assert!(count >= floor, "only {count} of {floor} checks of {revision} passed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_2026_07_28_passes_at_a_server_that_is_only_legacy() {
    // docs/protocol/bridging.md, "Conformance", says why.
    let cannot_pass = [
        ("input-required-result-basic-elicitation", "sep-2322-elicitation-incomplete"),
        ("input-required-result-multiple-input-requests", "sep-2322-multiple-inputs-incomplete"),
        ("server-stateless", "sep-2575-server-rejects-undeclared-capability"),
        ("server-stateless", "sep-2575-missing-capability-http-400"),
    ];
    conforms_bridged("legacy", "2026-07-28", 145, &cannot_pass).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_2025_11_25_passes_at_a_server_that_is_only_modern() {
    conforms_bridged("modern", "2025-11-25", 80, &[]).await;
}
