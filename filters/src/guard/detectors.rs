//! The formats of secrets: card numbers, IBANs and keys in running text.
//!
//! Each detector uses the definitions of the issuers (check digits, lengths, prefixes), because a text with
//! many wrongly redacted numbers is useless. Every search passes over the text a fixed number of times: no
//! input can make it slow.
//!
//! Deliberately not found: a secret split over two strings, spelled in words, encoded (base64, hex), or with
//! characters between its digits other than single spaces or dashes.

use std::sync::LazyLock;

use memchr::memmem;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of sensitive data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// Numbers of credit cards: 13 to 19 digits of a known card network with a right check digit.
    CreditCard,
    /// Addresses of e-mail.
    Email,
    /// Numbers of bank accounts (IBAN), in capitals, with the length of their country and right check digits.
    Iban,
    /// Private keys in PEM.
    PrivateKey,
    /// Keys and tokens with a prefix of their issuer, and JSON Web Tokens.
    ApiKey,
}

impl Detector {
    pub const ALL: [Detector; 5] =
        [Detector::CreditCard, Detector::Email, Detector::Iban, Detector::PrivateKey, Detector::ApiKey];
    /// The defaults. Without mail addresses, because many tools are about them.
    pub const DEFAULT: [Detector; 4] =
        [Detector::CreditCard, Detector::Iban, Detector::PrivateKey, Detector::ApiKey];

    /// The value in the configuration, in metrics, and in `[redacted:…]`.
    pub fn as_str(self) -> &'static str {
        match self {
            Detector::CreditCard => "credit_card",
            Detector::Email => "email",
            Detector::Iban => "iban",
            Detector::PrivateKey => "private_key",
            Detector::ApiKey => "api_key",
        }
    }

    /// Whether the text can hold a finding at all. It is fast and has no false negatives. This also holds for
    /// JSON text without `\u….` escapes: all searched characters are those that JSON does not escape.
    pub(super) fn may_fire(self, text: &[u8]) -> bool {
        match self {
            Detector::CreditCard => may_hold_card(text),
            Detector::Email => memchr::memchr(b'@', text).is_some(),
            Detector::Iban => may_hold_iban(text),
            Detector::PrivateKey => memmem::find(text, b" PRIVATE KEY").is_some(),
            Detector::ApiKey => PREFIXES.is_match(text),
        }
    }

    /// Calls `hit` with the start and end of each finding, front to back.
    pub(super) fn find(self, text: &str, mut hit: impl FnMut(usize, usize)) {
        match self {
            Detector::CreditCard => cards(text.as_bytes(), hit),
            Detector::Email => EMAIL.find_iter(text).for_each(|m| hit(m.start(), m.end())),
            Detector::Iban => ibans(text.as_bytes(), hit),
            Detector::PrivateKey => pem(text, hit),
            Detector::ApiKey => {
                for found in KEYS.find_iter(text).filter(|found| is_random(found.as_str())) {
                    hit(found.start(), found.end());
                }
                JWT.find_iter(text).for_each(|m| hit(m.start(), m.end()));
            }
        }
    }
}

/// Whether the digits, written as an integer, are a card number.
pub(super) fn is_card(digits: &[u8]) -> bool {
    (13..=19).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit)
        && has_network(digits)
        && luhn(digits)
}

/// Whether a JSON number denotes one in any notation: signed, with a fraction of zeros, with an exponent, or
/// with more digits than readers keep.
pub(super) fn is_card_number(number: &[u8]) -> bool {
    let exact = whole(number).is_some_and(|digits| is_card(&digits));
    let kept = || {
        let read: f64 = std::str::from_utf8(number).ok()?.parse().ok()?;
        (read.fract() == 0.0 && read.abs() < 1e19).then(|| format!("{:.0}", read.abs()))
    };
    let is_plain = || !number.iter().any(|b| matches!(b, b'.' | b'e' | b'E'));
    exact || (number.len() > 13 && !is_plain() && kept().is_some_and(|digits| is_card(digits.as_bytes())))
}

/// The digits of the whole number that a JSON number denotes, if it is one of at most 19 digits.
fn whole(number: &[u8]) -> Option<Vec<u8>> {
    let number = number.strip_prefix(b"-").unwrap_or(number);
    let (mantissa, exponent) = match number.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&number[..at], std::str::from_utf8(&number[at + 1..]).ok()?.parse::<i64>().ok()?),
        None => (number, 0),
    };
    let point = mantissa.iter().position(|b| *b == b'.').unwrap_or(mantissa.len());
    let fraction = mantissa.len().saturating_sub(point + 1);
    let mut places = exponent.checked_sub(i64::try_from(fraction).ok()?)?;
    let mut digits: Vec<u8> = mantissa.iter().copied().filter(|b| *b != b'.').collect();
    while places < 0 && digits.last() == Some(&b'0') {
        digits.pop();
        places += 1;
    }
    let start = digits.iter().position(|b| *b != b'0')?;
    digits.drain(..start);
    let zeros = usize::try_from(places).ok().filter(|zeros| digits.len().saturating_add(*zeros) <= 19)?;
    digits.resize(digits.len() + zeros, b'0');
    Some(digits)
}

/// Whether a JSON text may hold a number with an exponent: then few digits denote many.
pub(super) fn may_hold_exponent(json: &[u8]) -> bool {
    memchr::memchr2_iter(b'e', b'E', json).any(|at| {
        at > 0
            && json[at - 1].is_ascii_digit()
            && json.get(at + 1).is_some_and(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-'))
    })
}

/// ISO/IEC 7812 issuer ranges in use, with their lengths. Ranges that begin like times, counters and
/// snowflake ids are missing: one in ten of those would pass the check digit.
fn has_network(digits: &[u8]) -> bool {
    let head = digits[..4].iter().fold(0u32, |n, d| n * 10 + u32::from(d - b'0'));
    let length = digits.len();
    match head {
        4000..=4999 => matches!(length, 13 | 16 | 19),
        5100..=5599 | 2221..=2720 => length == 16,
        3400..=3499 | 3700..=3799 => length == 15,
        3000..=3059 | 3600..=3699 | 3800..=3999 => matches!(length, 14 | 16),
        3528..=3589 | 6011 | 6440..=6599 | 6200..=6299 => (16..=19).contains(&length),
        // Maestro and its kin.
        5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763 => true,
        2200..=2204 => (16..=19).contains(&length),
        _ => false,
    }
}

/// ISO/IEC 7812-1 annex B.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, d)| match (at % 2, u32::from(d - b'0')) {
            (0, d) => d,
            (_, d) if d > 4 => d * 2 - 9,
            (_, d) => d * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Checks only each 13th byte: that finds every run of 13 digits, spaces and dashes.
fn may_hold_card(text: &[u8]) -> bool {
    let mut at = 12;
    while let Some(b) = text.get(at) {
        // Before a space or dash inside a number there is a digit.
        let inside = b.is_ascii_digit() || (matches!(b, b' ' | b'-') && text[at - 1].is_ascii_digit());
        if inside {
            let part = |b: &&u8| b.is_ascii_digit() || matches!(b, b' ' | b'-');
            let before = text[..at].iter().rev().take(18).take_while(part);
            let after = text[at..].iter().take(18).take_while(part);
            if before.chain(after).filter(|b| b.is_ascii_digit()).count() >= 13 {
                return true;
            }
        }
        at += 13;
    }
    false
}

/// Searches runs of digit groups with single spaces or dashes between them, and tries each sequence of whole
/// groups. A run takes at most [`GROUPS`] steps per group.
fn cards(text: &[u8], mut hit: impl FnMut(usize, usize)) {
    const GROUPS: usize = 6;
    let mut at = 0;
    while let Some(skip) = text[at..].iter().position(u8::is_ascii_digit) {
        let start = at + skip;
        let run = DigitRun::read(text, start);
        at = run.end;
        let mut first = 0;
        while first < run.groups.len() {
            let mut digits = [0u8; 19];
            let mut count = 0;
            let mut found = None;
            for (last, group) in run.groups.iter().enumerate().skip(first).take(GROUPS) {
                let length = group.1 - group.0;
                if count + length > 19 || (last > first && !run.joins(text, first, last)) {
                    break;
                }
                digits[count..count + length].copy_from_slice(&text[group.0..group.1]);
                count += length;
                // Shorter groups are lists of numbers, longer ones parts of a UUID.
                let like_a_card = |group: &(usize, usize)| (3..=7).contains(&(group.1 - group.0));
                let shaped = first == last || run.groups[first..=last].iter().all(like_a_card);
                if shaped && run.is_free(text, first, last) && is_card(&digits[..count]) {
                    found = Some(last);
                }
            }
            match found {
                Some(last) => {
                    hit(run.groups[first].0, run.groups[last].1);
                    first = last + 1;
                }
                None => first += 1,
            }
        }
    }
}

/// Groups of digits, each one byte apart.
struct DigitRun {
    groups: Vec<(usize, usize)>,
    end: usize,
}

impl DigitRun {
    fn read(text: &[u8], start: usize) -> Self {
        let digits = |from: usize| from + text[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        let mut groups = Vec::new();
        let mut from = start;
        loop {
            let end = digits(from);
            groups.push((from, end));
            match text.get(end..end + 2) {
                Some([b' ' | b'-', next]) if next.is_ascii_digit() => from = end + 1,
                _ => return Self { groups, end },
            }
        }
    }

    /// Whether the separator before group `last` is the one after group `first`.
    fn joins(&self, text: &[u8], first: usize, last: usize) -> bool {
        text[self.groups[last].0 - 1] == text[self.groups[first].1]
    }

    /// Whether the sequence is not a part of a word or of a decimal number.
    fn is_free(&self, text: &[u8], first: usize, last: usize) -> bool {
        let (start, end) = (self.groups[first].0, self.groups[last].1);
        let before = text[..start].last().copied().unwrap_or(b' ');
        let after = text.get(end).copied().unwrap_or(b' ');
        let decimal = |mark: u8, digit: Option<&u8>| {
            matches!(mark, b'.' | b',') && digit.is_some_and(u8::is_ascii_digit)
        };
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        // A dash before or after ties it to an id: `a1-4111…`.
        let tied = |b: u8, beyond: Option<&u8>| {
            b == b'-' && beyond.is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
        };
        !word(before)
            && !word(after)
            && !decimal(before, text[..start].iter().rev().nth(1))
            && !decimal(after, text.get(end + 1))
            && !tied(before, text[..start].iter().rev().nth(1))
            && !tied(after, text.get(end + 1))
    }
}

/// Whether an IBAN begins anywhere. Whole blocks are tested without a branch per byte, as vector code.
fn may_hold_iban(text: &[u8]) -> bool {
    const BLOCK: usize = 64;
    let Some(count) = text.len().checked_sub(14) else { return false };
    let at = |from: usize| text[from..from + count].chunks(BLOCK);
    at(0).zip(at(1)).zip(at(2).zip(at(3))).any(|((a, b), (c, d))| {
        let heads = a.iter().zip(b).zip(c.iter().zip(d));
        heads.fold(false, |found, ((a, b), (c, d))| found | is_head(&[*a, *b, *c, *d]))
    })
}

/// Two capitals and two digits: how each IBAN begins.
fn is_head(w: &[u8]) -> bool {
    w[0].is_ascii_uppercase() & w[1].is_ascii_uppercase() & w[2].is_ascii_digit() & w[3].is_ascii_digit()
}

fn ibans(text: &[u8], mut hit: impl FnMut(usize, usize)) {
    let mut at = 0;
    while at + 15 <= text.len() {
        let free = at == 0 || !text[at - 1].is_ascii_alphanumeric();
        match (free && is_head(&text[at..at + 4])).then(|| iban(&text[at..])).flatten() {
            Some(length) => {
                hit(at, at + length);
                at += length;
            }
            None => at += 1,
        }
    }
}

/// The length in bytes of the IBAN at the beginning of the text, if there is one (ISO 13616).
fn iban(text: &[u8]) -> Option<usize> {
    let wanted = LENGTHS.iter().find(|(country, _)| text.starts_with(&country[..]))?.1;
    let mut letters = [0u8; 34];
    let (mut count, mut at) = (0, 0);
    while count < wanted {
        match text.get(at)? {
            b @ (b'A'..=b'Z' | b'0'..=b'9') => {
                letters[count] = *b;
                count += 1;
            }
            // Printed in groups of four.
            b' ' | b'-' if count >= 4 && text[at - 1].is_ascii_alphanumeric() => {}
            _ => return None,
        }
        at += 1;
    }
    let ends = !text.get(at).is_some_and(u8::is_ascii_alphanumeric);
    let turned = letters[4..wanted].iter().chain(&letters[..4]);
    let rest = turned.fold(0u32, |rest, b| match b {
        b'0'..=b'9' => (rest * 10 + u32::from(b - b'0')) % 97,
        _ => (rest * 100 + u32::from(b - b'A') + 10) % 97,
    });
    (ends && rest == 1).then_some(at)
}

/// SWIFT IBAN registry, release 99.
#[rustfmt::skip]
const LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24), (b"AE", 23), (b"AL", 28), (b"AT", 20), (b"AZ", 28), (b"BA", 20), (b"BE", 16), (b"BG", 22),
    (b"BH", 22), (b"BI", 27), (b"BR", 29), (b"BY", 28), (b"CH", 21), (b"CR", 22), (b"CY", 28), (b"CZ", 24),
    (b"DE", 22), (b"DJ", 27), (b"DK", 18), (b"DO", 28), (b"EE", 20), (b"EG", 29), (b"ES", 24), (b"FI", 18),
    (b"FK", 18), (b"FO", 18), (b"FR", 27), (b"GB", 22), (b"GE", 22), (b"GI", 23), (b"GL", 18), (b"GR", 27),
    (b"GT", 28), (b"HN", 28), (b"HR", 21), (b"HU", 28), (b"IE", 22), (b"IL", 23), (b"IQ", 23), (b"IS", 26),
    (b"IT", 27), (b"JO", 30), (b"KW", 30), (b"KZ", 20), (b"LB", 28), (b"LC", 32), (b"LI", 21), (b"LT", 20),
    (b"LU", 20), (b"LV", 21), (b"LY", 25), (b"MC", 27), (b"MD", 24), (b"ME", 22), (b"MK", 19), (b"MN", 20),
    (b"MR", 27), (b"MT", 31), (b"MU", 30), (b"NI", 28), (b"NL", 18), (b"NO", 15), (b"OM", 23), (b"PK", 24),
    (b"PL", 28), (b"PS", 29), (b"PT", 25), (b"QA", 29), (b"RO", 24), (b"RS", 22), (b"RU", 33), (b"SA", 24),
    (b"SC", 31), (b"SD", 18), (b"SE", 24), (b"SI", 19), (b"SK", 24), (b"SM", 27), (b"SO", 23), (b"ST", 25),
    (b"SV", 28), (b"TL", 23), (b"TN", 24), (b"TR", 26), (b"UA", 29), (b"VA", 22), (b"VG", 24), (b"XK", 20),
    (b"YE", 30),
];

/// RFC 7468 blocks whose label ends in `PRIVATE KEY`, and those of OpenPGP. A block without an end reaches to
/// the end of the text: most of a cut-off key is still a key.
fn pem(text: &str, mut hit: impl FnMut(usize, usize)) {
    const BEGIN: &str = "-----BEGIN ";
    let mut at = 0;
    while let Some(start) = memmem::find(&text.as_bytes()[at..], BEGIN.as_bytes()).map(|found| at + found) {
        let label = start + BEGIN.len();
        let length = text[label..].bytes().take(64).take_while(|b| *b != b'-').count();
        let name = text.get(label..label + length).unwrap_or_default();
        at = label;
        if !(name.ends_with("PRIVATE KEY") || name.ends_with("PRIVATE KEY BLOCK"))
            || !text.get(label + length..).is_some_and(|rest| rest.starts_with("-----"))
        {
            continue;
        }
        let end = format!("-----END {name}-----");
        at = memmem::find(&text.as_bytes()[label..], end.as_bytes())
            .map_or(text.len(), |found| label + found + end.len());
        hit(start, at);
    }
}

/// Texts that only the issuer of such a key can make. The issuers publish the prefixes, most of them so that
/// keys can be found.
const KEY_FORMS: &[&str] = &[
    // Amazon
    "(?:AKIA|ASIA)[A-Z2-7]{16}\\b",
    // GitHub, GitLab
    "gh[pousr]_[A-Za-z0-9]{36,255}\\b",
    "github_pat_[A-Za-z0-9_]{40,255}",
    "gl(?:pat|dt|rt|ptt|cbt)-[A-Za-z0-9_-]{20,}",
    // OpenAI, Anthropic and similar issuers
    "sk-(?:proj|svcacct|admin|ant|or)-[A-Za-z0-9_-]{20,}",
    "sk-[A-Za-z0-9]{32,}\\b",
    // Slack
    "xox[abeoprs]-[A-Za-z0-9-]{10,}",
    "xapp-[0-9]-[A-Za-z0-9-]{10,}",
    "hooks\\.slack\\.com/(?:services|workflows)/[A-Za-z0-9/]{20,}",
    // Google
    "AIza[A-Za-z0-9_-]{35}",
    "ya29\\.[A-Za-z0-9_-]{20,}",
    "GOCSPX-[A-Za-z0-9_-]{28}",
    // Stripe
    "(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}",
    "whsec_[A-Za-z0-9]{32,}",
    // registries
    "npm_[A-Za-z0-9]{36}\\b",
    "pypi-AgE[A-Za-z0-9_-]{50,}",
    // SendGrid, Hugging Face, DigitalOcean, Shopify, HashiCorp
    "SG\\.[A-Za-z0-9_-]{16,32}\\.[A-Za-z0-9_-]{32,64}",
    "hf_[A-Za-z0-9]{30,}\\b",
    "do[opr]_v1_[a-f0-9]{64}\\b",
    "shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}\\b",
    "hvs\\.[A-Za-z0-9_-]{24,}",
];

/// The literal beginnings of [`KEY_FORMS`] and [`JWT`], which are searched many bytes at a time.
const KEY_HEADS: &str = "AKIA|ASIA|ghp_|gho_|ghu_|ghs_|ghr_|github_pat_|glpat-|gldt-|glrt-|glptt-|glcbt-|sk-|\
     xox|xapp-|hooks\\.slack\\.com|AIza|ya29\\.|GOCSPX-|sk_live_|sk_test_|rk_live_|rk_test_|whsec_|npm_|\
     pypi-AgE|SG\\.|hf_|doo_v1_|dop_v1_|dor_v1_|shpat_|shpca_|shppa_|shpss_|hvs\\.|eyJ";

static PREFIXES: LazyLock<regex::bytes::Regex> =
    LazyLock::new(|| regex::bytes::Regex::new(KEY_HEADS).expect("literals are a pattern"));
/// Formats that are decided within a bounded number of characters, so that continuing after each costs no
/// more than the length of the text. JSON Web Tokens are searched separately, since they are not bounded.
static KEYS: LazyLock<Regex> = LazyLock::new(|| own(&format!("(?-u:\\b(?:{}))", KEY_FORMS.join("|"))));
static JWT: LazyLock<Regex> = LazyLock::new(|| {
    own(
        "(?-u:\\beyJ[A-Za-z0-9_-]{8,}\\.(?:eyJ[A-Za-z0-9_-]{8,}\\.[A-Za-z0-9_-]{16,}|[A-Za-z0-9_-]*\\.[A-Za-z0-9_-]{8,}\\.[A-Za-z0-9_-]{8,}\\.[A-Za-z0-9_-]{16,}))",
    )
});
/// RFC 5321 addresses in common notation: no quoted local parts, no address literals.
static EMAIL: LazyLock<Regex> = LazyLock::new(|| {
    own(
        "(?i-u:\\b[a-z0-9][a-z0-9._%+-]*@[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\\.[a-z]{2,24}\\b)",
    )
});

fn own(pattern: &str) -> Regex {
    Regex::new(pattern).expect("built-in patterns compile")
}

/// Whether the text has the variety of something drawn by lot; `sk_test_xxxxxxxxxxxxxxxx` has not.
fn is_random(text: &str) -> bool {
    let mut counts = [0u32; 128];
    let body = text.as_bytes();
    // Prefixes vary too; what they name does not count.
    let body = &body[body.len().min(4)..];
    for b in body {
        counts[usize::from(b & 127)] += 1;
    }
    let total = body.len() as f64;
    let bits: f64 = counts
        .iter()
        .filter(|n| **n > 0)
        .map(|n| f64::from(*n) / total)
        .map(|share| -share * share.log2())
        .sum();
    bits > 2.7
}
