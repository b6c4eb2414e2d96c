//! The official conformance suite through the gateway: as many checks pass as at the fixture itself, none fails.

use tokio::process::Command;

use crate::clients::output;
use crate::harness::{Gateway, fixture_of, root};

/// Runs the suite at a revision and gives how many checks passed; panics if one failed.
async fn passed(url: &str, revision: &str) -> usize {
    let mut command = Command::new(root().join("tests/tools/conformance"));
    let done = output(command.args([url, revision]), "").await;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let last = said.lines().last().unwrap_or_default();
    let counted = last.strip_prefix(&format!("conformance {revision}: "));
    let (passed, failed) = counted.and_then(|counted| counted.split_once(" passed, ")).unwrap_or_else(|| {
        panic!("the suite did not run: {said}\n{}", String::from_utf8_lossy(&done.stderr));
    });
    assert_eq!(failed, "0 failed", "{said}");
    passed.parse().expect("a number")
}

/// Through the gateway not one check fewer than directly; `known` is how many those were when last counted.
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
    assert!(directly >= known, "the fixture itself passes only {directly} of {known}");
    let here = passed(&gateway.url("/servers/fix/mcp"), revision).await;
    assert!(here >= directly, "{here} checks passed, and {directly} without the gateway");
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
