//! Finds secrets in JSON, and puts `[redacted:…]` in their place.
//!
//! It searches the *decoded* strings, including member names: `\u0040` is an `@` for the final reader. All
//! bytes outside of a finding stay the same, so valid JSON stays valid. A card number written as a JSON
//! number becomes a string: the only case in which a type changes.
//!
//! Deliberate limits: it does not search encoded text (base64), or secrets split over two strings. In a whole
//! message it skips the routing members (ids, methods, cursors).

use mcp::Reason;
use std::collections::HashSet;
use std::sync::Arc;

use memchr::{memchr, memmem};
use regex::{Regex, RegexBuilder};

use super::detectors::{Detector, is_card_number, may_hold_exponent};
use super::member_place;
use super::member_place::MemberPath;
use super::walk::{self, JsonLeaf};
use mcp::Era;
use mcp::json::reader::{EscapedUnit, JsonError, Span};
use mcp::rejection::{Rejection, code};

/// Most bytes of a compiled pattern of the configuration.
const PATTERN_SIZE: usize = 1 << 20;
/// Findings of one configured pattern in one string. After that the rest of the string counts as found,
/// because the time of a search grows with their number.
const FINDINGS: usize = 1024;

/// The redaction settings of one server and one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    #[default]
    Off,
    Redact,
    Block,
}

/// A configured pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pattern `{which}` {what}")]
pub struct PatternError {
    /// The name of the pattern.
    pub which: String,
    pub what: String,
}

/// The number of findings of each detector. It holds no text of a finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    counts: Vec<(Arc<str>, usize)>,
}

impl Findings {
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub fn total(&self) -> usize {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// Names of detectors and patterns with their numbers, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.counts.iter().map(|(name, count)| (name, *count))
    }
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (name, count)) in self.iter().enumerate() {
            write!(f, "{}{name} ({count})", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// A redacted text, and its findings.
pub type Redacted = (Vec<u8>, Findings);

/// The detectors of a configuration, ready for use.
#[derive(Debug)]
pub struct Redactor {
    detectors: Vec<Detector>,
    custom: Vec<Regex>,
    /// Names of the detectors, then of the patterns.
    labels: Vec<Arc<str>>,
}

impl Redactor {
    /// `custom` are names and patterns of the configuration.
    pub fn new(detectors: &[Detector], custom: &[(String, String)]) -> Result<Self, PatternError> {
        let mut unique = Vec::new();
        detectors.iter().for_each(|d| {
            if !unique.contains(d) {
                unique.push(*d);
            }
        });
        let mut labels: Vec<Arc<str>> = unique.iter().map(|d| d.as_str().into()).collect();
        let mut taken: HashSet<&str> = Detector::ALL.iter().map(|d| d.as_str()).collect();
        let mut patterns = Vec::new();
        for (name, pattern) in custom {
            let flaw = |what: String| PatternError { which: name.clone(), what };
            let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || name.len() > 32 || !name.chars().all(is_valid) {
                return Err(flaw("needs a name of at most 32 letters, digits, `_` and `-`".into()));
            }
            if !taken.insert(name) {
                return Err(flaw("has a name that is taken".into()));
            }
            let regex = RegexBuilder::new(pattern)
                .size_limit(PATTERN_SIZE)
                .dfa_size_limit(PATTERN_SIZE)
                .build()
                .map_err(|e| flaw(format!("is no regular expression: {e}")))?;
            if regex.is_match("") {
                return Err(flaw("matches the empty text, so it would be found everywhere".into()));
            }
            patterns.push(regex);
            labels.push(name.as_str().into());
        }
        Ok(Self { detectors: unique, custom: patterns, labels })
    }

    /// The findings in a JSON text.
    pub fn scan(&self, json: &[u8]) -> Result<Findings, JsonError> {
        Ok(self.findings(&self.search(json, walk::value)?))
    }

    /// The findings in the content of a JSON-RPC message.
    pub fn scan_message(&self, message: &[u8]) -> Result<Findings, JsonError> {
        Ok(self.findings(&self.search(message, walk::message)?))
    }

    /// The findings in the texts of a JSON value with known member roles.
    pub fn scan_at(&self, json: &[u8], place: &MemberPath) -> Result<Findings, JsonError> {
        Ok(self.findings(&self.search(json, |json, out| member_place::texts(json, place, out))?))
    }

    /// The redacted value; `None` without findings. Identifiers are not changed.
    pub fn redact_at(&self, json: &[u8], place: &MemberPath) -> Result<Option<Redacted>, JsonError> {
        Ok(self.rewrite(json, &self.search(json, |json, out| member_place::texts(json, place, out))?))
    }

    /// The redacted JSON text; `None` without findings.
    pub fn redact(&self, json: &[u8]) -> Result<Option<Redacted>, JsonError> {
        Ok(self.rewrite(json, &self.search(json, walk::value)?))
    }

    /// The same for a whole JSON-RPC message, whose structure stays the same.
    pub fn redact_message(&self, message: &[u8]) -> Result<Option<Redacted>, JsonError> {
        Ok(self.rewrite(message, &self.search(message, walk::message)?))
    }

    /// Whether a text must be parsed at all. Most texts need only this check.
    fn may_fire(&self, json: &[u8]) -> bool {
        !self.custom.is_empty()
            || self.detectors.iter().any(|detector| detector.may_fire(json))
            || (!self.detectors.is_empty() && memmem::find(json, b"\\u").is_some())
            || (self.detectors.contains(&Detector::CreditCard) && may_hold_exponent(json))
    }

    fn search(
        &self,
        json: &[u8],
        walk: impl FnOnce(&[u8], &mut dyn FnMut(JsonLeaf)) -> Result<(), JsonError>,
    ) -> Result<Vec<Hit>, JsonError> {
        if !self.may_fire(json) {
            return Ok(Vec::new());
        }
        let mut search = Search { redactor: self, json, hits: Vec::new(), decoded: Decoded::default() };
        walk(json, &mut |leaf| search.leaf(leaf))?;
        Ok(search.hits)
    }

    fn findings(&self, hits: &[Hit]) -> Findings {
        let count = |label: usize| hits.iter().filter(|hit| hit.label == label).count();
        let labels = self.labels.iter().enumerate().map(|(at, label)| (label.clone(), count(at)));
        Findings { counts: labels.filter(|(_, count)| *count > 0).collect() }
    }

    /// `text` with each finding replaced.
    fn rewrite(&self, text: &[u8], hits: &[Hit]) -> Option<Redacted> {
        if hits.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(text.len() + hits.len() * 16);
        let mut at = 0;
        let mut keys = 0;
        for hit in hits {
            out.extend_from_slice(&text[at..hit.start]);
            let label = &self.labels[hit.label];
            let word = match hit.form {
                HitForm::Text => format!("[redacted:{label}]"),
                HitForm::Number => format!("\"[redacted:{label}]\""),
                // Two members would get the same name.
                HitForm::Key => {
                    keys += 1;
                    format!("[redacted:{label}#{keys}]")
                }
            };
            out.extend_from_slice(word.as_bytes());
            at = hit.end;
        }
        out.extend_from_slice(&text[at..]);
        Some((out, self.findings(hits)))
    }
}

/// The message for a caller whose arguments hold forbidden data.
pub fn rejection(findings: &Findings, client_era: Era) -> Rejection {
    let status = client_era.codec().status_of(code::INVALID_PARAMS);
    let message = format!(
        "The message holds what may not be sent to this server: {findings}. Call again without it, or with a reference to it."
    );
    Rejection::new(status, code::INVALID_PARAMS, Reason::SecretInArguments, message)
}

/// A finding as a place in the JSON text.
struct Hit {
    start: usize,
    end: usize,
    label: usize,
    form: HitForm,
}

#[derive(Clone, Copy)]
enum HitForm {
    Text,
    Key,
    Number,
}

struct Search<'a> {
    redactor: &'a Redactor,
    json: &'a [u8],
    hits: Vec<Hit>,
    decoded: Decoded,
}

impl Search<'_> {
    fn leaf(&mut self, leaf: JsonLeaf) {
        let (text, form) = match leaf {
            JsonLeaf::Number(span) => return self.number(span),
            JsonLeaf::Text(text) => (text, HitForm::Text),
            JsonLeaf::Key(text) => (text, HitForm::Key),
        };
        let base = text.span.start + 1;
        let raw = &self.json[base..text.span.end - 1];
        let mut found = Vec::new();
        if memchr(b'\\', raw).is_none() {
            let text = std::str::from_utf8(raw).expect("the reader checked the text as UTF-8");
            self.redactor.find(text, &mut found);
            merge(&mut found);
            self.hits.extend(found.iter().map(|f| Hit {
                start: base + f.0,
                end: base + f.1,
                label: f.2,
                form,
            }));
            return;
        }
        let said = text.read(self.json);
        self.redactor.find(&said, &mut found);
        if found.is_empty() {
            return;
        }
        merge(&mut found);
        self.decoded.read(raw);
        for (start, end, label) in found {
            let (start, end) = (base + self.decoded.raw(start), base + self.decoded.raw(end));
            self.hits.push(Hit { start, end, label, form });
        }
    }

    fn number(&mut self, span: Span) {
        let raw = span.of(self.json);
        let card = self.redactor.detectors.iter().position(|d| *d == Detector::CreditCard);
        let custom = || {
            let text = std::str::from_utf8(raw).ok()?;
            let all = |regex: &Regex| regex.find(text).is_some_and(|m| m.len() == text.len());
            let at = self.redactor.custom.iter().position(all)?;
            Some(self.redactor.detectors.len() + at)
        };
        if let Some(label) = card.filter(|_| is_card_number(raw)).or_else(custom) {
            self.hits.push(Hit { start: span.start, end: span.end, label, form: HitForm::Number });
        }
    }
}

impl Redactor {
    fn find(&self, text: &str, found: &mut Vec<(usize, usize, usize)>) {
        for (label, detector) in self.detectors.iter().enumerate() {
            if detector.may_fire(text.as_bytes()) {
                detector.find(text, |start, end| found.push((start, end, label)));
            }
        }
        for (at, regex) in self.custom.iter().enumerate() {
            let label = self.detectors.len() + at;
            let all = regex.find_iter(text).filter(|m| !m.is_empty());
            for (count, m) in all.enumerate() {
                if count == FINDINGS {
                    found.push((m.start(), text.len(), label));
                    break;
                }
                found.push((m.start(), m.end(), label));
            }
        }
    }
}

/// Puts findings in order, and makes one of those that overlap: of the first one's kind.
fn merge(found: &mut Vec<(usize, usize, usize)>) {
    found.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    found.dedup_by(|next, first| {
        let overlaps = next.0 < first.1;
        if overlaps {
            first.1 = first.1.max(next.1);
        }
        overlaps
    });
}

/// Maps places in the decoded string to places in the raw string.
#[derive(Default)]
struct Decoded {
    /// After each escape: the place in the decoded string and in the raw string.
    marks: Vec<(usize, usize)>,
}

impl Decoded {
    /// Decodes the inside of a well-formed string.
    fn read(&mut self, raw: &[u8]) {
        self.marks.clear();
        let (mut said, mut written) = (0, 0);
        while let Some(plain) = memchr(b'\\', &raw[written..]) {
            said += plain;
            written += plain;
            let (width, size) = match raw[written + 1] {
                b'u' => EscapedUnit::at(&raw[written..])
                    .map_or((6, 1), |unit| (unit.width(), unit.char().len_utf8())),
                _ => (2, 1),
            };
            said += size;
            written += width;
            self.marks.push((said, written));
        }
    }

    fn raw(&self, said: usize) -> usize {
        match self.marks.partition_point(|mark| mark.0 <= said) {
            0 => said,
            behind => self.marks[behind - 1].1 + (said - self.marks[behind - 1].0),
        }
    }
}
