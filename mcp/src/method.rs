//! The closed list of MCP's messages: the methods, their senders, kinds (request or notification), versions
//! and destinations. A message without a row for its sender, kind and version is rejected.
//!
//! One kind of message is not listed but accepted: a client's *request* with a method of no version
//! ([`is_extension`]). It has an id, so it is checked and answered. It can only go to the one server of an
//! endpoint.

use crate::MessageKind;

/// The sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    Client,
    Server,
}

impl Sender {
    pub fn as_str(self) -> &'static str {
        match self {
            Client => "client",
            Server => "server",
        }
    }
}

/// The destination of an allowed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The gateway answers or handles it.
    Gateway,
    /// To the server that has the tool, prompt or resource that it names.
    ByName,
    /// To the one server of the endpoint; nowhere where there are many.
    SingleServer,
    /// To the server that runs the task: its id leads there.
    ServerOfTask,
    /// To the server of the request that it concerns.
    ServerOfRequest,
    /// To the server that sent the request: a tag in its id identifies it.
    RequestingServer,
    /// To each server at which the session has an upstream session.
    AllServers,
    /// To the client that the server works for.
    Client,
}

/// One row of the list.
#[derive(Clone, Copy, Debug)]
pub struct MethodRule {
    pub method: Method,
    pub sender: Sender,
    pub kind: MessageKind,
    /// The first and the last revision that define it.
    pub revisions: (&'static str, &'static str),
    pub destination: Destination,
    /// It is of an extension, not of the schema of the revision.
    pub extension: bool,
}

impl MethodRule {
    pub fn as_str(&self) -> &'static str {
        self.method.as_str()
    }

    /// Revisions are dates, which their order as text puts in order.
    pub fn is_in(&self, revision: &str) -> bool {
        self.revisions.0 <= revision && revision <= self.revisions.1
    }
}

macro_rules! methods {
    ($($method:ident $word:literal)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method {
            $($method,)*
            /// A method that is in no row.
            Other,
        }

        const WORDS: &[(Method, &str)] = &[$((Method::$method, $word)),*];
    };
}

// The most frequent ones first: the search follows this order.
methods! {
    ToolsCall "tools/call"
    ResourcesRead "resources/read"
    PromptsGet "prompts/get"
    ToolsList "tools/list"
    Progress "notifications/progress"
    Message "notifications/message"
    Initialize "initialize"
    Initialized "notifications/initialized"
    Discover "server/discover"
    Ping "ping"
    PromptsList "prompts/list"
    ResourcesList "resources/list"
    TemplatesList "resources/templates/list"
    Subscribe "resources/subscribe"
    Unsubscribe "resources/unsubscribe"
    Complete "completion/complete"
    SetLevel "logging/setLevel"
    Listen "subscriptions/listen"
    Cancelled "notifications/cancelled"
    RootsChanged "notifications/roots/list_changed"
    TasksGet "tasks/get"
    TasksResult "tasks/result"
    TasksCancel "tasks/cancel"
    TasksList "tasks/list"
    TasksUpdate "tasks/update"
    TaskStatus "notifications/tasks/status"
    TaskChanged "notifications/tasks"
    CreateMessage "sampling/createMessage"
    Elicit "elicitation/create"
    RootsList "roots/list"
    ToolsChanged "notifications/tools/list_changed"
    PromptsChanged "notifications/prompts/list_changed"
    ResourcesChanged "notifications/resources/list_changed"
    Updated "notifications/resources/updated"
    ElicitationComplete "notifications/elicitation/complete"
    Acknowledged "notifications/subscriptions/acknowledged"
}

use Destination::{
    AllServers, ByName, Gateway, RequestingServer, ServerOfRequest, ServerOfTask, SingleServer,
};
use MessageKind::{Notification, Request};
use Method::*;
use Sender::{Client, Server};

/// From the first legacy version (that of HTTP+SSE) to the last, and parts of this range.
const LEGACY: (&str, &str) = ("2024-11-05", "2025-11-25");
const SINCE_JUNE: (&str, &str) = ("2025-06-18", "2025-11-25");
const NOVEMBER: (&str, &str) = ("2025-11-25", "2025-11-25");
const MODERN: (&str, &str) = ("2026-07-28", "2026-07-28");
const EVER: (&str, &str) = (LEGACY.0, MODERN.1);

const fn row(
    sender: Sender,
    kind: MessageKind,
    method: Method,
    revisions: (&'static str, &'static str),
    goes: Destination,
) -> MethodRule {
    MethodRule { method, sender, kind, revisions, destination: goes, extension: false }
}

/// Of the extension `io.modelcontextprotocol/tasks` (SEP-2663).
const fn extension(
    sender: Sender,
    kind: MessageKind,
    method: Method,
    destination: Destination,
) -> MethodRule {
    MethodRule { extension: true, ..row(sender, kind, method, MODERN, destination) }
}

/// The list. `tests/methods.txt` comes from the official schemas; a test compares both.
pub const ROWS: &[MethodRule] = &[
    row(Client, Request, ToolsCall, EVER, ByName),
    row(Client, Request, ResourcesRead, EVER, ByName),
    row(Client, Request, PromptsGet, EVER, ByName),
    row(Client, Request, ToolsList, EVER, Gateway),
    row(Client, Request, PromptsList, EVER, Gateway),
    row(Client, Request, ResourcesList, EVER, Gateway),
    row(Client, Request, TemplatesList, EVER, Gateway),
    row(Client, Request, Complete, EVER, ByName),
    row(Client, Request, Initialize, LEGACY, Gateway),
    row(Client, Request, Ping, LEGACY, Gateway),
    row(Client, Request, Subscribe, LEGACY, ByName),
    row(Client, Request, Unsubscribe, LEGACY, ByName),
    row(Client, Request, SetLevel, LEGACY, AllServers),
    row(Client, Request, TasksGet, NOVEMBER, SingleServer),
    row(Client, Request, TasksResult, NOVEMBER, SingleServer),
    row(Client, Request, TasksCancel, NOVEMBER, SingleServer),
    row(Client, Request, TasksList, NOVEMBER, SingleServer),
    row(Client, Request, Discover, MODERN, Gateway),
    row(Client, Request, Listen, MODERN, Gateway),
    extension(Client, Request, TasksGet, ServerOfTask),
    extension(Client, Request, TasksUpdate, ServerOfTask),
    extension(Client, Request, TasksCancel, ServerOfTask),
    // The gateway sends this itself when it opens an upstream session.
    row(Client, Notification, Initialized, LEGACY, Gateway),
    row(Client, Notification, Cancelled, LEGACY, ServerOfRequest),
    row(Client, Notification, Progress, LEGACY, RequestingServer),
    row(Client, Notification, RootsChanged, LEGACY, AllServers),
    // With several servers the owner of the task is unknown; clients poll (2025-11-25,
    // basic/utilities/tasks).
    row(Client, Notification, TaskStatus, NOVEMBER, SingleServer),
    // Over HTTP the end of the stream cancels (2026-07-28, streamable-http), so there is no further action.
    row(Client, Notification, Cancelled, MODERN, Gateway),
    // The gateway answers for the client: a server without an answer ends the session.
    row(Server, Request, Ping, LEGACY, Gateway),
    row(Server, Request, CreateMessage, LEGACY, Destination::Client),
    row(Server, Request, RootsList, LEGACY, Destination::Client),
    row(Server, Request, Elicit, SINCE_JUNE, Destination::Client),
    row(Server, Request, TasksGet, NOVEMBER, Destination::Client),
    row(Server, Request, TasksResult, NOVEMBER, Destination::Client),
    row(Server, Request, TasksCancel, NOVEMBER, Destination::Client),
    row(Server, Request, TasksList, NOVEMBER, Destination::Client),
    row(Server, Notification, Progress, EVER, Destination::Client),
    row(Server, Notification, Message, EVER, Destination::Client),
    row(Server, Notification, Cancelled, LEGACY, Destination::Client),
    row(Server, Notification, Updated, LEGACY, Destination::Client),
    row(Server, Notification, TaskStatus, NOVEMBER, Destination::Client),
    row(Server, Notification, ElicitationComplete, NOVEMBER, Destination::Client),
    // The gateway sends these to clients itself: when the new list is ready, and with the ids of their own
    // subscriptions.
    row(Server, Notification, ToolsChanged, EVER, Gateway),
    row(Server, Notification, PromptsChanged, EVER, Gateway),
    row(Server, Notification, ResourcesChanged, EVER, Gateway),
    row(Server, Notification, Updated, MODERN, Gateway),
    row(Server, Notification, Acknowledged, MODERN, Gateway),
    row(Server, Notification, Cancelled, MODERN, Gateway),
    extension(Server, Notification, TaskChanged, Gateway),
];

/// The row of a message; `None` if its sender may not send it in this version.
pub fn find(sender: Sender, kind: MessageKind, word: &str, revision: &str) -> Option<&'static MethodRule> {
    let method = Method::parse(word);
    if method == Other {
        return None;
    }
    ROWS.iter()
        .find(|row| row.method == method && row.sender == sender && row.kind == kind && row.is_in(revision))
}

/// Whether an unlisted method may belong to an extension: no lax reader can take it for a listed one
/// (`Tools/Call`, `tools//call`), and its name is not that of a notification.
pub fn is_extension(word: &str) -> bool {
    let letters = |word: &str| -> String {
        word.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    let bare = letters(word);
    !bare.is_empty()
        && word.bytes().all(|byte| byte.is_ascii_graphic())
        && !bare.starts_with("notification")
        && WORDS.iter().all(|(_, known)| letters(known) != bare)
}

impl Method {
    pub fn parse(word: &str) -> Self {
        WORDS.iter().find(|(_, known)| *known == word).map_or(Other, |(method, _)| *method)
    }

    /// The method's name; a fixed name for unknown ones, so that it can label a metric.
    pub fn as_str(self) -> &'static str {
        WORDS.iter().find(|(method, _)| *method == self).map_or("_other", |(_, word)| word)
    }

    /// Whether its response lists what exists, so that it depends on the caller's permissions.
    pub fn depends_on_visibility(self) -> bool {
        matches!(
            self,
            Initialize | Discover | Listen | ToolsList | PromptsList | ResourcesList | TemplatesList
        )
    }

    /// Whether the request may be sent again without knowing if it arrived: it only reads.
    pub fn is_idempotent(self) -> bool {
        matches!(
            self,
            PromptsGet | ResourcesRead | Complete | PromptsList | ToolsList | ResourcesList | TemplatesList
        )
    }

    /// Whether the header `Mcp-Name` repeats an identifier in its params (2026-07-28, streamable-http, and
    /// SEP-2663).
    pub fn has_name(self) -> bool {
        matches!(self, ToolsCall | PromptsGet | ResourcesRead | TasksGet | TasksUpdate | TasksCancel)
    }

    /// Whether it is about a task, in either of the two protocols that have them.
    pub fn is_of_task(self) -> bool {
        matches!(self, TasksGet | TasksUpdate | TasksCancel | TasksResult | TasksList)
    }

    /// Whether it reports that a list of its sender has changed.
    pub fn is_list_changed(self) -> bool {
        matches!(self, ToolsChanged | PromptsChanged | ResourcesChanged)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::version;

    fn kinds() -> [(Sender, MessageKind); 4] {
        [(Client, Request), (Client, Notification), (Server, Request), (Server, Notification)]
    }

    /// `VERSION SENDER KIND METHOD` per line, from the official schemas.
    fn official() -> BTreeSet<(String, &'static str, &'static str, String)> {
        let mut all = BTreeSet::new();
        for line in include_str!("../../tests/methods.txt").lines().filter(|line| !line.starts_with('#')) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let [revision, sender, kind, method] = columns[..] else { panic!("{line}") };
            let sender = if sender == "client" { "client" } else { "server" };
            let kind = if kind == "request" { "request" } else { "notification" };
            all.insert((revision.to_owned(), sender, kind, method.to_owned()));
        }
        all
    }

    #[test]
    fn the_list_is_what_the_schemas_of_all_revisions_define() {
        let served = version::LEGACY.iter().chain(version::MODERN).chain([&version::HTTP_SSE]);
        let mut ours = BTreeSet::new();
        for revision in served {
            for row in ROWS.iter().filter(|row| row.is_in(revision) && !row.extension) {
                let kind = if row.kind == Request { "request" } else { "notification" };
                ours.insert(((*revision).to_owned(), row.sender.as_str(), kind, row.as_str().to_owned()));
            }
        }
        assert_eq!(ours, official());
    }

    #[test]
    fn each_message_is_in_one_row_and_each_word_in_some() {
        for revision in version::LEGACY.iter().chain(version::MODERN).chain([&version::HTTP_SSE]) {
            for (method, word) in WORDS {
                for (sender, kind) in kinds() {
                    let fits = |row: &&MethodRule| {
                        (row.method, row.sender, row.kind) == (*method, sender, kind) && row.is_in(revision)
                    };
                    let rows: Vec<&MethodRule> = ROWS.iter().filter(fits).collect();
                    assert!(rows.len() <= 1, "{word} {revision}");
                    assert_eq!(find(sender, kind, word, revision).is_some(), rows.len() == 1);
                }
                assert!(ROWS.iter().any(|row| row.method == *method), "{word} is in no row");
            }
        }
        assert!(find(Client, Notification, "tools/call", "2025-11-25").is_none());
        assert!(find(Client, Request, "notifications/initialized", "2025-11-25").is_none());
        assert!(find(Server, Notification, "notifications/nobody/knows", "2025-11-25").is_none());
        assert!(find(Client, Request, "tasks/get", "2025-06-18").is_none());
    }

    #[test]
    fn what_could_be_taken_for_a_method_of_the_list_is_no_extension() {
        for word in ["tasks/export", "vendor/wipe", "x", "com.example/tools.call2", "elicitation/update"] {
            assert!(is_extension(word), "{word}");
        }
        for word in WORDS.iter().map(|(_, word)| *word) {
            assert!(!is_extension(word), "{word}");
        }
        let taken = [
            "",
            " ",
            "//",
            "Tools/call",
            "TOOLS/CALL",
            "tools//call",
            "/tools/call/",
            "tools.call",
            "tools_call",
            "tools/call ",
            "\ttools/call",
            "tools/call\0",
            "tool\u{17f}/call",
            "notifications/x",
            "Notifications/x",
            "notification/x",
            "admin/ünknown",
            "ping/",
            "logging/setlevel",
        ];
        for word in taken {
            assert!(!is_extension(word), "{word:?}");
        }
    }
}
