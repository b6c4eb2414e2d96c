//! What a client over HTTP+SSE posts: the query leads to its own stream or to none, an id names one call, and a
//! response comes out of the stream as one event with that message. No bytes make anything panic.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use filters::{Caller, Identity};
use fuzz::events::interpret;
use fuzz::json::{is_json, members};
use fuzz::{cut, number};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use mcp::jsonrpc::{message, request};
use mcp::{Reason, Rejection, header_name, sse, version};
use tokio::runtime::{Builder, Runtime};
use toolgate::catalog::{EndpointPath, is_endpoint};
use toolgate::proxy::http_sse::{messages_uri, session_id, without_version};
use toolgate::session::{OutboxStream, OwnerKey, SessionLimits, SessionManager, SseClients, SseStreamGuard};
use toolgate::telemetry::Metrics;

const PATH: &str = "/mcp";

struct Setup {
    clients: Arc<SseClients>,
    guard: SseStreamGuard,
    stream: OutboxStream,
    ann: Caller,
    eve: Caller,
    runtime: Runtime,
}

static SETUP: LazyLock<Setup> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("a runtime");
    let clients = SseClients::new(SessionManager::new(Metrics::new(), runtime.handle().clone()));
    let caller = |user: &str| Caller::new(Identity { user: user.into(), ..Identity::default() });
    let (ann, eve) = (caller("ann"), caller("eve"));
    let limits = SessionLimits { total: 2, per_caller: 1 };
    let opened = clients.open(OwnerKey::new(ann.clone(), None), &Arc::from(PATH), limits);
    let guard = opened.unwrap_or_else(|full| panic!("{full}"));
    let stream = guard.client().outbox().attach(Duration::from_secs(60)).expect("the first stream");
    Setup { clients, guard, stream, ann, eve, runtime }
});

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let kind = number(&mut data) % 4;
    let (one, other) = cut(data, 0);
    match kind {
        0 => query(one),
        1 => uri(&String::from_utf8_lossy(one), other),
        2 => versions(one, other),
        _ => {
            posted(one);
            calls(one, other);
        }
    }
});

/// A query as a client writes it; some bytes stand for the parts of one that is right.
fn query(said: &[u8]) {
    let Setup { clients, guard, ann, eve, .. } = &*SETUP;
    let id = &guard.client().id;
    let mut query = String::new();
    for byte in said {
        match byte {
            0x80..=0x9f => query.push_str(&id[usize::from(byte - 0x80)..][..1]),
            0xa0 => query.push_str("session_id="),
            0xa1 => query.push_str(id),
            byte => query.push(char::from(*byte)),
        }
    }
    let ids: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("session_id=")).collect();
    let expected = match ids[..] {
        [one] => Some(one),
        _ => None,
    };
    let read = session_id(&query).ok();
    assert_eq!(read, expected, "{query}");
    let Some(read) = read else { return };
    assert_eq!(clients.get(read, PATH, ann).is_some(), read == id);
    assert!(clients.get(read, PATH, eve).is_none(), "somebody else's stream");
    assert!(clients.get(read, "/servers/a/mcp", ann).is_none(), "a stream of another endpoint");
}

/// The URI of the first event leads to the messages of the same endpoint, and back to the client.
fn uri(server: &str, public: &[u8]) {
    let id = &SETUP.guard.client().id;
    for path in [
        "/sse".to_owned(),
        "/sse/".into(),
        format!("/servers/{server}/sse"),
        format!("/servers/{server}/sse/"),
    ] {
        let Some(EndpointPath::Sse) = is_endpoint(&path) else { continue };
        let (scope, _) = EndpointPath::split(&path).expect("it is one");
        let target = |uri: &str| {
            let (there, query) = uri.split_once('?').expect("a query");
            assert_eq!(session_id(query), Ok(&**id), "{uri}");
            // RFC 3986, 5.2: what stands after the last slash of the base is replaced.
            let mut base = path[..=path.rfind('/').expect("it begins with one")].to_owned();
            let mut there = there;
            if let Some(rest) = there.strip_prefix("../") {
                base.truncate(base[..base.len() - 1].rfind('/').expect("a segment") + 1);
                there = rest;
            }
            if there.starts_with('/') { there.to_owned() } else { base + there }
        };
        let relative = target(&messages_uri(&path, None, id));
        assert_eq!(EndpointPath::split(&relative), Some((scope, EndpointPath::Messages)), "{relative}");
        let public: String =
            public.iter().filter(|b| b.is_ascii_alphanumeric()).map(|b| char::from(*b)).collect();
        let absolute = target(&messages_uri(&path, Some(&format!("/{public}")), id));
        assert_eq!(absolute, format!("/{public}{scope}/messages/"));
    }
}

/// The header of the version stays if HTTP+SSE has no such version, or if there are two.
fn versions(one: &[u8], other: &[u8]) {
    let mut headers = HeaderMap::new();
    for value in [one, other] {
        if let Ok(value) = HeaderValue::from_bytes(value)
            && !value.is_empty()
        {
            headers.append(header_name::PROTOCOL_VERSION, value);
        }
    }
    let sent: Vec<_> = headers.get_all(header_name::PROTOCOL_VERSION).iter().cloned().collect();
    let left = without_version(&headers);
    let left: Vec<_> = left.get_all(header_name::PROTOCOL_VERSION).iter().cloned().collect();
    let negotiable =
        |value: &HeaderValue| std::str::from_utf8(value.as_bytes()).is_ok_and(version::is_of_http_sse);
    match &sent[..] {
        [only] if negotiable(only) => assert!(left.is_empty()),
        _ => assert_eq!(left, sent),
    }
}

/// A body: what it leads to comes out as one event.
fn posted(body: &[u8]) {
    let id = match request::read(body, 64) {
        Ok(read) => read.id,
        Err(rejected) => rejected.id,
    };
    let id = id.map(|id| id.of(body));
    let rejection = Rejection::http(404, Reason::NoSession, String::from_utf8_lossy(body).into_owned());
    let error = message::rejection_response(id, &rejection);
    let read = message::read(&error).expect("an error is a message");
    assert_eq!(read.id.map(|span| span.of(&error)), id);
    on_stream(error);
    // A message of a server that has passed goes there as it is.
    if is_json(body) {
        on_stream(Bytes::copy_from_slice(body));
    }
}

fn on_stream(sent: Bytes) {
    let Setup { guard, stream, runtime, .. } = &*SETUP;
    let item = runtime.block_on(async {
        guard.client().send(sent.clone()).await;
        stream.next().await.expect("it waits")
    });
    assert_eq!(item.message, sent);
    let events = interpret(&sse::message(&item.message));
    let [event] = &events[..] else { panic!("{} events for one message", events.len()) };
    assert_eq!(event.name, "message");
    let data = event.data.as_bytes();
    assert!(is_json(data));
    // Line ends between the tokens are the only bytes that may differ.
    let bytes = |text: &[u8]| text.iter().copied().filter(|b| !b"\r\n".contains(b)).collect::<Vec<u8>>();
    assert_eq!(bytes(data), bytes(&sent));
    assert_eq!(members(data).is_some(), members(&sent).is_some());
}

/// Two requests in flight are found by their ids, until they are done.
fn calls(one: &[u8], other: &[u8]) {
    let client = SETUP.guard.client();
    let (Ok(one_read), Ok(other_read)) = (request::read(one, 64), request::read(other, 64)) else { return };
    let (Some(first), Some(second)) = (one_read.id, other_read.id) else { return };
    let (first, second) = (first.of(one), second.of(other));
    let guard = client.begin_call(Bytes::copy_from_slice(first)).expect("a place");
    assert!(client.call(first).is_some());
    assert_eq!(client.call(second).is_some(), message::same_id(first, second));
    client.call(first).expect("it is in flight").cancel();
    assert!(guard.call().is_cancelled());
    drop(guard);
    assert!(client.call(first).is_none() && client.call(second).is_none());
}
