//! The body of a response of the adapter: pieces that come over a channel.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

/// Ends when all its senders are gone.
pub(super) struct EventBody(mpsc::Receiver<Bytes>);

impl EventBody {
    pub fn of(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self(pieces)
    }

    /// A body of this text alone.
    pub fn text(text: Bytes) -> Self {
        let (out, pieces) = mpsc::channel(1);
        if !text.is_empty() {
            out.try_send(text).expect("there is room for one");
        }
        Self(pieces)
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
