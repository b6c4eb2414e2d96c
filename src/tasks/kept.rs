//! Tasks that the gateway keeps: calls that go on without their clients, and their results. In the memory of the
//! process that runs them, for an hour after their last change; [`super::saving`] writes them to Redis.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use dashmap::DashMap;
use mcp::json::object::Object;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::handle::TaskOwner;
use super::state::{Asking, MovedTask, NotMoved, TaskStatus};
use super::view::{KEPT, TaskView, now};
use crate::store::task_records::RecordVersion;
use crate::streams::MessageStream;

/// Tasks at a time, a tenth of them of one owner, and the bytes of all results.
const MAX_TASKS: usize = 10_000;
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// The longest call with its questions that another process takes over.
const MAX_MOVED: usize = 5 * 1024 * 1024;
/// The longest result that goes to Redis. Sealed it is a third longer.
const MAX_RESULT: usize = 16 * 1024 * 1024;

const TOO_LONG: &[u8] =
    br#"{"code":-32603,"message":"the result is longer than the 16 MiB that the gateway keeps"}"#;
const TOO_MANY: &[u8] =
    br#"{"code":-32603,"message":"the gateway keeps too many results: call again later"}"#;

/// The id of a task: 128 random bits, as text.
pub type TaskKey = String;

#[derive(Default)]
pub struct KeptTasks {
    all: DashMap<TaskKey, Arc<KeptTask>, ahash::RandomState>,
    bytes: Arc<AtomicUsize>,
}

pub struct KeptTask {
    owner: TaskOwner,
    created: SystemTime,
    /// The call: its whole message, to repeat it with answers.
    call: Bytes,
    state: Mutex<TaskState>,
    bytes: Arc<AtomicUsize>,
    changed: watch::Sender<()>,
    /// Cancelled when this process has nothing more to do with the call.
    pub cancelled: CancellationToken,
    /// The messages of a call that goes on with answers.
    resumed: mpsc::Sender<MessageStream>,
    /// What Redis has of it; locked while it is written.
    pub saved: AsyncMutex<SavedTask>,
    /// The longest result.
    longest: AtomicUsize,
}

/// What Redis has of a task: a version, with the task as it was after this change.
#[derive(Default)]
pub struct SavedTask {
    pub version: Option<RecordVersion>,
    pub change: Option<u64>,
}

struct TaskState {
    status: TaskStatus,
    updated: (SystemTime, Instant),
    /// How often the server has asked: no key is used twice.
    rounds: usize,
    /// How often it has changed.
    changes: u64,
    is_moved: bool,
}

/// Answers that are complete: the call that carries them, and how to take them back.
#[derive(Debug)]
pub struct Answered {
    pub call: Bytes,
    before: Asking,
}

impl KeptTasks {
    /// A new task; `None` if there are too many. The call goes on when the receiver gets its messages.
    pub fn begin(
        &self,
        owner: TaskOwner,
        call: Bytes,
    ) -> Option<(TaskKey, Arc<KeptTask>, mpsc::Receiver<MessageStream>)> {
        if self.all.len() >= MAX_TASKS {
            self.sweep();
        }
        if !self.has_room(&owner) {
            return None;
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).expect("the system gives random bytes");
        let key: TaskKey = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let state = (TaskState::new(TaskStatus::Working, 0), SavedTask::default());
        let (task, messages) = self.insert(key.clone(), owner, call, now(), state);
        Some((key, task, messages))
    }

    /// Whether this caller may have one more.
    pub fn has_room(&self, owner: &TaskOwner) -> bool {
        let count = self.all.len();
        count < MAX_TASKS / 10
            || count < MAX_TASKS
                && self.all.iter().filter(|task| task.owner == *owner).count() < MAX_TASKS / 10
    }

    fn insert(
        &self,
        key: TaskKey,
        owner: TaskOwner,
        call: Bytes,
        created: SystemTime,
        (state, saved): (TaskState, SavedTask),
    ) -> (Arc<KeptTask>, mpsc::Receiver<MessageStream>) {
        let (resumed, messages) = mpsc::channel(1);
        self.bytes.fetch_add(state.status.length(), Ordering::Relaxed);
        let task = Arc::new(KeptTask {
            owner,
            created,
            call,
            state: Mutex::new(state),
            bytes: self.bytes.clone(),
            changed: watch::channel(()).0,
            cancelled: CancellationToken::new(),
            resumed,
            saved: AsyncMutex::new(saved),
            longest: AtomicUsize::new(MAX_BYTES),
        });
        self.all.insert(key, task.clone());
        (task, messages)
    }

    /// A task of another process, which waits for answers.
    pub fn adopt(
        &self,
        key: TaskKey,
        owner: TaskOwner,
        moved: &MovedTask,
        saved: SavedTask,
    ) -> (Arc<KeptTask>, mpsc::Receiver<MessageStream>) {
        let call = Bytes::copy_from_slice(moved.call.as_bytes());
        let state = TaskState::new(TaskStatus::Asked(moved.asking()), moved.rounds);
        self.insert(key, owner, call, moved.created, (state, saved))
    }

    pub fn count(&self) -> usize {
        self.all.len()
    }

    pub fn remove(&self, key: &str) {
        self.all.remove(key);
    }

    pub fn get(&self, key: &str, owner: &TaskOwner) -> Option<Arc<KeptTask>> {
        let task = self.all.get(key)?.clone();
        (task.owner == *owner && !task.is_past()).then_some(task)
    }

    /// Removes what is past its time, and ends what waits for an answer for too long.
    pub fn sweep(&self) {
        let mut forgotten = Vec::new();
        self.all.retain(|_, task| {
            if task.is_forgotten() {
                forgotten.push(task.clone());
            }
            !task.is_past()
        });
        for task in forgotten {
            task.fail(
                br#"{"code":-32603,"message":"nobody has answered the questions of the task in time"}"#,
            );
            task.cancelled.cancel();
        }
    }
}

impl TaskState {
    fn new(status: TaskStatus, rounds: usize) -> Self {
        let updated = (now(), Instant::now());
        Self { status, updated, rounds, changes: 0, is_moved: false }
    }

    fn view(&self, created: SystemTime) -> TaskView {
        let (status, content) = self.status.content();
        TaskView { status, created, updated: self.updated.0, content }
    }
}

impl Drop for KeptTask {
    fn drop(&mut self) {
        let length = self.lock().status.length();
        self.bytes.fetch_sub(length, Ordering::Relaxed);
    }
}

impl KeptTask {
    fn lock(&self) -> MutexGuard<'_, TaskState> {
        self.state.lock().expect("no holder of the lock panics")
    }

    fn is_past(&self) -> bool {
        let state = self.lock();
        state.status.is_final() && state.updated.1.elapsed() > KEPT
    }

    fn is_forgotten(&self) -> bool {
        let state = self.lock();
        matches!(state.status, TaskStatus::Asked(_)) && state.updated.1.elapsed() > KEPT
    }

    pub fn owner(&self) -> TaskOwner {
        self.owner
    }

    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Changes the status; the final one stays.
    fn set(&self, state: &mut TaskState, status: TaskStatus) -> bool {
        if state.status.is_final() || state.is_moved {
            return false;
        }
        let mut status = status;
        let mut length = status.length();
        let held = self.bytes.fetch_add(length, Ordering::Relaxed) + length;
        let refused = match length {
            0 => None,
            _ if length > self.longest.load(Ordering::Relaxed) => Some(TOO_LONG),
            _ if held > MAX_BYTES => Some(TOO_MANY),
            _ => None,
        };
        if let Some(why) = refused {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            length = why.len();
            self.bytes.fetch_add(length, Ordering::Relaxed);
            status = TaskStatus::Failed(Bytes::from_static(why));
        }
        self.bytes.fetch_sub(state.status.length(), Ordering::Relaxed);
        state.status = status;
        state.updated = (now(), Instant::now());
        state.changes += 1;
        self.changed.send_replace(());
        true
    }

    /// The result of the call, as JSON text.
    pub fn complete(&self, result: &[u8]) {
        // A copy: a slice would keep the whole response.
        self.set(&mut self.lock(), TaskStatus::Completed(Bytes::copy_from_slice(result)));
    }

    /// The JSON-RPC error of the call.
    pub fn fail(&self, error: &[u8]) {
        self.set(&mut self.lock(), TaskStatus::Failed(Bytes::copy_from_slice(error)));
    }

    /// Cancels the call, if it has not ended.
    pub fn cancel(&self) {
        if self.set(&mut self.lock(), TaskStatus::Cancelled) {
            self.cancelled.cancel();
        }
    }

    /// The server asks for input: a result of the type `input_required`. False if that cannot be read.
    pub fn ask(&self, result: &[u8]) -> bool {
        let Some(object) = Object::read(result) else { return false };
        let Some(requests) = object.get("inputRequests").and_then(Object::read) else { return false };
        if requests.is_empty() {
            return false;
        }
        let mut state = self.lock();
        state.rounds += 1;
        let rounds = state.rounds;
        let open = requests.iter().map(|(key, request)| {
            (format!("{rounds}-{key}"), key.into_owned(), Bytes::copy_from_slice(request))
        });
        let asking = Asking {
            open: open.collect(),
            answers: Vec::new(),
            state: object.get("requestState").map(Bytes::copy_from_slice),
        };
        self.set(&mut state, TaskStatus::Asked(asking));
        matches!(state.status, TaskStatus::Asked(_))
    }

    /// Takes answers to open questions; others are ignored. Once none is open, the call that carries them: its
    /// id stays.
    pub fn answer(&self, responses: &[u8]) -> Option<Answered> {
        let responses = Object::read(responses)?;
        let mut state = self.lock();
        let TaskStatus::Asked(asking) = &state.status else { return None };
        let (before, mut after) = (asking.clone(), asking.clone());
        after.open.retain(|(outward, key, _)| match responses.get(outward) {
            Some(answer) if answer.first() == Some(&b'{') => {
                after.answers.push((key.clone(), Bytes::copy_from_slice(answer)));
                false
            }
            _ => true,
        });
        if after.open.len() == before.open.len() {
            return None;
        }
        if !after.open.is_empty() {
            self.set(&mut state, TaskStatus::Asked(after));
            return None;
        }
        let call = after.repeated(&self.call)?;
        self.set(&mut state, TaskStatus::Working).then_some(Answered { call, before })
    }

    /// The answers did not get to the server: they may come again.
    pub fn take_back(&self, answered: Answered) {
        self.set(&mut self.lock(), TaskStatus::Asked(answered.before));
    }

    /// The messages of the call with answers, for who waits for them.
    pub fn resume(&self, messages: MessageStream) {
        let _ = self.resumed.try_send(messages);
    }

    /// The task as it is now.
    pub fn view(&self) -> TaskView {
        self.lock().view(self.created)
    }

    /// The task as it is now, and the number of its change; `None` once another process has it.
    pub fn change(&self) -> Option<(TaskView, u64)> {
        let state = self.lock();
        (!state.is_moved).then(|| (state.view(self.created), state.changes))
    }

    /// Whether another process has it now.
    pub fn is_moved(&self) -> bool {
        self.lock().is_moved
    }

    /// It goes to Redis, where no result may be too long.
    pub fn share(&self) {
        self.longest.store(MAX_RESULT, Ordering::Relaxed);
    }

    /// Gives the task to another process, if it waits for answers.
    ///
    /// # Errors
    ///
    /// It stays.
    pub fn hand_over(&self) -> Result<MovedTask, NotMoved> {
        let mut state = self.lock();
        let TaskStatus::Asked(asking) = &state.status else { return Err(NotMoved::NothingAsked) };
        if state.is_moved {
            return Err(NotMoved::Gone);
        }
        if self.call.len() + state.status.length() > MAX_MOVED {
            return Err(NotMoved::TooLong);
        }
        let moved = MovedTask::new(&self.call, self.created, state.rounds, asking);
        state.is_moved = true;
        self.changed.send_replace(());
        self.cancelled.cancel();
        Ok(moved)
    }

    /// Another process has decided how it ended.
    pub fn lose(&self) {
        self.lock().is_moved = true;
        self.changed.send_replace(());
        self.cancelled.cancel();
    }
}

#[cfg(test)]
mod tests;
