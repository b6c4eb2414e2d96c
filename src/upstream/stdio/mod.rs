//! A server that is a process: one for each era that it speaks, shared by all callers. How they are started: `start`.

pub mod child;
pub mod codec;
pub mod connection;
pub mod paced;
pub mod spawn;
pub mod start;
pub mod subscriptions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use mcp::Era;
use mcp::json::quote::quote;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use child::{Child, ChildError, Response};
use subscriptions::{Ear, Followers};

use super::http::era_errors::is_refusal_code;
use super::{Ask, Bounds, Ending, Hello, LISTS_CHANGED, Said, Upstream, UpstreamError, house_params};
pub use child::Command;
use mcp::jsonrpc::message;
use start::Starts;

/// How long to wait before a process is listened to again that ended a subscription.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub struct Stdio {
    command: Command,
    /// Milliseconds for what the gateway asks in its own name.
    patience: AtomicU64,
    /// By the era that they serve.
    places: [Mutex<Option<Process>>; 2],
    pub(super) starts: Starts,
    /// What callers of the legacy era follow.
    followers: Arc<Followers>,
}

pub(super) struct Process {
    pub child: Child,
    /// Held by whoever follows the process.
    notices: Arc<Mutex<mpsc::Receiver<Bytes>>>,
}

impl Stdio {
    /// Nothing is started yet.
    pub fn new(command: Command, timeout: Duration) -> Self {
        Self {
            command,
            patience: AtomicU64::new(millis(timeout)),
            places: Default::default(),
            starts: Starts::default(),
            followers: Arc::default(),
        }
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.patience.load(Ordering::Relaxed))
    }

    pub(super) async fn spawn(&self) -> Result<Process, UpstreamError> {
        let (sender, notices) = mpsc::channel(64);
        let child = Child::spawn(&self.command, sender).await.map_err(failed)?;
        Ok(Process { child, notices: Arc::new(Mutex::new(notices)) })
    }

    async fn child(&self, era: Era) -> Result<Child, UpstreamError> {
        let place = self.places[era as usize].lock().await;
        let child = place.as_ref().map(|process| process.child.clone());
        child.filter(Child::is_alive).ok_or_else(|| match self.starts.is_under_way(era) {
            true => UpstreamError::Starting,
            false => UpstreamError::Unreachable("its process has ended".into()),
        })
    }

    /// Whether a process serves the era.
    pub(super) async fn is_there(&self, era: Era) -> bool {
        self.places[era as usize].lock().await.as_ref().is_some_and(|process| process.child.is_alive())
    }

    /// Puts a process into its place, and gives the one that was there.
    pub(super) async fn replace(&self, era: Era, process: Option<Process>) -> Option<Process> {
        std::mem::replace(&mut *self.places[era as usize].lock().await, process)
    }

    /// A new process knows nothing of what is followed; and what changed before it nobody has told.
    pub(super) fn follow_again(&self, child: Child) {
        let (followers, timeout) = (self.followers.clone(), self.patience());
        tokio::spawn(async move {
            let _turn = followers.turn.lock().await;
            for uri in followers.uris() {
                if let Err(error) = follow(&child, "resources/subscribe", &uri, timeout).await {
                    tracing::debug!(uri, %error, "a resource is not followed in a new process");
                }
                followers.tell(&uri);
            }
        });
    }
}

async fn follow(child: &Child, method: &str, uri: &str, timeout: Duration) -> Result<Said, UpstreamError> {
    let params = format!(r#"{{"uri":{}}}"#, quote(uri));
    match child.request(method, Some(params.as_bytes()), timeout, None).await {
        Ok(Response::Result(result)) => Ok(Said::Result(result)),
        Ok(Response::Error(error)) => Ok(Said::Error(error)),
        Err(error) => Err(failed(error)),
    }
}

/// The resource that a message says has changed.
fn updated(message: &[u8]) -> Option<String> {
    let read = message::read(message)?;
    let params = read.params.filter(|_| read.id.is_none())?.of(message);
    let about = read.method?.is(message, "notifications/resources/updated");
    let uri = message::member(params, "uri").filter(|_| about)?;
    message::string(uri.of(params))
}

#[async_trait]
impl Upstream for Stdio {
    async fn greet(&self, era: Era, until: Instant) -> Result<Hello, UpstreamError> {
        self.start(era, until).await
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<Said, UpstreamError> {
        let child = self.child(ask.era).await?;
        let progress = ask.progress.and_then(|progress| {
            let (_, place) = progress.token?;
            Some(child::Progress { token: place.start..place.end, notes: progress.notes })
        });
        match child.request(ask.method, Some(&ask.params), ask.timeout, progress).await {
            Ok(Response::Result(result)) => Ok(Said::Result(result)),
            Ok(Response::Error(error)) => Ok(Said::Error(error)),
            Err(error) => Err(failed(error)),
        }
    }

    async fn watch(&self, era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        let followed = {
            let place = self.places[era as usize].lock().await;
            place.as_ref().map(|process| (process.child.clone(), process.notices.clone()))
        };
        let Some((child, said)) = followed else {
            return Err(UpstreamError::Unreachable("its process has ended".into()));
        };
        let mut said = said.lock().await;
        let (notes, mut told) = mpsc::channel(64);
        let listening = async {
            let listen = house_params(era, LISTS_CHANGED);
            // What an old server says comes unasked.
            if era == Era::Modern {
                let mut pause = FIRST_PAUSE;
                loop {
                    let since = Instant::now();
                    let ended = child.listen(&listen, notes.clone()).await;
                    match ended {
                        Ok(Response::Error(error)) if is_refusal_code(&error) => break,
                        Err(ChildError::Exited { .. }) => break,
                        _ => {}
                    }
                    if since.elapsed() > pause {
                        pause = FIRST_PAUSE;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::pin!(listening);
        loop {
            tokio::select! {
                () = &mut listening => {}
                Some(message) = told.recv() => {
                    if message::is_news_of_lists(&message) && changed.send(()).await.is_err() {
                        return Ok(());
                    }
                }
                status = child.exited() => {
                    let words = status.map_or_else(String::new, |status| format!(" ({status})"));
                    let said = child.said();
                    return Err(UpstreamError::Unreachable(format!("its process ended{words}{said}")));
                }
                Some(message) = said.recv() => {
                    if let Some(uri) = updated(&message).filter(|_| era == Era::Legacy) {
                        self.followers.tell(&uri);
                    }
                    if message::is_news_of_lists(&message) && changed.send(()).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn subscribe(&self, uri: &str, ear: &Arc<Ear>) -> Result<Said, UpstreamError> {
        let _turn = self.followers.turn.lock().await;
        let said = match self.followers.has(uri) {
            true => Said::Result(Bytes::from_static(b"{}")),
            false => {
                follow(&self.child(Era::Legacy).await?, "resources/subscribe", uri, self.patience()).await?
            }
        };
        if matches!(said, Said::Result(_)) {
            self.followers.add(uri, ear);
        }
        Ok(said)
    }

    async fn unsubscribe(&self, uri: &str, ear: &Arc<Ear>) -> Result<Said, UpstreamError> {
        let _turn = self.followers.turn.lock().await;
        if !self.followers.remove(uri, ear) {
            return Ok(Said::Result(Bytes::from_static(b"{}")));
        }
        follow(&self.child(Era::Legacy).await?, "resources/unsubscribe", uri, self.patience()).await
    }

    async fn unfollow(&self, ear: &Arc<Ear>) {
        for uri in self.followers.of(ear) {
            if let Err(error) = self.unsubscribe(&uri, ear).await {
                tracing::debug!(uri, %error, "a resource is followed on, though nobody wants that");
            }
        }
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn follows(&self) -> bool {
        true
    }

    async fn follow(&self, listen: Bytes, out: mpsc::Sender<Bytes>) -> Result<Ending, UpstreamError> {
        match self.child(Era::Modern).await?.listen(&listen, out).await {
            Ok(Response::Result(_)) | Err(ChildError::Ended) => Ok(Ending::Over),
            Ok(Response::Error(error)) if is_refusal_code(&error) => Ok(Ending::Refused),
            Ok(Response::Error(_)) => Err(UpstreamError::Nonsense("it gives no subscription now".into())),
            Err(error) => Err(failed(error)),
        }
    }

    fn hold_to(&self, bounds: &Bounds) {
        self.patience.store(millis(bounds.timeout), Ordering::Relaxed);
    }

    async fn close(&self) {
        let mut all = self.starts.drain();
        for place in &self.places {
            all.extend(place.lock().await.take());
        }
        // At the same time: each may take some seconds.
        join_all(all.iter().map(|process| process.child.stop())).await;
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn failed(error: ChildError) -> UpstreamError {
    match error {
        ChildError::Timeout { after, .. } => UpstreamError::TimedOut(after),
        ChildError::Nonsense(why) => UpstreamError::Nonsense(why.into()),
        ChildError::TooLong(limit) => UpstreamError::TooLarge(limit),
        ChildError::Spawn { source, .. } => {
            UpstreamError::Unreachable(format!("{error}: {source}", error = "it cannot be started"))
        }
        error => UpstreamError::Unreachable(error.to_string()),
    }
}
