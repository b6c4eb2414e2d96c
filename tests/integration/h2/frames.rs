//! HTTP/2 by hand: a client whose every byte the test chooses.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::in_time;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame as it goes over the wire (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Headers without compression (RFC 7541 §6.2.2); names and values shorter than 127 bytes.
pub fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in list {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).ok().filter(|len| *len < 127).expect("a short text"));
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

pub struct Raw {
    reader: OwnedReadHalf,
    pub writer: OwnedWriteHalf,
}

impl Raw {
    /// A connection with no bytes sent yet.
    pub async fn silent(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the gateway listens");
        let (reader, writer) = stream.into_split();
        Self { reader, writer }
    }

    /// One with no bytes sent yet, whose receive buffer is as small as the system allows: the gateway's
    /// data stays in the gateway until it is read.
    pub async fn narrow(port: u16) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(1).expect("a TCP socket has the option");
        let stream = socket.connect(([127, 0, 0, 1], port).into()).await.expect("the gateway listens");
        let (reader, writer) = stream.into_split();
        Self { reader, writer }.begun().await
    }

    /// One that has sent the preface and empty settings.
    pub async fn open(port: u16) -> Self {
        Self::silent(port).await.begun().await
    }

    async fn begun(self) -> Self {
        let mut raw = self;
        assert!(raw.send(PREFACE).await && raw.send(&frame(SETTINGS, 0, 0, &[])).await, "the gateway reads");
        raw
    }

    /// Sends bytes; `false` when the gateway accepts no more.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.writer.write_all(bytes).await.is_ok()
    }

    /// Sends a ping; `false` when the gateway accepts no more.
    pub async fn ping(&mut self) -> bool {
        self.send(&frame(PING, 0, 0, &[0; 8])).await
    }

    /// The next frame: kind, flags, stream and payload; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        in_time(async {
            let mut head = [0; 9];
            self.reader.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.reader.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Some((head[3], head[4], stream, payload))
        })
        .await
    }

    /// Reads to the end of the connection; returns the reason of the last GOAWAY, if there was one.
    pub async fn reason(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some((kind, _, _, payload)) = self.frame().await {
            if kind == GOAWAY {
                reason = Some(u32::from_be_bytes(payload[4..8].try_into().expect("four bytes")));
            }
        }
        reason
    }
}
