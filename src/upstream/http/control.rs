//! The gateway's own conversation with one endpoint: greetings, lists, announcements, in a legacy session of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use mcp::Era;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::era_errors::judged;
use super::notifications::{Line, Place};
use super::response::{Wanted, is_sse};
use super::{Http, Seat, mirror, own_id};
use crate::upstream::{Ask, Hello, LISTS_CHANGED, Said, UpstreamError, house_initialize, house_params};
use mcp::jsonrpc::message;
use mcp::version;

/// The code of JSON-RPC for it.
const METHOD_NOT_FOUND: &str = "-32601";
/// Pauses between two streams of announcements.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A stream that lasted so long was one; the next is opened soon.
const STEADY: Duration = Duration::from_secs(1);

impl Http {
    pub(crate) async fn greet(&self, era: Era, until: Instant) -> Result<Hello, UpstreamError> {
        let time = until.saturating_duration_since(Instant::now());
        let greeted = tokio::time::timeout(time, async {
            self.peer.resolve().await?;
            match era {
                Era::Modern => self.discover(time).await,
                Era::Legacy => self.initialize(time).await,
            }
        });
        greeted.await.unwrap_or(Err(UpstreamError::TimedOut(time)))
    }

    async fn initialize(&self, time: Duration) -> Result<Hello, UpstreamError> {
        let mut house = self.house.lock().await;
        if let Some(seat) = house.take() {
            self.leave(&seat).await;
        }
        let (seat, hello) = self.open(&house_initialize(), None, time).await?;
        *house = Some(Arc::new(seat));
        Ok(hello)
    }

    async fn discover(&self, patience: Duration) -> Result<Hello, UpstreamError> {
        let (era, method) = (Era::Modern, "server/discover");
        let params = house_params(era, "");
        let id = own_id();
        let body = message::request(&id, method, &params);
        let response = self.send(era, None, mirror(method, &params), body, patience).await?;
        let status = response.status();
        let result = judged(era, status, self.answer(response, Wanted::new(&id, patience)).await)?;
        let hello = Hello::read(&result, version::NEWEST_MODERN.to_owned());
        // An old server may have something of that name.
        hello.map_err(|error| UpstreamError::WrongEra(era, error.to_string()))
    }

    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<Said, UpstreamError> {
        let said = self.ask_once(&ask).await;
        match &said {
            // The server forgot the session, so it did not look at the request: once more in a new one.
            Err(UpstreamError::Forgotten) => *self.house.lock().await = None,
            // Some say that in other ways than by 404. A ping does nothing, and whoever knows its session answers it.
            refused if is_refused_ping(&ask, refused) => {
                let Some(seat) = self.house.lock().await.take() else { return said };
                self.leave(&seat).await;
            }
            _ => return said,
        }
        self.ask_once(&ask).await
    }

    pub(crate) async fn watch(&self, era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        let listen = house_params(era, LISTS_CHANGED);
        let mut pause = FIRST_PAUSE;
        loop {
            let seat = match era {
                Era::Legacy => self.house.lock().await.clone(),
                Era::Modern => None,
            };
            let since = Instant::now();
            match self.line(era, seat.as_deref(), &listen).await? {
                Line::None => return Ok(()),
                Line::Busy(why) => {
                    tracing::debug!(endpoint = self.label, why, "no stream of announcements now")
                }
                Line::Open(response) => {
                    // Nobody was told what changed before it stood. A modern server says itself when it does.
                    if era == Era::Legacy && changed.send(()).await.is_err() {
                        return Ok(());
                    }
                    let (out, mut said) = mpsc::channel::<Bytes>(64);
                    let forward = async {
                        while let Some(message) = said.recv().await {
                            if let (Some(seat), Some(me)) = (&seat, self.me.upgrade()) {
                                me.heed(seat, &message);
                            }
                            if message::is_news_of_lists(&message) && changed.send(()).await.is_err() {
                                return;
                            }
                        }
                    };
                    let batches = seat.as_deref().is_some_and(Seat::has_batches);
                    let pour = async move { self.pour(response, batches, &mut Place::default(), &out).await };
                    let (poured, ()) = tokio::join!(pour, forward);
                    poured?;
                }
            }
            // It may be cut by every proxy on the way; but streams that end as soon as they begin cost both sides.
            if since.elapsed() > STEADY.max(pause) {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(crate) async fn close(&self) {
        if let Some(seat) = self.house.lock().await.take() {
            self.leave(&seat).await;
        }
    }

    async fn seat(&self) -> Result<Arc<Seat>, UpstreamError> {
        let mut house = self.house.lock().await;
        if let Some(seat) = &*house {
            return Ok(seat.clone());
        }
        let seat = Arc::new(self.open(&house_initialize(), None, self.patience()).await?.0);
        *house = Some(seat.clone());
        Ok(seat)
    }

    async fn ask_once(&self, ask: &Ask<'_>) -> Result<Said, UpstreamError> {
        let (seat, extra) = match ask.era {
            Era::Legacy => (Some(self.seat().await?), HeaderMap::new()),
            Era::Modern => (None, mirror(ask.method, &ask.params)),
        };
        let id = own_id();
        let body = message::request(&id, ask.method, &ask.params);
        let response = self.send(ask.era, seat.as_deref(), extra, body, ask.timeout).await?;
        let batches = seat.as_ref().is_some_and(|seat| seat.has_batches());
        if let Some(seat) = seat.as_ref().filter(|seat| seat.session.is_some()) {
            match response.status() {
                StatusCode::NOT_FOUND => return Err(UpstreamError::Forgotten),
                // A ping is judged as a whole.
                StatusCode::BAD_REQUEST if ask.method != "ping" && self.knows(seat).await == Some(false) => {
                    return Err(UpstreamError::Forgotten);
                }
                _ => {}
            }
        }
        if ask.era == Era::Legacy && ask.method.ends_with("/list") {
            self.lists_as_events.store(is_sse(&response), Ordering::Relaxed);
        }
        let (seat, progress) = (seat.as_deref(), ask.progress.as_ref());
        self.answer(response, Wanted { batches, seat, progress, ..Wanted::new(&id, ask.timeout) }).await
    }
}

/// Whether an error says that the server has no such method.
pub(crate) fn is_unknown_method(error: &[u8]) -> bool {
    message::member(error, "code").is_some_and(|code| code.of(error) == METHOD_NOT_FOUND.as_bytes())
}

/// Whether a legacy server has answered, but not to a ping; one that knows no ping is well all the same.
fn is_refused_ping(ask: &Ask<'_>, said: &Result<Said, UpstreamError>) -> bool {
    ask.era == Era::Legacy
        && ask.method == "ping"
        && match said {
            Err(UpstreamError::Nonsense(_)) => true,
            Ok(Said::Error(error)) => !is_unknown_method(error),
            _ => false,
        }
}
