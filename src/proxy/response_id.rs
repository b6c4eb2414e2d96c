//! Which request a response belongs to, by the id that was sent, and how it gets the client's own id.

use bytes::{Bytes, BytesMut};
use mcp::json::splice::splice;

use crate::upstream::UpstreamError;
use mcp::jsonrpc::message;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdOwner {
    /// It has the id of the request.
    Ours,
    /// An error about a request that the server could not read: its id is null or missing (JSON-RPC 2.0
    /// §5).
    Nobodys,
}

/// Which request this response belongs to; `id` was sent.
pub fn of(read: &message::ServerMessage, message: &[u8], id: &[u8]) -> Result<IdOwner, UpstreamError> {
    match read.id {
        Some(got) if message::same_id(got.of(message), id) => Ok(IdOwner::Ours),
        None if read.error.is_some() => Ok(IdOwner::Nobodys),
        Some(got) if read.error.is_some() && got.of(message) == b"null" => Ok(IdOwner::Nobodys),
        _ => Err(UpstreamError::UnexpectedServer),
    }
}

/// The response under the client's id. If it cannot be changed in place, the new buffer has `length` bytes
/// of capacity.
pub fn with_client_id(message: Bytes, read: &message::ServerMessage, id: &[u8], length: usize) -> Bytes {
    let Some(span) = read.id else {
        let begin = memchr::memchr(b'{', &message).map_or(0, |at| at + 1);
        return [&message[..begin], b"\"id\":", id, b",", &message[begin..]].concat().into();
    };
    match message.try_into_mut() {
        Ok(message) if message.capacity() >= length => splice(message, span, id),
        shared => {
            let message: Bytes = shared.map_or_else(|shared| shared, BytesMut::freeze);
            let needed = message.len() - span.len() + id.len();
            let mut out = BytesMut::with_capacity(needed.max(length));
            out.extend_from_slice(&message[..span.start]);
            out.extend_from_slice(id);
            out.extend_from_slice(&message[span.end..]);
            out.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gets_the_clients_id_byte_for_byte() {
        for (message, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":"sent","result":{"id":"sent"}}"#,
                r#"{"jsonrpc":"2.0","id":-1,"result":{"id":"sent"}}"#,
            ),
            (
                r#"{"result":{},"id": "\u0073ent" ,"jsonrpc":"2.0"}"#,
                r#"{"result":{},"id": -1 ,"jsonrpc":"2.0"}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":1}}"#,
                r#"{"jsonrpc":"2.0","id":-1,"error":{"code":1}}"#,
            ),
            (r#" {"jsonrpc":"2.0","error":{"code":1}}"#, r#" {"id":-1,"jsonrpc":"2.0","error":{"code":1}}"#),
        ] {
            let message = Bytes::copy_from_slice(message.as_bytes());
            let read = message::read(&message).expect("a message");
            assert!(of(&read, &message, b"\"sent\"").is_ok(), "{message:?}");
            for length in [0, 200] {
                assert_eq!(with_client_id(message.clone(), &read, b"-1", length), expected);
                let alone = Bytes::copy_from_slice(&message);
                assert_eq!(with_client_id(alone, &read, b"-1", length), expected);
            }
        }
    }

    #[test]
    fn only_an_error_may_name_no_request() {
        for (message, expected) in [
            (r#"{"jsonrpc":"2.0","id":"sent","result":{}}"#, Some(IdOwner::Ours)),
            (r#"{"jsonrpc":"2.0","id":"sent","error":{}}"#, Some(IdOwner::Ours)),
            (r#"{"jsonrpc":"2.0","id":null,"error":{}}"#, Some(IdOwner::Nobodys)),
            (r#"{"jsonrpc":"2.0","error":{}}"#, Some(IdOwner::Nobodys)),
            (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, None),
            (r#"{"jsonrpc":"2.0","result":{}}"#, None),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, None),
            (r#"{"jsonrpc":"2.0","id":1,"error":{}}"#, None),
        ] {
            let read = message::read(message.as_bytes()).expect("a message");
            assert_eq!(of(&read, message.as_bytes(), b"\"sent\"").ok(), expected, "{message}");
        }
    }
}
