//! Lines of JSON as bytes: split at their ends and at the size limit, parsed, and encoded.
//!
//! Nothing here waits, and there is no state from one line to the next.

use std::borrow::Cow;
use std::num::NonZero;
use std::ops::Range;
use std::time::{Duration, Instant};
use std::{io, mem};

use bytes::{Buf, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt};

pub(crate) const CHUNK: usize = 16 << 10;
/// How much of a line that is too long is kept, for the log.
pub(crate) const HEAD: usize = 4 << 10;
/// Invalid lines and lines of stderr that are logged in a second.
const MAX_LOGGED: u32 = 100;

#[derive(Deserialize)]
pub(crate) struct RawMessage<'a> {
    #[serde(borrow)]
    pub jsonrpc: Option<&'a RawValue>,
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub params: Option<&'a RawValue>,
    #[serde(borrow)]
    pub result: Option<&'a RawValue>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

/// The params of a notification that are read.
#[derive(Default, Deserialize)]
pub(crate) struct ParamsView<'a> {
    #[serde(borrow, rename = "progressToken")]
    pub token: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestId")]
    pub request: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

/// The part of a notification's `_meta` that is read.
#[derive(Default, Deserialize)]
struct MetaView<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
    subscription: Option<&'a RawValue>,
}

impl<'a> ParamsView<'a> {
    /// The id of the `subscriptions/listen` that it belongs to.
    pub fn subscription(&self) -> Option<&'a RawValue> {
        let meta = self.meta.filter(|meta| meta.get().starts_with('{'))?;
        serde_json::from_str::<MetaView<'a>>(meta.get()).ok()?.subscription
    }
}

/// One message as one line; `params` is one valid JSON value, and the value in `token` is replaced by the
/// call's id.
pub(crate) fn encode(
    id: Option<u64>,
    method: &str,
    params: Option<&[u8]>,
    token: Option<Range<usize>>,
) -> Vec<u8> {
    let mut line = Vec::with_capacity(method.len() + params.map_or(0, <[u8]>::len) + 96);
    line.extend_from_slice(br#"{"jsonrpc":"2.0","#);
    if let Some(id) = id {
        line.extend_from_slice(format!(r#""id":{id},"#).as_bytes());
    }
    line.extend_from_slice(br#""method":"#);
    quote(&mut line, method);
    if let Some(params) = params {
        debug_assert!(serde_json::from_slice::<&RawValue>(params).is_ok(), "params were read before");
        line.extend_from_slice(br#","params":"#);
        let start = line.len();
        match (id, token) {
            (Some(id), Some(token)) => line.extend(splice(params, &token, id.to_string().as_bytes())),
            _ => line.extend_from_slice(params),
        }
        // JSON has raw line breaks only between its tokens, where a space means the same.
        for byte in &mut line[start..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
    line.extend_from_slice(b"}\n");
    line
}

pub(crate) fn quote(line: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(line, text).expect("a string is JSON and a Vec takes it");
}

pub(crate) fn splice(text: &[u8], span: &Range<usize>, with: &[u8]) -> Vec<u8> {
    [&text[..span.start], with, &text[span.end..]].concat()
}

/// The span in `line` of a value that was borrowed from it.
pub(crate) fn span_in(line: &[u8], value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr().addr() - line.as_ptr().addr();
    start..start + value.get().len()
}

pub(crate) enum LineRead {
    Line(Bytes),
    TooLong { head: Bytes, id: Option<u64> },
}

/// Reads lines of bounded length. A longer one is dropped up to its end.
pub(crate) struct LineReader<R> {
    from: R,
    max: usize,
    held: BytesMut,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub fn new(from: R, max: usize) -> Self {
        Self { from, max, held: BytesMut::new() }
    }

    pub async fn next(&mut self) -> io::Result<Option<LineRead>> {
        // The next line may be kept for long: it must not keep the memory of a long line with it.
        if self.held.is_empty() && self.held.capacity() > 4 * CHUNK {
            self.held = BytesMut::new();
        }
        let mut seen = 0;
        let mut long: Option<(Bytes, OversizeScan)> = None;
        loop {
            let found = memchr::memchr(b'\n', &self.held[seen..]).map(|at| seen + at);
            let end = found.unwrap_or(self.held.len());
            if long.is_some() || end > self.max {
                let (_, scan) = long.get_or_insert_with(|| {
                    (Bytes::copy_from_slice(&self.held[..end.min(HEAD)]), OversizeScan::default())
                });
                scan.feed(&self.held[..end]);
                self.held.advance(end);
                seen = 0;
            } else if found.is_none() {
                seen = end;
            } else {
                let line = self.held.split_to(end).freeze();
                self.held.advance(1);
                return Ok(Some(LineRead::Line(line)));
            }
            if found.is_none() {
                if self.held.capacity() - self.held.len() < CHUNK / 4 {
                    self.held.reserve(CHUNK);
                }
                if self.from.read_buf(&mut self.held).await? > 0 {
                    continue;
                }
                if long.is_none() {
                    let rest = self.held.split().freeze();
                    return Ok((!rest.is_empty()).then_some(LineRead::Line(rest)));
                }
            } else {
                self.held.advance(1);
            }
            return Ok(long.map(|(head, scan)| LineRead::TooLong { head, id: scan.id() }));
        }
    }
}

/// Finds the call of a line that cannot be kept or parsed: looks for a top-level `id`, at any place.
#[derive(Default)]
pub(crate) struct OversizeScan {
    depth: u32,
    quoted: bool,
    escaped: bool,
    key: Vec<u8>,
    word: Vec<u8>,
    id: Option<u64>,
    /// Not an object, or a request: its id is not ours.
    other: bool,
}

impl OversizeScan {
    pub fn feed(&mut self, text: &[u8]) {
        for &byte in text {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.quoted => self.escaped = true,
                b'"' => self.quoted = !self.quoted,
                _ if self.quoted => {}
                b'{' | b'[' => self.depth += 1,
                b':' if self.depth == 1 => self.key = mem::take(&mut self.word),
                b',' | b'}' | b']' => {
                    if self.depth == 1 {
                        self.member();
                    }
                    if byte != b',' {
                        self.depth = self.depth.saturating_sub(1);
                    }
                }
                b' ' | b'\t' | b'\r' => {}
                _ => self.other |= self.depth == 0,
            }
            // Long enough for the members that are looked for, and never longer.
            let counts = self.quoted || !b" \t\r,:{[".contains(&byte);
            if self.depth == 1 && counts && self.word.len() < 24 {
                self.word.push(byte);
            }
        }
    }

    fn member(&mut self) {
        let word = mem::take(&mut self.word);
        match self.key.as_slice() {
            b"\"id\"" => self.id = std::str::from_utf8(&word).ok().and_then(|word| word.parse().ok()),
            b"\"method\"" => self.other = true,
            _ => {}
        }
        self.key.clear();
    }

    pub fn id(&self) -> Option<u64> {
        self.id.filter(|_| !self.other)
    }
}

/// Limits log lines per second; the next one that is logged reports how many were suppressed, if any.
pub(crate) struct LogQuota {
    since: Instant,
    taken: u32,
    refused: u64,
}

impl LogQuota {
    pub fn new() -> Self {
        Self { since: Instant::now(), taken: 0, refused: 0 }
    }

    pub fn take(&mut self) -> Option<Option<NonZero<u64>>> {
        if self.since.elapsed() >= Duration::from_secs(1) {
            (self.since, self.taken) = (Instant::now(), 0);
        }
        self.taken += 1;
        if self.taken > MAX_LOGGED {
            self.refused += 1;
            return None;
        }
        Some(NonZero::new(mem::take(&mut self.refused)))
    }
}
