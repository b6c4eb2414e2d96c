//! One server's lists as it gave them: entries as bytes, with the place of the name in each.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use filters::json::{DEPTH_CEILING, Fault, Reader};
use filters::mirror::{Invalid, Mirrors};
use filters::rebuild::rename;

use super::{Kind, Place};
use crate::protocol::wire;

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The server's own name, URI or URI template.
    pub key: String,
    /// The entry as the server wrote it.
    raw: Bytes,
    place: Place,
    mirrors: Option<Arc<Mirrors>>,
}

impl Item {
    /// Reads which arguments of a tool calls repeat in their heads (modern era only).
    pub fn reflect(&mut self) -> Result<(), Invalid> {
        let Some(schema) = wire::member(&self.raw, "inputSchema") else { return Ok(()) };
        self.mirrors = Mirrors::read(schema.of(&self.raw))?.map(Arc::new);
        Ok(())
    }

    pub fn mirrors(&self) -> Option<&Arc<Mirrors>> {
        self.mirrors.as_ref()
    }

    /// The entry as the server wrote it.
    pub fn definition(&self) -> &Bytes {
        &self.raw
    }

    /// The entry with `name` in the place of its own.
    pub fn renamed(&self, name: &str) -> Bytes {
        if name == self.key {
            return self.raw.clone();
        }
        rename(BytesMut::from(&self.raw[..]), self.place, name)
    }
}

/// One list of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub items: Vec<Item>,
    /// Modern servers say how long a list stays fresh, and for whom. Absent is 0 and private.
    pub ttl_ms: Option<u64>,
    pub public: bool,
}

/// The four lists of a server, in the order of [`Kind::ALL`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists(pub [Listing; 4]);

impl Lists {
    pub fn of(&self, kind: Kind) -> &[Item] {
        &self.0[kind as usize].items
    }

    /// Without the tools of these names.
    pub fn without(&self, tools: &[String]) -> Self {
        let mut lists = self.clone();
        lists.0[Kind::Tools as usize].items.retain(|item| !tools.contains(&item.key));
        lists
    }

    pub fn listing(&self, kind: Kind) -> &Listing {
        &self.0[kind as usize]
    }
}

/// One page of a list, from the result of a list method.
#[derive(Debug, Default)]
pub struct Page {
    pub items: Vec<Item>,
    pub next: Option<String>,
    pub ttl_ms: Option<u64>,
    pub public: bool,
    /// Entries without a name, or that are no objects.
    pub dropped: usize,
}

impl Page {
    /// Reads the result of a list method. An entry that cannot be named is dropped and counted; a list that is
    /// none is a fault.
    pub fn read(result: &Bytes, kind: Kind) -> Result<Page, String> {
        let mut page = Page::default();
        let mut found = false;
        let mut reader = Reader::new(result, DEPTH_CEILING).map_err(|e| e.to_string())?;
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
        if found { Ok(page) } else { Err(format!("the result has no list `{}`", kind.member())) }
    }
}

fn read_item(r: &mut Reader<'_>, result: &Bytes, kind: Kind, page: &mut Page) -> Result<(), Fault> {
    if r.peek()? != b'{' {
        page.dropped += 1;
        return r.value().map(drop);
    }
    let mut named = None;
    let mut times = 0;
    let span = r.object(|r, key| {
        if key.is(result, kind.key()) && r.peek()? == b'"' {
            named = Some(r.string()?);
            times += 1;
            return Ok(());
        }
        r.value().map(drop)
    })?;
    let Some(name) = named.filter(|_| times == 1) else {
        page.dropped += 1;
        return Ok(());
    };
    let key = name.read(result).into_owned();
    if key.is_empty() {
        page.dropped += 1;
        return Ok(());
    }
    page.items.push(Item {
        key,
        raw: result.slice(span.start..span.end),
        place: Place { start: name.span.start - span.start, end: name.span.end - span.start },
        mirrors: None,
    });
    Ok(())
}
