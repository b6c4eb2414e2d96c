//! For the tests of this folder: a gateway without listeners, servers that nobody watches, and both ends of a client's
//! connection.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use mcp::Era;
use mcp::jsonrpc::message;
use pingora::proxy::Session;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::runtime::Handle;

use super::{Gateway, RequestContext};
use crate::admin::ListenerRole;
use crate::config::{self, Config};
use crate::dispatch::Dispatcher;
use crate::exchange::{ForwardedAnswer, ForwardedCall, ResumedStream, UpstreamRequest, UpstreamRequestKind};
use crate::registry::Registry;
use crate::runtime::RuntimeConfig;
use crate::server::Server;
use crate::session::{self, ClientAnswer, OwnerKey, SentIds, SessionLimits};
use crate::telemetry::Metrics;
use crate::telemetry::access_log::AccessLog;
use crate::upstream::http::UpstreamSession;

/// The id that the client has chosen.
pub const CLIENT_ID: &str = "\"mine\"";
/// Where nobody listens.
pub const ONE: &str = "url: \"http://127.0.0.1:1/mcp\"";
pub const TWO: &str = "urls: [\"http://127.0.0.1:1/mcp\", \"http://127.0.0.1:2/mcp\"]";

fn parsed(text: &str) -> Config {
    config::parse("test", text, &|_| None).expect("a good config")
}

/// A gateway with the demo server and whatever else its file says; runs in the runtime that this is called in.
pub fn gateway(rest: &str) -> Gateway {
    let metrics = Metrics::new();
    let config = parsed(&format!("mcpServers: {{demo: {{builtin: demo}}}}\n{rest}"));
    let config = RuntimeConfig::new(config, None, &Handle::current()).expect("it can run");
    Gateway {
        dispatcher: Dispatcher::new(Registry::start(config, metrics.clone()), metrics, Handle::current()),
        state: Arc::default(),
        access_log: AccessLog::silent(),
        role: ListenerRole::Public,
        in_process: None,
    }
}

/// A server that nobody greets or checks: what is known of it comes of the calls of a test. Its first failure opens the
/// circuit, and takes one of several endpoints out.
pub fn server(settings: &str) -> Arc<Server> {
    let strict = "circuit_breaker: {failures: 1}, health: {unhealthy_after: 1}";
    let mut config = parsed(&format!("mcpServers: {{s: {{{settings}, {strict}}}}}"));
    // Without this each of them reads the system's certificates, which takes longer than a test.
    let tls = config::ServerTls { insecure_skip_verify: true, ..config::ServerTls::default() };
    config.servers.get_mut("s").expect("a server").tls = Some(tls);
    Server::new("s", &config.servers["s"], &config.limits, None).expect("a server")
}

/// What a server has been told of: whether its circuit is open, and whether its first endpoint gets calls.
pub fn told(server: &Arc<Server>) -> (bool, bool) {
    let pool = server.endpoint_pool().expect("it is reached by HTTP");
    (server.begin_call().is_err(), pool.states().first().is_none_or(|(_, gets)| *gets))
}

/// A call of the modern era on its way to a server.
pub fn call(server: &Arc<Server>) -> UpstreamRequest {
    call_with(server, |_| {})
}

/// The same with other properties.
pub fn call_with(server: &Arc<Server>, change: impl FnOnce(&mut ForwardedCall)) -> UpstreamRequest {
    let mut call = ForwardedCall {
        id: Bytes::from_static(CLIENT_ID.as_bytes()),
        sent: SentIds::untracked(),
        body: Bytes::from_static(b"{}"),
        server_era: Era::Modern,
        session: None,
        in_flight: None,
        state_change: None,
        name: None,
        param_headers: Vec::new(),
        idempotent: false,
        affinity_key: 0,
        logs: false,
    };
    change(&mut call);
    let call_guard = server.begin_call().expect("it takes calls");
    UpstreamRequest::new(server.clone(), UpstreamRequestKind::Call(call), call_guard, None)
}

/// What only a call has, to change it.
pub fn call_of(request: &mut UpstreamRequest) -> &mut ForwardedCall {
    match &mut request.kind {
        UpstreamRequestKind::Call(call) => call,
        UpstreamRequestKind::Answer(_) | UpstreamRequestKind::Resume(_) => panic!("it is a call"),
    }
}

/// A client's answer to a request that the server has sent in an upstream session at its first endpoint.
pub fn answer(gateway: &Gateway, server: &Arc<Server>) -> UpstreamRequest {
    let (session, upstream_session) =
        (client_session(gateway, r#"{"roots":{}}"#), upstream_session(server, "2025-06-18"));
    let asks = br#"{"jsonrpc":"2.0","id":7,"method":"roots/list"}"#;
    let read = message::read(asks).expect("a message");
    session.on_server_message(server, upstream_session.id, asks, &read, None);
    let pending = ClientAnswer::begin(&session, upstream_session.id, b"7").expect("it has asked");
    let body = Bytes::from_static(b"{}");
    let kind = UpstreamRequestKind::Answer(ForwardedAnswer { body, session, upstream_session, pending });
    UpstreamRequest::new(server.clone(), kind, server.untracked(), None)
}

/// A GET that resumes a stream at the first endpoint of a server.
pub fn resumption(gateway: &Gateway, server: &Arc<Server>) -> UpstreamRequest {
    let (session, upstream_session) = (client_session(gateway, "{}"), upstream_session(server, "2025-06-18"));
    let last_event_id = HeaderValue::from_static("e1");
    let kind = UpstreamRequestKind::Resume(ResumedStream { last_event_id, session, upstream_session });
    UpstreamRequest::new(server.clone(), kind, server.begin_call().expect("it takes calls"), None)
}

/// An upstream session at the first endpoint of a server.
pub fn upstream_session(server: &Server, version: &str) -> Arc<UpstreamSession> {
    let pool = server.endpoint_pool().expect("it is reached by HTTP");
    Arc::new(UpstreamSession::for_test(&pool.endpoints[0], version))
}

/// A client's session, as `initialize` opens it.
pub fn client_session(gateway: &Gateway, capabilities: &'static str) -> Arc<session::Session> {
    let caller = gateway.dispatcher.registry.snapshot().config.chain.anonymous();
    let limits = SessionLimits { total: 10, per_caller: 10 };
    let (capabilities, info) = (Bytes::from_static(capabilities.as_bytes()), Bytes::from_static(b"{}"));
    let version = mcp::version::NEWEST_LEGACY;
    let sessions = &gateway.dispatcher.sessions;
    sessions
        .open(OwnerKey::new(caller, None), &"/mcp".into(), version, capabilities, info, limits)
        .expect("there is room")
}

/// What is known of a call that is at the first endpoint of its server.
pub fn context(gateway: &Gateway, request: UpstreamRequest) -> RequestContext {
    let snapshot = gateway.dispatcher.registry.snapshot();
    let mut ctx = RequestContext::new(snapshot, gateway.state.begin_request());
    ctx.attempt.endpoint = request.server.endpoint_pool().map(|pool| pool.acquire(0));
    ctx.request = Some(request);
    ctx
}

/// A request of which the head has come, and the client's end of its connection.
pub async fn downstream(request: &str) -> (Session, DuplexStream) {
    let (mut client, ours) = tokio::io::duplex(64 * 1024);
    client.write_all(request.as_bytes()).await.expect("there is room");
    let mut session = Session::new_h1(Box::new(ours));
    assert!(session.as_downstream_mut().read_request().await.expect("a sound head"));
    (session, client)
}

/// The head of a server's answer.
pub fn head(status: u16, headers: &[(&'static str, &str)]) -> pingora::http::ResponseHeader {
    let mut head = pingora::http::ResponseHeader::build(status, None).expect("a status");
    for (name, value) in headers {
        head.append_header(*name, HeaderValue::from_str(value).expect("a value")).expect("a header");
    }
    head
}
