//! The client half of the conformance suite: its scenario servers, a real client, and the gateway between
//! them. Each check that passes without the gateway must pass with it, also if the client speaks the other era.

use tokio::process::Command;

use crate::clients::output;
use crate::conformance::{Check, Passed, assert_nothing_lost, checks, folders};
use crate::harness::{free_port, node, npm, root};

/// Timeout of a scenario, in milliseconds; the suite's own 30 s are too short for a busy machine.
const MAX_WAIT_MS: &str = "90000";

/// The scenarios without OAuth, by version. (With OAuth, clients log in at the gateway, and logins at its
/// servers do not concern them.)
const SCENARIOS: [(&str, &[&str]); 3] = [
    ("2025-06-18", &["initialize", "tools_call"]),
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

/// Scenarios of a server of the other era than the client, of which the bridge loses checks: the revisions of the client
/// and of the server. docs/protocol/bridging.md gives the reasons.
const NOT_BRIDGED: [(&str, &str, &str); 2] = [
    // The server ends the stream of the call, and answers on a stream that the client resumes.
    ("2026-07-28", "2025-11-25", "sse-retry"),
    // The server asks, and a client of this revision cannot be asked.
    ("2025-03-26", "2026-07-28", "sep-2322-client-request-state"),
];

/// Where the client calls.
#[derive(Clone, Copy, Debug)]
enum Way {
    Direct,
    Through,
    /// Through the gateway, in this revision.
    Bridged(&'static str),
}

/// The passed checks of a scenario; panics if one failed, or if the client reports an error.
async fn passed(revision: &str, scenario: &str, way: Way) -> Passed {
    let folder = tempfile::tempdir().expect("a folder for the checks");
    let client = root().join("tests/clients/scenario.mjs");
    let mut command = Command::new(node());
    command.arg(npm("@modelcontextprotocol/conformance/dist/index.js")).args(["client", "--command"]);
    command.arg(format!("{} {}", node().display(), client.display()));
    command.args(["--scenario", scenario, "--spec-version", revision, "--timeout", MAX_WAIT_MS, "-o"]);
    command.arg(folder.path());
    if !matches!(way, Way::Direct) {
        command.env("TOOLGATE", env!("CARGO_BIN_EXE_toolgate")).env("TOOLGATE_PORT", free_port().to_string());
    }
    if let Way::Bridged(client) = way {
        command.env("TOOLGATE_CLIENT", client);
    }
    let done = output(&mut command, "").await;
    let said =
        format!("{}\n{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let what = format!("{scenario} at {revision} ({way:?})");
    let mut passed = Passed::new();
    for Check { id, name, status, message } in
        folders(folder.path()).iter().filter_map(|f| checks(f)).flatten()
    {
        assert!(
            !["FAILURE", "WARNING"].contains(&&*status),
            "{what}: {status}: {id}: {name}: {message}\n{said}"
        );
        if status == "SUCCESS" {
            *passed.entry([scenario.to_owned(), id, name]).or_default() += 1;
        }
    }
    assert!(!passed.is_empty(), "{what} checked nothing: {said}");
    // A scenario may allow its client to fail; none of these gives this client a reason to.
    let left_well = done.status.success() && !said.contains("Client exited with code");
    assert!(left_well, "{what}: the suite ended with {}, or its client failed: {said}", done.status);
    passed
}

async fn conforms(revision: &str) {
    let (_, scenarios) = SCENARIOS.iter().find(|(of, _)| *of == revision).expect("a revision of the table");
    for scenario in *scenarios {
        let (direct, through) =
            tokio::join!(passed(revision, scenario, Way::Direct), passed(revision, scenario, Way::Through));
        assert_nothing_lost(&direct, &through, revision);
    }
}

/// The same for a client of the other era: the checks look at what the gateway says to the server for it.
async fn conforms_bridged(revision: &str, client: &'static str) {
    let (_, scenarios) = SCENARIOS.iter().find(|(of, _)| *of == revision).expect("a revision of the table");
    for scenario in *scenarios {
        if NOT_BRIDGED.contains(&(client, revision, scenario)) {
            continue;
        }
        let (direct, through) = tokio::join!(
            passed(revision, scenario, Way::Direct),
            passed(revision, scenario, Way::Bridged(client))
        );
        assert_nothing_lost(&direct, &through, &format!("{client} at {revision}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2025_06_18_loses_nothing_by_the_gateway() {
    conforms("2025-06-18").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2025_11_25_loses_nothing_by_the_gateway() {
    conforms("2025-11-25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2026_07_28_loses_nothing_by_the_gateway() {
    conforms("2026-07-28").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2026_07_28_loses_nothing_at_a_server_of_2025_06_18() {
    conforms_bridged("2025-06-18", "2026-07-28").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2026_07_28_loses_nothing_at_a_server_of_2025_11_25() {
    conforms_bridged("2025-11-25", "2026-07-28").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2025_11_25_loses_nothing_at_a_server_of_2026_07_28() {
    conforms_bridged("2026-07-28", "2025-11-25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2025_06_18_loses_nothing_at_a_server_of_2026_07_28() {
    conforms_bridged("2026-07-28", "2025-06-18").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2025_03_26_loses_nothing_at_a_server_of_2026_07_28() {
    conforms_bridged("2026-07-28", "2025-03-26").await;
}
