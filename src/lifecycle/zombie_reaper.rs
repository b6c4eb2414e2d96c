//! As process 1 of a container without an init, the gateway becomes the parent of orphaned processes, such
//! as what a stdio server left running. When these end, they stay in the process table as zombies until
//! their parent reaps them.
//!
//! Children of other code are not touched: not those that a thread waits for, and only those that have been
//! zombies for a while.

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::Duration;

use crate::upstream::is_own_child;

/// The check interval. Code that waits for a child reaps it long before the second check.
const INTERVAL: Duration = Duration::from_secs(5);

/// Starts the reaper, if this process is process 1.
pub fn start() {
    if std::process::id() != 1 {
        return;
    }
    let watch = || {
        let mut lay = HashSet::new();
        loop {
            thread::sleep(INTERVAL);
            lay = reap(&lay);
        }
    };
    if let Err(error) = thread::Builder::new().name("orphans".into()).spawn(watch) {
        tracing::warn!(%error, "zombies will not be reaped: run the container with an init");
    }
}

/// Reaps the zombies that were there before and still are; returns those that are there now.
fn reap(lay: &HashSet<libc::pid_t>) -> HashSet<libc::pid_t> {
    let stats = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, fs::read_to_string(entry.path().join("stat")).ok()?))
    });
    let parent = std::process::id().cast_signed();
    let dead: HashSet<libc::pid_t> =
        stats.filter(|(_, stat)| is_dead_child(stat, parent)).map(|(pid, _)| pid).collect();
    for pid in dead.intersection(lay).filter(|pid| !is_own_child(**pid)) {
        // SAFETY: requests no status, of a process that no other code waits for.
        unsafe { libc::waitpid(*pid, std::ptr::null_mut(), libc::WNOHANG) };
    }
    dead
}

/// Whether a line of `/proc/PID/stat` is of a child that has ended and was not reaped. The name in it may
/// hold any characters.
fn is_dead_child(stat: &str, parent: libc::pid_t) -> bool {
    let mut rest = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    rest.next() == Some("Z") && rest.next().and_then(|word| word.parse().ok()) == Some(parent)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    #[test]
    fn only_dead_children_are_meant() {
        for (stat, dead) in [
            ("7 (sh) Z 1 7 7 0", true),
            ("7 (a) Z 1 (b) Z 1 7", true),
            ("7 (sh) S 1 7 7 0", false),
            ("7 (sh) Z 12 7 7 0", false),
            ("7 (sh) Z 1) S 1 7", false),
            ("", false),
        ] {
            assert_eq!(is_dead_child(stat, 1), dead, "{stat}");
        }
    }

    #[test]
    fn what_lies_there_is_reaped_at_the_second_look() {
        #[expect(clippy::zombie_processes, reason = "it is what is tested")]
        let child = Command::new("true").spawn().expect("a process");
        let pid = child.id().cast_signed();
        let begun = Instant::now();
        while !reap(&HashSet::new()).contains(&pid) {
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
        // Other tests have children of their own, which they wait for.
        assert!(reap(&HashSet::from([pid])).contains(&pid), "it was seen before it was reaped");
        assert!(!reap(&HashSet::new()).contains(&pid));
    }
}
