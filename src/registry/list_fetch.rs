//! Reads the lists of one server, page by page, up to limits. A server is not trusted to end its lists, nor
//! to send entries that clients can read. One entry that they cannot read would cost them the lists of all
//! servers.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use mcp::Era;
use mcp::json::quote::quote;

use crate::catalog::{Item, ListKind, Listing, Lists, Page};
use crate::server::Server;
use crate::upstream::entry_definitions::EntryDefinition;
use crate::upstream::{RpcOutcome, ServerHandshake, UpstreamCall, UpstreamError, gateway_params};
use mcp::jsonrpc::message;
use mcp::rejection::code;

/// Limits of one list of a server: entries, pages and bytes.
const MAX_ITEMS: usize = 20_000;
const MAX_PAGES: usize = 1_000;
const MAX_BYTES: usize = 64 << 20;

/// All lists of a server in one era. Where the server returns an error for a list, the one of `before` stays.
pub async fn lists(
    server: &Server,
    server_era: Era,
    handshake: &ServerHandshake,
    before: Option<&Lists>,
) -> Result<Lists, UpstreamError> {
    let mut lists = Lists::default();
    for kind in ListKind::ALL {
        if !handshake.has_capability(kind.capability(), None) {
            continue;
        }
        let old = before.map(|before| before.listing(kind));
        lists.0[kind as usize] = match listing(server, server_era, kind, old).await? {
            Ok(listing) => listing,
            Err(error) => {
                if !old.is_some_and(|old| old.stale) {
                    let (server, kind) = (&server.name, kind.member());
                    tracing::warn!(%server, kind, error, "the list cannot be read; the last good one stays");
                }
                Listing { stale: true, ttl_ms: None, ..old.cloned().unwrap_or_default() }
            }
        };
    }
    Ok(lists)
}

/// One list, or the error that the server returned for it.
async fn listing(
    server: &Server,
    server_era: Era,
    kind: ListKind,
    before: Option<&Listing>,
) -> Result<Result<Listing, String>, UpstreamError> {
    let validator = PageValidator::new(server_era, kind, before);
    let mut listing = Listing { public: true, ..Listing::default() };
    let mut cursor: Option<String> = None;
    let mut seen_cursors = HashSet::new();
    let mut bytes = 0;
    let cut = |limit: usize, of: &str| {
        if server.warns(("cut", kind.member(), of)) {
            let (server, kind) = (&server.name, kind.member());
            tracing::warn!(%server, kind, limit, of, "the list is too long; the rest is left out");
        }
    };
    for _ in 0..MAX_PAGES {
        let rest = cursor.as_ref().map(|cursor| format!(r#""cursor":{}"#, quote(cursor))).unwrap_or_default();
        let call = UpstreamCall {
            server_era,
            method: kind.method(),
            params: gateway_params(server_era, &rest),
            progress: None,
            timeout: server.timeout,
        };
        let result = match server.upstream.call(call).await? {
            RpcOutcome::Result(result) => result,
            // Servers that declare `resources` need not have templates, or the other way round.
            RpcOutcome::Error(error) if cursor.is_none() && is_no_method(&error) => {
                return Ok(Ok(Listing::default()));
            }
            RpcOutcome::Error(error) => {
                return Ok(Err(String::from_utf8_lossy(&error[..error.len().min(200)]).into_owned()));
            }
        };
        bytes += result.len();
        let mut page = Page::read(&result, kind).map_err(UpstreamError::InvalidResponse)?;
        validator.retain_valid(&mut page);
        let next = page.next.take();
        listing.append(page);
        if listing.items.len() > MAX_ITEMS {
            cut(MAX_ITEMS, "entries");
            listing.items.truncate(MAX_ITEMS);
            break;
        }
        match next {
            Some(_) if bytes > MAX_BYTES => {
                cut(MAX_BYTES, "bytes");
                break;
            }
            // A cursor that was read before would only repeat pages.
            Some(next) if seen_cursors.insert(next.clone()) => cursor = Some(next),
            _ => break,
        }
    }
    Ok(Ok(listing))
}

/// Decides which entries of a list clients can read.
struct PageValidator<'a> {
    server_era: Era,
    kind: ListKind,
    /// Entries that were validated before. Lists are read again and again, and seldom change.
    known: HashMap<&'a str, &'a Item>,
    /// Built only if there is a new entry; dropped with the list.
    definition: OnceCell<EntryDefinition>,
}

impl<'a> PageValidator<'a> {
    fn new(server_era: Era, kind: ListKind, before: Option<&'a Listing>) -> Self {
        let items = before.into_iter().flat_map(|before| &before.items);
        let known = items.map(|item| (item.key.as_str(), item)).collect();
        Self { server_era, kind, known, definition: OnceCell::new() }
    }

    /// Removes invalid entries.
    fn retain_valid(&self, page: &mut Page) {
        let rejects = &mut page.rejected;
        page.items.retain_mut(|item| match self.validate(item) {
            Ok(()) => true,
            Err(why) => {
                rejects.add(&item.key, &why);
                false
            }
        });
    }

    fn validate(&self, item: &mut Item) -> Result<(), String> {
        let known = self.known.get(item.key.as_str());
        if known.is_none_or(|known| known.definition() != item.definition()) {
            let definition =
                self.definition.get_or_init(|| EntryDefinition::new(self.server_era, self.kind.definition()));
            definition.check(item.definition())?;
        }
        if (self.server_era, self.kind) == (Era::Modern, ListKind::Tools) {
            // Clients must leave out tools that they could not call correctly (2026-07-28, streamable-http,
            // `x-mcp-header`).
            item.read_param_headers().map_err(|why| why.to_string())?;
        }
        Ok(())
    }
}

/// Whether a server reports that it has no such list.
fn is_no_method(error: &[u8]) -> bool {
    message::error_code(error) == Some(code::METHOD_NOT_FOUND)
}
