//! Standard input, line by line. A thread of its own reads it: a blocked read cannot be cancelled, and must
//! not keep the process from ending.

use std::io::{self, BufRead, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Lines that may wait; when the queue is full, the reader waits.
const WAITING: usize = 16;

#[derive(Debug, PartialEq, Eq)]
pub enum InputLine {
    Whole(Bytes),
    /// It was read to its end and discarded.
    TooLong,
}

pub struct Input(mpsc::Receiver<InputLine>);

impl Input {
    pub fn start(max: usize) -> Self {
        let (lines, input) = mpsc::channel(WAITING);
        let read = move || {
            let mut stdin = io::stdin().lock();
            // An error ends it as the end does: nothing more will come.
            while let Ok(Some(line)) = next(&mut stdin, max) {
                if lines.blocking_send(line).is_err() {
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("stdin".into()).spawn(read) {
            tracing::error!(%error, "standard input cannot be read");
        }
        Self(input)
    }

    pub async fn next(&mut self) -> Option<InputLine> {
        self.0.recv().await
    }
}

/// The next line, of at most `max` bytes; the last one may lack its line end.
fn next(input: &mut impl BufRead, max: usize) -> io::Result<Option<InputLine>> {
    let mut line = Vec::new();
    input.take(max as u64 + 1).read_until(b'\n', &mut line)?;
    match line.last() {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) if line.len() > max => {
            skip(input)?;
            return Ok(Some(InputLine::TooLong));
        }
        Some(_) => {}
    }
    Ok(Some(InputLine::Whole(line.into())))
}

/// Discards the rest of a line.
fn skip(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let (used, end) = match input.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(piece) => match memchr::memchr(b'\n', piece) {
                Some(at) => (at + 1, true),
                None => (piece.len(), false),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        input.consume(used);
        if end {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, max: usize) -> Vec<InputLine> {
        // Small chunks, so that lines cross their borders.
        let mut input = io::BufReader::with_capacity(3, text.as_bytes());
        std::iter::from_fn(|| next(&mut input, max).expect("a slice can be read")).collect()
    }

    #[test]
    fn a_line_that_is_too_long_costs_itself_alone() {
        let whole = |text: &'static str| InputLine::Whole(Bytes::from_static(text.as_bytes()));
        assert_eq!(lines("ab\ncdefgh\nij", 5), [whole("ab\n"), InputLine::TooLong, whole("ij")]);
        assert_eq!(lines("abcde\nabcdef\n\n", 5), [whole("abcde\n"), InputLine::TooLong, whole("\n")]);
        assert_eq!(lines("abcdef", 5), [InputLine::TooLong]);
        assert_eq!(lines("", 5), []);
    }
}
