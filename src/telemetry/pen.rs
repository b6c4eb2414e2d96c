//! The one thread that writes to standard error.
//!
//! A pipe that nobody reads, or a terminal that is stopped, makes who writes to it wait, maybe for good. So nobody else
//! writes: what there is to tell is handed over, and what finds the queue full is dropped and counted. The process
//! goes on and ends without what it could not tell.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, ErrorKind, Write};
use std::panic::PanicHookInfo;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{LazyLock, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use super::access::{self, Line};
use crate::config::Format;

/// What may wait to be written.
const QUEUE: usize = 4096;
/// Bytes that are gathered for one write, if so many wait.
const PAGE: usize = 64 * 1024;
/// How long the last words of a process may take.
const MOMENT: Duration = Duration::from_millis(500);
/// The pause before another look at what is full.
const AGAIN: Duration = Duration::from_millis(5);
/// How often it is told at most that something was dropped.
const TOLD: Duration = Duration::from_secs(10);
const THREAD: &str = "log";

static PEN: OnceLock<Pen> = OnceLock::new();
static DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    let (name, help) = (
        "toolgate_log_dropped_total",
        "Lines of the log that were dropped because standard error was too slow or gone.",
    );
    IntCounter::new(name, help).expect("the names of metrics are constants")
});

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each call")]
pub enum Entry {
    /// Made into text by the thread.
    Request(Line),
    /// Whole lines.
    Words(Vec<u8>),
    /// All that came before is written.
    Flush(SyncSender<()>),
}

pub struct Pen(SyncSender<Entry>);

/// Counts the lines that were dropped.
pub fn dropped() -> IntCounter {
    DROPPED.clone()
}

/// The pen of this process; the first call starts its thread.
pub fn pen(format: Format) -> &'static Pen {
    PEN.get_or_init(|| {
        let (queue, entries) = sync_channel(QUEUE);
        let run = move || write(&entries, format, &mut io::stderr());
        if let Err(error) = thread::Builder::new().name(THREAD.into()).spawn(run) {
            // From here on all is dropped, and counted.
            eprintln!("error: there will be no log, its thread does not start: {error}");
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| panicked(info, &before)));
        Pen(queue)
    })
}

/// Tells something outside the log, such as the error that ends this process: waits for it, but not for long.
pub fn last_words(words: &str) {
    match PEN.get() {
        Some(pen) => {
            pen.wait(Entry::Words(format!("{words}\n").into_bytes()), Instant::now() + MOMENT);
            pen.flush();
        }
        None => eprintln!("{words}"),
    }
}

/// Waits until what was told so far is written, but not for long.
pub fn flush() {
    if let Some(pen) = PEN.get() {
        pen.flush();
    }
}

impl Pen {
    /// Never waits.
    pub fn put(&self, entry: Entry) {
        if self.0.try_send(entry).is_err() {
            DROPPED.inc();
        }
    }

    fn wait(&self, mut entry: Entry, until: Instant) -> bool {
        loop {
            entry = match self.0.try_send(entry) {
                Ok(()) => return true,
                Err(TrySendError::Full(entry)) if Instant::now() < until => entry,
                Err(_) => return false,
            };
            thread::sleep(AGAIN);
        }
    }

    fn flush(&self) {
        let until = Instant::now() + MOMENT;
        let (done, written) = sync_channel(1);
        if self.wait(Entry::Flush(done), until) {
            // An error means that it took too long.
            let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
}

/// Takes what the log's subscriber has made of an event: one whole line a write.
pub struct Lines(pub &'static Pen);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(Entry::Words(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(entries: &Receiver<Entry>, format: Format, out: &mut impl Write) {
    let mut page = Vec::with_capacity(PAGE);
    let (mut told, mut at) = (DROPPED.get(), None::<Instant>);
    while let Ok(first) = entries.recv() {
        let (mut next, mut lines, mut done) = (Some(first), 0, None);
        while let Some(entry) = next {
            match entry {
                Entry::Request(line) => page.extend_from_slice(access::render(&line, format).as_bytes()),
                Entry::Words(words) => page.extend_from_slice(&words),
                Entry::Flush(asked) => {
                    done = Some(asked);
                    break;
                }
            }
            lines += 1;
            next = if page.len() < PAGE { entries.try_recv().ok() } else { None };
        }
        if put(out, &page).is_err() {
            DROPPED.inc_by(lines);
        }
        page.clear();
        page.shrink_to(PAGE);
        if let Some(done) = done {
            // Who asked may wait no more.
            let _ = done.try_send(());
        }
        let all = DROPPED.get();
        if all > told && at.is_none_or(|at| at.elapsed() > TOLD) {
            tracing::warn!(
                lines = all - told,
                "lines of the log were dropped: standard error takes too few, or none"
            );
            (told, at) = (all, Some(Instant::now()));
        }
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
    let (thread, pen) = (thread::current(), PEN.get());
    let name = thread.name().unwrap_or("without a name");
    let Some(pen) = pen.filter(|_| name != THREAD) else { return before(info) };
    let trace = Backtrace::capture();
    let trace = if trace.status() == BacktraceStatus::Captured { format!("{trace}") } else { String::new() };
    pen.put(Entry::Words(format!("thread '{name}' {info}\n{trace}").into_bytes()));
    // Its end is that of the process.
    if name == "main" {
        pen.flush();
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
        let (queue, entries) = sync_channel(8);
        let (done, written) = sync_channel(1);
        for entry in [Entry::Words(b"one\n".to_vec()), Entry::Words(b"two\n".to_vec()), Entry::Flush(done)] {
            queue.try_send(entry).expect("there is room");
        }
        drop(queue);
        let mut out = Narrow(Vec::new(), false);
        write(&entries, Format::Text, &mut out);
        assert_eq!(out.0, b"one\ntwo\n");
        written.try_recv().expect("it was told");
    }

    #[test]
    fn nobody_waits_for_a_pen_that_writes_nothing() {
        let (queue, entries) = sync_channel(1);
        let pen = Pen(queue);
        let before = dropped().get();
        for _ in 0..3 {
            pen.put(Entry::Words(b"line\n".to_vec()));
        }
        assert!(dropped().get() >= before + 2, "two found no room");
        let begun = Instant::now();
        pen.flush();
        assert!(begun.elapsed() >= MOMENT, "it was waited for, and no longer");
        drop(entries);
    }
}
