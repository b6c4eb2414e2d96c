//! What of a client's messages is a handle of the protocol, by its place in the schemas: all else was written by a
//! person or a model, and is searched where a server is to get no secrets.
//!
//! What is not named here is text. So is what no schema knows.

use filters::guard::Place::{self, Handle, Map, Number, Object, Text};

use super::method::Method;

/// A message whose params or outcome are so.
macro_rules! message {
    ($($part:literal: $place:expr),*) => {
        Object(&[("jsonrpc", Handle), ("id", Handle), ("method", Handle), $(($part, $place)),*])
    };
}

/// A name and a version; the rest is prose.
const PROGRAM: Place = Object(&[
    ("name", Handle),
    ("version", Handle),
    ("title", Text),
    ("description", Text),
    ("websiteUrl", Handle),
    ("icons", ICONS),
]);
const ICONS: Place = Object(&[("src", Handle), ("mimeType", Handle), ("sizes", Handle), ("theme", Handle)]);

const META: Place = Object(&[
    ("progressToken", Handle),
    ("io.modelcontextprotocol/protocolVersion", Handle),
    ("io.modelcontextprotocol/clientInfo", PROGRAM),
    ("io.modelcontextprotocol/clientCapabilities", Text),
    ("io.modelcontextprotocol/logLevel", Handle),
    ("io.modelcontextprotocol/subscriptionId", Handle),
    ("io.modelcontextprotocol/related-task", Object(&[("taskId", Handle)])),
    // W3C Trace Context; `baggage` may say anything.
    ("traceparent", Handle),
    ("tracestate", Handle),
    ("baggage", Text),
]);

const ROOTS: Place = Object(&[("uri", Handle), ("name", Text), ("_meta", META)]);

/// What a user or a model answered to a server, of whichever kind (2026-07-28, MRTR): its keys are the server's own.
const ANSWERS: Place = Map(&Object(&[
    ("action", Handle),
    ("role", Handle),
    ("model", Handle),
    ("stopReason", Handle),
    ("content", Text),
    ("roots", ROOTS),
    ("_meta", META),
]));

/// `name`, `uri` and what else a request may have that goes to a server.
const NAMED: Place = message!("params": Object(&[
    ("_meta", META),
    ("name", Handle),
    ("arguments", Text),
    ("inputResponses", ANSWERS),
    ("requestState", Handle),
    ("task", Object(&[("ttl", Number)])),
]));
const RESOURCE: Place = message!("params": Object(&[
    ("_meta", META),
    ("uri", Handle),
    ("inputResponses", ANSWERS),
    ("requestState", Handle),
]));
const COMPLETE: Place = message!("params": Object(&[
    ("_meta", META),
    ("ref", Object(&[("type", Handle), ("name", Handle), ("uri", Handle), ("title", Text)])),
    ("argument", Object(&[("name", Handle), ("value", Text)])),
    ("context", Object(&[("arguments", Text)])),
]));
const LEVEL: Place = message!("params": Object(&[("_meta", META), ("level", Handle)]));
const TASK: Place = message!("params": Object(&[
    ("_meta", META),
    ("taskId", Handle),
    ("cursor", Handle),
    ("inputResponses", ANSWERS),
    ("requestState", Handle),
]));
const OTHER: Place = message!("params": Object(&[("_meta", META), ("cursor", Handle)]));

/// The whole of a client's request.
pub fn request(method: Method) -> &'static Place {
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

const CANCELLED: Place = Object(&[("_meta", META), ("requestId", Handle), ("reason", Text)]);
const PROGRESS: Place = Object(&[
    ("_meta", META),
    ("progressToken", Handle),
    ("progress", Number),
    ("total", Number),
    ("message", Text),
]);
const TASK_STATUS: Place = Object(TASK_MEMBERS);
const TASK_MEMBERS: &[(&str, Place)] = &[
    ("_meta", META),
    ("taskId", Handle),
    ("status", Handle),
    ("statusMessage", Text),
    ("createdAt", Handle),
    ("lastUpdatedAt", Handle),
    ("ttl", Number),
    ("pollInterval", Number),
];
const BARE: Place = Object(&[("_meta", META)]);

/// The params of a client's notification.
pub fn notification(method: Method) -> &'static Place {
    match method {
        Method::Cancelled => &CANCELLED,
        Method::Progress => &PROGRESS,
        Method::TaskStatus => &TASK_STATUS,
        _ => &BARE,
    }
}

const ERROR: Place = Object(&[("code", Number), ("message", Text), ("data", Text)]);
const CONTENT: Place = Object(&[
    ("type", Handle),
    ("text", Text),
    ("data", Text),
    ("mimeType", Handle),
    // Of a call that the model wants, and of its result.
    ("id", Handle),
    ("name", Handle),
    ("input", Text),
    ("toolUseId", Handle),
    ("content", Text),
    ("structuredContent", Text),
    ("_meta", META),
]);
const SAMPLED: Place = message!("error": ERROR, "result": Object(&[
    ("_meta", META),
    ("role", Handle),
    ("model", Handle),
    ("stopReason", Handle),
    ("content", CONTENT),
    ("task", TASK_STATUS)
]));
// The keys are those of the form that the server has sent.
const ELICITED: Place = message!("error": ERROR, "result": Object(&[
    ("_meta", META),
    ("action", Handle),
    ("content", Map(&Text)),
    ("task", TASK_STATUS)
]));
const LISTED: Place = message!("error": ERROR, "result": Object(&[("_meta", META), ("roots", ROOTS)]));
const TASK_ANSWER: Place = message!("error": ERROR, "result": TASK_STATUS);
const TASKS_LISTED: Place = message!("error": ERROR, "result": Object(&[
    ("_meta", META),
    ("tasks", TASK_STATUS),
    ("nextCursor", Handle)
]));
const ANSWERED: Place = message!("error": ERROR, "result": BARE);

/// The whole of a client's answer to a server that asked this.
pub fn answer(question: Method) -> &'static Place {
    match question {
        Method::CreateMessage => &SAMPLED,
        Method::Elicit => &ELICITED,
        Method::RootsList => &LISTED,
        Method::TasksGet | Method::TasksCancel => &TASK_ANSWER,
        Method::TasksList => &TASKS_LISTED,
        _ => &ANSWERED,
    }
}

/// What a client says of itself in `initialize`.
pub const CLIENT: &Place = &PROGRAM;
