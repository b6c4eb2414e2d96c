//! Content codings of responses (RFC 9110 §8.4.1). The gateway requests `identity`, but some servers compress
//! anyway.
//!
//! The output is passed on in chunks of a fixed size. So a few bytes that expand to gigabytes cost no more
//! memory than the limits on responses allow. A window of up to 16 MiB (`br`) is used as far as data was
//! decoded into it.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use crate::upstream::UpstreamError;

/// Size of an output chunk.
const CHUNK: usize = 16 * 1024;

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

pub struct Decoder {
    coding: Coding,
    /// Input has come.
    begun: bool,
    /// The input so far is complete.
    over: bool,
}

enum Coding {
    Gzip(Decompress),
    /// `deflate` means the zlib format, but some servers send raw deflate. The first byte decides; none has
    /// come yet.
    Unknown,
    Deflate(Decompress),
    /// Without the large windows, which belong to another coding.
    Brotli(Box<Brotli>),
}

impl Decoder {
    /// The decoder for a response with these headers; `None` if it is not encoded.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, UpstreamError> {
        let mut codings = headers.get_all(CONTENT_ENCODING).iter();
        let Some(first) = codings.next() else { return Ok(None) };
        let coding = first.to_str().unwrap_or("?").trim().to_ascii_lowercase();
        let form = match coding.as_str() {
            // It is not allowed there, and means nothing (RFC 9110 §8.4.1).
            "" | "identity" if codings.next().is_none() => return Ok(None),
            "gzip" | "x-gzip" if codings.next().is_none() => Coding::Gzip(Decompress::new_gzip(15)),
            "deflate" if codings.next().is_none() => Coding::Unknown,
            "br" if codings.next().is_none() => Coding::Brotli(Box::new(Brotli::new_strict(
                StandardAlloc::default(),
                StandardAlloc::default(),
                StandardAlloc::default(),
            ))),
            _ => {
                let all: Vec<&str> =
                    headers.get_all(CONTENT_ENCODING).iter().map(|v| v.to_str().unwrap_or("?")).collect();
                let all: String = all.join(", ").chars().take(60).collect();
                return Err(UpstreamError::InvalidResponse(format!(
                    "its Content-Encoding is {all:?}, though identity was asked for; gzip, deflate and br are decoded too"
                )));
            }
        };
        Ok(Some(Self { coding: form, begun: false, over: false }))
    }

    /// Decodes a chunk of the body and passes the output on, in chunks of a bounded size, until one is
    /// rejected.
    pub fn decode(
        &mut self,
        mut input: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), UpstreamError>,
    ) -> Result<(), UpstreamError> {
        let Some(&first) = input.first() else { return Ok(()) };
        self.begun = true;
        if matches!(self.coding, Coding::Unknown) {
            // RFC 1950 §2.2: the method 8 with a window of at most 32 KiB. Raw deflate hardly begins so.
            let zlib = first & 0x0f == 8 && first >> 4 <= 7;
            self.coding = Coding::Deflate(Decompress::new(zlib));
        }
        let mut out = [0; CHUNK];
        loop {
            if self.over {
                match &mut self.coding {
                    _ if input.is_empty() => return Ok(()),
                    // Members may follow each other (RFC 1952 §2.2).
                    Coding::Gzip(inflate) => *inflate = Decompress::new_gzip(15),
                    _ => return Err(broken("more follows after its end")),
                }
                self.over = false;
            }
            let (read, written) = match &mut self.coding {
                Coding::Unknown => return Ok(()),
                Coding::Gzip(inflate) | Coding::Deflate(inflate) => {
                    let before = (inflate.total_in(), inflate.total_out());
                    let status = inflate
                        .decompress(input, &mut out, FlushDecompress::None)
                        .map_err(|_| broken("it cannot be decoded"))?;
                    self.over = status == Status::StreamEnd;
                    let moved = (inflate.total_in() - before.0, inflate.total_out() - before.1);
                    (moved.0 as usize, moved.1 as usize)
                }
                Coding::Brotli(state) => {
                    let (mut left, mut read, mut space, mut written, mut total) =
                        (input.len(), 0, out.len(), 0, 0);
                    let result = BrotliDecompressStream(
                        &mut left,
                        &mut read,
                        input,
                        &mut space,
                        &mut written,
                        &mut out,
                        &mut total,
                        state,
                    );
                    match result {
                        BrotliResult::ResultFailure => return Err(broken("it cannot be decoded")),
                        BrotliResult::ResultSuccess => self.over = true,
                        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
                    }
                    (read, written)
                }
            };
            input = &input[read..];
            if written > 0 {
                take(&out[..written])?;
            }
            // A full chunk may have left output in the window.
            if !self.over && written < CHUNK && (input.is_empty() || read == 0) {
                return if input.is_empty() { Ok(()) } else { Err(broken("it cannot be decoded")) };
            }
        }
    }

    /// Whether the body is complete, after the last chunk. A body without a byte is empty.
    pub fn finish(&self) -> Result<(), UpstreamError> {
        if self.over || !self.begun { Ok(()) } else { Err(broken("it breaks off")) }
    }
}

fn broken(why: &str) -> UpstreamError {
    UpstreamError::InvalidResponse(format!("it is compressed, though identity was asked for, and {why}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;

    use super::*;

    /// `hello `, a thousand times.
    const BROTLI: &[u8] = &[
        27, 111, 23, 248, 141, 148, 110, 222, 68, 85, 134, 150, 108, 32, 111, 113, 91, 28, 128, 228, 1, 32,
        14,
    ];

    /// 32 MiB of zeros.
    const BOMB: &[u8] = &[
        203, 255, 255, 63, 248, 39, 0, 226, 177, 64, 32, 247, 254, 143, 255, 255, 127, 240, 79, 0, 196, 97,
        17, 128, 238, 253, 31, 255, 255, 255, 224, 159, 0, 136, 195, 2, 0, 221, 251, 191, 252, 255, 255, 195,
        63, 1, 16, 135, 5, 0, 186, 247, 127,
    ];

    fn of(coding: &'static str) -> Result<Option<Decoder>, UpstreamError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
        Decoder::of(&headers)
    }

    fn decoded(coding: &'static str, body: &[u8], size: usize) -> Result<Vec<u8>, UpstreamError> {
        let mut decoder = of(coding)?.expect("a coding");
        let mut all = Vec::new();
        for chunk in body.chunks(size) {
            decoder.decode(chunk, |text| {
                assert!(text.len() <= CHUNK);
                all.extend_from_slice(text);
                Ok(())
            })?;
        }
        decoder.finish().map(|()| all)
    }

    fn encoded(text: &[u8]) -> [(&'static str, Vec<u8>); 4] {
        let level = Compression::default();
        let (mut gzip, mut zlib, mut bare) = (
            GzEncoder::new(Vec::new(), level),
            ZlibEncoder::new(Vec::new(), level),
            DeflateEncoder::new(Vec::new(), level),
        );
        gzip.write_all(text)
            .and_then(|()| zlib.write_all(text))
            .and_then(|()| bare.write_all(text))
            .expect("memory");
        let gzip = gzip.finish().expect("memory");
        [
            ("x-gzip", gzip.clone()),
            ("GZIP", gzip),
            ("deflate", zlib.finish().expect("memory")),
            ("deflate", bare.finish().expect("memory")),
        ]
    }

    #[test]
    fn what_was_encoded_is_decoded_however_it_arrives() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(|n| (n % 977).to_string().into_bytes()).collect();
        for (coding, body) in encoded(&text) {
            for size in [1, 7, 1000, usize::MAX] {
                assert_eq!(decoded(coding, &body, size).expect("sound"), text, "{coding} by {size}");
            }
            assert!(decoded(coding, &body[..body.len() - 1], 64).is_err(), "{coding} breaks off");
            assert_eq!(decoded(coding, b"", 1).expect("empty"), b"");
        }
        for size in [1, 3, usize::MAX] {
            assert_eq!(decoded("br", BROTLI, size).expect("sound"), b"hello ".repeat(1000));
        }
        assert!(decoded("br", &BROTLI[..BROTLI.len() - 1], 64).is_err());
        for (coding, more) in [("br", BROTLI), ("deflate", &encoded(b"x")[2].1)] {
            assert!(decoded(coding, &[more, b"more"].concat(), 64).is_err(), "{coding}");
        }
    }

    #[test]
    fn gzip_may_have_many_members() {
        let body = [encoded(b"one ")[0].1.clone(), encoded(b"two")[0].1.clone()].concat();
        for size in [1, usize::MAX] {
            assert_eq!(decoded("gzip", &body, size).expect("sound"), b"one two");
        }
        assert!(decoded("gzip", &[body, b"three".to_vec()].concat(), 5).is_err());
    }

    #[test]
    fn a_part_of_a_stream_is_handed_on_when_it_is_there() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        let mut decoder = of("gzip").expect("known").expect("a coding");
        for text in ["data: 1\n\n", "data: 2\n\n"] {
            gzip.write_all(text.as_bytes()).and_then(|()| gzip.flush()).expect("memory");
            let (chunk, mut out) = (std::mem::take(gzip.get_mut()), Vec::new());
            let taken = decoder.decode(&chunk, |text| {
                out.extend_from_slice(text);
                Ok(())
            });
            taken.expect("sound");
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn a_decompression_bomb_stops_at_the_limit() {
        let bombs = encoded(&vec![0; 32 << 20]).into_iter().chain([("br", BOMB.to_vec())]);
        for (coding, body) in bombs {
            let mut decoder = of(coding).expect("known").expect("a coding");
            let mut taken = 0;
            let stopped = decoder.decode(&body, |text| {
                taken += text.len();
                if taken > 1 << 20 { Err(UpstreamError::TooLarge(1 << 20)) } else { Ok(()) }
            });
            assert_eq!(stopped, Err(UpstreamError::TooLarge(1 << 20)), "{coding}");
            assert!(taken <= (1 << 20) + CHUNK, "{coding}: {taken}");
        }
    }

    #[test]
    fn other_codings_are_named() {
        for coding in ["zstd", "compress", "gzip, br", "aws-chunked"] {
            let Err(UpstreamError::InvalidResponse(why)) = of(coding) else { panic!("{coding} is known") };
            assert!(why.contains(coding), "{why}");
        }
        assert!(of("identity").expect("known").is_none());
        let mut twice = HeaderMap::new();
        twice.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        twice.append(CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert!(Decoder::of(&twice).is_err());
    }
}
