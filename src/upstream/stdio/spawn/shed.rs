//! Releases what a fork of the gateway does not need: the gateway's memory, and its command line. It makes
//! system calls alone (`raw`).
//!
//! Pages are shared with the gateway only until it writes to them. Without this each supervisor would hold
//! its own copy of the gateway's memory, with its secrets, and count as large as it.

use super::raw;

/// Gives back all private anonymous memory, except the mappings that contain an address of `kept`: the stack
/// of this thread and its thread-local data. Released memory reads as zeroes. The variables of programs and
/// libraries stay: the plainest functions of the C library read theirs.
///
/// # Safety
///
/// Only in a process that was just forked, and makes only system calls afterwards.
pub unsafe fn memory(kept: [usize; 2]) {
    let Some(maps) = raw::File::open(c"/proc/self/maps") else { return };
    let (mut buffer, mut held, mut before) = ([0; 4096], 0, None);
    loop {
        let read = buffer.get_mut(held..).map_or(0, |rest| maps.read(rest));
        if read == 0 {
            return;
        }
        held += read;
        let mut at = 0;
        while let Some(line) =
            buffer.get(at..held).and_then(|rest| rest.split_inclusive(|b| *b == b'\n').next())
            && line.ends_with(b"\n")
        {
            at += line.len();
            let piece = Piece::read(line);
            if let Some(piece) = &piece
                && piece.can_go(before.as_ref())
                && !kept.iter().any(|place| (piece.from..piece.to).contains(place))
            {
                let length = piece.to - piece.from;
                // SAFETY: the caller guarantees it.
                unsafe { libc::madvise(piece.from as *mut libc::c_void, length, libc::MADV_DONTNEED) };
            }
            before = piece;
        }
        buffer.copy_within(at..held, 0);
        held -= at;
    }
}

/// A line of `/proc/PID/maps` (proc_pid_maps(5)).
#[derive(Debug, PartialEq)]
struct Piece {
    from: usize,
    to: usize,
    of_file: bool,
    /// Private, and made by the process itself.
    private: bool,
}

impl Piece {
    fn read(line: &[u8]) -> Option<Self> {
        let mut message = line.trim_ascii_end().split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let (place, access) = (message.next()?, message.next()?);
        let of_file = message.nth(2)? != b"0";
        let kernels = message.next().is_some_and(|name| name.starts_with(b"[v"));
        let mut ends = place.split(|byte| *byte == b'-');
        let (from, to) = (hexadecimal(ends.next()?)?, hexadecimal(ends.next()?)?);
        Some(Self { from, to, of_file, private: access.get(3) == Some(&b'p') && !kernels })
    }

    /// The mapping right behind that of a file contains its uninitialized variables (`.bss`).
    fn can_go(&self, before: Option<&Self>) -> bool {
        self.private
            && !self.of_file
            && !before.is_some_and(|before| before.of_file && before.to == self.from)
    }
}

fn hexadecimal(digits: &[u8]) -> Option<usize> {
    let mut number = 0_usize;
    for digit in digits {
        number = number.checked_mul(16)?.checked_add((*digit as char).to_digit(16)? as usize)?;
    }
    Some(number)
}

/// Writes a title over the command line, as far as there is space, so that a process list shows which server
/// it is for.
///
/// # Safety
///
/// As of `memory`, and after it.
pub unsafe fn title(message: &[u8]) {
    let mut stat = [0; 1024];
    let Some(file) = raw::File::open(c"/proc/self/stat") else { return };
    let read = file.read(&mut stat);
    let Some((from, to)) = stat.get(..read).and_then(command_line) else { return };
    // The last byte stays zero, or else the kernel reads on (proc_pid_cmdline(5)).
    for place in from..to {
        let byte = message.get(place - from).filter(|_| place + 1 < to).copied().unwrap_or(0);
        // SAFETY: the kernel says that this is the command line, which is memory of this process alone.
        unsafe { *(place as *mut u8) = byte };
    }
}

/// The address range of the command line: the fields 48 and 49 of `/proc/PID/stat` (proc_pid_stat(5)).
fn command_line(stat: &[u8]) -> Option<(usize, usize)> {
    let name = stat.iter().rposition(|byte| *byte == b')')?;
    let mut message =
        stat.get(name + 1..)?.split(|byte| byte.is_ascii_whitespace()).filter(|w| !w.is_empty());
    let mut next = |skipped| message.nth(skipped).and_then(raw::place);
    let (from, to) = (next(45)?, next(0)?);
    (0 < from && from < to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_no_file_and_no_program_can_go() {
        let maps = [
            ("55d0-55d1 rw-p 00001000 fe:01 4711    /usr/bin/a b\n", false),
            ("55d1-55d2 rw-p 00000000 00:00 0 \n", false),
            ("55d2-55d3 rw-p 00000000 00:00 0    [heap]\n", true),
            ("7f00-7f01 rw-p 00000000 00:00 0    [anon:a b]\n", true),
            ("7f01-7f02 rw-s 00000000 00:00 0\n", false),
            ("7f02-7f03 r--p 00001000 fe:01 4712    /lib/c\n", false),
            ("7f04-7fff12340000 ---p 00000000 00:00 0\n", true),
            ("7fff12340000-7fff12341000 r--p 00000000 00:00 0    [vvar]\n", false),
            ("7fff12341000-7fff12342000 r-xp 00000000 00:00 0    [vdso]\n", false),
        ];
        let mut before = None;
        for (line, expected) in maps {
            let piece = Piece::read(line.as_bytes()).expect("a line");
            assert_eq!(piece.can_go(before.as_ref()), expected, "{line}");
            before = Some(piece);
        }
        let piece = Piece::read(maps[6].0.as_bytes()).expect("a line");
        assert_eq!((piece.from, piece.to), (0x7f04, 0x7fff_1234_0000));
        assert_eq!(Piece::read(b""), None);
    }

    #[test]
    fn the_command_line_is_found() {
        let stat = std::fs::read("/proc/self/stat").expect("Linux has it");
        let (from, to) = command_line(&stat).expect("it is there");
        // SAFETY: it is memory of this process that no other code changes.
        let bytes = unsafe { std::slice::from_raw_parts(from as *const u8, to - from) };
        assert_eq!(bytes, std::fs::read("/proc/self/cmdline").expect("Linux has it"));
        assert_eq!(command_line(b"7 (sh) S 1 2 3"), None);
    }
}
