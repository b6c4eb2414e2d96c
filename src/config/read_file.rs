//! Reads a named file: only a regular file, up to a size limit and within a deadline.
//!
//! A named pipe in place of a config file blocks its reader forever, a device has no end, and a network file
//! system may not respond. So the file type is checked before reading, and a thread reads it that can be
//! abandoned.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::ByteSize;

/// The default size limit, in bytes.
pub const MAX: u64 = 16 << 20;
/// The deadline for reading a file.
const DEADLINE: Duration = Duration::from_secs(5);
/// Most abandoned readers. Each is a thread that waits for its disk.
const MAX_ABANDONED: usize = 8;

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// Why it cannot be read, as text to follow the name of the file.
pub fn read(file: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = file.to_owned();
    within(DEADLINE, move || read_now(&file, max))
}

/// The same as text.
///
/// # Errors
/// As [`read`], and that it is not UTF-8.
pub fn read_text(file: &Path, max: u64) -> io::Result<String> {
    String::from_utf8(read(file, max)?).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

fn within<T: Send + 'static>(
    deadline: Duration,
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    static READERS: AtomicUsize = AtomicUsize::new(0);
    if READERS.load(Ordering::Relaxed) >= MAX_ABANDONED {
        return Err(io::Error::other("earlier attempts to read files still hang"));
    }
    let (done, result) = mpsc::sync_channel(1);
    READERS.fetch_add(1, Ordering::Relaxed);
    let reader = thread::Builder::new().name("file".into()).spawn(move || {
        // The receiver may be gone after a timeout.
        let _ = done.send(read());
        READERS.fetch_sub(1, Ordering::Relaxed);
    });
    if let Err(error) = reader {
        READERS.fetch_sub(1, Ordering::Relaxed);
        return Err(error);
    }
    match result.recv_timeout(deadline) {
        Ok(read) => read,
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("it could not be read within {deadline:?}")))
        }
    }
}

fn read_now(file: &Path, max: u64) -> io::Result<Vec<u8>> {
    // Opening alone does something to some devices.
    regular(fs::metadata(file)?.file_type())?;
    let opened: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(file)?;
    // The file may have been replaced in between.
    let seen = opened.metadata()?;
    regular(seen.file_type())?;
    let too_large = || Err(io::Error::other(format!("it is larger than {}", ByteSize::of(max))));
    if seen.len() > max {
        return too_large();
    }
    let mut bytes = Vec::with_capacity(usize::try_from(seen.len()).unwrap_or(0));
    opened.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max { too_large() } else { Ok(bytes) }
}

fn regular(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    let what = if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::other(format!("it is {what}, not a regular file")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn error_of(file: &Path) -> String {
        read(file, 100).expect_err("it is none").to_string()
    }

    #[test]
    fn only_regular_files_are_read_and_the_others_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("good"), "text").expect("it is written");
        symlink(at("good"), at("link")).expect("a link");
        assert_eq!(read(&at("link"), 4).expect("it is read"), b"text");
        assert_eq!(read_text(&at("good"), 4).expect("it is read"), "text");
        // The pipe has no writer: a normal open would block forever.
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo is there");
        assert!(made.success());
        assert_eq!(error_of(&at("pipe")), "it is a named pipe, not a regular file");
        symlink("/dev/zero", at("zero")).expect("a link");
        assert_eq!(error_of(&at("zero")), "it is a device, not a regular file");
        let _socket = UnixListener::bind(at("socket")).expect("a socket");
        assert_eq!(error_of(&at("socket")), "it is a socket, not a regular file");
        assert_eq!(error_of(folder.path()), "it is a folder, not a regular file");
        assert_eq!(
            read(&at("none"), 100).map_err(|error| error.kind()).expect_err("there is none"),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn what_is_too_large_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let large = folder.path().join("large");
        File::create(&large).and_then(|file| file.set_len(600 << 20)).expect("a large file");
        assert_eq!(read(&large, MAX).expect_err("it is too large").to_string(), "it is larger than 16MiB");
        // Files of /proc report the size 0.
        assert!(!read(Path::new("/proc/self/status"), MAX).expect("it is read").is_empty());
        assert!(read(Path::new("/proc/self/status"), 3).is_err());
    }

    #[test]
    fn a_disk_that_does_not_answer_is_left() {
        let (answer, hanging) = mpsc::channel::<()>();
        let read = within(Duration::from_millis(20), move || {
            let _ = hanging.recv();
            Ok(())
        });
        assert_eq!(read.expect_err("it hangs").kind(), io::ErrorKind::TimedOut);
        drop(answer);
    }
}
