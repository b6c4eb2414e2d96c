//! The tasks of this process in Redis, for the other processes. Who runs a task writes its record, sealed and
//! bound to its place, and writes it again when Redis has lost it. A record whose process has ended is read as
//! that of a failed task ([`super::elsewhere`]).

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Tasks;
use super::handle::TaskOwner;
use super::kept::{KeptTask, TaskKey};
use super::view::{KEPT, StatusWord, TaskView};
use crate::store::parking::Digest;
use crate::store::process_messages::{ProcessId, ProcessMessages, Unreachable};
use crate::store::sealing::{Keyring, Purpose};
use crate::store::task_records::{self, NewRecord, RecordVersion};

/// How often the record of a task without changes is renewed, and how long it stays without that.
const RENEWAL: Duration = Duration::from_secs(600);
const RUNNING: Duration = Duration::from_secs(2 * 3600);
/// How soon a record that Redis has not taken is written again.
const AGAIN: Duration = Duration::from_secs(1);
/// Records that are written at a time.
pub(super) const WRITERS: usize = 8;

/// What Redis keeps of a task.
#[derive(Serialize, Deserialize)]
pub(super) struct TaskRecord {
    /// The place: a record that was put elsewhere is none.
    task: String,
    owner: Digest,
    /// Who runs it.
    pub process: ProcessId,
    /// Who has written the record.
    writer: ProcessId,
    status: StatusWord,
    /// Milliseconds since 1970.
    created: u64,
    updated: u64,
    content: Option<Box<RawValue>>,
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl TaskRecord {
    /// None for content that is no JSON.
    pub fn new(
        task: &str,
        owner: &TaskOwner,
        (process, writer): (ProcessId, ProcessId),
        view: &TaskView,
    ) -> Option<Self> {
        let raw = |text: &Bytes| RawValue::from_string(String::from_utf8(text.to_vec()).ok()?).ok();
        let content = match &view.content {
            Some(content) => Some(raw(content)?),
            None => None,
        };
        Some(Self {
            task: task.into(),
            owner: owner.digest(),
            process,
            writer,
            status: view.status,
            created: millis(view.created),
            updated: millis(view.updated),
            content,
        })
    }

    /// The record of this task of this caller; `None` for all else.
    pub fn open(keyring: &Keyring, task: &str, owner: &TaskOwner, sealed: &str) -> Option<Self> {
        let text = keyring.open(Purpose::TaskRecord, sealed)?;
        let record: Self = serde_json::from_slice(&text).ok()?;
        (record.task == task && record.owner == owner.digest()).then_some(record)
    }

    pub fn view(&self) -> TaskView {
        let time = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        TaskView {
            status: self.status,
            created: time(self.created),
            updated: time(self.updated),
            content: self.content.as_ref().map(|content| Bytes::copy_from_slice(content.get().as_bytes())),
        }
    }

    /// Writes it over the expected version; false if another one is there.
    ///
    /// # Errors
    ///
    /// Redis does not answer.
    pub async fn save(
        &self,
        shared: &ProcessMessages,
        keyring: &Keyring,
        expected: Option<RecordVersion>,
        version: RecordVersion,
    ) -> Result<bool, Unreachable> {
        let sealed = keyring.seal(Purpose::TaskRecord, &serde_json::to_vec(self).unwrap_or_default());
        let time = if self.status.is_final() { KEPT } else { RUNNING };
        let record = NewRecord { expected, version, text: &sealed, time };
        task_records::save(shared, &self.task, record).await
    }
}

pub(super) fn new_version() -> RecordVersion {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    RecordVersion::from_be_bytes(random)
}

impl Tasks {
    /// Writes a new task to Redis, and each change of it from now on. Where nothing is shared, nothing.
    ///
    /// # Errors
    ///
    /// Redis does not answer: other processes would not know the task.
    pub async fn share(self: &Arc<Self>, key: &TaskKey, task: &Arc<KeptTask>) -> Result<(), Unreachable> {
        if self.bridge.shared().is_none() {
            return Ok(());
        }
        task.share();
        self.save(key, task).await?;
        self.keep_saved(key.clone(), task);
        Ok(())
    }

    pub(super) fn keep_saved(self: &Arc<Self>, key: TaskKey, task: &Arc<KeptTask>) {
        let (changes, connected) = (task.changes(), self.bridge.connected());
        let (tasks, task) = (Arc::downgrade(self), Arc::downgrade(task));
        self.runtime.spawn(keep_saved(tasks, key, task, changes, connected));
    }

    /// Writes what the task is now, unless Redis has that.
    ///
    /// # Errors
    ///
    /// Redis does not answer.
    pub async fn save(&self, key: &TaskKey, task: &KeptTask) -> Result<(), Unreachable> {
        let Some(shared) = self.bridge.shared() else { return Ok(()) };
        let mut saved = task.saved.lock().await;
        loop {
            let Some((view, change)) = task.change() else { return Ok(()) };
            if saved.change == Some(change) {
                return Ok(());
            }
            let _turn = self.writers.acquire().await;
            let (me, version) = (self.bridge.process(), new_version());
            let Some(record) = TaskRecord::new(key, &task.owner(), (me, me), &view) else {
                task.fail(br#"{"code":-32603,"message":"the server's result cannot be kept"}"#);
                if task.change().is_some_and(|(_, now)| now == change) {
                    return Ok(());
                }
                continue;
            };
            let keyring = self.keyring.load_full();
            if record.save(&shared, &keyring, saved.version, version).await? {
                (saved.version, saved.change) = (Some(version), Some(change));
                return Ok(());
            }
            // Either an earlier answer of Redis was lost, or another process has ended the task.
            match task_records::load(&shared, key).await? {
                None => saved.version = None,
                Some((there, sealed)) => {
                    let own = TaskRecord::open(&keyring, key, &task.owner(), &sealed)
                        .is_some_and(|record| record.writer == me);
                    if !own {
                        tracing::warn!("a task of this process was taken for lost by another one");
                        task.lose();
                        self.kept.remove(key);
                        return Ok(());
                    }
                    saved.version = Some(there);
                }
            }
        }
    }

    /// Keeps a record that is there, and notes one that is not.
    async fn renew(&self, key: &TaskKey, task: &KeptTask) -> Result<(), Unreachable> {
        let Some(shared) = self.bridge.shared() else { return Ok(()) };
        let mut saved = task.saved.lock().await;
        if saved.version.is_some() && task_records::version(&shared, key).await? == saved.version {
            // A result has its hour.
            if task.view().status.is_final() {
                return Ok(());
            }
            return task_records::renew(&shared, key, RUNNING).await;
        }
        saved.change = None;
        Ok(())
    }
}

async fn keep_saved(
    tasks: Weak<Tasks>,
    key: TaskKey,
    task: Weak<KeptTask>,
    mut changes: tokio::sync::watch::Receiver<()>,
    mut connected: tokio::sync::watch::Receiver<()>,
) {
    let mut renews = false;
    loop {
        let is_saved = {
            let (Some(tasks), Some(task)) = (tasks.upgrade(), task.upgrade()) else { return };
            if task.is_moved() {
                return;
            }
            let renewed = if renews { tasks.renew(&key, &task).await } else { Ok(()) };
            renewed.is_ok() && tasks.save(&key, &task).await.is_ok()
        };
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                renews &= !is_saved;
            }
            connected = connected.changed() => {
                if connected.is_err() {
                    return;
                }
                renews = true;
            }
            () = tokio::time::sleep(if is_saved { RENEWAL } else { AGAIN }) => renews |= is_saved,
        }
    }
}

#[cfg(test)]
mod tests {
    use filters::Caller;
    use filters::request::Identity;

    use super::super::view::now;
    use super::*;

    fn owner(user: &str, endpoint: &str) -> TaskOwner {
        let caller = Caller::new(Identity { user: user.into(), ..Identity::default() });
        TaskOwner::new(&caller, None, endpoint)
    }

    #[test]
    fn a_record_opens_at_its_place_for_its_caller_at_its_endpoint_only() {
        let (keyring, ann, me) = (Keyring::random(), owner("ann", "/mcp"), [7; 16]);
        for (status, content) in [
            (StatusWord::Working, None),
            (StatusWord::Completed, Some(Bytes::from_static(br#"{"a": "\ud800", "b": 1.50}"#))),
        ] {
            let view = TaskView { status, created: now(), updated: now(), content };
            let record = TaskRecord::new("k1", &ann, (me, me), &view).expect("JSON");
            let sealed = keyring.seal(Purpose::TaskRecord, &serde_json::to_vec(&record).expect("JSON"));
            let opened = TaskRecord::open(&keyring, "k1", &ann, &sealed).expect("its own");
            assert_eq!((opened.view(), opened.process), (view, me), "nothing changes on the way");
            for (key, owner) in
                [("k2", ann), ("k1", owner("bob", "/mcp")), ("k1", owner("ann", "/servers/s/mcp"))]
            {
                assert!(TaskRecord::open(&keyring, key, &owner, &sealed).is_none());
            }
            assert!(TaskRecord::open(&Keyring::random(), "k1", &ann, &sealed).is_none());
        }
        let broken = TaskView {
            status: StatusWord::Completed,
            created: now(),
            updated: now(),
            content: Some(Bytes::from_static(b"{")),
        };
        assert!(TaskRecord::new("k1", &ann, (me, me), &broken).is_none());
    }
}
