//! The one thread that writes to standard error.
//!
//! A pipe that nobody reads, or a terminal that is stopped, makes who writes to it wait, maybe for good. So nobody else
//! writes: each thread puts what it has to tell on a page of its own, and this one gathers the pages some times a second.
//! So a line costs its thread neither a system call nor a wait for another, and a write takes many lines. What finds its
//! page full is dropped and counted. The process goes on and ends without what it could not tell.

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

/// Bytes that a thread may have on its page; what comes then is dropped.
const MAX_BUFFERED: usize = 512 * 1024;
/// From here on a page is gathered at once.
const FLUSH_AT: usize = MAX_BUFFERED / 4;
/// Bytes that a page keeps for the next lines.
const MAX_KEPT: usize = 64 * 1024;
/// How long lines lie on their pages, so that many are written at once.
const GATHER: Duration = Duration::from_millis(20);
/// How long the last words of a process may take.
const FATAL_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause before another look at what is full.
const AGAIN: Duration = Duration::from_millis(5);
/// How often it is told at most that something was dropped.
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
    /// The page of this thread, once it has told something.
    static BUFFER: OnceLock<Arc<Mutex<ThreadBuffer>>> = const { OnceLock::new() };
}

/// What a thread has told and nobody has gathered yet: whole lines.
#[derive(Default)]
pub struct ThreadBuffer {
    pub text: String,
    pub timestamp: TimestampCache,
    lines: u64,
}

pub struct LogWriter {
    pub json: bool,
    buffers: Mutex<Vec<Arc<Mutex<ThreadBuffer>>>>,
    /// The thread waits for a first line, and must be woken.
    sleeping: AtomicBool,
    thread: OnceLock<Thread>,
    flushed: Flushed,
}

/// How often it was asked that all be written, and up to which asking it is.
#[derive(Default)]
struct Flushed {
    asked_and_done: Mutex<(u64, u64)>,
    done: Condvar,
}

/// Counts the lines that were dropped.
pub fn dropped() -> IntCounter {
    DROPPED.clone()
}

/// The pen of this process; the first call starts its thread.
pub fn writer(format: LogFormat) -> &'static LogWriter {
    let writer = WRITER.get_or_init(|| LogWriter::new(format));
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        match thread::Builder::new().name(THREAD.into()).spawn(|| writer.write_out(&mut io::stderr())) {
            Ok(handle) => drop(writer.thread.set(handle.thread().clone())),
            // From here on all is dropped, and counted.
            Err(error) => eprintln!("error: there will be no log, its thread does not start: {error}"),
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| panicked(info, &before)));
    });
    writer
}

/// Tells something outside the log, such as the error that ends this process: waits for it, but not for long.
pub fn log_fatal(message: &str) {
    match WRITER.get() {
        Some(writer) => {
            writer.put(0, |page| page.text.extend([message, "\n"]));
            writer.flush();
        }
        None => eprintln!("{message}"),
    }
}

/// Waits until what was told so far is written, but not for long.
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

    /// Puts a line on the page of this thread, by `tell`. Never waits but for the moment in which pages are changed.
    pub fn write(&self, tell: impl FnOnce(&mut ThreadBuffer)) {
        self.put(MAX_BUFFERED, tell);
    }

    /// The same if there are at most `room` bytes on the page; with 0 whatever there is.
    fn put(&self, room: usize, tell: impl FnOnce(&mut ThreadBuffer)) {
        // A thread that ends tells nothing more.
        let _ = BUFFER.try_with(|mine| {
            let mine = mine.get_or_init(|| {
                let page = Arc::default();
                locked(&self.buffers).push(Arc::clone(&page));
                page
            });
            let mut page = locked(mine);
            if room > 0 && page.text.len() > room {
                return DROPPED.inc();
            }
            tell(&mut page);
            page.lines += 1;
            let much = page.text.len() > FLUSH_AT;
            drop(page);
            // Who has found all pages empty has said so before it looked at this one.
            if much || self.sleeping.load(Ordering::Acquire) && self.sleeping.swap(false, Ordering::AcqRel) {
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
        let mut state = locked(&self.flushed.asked_and_done);
        state.0 += 1;
        let mine = state.0;
        self.wake();
        // An error means that it took too long.
        let _ = self.flushed.done.wait_timeout_while(state, FATAL_TIMEOUT, |(_, done)| *done < mine);
    }

    /// Writes what comes, for ever.
    fn write_out(&self, out: &mut impl Write) {
        let mut spare = String::with_capacity(MAX_KEPT);
        let (mut told, mut at) = (0, None::<Instant>);
        loop {
            if !self.drain(out, &mut spare) {
                self.sleeping.store(true, Ordering::Release);
                if !self.drain(out, &mut spare) && self.sleeping.load(Ordering::Acquire) {
                    thread::park();
                }
                self.sleeping.store(false, Ordering::Release);
            }
            let all = DROPPED.get();
            if all > told && at.is_none_or(|at| at.elapsed() > DROP_REPORT_INTERVAL) {
                tracing::warn!(
                    lines = all - told,
                    "lines of the log were dropped: standard error takes too few, or none"
                );
                (told, at) = (all, Some(Instant::now()));
            }
            let asked = locked(&self.flushed.asked_and_done);
            if asked.0 == asked.1 {
                drop(asked);
                thread::park_timeout(GATHER);
            }
        }
    }

    /// Writes what is on the pages; false if there was nothing.
    fn drain(&self, out: &mut impl Write, spare: &mut String) -> bool {
        let asked = locked(&self.flushed.asked_and_done).0;
        // Pages of threads that have ended are looked at a last time.
        let mut pages = locked(&self.buffers);
        let all = pages.clone();
        pages.retain(|page| Arc::strong_count(page) > 2);
        drop(pages);
        let mut some = false;
        for page in all {
            let mut page = locked(&page);
            let lines = std::mem::take(&mut page.lines);
            std::mem::swap(&mut page.text, spare);
            drop(page);
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
        locked(&self.flushed.asked_and_done).1 = asked;
        self.flushed.done.notify_all();
        some
    }
}

/// Takes what the log's subscriber has made of an event: one whole line a write.
pub struct TracingWriter(pub &'static LogWriter);

impl Write for TracingWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(|page| page.text.push_str(&String::from_utf8_lossy(line)));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn put(out: &mut impl Write, mut page: &[u8]) -> io::Result<()> {
    while !page.is_empty() {
        match out.write(page) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => page = &page[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process has made the pipe or terminal that it shares with us so.
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
    writer.put(0, |page| page.text.push_str(&format!("thread '{name}' {info}\n{trace}")));
    // Its end is that of the process.
    if name == "main" {
        writer.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a byte or none at a time.
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
                scope.spawn(|| writer.write(|page| page.text.push_str(message)));
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
                    writer.write(|page| page.text.push_str(&"x".repeat(MAX_BUFFERED)));
                }
            });
        });
        assert!(dropped().get() > before, "the third found no room");
        let begun = Instant::now();
        writer.flush();
        assert!(begun.elapsed() >= FATAL_TIMEOUT, "it was waited for, and no longer");
    }
}
