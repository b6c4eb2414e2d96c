//! Standard output: one message a line, and nothing else. A thread of its own writes it: a client that does
//! not read must not keep the process from ending.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use mcp::jsonrpc::message;

/// Messages that may wait. When the queue is full, the sender waits, and with it the gateway.
const WAITING: usize = 64;

pub struct Output(mpsc::Sender<Bytes>);

impl Output {
    /// The receiver is notified when all is written, or cannot be.
    pub fn start() -> (Self, oneshot::Receiver<()>) {
        let (lines, mut waiting) = mpsc::channel::<Bytes>(WAITING);
        let (done, written) = oneshot::channel();
        let write = move || {
            if let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned() {
                // An error means that the client disconnected: it closed the pipe.
                let _ = run(&mut waiting, &mut BufWriter::new(File::from(stdout)));
            }
            drop(waiting);
            let _ = done.send(());
        };
        if let Err(error) = std::thread::Builder::new().name("stdout".into()).spawn(write) {
            tracing::error!(%error, "standard output cannot be written");
        }
        (Self(lines), written)
    }

    /// Writes a message, which may hold line ends between its tokens.
    pub async fn write(&self, message: Bytes) {
        // There is no reader any more: everything ends in this case.
        let _ = self.0.send(message::one_line(message)).await;
    }

    /// Writes the end marker after the last message.
    pub async fn end(&self) {
        // No message is empty.
        let _ = self.0.send(Bytes::new()).await;
    }

    /// Returns when there is no reader any more.
    pub async fn broken(&self) {
        self.0.closed().await;
    }
}

/// Writes lines as they come; waiting lines go out together.
fn run(waiting: &mut mpsc::Receiver<Bytes>, out: &mut impl Write) -> io::Result<()> {
    while let Some(line) = waiting.blocking_recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            if line.is_empty() {
                return out.flush();
            }
            out.write_all(&line)?;
            out.write_all(b"\n")?;
            next = waiting.try_recv().ok();
        }
        out.flush()?;
    }
    Ok(())
}
