use std::time::Duration;

use filters::Caller;
use filters::request::Identity;

use super::*;

fn owner(user: &str) -> TaskOwner {
    let caller = Caller::new(Identity { user: user.into(), ..Identity::default() });
    TaskOwner::new(&caller, None, "/mcp")
}

const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{}}}"#;

fn begin() -> (KeptTasks, TaskKey, Arc<KeptTask>) {
    let tasks = KeptTasks::default();
    let (key, task, _) = tasks.begin(owner("ann"), Bytes::from_static(CALL)).expect("room");
    (tasks, key, task)
}

fn text(task: &KeptTask) -> serde_json::Value {
    serde_json::from_slice(&task.view().text("handle", Some("complete"))).expect("JSON")
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
    assert!(task.answer(br#"{"a":{"action":"accept"},"1-b":5,"z":{}}"#).is_none(), "none of them is open");
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

const ASKED: &[u8] = br#"{"resultType":"input_required","inputRequests":{"a":{"method":"x"}}}"#;

#[test]
fn a_task_that_waits_for_answers_goes_on_elsewhere() {
    let (here, key, task) = begin();
    assert_eq!(task.hand_over().err(), Some(NotMoved::NothingAsked));
    assert!(task.ask(ASKED));
    let moved = task.hand_over().expect("it waits");
    assert_eq!(task.hand_over().err(), Some(NotMoved::Gone));
    assert!(task.is_moved() && task.change().is_none() && task.cancelled.is_cancelled());
    // What still comes here changes nothing.
    task.complete(b"{}");
    assert!(task.answer(br#"{"1-a":{}}"#).is_none());
    here.remove(&key);

    let there = KeptTasks::default();
    let text = serde_json::to_string(&moved).expect("JSON");
    let moved: MovedTask = serde_json::from_str(&text).expect("a task");
    let (taken, _) = there.adopt(key.clone(), owner("ann"), &moved, SavedTask::default());
    assert!(there.get(&key, &owner("ann")).is_some() && there.get(&key, &owner("bob")).is_none());
    assert_eq!(taken.view().content, task.view().content);
    assert_eq!(taken.view().created, task.view().created);
    let answered = taken.answer(br#"{"1-a":{"action":"accept"}}"#).expect("complete");
    assert!(answered.call.ends_with(br#""inputResponses":{"a":{"action":"accept"}}}}"#), "{answered:?}");
    assert!(taken.ask(ASKED));
    assert!(taken.view().content.is_some_and(|open| open.starts_with(b"{\"2-a\"")), "no key is used twice");
}

#[test]
fn a_long_call_stays_where_it_is() {
    let tasks = KeptTasks::default();
    let (_, task, _) = tasks.begin(owner("ann"), vec![b' '; MAX_MOVED].into()).expect("room");
    assert!(task.ask(ASKED));
    assert_eq!(task.hand_over().err(), Some(NotMoved::TooLong));
    assert!(!task.is_moved());
}

#[test]
fn a_result_that_is_too_long_for_redis_is_a_failure_only_where_it_goes_there() {
    let long = [b"\"", &vec![b'a'; MAX_RESULT][..], b"\""].concat();
    for shared in [false, true] {
        let (_tasks, _, task) = begin();
        if shared {
            task.share();
        }
        task.complete(&long);
        assert_eq!(text(&task)["status"], if shared { "failed" } else { "completed" });
    }
}

#[test]
fn one_caller_has_a_tenth_of_the_places() {
    let tasks = KeptTasks::default();
    for _ in 0..MAX_TASKS / 10 {
        tasks.begin(owner("ann"), Bytes::new()).expect("room");
    }
    assert!(tasks.begin(owner("ann"), Bytes::new()).is_none() && !tasks.has_room(&owner("ann")));
    assert!(tasks.begin(owner("bob"), Bytes::new()).is_some() && tasks.has_room(&owner("bob")));
}

#[test]
fn a_question_that_nobody_answers_ends_its_task() {
    let (tasks, _, task) = begin();
    assert!(task.ask(ASKED));
    tasks.sweep();
    assert_eq!(text(&task)["status"], "input_required");
    let Some(before) = Instant::now().checked_sub(KEPT + Duration::from_secs(1)) else {
        // The machine has not run for an hour.
        return;
    };
    task.lock().updated.1 = before;
    tasks.sweep();
    assert_eq!((&text(&task)["status"], &text(&task)["error"]["code"]), (&"failed".into(), &(-32603).into()));
    assert!(task.cancelled.is_cancelled());
}
