//! Tasks that other gateway processes run: they are read in Redis.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mcp::{Reason, Rejection};
use tokio::sync::watch;

use super::Tasks;
use super::handle::{self, TaskOwner};
use super::kept::KeptTask;
use super::saving::{TaskRecord, new_version};
use super::view::{StatusWord, TaskView, now};
use crate::store::process_messages::{ProcessId, ProcessMessages, Unreachable};
use crate::store::task_records::{self, RecordVersion};

/// How soon a client that cannot be served now may come again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often the version of a record is looked at for a client that follows the task; every second time also
/// whether its process still runs.
const FOLLOW: Duration = Duration::from_millis(500);
const LOOKS: u32 = 2;
/// What a client is told of a task whose process has ended.
const LOST: &[u8] =
    br#"{"code":-32603,"message":"the gateway process that ran this task has ended: make the call again"}"#;

/// A task, where it is.
pub enum FoundTask {
    Here(Arc<KeptTask>),
    Elsewhere(RemoteTask),
}

/// A task that another process runs or has run.
pub struct RemoteTask {
    pub process: ProcessId,
    pub version: RecordVersion,
    pub view: TaskView,
}

/// The rejection of what needs another process, for now.
pub(super) fn unreachable(why: &'static str) -> Box<Rejection> {
    Box::new(Rejection::http(503, Reason::ProcessUnreachable, why).retry_after(AGAIN))
}

/// The rejection of a request whose task has just gone to another process.
pub fn moved() -> Box<Rejection> {
    unreachable("the task has just moved to another gateway process: send this again")
}

fn without_redis(_: Unreachable) -> Box<Rejection> {
    unreachable("another gateway process may have this task, and Redis is down")
}

impl Tasks {
    /// A task of this caller that the gateway keeps.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be known now.
    pub async fn find(&self, key: &str, owner: &TaskOwner) -> Result<FoundTask, Box<Rejection>> {
        if let Some(task) = self.kept.get(key, owner) {
            return Ok(FoundTask::Here(task));
        }
        let remote = self.load(key, owner).await?;
        // It may have come here meanwhile.
        match self.kept.get(key, owner) {
            Some(task) => Ok(FoundTask::Here(task)),
            None => remote.map(FoundTask::Elsewhere).ok_or_else(handle::unknown),
        }
    }

    /// What Redis has of a task.
    pub(super) async fn load(
        &self,
        key: &str,
        owner: &TaskOwner,
    ) -> Result<Option<RemoteTask>, Box<Rejection>> {
        let Some(shared) = self.bridge.shared() else { return Ok(None) };
        loop {
            let Some((version, sealed)) = task_records::load(&shared, key).await.map_err(without_redis)?
            else {
                // Redis may have lost it, and its process writes it again.
                return match shared.is_settled() {
                    true => Ok(None),
                    false => {
                        Err(unreachable("another gateway process may have this task, and Redis is just back"))
                    }
                };
            };
            let Some(record) = TaskRecord::open(&self.keyring.load(), key, owner, &sealed) else {
                return Ok(None);
            };
            let remote = RemoteTask { process: record.process, version, view: record.view() };
            let is_lost =
                !remote.view.status.is_final() && self.is_gone(&shared, key, &remote.process).await?;
            if !is_lost {
                return Ok(Some(remote));
            }
            if let Some(lost) = self.declare_lost(key, owner, remote).await? {
                return Ok(Some(lost));
            }
        }
    }

    /// Whether the process of a task has ended, or does not know the task.
    async fn is_gone(
        &self,
        shared: &ProcessMessages,
        key: &str,
        process: &ProcessId,
    ) -> Result<bool, Box<Rejection>> {
        if *process == self.bridge.process() {
            return Ok(!self.peers.gives_away(key));
        }
        Ok(shared.is_settled() && !shared.is_running(process).await.map_err(without_redis)?)
    }

    /// Ends a task whose process is gone; `None` if its record has changed meanwhile.
    pub(super) async fn declare_lost(
        &self,
        key: &str,
        owner: &TaskOwner,
        remote: RemoteTask,
    ) -> Result<Option<RemoteTask>, Box<Rejection>> {
        let Some(shared) = self.bridge.shared() else { return Ok(None) };
        let view = TaskView {
            status: StatusWord::Failed,
            created: remote.view.created,
            updated: now(),
            content: Some(Bytes::from_static(LOST)),
        };
        let (me, version) = (self.bridge.process(), new_version());
        let record = TaskRecord::new(key, owner, (remote.process, me), &view).ok_or_else(handle::unknown)?;
        let keyring = self.keyring.load_full();
        let written = record.save(&shared, &keyring, Some(remote.version), version).await;
        let is_written = written.map_err(without_redis)?;
        if is_written {
            tracing::warn!("a task is lost: the gateway process that ran it has ended");
            self.metrics.task_lost();
        }
        Ok(is_written.then_some(RemoteTask { process: remote.process, version, view }))
    }

    /// The task under its outward id as it is now, and after each change; `None` if there is none.
    pub async fn follow(
        self: &Arc<Self>,
        key: &str,
        owner: TaskOwner,
        handle: &str,
    ) -> Option<watch::Receiver<Bytes>> {
        let (view, version) = match self.find(key, &owner).await.ok()? {
            FoundTask::Here(task) => (task.view(), None),
            FoundTask::Elsewhere(remote) => (remote.view, Some(remote.version)),
        };
        let (out, changes) = watch::channel(Bytes::from(view.text(handle, None)));
        let follower =
            Follower { tasks: self.clone(), key: key.into(), owner, handle: handle.into(), told: view, out };
        self.runtime.spawn(follower.run(version));
        Some(changes)
    }
}

struct Follower {
    tasks: Arc<Tasks>,
    key: String,
    owner: TaskOwner,
    handle: String,
    /// What the client knows.
    told: TaskView,
    out: watch::Sender<Bytes>,
}

impl Follower {
    /// To the end of the task, wherever it goes, or until nobody listens.
    async fn run(mut self, mut version: Option<RecordVersion>) {
        let mut looks = 0;
        while !self.told.status.is_final() {
            if let Some(task) = self.tasks.kept.get(&self.key, &self.owner) {
                let mut changes = task.changes();
                let _ = self.tasks.save(&self.key, &task).await;
                if task.is_moved() {
                    tokio::task::yield_now().await;
                    continue;
                }
                self.tell(task.view());
                if self.told.status.is_final() {
                    return;
                }
                tokio::select! {
                    changed = changes.changed() => drop(changed),
                    () = self.out.closed() => return,
                }
                continue;
            }
            let Some(shared) = self.tasks.bridge.shared() else { return };
            tokio::select! {
                () = tokio::time::sleep(FOLLOW) => {}
                () = self.out.closed() => return,
            }
            looks += 1;
            let is_same = task_records::version(&shared, &self.key).await.map(|now| now == version);
            match is_same {
                Ok(true) if looks % LOOKS != 0 => continue,
                Err(Unreachable) => continue,
                Ok(_) => {}
            }
            match self.tasks.load(&self.key, &self.owner).await {
                Ok(Some(remote)) => {
                    version = Some(remote.version);
                    self.tell(remote.view);
                }
                Ok(None) if self.tasks.kept.get(&self.key, &self.owner).is_none() => return,
                _ => {}
            }
        }
    }

    fn tell(&mut self, view: TaskView) {
        // A task that has only moved is no news.
        let is_same = self.told.status == view.status && self.told.content == view.content;
        if !is_same {
            self.out.send_replace(view.text(&self.handle, None).into());
            self.told = view;
        }
    }
}
