//! The states of a task that the gateway keeps, and how a task moves to another gateway process.

use std::time::SystemTime;

use bytes::Bytes;
use mcp::json::object::Object;
use mcp::json::quote::quote;
use serde::{Deserialize, Serialize};

use super::view::StatusWord;
use crate::store::task_records::RecordVersion;

#[derive(Clone)]
pub enum TaskStatus {
    Working,
    Asked(Asking),
    Completed(Bytes),
    Failed(Bytes),
    Cancelled,
}

/// What the server asks.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Outward key, the server's key, and the request.
    pub open: Vec<(String, String, Bytes)>,
    /// The server's key, and the answer.
    pub answers: Vec<(String, Bytes)>,
    /// `requestState`, as written.
    pub state: Option<Bytes>,
}

/// A task on its way to another process, which then answers its questions. Texts are JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MovedTask {
    pub call: String,
    pub created: SystemTime,
    pub rounds: usize,
    /// What Redis has of it.
    pub version: Option<RecordVersion>,
    open: Vec<(String, String, String)>,
    answers: Vec<(String, String)>,
    state: Option<String>,
}

/// Why a task stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotMoved {
    /// It waits for no answers.
    NothingAsked,
    TooLong,
    /// It is not here.
    Gone,
}

impl MovedTask {
    pub fn new(call: &[u8], created: SystemTime, rounds: usize, asking: &Asking) -> Self {
        let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let open =
            asking.open.iter().map(|(outward, key, request)| (outward.clone(), key.clone(), text(request)));
        Self {
            call: text(call),
            created,
            rounds,
            version: None,
            open: open.collect(),
            answers: asking.answers.iter().map(|(key, answer)| (key.clone(), text(answer))).collect(),
            state: asking.state.as_deref().map(text),
        }
    }

    pub fn asking(&self) -> Asking {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let open =
            self.open.iter().map(|(outward, key, request)| (outward.clone(), key.clone(), text(request)));
        Asking {
            open: open.collect(),
            answers: self.answers.iter().map(|(key, answer)| (key.clone(), text(answer))).collect(),
            state: self.state.as_deref().map(text),
        }
    }
}

impl TaskStatus {
    /// What a client sees of it: the word, and more as JSON text.
    pub fn content(&self) -> (StatusWord, Option<Bytes>) {
        match self {
            Self::Working => (StatusWord::Working, None),
            Self::Asked(asking) => (StatusWord::InputRequired, Some(asking.questions())),
            Self::Completed(result) => (StatusWord::Completed, Some(result.clone())),
            Self::Failed(error) => (StatusWord::Failed, Some(error.clone())),
            Self::Cancelled => (StatusWord::Cancelled, None),
        }
    }

    pub fn is_final(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Failed(_) | Self::Cancelled)
    }

    /// Bytes that it keeps.
    pub fn length(&self) -> usize {
        match self {
            Self::Completed(text) | Self::Failed(text) => text.len(),
            Self::Asked(asking) => asking.open.iter().map(|(.., request)| request.len()).sum(),
            Self::Working | Self::Cancelled => 0,
        }
    }
}

impl Asking {
    /// The open ones, as JSON text.
    fn questions(&self) -> Bytes {
        let mut text = b"{".to_vec();
        for (number, (key, _, request)) in self.open.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            text.extend_from_slice(format!("{comma}{}:", quote(key)).as_bytes());
            text.extend_from_slice(request);
        }
        text.push(b'}');
        text.into()
    }

    /// The call with the answers. It does not declare tasks any more: it is one already.
    pub fn repeated(&self, call: &[u8]) -> Option<Bytes> {
        let message = Object::read(call)?;
        let mut params = Object::read(message.get("params")?)?;
        params.remove(|name| name == "requestState");
        let answers: Vec<(&str, &[u8])> =
            self.answers.iter().map(|(key, answer)| (key.as_str(), &answer[..])).collect();
        let answers = Object::read(b"{}")?.with(&answers);
        let mut added: Vec<(&str, &[u8])> = vec![("inputResponses", &answers)];
        added.extend(self.state.iter().map(|state| ("requestState", &state[..])));
        Some(message.with(&[("params", &params.with(&added))]).into())
    }
}
