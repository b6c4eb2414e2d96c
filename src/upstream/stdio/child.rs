//! One process of a stdio server, shared by all its callers: started with a clean environment, read through
//! its shared connection, and always ended with its descendants.
//!
//! All ends cover the descendants of the process (`spawn`). `stop` and the last drop do it gently, a dropped
//! runtime at once. A server whose first process has ended is gone, whatever processes remain: these get
//! SIGTERM, then SIGKILL, before the end is reported. If the gateway itself is killed, its supervisor does
//! the same.
//!
//! There is no handshake, no restart and no health check here: the owner of the `Child` decides. Do not spawn
//! before daemonizing.

#[cfg(test)]
mod tests;

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, error, info};

use super::pipes::{self, StderrTail};
use super::spawn::{KillHandle, Left, wait};
pub use super::spawn::{ServerCommand, is_own_child};
use crate::upstream::shared_connection::SharedConnection;
pub use crate::upstream::shared_connection::{ConnectionError, ConnectionProgress, ConnectionResponse};

/// Timeout of a start, and of the end after each of: stdin closed, SIGTERM, SIGKILL.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_GRACE: Duration = Duration::from_secs(2);
/// How long the end of its standard error is waited for when it has ended by itself.
const STDERR_TIMEOUT: Duration = Duration::from_millis(250);

/// Cheap to clone; the last drop stops the process.
#[derive(Clone)]
pub struct Child(Arc<ChildInner>);

struct ChildInner {
    connection: Arc<SharedConnection>,
    stderr: Arc<StderrTail>,
    stop: watch::Sender<bool>,
    exited: watch::Receiver<bool>,
}

impl Child {
    /// Call it on the long-lived runtime: the tasks that serve the process are spawned there. Notifications
    /// that belong to no call go to `notices` without waiting; those that find it full are lost.
    pub async fn spawn(
        command: &ServerCommand,
        notices: mpsc::Sender<Bytes>,
    ) -> Result<Self, ConnectionError> {
        let failed = |source| ConnectionError::Spawn {
            program: command.program.clone(),
            source: command.explain(source),
        };
        let (started, start) = oneshot::channel();
        let (prepared, name, limits) = (command.prepare(), command.name.clone(), command.limits);
        thread::Builder::new()
            .name("stdio-child".into())
            .stack_size(256 << 10)
            .spawn(move || wait(prepared, &name, limits, STOP_GRACE, started))
            .map_err(failed)?;
        let start = timeout(START_TIMEOUT, start).await.map_err(|late| failed(late.into()))?;
        let process = start.map_err(|lost| failed(io::Error::other(lost)))?.map_err(failed)?;
        let stdin = tokio::process::ChildStdin::from_std(process.stdin).map_err(failed)?;
        let stdout = tokio::process::ChildStdout::from_std(process.stdout).map_err(failed)?;
        let stderr = tokio::process::ChildStderr::from_std(process.stderr).map_err(failed)?;

        let (line, queue) = SharedConnection::new(&command.name, notices);
        let line = Arc::new(line);
        let (stop, asked) = watch::channel(false);
        let (exited_sender, gone) = watch::channel(false);
        let [writes, reads] = [(); 2].map(|()| Arc::clone(&line));
        let tail = Arc::<StderrTail>::default();
        let (logs, name, max) = (Arc::clone(&tail), command.name.clone(), command.max_line);
        let pipes = Pipes {
            writer: tokio::spawn(async move { pipes::write(&writes, stdin, queue).await }),
            reader: tokio::spawn(async move { pipes::read(&reads, stdout, max).await }),
            stderr: tokio::spawn(async move { logs.log(&name, stderr).await }),
        };
        debug!(target: "toolgate::stdio", server = command.name, pid = process.pid, "the process has started");
        let supervisor = ChildSupervisor {
            name: command.name.clone(),
            connection: Arc::clone(&line),
            stderr: Arc::clone(&tail),
            kill_handle: process.kill_handle,
            exit: process.exit,
            exited_sender,
        };
        tokio::spawn(supervisor.run(pipes, asked));
        Ok(Self(Arc::new(ChildInner { connection: line, stderr: tail, stop, exited: gone })))
    }

    /// Sends one call; `params` is one JSON value that was validated before. If the future is dropped before
    /// the response, the call is cancelled at the server.
    pub async fn request(
        &self,
        method: &str,
        params: Option<&[u8]>,
        timeout: Duration,
        progress: Option<ConnectionProgress>,
    ) -> Result<ConnectionResponse, ConnectionError> {
        self.0.connection.request(method, params, timeout, progress).await
    }

    /// Sends a `subscriptions/listen`; it ends with its response, or when this is dropped.
    pub async fn listen(
        &self,
        params: &[u8],
        notes: mpsc::Sender<Bytes>,
    ) -> Result<ConnectionResponse, ConnectionError> {
        self.0.connection.listen(params, notes).await
    }

    /// Waits for space in the queue, not for the process to read.
    pub async fn notify(
        &self,
        method: &str,
        params: Option<&[u8]>,
        timeout: Duration,
    ) -> Result<(), ConnectionError> {
        self.0.connection.notify(method, params, timeout).await
    }

    /// See [`SharedConnection::take_requests`].
    pub fn take_requests(&self, requests: mpsc::Sender<(Bytes, usize)>) {
        self.0.connection.take_requests(requests);
    }

    /// Queues a response to a request of the server.
    pub fn reply(&self, message: &Bytes) {
        self.0.connection.reply(message);
    }

    /// Whether it accepts calls: false as soon as it is being stopped or has closed its stdin or stdout.
    pub fn is_alive(&self) -> bool {
        self.0.connection.is_open()
    }

    /// Waits until the process is gone, for any reason. `None`: it could not be killed, or the runtime ended
    /// first.
    pub async fn exited(&self) -> Option<ExitStatus> {
        let mut gone = self.0.exited.clone();
        // An error means that the supervisor task is gone, and then so is the process.
        let _ = gone.wait_for(|gone| *gone).await;
        self.0.connection.status()
    }

    /// The error that it accepts no more calls, with its status and last stderr lines if it ends within this
    /// time.
    pub async fn ending(&self, time: Duration, sent: bool) -> ConnectionError {
        let status = timeout(time, self.exited()).await.ok().flatten();
        ConnectionError::Exited { status, sent, said: self.0.stderr.last() }
    }

    /// The last lines of its standard error, as the end of a sentence.
    pub fn last_stderr(&self) -> String {
        self.0.stderr.last().as_deref().unwrap_or_default().to_owned()
    }

    /// Closes stdin, then sends SIGTERM, then SIGKILL, and reaps. Calls that were sent may still be answered
    /// meanwhile.
    pub async fn stop(&self) -> Option<ExitStatus> {
        self.0.stop.send_replace(true);
        self.exited().await
    }
}

struct Pipes {
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
    stderr: JoinHandle<()>,
}

/// The task that supervises the process until its end. Dropped with its runtime, it kills.
struct ChildSupervisor {
    name: String,
    connection: Arc<SharedConnection>,
    stderr: Arc<StderrTail>,
    kill_handle: KillHandle,
    exit: watch::Receiver<Left>,
    exited_sender: watch::Sender<bool>,
}

impl ChildSupervisor {
    async fn run(mut self, mut pipes: Pipes, mut asked: watch::Receiver<bool>) {
        tokio::select! {
            _ = self.exit.wait_for(|left| left.status.is_some() || left.over) => {}
            // Or the last handle was dropped.
            _ = asked.wait_for(|asked| *asked) => {}
            // It closed its stdout or its stdin: it cannot answer any more.
            _ = &mut pipes.reader => {}
            _ = &mut pipes.writer => {}
        }
        let asked_to = *asked.borrow() || asked.has_changed().is_err();
        self.connection.close();
        // The writer owns the process's stdin.
        pipes.writer.abort();
        for signal in [None, Some(libc::SIGTERM), Some(libc::SIGKILL)] {
            if let Some(signal) = signal {
                self.kill_handle.signal(signal);
            }
            if timeout(STOP_GRACE, self.exit.wait_for(|left| left.over)).await.is_ok() {
                break;
            }
        }
        // Its last responses may still be in the pipe; and a process that cannot be ended may hold that open.
        if !pipes.reader.is_finished() && timeout(STOP_GRACE, &mut pipes.reader).await.is_err() {
            pipes.reader.abort();
        }
        let dropped = self.connection.dropped();
        let Left { status, over, running, stuck } = *self.exit.borrow();
        match status.filter(|_| over) {
            Some(status) => {
                debug!(target: "toolgate::stdio", server = self.name, %status, dropped, "the process has ended");
            }
            None => error!(target: "toolgate::stdio", server = self.name, "the process cannot be killed"),
        }
        if running > 0 && !asked_to {
            let message = "it has ended and left processes running; these were ended too";
            info!(target: "toolgate::stdio", server = self.name, running, "{message}");
        }
        if stuck > 0 {
            let message = "processes that it left running cannot be ended";
            error!(target: "toolgate::stdio", server = self.name, stuck, "{message}");
        }
        // Its last stderr lines belong to the report of its end; a process that cannot be ended may hold the
        // pipe open.
        let stderr_ended = asked_to || timeout(STDERR_TIMEOUT, &mut pipes.stderr).await.is_ok();
        drop(self);
        if (asked_to || !stderr_ended) && timeout(STOP_GRACE, &mut pipes.stderr).await.is_err() {
            pipes.stderr.abort();
        }
    }
}

impl Drop for ChildSupervisor {
    fn drop(&mut self) {
        // Before its end is reported.
        self.kill_handle.signal(libc::SIGKILL);
        self.connection.close_input(self.exit.borrow().status, self.stderr.last());
        self.exited_sender.send_replace(true);
    }
}
