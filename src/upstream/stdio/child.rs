//! One process of a stdio server, shared by all who call it: started clean, heard through its `line`, never left behind.
//!
//! Whoever ends, ends all that descends from the process (`process`): `stop` and the last drop do it gently, a dropped
//! runtime at once. A server whose first process has gone is gone, whatever it has left running: that is asked to end, then
//! killed, before anybody is told. If the gateway itself is killed, its supervisor does the same.
//!
//! Here is no handshake, no restart and no health: who holds the `Child` decides. Do not spawn before daemonizing.

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

use super::connection::ChildConnection;
pub use super::connection::{ChildError, ChildProgress, ChildResponse};
use super::spawn::{Left, Reach, wait};
pub use super::spawn::{ServerCommand, is_own_child};

/// How long a process may take to start, and to end after each of: its stdin closed, SIGTERM, SIGKILL.
const START: Duration = Duration::from_secs(10);
const STOP_GRACE: Duration = Duration::from_secs(2);
/// How long the end of its standard error is waited for when it has ended by itself.
const STDERR_TIMEOUT: Duration = Duration::from_millis(250);

/// Cheap to clone; the last one that is dropped stops the process.
#[derive(Clone)]
pub struct Child(Arc<ChildInner>);

struct ChildInner {
    connection: Arc<ChildConnection>,
    stop: watch::Sender<bool>,
    exited: watch::Receiver<bool>,
}

impl Child {
    /// Call it on the long-lived runtime: the tasks that serve the process are spawned where this is awaited.
    /// Notifications that belong to no call go to `notices`; it is never waited for, what finds it full is lost.
    pub async fn spawn(command: &ServerCommand, notices: mpsc::Sender<Bytes>) -> Result<Self, ChildError> {
        let failed =
            |source| ChildError::Spawn { program: command.program.clone(), source: command.explain(source) };
        let (born, birth) = oneshot::channel();
        let (prepared, name) = (command.prepare(), command.name.clone());
        thread::Builder::new()
            .name("stdio-child".into())
            .stack_size(256 << 10)
            .spawn(move || wait(prepared, &name, STOP_GRACE, born))
            .map_err(failed)?;
        let birth = timeout(START, birth).await.map_err(|late| failed(late.into()))?;
        let process = birth.map_err(|lost| failed(io::Error::other(lost)))?.map_err(failed)?;
        let stdin = tokio::process::ChildStdin::from_std(process.stdin).map_err(failed)?;
        let stdout = tokio::process::ChildStdout::from_std(process.stdout).map_err(failed)?;
        let stderr = tokio::process::ChildStderr::from_std(process.stderr).map_err(failed)?;

        let (line, queue) = ChildConnection::new(&command.name, command.max_line, notices);
        let line = Arc::new(line);
        let (stop, asked) = watch::channel(false);
        let (tell, gone) = watch::channel(false);
        let [writes, reads, logs] = [(); 3].map(|()| Arc::clone(&line));
        let pipes = Pipes {
            writer: tokio::spawn(async move { writes.write(stdin, queue).await }),
            reader: tokio::spawn(async move { reads.read(stdout).await }),
            stderr: tokio::spawn(async move { logs.log(stderr).await }),
        };
        debug!(target: "toolgate::stdio", server = command.name, pid = process.pid, "the process has started");
        let supervisor = ChildSupervisor {
            name: command.name.clone(),
            connection: Arc::clone(&line),
            reach: process.reach,
            exit: process.exit,
            tell,
        };
        tokio::spawn(supervisor.run(pipes, asked));
        Ok(Self(Arc::new(ChildInner { connection: line, stop, exited: gone })))
    }

    /// One call; `params` is one JSON value that was read before. Dropped before its answer, it is cancelled at the server.
    pub async fn request(
        &self,
        method: &str,
        params: Option<&[u8]>,
        timeout: Duration,
        progress: Option<ChildProgress>,
    ) -> Result<ChildResponse, ChildError> {
        self.0.connection.request(method, params, timeout, progress).await
    }

    /// A `subscriptions/listen`; it ends with its answer, or when this is dropped.
    pub async fn listen(
        &self,
        params: &[u8],
        notes: mpsc::Sender<Bytes>,
    ) -> Result<ChildResponse, ChildError> {
        self.0.connection.listen(params, notes).await
    }

    /// Waits for room in the queue, not for the process to read.
    pub async fn notify(
        &self,
        method: &str,
        params: Option<&[u8]>,
        timeout: Duration,
    ) -> Result<(), ChildError> {
        self.0.connection.notify(method, params, timeout).await
    }

    /// Whether it takes calls: false as soon as it is being stopped or has closed its stdin or stdout.
    pub fn is_alive(&self) -> bool {
        self.0.connection.is_open()
    }

    /// Waits until it is gone, for whatever reason. No status: it could not be killed, or the runtime went first.
    pub async fn exited(&self) -> Option<ExitStatus> {
        let mut gone = self.0.exited.clone();
        // An error means that the keeper is no more, and then neither is the process.
        let _ = gone.wait_for(|gone| *gone).await;
        self.0.connection.status()
    }

    /// That it takes no more, with its status and last words if it ends within this time.
    pub async fn ending(&self, time: Duration, sent: bool) -> ChildError {
        let status = timeout(time, self.exited()).await.ok().flatten();
        ChildError::Exited { status, sent, said: self.0.connection.last_stderr() }
    }

    /// What it said last on its standard error, as the end of a sentence.
    pub fn last_stderr(&self) -> String {
        self.0.connection.last_stderr().as_deref().unwrap_or_default().to_owned()
    }

    /// Closes stdin, then asks by SIGTERM, then kills, and reaps. Calls that were sent may still be answered meanwhile.
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

/// The task that sees the process to its end. Dropped with its runtime, it kills.
struct ChildSupervisor {
    name: String,
    connection: Arc<ChildConnection>,
    reach: Reach,
    exit: watch::Receiver<Left>,
    tell: watch::Sender<bool>,
}

impl ChildSupervisor {
    async fn run(mut self, mut pipes: Pipes, mut asked: watch::Receiver<bool>) {
        tokio::select! {
            _ = self.exit.wait_for(|left| left.status.is_some() || left.over) => {}
            // Or the last handle was dropped.
            _ = asked.wait_for(|asked| *asked) => {}
            // It closed its stdout or its stdin: nothing can be had from it any more.
            _ = &mut pipes.reader => {}
            _ = &mut pipes.writer => {}
        }
        let asked_to = *asked.borrow() || asked.has_changed().is_err();
        self.connection.close();
        // With the writer goes the process's stdin.
        pipes.writer.abort();
        for signal in [None, Some(libc::SIGTERM), Some(libc::SIGKILL)] {
            if let Some(signal) = signal {
                self.reach.signal(signal);
            }
            if timeout(STOP_GRACE, self.exit.wait_for(|left| left.over)).await.is_ok() {
                break;
            }
        }
        // Its last answers may still be in the pipe; and one who cannot be ended may hold that open.
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
        // What it said last belongs to the news of its end; who cannot be ended may hold the pipe open.
        let heard = asked_to || timeout(STDERR_TIMEOUT, &mut pipes.stderr).await.is_ok();
        drop(self);
        if (asked_to || !heard) && timeout(STOP_GRACE, &mut pipes.stderr).await.is_err() {
            pipes.stderr.abort();
        }
    }
}

impl Drop for ChildSupervisor {
    fn drop(&mut self) {
        // Before anybody is told that it is gone.
        self.reach.signal(libc::SIGKILL);
        self.connection.close_input(self.exit.borrow().status);
        self.tell.send_replace(true);
    }
}
