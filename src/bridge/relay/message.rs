//! What gateway processes send each other.

use std::time::Duration;

use bytes::Bytes;
use mcp::{Reason, Rejection};
use serde::{Deserialize, Serialize};

use super::RelayId;
use crate::store::parking::{Digest, ParkingId};
use crate::store::process_messages::ProcessId;
use crate::streams::StreamItem;

/// A message between two processes.
#[derive(Serialize, Deserialize)]
pub(super) struct ProcessMessage {
    pub to: ProcessId,
    pub from: ProcessId,
    pub id: RelayId,
    pub content: Content,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Content {
    Retry(RelayedRetry),
    ClientLeft,
    Item(RelayedItem),
    /// For who has asked for [`PeerMessage`]s.
    Other(String),
}

/// A message of another process that is about no retry.
pub struct PeerMessage {
    pub from: ProcessId,
    pub id: RelayId,
    pub text: String,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct RelayedRetry {
    pub place: ParkingId,
    pub owner: Digest,
    /// The id of the client's request, as written.
    pub id: String,
    /// The progress token, as written.
    pub token: Option<String>,
    pub answers: String,
    pub authorization: Option<Vec<u8>>,
}

/// An item of the client's stream.
#[derive(Serialize, Deserialize)]
pub(super) enum RelayedItem {
    Message(String),
    Final(String),
    Rejected(RelayedRejection),
    Accepted,
    /// The call goes on.
    Alive,
}

#[derive(Serialize, Deserialize)]
pub(super) struct RelayedRejection {
    status: u16,
    code: i64,
    message: String,
    data: Option<String>,
    reason: String,
    retry_after: Option<Duration>,
}

impl RelayedItem {
    pub fn of(item: StreamItem) -> Self {
        // Messages are JSON, and so UTF-8.
        let text = |message: Bytes| String::from_utf8_lossy(&message).into_owned();
        match item {
            StreamItem::Message(message) => Self::Message(text(message)),
            StreamItem::Final(message) => Self::Final(text(message)),
            // Calls have no endpoint.
            StreamItem::Accepted | StreamItem::Endpoint(_) => Self::Accepted,
            StreamItem::Rejected(rejection) => Self::Rejected(RelayedRejection {
                status: rejection.status,
                code: rejection.code,
                message: rejection.message.into_owned(),
                data: rejection.data,
                reason: rejection.reason.as_str().into(),
                retry_after: rejection.retry_after,
            }),
        }
    }

    pub fn into_item(self) -> StreamItem {
        match self {
            Self::Message(message) => StreamItem::Message(message.into()),
            Self::Final(message) => StreamItem::Final(message.into()),
            Self::Accepted | Self::Alive => StreamItem::Accepted,
            Self::Rejected(rejected) => {
                // A process of another release may have other reasons.
                let reason = Reason::ALL.iter().find(|reason| reason.as_str() == rejected.reason);
                let reason = reason.copied().unwrap_or(Reason::Internal);
                let mut rejection = Rejection::new(rejected.status, rejected.code, reason, rejected.message);
                rejection.data = rejected.data;
                rejection.retry_after = rejected.retry_after;
                StreamItem::Rejected(Box::new(rejection))
            }
        }
    }
}
