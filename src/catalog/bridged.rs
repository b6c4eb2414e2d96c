//! The lists of a server as clients of the other era get them. Calls of these entries go to the server in its
//! own era; `bridge/` translates them.

use std::sync::Arc;

use bytes::Bytes;
use mcp::bridge::{capabilities, entries};
use mcp::json::object::Object;
use mcp::{Era, version};

use super::listing::Listing;
use super::{ListKind, Lists, Page, ServerLists};
use crate::upstream::ServerHandshake;

/// The same lists for the clients of the other era. An entry that cannot be read as one of that era is left
/// out.
pub fn bridged(own: &ServerLists) -> ServerLists {
    let client_era = match own.era {
        Era::Legacy => Era::Modern,
        Era::Modern => Era::Legacy,
    };
    let listings = ListKind::ALL.map(|kind| listing(own.lists.listing(kind), kind, client_era));
    ServerLists {
        handshake: handshake(&own.handshake, client_era),
        lists: Lists(listings),
        events: false,
        era: own.era,
    }
}

fn handshake(own: &ServerHandshake, client_era: Era) -> ServerHandshake {
    let translated = match client_era {
        Era::Modern => capabilities::server_to_modern(&own.capabilities),
        Era::Legacy => capabilities::server_to_legacy(&own.capabilities),
    };
    let version = match client_era {
        Era::Modern => version::NEWEST_MODERN,
        Era::Legacy => version::NEWEST_LEGACY,
    };
    let capabilities = translated.map_or_else(|| own.capabilities.clone(), Bytes::from);
    ServerHandshake { version: version.into(), capabilities, faults: Vec::new(), ..own.clone() }
}

fn listing(own: &Listing, kind: ListKind, client_era: Era) -> Listing {
    if kind != ListKind::Tools {
        return own.clone();
    }
    let tools = own.items.iter().filter_map(|tool| {
        let definition = tool.definition();
        let (text, wraps_output) = match client_era {
            Era::Modern => (entries::tool_to_modern(definition)?, false),
            Era::Legacy => entries::tool_to_legacy(definition)?,
        };
        // Read as a list of one: an entry knows the places in its own text.
        let list = Object::read(b"{}")?.with(&[(kind.member(), &[b"[", &*text, b"]"].concat())]);
        let mut page = Page::read(&Bytes::from(list), kind).ok()?;
        let mut item = page.items.pop()?;
        item.wraps_output = wraps_output;
        match tool.param_headers() {
            Some(param_headers) => item.set_param_headers(Arc::clone(param_headers)),
            // A client may send such headers, but a server of that era does not require them.
            None => drop(item.read_param_headers()),
        }
        Some(item)
    });
    Listing { items: tools.collect(), ..own.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(era: Era, tools: &str) -> ServerLists {
        let result = Bytes::from(format!(
            r#"{{"capabilities":{{"tools":{{}},"tasks":{{}},"extensions":{{}}}},"tools":{tools}}}"#
        ));
        let handshake = ServerHandshake::read(&result, version::NEWEST_LEGACY.into()).expect("a handshake");
        let mut lists = Lists::default();
        lists.0[0].append(Page::read(&result, ListKind::Tools).expect("a list"));
        ServerLists { handshake, lists, events: true, era }
    }

    #[test]
    fn tools_are_those_of_the_clients_era() {
        let legacy =
            lists(Era::Legacy, r#"[{"name":"a","execution":{"taskSupport":"optional"},"inputSchema":{}}]"#);
        let shown = bridged(&legacy);
        assert_eq!(
            (shown.era, shown.events, &*shown.handshake.version),
            (Era::Legacy, false, version::NEWEST_MODERN)
        );
        let tool = &shown.lists.of(ListKind::Tools)[0];
        assert_eq!((&*tool.key, &tool.definition()[..]), ("a", &br#"{"name":"a","inputSchema":{}}"#[..]));
        assert_eq!(&tool.renamed("s__a")[..], br#"{"name":"s__a","inputSchema":{}}"#);

        let modern = lists(Era::Modern, r#"[{"name":"a","outputSchema":{"type":"array"}},{"name":"b"}]"#);
        let shown = bridged(&modern);
        let wraps: Vec<bool> = shown.lists.of(ListKind::Tools).iter().map(|tool| tool.wraps_output).collect();
        assert_eq!(wraps, [true, false]);
        assert_eq!(shown.era, Era::Modern);
    }
}
