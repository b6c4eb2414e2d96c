//! The processes of this machine, as `/proc` tells them.

use std::fs;
use std::time::{Duration, Instant};

/// Children of a process, by their parent's number.
pub fn children(parent: u32) -> Vec<u32> {
    all().into_iter().filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// Children of a process whose command line holds these words; of a supervisor, what it has under it.
pub fn children_running(parent: u32, words: &str) -> Vec<u32> {
    let mut found = children(parent);
    let supervisors = supervisors(parent);
    found.retain(|pid| !supervisors.contains(pid));
    found.extend(supervisors.into_iter().flat_map(children));
    found.retain(|pid| command_line(*pid).contains(words));
    found
}

fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// What looks after the processes of a gateway's servers.
pub fn supervisors(gateway: u32) -> Vec<u32> {
    children(gateway).into_iter().filter(|pid| name(*pid) == "mcp-supervisor").collect()
}

pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Bytes of memory that it holds.
pub fn resident(pid: u32) -> usize {
    let told = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it runs");
    let pages: usize = told.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number of pages");
    pages * 4096
}

/// Whether it runs; one that has ended and was not reaped does not.
pub fn runs(pid: u32) -> bool {
    state(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

pub fn kill(pid: u32) {
    // SAFETY: `kill` only sends a signal; the number is of a process that the test's own gateway started.
    let sent = unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
    assert_eq!(sent, 0, "process {pid} is not there");
}

/// Waits until none of them runs.
pub async fn gone(pids: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let left: Vec<_> =
            pids.iter().filter(|pid| runs(**pid)).map(|pid| (*pid, command_line(*pid))).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left running: {left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    state(pid).map(|(_, parent)| parent)
}

/// State and parent, of `/proc/PID/stat`; the name before them may hold anything.
fn state(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = stat[stat.rfind(')')? + 1..].split_whitespace();
    Some((rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

/// Its memory, in KiB.
pub fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line for memory");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// Whether the system asks now and then whether the other side of a connection is there: one from the first of these
/// ports of this machine to the second, 0 for any.
pub fn is_watched(from: u16, to: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let port = |end: &str| end.split(':').nth(1).and_then(|hex| u16::from_str_radix(hex, 16).ok());
    table.lines().skip(1).any(|line| {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let fits = |at: usize, wanted: u16| wanted == 0 || port(parts[at]) == Some(wanted);
        // Established, with the timer of keep-alive probes (proc_net_tcp.rst).
        fits(1, from) && fits(2, to) && parts[3] == "01" && parts[5].starts_with("02:")
    })
}
