//! What waits for the streams of a session: words of its servers and of the house, each for exactly one stream.
//!
//! Streams take from one queue (2025-11-25, transports, "Multiple Connections": no message goes to two), so whatever a
//! stream that leaves has not taken goes to another, or waits for the next one for a while. What is taken is gone: there
//! are no event ids here and nothing is sent again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::server::Server;

/// Streams that one session may have at a time.
pub const STREAMS: usize = 8;
/// What may wait while streams are open; when it is more, none of them is read any longer.
const CROWD: Room = Room { messages: 256, bytes: 4 << 20 };
/// What may wait for the next stream while none is open.
const PAUSE: Room = Room { messages: 64, bytes: 64 << 10 };

struct Room {
    messages: usize,
    bytes: usize,
}

/// A message on its way to the client.
#[derive(Clone)]
pub struct Item {
    /// Who says it; none for the gateway itself.
    pub server: Option<Arc<Server>>,
    pub message: Bytes,
}

#[derive(Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    news: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Item>,
    bytes: usize,
    streams: usize,
    /// Counts the times that all streams were ended.
    cuts: u64,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the session has {STREAMS} streams already; end one first")]
pub struct TooMany;

impl Outbox {
    /// Takes a message; false if it was dropped, since nobody takes any.
    pub fn put(&self, item: Item) -> bool {
        let mut queue = self.queue();
        let room = if queue.streams > 0 { CROWD } else { PAUSE };
        // One that says no more than one that waits already.
        if item.server.is_none()
            && queue.waiting.iter().any(|w| w.server.is_none() && w.message == item.message)
        {
            return true;
        }
        let size = item.message.len();
        let fits = queue.waiting.len() < room.messages && queue.bytes + size <= room.bytes;
        // A single long one is bounded by what a server may say at once.
        let alone = queue.waiting.is_empty() && queue.streams > 0;
        if !fits && !alone {
            if queue.streams > 0 {
                drop(queue);
                self.cut();
            }
            return false;
        }
        queue.bytes += size;
        queue.waiting.push_back(item);
        drop(queue);
        self.news.notify_one();
        true
    }

    /// Ends all streams, and forgets what waits.
    pub fn cut(&self) {
        let mut queue = self.queue();
        queue.waiting.clear();
        (queue.bytes, queue.streams) = (0, 0);
        queue.cuts += 1;
        drop(queue);
        self.news.notify_waiters();
    }

    pub fn attach(self: &Arc<Self>) -> Result<Stream, TooMany> {
        let mut queue = self.queue();
        if queue.streams >= STREAMS {
            return Err(TooMany);
        }
        queue.streams += 1;
        Ok(Stream { cuts: queue.cuts, outbox: self.clone() })
    }

    /// Whether somebody listens.
    pub fn is_open(&self) -> bool {
        self.queue().streams > 0
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of the lock panics")
    }
}

/// One stream of the client, as long as it is kept.
pub struct Stream {
    outbox: Arc<Outbox>,
    cuts: u64,
}

impl Stream {
    /// The next message for this stream; none when it was ended: nobody read it for too long, or its endpoint is gone.
    pub async fn next(&self) -> Option<Item> {
        loop {
            // Made before the look, so that nothing that comes after it is missed.
            let news = self.outbox.news.notified();
            {
                let mut queue = self.outbox.queue();
                if queue.cuts != self.cuts {
                    return None;
                }
                if let Some(item) = queue.waiting.pop_front() {
                    queue.bytes -= item.message.len();
                    let more = !queue.waiting.is_empty();
                    drop(queue);
                    if more {
                        self.outbox.news.notify_one();
                    }
                    return Some(item);
                }
            }
            news.await;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut queue = self.outbox.queue();
        if queue.cuts == self.cuts {
            queue.streams -= 1;
            if !queue.waiting.is_empty() {
                self.outbox.news.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house(message: &'static str) -> Item {
        Item { server: None, message: Bytes::from_static(message.as_bytes()) }
    }

    async fn said(stream: &Stream) -> Bytes {
        stream.next().await.expect("something waits").message
    }

    #[tokio::test]
    async fn each_message_goes_to_one_stream_and_none_is_lost_with_a_stream() {
        let outbox = Arc::new(Outbox::default());
        let (one, two) = (outbox.attach().expect("room"), outbox.attach().expect("room"));
        for message in ["a", "b", "c", "d"] {
            assert!(outbox.put(house(message)));
        }
        assert_eq!((said(&one).await, said(&two).await), ("a".into(), "b".into()));
        drop(one);
        assert_eq!(said(&two).await, "c");
        drop(two);
        assert!(!outbox.is_open());
        assert!(outbox.put(house("e")), "it waits for the next stream");
        let three = outbox.attach().expect("room");
        assert_eq!((said(&three).await, said(&three).await), ("d".into(), "e".into()));
    }

    #[tokio::test]
    async fn a_stream_that_waits_is_woken_when_the_one_that_was_called_leaves() {
        let outbox = Arc::new(Outbox::default());
        let (one, two) = (outbox.attach().expect("room"), outbox.attach().expect("room"));
        let mut first = Box::pin(one.next());
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = Box::pin(two.next());
        assert!(futures::poll!(&mut second).is_pending());
        outbox.put(house("a"));
        drop(first);
        drop(one);
        assert_eq!(second.await.expect("it is woken").message, "a");
    }

    #[test]
    fn a_session_has_so_many_streams_and_no_more() {
        let outbox = Arc::new(Outbox::default());
        let mut streams: Vec<Stream> = (0..STREAMS).map(|_| outbox.attach().expect("room")).collect();
        assert_eq!(outbox.attach().err(), Some(TooMany));
        streams.pop();
        assert!(outbox.attach().is_ok());
    }

    #[tokio::test]
    async fn what_nobody_reads_is_bounded() {
        let outbox = Arc::new(Outbox::default());
        let stuck = outbox.attach().expect("room");
        let long = Item { server: None, message: Bytes::from(vec![b'x'; CROWD.bytes + 1]) };
        assert!(outbox.put(long), "one long message alone is none too many");
        assert!(!outbox.put(house("a")));
        assert!(stuck.next().await.is_none(), "it ends");
        drop(stuck);
        assert!(!outbox.is_open());
        let mut kept = 0;
        while outbox.put(Item { server: None, message: Bytes::from(format!("{kept}")) }) {
            kept += 1;
        }
        assert_eq!(kept, PAUSE.messages);
        let next = outbox.attach().expect("room");
        assert_eq!(said(&next).await, "0");
    }

    #[tokio::test]
    async fn the_house_says_nothing_twice() {
        let outbox = Arc::new(Outbox::default());
        let stream = outbox.attach().expect("room");
        for message in ["a", "a", "b", "a"] {
            assert!(outbox.put(house(message)));
        }
        assert_eq!((said(&stream).await, said(&stream).await), ("a".into(), "b".into()));
        assert!(futures::poll!(Box::pin(stream.next())).is_pending());
    }
}
