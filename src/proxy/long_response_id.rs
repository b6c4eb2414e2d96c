//! The id in a response that is too long to hold. It is found at any position, compared with the id that
//! was sent, and replaced by the client's own while the rest streams. A response to another request is
//! rejected as soon as this is known.
//!
//! The scanner follows strings and brackets and knows the members of the outermost object. Deeper content
//! is left to the client.

use bytes::{BufMut, Bytes, BytesMut};

use crate::upstream::{UpstreamError, WireId};
use mcp::jsonrpc::message;

/// Bytes of a key, and of an id, that are kept for the comparison.
const MAX_ID: usize = 256;

pub struct ResponseIdScanner {
    wire: WireId,
    /// The client's own id, as written.
    own: Bytes,
    state: ScanState,
    depth: usize,
    /// In a string that is no key and no id; the second: after a backslash.
    string: bool,
    escaped: bool,
    /// The key or id that is being read, as written.
    token: Vec<u8>,
    /// The next value is the id.
    of_id: bool,
    found: bool,
    /// `result` or `error` has come: a response has exactly one (JSON-RPC 2.0 §5).
    answers: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ScanState {
    /// Before the message.
    Begin,
    /// A key may follow.
    Key,
    InKey,
    Colon,
    /// The value of a member of the outermost object follows.
    Value,
    /// In a value, or after it.
    Rest,
    /// In the value that is the id.
    InId,
    /// After the message.
    End,
}

impl ResponseIdScanner {
    pub fn new(wire: WireId, own: Bytes) -> Self {
        Self {
            wire,
            own,
            state: ScanState::Begin,
            depth: 0,
            string: false,
            escaped: false,
            token: Vec::new(),
            of_id: false,
            found: false,
            answers: false,
        }
    }

    /// Whether the id has come: the passing content answers this request.
    pub fn found(&self) -> bool {
        self.found
    }

    /// Takes the next chunk and returns it with the client's id in the place of the other.
    pub fn push(&mut self, piece: &[u8]) -> Result<BytesMut, UpstreamError> {
        let mut out = BytesMut::with_capacity(piece.len() + self.token.len() + self.own.len());
        let mut at = 0;
        while at < piece.len() {
            at += self.step(&piece[at..], &mut out)?;
        }
        Ok(out)
    }

    /// The message has ended: it was complete and had its id.
    pub fn end(&self) -> Result<(), UpstreamError> {
        match (self.state, self.found) {
            (ScanState::End, true) if !self.answers => {
                Err(invalid_response("the answer has neither a result nor an error"))
            }
            (ScanState::End, true) => Ok(()),
            (ScanState::End, false) => {
                Err(UpstreamError::ClientCaused("it answers no request: it has no id".into()))
            }
            _ => Err(invalid_response("the answer ends in the middle")),
        }
    }

    /// Processes some bytes, at least one, and returns how many.
    fn step(&mut self, text: &[u8], out: &mut BytesMut) -> Result<usize, UpstreamError> {
        if self.string {
            return Ok(self.in_string(text, out));
        }
        let byte = text[0];
        match (self.state, byte) {
            (ScanState::InKey, _) => {
                self.take(byte)?;
                if self.closes(byte) {
                    out.put_slice(&self.token);
                    self.key()?;
                    self.state = ScanState::Colon;
                }
                return Ok(1);
            }
            (ScanState::InId, _) if self.token[0] == b'"' => {
                self.take(byte)?;
                if self.closes(byte) {
                    self.check_id(out)?;
                }
                return Ok(1);
            }
            (ScanState::InId, b',' | b'}' | b' ' | b'\n' | b'\r' | b'\t') => {
                self.check_id(out)?;
                // The byte that ends it is processed in the next step.
                return Ok(0);
            }
            (ScanState::InId, _) => {
                self.take(byte)?;
                return Ok(1);
            }
            (_, b' ' | b'\n' | b'\r' | b'\t') => {}
            (ScanState::Begin, b'{') => (self.state, self.depth) = (ScanState::Key, 1),
            (ScanState::Begin, _) => return Err(invalid_response("the answer is not a JSON object")),
            (ScanState::Key, b'"') => {
                self.token.clear();
                self.take(byte)?;
                self.state = ScanState::InKey;
                return Ok(1);
            }
            (ScanState::Key, b'}') => self.state = ScanState::End,
            (ScanState::Colon, b':') => self.state = ScanState::Value,
            (ScanState::Value, _) if self.of_id => {
                if self.found {
                    return Err(invalid_response("the answer has two ids"));
                }
                self.token.clear();
                self.take(byte)?;
                self.state = ScanState::InId;
                return Ok(1);
            }
            (ScanState::Value, _) => {
                self.state = ScanState::Rest;
                return Ok(0);
            }
            (ScanState::Rest, b'"') => self.string = true,
            (ScanState::Rest, b'{' | b'[') => self.depth += 1,
            (ScanState::Rest, b'}' | b']') => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.state = ScanState::End;
                }
            }
            (ScanState::Rest, b',') if self.depth == 1 => self.state = ScanState::Key,
            (ScanState::Rest, _) => {}
            _ => return Err(invalid_response("the answer is not a JSON-RPC message")),
        }
        out.put_u8(byte);
        Ok(1)
    }

    /// Processes a string, or the part of it that is here.
    fn in_string(&mut self, text: &[u8], out: &mut BytesMut) -> usize {
        if std::mem::take(&mut self.escaped) {
            out.put_u8(text[0]);
            return 1;
        }
        let Some(at) = memchr::memchr2(b'"', b'\\', text) else {
            out.put_slice(text);
            return text.len();
        };
        out.put_slice(&text[..=at]);
        match text[at] {
            b'"' => self.string = false,
            _ => self.escaped = true,
        }
        at + 1
    }

    fn take(&mut self, byte: u8) -> Result<(), UpstreamError> {
        if self.token.len() == MAX_ID {
            return Err(invalid_response("a key or an id of the answer is too long"));
        }
        self.token.push(byte);
        Ok(())
    }

    /// Whether the byte that was just taken ends the string that it is in.
    fn closes(&mut self, byte: u8) -> bool {
        if std::mem::take(&mut self.escaped) {
            return false;
        }
        self.escaped = byte == b'\\';
        byte == b'"'
    }

    /// Handles the key of a member of the message.
    fn key(&mut self) -> Result<(), UpstreamError> {
        let key = message::string(&self.token).unwrap_or_default();
        self.of_id = key == "id";
        match key.as_str() {
            "result" | "error" if std::mem::replace(&mut self.answers, true) => {
                Err(invalid_response("the answer has more than one result or error"))
            }
            "method" => Err(invalid_response("the answer has a method")),
            _ => Ok(()),
        }
    }

    fn check_id(&mut self, out: &mut BytesMut) -> Result<(), UpstreamError> {
        if !message::same_id(&self.token, &self.wire) {
            return Err(UpstreamError::UnexpectedServer);
        }
        out.put_slice(&self.own);
        (self.found, self.of_id, self.state) = (true, false, ScanState::Rest);
        Ok(())
    }
}

fn invalid_response(message: &str) -> UpstreamError {
    UpstreamError::InvalidResponse(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output for a text that arrives in chunks of this size.
    fn scanned(text: &str, wire: WireId, size: usize) -> Result<String, UpstreamError> {
        let mut scan = ResponseIdScanner::new(wire, Bytes::from_static(b"7"));
        let mut all = BytesMut::new();
        for piece in text.as_bytes().chunks(size) {
            all.unsplit(scan.push(piece)?);
        }
        scan.end()?;
        Ok(String::from_utf8(all.to_vec()).expect("UTF-8"))
    }

    #[test]
    fn the_id_is_replaced_wherever_it_stands_and_however_it_comes() {
        let wire = WireId::next();
        let raw = wire.as_str();
        let escaped = raw.replacen("tg", "\\u0074g", 1);
        for (before, after) in [
            (r#"{"jsonrpc":"2.0","id":ID,"result":{"id":1,"x":"\"id\":2"}}"#, None),
            (r#" { "result" : { "id" : [ 1 , "}" ] } , "jsonrpc" : "2.0" , "id" : ID } "#, None),
            (r#"{"error":{},"id":ID}"#, None),
            (r#"{"result":"\\\"","x\"y":null,"id":ID,"z":[{"id":"ID"}]}"#, Some(1)),
            (r#"{"\u0069d":ID,"result":{}}"#, None),
        ] {
            let count = after.unwrap_or(usize::MAX);
            for id in [raw, escaped.as_str()] {
                let text = before.replacen("ID", id, count);
                let expected = before.replacen("ID", "7", count);
                for size in [1, 2, 3, 7, text.len()] {
                    assert_eq!(
                        scanned(&text, wire, size).as_deref(),
                        Ok(expected.as_str()),
                        "{text} by {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_no_answer_to_the_request_is_told() {
        let wire = WireId::next();
        let other = WireId::next();
        for text in [
            r#"{"result":{},"id":OTHER}"#,
            r#"{"result":{"id":ID}}"#,
            r#"{"result":{},"id":null}"#,
            r#"{"result":{},"id":1}"#,
            r#"{"result":{},"id":{"id":ID}}"#,
            r#"{"result":{},"id":[ID]}"#,
            r#"{"id":ID,"result":{},"id":ID}"#,
            r#"{"id":ID,"\u0069d":OTHER}"#,
            r#"{"id":ID,"result":{}"#,
            r#"{"id":ID}"#,
            r#"{"id":ID,"result":{},"error":{}}"#,
            r#"{"id":ID,"result":{},"r\u0065sult":{}}"#,
            r#"{"id":ID,"method":"m","result":{}}"#,
            r#"{"id":ID,"result":{}}{}"#,
            r#"[{"id":ID}]"#,
            r#"{"id" ID}"#,
            r#"{"id":}"#,
            "",
        ] {
            let text = text.replace("ID", wire.as_str()).replace("OTHER", other.as_str());
            for size in [1, 5, 1000] {
                assert!(scanned(&text, wire, size).is_err(), "{text} by {size}");
            }
        }
    }
}
