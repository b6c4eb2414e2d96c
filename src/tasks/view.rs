//! What a client is told of a task that the gateway keeps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use mcp::json::quote::quote;
use serde::{Deserialize, Serialize};

/// How long a task is kept after its last change; a running one has this time anew.
pub const KEPT: Duration = Duration::from_secs(3600);
/// How often a client may ask.
const POLL: Duration = Duration::from_secs(1);

/// The status of a task (SEP-2663).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusWord {
    Working,
    InputRequired,
    Completed,
    Failed,
    Cancelled,
}

/// Now, in whole milliseconds: what clients and Redis get, too.
pub fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl StatusWord {
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::InputRequired => "input_required",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The member that says more.
    fn member(self) -> Option<&'static str> {
        match self {
            Self::Working | Self::Cancelled => None,
            Self::InputRequired => Some("inputRequests"),
            Self::Completed => Some("result"),
            Self::Failed => Some("error"),
        }
    }
}

/// A task at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    pub status: StatusWord,
    pub created: SystemTime,
    pub updated: SystemTime,
    /// Its questions, result or error, as JSON text.
    pub content: Option<Bytes>,
}

impl TaskView {
    /// The task, for the client that knows it by this id; `kind`: the `resultType`, if it is a result.
    pub fn text(&self, handle: &str, kind: Option<&str>) -> Vec<u8> {
        let at = |time| DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true);
        let last = if self.status.is_final() { self.updated } else { now() };
        // Clocks may differ, and be set.
        let ttl = (last.duration_since(self.created).unwrap_or_default() + KEPT).as_millis();
        let kind = kind.map(|kind| format!(r#""resultType":"{kind}","#)).unwrap_or_default();
        let mut text = format!(
            r#"{{{kind}"taskId":{},"status":"{}","createdAt":"{}","lastUpdatedAt":"{}","ttlMs":{ttl},"pollIntervalMs":{}"#,
            quote(handle),
            self.status.as_str(),
            at(self.created),
            at(self.updated),
            POLL.as_millis()
        )
        .into_bytes();
        if let (Some(member), Some(content)) = (self.status.member(), &self.content) {
            text.extend_from_slice(format!(r#","{member}":"#).as_bytes());
            text.extend_from_slice(content);
        }
        text.push(b'}');
        text
    }
}
