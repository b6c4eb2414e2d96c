//! The descendants of this process, found by the parents in `/proc`. It makes system calls alone (`raw`).
//!
//! This process must be the sub-reaper of its descendants. A process that loses its parent then becomes its
//! child, and leads back to it in any session or group. It must not reap during a scan, so that pids stay
//! valid.

use super::raw;

/// Above the highest pid (`PID_MAX_LIMIT`).
const MAX_PID: usize = 1 << 22;

/// A set of processes, by pid: half a MiB of addresses, of which a page is used for each 32768 pids.
pub struct Pids(*mut u8);

impl Pids {
    pub fn new() -> Option<Self> {
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: new memory at no fixed address.
        let bits = unsafe { libc::mmap(std::ptr::null_mut(), MAX_PID / 8, access, kind, -1, 0) };
        (bits != libc::MAP_FAILED).then_some(Self(bits.cast()))
    }

    fn clear(&mut self) {
        // SAFETY: it is ours; private pages that are given back read as zeroes.
        unsafe { libc::madvise(self.0.cast(), MAX_PID / 8, libc::MADV_DONTNEED) };
    }

    fn has(&self, pid: u32) -> bool {
        let pid = pid as usize;
        // SAFETY: within the memory that was made.
        pid < MAX_PID && unsafe { *self.0.add(pid / 8) } & 1 << (pid % 8) != 0
    }

    fn add(&mut self, pid: u32) {
        let pid = pid as usize;
        if pid < MAX_PID {
            // SAFETY: as in `has`.
            unsafe { *self.0.add(pid / 8) |= 1 << (pid % 8) };
        }
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        // SAFETY: there is no other reference to it.
        unsafe { libc::munmap(self.0.cast(), MAX_PID / 8) };
    }
}

/// Sends a signal to all descendants, parents before children, and returns how many of them ran. A process
/// that is forked meanwhile is found too, unless its parent was forked behind it; after a SIGKILL another
/// call finds the rest.
pub fn signal(signal: libc::c_int, ours: &mut Pids) -> u32 {
    ours.clear();
    // SAFETY: no memory is involved.
    ours.add(unsafe { libc::getpid() }.cast_unsigned());
    let mut running = 0;
    loop {
        let mut is_new = false;
        raw::numbers(c"/proc", |pid, _| {
            if ours.has(pid) {
                return;
            }
            let mut stat = [0; 256];
            let read = raw::read_stat(pid, &mut stat).and_then(|read| stat.get(..read));
            let Some((in_flight, parent)) = read.and_then(parent) else { return };
            if ours.has(parent) {
                ours.add(pid);
                is_new = true;
                running += u32::from(in_flight);
                // Also to one that seems dead: its first thread may have ended before others. SAFETY: no
                // memory is involved. Its pid is its own as long as its parent does not reap it.
                unsafe { libc::kill(pid.cast_signed(), signal) };
            }
        });
        if !is_new {
            return running;
        }
    }
}

/// Whether it runs, and its parent, from the beginning of `/proc/PID/stat`. The name in it may contain
/// anything.
fn parent(stat: &[u8]) -> Option<(bool, u32)> {
    let name = stat.iter().rposition(|byte| *byte == b')')?;
    let mut message = stat.get(name + 1..)?.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let state = message.next()?;
    Some((!matches!(state, b"Z" | b"X"), message.next().and_then(raw::number)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_whatever_the_name() {
        for (stat, expected) in [
            (&b"7 (sh) S 12 7 7 0 -1 4194560"[..], Some((true, 12))),
            (b"7 (a) S 1 (b) Z 3 7", Some((false, 3))),
            (b"7 ()) R 4194303 7", Some((true, 4_194_303))),
            (b"7 (sh", None),
            (b"7 (sh) S", None),
            (b"7 (sh) S x 7", None),
            (b"", None),
        ] {
            assert_eq!(parent(stat), expected, "{}", String::from_utf8_lossy(stat));
        }
    }

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        let mut pids = Pids::new().expect("memory");
        for pid in [0, 7, 8, 4_194_303] {
            assert!(!pids.has(pid));
            pids.add(pid);
            assert!(pids.has(pid));
        }
        assert!(!pids.has(9));
        pids.add(4_194_304);
        assert!(!pids.has(4_194_304) && !pids.has(u32::MAX));
        pids.clear();
        assert!(!pids.has(7) && !pids.has(4_194_303));
    }
}
