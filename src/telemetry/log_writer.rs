//! The one thread that writes to standard error.
//!
//! A write to a pipe that is not read, or to a stopped terminal, blocks, maybe forever. So only one thread
//! writes: each thread appends its lines to a buffer of its own, and the writer drains the buffers several
//! times a second. A line costs its thread neither a system call nor a wait for other threads, and one
//! write takes many lines. A line that finds its buffer full is dropped and counted. The process runs and
//! ends without the lines that could not be written.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use super::timestamp::TimestampCache;
use crate::config::LogFormat;

/// Maximum size of a thread's buffer, in bytes; further lines are dropped.
const MAX_BUFFERED: usize = 512 * 1024;
/// A buffer of this size is drained at once.
const FLUSH_AT: usize = MAX_BUFFERED / 4;
/// Capacity that a buffer keeps for the next lines, in bytes.
const MAX_KEPT: usize = 64 * 1024;
/// How long lines stay in their buffers, so that many are written at once.
const GATHER: Duration = Duration::from_millis(20);
/// Timeout for the final message of a process.
const FATAL_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause before another attempt on a full pipe.
const AGAIN: Duration = Duration::from_millis(5);
/// Minimum interval between reports of dropped lines.
const DROP_REPORT_INTERVAL: Duration = Duration::from_secs(10);
const THREAD: &str = "log";

static WRITER: OnceLock<LogWriter> = OnceLock::new();
static DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    let (name, help) = (
        "toolgate_log_dropped_total",
        "Lines of the log that were dropped because standard error was too slow or gone.",
    );
    IntCounter::new(name, help).expect("the names of metrics are constants")
});

thread_local! {
    /// The buffer of this thread, once it has written a line.
    static BUFFER: OnceLock<Arc<Mutex<ThreadBuffer>>> = const { OnceLock::new() };
}

/// Lines of a thread that are not drained yet: whole lines.
#[derive(Default)]
pub struct ThreadBuffer {
    pub text: String,
    pub timestamp: TimestampCache,
    lines: u64,
}

pub struct LogWriter {
    pub json: bool,
    buffers: Mutex<Vec<Arc<Mutex<ThreadBuffer>>>>,
    /// The writer waits for a first line, and must be woken.
    sleeping: AtomicBool,
    thread: OnceLock<Thread>,
    flushed: Flushed,
}

/// The number of flush requests, and the last one that is done.
#[derive(Default)]
struct Flushed {
    requested_and_done: Mutex<(u64, u64)>,
    done: Condvar,
}

/// Counts the dropped lines.
pub fn dropped() -> IntCounter {
    DROPPED.clone()
}

/// The writer of this process; the first call starts its thread.
pub fn writer(format: LogFormat) -> &'static LogWriter {
    let writer = WRITER.get_or_init(|| LogWriter::new(format));
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        match thread::Builder::new().name(THREAD.into()).spawn(|| writer.write_out(&mut io::stderr())) {
            Ok(handle) => drop(writer.thread.set(handle.thread().clone())),
            // From here on all lines are dropped and counted.
            Err(error) => eprintln!("error: there will be no log, its thread does not start: {error}"),
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| panicked(info, &before)));
    });
    writer
}

/// Writes a message outside the log, such as the error that ends this process, and waits for it, but not
/// for long.
pub fn log_fatal(message: &str) {
    match WRITER.get() {
        Some(writer) => {
            writer.put(0, |buffer| buffer.text.extend([message, "\n"]));
            writer.flush();
        }
        None => eprintln!("{message}"),
    }
}

/// Waits until the lines so far are written, but not for long.
pub fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogWriter {
    fn new(format: LogFormat) -> Self {
        let json = match format {
            LogFormat::Auto => !io::stderr().is_terminal(),
            LogFormat::Json => true,
            LogFormat::Text => false,
        };
        Self {
            json,
            buffers: Mutex::default(),
            sleeping: AtomicBool::new(false),
            thread: OnceLock::new(),
            flushed: Flushed::default(),
        }
    }

    /// Appends a line to the buffer of this thread with `append`. It waits only for the moment in which
    /// buffers are swapped.
    pub fn write(&self, append: impl FnOnce(&mut ThreadBuffer)) {
        self.put(MAX_BUFFERED, append);
    }

    /// The same if the buffer has at most `limit` bytes; with 0 regardless of its size.
    fn put(&self, limit: usize, append: impl FnOnce(&mut ThreadBuffer)) {
        // A thread that ends writes nothing more.
        let _ = BUFFER.try_with(|mine| {
            let mine = mine.get_or_init(|| {
                let buffer = Arc::default();
                locked(&self.buffers).push(Arc::clone(&buffer));
                buffer
            });
            let mut buffer = locked(mine);
            if limit > 0 && buffer.text.len() > limit {
                return DROPPED.inc();
            }
            append(&mut buffer);
            buffer.lines += 1;
            let is_long = buffer.text.len() > FLUSH_AT;
            drop(buffer);
            // The writer sets `sleeping` before it looks at this buffer a last time.
            if is_long || self.sleeping.load(Ordering::Acquire) && self.sleeping.swap(false, Ordering::AcqRel)
            {
                self.wake();
            }
        });
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn flush(&self) {
        let mut state = locked(&self.flushed.requested_and_done);
        state.0 += 1;
        let mine = state.0;
        self.wake();
        // An error means that it took too long.
        let _ = self.flushed.done.wait_timeout_while(state, FATAL_TIMEOUT, |(_, done)| *done < mine);
    }

    /// Writes lines as they come, forever.
    fn write_out(&self, out: &mut impl Write) {
        let mut spare = String::with_capacity(MAX_KEPT);
        let (mut reported, mut at) = (0, None::<Instant>);
        loop {
            if !self.drain(out, &mut spare) {
                self.sleeping.store(true, Ordering::Release);
                if !self.drain(out, &mut spare) && self.sleeping.load(Ordering::Acquire) {
                    thread::park();
                }
                self.sleeping.store(false, Ordering::Release);
            }
            let all = DROPPED.get();
            if all > reported && at.is_none_or(|at| at.elapsed() > DROP_REPORT_INTERVAL) {
                tracing::warn!(
                    lines = all - reported,
                    "log lines were dropped: standard error is too slow or blocked"
                );
                (reported, at) = (all, Some(Instant::now()));
            }
            let requested = locked(&self.flushed.requested_and_done);
            if requested.0 == requested.1 {
                drop(requested);
                thread::park_timeout(GATHER);
            }
        }
    }

    /// Writes the content of the buffers; false if there was none.
    fn drain(&self, out: &mut impl Write, spare: &mut String) -> bool {
        let requested = locked(&self.flushed.requested_and_done).0;
        // Buffers of threads that have ended are drained a last time.
        let mut buffers = locked(&self.buffers);
        let all = buffers.clone();
        buffers.retain(|buffer| Arc::strong_count(buffer) > 2);
        drop(buffers);
        let mut some = false;
        for buffer in all {
            let mut buffer = locked(&buffer);
            let lines = std::mem::take(&mut buffer.lines);
            std::mem::swap(&mut buffer.text, spare);
            drop(buffer);
            if lines == 0 {
                continue;
            }
            some = true;
            if put(out, spare.as_bytes()).is_err() {
                DROPPED.inc_by(lines);
            }
            spare.clear();
            spare.shrink_to(MAX_KEPT);
        }
        locked(&self.flushed.requested_and_done).1 = requested;
        self.flushed.done.notify_all();
        some
    }
}

/// Takes the formatted events of the log's subscriber: one whole line per write.
pub struct TracingWriter(pub &'static LogWriter);

impl Write for TracingWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(|buffer| buffer.text.push_str(&String::from_utf8_lossy(line)));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn put(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares this pipe or terminal has made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn panicked(info: &PanicHookInfo<'_>, before: &dyn Fn(&PanicHookInfo<'_>)) {
    let (thread, writer) = (thread::current(), WRITER.get());
    let name = thread.name().unwrap_or("without a name");
    let Some(writer) = writer.filter(|_| name != THREAD) else { return before(info) };
    let trace = Backtrace::capture();
    let trace = if trace.status() == BacktraceStatus::Captured { format!("{trace}") } else { String::new() };
    writer.put(0, |buffer| buffer.text.push_str(&format!("thread '{name}' {info}\n{trace}")));
    // The end of the main thread is the end of the process.
    if name == "main" {
        writer.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts one byte or none at a time.
    struct Narrow(Vec<u8>, bool);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.0.push(bytes[0]);
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_not_taken_at_once_is_written_all_the_same() {
        let writer = LogWriter::new(LogFormat::Text);
        thread::scope(|scope| {
            for message in ["one\n", "two\n"] {
                scope.spawn(|| writer.write(|buffer| buffer.text.push_str(message)));
            }
        });
        let (mut out, mut spare) = (Narrow(Vec::new(), false), String::new());
        assert!(writer.drain(&mut out, &mut spare));
        let mut lines: Vec<&[u8]> = out.0.split_inclusive(|b| *b == b'\n').collect();
        lines.sort_unstable();
        assert_eq!(lines, [b"one\n", b"two\n"]);
        assert!(!writer.drain(&mut out, &mut spare), "nothing is written twice");
        assert!(locked(&writer.buffers).is_empty(), "threads that have ended leave no pages");
    }

    #[test]
    fn nobody_waits_for_a_pen_that_writes_nothing() {
        let writer = LogWriter::new(LogFormat::Text);
        let before = dropped().get();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3 {
                    writer.write(|buffer| buffer.text.push_str(&"x".repeat(MAX_BUFFERED)));
                }
            });
        });
        assert!(dropped().get() > before, "the third did not fit");
        let begun = Instant::now();
        writer.flush();
        assert!(begun.elapsed() >= FATAL_TIMEOUT, "it was waited for, and no longer");
    }
}
