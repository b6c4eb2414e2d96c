//! Values that a client returns: list cursors and session ids. Only values that the gateway issued, to this
//! caller and for this list, are accepted; no bytes make anything panic.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use filters::RequestHead;
use filters::{Caller, Identity};
use fuzz::json::{members, text};
use fuzz::{cut, number};
use http::{HeaderMap, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use mcp::Era;
use mcp::header_name;
use mcp::jsonrpc::request;
use tokio::runtime::{Builder, Runtime};
use toolgate::catalog::{Catalog, DiscoveredServer, Endpoint, ListKind, Lists, Page, ServerLists};
use toolgate::config::Config;
use toolgate::server::Server;
use toolgate::session::{OwnerKey, Session, SessionLimits, SessionManager};
use toolgate::telemetry::Metrics;
use toolgate::upstream::ServerHandshake;

/// The entries of a server: a page has a thousand.
const ENTRIES: [(ListKind, usize); 4] = [
    (ListKind::Tools, 11_500),
    (ListKind::Prompts, 1_001),
    (ListKind::Resources, 0),
    (ListKind::Templates, 1),
];

struct Setup {
    endpoint: Arc<Endpoint>,
    /// The cursors that each list issued, in the order of [`ListKind::ALL`], with the page of each.
    given: Vec<BTreeMap<String, Bytes>>,
    sessions: Arc<SessionManager>,
    session: Arc<Session>,
    caller: Caller,
    _runtime: Runtime,
}

static SETUP: LazyLock<Setup> = LazyLock::new(|| {
    let mut lists = Lists::default();
    for (kind, count) in ENTRIES {
        let entries: Vec<String> = (0..count).map(|n| format!(r#"{{"{}":"e{n}"}}"#, kind.key())).collect();
        let list = format!(r#"{{"{}":[{}]}}"#, kind.member(), entries.join(","));
        lists.0[kind as usize].items = Page::read(&Bytes::from(list), kind).expect("a list").items;
    }
    let handshake = ServerHandshake {
        version: "2026-07-28".into(),
        capabilities: Bytes::from_static(br#"{"tools":{},"prompts":{},"resources":{}}"#),
        server_info: Bytes::from_static(br#"{"name":"fuzz","version":"1"}"#),
        instructions: None,
        faults: Vec::new(),
    };
    let lists_of_server = Arc::new(ServerLists { handshake, lists, events: false, era: Era::Modern });
    let config = Config::quickstart();
    let settings = config.servers.values().next().expect("the demo server");
    let server = Server::new("fuzz", settings, &config.limits, None).expect("it needs nothing");
    let seen = DiscoveredServer {
        server,
        legacy: Some(lists_of_server.clone()),
        modern: Some(lists_of_server),
        bridged: None,
        starting: [false; 2],
    };
    let metrics = Metrics::new();
    let catalog = Catalog::build(1, &[seen], &BTreeMap::new(), &metrics);
    let endpoint = catalog.endpoint("/mcp").expect("it is always there").clone();
    let given = ListKind::ALL.map(|kind| walk(&endpoint, kind)).into();
    let runtime = Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let sessions = SessionManager::new(metrics, runtime.handle().clone());
    let caller = Caller::new(Identity { user: "ada".into(), ..Identity::default() });
    let (abilities, client) = (Bytes::from_static(b"{}"), Bytes::from_static(b"{}"));
    let holder = OwnerKey::new(caller.clone(), None);
    let session = sessions.open(
        holder,
        &endpoint.path,
        "2025-11-25",
        abilities,
        client,
        SessionLimits { total: 10, per_caller: 10 },
    );
    let session = session.unwrap_or_else(|_| panic!("there is a free slot"));
    Setup { endpoint, given, sessions, session, caller, _runtime: runtime }
});

/// Reads a list from its beginning, as a client does, and counts its entries.
fn walk(endpoint: &Endpoint, kind: ListKind) -> BTreeMap<String, Bytes> {
    let mut given = BTreeMap::new();
    let mut shown = BTreeSet::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = endpoint.modern.page(kind, cursor.as_deref()).expect("what was given out leads on");
        let list = Page::read(page, kind).expect("a page is a list");
        assert!(list.items.iter().all(|item| shown.insert(item.key.clone())), "an entry stands twice");
        let next = text(&members(page).expect("an object"), "nextCursor");
        if let Some(cursor) = cursor.replace(next.clone().unwrap_or_default()) {
            assert!(given.insert(cursor, page.clone()).is_none(), "it goes in circles");
        }
        if next.is_none() {
            break;
        }
    }
    let (_, count) = ENTRIES.iter().find(|(of, _)| *of == kind).expect("all four are there");
    assert_eq!(shown.len(), *count, "{} are lost", kind.member());
    given
}

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let kind = ListKind::ALL[number(&mut data) % ListKind::ALL.len()];
    let (said, id) = cut(data, 0);
    cursor(kind, said);
    session(id);
});

/// A cursor as a client writes it: the content of a JSON string.
fn cursor(kind: ListKind, said: &[u8]) {
    let quoted = [b"\"", said, b"\""].concat();
    let body = [br#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"cursor":"#, &quoted[..], b"}}"].concat();
    let Ok(read) = request::read(&body, 64) else { return };
    let cursor = read.cursor.expect("there is one").read(&body);
    let Setup { endpoint, given, .. } = &*SETUP;
    let given = given[kind as usize].get(&*cursor);
    for client_era in [Era::Modern, Era::Legacy] {
        let page = endpoint.view(client_era).page(kind, Some(&cursor));
        assert_eq!(page.is_some(), given.is_some(), "{cursor:?}");
    }
    assert_eq!(endpoint.modern.page(kind, Some(&cursor)), given);
}

/// The id of a session in a head.
fn session(id: &[u8]) {
    let Setup { sessions, session, caller, endpoint, .. } = &*SETUP;
    // Bytes stand for the characters of the random id, so that some attempts are nearly right.
    let id: Vec<u8> = id
        .iter()
        .map(|byte| match byte {
            0x80.. => session.id.as_bytes().get(usize::from(byte - 0x80)).copied().unwrap_or(*byte),
            _ => *byte,
        })
        .collect();
    let Ok(value) = HeaderValue::from_bytes(&id) else { return };
    let headers = HeaderMap::from_iter([(header_name::SESSION, value)]);
    let http_method = Method::POST;
    let head = RequestHead {
        http_method: &http_method,
        path: "/mcp",
        headers: &headers,
        authority: None,
        peer: None,
        certificate: None,
        is_network: true,
    };
    let Ok(said) = head.single(&header_name::SESSION) else { return };
    let said = said.expect("it stands there");
    let found = sessions.get(said, &endpoint.path, caller);
    assert_eq!(found.is_some(), *said == session.id);
    let other = Caller::new(Identity { user: "eve".into(), ..Identity::default() });
    assert!(sessions.get(said, &endpoint.path, &other).is_none(), "somebody else's session");
    assert!(sessions.get(said, "/servers/fuzz/mcp", caller).is_none(), "a session of another endpoint");
}
