//! Messages that wait for the streams of a session, from its servers and from the gateway. Each goes to
//! exactly one stream.
//!
//! Streams take from one queue (2025-11-25, transports, "Multiple Connections": no message goes to two). So
//! what a closed stream has not taken goes to another, or waits for the next one for a while. What is taken
//! is gone: there are no event ids here and nothing is sent again.
//!
//! A server that sends more than the client takes waits until there is space, as on a connection of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::server::Server;

/// Streams that one session may have at a time.
pub const STREAMS: usize = 8;
/// What may wait while streams are open; further senders wait too.
const OPEN_LIMIT: QueueLimit = QueueLimit { messages: 256, bytes: 4 << 20 };
/// What may wait for the next stream while none is open; more is lost.
const DETACHED_LIMIT: QueueLimit = QueueLimit { messages: 64, bytes: 64 << 10 };

struct QueueLimit {
    messages: usize,
    bytes: usize,
}

/// A message on its way to the client.
#[derive(Clone)]
pub struct OutboxItem {
    /// The sender; `None` for the gateway itself.
    pub server: Option<Arc<Server>>,
    pub message: Bytes,
}

#[derive(Default)]
pub struct Outbox {
    queue: Mutex<OutboxQueue>,
    ready: Notify,
    /// Notified when a message was taken.
    space: Notify,
}

#[derive(Default)]
struct OutboxQueue {
    waiting: VecDeque<OutboxItem>,
    bytes: usize,
    streams: usize,
    /// Counts the times that all streams were closed.
    epoch: u64,
    /// Counts the messages that were taken.
    taken: u64,
    /// How long nothing may be taken before the streams count as dead.
    idle_timeout: Duration,
}

impl OutboxQueue {
    fn fits(&self, size: usize) -> bool {
        let space = if self.streams > 0 { OPEN_LIMIT } else { DETACHED_LIMIT };
        let fits = self.waiting.len() < space.messages && self.bytes + size <= space.bytes;
        // A single long message is bounded by the size limit of a server's message.
        fits || self.waiting.is_empty() && self.streams > 0
    }
}

/// The result of offering a message.
enum Offer {
    Accepted,
    /// There is no stream to take any.
    Lost,
    /// There is no space for it now.
    Full {
        item: OutboxItem,
        taken: u64,
        patience: Duration,
    },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the session has {STREAMS} streams already; end one first")]
pub struct TooManyStreams;

impl Outbox {
    /// Queues a message of a server, as soon as there is space. Returns false if it was lost, since there is
    /// no stream.
    pub async fn send(&self, mut item: OutboxItem) -> bool {
        loop {
            // Created before the check, so that no later notification is missed.
            let space = self.space.notified();
            match self.offer(item) {
                Offer::Accepted => return true,
                Offer::Lost => return false,
                Offer::Full { item: back, taken, patience: timeout } => {
                    item = back;
                    // Streams of which none takes anything are dead.
                    if tokio::time::timeout(timeout, space).await.is_err() && self.queue().taken == taken {
                        self.close_streams();
                    }
                }
            }
        }
    }

    fn offer(&self, item: OutboxItem) -> Offer {
        let mut queue = self.queue();
        let size = item.message.len();
        if !queue.fits(size) {
            return match queue.streams {
                0 => Offer::Lost,
                _ => Offer::Full { item, taken: queue.taken, patience: queue.idle_timeout },
            };
        }
        queue.bytes += size;
        queue.waiting.push_back(item);
        let more = queue.fits(0);
        drop(queue);
        self.ready.notify_one();
        if more {
            // Others may wait for the same space.
            self.space.notify_one();
        }
        Offer::Accepted
    }

    /// Queues a message of the gateway, unless the same one is waiting. They are few: there is always space.
    pub fn send_own(&self, message: Bytes) {
        let mut queue = self.queue();
        if queue.waiting.iter().any(|waits| waits.server.is_none() && waits.message == message) {
            return;
        }
        queue.bytes += message.len();
        queue.waiting.push_back(OutboxItem { server: None, message });
        drop(queue);
        self.ready.notify_one();
    }

    /// Closes all streams, and drops what waits.
    pub fn close_streams(&self) {
        let mut queue = self.queue();
        queue.waiting.clear();
        (queue.bytes, queue.streams) = (0, 0);
        queue.epoch += 1;
        drop(queue);
        self.ready.notify_waiters();
        self.space.notify_waiters();
    }

    /// Attaches another stream; `timeout` is how long a client may take to read a message.
    pub fn attach(self: &Arc<Self>, timeout: Duration) -> Result<OutboxStream, TooManyStreams> {
        let mut queue = self.queue();
        if queue.streams >= STREAMS {
            return Err(TooManyStreams);
        }
        queue.streams += 1;
        queue.idle_timeout = timeout;
        Ok(OutboxStream { epoch: queue.epoch, outbox: self.clone() })
    }

    /// Whether a stream is open.
    pub fn is_open(&self) -> bool {
        self.queue().streams > 0
    }

    fn queue(&self) -> MutexGuard<'_, OutboxQueue> {
        self.queue.lock().expect("no holder of the lock panics")
    }
}

/// One stream of the client, as long as it is kept.
pub struct OutboxStream {
    outbox: Arc<Outbox>,
    epoch: u64,
}

impl OutboxStream {
    /// The next message for this stream. `None` when it was closed: not read for too long, or its endpoint is
    /// gone.
    pub async fn next(&self) -> Option<OutboxItem> {
        loop {
            // Created before the check, so that no later notification is missed.
            let ready = self.outbox.ready.notified();
            {
                let mut queue = self.outbox.queue();
                if queue.epoch != self.epoch {
                    return None;
                }
                if let Some(item) = queue.waiting.pop_front() {
                    queue.bytes -= item.message.len();
                    queue.taken += 1;
                    let more = !queue.waiting.is_empty();
                    drop(queue);
                    self.outbox.space.notify_one();
                    if more {
                        self.outbox.ready.notify_one();
                    }
                    return Some(item);
                }
            }
            ready.await;
        }
    }
}

impl Drop for OutboxStream {
    fn drop(&mut self) {
        let mut queue = self.outbox.queue();
        if queue.epoch == self.epoch {
            queue.streams -= 1;
            let (more, last) = (!queue.waiting.is_empty(), queue.streams == 0);
            drop(queue);
            if more {
                self.outbox.ready.notify_one();
            }
            if last {
                // There is no stream any more: waiting senders must notice.
                self.outbox.space.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn item(message: impl Into<Bytes>) -> OutboxItem {
        OutboxItem { server: None, message: message.into() }
    }

    async fn next_message(stream: &OutboxStream) -> Bytes {
        stream.next().await.expect("something waits").message
    }

    #[tokio::test]
    async fn each_message_goes_to_one_stream_and_none_is_lost_with_a_stream() {
        let outbox = Arc::new(Outbox::default());
        let (one, two) =
            (outbox.attach(LONG).expect("a free place"), outbox.attach(LONG).expect("a free place"));
        for message in ["a", "b", "c", "d"] {
            assert!(outbox.send(item(message)).await);
        }
        assert_eq!((next_message(&one).await, next_message(&two).await), ("a".into(), "b".into()));
        drop(one);
        assert_eq!(next_message(&two).await, "c");
        drop(two);
        assert!(!outbox.is_open());
        assert!(outbox.send(item("e")).await, "it waits for the next stream");
        let three = outbox.attach(LONG).expect("a free place");
        assert_eq!((next_message(&three).await, next_message(&three).await), ("d".into(), "e".into()));
    }

    #[tokio::test]
    async fn a_waiting_stream_is_woken_when_the_notified_one_closes() {
        let outbox = Arc::new(Outbox::default());
        let (one, two) =
            (outbox.attach(LONG).expect("a free place"), outbox.attach(LONG).expect("a free place"));
        let mut first = Box::pin(one.next());
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = Box::pin(two.next());
        assert!(futures::poll!(&mut second).is_pending());
        assert!(outbox.send(item("a")).await);
        drop(first);
        drop(one);
        assert_eq!(second.await.expect("it is woken").message, "a");
    }

    #[test]
    fn a_session_has_so_many_streams_and_no_more() {
        let outbox = Arc::new(Outbox::default());
        let mut streams: Vec<OutboxStream> =
            (0..STREAMS).map(|_| outbox.attach(LONG).expect("a free place")).collect();
        assert_eq!(outbox.attach(LONG).err(), Some(TooManyStreams));
        streams.pop();
        assert!(outbox.attach(LONG).is_ok());
    }

    #[tokio::test]
    async fn servers_that_send_more_than_is_taken_wait_and_lose_nothing() {
        const EACH: usize = 3 * OPEN_LIMIT.messages;
        let outbox = Arc::new(Outbox::default());
        let stream = outbox.attach(LONG).expect("a free place");
        let senders: Vec<_> = (0..3)
            .map(|server| {
                let outbox = outbox.clone();
                tokio::spawn(async move {
                    for number in 0..EACH {
                        assert!(outbox.send(item(format!("{server} {number}"))).await);
                    }
                })
            })
            .collect();
        let mut next = [0; 3];
        for _ in 0..3 * EACH {
            let message = String::from_utf8(next_message(&stream).await.into()).expect("a text");
            let (server, number) = message.split_once(' ').expect("two numbers");
            let server: usize = server.parse().expect("a number");
            assert_eq!(number, next[server].to_string(), "in their order");
            next[server] += 1;
        }
        for sender in senders {
            sender.await.expect("none was refused");
        }
    }

    #[tokio::test]
    async fn a_sender_that_waits_for_the_last_stream_notices_its_close() {
        let outbox = Arc::new(Outbox::default());
        let stream = outbox.attach(LONG).expect("a free place");
        assert!(
            outbox.send(item(vec![b'x'; OPEN_LIMIT.bytes + 1])).await,
            "one long message alone is none too many"
        );
        let mut waits = Box::pin(outbox.send(item("a")));
        assert!(futures::poll!(&mut waits).is_pending());
        drop(stream);
        assert!(!waits.await, "there is no space for it without a stream");
    }

    #[tokio::test]
    async fn streams_that_take_nothing_for_too_long_end() {
        let outbox = Arc::new(Outbox::default());
        let stuck = outbox.attach(Duration::from_millis(1)).expect("a free place");
        assert!(outbox.send(item(vec![b'x'; OPEN_LIMIT.bytes + 1])).await);
        assert!(outbox.send(item("a")).await, "what waited is forgotten, and this waits for the next stream");
        assert!(stuck.next().await.is_none(), "it ends");
        drop(stuck);
        assert!(!outbox.is_open());
        let mut kept = 1;
        while outbox.send(item(format!("{kept}"))).await {
            kept += 1;
        }
        assert_eq!(kept, DETACHED_LIMIT.messages);
        let next = outbox.attach(LONG).expect("a free place");
        assert_eq!(next_message(&next).await, "a");
    }

    #[tokio::test]
    async fn the_gateway_queues_no_message_twice() {
        let outbox = Arc::new(Outbox::default());
        let stream = outbox.attach(LONG).expect("a free place");
        for message in ["a", "a", "b", "a"] {
            outbox.send_own(Bytes::from_static(message.as_bytes()));
        }
        assert_eq!((next_message(&stream).await, next_message(&stream).await), ("a".into(), "b".into()));
        assert!(futures::poll!(Box::pin(stream.next())).is_pending());
    }
}
