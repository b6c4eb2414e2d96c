//! A retry that arrives at another gateway process than the one where its call waits.
//!
//! The process that got the retry has judged it; it sends the retry to the process of the call, which takes the
//! parked call exactly once, and gets back what the client is to get. Messages are sealed, and bound to their
//! receiver. Since a message may be lost, the retry is sent again while it has no end: the other process knows
//! the ones that it works on.

mod message;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::{DashMap, Entry};
use http::HeaderValue;
use mcp::{Reason, Rejection};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

pub use self::message::PeerMessage;
use self::message::{Content, ProcessMessage, RelayedItem, RelayedRetry};
use super::modern_client::{Leg, resume};
use super::{Bridge, request_state};
use crate::store::parking::{Digest, ParkingId};
use crate::store::process_messages::{ProcessId, ProcessMessages};
use crate::store::sealing::Purpose;
use crate::streams::StreamItem;

/// How often a retry is sent again while its call goes on.
const AGAIN: Duration = Duration::from_secs(5);
/// After this long without its retry, the other process is taken for gone.
const GONE: Duration = Duration::from_secs(20);
/// Failed sends in a row after which the client is told.
const MAX_FAILURES: usize = 3;
/// Retries at work at a time, in each direction.
const MAX_RELAYED: usize = 10_000;
/// Messages of one retry that wait for its client.
const QUEUE: usize = 256;
/// The longest sealed message. Redis drops a reader that is more than 32 MiB behind.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// The id of a relayed retry: 128 random bits.
pub type RelayId = [u8; 16];

/// The connection to other processes, and the retries on their way.
pub(super) struct Relay {
    pub messages: Arc<ProcessMessages>,
    /// Where the settings were when it began.
    url: String,
    prefix: String,
    /// Retries that this process has sent to others.
    sent: DashMap<RelayId, mpsc::Sender<RelayedItem>, ahash::RandomState>,
    /// Retries of others that this process works on.
    served: DashMap<RelayId, mpsc::Sender<Sign>, ahash::RandomState>,
    reader: AbortHandle,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// What a process hears of a retry that it works on.
enum Sign {
    StillThere,
    ClientLeft,
}

fn is_last(item: &StreamItem) -> bool {
    !matches!(item, StreamItem::Message(_))
}

impl Relay {
    /// Begins to read what other processes send to this one; `None` where the URL cannot be used.
    pub fn start(bridge: &Arc<Bridge>, url: &str, prefix: &str) -> Option<Arc<Self>> {
        let connected = bridge.connected.clone();
        let started = ProcessMessages::start(url, prefix, bridge.process, &bridge.runtime, connected);
        let (messages, mut received) = started
            .inspect_err(|error| tracing::error!(%error, "redis: other gateway processes cannot be reached"))
            .ok()?;
        let (hand_over, relay) = tokio::sync::oneshot::channel::<std::sync::Weak<Relay>>();
        let owner = Arc::downgrade(bridge);
        let reader = bridge.runtime.spawn(async move {
            let Ok(relay) = relay.await else { return };
            while let Some(sealed) = received.recv().await {
                let (Some(bridge), Some(relay)) = (owner.upgrade(), relay.upgrade()) else { return };
                relay.receive(&bridge, &sealed);
            }
        });
        let relay = Arc::new(Self {
            messages: Arc::new(messages),
            url: url.into(),
            prefix: prefix.into(),
            sent: DashMap::default(),
            served: DashMap::default(),
            reader: reader.abort_handle(),
        });
        let _ = hand_over.send(Arc::downgrade(&relay));
        Some(relay)
    }

    pub fn is_of(&self, url: &str, prefix: &str) -> bool {
        (self.url.as_str(), self.prefix.as_str()) == (url, prefix)
    }

    /// Whether other processes can be reached.
    pub fn is_there(&self) -> bool {
        self.messages.is_there()
    }

    /// Never waits: one slow client holds up no other.
    fn receive(self: &Arc<Self>, bridge: &Arc<Bridge>, sealed: &[u8]) {
        let opened = std::str::from_utf8(sealed)
            .ok()
            .and_then(|sealed| bridge.keyring.load().open(Purpose::ProcessMessage, sealed))
            .and_then(|text| serde_json::from_slice::<ProcessMessage>(&text).ok())
            .filter(|message| message.to == bridge.process);
        let Some(ProcessMessage { from, id, content, .. }) = opened else {
            tracing::warn!(
                "a message of another process is dropped: it was not sealed by a key of `secrets`"
            );
            return;
        };
        match content {
            Content::Item(item) => {
                // A retry whose client does not read, or has left, gets no more.
                if let Some(sent) = self.sent.get(&id)
                    && sent.try_send(item).is_err()
                {
                    drop(sent);
                    self.sent.remove(&id);
                }
            }
            Content::Other(text) => {
                // Who asks, asks again.
                if let Some(peer_messages) = bridge.peer_messages.get() {
                    let _ = peer_messages.try_send(PeerMessage { from, id, text });
                }
            }
            Content::ClientLeft => {
                self.served.get(&id).inspect(|served| drop(served.try_send(Sign::ClientLeft)));
            }
            Content::Retry(retry) => {
                if let Some(served) = self.served.get(&id) {
                    let _ = served.try_send(Sign::StillThere);
                    drop(served);
                    let (bridge, relay) = (bridge.clone(), self.clone());
                    bridge.runtime.clone().spawn(async move {
                        relay.send(&bridge, from, id, Content::Item(RelayedItem::Alive)).await;
                    });
                    return;
                }
                if self.served.len() >= MAX_RELAYED {
                    tracing::warn!(MAX_RELAYED, "too many retries of other processes: one waits");
                    return;
                }
                let (signs, heard) = mpsc::channel(8);
                if let Entry::Vacant(entry) = self.served.entry(id) {
                    entry.insert(signs);
                }
                let (bridge, relay) = (bridge.clone(), self.clone());
                bridge.runtime.clone().spawn(async move {
                    relay.serve(&bridge, from, id, retry, heard).await;
                    relay.served.remove(&id);
                });
            }
        }
    }

    /// Lets a retry of another process take its call, and sends back what the client is to get.
    async fn serve(
        &self,
        bridge: &Arc<Bridge>,
        from: ProcessId,
        id: RelayId,
        retry: RelayedRetry,
        mut heard: mpsc::Receiver<Sign>,
    ) {
        let (out, mut items) = mpsc::channel(32);
        let bearer = retry.authorization.and_then(|value| HeaderValue::from_bytes(&value).ok());
        let leg =
            Leg::relayed(retry.id.into(), retry.token.map(Into::into), retry.answers.into(), out, bearer);
        let (owner, place) = (retry.owner, retry.place);
        let resumed = bridge.clone();
        bridge.runtime.spawn(async move { resume(&resumed, place, owner, leg).await });
        let mut until = Instant::now() + GONE;
        loop {
            tokio::select! {
                item = items.recv() => {
                    let Some(item) = item else { return };
                    let last = is_last(&item);
                    let item = Content::Item(RelayedItem::of(item));
                    match self.send(bridge, from, id, item).await {
                        Sending::Sent if !last => {}
                        Sending::TooLong => {
                            let why = elsewhere("the result is too long to come from another gateway process");
                            let item = RelayedItem::of(StreamItem::Rejected(Box::new(why)));
                            self.send(bridge, from, id, Content::Item(item)).await;
                            return;
                        }
                        // Of a lost last item, the next copy of the retry gets the result that is kept.
                        _ => return,
                    }
                }
                sign = heard.recv() => match sign {
                    Some(Sign::StillThere) => until = Instant::now() + GONE,
                    // Without a reader of its items the call is cancelled.
                    Some(Sign::ClientLeft) | None => return,
                },
                () = sleep_until(until) => return,
            }
        }
    }

    /// Sends a message that is about no retry.
    pub async fn tell(&self, bridge: &Bridge, to: ProcessId, id: RelayId, text: String) -> Sending {
        self.send(bridge, to, id, Content::Other(text)).await
    }

    async fn send(&self, bridge: &Bridge, to: ProcessId, id: RelayId, content: Content) -> Sending {
        let message = ProcessMessage { to, from: bridge.process, id, content };
        let Ok(text) = serde_json::to_vec(&message) else { return Sending::Failed };
        let sealed = bridge.keyring.load().seal(Purpose::ProcessMessage, &text);
        if sealed.len() > MAX_MESSAGE {
            return Sending::TooLong;
        }
        match self.messages.send(&to, sealed.as_bytes()).await {
            Ok(true) => Sending::Sent,
            Ok(false) => Sending::NoReader,
            Err(_) => Sending::Failed,
        }
    }
}

/// How a message to another process was sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Sending {
    Sent,
    /// The other process is gone.
    NoReader,
    /// Redis is down.
    Failed,
    TooLong,
}

/// The call waits in another process: the retry goes there. The last item is always sent.
pub(super) async fn relay(bridge: Arc<Bridge>, to: ProcessId, place: ParkingId, owner: Digest, leg: Leg) {
    let out = leg.out.clone();
    let last = match bridge.relay.load_full() {
        Some(relay) => run(&relay, &bridge, to, place, owner, leg).await,
        None => Some(StreamItem::Rejected(Box::new(elsewhere(
            "this call waits in another gateway process, or in one that has ended: make the call again \
             (with `redis` and `secrets.key`, gateway processes hand each other such calls)",
        )))),
    };
    if let Some(last) = last {
        let _ = out.send(last).await;
    }
}

async fn run(
    relay: &Relay,
    bridge: &Bridge,
    to: ProcessId,
    place: ParkingId,
    owner: Digest,
    leg: Leg,
) -> Option<StreamItem> {
    let text = |text: &Bytes| String::from_utf8_lossy(text).into_owned();
    let retry = RelayedRetry {
        place,
        owner,
        id: text(&leg.id),
        token: leg.token.as_ref().map(text),
        answers: text(&leg.answers),
        authorization: leg.bearer.as_ref().map(|value| value.as_bytes().to_vec()),
    };
    let rejected = |rejection: Rejection| Some(StreamItem::Rejected(Box::new(rejection)));
    if relay.sent.len() >= MAX_RELAYED {
        let message = format!("{MAX_RELAYED} calls wait in other gateway processes already");
        return rejected(Rejection::http(503, Reason::TooManyParked, message).retry_after(AGAIN));
    }
    let mut id = RelayId::default();
    getrandom::fill(&mut id).expect("the system gives random bytes");
    let (items, mut received) = mpsc::channel(QUEUE);
    relay.sent.insert(id, items);
    let _sent = Removal(&relay.sent, id);
    let (mut failures, mut heard) = (0, Instant::now());
    loop {
        if heard.elapsed() > GONE {
            let message = "this call waits in another gateway process, which does not answer";
            let rejection = Rejection::http(503, Reason::ProcessUnreachable, message);
            return rejected(rejection.retry_after(AGAIN));
        }
        match relay.send(bridge, to, id, Content::Retry(retry.clone())).await {
            Sending::Sent => failures = 0,
            Sending::NoReader => {
                return rejected(elsewhere(
                    "the gateway process in which this call waited has ended, or listens to Redis no more: make the call again",
                ));
            }
            Sending::TooLong => {
                return rejected(elsewhere("the answers are too long for another gateway process"));
            }
            Sending::Failed => {
                failures += 1;
                if failures >= MAX_FAILURES {
                    let message =
                        "this call waits in another gateway process, which cannot be reached: Redis is down";
                    let rejection = Rejection::http(503, Reason::ProcessUnreachable, message);
                    return rejected(rejection.retry_after(AGAIN));
                }
            }
        }
        let again = Instant::now() + if failures == 0 { AGAIN } else { AGAIN / 5 };
        loop {
            tokio::select! {
                item = received.recv() => {
                    let Some(item) = item else {
                        return rejected(elsewhere("the client reads too slowly: make the call again"));
                    };
                    heard = Instant::now();
                    if matches!(item, RelayedItem::Alive) {
                        continue;
                    }
                    let item = item.into_item();
                    if is_last(&item) {
                        return Some(item);
                    }
                    if leg.out.send(item).await.is_err() {
                        break;
                    }
                }
                () = leg.out.closed() => break,
                () = sleep_until(again) => break,
            }
        }
        if leg.out.is_closed() {
            // At most once: the other process also notices that nobody asks any more.
            let _ = timeout(AGAIN, relay.send(bridge, to, id, Content::ClientLeft)).await;
            return None;
        }
    }
}

/// Removes a retry when its client leaves or has its result.
struct Removal<'a>(&'a DashMap<RelayId, mpsc::Sender<RelayedItem>, ahash::RandomState>, RelayId);

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.0.remove(&self.1);
    }
}

/// The rejection of a `requestState` that is sound, of a call that this process does not have.
fn elsewhere(why: &'static str) -> Rejection {
    Rejection { message: why.into(), ..request_state::invalid() }
}

#[cfg(test)]
mod tests;
