//! The gateway's own conversation with one endpoint: greetings, lists, announcements, in a legacy session of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use filters::Era;
use http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;

use super::answers::{Wanted, is_sse, shorten};
use super::http::{Http, Seat, mirror, own_id};
use super::{Ask, Hello, LISTS_CHANGED, Said, UpstreamError, house_initialize, house_params};
use crate::protocol::{revision, wire};

/// How long a server is left alone that has no stream of announcements just now.
const AGAIN: Duration = Duration::from_secs(10);

impl Http {
    pub(super) async fn greet(&self, era: Era) -> Result<Hello, UpstreamError> {
        self.peer.resolve().await?;
        match era {
            Era::Modern => {
                let params = house_params(era, "");
                let ask = Ask {
                    era,
                    method: "server/discover",
                    params,
                    progress: None,
                    timeout: self.call_timeout,
                };
                match self.ask_once(&ask).await {
                    Ok(Said::Result(result)) => Hello::read(&result, revision::NEWEST_MODERN.to_owned()),
                    Ok(Said::Error(error)) => Err(UpstreamError::WrongEra(era, shorten(&error))),
                    // A legacy server may answer its 400 in any words (versioning.mdx: fall back on all of them).
                    Err(UpstreamError::Nonsense(why)) => Err(UpstreamError::WrongEra(era, why)),
                    Err(error) => Err(error),
                }
            }
            Era::Legacy => {
                let mut house = self.house.lock().await;
                if let Some(seat) = house.take() {
                    self.leave(&seat).await;
                }
                match self.open(&house_initialize(), None).await {
                    Ok((seat, hello)) => {
                        *house = Some(Arc::new(seat));
                        Ok(hello)
                    }
                    Err(UpstreamError::Nonsense(why)) => Err(UpstreamError::WrongEra(era, why)),
                    Err(error) => Err(error),
                }
            }
        }
    }

    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Said, UpstreamError> {
        match self.ask_once(&ask).await {
            // The server forgot the session, so it did not look at the request: once more in a new one.
            Err(UpstreamError::Forgotten) => {
                *self.house.lock().await = None;
                self.ask_once(&ask).await
            }
            other => other,
        }
    }

    pub(super) async fn watch(&self, era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        let listen = house_params(era, LISTS_CHANGED);
        loop {
            let seat = match era {
                Era::Legacy => self.house.lock().await.clone(),
                Era::Modern => None,
            };
            let (out, mut said) = mpsc::channel::<Bytes>(64);
            let forward = async {
                while let Some(message) = said.recv().await {
                    if wire::is_list_changed(&message) && changed.send(()).await.is_err() {
                        return;
                    }
                }
            };
            let since = tokio::time::Instant::now();
            let (ended, ()) = tokio::join!(self.listen(era, seat.as_deref(), listen.clone(), out), forward);
            match ended {
                // It has such a stream, but not now.
                Err(UpstreamError::Nonsense(_)) if era == Era::Legacy => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                ended => ended?,
            }
            // A stream that was there and ended may have hidden a change, and may be cut by every proxy.
            if since.elapsed() < Duration::from_secs(1) {
                return Ok(());
            }
            let _ = changed.send(()).await;
        }
    }

    pub(super) async fn close(&self) {
        if let Some(seat) = self.house.lock().await.take() {
            self.leave(&seat).await;
        }
    }

    async fn seat(&self) -> Result<Arc<Seat>, UpstreamError> {
        let mut house = self.house.lock().await;
        if let Some(seat) = &*house {
            return Ok(seat.clone());
        }
        let seat = Arc::new(self.open(&house_initialize(), None).await?.0);
        *house = Some(seat.clone());
        Ok(seat)
    }

    async fn ask_once(&self, ask: &Ask<'_>) -> Result<Said, UpstreamError> {
        let (seat, extra) = match ask.era {
            Era::Legacy => (Some(self.seat().await?), HeaderMap::new()),
            Era::Modern => (None, mirror(ask.method, &ask.params)),
        };
        let id = own_id();
        let body = wire::request(&id, ask.method, &ask.params);
        let response = self.send(ask.era, seat.as_deref(), extra, body, ask.timeout).await?;
        let batches = seat.as_ref().is_some_and(|seat| seat.has_batches());
        if response.status() == StatusCode::NOT_FOUND && seat.is_some_and(|s| s.session.is_some()) {
            return Err(UpstreamError::Forgotten);
        }
        if ask.era == Era::Legacy && ask.method.ends_with("/list") {
            self.lists_as_events.store(is_sse(&response), Ordering::Relaxed);
        }
        let progress = ask.progress.as_ref();
        self.answer(response, Wanted { batches, progress, ..Wanted::new(&id, ask.timeout) }).await
    }
}
