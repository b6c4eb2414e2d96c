//! Which members of a client's messages are protocol handles, by their path in the schemas. All else was
//! written by a person or a model, and is searched if a server must get no secrets.
//!
//! What is not named here is text. So is what no schema defines, a value outside an enumeration, and a string
//! with free content though programs read it: names of programs and models, media types.

use filters::guard::MemberPath::{self, Form, Handle, Map, Number, Object, Text, Word};

use mcp::jsonrpc::message::SUBSCRIPTION_ID;
use mcp::jsonrpc::request::{META_CAPABILITIES, META_CLIENT, META_LOG_LEVEL, META_VERSION};
use mcp::method::Method;

/// A message whose params or result have these members.
macro_rules! message {
    ($($part:literal: $place:expr),*) => {
        Object(&[("jsonrpc", Handle), ("id", Handle), ("method", Handle), $(($part, $place)),*])
    };
}

/// RFC 5424, as MCP has it.
const LEVELS: MemberPath =
    Word(&["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]);
const ACTION: MemberPath = Word(&["accept", "decline", "cancel"]);
const ROLE: MemberPath = Word(&["user", "assistant"]);
const STATUS: MemberPath = Word(&["working", "input_required", "completed", "failed", "cancelled"]);

const META: MemberPath = Object(&[
    ("progressToken", Handle),
    (META_VERSION, Form(is_revision)),
    (META_CLIENT, Text),
    (META_CAPABILITIES, Text),
    (META_LOG_LEVEL, LEVELS),
    (SUBSCRIPTION_ID, Handle),
    ("io.modelcontextprotocol/related-task", Object(&[("taskId", Handle)])),
    // W3C Trace Context; the other two have free content.
    ("traceparent", Form(is_traceparent)),
    ("tracestate", Text),
    ("baggage", Text),
]);

const ROOTS: MemberPath = Object(&[("uri", Handle), ("name", Text), ("_meta", META)]);

/// A user's or model's answer to a server, of any kind (2026-07-28, MRTR): its keys are the server's own.
const ANSWERS: MemberPath =
    Map(&Object(&[("action", ACTION), ("role", ROLE), ("content", Text), ("roots", ROOTS), ("_meta", META)]));

/// `name`, `uri` and all other members of a request to a server.
const NAMED: MemberPath = message!("params": Object(&[
    ("_meta", META),
    ("name", Handle),
    ("arguments", Text),
    ("inputResponses", ANSWERS),
    ("requestState", Handle),
    ("task", Object(&[("ttl", Number)])),
]));
const RESOURCE: MemberPath = message!("params": Object(&[
    ("_meta", META),
    ("uri", Handle),
    ("inputResponses", ANSWERS),
    ("requestState", Handle),
]));
const COMPLETE: MemberPath = message!("params": Object(&[
    ("_meta", META),
    ("ref", Object(&[("type", Word(&["ref/prompt", "ref/resource"])), ("name", Handle), ("uri", Handle), ("title", Text)])),
    ("argument", Object(&[("name", Handle), ("value", Text)])),
    ("context", Object(&[("arguments", Text)])),
]));
const LEVEL: MemberPath = message!("params": Object(&[("_meta", META), ("level", LEVELS)]));
const TASK: MemberPath = message!("params": Object(&[
    ("_meta", META),
    ("taskId", Handle),
    ("cursor", Handle),
    ("inputResponses", ANSWERS),
    ("requestState", Handle),
]));
const OTHER: MemberPath = message!("params": Object(&[("_meta", META), ("cursor", Handle)]));

/// The whole of a client's request.
pub fn request(method: Method) -> &'static MemberPath {
    match method {
        Method::ToolsCall | Method::PromptsGet => &NAMED,
        Method::ResourcesRead | Method::Subscribe | Method::Unsubscribe => &RESOURCE,
        Method::Complete => &COMPLETE,
        Method::SetLevel => &LEVEL,
        Method::TasksGet
        | Method::TasksResult
        | Method::TasksCancel
        | Method::TasksList
        | Method::TasksUpdate => &TASK,
        _ => &OTHER,
    }
}

const CANCELLED: MemberPath = Object(&[("_meta", META), ("requestId", Handle), ("reason", Text)]);
const PROGRESS: MemberPath = Object(&[
    ("_meta", META),
    ("progressToken", Handle),
    ("progress", Number),
    ("total", Number),
    ("message", Text),
]);
const TASK_STATUS: MemberPath = Object(TASK_MEMBERS);
const TASK_MEMBERS: &[(&str, MemberPath)] = &[
    ("_meta", META),
    ("taskId", Handle),
    ("status", STATUS),
    ("statusMessage", Text),
    ("createdAt", Form(is_timestamp)),
    ("lastUpdatedAt", Form(is_timestamp)),
    ("ttl", Number),
    ("pollInterval", Number),
];
const BARE: MemberPath = Object(&[("_meta", META)]);

/// The params of a client's notification.
pub fn notification(method: Method) -> &'static MemberPath {
    match method {
        Method::Cancelled => &CANCELLED,
        Method::Progress => &PROGRESS,
        Method::TaskStatus => &TASK_STATUS,
        _ => &BARE,
    }
}

const ERROR: MemberPath = Object(&[("code", Number), ("message", Text), ("data", Text)]);
const CONTENT: MemberPath = Object(&[
    ("type", Word(&["text", "image", "audio", "tool_use", "tool_result"])),
    ("text", Text),
    ("data", Text),
    // Of a call that the model wants, and of its result.
    ("id", Handle),
    ("name", Handle),
    ("input", Text),
    ("toolUseId", Handle),
    ("content", Text),
    ("structuredContent", Text),
    ("_meta", META),
]);
const SAMPLED: MemberPath = message!("error": ERROR, "result": Object(&[
    ("_meta", META),
    ("role", ROLE),
    ("content", CONTENT),
    ("task", TASK_STATUS)
]));
// The keys are those of the form that the server has sent.
const ELICITED: MemberPath = message!("error": ERROR, "result": Object(&[
    ("_meta", META),
    ("action", ACTION),
    ("content", Map(&Text)),
    ("task", TASK_STATUS)
]));
const LISTED: MemberPath = message!("error": ERROR, "result": Object(&[("_meta", META), ("roots", ROOTS)]));
const TASK_ANSWER: MemberPath = message!("error": ERROR, "result": TASK_STATUS);
const TASKS_LISTED: MemberPath = message!("error": ERROR, "result": Object(&[
    ("_meta", META),
    ("tasks", TASK_STATUS),
    ("nextCursor", Handle)
]));
const ANSWERED: MemberPath = message!("error": ERROR, "result": BARE);

/// The whole of a client's response to a server request of this method.
pub fn response(question: Method) -> &'static MemberPath {
    match question {
        Method::CreateMessage => &SAMPLED,
        Method::Elicit => &ELICITED,
        Method::RootsList => &LISTED,
        Method::TasksGet | Method::TasksCancel => &TASK_ANSWER,
        Method::TasksList => &TASKS_LISTED,
        _ => &ANSWERED,
    }
}

/// Client info in `initialize`.
pub const CLIENT: &MemberPath = &Text;

/// The date of a protocol version.
fn is_revision(text: &str) -> bool {
    fits(text, "0000-00-00")
}

/// W3C Trace Context §3.2: ids that programs generate.
pub fn is_traceparent(text: &str) -> bool {
    let lengths = [2, 32, 16, 2];
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    text.split('-').count() == 4 && text.split('-').zip(lengths).all(|(part, length)| hex(part, length))
}

/// RFC 3339, with nine digits of a second at the most.
fn is_timestamp(text: &str) -> bool {
    let Some((start, rest)) = text.split_at_checked(19) else { return false };
    let zone = match rest.strip_prefix('.') {
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=9).contains(&digits) {
                return false;
            }
            &rest[digits..]
        }
        None => rest,
    };
    fits(start, "0000-00-00T00:00:00") && (zone == "Z" || fits(zone, "+00:00") || fits(zone, "-00:00"))
}

/// Whether a text equals the form except for its digits.
fn fits(text: &str, form: &str) -> bool {
    let same = |(b, form): (u8, u8)| if form == b'0' { b.is_ascii_digit() } else { b == form };
    text.len() == form.len() && text.bytes().zip(form.bytes()).all(same)
}

#[cfg(test)]
mod tests {
    use filters::guard::{Detector, Redactor};

    use super::*;

    const CARD: &str = "4111111111111111";

    fn counted(place: &MemberPath, json: &str) -> usize {
        let redactor = Redactor::new(&[Detector::CreditCard], &[]).expect("a redactor");
        redactor.scan_at(json.as_bytes(), place).expect("JSON").total()
    }

    #[test]
    fn what_anything_can_be_written_into_is_text() {
        for (place, json) in [
            (&NAMED, r#"{"params":{"_meta":{"tracestate":"a=CARD"}}}"#),
            (&NAMED, r#"{"params":{"_meta":{"traceparent":"00-CARD"}}}"#),
            (
                &NAMED,
                r#"{"params":{"_meta":{"io.modelcontextprotocol/clientInfo":{"name":"CARD","version":"1"}}}}"#,
            ),
            (
                &NAMED,
                r#"{"params":{"_meta":{"io.modelcontextprotocol/clientInfo":{"name":"x","version":"CARD"}}}}"#,
            ),
            (&NAMED, r#"{"params":{"_meta":{"io.modelcontextprotocol/logLevel":"CARD"}}}"#),
            (&NAMED, r#"{"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"CARD"}}}"#),
            (&NAMED, r#"{"params":{"inputResponses":{"a":{"model":"CARD"}}}}"#),
            (&NAMED, r#"{"params":{"inputResponses":{"a":{"action":"CARD"}}}}"#),
            (&NAMED, r#"{"params":{"inputResponses":{"a":{"role":"CARD","stopReason":"CARD"}}}}"#),
            (&NAMED, r#"{"params":{"task":{"ttl":CARD}}}"#),
            (&NAMED, r#"{"params":{"arguments":{"n":-CARD}}}"#),
            (&NAMED, r#"{"params":{"arguments":{"n":4.111111111111111e15}}}"#),
            (&LEVEL, r#"{"params":{"level":"CARD"}}"#),
            (&COMPLETE, r#"{"params":{"ref":{"type":"CARD"}}}"#),
            (&TASK_STATUS, r#"{"status":"CARD"}"#),
            (&TASK_STATUS, r#"{"createdAt":"2025-11-25T00:00:00.123456789 CARD"}"#),
            (&SAMPLED, r#"{"result":{"model":"CARD"}}"#),
            (&SAMPLED, r#"{"result":{"content":{"type":"image","mimeType":"CARD"}}}"#),
            (&SAMPLED, r#"{"result":{"content":[{"type":"CARD"}]}}"#),
            (&ELICITED, r#"{"result":{"action":"CARD"}}"#),
            (CLIENT, r#"{"name":"CARD"}"#),
        ] {
            assert!(counted(place, &json.replace("CARD", CARD)) > 0, "{json}");
        }
    }

    #[test]
    fn words_and_forms_of_the_protocol_are_no_text() {
        let redactor = Redactor::new(&[], &[("any".into(), ".+".into())]).expect("a redactor");
        for (place, json) in [
            (&LEVEL, r#"{"params":{"level":"info"}}"#),
            (&NAMED, r#"{"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#),
            (&NAMED, r#"{"params":{"_meta":{"io.modelcontextprotocol/logLevel":"debug"}}}"#),
            (
                &NAMED,
                r#"{"params":{"_meta":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}}"#,
            ),
            (&NAMED, r#"{"params":{"inputResponses":{"a":{"action":"accept","role":"user"}}}}"#),
            (&NAMED, r#"{"params":{"task":{"ttl":60000}}}"#),
            (&TASK_STATUS, r#"{"status":"working","createdAt":"2025-11-25T10:30:00Z"}"#),
            (
                &TASK_STATUS,
                r#"{"createdAt":"2025-11-25T10:30:00.123+01:00","lastUpdatedAt":"2025-11-25T10:30:00Z"}"#,
            ),
        ] {
            let found = redactor.scan_at(json.as_bytes(), place).expect("JSON");
            assert!(found.is_empty(), "{json}: {found}");
        }
    }
}
