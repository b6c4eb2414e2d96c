//! Tasks that the gateway keeps: calls that go on without their clients, and their results. In memory, for an
//! hour after their last change; they end with the process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use dashmap::DashMap;
use mcp::json::object::Object;
use mcp::json::quote::quote;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::handle::TaskOwner;
use crate::streams::MessageStream;

/// How long a task is kept after its last change; a running one has this time anew.
const KEPT: Duration = Duration::from_secs(3600);
/// How often a client may ask.
const POLL: Duration = Duration::from_secs(1);
/// Tasks at a time, a tenth of them of one owner, and the bytes of all results.
const MAX_TASKS: usize = 10_000;
const MAX_BYTES: usize = 256 * 1024 * 1024;

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
    began: Instant,
    /// The call: its whole message, to repeat it with answers.
    call: Bytes,
    state: Mutex<TaskState>,
    bytes: Arc<AtomicUsize>,
    changed: watch::Sender<()>,
    /// Cancelled with the task.
    pub cancelled: CancellationToken,
    /// The messages of a call that goes on with answers.
    resumed: mpsc::Sender<MessageStream>,
}

struct TaskState {
    status: TaskStatus,
    updated: (SystemTime, Instant),
    /// How often the server has asked: no key is used twice.
    rounds: usize,
}

#[derive(Clone)]
enum TaskStatus {
    Working,
    Asked(Asking),
    Completed(Bytes),
    Failed(Bytes),
    Cancelled,
}

/// What the server asks.
#[derive(Clone)]
struct Asking {
    /// Outward key, the server's key, and the request.
    open: Vec<(String, String, Bytes)>,
    /// The server's key, and the answer.
    answers: Vec<(String, Bytes)>,
    /// `requestState`, as written.
    state: Option<Bytes>,
}

/// Answers that are complete: the call that carries them, and how to take them back.
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
        let is_full = self.all.len() >= MAX_TASKS
            || self.all.len() >= MAX_TASKS / 10
                && self.all.iter().filter(|task| task.owner == owner).count() >= MAX_TASKS / 10;
        if is_full {
            return None;
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).expect("the system gives random bytes");
        let key: TaskKey = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let (resumed, messages) = mpsc::channel(1);
        let (created, began) = (SystemTime::now(), Instant::now());
        let task = Arc::new(KeptTask {
            owner,
            created,
            began,
            call,
            state: Mutex::new(TaskState {
                status: TaskStatus::Working,
                updated: (created, began),
                rounds: 0,
            }),
            bytes: self.bytes.clone(),
            changed: watch::channel(()).0,
            cancelled: CancellationToken::new(),
            resumed,
        });
        self.all.insert(key.clone(), task.clone());
        Some((key, task, messages))
    }

    pub fn get(&self, key: &str, owner: &TaskOwner) -> Option<Arc<KeptTask>> {
        let task = self.all.get(key)?.clone();
        (task.owner == *owner && !task.is_past()).then_some(task)
    }

    /// Removes what is past its time.
    pub fn sweep(&self) {
        self.all.retain(|_, task| !task.is_past());
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

    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Changes the status; the final one stays.
    fn set(&self, state: &mut TaskState, status: TaskStatus) -> bool {
        if state.status.is_final() {
            return false;
        }
        let length = status.length();
        let status = match self.bytes.fetch_add(length, Ordering::Relaxed) + length > MAX_BYTES && length > 0
        {
            false => status,
            true => {
                self.bytes.fetch_sub(length, Ordering::Relaxed);
                let failed = Bytes::from_static(
                    br#"{"code":-32603,"message":"the gateway keeps too many results: call again later"}"#,
                );
                self.bytes.fetch_add(failed.len(), Ordering::Relaxed);
                TaskStatus::Failed(failed)
            }
        };
        self.bytes.fetch_sub(state.status.length(), Ordering::Relaxed);
        state.status = status;
        state.updated = (SystemTime::now(), Instant::now());
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
        true
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
        let call = repeated(&self.call, &after)?;
        self.set(&mut state, TaskStatus::Working);
        Some(Answered { call, before })
    }

    /// The answers did not get to the server: they may come again.
    pub fn take_back(&self, answered: Answered) {
        self.set(&mut self.lock(), TaskStatus::Asked(answered.before));
    }

    /// The messages of the call with answers, for who waits for them.
    pub fn resume(&self, messages: MessageStream) {
        let _ = self.resumed.try_send(messages);
    }

    /// The task, for the client that knows it by this id; `kind`: the `resultType`, if it is a result.
    pub fn text(&self, handle: &str, kind: Option<&str>) -> Vec<u8> {
        let state = self.lock();
        let status = &state.status;
        let at = |time| DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true);
        let last = if status.is_final() { state.updated.1 } else { Instant::now() };
        let ttl = (last - self.began + KEPT).as_millis();
        let kind = kind.map(|kind| format!(r#""resultType":"{kind}","#)).unwrap_or_default();
        let mut text = format!(
            r#"{{{kind}"taskId":{},"status":"{}","createdAt":"{}","lastUpdatedAt":"{}","ttlMs":{ttl},"pollIntervalMs":{}"#,
            quote(handle),
            status.word(),
            at(self.created),
            at(state.updated.0),
            POLL.as_millis()
        )
        .into_bytes();
        match status {
            TaskStatus::Working | TaskStatus::Cancelled => {}
            TaskStatus::Completed(result) => text.extend([&br#","result":"#[..], result].concat()),
            TaskStatus::Failed(error) => text.extend([&br#","error":"#[..], error].concat()),
            TaskStatus::Asked(asking) => {
                text.extend_from_slice(br#","inputRequests":{"#);
                for (number, (key, _, request)) in asking.open.iter().enumerate() {
                    let comma = if number > 0 { "," } else { "" };
                    text.extend_from_slice(format!("{comma}{}:", quote(key)).as_bytes());
                    text.extend_from_slice(request);
                }
                text.push(b'}');
            }
        }
        text.push(b'}');
        text
    }
}

impl TaskStatus {
    fn is_final(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Failed(_) | Self::Cancelled)
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Asked(_) => "input_required",
            Self::Completed(_) => "completed",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Bytes that it keeps.
    fn length(&self) -> usize {
        match self {
            Self::Completed(text) | Self::Failed(text) => text.len(),
            Self::Asked(asking) => asking.open.iter().map(|(.., request)| request.len()).sum(),
            Self::Working | Self::Cancelled => 0,
        }
    }
}

/// The call with answers. It does not declare tasks any more: it is one already.
fn repeated(call: &[u8], asking: &Asking) -> Option<Bytes> {
    let message = Object::read(call)?;
    let mut params = Object::read(message.get("params")?)?;
    params.remove(|name| name == "requestState");
    let answers: Vec<(&str, &[u8])> =
        asking.answers.iter().map(|(key, answer)| (key.as_str(), &answer[..])).collect();
    let answers = Object::read(b"{}")?.with(&answers);
    let mut added: Vec<(&str, &[u8])> = vec![("inputResponses", &answers)];
    added.extend(asking.state.iter().map(|state| ("requestState", &state[..])));
    Some(message.with(&[("params", &params.with(&added))]).into())
}

#[cfg(test)]
mod tests {
    use filters::Caller;
    use filters::request::Identity;

    use super::*;

    fn owner(user: &str) -> TaskOwner {
        let caller = Caller::new(Identity { user: user.into(), ..Identity::default() });
        TaskOwner::new(&caller, None, "/mcp")
    }

    const CALL: &[u8] =
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{}}}"#;

    fn begin() -> (KeptTasks, TaskKey, Arc<KeptTask>) {
        let tasks = KeptTasks::default();
        let (key, task, _) = tasks.begin(owner("ann"), Bytes::from_static(CALL)).expect("room");
        (tasks, key, task)
    }

    fn text(task: &KeptTask) -> serde_json::Value {
        serde_json::from_slice(&task.text("handle", Some("complete"))).expect("JSON")
    }

    #[test]
    fn a_late_cancellation_does_not_change_the_result() {
        let (tasks, key, task) = begin();
        assert_eq!(text(&task)["status"], "working");
        assert!(tasks.get(&key, &owner("bob")).is_none(), "of another");
        task.complete(br#"{"content":[]}"#);
        task.cancel();
        task.fail(b"{}");
        let kept = tasks.get(&key, &owner("ann")).expect("it is kept");
        assert_eq!(
            (&text(&kept)["status"], &text(&kept)["result"]),
            (&"completed".into(), &serde_json::json!({"content": []}))
        );
        assert!(!task.cancelled.is_cancelled());
        assert_eq!(tasks.bytes.load(Ordering::Relaxed), 14);
        drop((tasks, kept));
        let bytes = task.bytes.clone();
        drop(task);
        assert_eq!(bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_cancelled_task_stays_cancelled() {
        let (_, _, task) = begin();
        task.cancel();
        task.complete(b"{}");
        assert_eq!(text(&task)["status"], "cancelled");
        assert!(task.cancelled.is_cancelled() && text(&task).get("result").is_none());
    }

    #[test]
    fn questions_have_keys_of_their_own_and_the_last_answer_repeats_the_call() {
        let (_, _, task) = begin();
        let asked = br#"{"resultType":"input_required","inputRequests":{"a":{"method":"x"},"b":{"method":"y"}},"requestState":"s\u0031"}"#;
        assert!(task.ask(asked));
        assert_eq!(
            text(&task)["inputRequests"],
            serde_json::json!({"1-a": {"method": "x"}, "1-b": {"method": "y"}})
        );
        assert!(
            task.answer(br#"{"a":{"action":"accept"},"1-b":5,"z":{}}"#).is_none(),
            "none of them is open"
        );
        assert!(task.answer(br#"{"1-a":{"action":"accept"}}"#).is_none(), "one is still open");
        assert_eq!(text(&task)["inputRequests"], serde_json::json!({"1-b": {"method": "y"}}));
        assert!(task.answer(br#"{"1-a":{"action":"cancel"}}"#).is_none(), "it has been answered");
        let answered = task.answer(br#"{"1-b":{"action":"decline"}}"#).expect("complete");
        assert_eq!(text(&task)["status"], "working");
        assert_eq!(
            answered.call,
            &br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{},"inputResponses":{"a":{"action":"accept"},"b":{"action":"decline"}},"requestState":"s\u0031"}}"#[..]
        );
        task.take_back(answered);
        assert_eq!(text(&task)["inputRequests"], serde_json::json!({"1-b": {"method": "y"}}));
        task.answer(br#"{"1-b":{"action":"decline"}}"#).expect("complete again");
        assert!(task.ask(asked));
        assert!(text(&task)["inputRequests"].get("2-a").is_some(), "no key is used twice");
        assert!(!task.ask(br#"{"inputRequests":{}}"#) && !task.ask(b"[]"));
    }
}
