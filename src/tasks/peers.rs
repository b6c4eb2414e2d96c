//! What gateway processes ask each other about tasks: to cancel one, and to give away one that waits for
//! answers. Who gets a client's answers takes the task over, and makes the call again as it does with its own:
//! through the whole chain, as this client.
//!
//! A message may be lost: who asks repeats it, and a task that was given away is given to the same request
//! again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use mcp::{Reason, Rejection};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::elsewhere::{FoundTask, RemoteTask, moved, unreachable};
use super::handle::TaskOwner;
use super::kept::{KeptTask, SavedTask, TaskKey};
use super::state::{MovedTask, NotMoved};
use super::{Tasks, detached};
use crate::bridge::{PeerMessage, RelayId, Sending};
use crate::server::Server;
use crate::store::parking::Digest;
use crate::store::process_messages::ProcessId;

/// How long an answer may take until the request is sent again, and how often it is sent.
const ANSWER: Duration = Duration::from_secs(1);
const SENDS: usize = 5;
/// How often a task is looked for that is on its way between two processes, and how long between.
const LOOKS: usize = 4;
const MOVING: Duration = Duration::from_millis(500);
/// How long a task that was given away is remembered.
const GIVEN: Duration = Duration::from_secs(60);

/// What is on its way between this process and others.
#[derive(Default)]
pub(super) struct Peers {
    /// Requests of this process that wait for their answers.
    waiting: DashMap<RelayId, mpsc::Sender<TaskReply>, ahash::RandomState>,
    given: DashMap<TaskKey, Given, ahash::RandomState>,
}

struct Given {
    request: RelayId,
    task: MovedTask,
    at: Instant,
}

#[derive(Serialize, Deserialize)]
enum TaskMessage {
    Request(TaskRequest),
    Reply(TaskReply),
}

#[derive(Clone, Serialize, Deserialize)]
struct TaskRequest {
    task: TaskKey,
    owner: Digest,
    wish: Wish,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Wish {
    Cancel,
    TakeOver,
}

#[derive(Serialize, Deserialize)]
enum TaskReply {
    Cancelled,
    Given(Box<MovedTask>),
    Stays(NotMoved),
}

impl Peers {
    /// Whether another process was given this task of late.
    pub fn gives_away(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    pub fn sweep(&self) {
        self.given.retain(|_, given| given.at.elapsed() < GIVEN);
    }
}

/// Answers the other processes.
pub(super) async fn serve(tasks: Weak<Tasks>, mut messages: mpsc::Receiver<PeerMessage>) {
    while let Some(PeerMessage { from, id, text }) = messages.recv().await {
        let Some(tasks) = tasks.upgrade() else { return };
        match serde_json::from_str(&text) {
            Ok(TaskMessage::Reply(reply)) => {
                if let Some(waiting) = tasks.peers.waiting.get(&id) {
                    let _ = waiting.try_send(reply);
                }
            }
            Ok(TaskMessage::Request(request)) => {
                tasks.runtime.clone().spawn(async move {
                    let reply = tasks.answer(id, &request).await;
                    tasks.tell(from, id, &TaskMessage::Reply(reply)).await;
                });
            }
            Err(error) => tracing::warn!(%error, "a message of another gateway process cannot be read"),
        }
    }
}

impl Tasks {
    async fn tell(&self, to: ProcessId, id: RelayId, message: &TaskMessage) -> Sending {
        let Ok(text) = serde_json::to_string(message) else { return Sending::Failed };
        self.bridge.tell(to, id, text).await
    }

    /// What another process wants of a task of this one.
    async fn answer(&self, id: RelayId, request: &TaskRequest) -> TaskReply {
        let key = &request.task;
        if let Some(given) = self.peers.given.get(key).filter(|given| given.request == id) {
            return TaskReply::Given(Box::new(given.task.clone()));
        }
        let task = self.kept.get(key, &TaskOwner::of(request.owner));
        let Some(task) = task else { return TaskReply::Stays(NotMoved::Gone) };
        match request.wish {
            Wish::Cancel => {
                task.cancel();
                if task.is_moved() {
                    return TaskReply::Stays(NotMoved::Gone);
                }
                // Who asked may read the record next.
                let _ = self.save(key, &task).await;
                TaskReply::Cancelled
            }
            Wish::TakeOver => {
                // Nothing is being written meanwhile.
                let saved = task.saved.lock().await;
                let mut moved = match task.hand_over() {
                    Ok(moved) => moved,
                    Err(why) => return TaskReply::Stays(why),
                };
                moved.version = saved.version;
                let given = Given { request: id, task: moved.clone(), at: Instant::now() };
                self.peers.given.insert(key.clone(), given);
                self.kept.remove(key);
                TaskReply::Given(Box::new(moved))
            }
        }
    }

    /// Asks the process that runs a task.
    async fn ask(&self, process: ProcessId, request: TaskRequest) -> Result<TaskReply, Box<Rejection>> {
        let mut id = RelayId::default();
        getrandom::fill(&mut id).expect("the system gives random bytes");
        let (out, mut replies) = mpsc::channel(1);
        self.peers.waiting.insert(id, out);
        let _asked = AskedTask(&self.peers, id);
        let request = TaskMessage::Request(request);
        for _ in 0..SENDS {
            match self.tell(process, id, &request).await {
                Sending::Sent => {
                    if let Ok(Some(reply)) = timeout(ANSWER, replies.recv()).await {
                        return Ok(reply);
                    }
                }
                Sending::NoReader => {
                    return Err(unreachable("the gateway process that runs this task cannot be reached now"));
                }
                Sending::Failed | Sending::TooLong => {
                    return Err(unreachable("another gateway process runs this task, and Redis is down"));
                }
            }
        }
        Err(unreachable("the gateway process that runs this task does not answer"))
    }

    /// Cancels a task that another process runs.
    ///
    /// # Errors
    ///
    /// That process cannot be reached.
    pub async fn cancel_elsewhere(
        &self,
        key: &str,
        owner: TaskOwner,
        remote: RemoteTask,
    ) -> Result<(), Box<Rejection>> {
        let mut found = FoundTask::Elsewhere(remote);
        for look in 0..LOOKS {
            let remote = match found {
                FoundTask::Here(task) => {
                    task.cancel();
                    if task.is_moved() {
                        return Err(moved());
                    }
                    let _ = self.save(&key.to_owned(), &task).await;
                    return Ok(());
                }
                FoundTask::Elsewhere(remote) if remote.view.status.is_final() => return Ok(()),
                FoundTask::Elsewhere(remote) => remote,
            };
            let request = TaskRequest { task: key.into(), owner: owner.digest(), wish: Wish::Cancel };
            if let TaskReply::Cancelled = self.ask(remote.process, request).await? {
                return Ok(());
            }
            found = self.look_again(key, &owner, remote, look).await?;
        }
        Ok(())
    }

    /// Takes over a task that waits for answers in another process; `None` if it waits for none.
    ///
    /// # Errors
    ///
    /// That process cannot be reached, or there is no room.
    pub async fn take_over(
        self: &Arc<Self>,
        key: &str,
        owner: TaskOwner,
        server: Arc<Server>,
        remote: RemoteTask,
    ) -> Result<Option<Arc<KeptTask>>, Box<Rejection>> {
        let (tasks, key) = (self.clone(), key.to_owned());
        // A client that leaves must not leave the task between two processes.
        let taking = self.runtime.spawn(async move { tasks.take(key, owner, server, remote).await });
        taking.await.map_err(|_| Box::new(detached::no_answer()))?
    }

    async fn take(
        self: Arc<Self>,
        key: TaskKey,
        owner: TaskOwner,
        server: Arc<Server>,
        remote: RemoteTask,
    ) -> Result<Option<Arc<KeptTask>>, Box<Rejection>> {
        if !self.kept.has_room(&owner) {
            let why = "this gateway process has too many tasks to take over another one";
            return Err(Box::new(Rejection::http(503, Reason::TooManyParked, why)));
        }
        let mut found = FoundTask::Elsewhere(remote);
        for look in 0..LOOKS {
            let remote = match found {
                FoundTask::Here(task) => return Ok(Some(task)),
                FoundTask::Elsewhere(remote) if remote.view.status.is_final() => return Ok(None),
                FoundTask::Elsewhere(remote) => remote,
            };
            let request = TaskRequest { task: key.clone(), owner: owner.digest(), wish: Wish::TakeOver };
            match self.ask(remote.process, request).await? {
                TaskReply::Given(moved) => return Ok(Some(self.adopt(key, owner, server, &moved).await)),
                TaskReply::Stays(NotMoved::NothingAsked) | TaskReply::Cancelled => return Ok(None),
                TaskReply::Stays(NotMoved::TooLong) => {
                    let why = "the call of this task is too long for another gateway process";
                    return Err(Box::new(Rejection::http(503, Reason::ProcessUnreachable, why)));
                }
                TaskReply::Stays(NotMoved::Gone) => {
                    found = self.look_again(&key, &owner, remote, look).await?;
                }
            }
        }
        Ok(None)
    }

    async fn adopt(
        self: &Arc<Self>,
        key: TaskKey,
        owner: TaskOwner,
        server: Arc<Server>,
        moved: &MovedTask,
    ) -> Arc<KeptTask> {
        let saved = SavedTask { version: moved.version, change: None };
        let (task, resumed) = self.kept.adopt(key.clone(), owner, moved, saved);
        task.share();
        let running = task.clone();
        self.runtime.spawn(async move { detached::run(&server, &running, None, resumed).await });
        // Without Redis it is written later.
        let _ = self.save(&key, &task).await;
        self.keep_saved(key, &task);
        task
    }

    /// A task that its process does not have: it is on its way to another one, or lost.
    async fn look_again(
        &self,
        key: &str,
        owner: &TaskOwner,
        remote: RemoteTask,
        look: usize,
    ) -> Result<FoundTask, Box<Rejection>> {
        tokio::time::sleep(MOVING).await;
        match self.find(key, owner).await? {
            FoundTask::Elsewhere(now) if look + 1 == LOOKS && now.version == remote.version => {
                let lost = self.declare_lost(key, owner, now).await?;
                Ok(FoundTask::Elsewhere(lost.unwrap_or(remote)))
            }
            found => Ok(found),
        }
    }
}

/// A request that waits for its answer: removed when it ends.
struct AskedTask<'a>(&'a Peers, RelayId);

impl Drop for AskedTask<'_> {
    fn drop(&mut self) {
        self.0.waiting.remove(&self.1);
    }
}
