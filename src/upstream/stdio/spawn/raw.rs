//! Files and folders read by system calls alone: between fork and exec nothing may allocate, lock or panic.

use std::ffi::CStr;

/// What the kernel fills with entries of a folder (`linux_dirent64`).
#[repr(align(8))]
struct Entries([u8; 2048]);

/// A path below `/proc`, on the stack.
pub struct Path([u8; 32]);

impl Path {
    /// `/proc/PID/stat`
    pub fn stat(pid: u32) -> Self {
        let mut path = [0; 32];
        let mut at = put(&mut path, 0, b"/proc/");
        let (mut digits, mut from, mut rest) = ([0; 10], 10, pid);
        loop {
            from -= 1;
            digits[from] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 || from == 0 {
                break;
            }
        }
        at = put(&mut path, at, digits.get(from..).unwrap_or_default());
        put(&mut path, at, b"/stat");
        Self(path)
    }

    /// The longest path is shorter than its array, so that a zero ends it.
    fn as_ptr(&self) -> *const libc::c_char {
        self.0.as_ptr().cast()
    }
}

/// Writes bytes at an offset and returns the offset after them; what does not fit is left out.
pub fn put(to: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    for (place, byte) in to.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
    at + bytes.len()
}

/// A file descriptor that is closed on drop.
pub struct File(libc::c_int);

impl File {
    pub fn open(path: &CStr) -> Option<Self> {
        // SAFETY: the path ends with a zero.
        unsafe { Self::at(path.as_ptr(), 0) }
    }

    /// # Safety
    /// The path ends with a zero.
    unsafe fn at(path: *const libc::c_char, flags: libc::c_int) -> Option<Self> {
        // SAFETY: the caller guarantees it.
        let file = unsafe { libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC | flags) };
        (file >= 0).then_some(Self(file))
    }

    /// How much was read; 0 at the end, and on an error.
    pub fn read(&self, to: &mut [u8]) -> usize {
        // SAFETY: at most the length of the buffer is read.
        let read = unsafe { libc::read(self.0, to.as_mut_ptr().cast(), to.len()) };
        usize::try_from(read).unwrap_or(0)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { libc::close(self.0) };
    }
}

/// The beginning of `/proc/PID/stat`.
pub fn read_stat(pid: u32, to: &mut [u8]) -> Option<usize> {
    let path = Path::stat(pid);
    // SAFETY: the `Path` ends with a zero.
    let file = unsafe { File::at(path.as_ptr(), 0)? };
    Some(file.read(to)).filter(|read| *read > 0)
}

/// Whether `/proc` belongs to the pid namespace of this process. Pids of another one would be those of
/// unrelated processes.
pub fn proc_is_ours() -> bool {
    let mut name = [0; 16];
    // SAFETY: at most the length of the buffer is written; no memory is involved in `getpid`.
    let (length, pid) = unsafe {
        (libc::readlink(c"/proc/self".as_ptr(), name.as_mut_ptr().cast(), name.len()), libc::getpid())
    };
    let name = usize::try_from(length).ok().and_then(|length| name.get(..length));
    name.and_then(number) == Some(pid.cast_unsigned())
}

/// Calls `each` with each entry of a folder whose name is a number.
pub fn numbers(folder: &CStr, mut each: impl FnMut(u32, &File)) {
    // SAFETY: the path ends with a zero.
    let Some(folder) = (unsafe { File::at(folder.as_ptr(), libc::O_DIRECTORY) }) else { return };
    let mut entries = Entries([0; 2048]);
    loop {
        // SAFETY: at most the length of the buffer is written.
        let read =
            unsafe { libc::syscall(libc::SYS_getdents64, folder.0, entries.0.as_mut_ptr(), entries.0.len()) };
        let Some(mut rest) =
            usize::try_from(read).ok().filter(|read| *read > 0).and_then(|read| entries.0.get(..read))
        else {
            return;
        };
        // Inode and offset (8 bytes each), length of the entry (2), type (1), name.
        while let Some(&[low, high]) = rest.get(16..18) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let Some((entry, after)) = rest.split_at_checked(length).filter(|_| length > 19) else { return };
            let name = entry.get(19..).and_then(|name| name.split(|byte| *byte == 0).next());
            if let Some(number) = name.and_then(number) {
                each(number, &folder);
            }
            rest = after;
        }
    }
}

/// Closes all descriptors from this one on.
pub fn close_from(first: libc::c_int) {
    // SAFETY: system calls on numbers.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    // Before Linux 5.9. Closing during the scan makes it miss others, so it is repeated until none is left.
    for _ in 0..64 {
        let mut closed = false;
        numbers(c"/proc/self/fd", |open, folder| {
            let open = open.cast_signed();
            if open >= first && open != folder.0 {
                // SAFETY: no other code in this process could use it.
                closed |= unsafe { libc::close(open) } == 0;
            }
        });
        if !closed {
            return;
        }
    }
}

/// A number of digits only.
pub fn number(digits: &[u8]) -> Option<u32> {
    u32::try_from(place(digits)?).ok()
}

/// The same, as large as a memory address.
pub fn place(digits: &[u8]) -> Option<usize> {
    let mut number = 0_usize;
    for digit in digits {
        number = number.checked_mul(10)?.checked_add((*digit as char).to_digit(10)? as usize)?;
    }
    (!digits.is_empty()).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn paths_are_written() {
        for pid in [0, 7, 10, 4_194_304, u32::MAX] {
            let path = Path::stat(pid);
            let path = CStr::from_bytes_until_nul(&path.0).expect("it ends");
            assert_eq!(path.to_str(), Ok(&*format!("/proc/{pid}/stat")));
        }
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"4294967295"), Some(u32::MAX));
        for odd in [&b""[..], b"4294967296", b"1a", b"-1", b" 1", b"self", b"/"] {
            assert_eq!(number(odd), None);
        }
    }

    #[test]
    fn all_numbers_of_a_folder_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        // More than one read returns.
        for n in 0..500 {
            std::fs::write(folder.path().join(n.to_string()), "").expect("a file");
            std::fs::write(folder.path().join(format!("x{n}")), "").expect("a file");
        }
        let path = std::ffi::CString::new(folder.path().to_str().expect("words")).expect("no zero");
        let mut found = Vec::new();
        numbers(&path, |n, _| found.push(n));
        found.sort_unstable();
        assert_eq!(found, (0..500).collect::<Vec<_>>());
        numbers(c"/nowhere", |_, _| panic!("there is nothing"));
    }

    #[test]
    fn open_files_are_listed() {
        let file = tempfile::tempfile().expect("a file");
        let mut is_there = false;
        numbers(c"/proc/self/fd", |open, _| is_there |= open.cast_signed() == file.as_raw_fd());
        assert!(is_there && proc_is_ours());
    }
}
