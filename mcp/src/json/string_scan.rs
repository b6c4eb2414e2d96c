//! The part of a string without escapes, found by words of eight bytes and by blocks.

/// The bytes at the front of a text that belong to a string as they are.
#[derive(Default)]
pub struct PlainRun {
    pub len: usize,
    /// Not all of it is ASCII.
    pub wide: bool,
}

/// Finds the end of a [`PlainRun`]: a quote, a backslash or a control character. Names are short, so it first
/// compares words of eight bytes. Long texts are compared by blocks without a branch per byte, which the
/// compiler vectorizes.
pub fn plain_run(text: &[u8]) -> PlainRun {
    const SHORT: usize = 32;
    const BLOCK: usize = 64;
    let mut run = PlainRun::default();
    if run.ends_within(text, SHORT) {
        return run;
    }
    for block in text[run.len..].chunks_exact(BLOCK) {
        let (stopped, bits) =
            block.iter().fold((false, 0), |(stopped, bits), b| (stopped | stops(*b), bits | b));
        if stopped {
            break;
        }
        run.len += BLOCK;
        run.wide |= bits >= 0x80;
    }
    if !run.ends_within(text, usize::MAX) {
        for byte in text[run.len..].iter().take_while(|b| !stops(**b)) {
            run.len += 1;
            run.wide |= *byte >= 0x80;
        }
    }
    run
}

impl PlainRun {
    /// Continues by whole words while it is shorter than `most`; returns whether it found the end.
    fn ends_within(&mut self, text: &[u8], max: usize) -> bool {
        while let Some(word) = text[self.len..].first_chunk::<8>().filter(|_| self.len < max) {
            let word = u64::from_le_bytes(*word);
            let stops = stopping(word);
            // The lowest bit is that of the first byte.
            let before = if stops == 0 { u64::MAX } else { (stops & stops.wrapping_neg()) - 1 };
            self.wide |= word & before & HIGHS != 0;
            self.len += stops.trailing_zeros() as usize / 8;
            if stops != 0 {
                return true;
            }
        }
        false
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = ONES << 7;

fn stops(b: u8) -> bool {
    b < 0x20 || b == b'"' || b == b'\\'
}

/// The high bit of each byte that ends a run. Bytes after the first of them may be marked too: a borrow
/// affects the next byte, never the previous one.
fn stopping(word: u64) -> u64 {
    let below = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & HIGHS
}
