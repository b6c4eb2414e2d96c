//! The room of one request to a server in this process's reach: stdio, built in. The answer comes back under the
//! caller's id, notes on the way with the caller's token.

use std::sync::Arc;

use bytes::Bytes;
use filters::rate_limit::Held;
use mcp::{Era, Refusal};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Leash, Talk, Word};
use crate::server::Running;
use crate::session::{Begun, Deed};
use crate::upstream::{Ask, Progress, Said, Screen};
use mcp::jsonrpc::message;

/// What is asked; all in the caller's own words.
pub struct Question {
    pub running: Running,
    /// The request, as its session knows it: for as long as the server is asked, whether its client is there or not.
    pub run: Option<Begun>,
    /// What it asks for one of those who share the server, rather than for all.
    pub deed: Option<Deed>,
    /// The caller's places in limits, which are taken until the server is done: a legacy client that leaves does not
    /// end its call.
    pub held: Option<Arc<Held>>,
    pub era: Era,
    pub method: String,
    pub params: Bytes,
    /// The caller's id as written.
    pub id: Bytes,
    /// The progress token as written, and its place in `params`.
    pub token: Option<(Bytes, mcp::Span)>,
    /// Set where the answer is searched for secrets.
    pub screen: Option<Screen>,
}

/// Asks on the long-lived runtime. In the modern era a client that leaves takes its question with it; in the
/// legacy era it must cancel in words (2025-11-25, transports: disconnection is not cancellation).
pub fn ask(core: &Handle, question: Question, stop: CancellationToken) -> Talk {
    let (words, receiver) = mpsc::channel(32);
    let modern = question.era == Era::Modern;
    let task = core.spawn(async move {
        let word = tokio::select! {
            word = answer(question, &words) => word,
            () = stop.cancelled() => {
                Word::Refused(Box::new(Refusal::http(499, "cancelled", "the request was cancelled by its sender")))
            }
        };
        let _ = words.send(word).await;
    });
    let leash = modern.then(|| Leash(task.abort_handle()));
    Talk { words: receiver, stream: false, leash, goodbye: None }
}

async fn answer(question: Question, words: &mpsc::Sender<Word>) -> Word {
    let Question { running, run, deed, held: _held, era, method, params, id, token, screen } = question;
    let server = running.server().clone();
    let (notes, mut noted) = mpsc::channel::<Bytes>(32);
    let asked = async {
        if let (Some(deed), Some(run)) = (&deed, &run) {
            drop(notes);
            return run.session().share(&server, deed).await;
        }
        let progress = Some(Progress { token, notes });
        server.upstream.ask(Ask { era, method: &method, params, progress, timeout: server.timeout }).await
    };
    let pass_on = async {
        while let Some(note) = noted.recv().await {
            let clean = screen.as_ref().map_or(Ok(None), |screen| screen.message(&note));
            // A note that may not go is no answer: it is left out.
            let Ok(clean) = clean else { continue };
            if words.send(Word::Note(clean.unwrap_or(note))).await.is_err() {
                break;
            }
        }
    };
    let (said, ()) = tokio::join!(asked, pass_on);
    running.went(said.as_ref().err());
    match said {
        Ok(Said::Result(result)) if result.len() > server.max_response => {
            too_large(&server.name, server.max_response)
        }
        Ok(said) => {
            let message = match said {
                Said::Result(result) => message::result(&id, &result),
                Said::Error(error) => message::failure(&id, &error),
            };
            match screen.as_ref().map_or(Ok(None), |screen| screen.message(&message)) {
                Ok(clean) => Word::Last(clean.unwrap_or(message)),
                Err(error) => Word::Refused(Box::new(error.refusal(&server.name))),
            }
        }
        Err(error) => {
            tracing::warn!(server = %server.name, method, %error, "a call failed");
            Word::Refused(Box::new(error.refusal(&server.name)))
        }
    }
}

fn too_large(server: &Arc<str>, limit: usize) -> Word {
    Word::Refused(Box::new(crate::upstream::UpstreamError::TooLarge(limit).refusal(server)))
}
