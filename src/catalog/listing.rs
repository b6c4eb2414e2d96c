//! One server's lists as it sent them: entries as bytes, with the span of the name in each.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use filters::param_headers::{InvalidParamHeader, ParamHeaders};
use mcp::json::reader::{DEPTH_CEILING, JsonError, JsonReader, replace_lone};
use mcp::json::splice::rename;

use super::{ItemSpans, ListKind};
use mcp::jsonrpc::message;

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The server's own name, URI or URI template.
    pub key: String,
    /// The entry as the server wrote it.
    raw: Bytes,
    spans: ItemSpans,
    param_headers: Option<Arc<ParamHeaders>>,
    /// The URI of the UI resource of a tool (MCP Apps).
    ui_resource: Option<Arc<str>>,
    /// Its output schema was wrapped for legacy clients.
    pub(super) wraps_output: bool,
    /// A hash of its content.
    pub(super) fingerprint: u64,
}

impl Item {
    /// Reads which arguments of a tool are repeated in the head of a call (modern era only).
    pub fn read_param_headers(&mut self) -> Result<(), InvalidParamHeader> {
        let Some(schema) = message::member(&self.raw, "inputSchema") else { return Ok(()) };
        self.param_headers = ParamHeaders::read(schema.of(&self.raw))?.map(Arc::new);
        Ok(())
    }

    pub fn param_headers(&self) -> Option<&Arc<ParamHeaders>> {
        self.param_headers.as_ref()
    }

    /// Those of the server's own definition.
    pub(super) fn set_param_headers(&mut self, param_headers: Arc<ParamHeaders>) {
        self.param_headers = Some(param_headers);
    }

    pub fn ui_resource(&self) -> Option<&Arc<str>> {
        self.ui_resource.as_ref()
    }

    /// The entry as the server wrote it.
    pub fn definition(&self) -> &Bytes {
        &self.raw
    }

    /// The entry with `name` instead of its own.
    pub fn renamed(&self, name: &str) -> Bytes {
        if name == self.key {
            return self.raw.clone();
        }
        rename(BytesMut::from(&self.raw[..]), self.spans, name)
    }
}

/// Rejected entries of one list that are remembered by name; the others are only counted.
const MAX_REMEMBERED: usize = 100;
/// Longest reason that is kept for one, in bytes.
const MAX_REASON: usize = 300;

/// An entry that is left out, because clients could not read it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RejectedEntry {
    /// The server's own name, URI or URI template; if it has none, its index in the list.
    pub key: String,
    pub why: String,
}

/// The entries of a list that are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RejectedEntries {
    first: Vec<RejectedEntry>,
    count: usize,
}

impl RejectedEntries {
    pub fn add(&mut self, key: &str, why: &str) {
        self.count += 1;
        if self.first.len() < MAX_REMEMBERED {
            self.first.push(RejectedEntry { key: printable(key), why: printable(why) });
        }
    }

    fn append(&mut self, more: Self) {
        self.count += more.count;
        let space = MAX_REMEMBERED - self.first.len();
        self.first.extend(more.first.into_iter().take(space));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The remembered entries.
    pub fn iter(&self) -> impl Iterator<Item = &RejectedEntry> {
        self.first.iter()
    }
}

/// Text of a server, made safe for a log.
fn printable(message: &str) -> String {
    let cut = &message[..message.floor_char_boundary(MAX_REASON)];
    cut.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// One list of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub items: Vec<Item>,
    pub rejected: RejectedEntries,
    /// Modern servers declare how long a list stays fresh, and for whom. Absent is 0 and private.
    pub ttl_ms: Option<u64>,
    pub public: bool,
    /// The server returned an error at the last request; this is the list from before.
    pub stale: bool,
}

/// The four lists of a server, in the order of [`ListKind::ALL`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists(pub [Listing; 4]);

impl Listing {
    /// Appends a page.
    pub fn append(&mut self, page: Page) {
        self.items.extend(page.items);
        self.rejected.append(page.rejected);
        self.public &= page.public;
        self.ttl_ms = match (self.ttl_ms, page.ttl_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

impl Lists {
    pub fn of(&self, kind: ListKind) -> &[Item] {
        &self.0[kind as usize].items
    }

    /// The lists without the tools of these names.
    pub fn without(&self, tools: &[String]) -> Self {
        let mut lists = self.clone();
        lists.0[ListKind::Tools as usize].items.retain(|item| !tools.contains(&item.key));
        lists
    }

    pub fn listing(&self, kind: ListKind) -> &Listing {
        &self.0[kind as usize]
    }

    /// Whether the last request of one of them failed.
    pub fn are_stale(&self) -> bool {
        self.0.iter().any(|listing| listing.stale)
    }
}

/// One page of a list, from the result of a list method.
#[derive(Debug, Default)]
pub struct Page {
    pub items: Vec<Item>,
    pub next: Option<String>,
    pub ttl_ms: Option<u64>,
    pub public: bool,
    /// Entries without a usable name, or that are no objects.
    pub rejected: RejectedEntries,
    /// Entries that were read.
    read_count: usize,
    /// A lone surrogate was replaced.
    replaced: bool,
}

impl Page {
    /// Reads the result of a list method. An entry without a usable name is left out; a missing list is an
    /// error.
    ///
    /// An escaped lone surrogate is replaced by U+FFFD: clients whose parsers reject it would lose the whole
    /// list. An entry whose name contains one is left out, because its server would not know it by another
    /// name.
    pub fn read(result: &Bytes, kind: ListKind) -> Result<Page, String> {
        let mut page = Page::default();
        let whole;
        let result = match replace_lone(result) {
            Cow::Borrowed(_) => result,
            Cow::Owned(text) => {
                page.replaced = true;
                whole = Bytes::from(text);
                &whole
            }
        };
        let mut found = false;
        let mut reader = JsonReader::new(result, DEPTH_CEILING).map_err(|e| e.to_string())?;
        reader
            .object(|r, key| {
                let key = key.read(result);
                match &*key {
                    member if member == kind.member() && r.peek()? == b'[' => {
                        found = true;
                        r.array(|r| read_item(r, result, kind, &mut page))?;
                    }
                    "nextCursor" if r.peek()? == b'"' => {
                        page.next = Some(r.string()?.read(result).into_owned())
                    }
                    "ttlMs" => {
                        let value = r.value()?;
                        page.ttl_ms = std::str::from_utf8(value.of(result)).ok().and_then(|n| n.parse().ok());
                    }
                    "cacheScope" => {
                        let value = r.value()?;
                        page.public = value.of(result) == b"\"public\"";
                    }
                    _ => drop(r.value()?),
                }
                Ok(())
            })
            .map_err(|e| e.to_string())?;
        if !found {
            return Err(format!("the result has no list `{}`", kind.member()));
        }
        page.slim(result.len());
        Ok(page)
    }

    /// Copies the entries if they are less than half of the page: they would keep the whole page in memory.
    fn slim(&mut self, whole: usize) {
        let kept: usize = self.items.iter().map(|item| item.raw.len()).sum();
        if kept < whole / 2 {
            for item in &mut self.items {
                item.raw = Bytes::copy_from_slice(&item.raw);
            }
        }
    }
}

fn read_item(
    r: &mut JsonReader<'_>,
    result: &Bytes,
    kind: ListKind,
    page: &mut Page,
) -> Result<(), JsonError> {
    let place = page.read_count;
    page.read_count += 1;
    if r.peek()? != b'{' {
        page.rejected.add(&format!("#{place}"), "it is no object");
        return r.value().map(drop);
    }
    let mut named = None;
    let mut meta = None;
    let mut times = 0;
    let span = r.object(|r, key| {
        if kind == ListKind::Tools && key.is(result, "_meta") {
            meta = Some(r.value()?);
            return Ok(());
        }
        if key.is(result, kind.key()) && r.peek()? == b'"' {
            named = Some(r.string()?);
            times += 1;
            return Ok(());
        }
        r.value().map(drop)
    })?;
    let Some(name) = named.filter(|_| times == 1) else {
        let why = if times == 0 { "is missing or no string" } else { "stands there twice" };
        page.rejected.add(&format!("#{place}"), &format!("its `{}` {why}", kind.key()));
        return Ok(());
    };
    let key = name.read(result).into_owned();
    if key.is_empty() {
        page.rejected.add(&format!("#{place}"), &format!("its `{}` is empty", kind.key()));
        return Ok(());
    }
    if page.replaced && key.contains(char::REPLACEMENT_CHARACTER) {
        page.rejected.add(&key, &format!("its `{}` holds half of a surrogate pair", kind.key()));
        return Ok(());
    }
    let raw = result.slice(span.start..span.end);
    let mut hasher = DefaultHasher::new();
    raw.hash(&mut hasher);
    page.items.push(Item {
        key,
        raw,
        spans: ItemSpans { start: name.span.start - span.start, end: name.span.end - span.start },
        param_headers: None,
        ui_resource: meta.and_then(|meta| ui_resource_of(meta.of(result))).map(Arc::from),
        wraps_output: false,
        fingerprint: hasher.finish(),
    });
    Ok(())
}

/// The resource that `_meta` of a tool names (MCP Apps: `ui.resourceUri`, and `ui/resourceUri` in older
/// versions).
fn ui_resource_of(meta: &[u8]) -> Option<String> {
    let nested = || {
        let ui = message::member(meta, "ui")?.of(meta);
        message::string(message::member(ui, "resourceUri")?.of(ui))
    };
    let flat = || message::string(message::member(meta, "ui/resourceUri")?.of(meta));
    nested().or_else(flat).filter(|uri| uri.starts_with("ui://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(pad: usize) -> (Bytes, Page) {
        let text = format!(r#"{{"tools":[{{"name":"a"}},{{"name":"b"}}],"pad":"{}"}}"#, "x".repeat(pad));
        let result = Bytes::from(text);
        let page = Page::read(&result, ListKind::Tools).expect("a list");
        (result, page)
    }

    #[test]
    fn entries_do_not_keep_a_page_that_is_mostly_something_else() {
        for (pad, shares) in [(0, true), (1000, false)] {
            let (result, page) = page(pad);
            let within = |item: &Item| result.as_ptr_range().contains(&item.definition().as_ptr());
            assert!(page.items.iter().all(|item| within(item) == shares), "{pad}");
            assert_eq!(page.items[1].definition(), &Bytes::from_static(br#"{"name":"b"}"#));
        }
    }

    #[test]
    fn a_lone_surrogate_costs_at_most_its_entry() {
        let text =
            r#"{"tools":[{"name":"a\ud83d"},{"name":"b","description":"\ude00"},{"name":"c\ud83d\ude00"}]}"#;
        let page = Page::read(&Bytes::from(text), ListKind::Tools).expect("a list");
        let keys: Vec<&str> = page.items.iter().map(|item| item.key.as_str()).collect();
        assert_eq!(keys, ["b", "c😀"]);
        assert_eq!(
            page.items[0].definition(),
            &Bytes::from_static(br#"{"name":"b","description":"\ufffd"}"#)
        );
        let rejected_keys: Vec<&str> = page.rejected.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(rejected_keys, ["a\u{fffd}"]);
    }

    #[test]
    fn what_is_left_out_is_counted_and_remembered_within_bounds() {
        let many = "{},".repeat(5 * MAX_REMEMBERED);
        let text = format!(r#"{{"tools":[{many}7,{{"name":"a\u000ab"}}]}}"#);
        let page = Page::read(&Bytes::from(text), ListKind::Tools).expect("a list");
        assert_eq!((page.items.len(), page.rejected.count()), (1, 5 * MAX_REMEMBERED + 1));
        assert_eq!(page.rejected.iter().count(), MAX_REMEMBERED);
        let last = page.rejected.iter().last().expect("one");
        assert_eq!((&*last.key, &*last.why), ("#99", "its `name` is missing or no string"));
        let mut rejects = RejectedEntries::default();
        rejects.add("a\nb", &"é".repeat(MAX_REASON));
        let only = rejects.iter().next().expect("one");
        assert_eq!((&*only.key, only.why.len()), ("a b", MAX_REASON));
    }

    #[test]
    fn the_page_of_a_tool_is_found_in_both_spellings_and_is_no_other_uri() {
        for (meta, page) in [
            (r#"{"ui":{"resourceUri":"ui://a"}}"#, Some("ui://a")),
            (r#"{"ui/resourceUri":"ui://b"}"#, Some("ui://b")),
            (r#"{"ui":{"resourceUri":"ui://a"},"ui/resourceUri":"ui://b"}"#, Some("ui://a")),
            (r#"{"ui":"ui://a"}"#, None),
            (r#"{"ui":{"resourceUri":"file:///a"}}"#, None),
            (r#"["ui://a"]"#, None),
        ] {
            assert_eq!(ui_resource_of(meta.as_bytes()).as_deref(), page, "{meta}");
        }
    }
}
