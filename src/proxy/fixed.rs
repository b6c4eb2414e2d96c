//! The paths that are not MCP: `/health`, `/ready`, `/metrics` for operators, and the metadata of RFC 9728.

use bytes::Bytes;
use filters::agree::quote;
use filters::{Refusal, Stop};
use http::HeaderValue;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::{Ctx, Gateway, Serves, approve, reply};
use crate::catalog;
use crate::telemetry::Outcome;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Health,
    Ready,
    Metrics,
    /// Definitions of tools, and the approval of one.
    Pins,
}

impl Path {
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/health" => Some(Path::Health),
            "/ready" => Some(Path::Ready),
            "/metrics" => Some(Path::Metrics),
            "/tools/pins" => Some(Path::Pins),
            _ => None,
        }
    }
}

/// What a path of RFC 9728 describes: the path of the resource, empty for the one at the root.
pub fn described(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/.well-known/oauth-protected-resource")?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// The metadata of a protected resource, and never a server's own. Whoever asks has shown no credentials, so it is told
/// of every endpoint that could be there.
pub async fn metadata(session: &mut Session, ctx: &mut Ctx) -> pingora::Result<()> {
    ctx.outcome = Some(Outcome::Ok);
    let path = catalog::plain(session.req_header().uri.path());
    let Some(document) = ctx.house.plan.chain.auth.metadata_document(path) else {
        let words = "no such metadata: either this can be no endpoint, or auth.resource_metadata is not set";
        ctx.refuse("intake", Box::new(Refusal::http(404, "no_metadata", words)));
        return reply::failure(session, ctx).await;
    };
    let mut head = ResponseHeader::build(200, Some(5))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    head.insert_header(CACHE_CONTROL, HeaderValue::from_static("max-age=300"))?;
    reply::write(session, ctx, head, Bytes::from(document)).await
}

/// Whether a path of the operator's answers in spite of this refusal of the head. Probes come by address, without
/// credentials, and may have any Host; what tells of servers and tools stays shut on a public listener.
pub fn is_open(path: Option<Path>, stop: &Stop, serves: Serves) -> bool {
    match path {
        None => false,
        // It changes something: nothing that a web page could send may pass here.
        Some(Path::Pins) => serves == Serves::Admin && matches!(stop.filter, "auth" | "rate"),
        Some(_) if serves == Serves::Admin => true,
        Some(Path::Health | Path::Ready) => true,
        Some(Path::Metrics) => matches!(stop.filter, "origin" | "size"),
    }
}

/// Whether the caller is an operator, where that is asked for.
fn may_look(gateway: &Gateway, ctx: &Ctx) -> bool {
    let chain = &ctx.house.plan.chain;
    gateway.serves == Serves::Admin
        || chain.auth.is_open()
        || ctx.caller.as_ref().is_some_and(|caller| chain.rbac.is_admin(caller))
}

pub async fn answer(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
    path: Path,
) -> pingora::Result<()> {
    ctx.outcome = Some(Outcome::Ok);
    if path != Path::Pins && !matches!(session.req_header().method.as_str(), "GET" | "HEAD") {
        let mut head = ResponseHeader::build(405, Some(4))?;
        head.insert_header(ALLOW, HeaderValue::from_static("GET, HEAD"))?;
        return reply::write(session, ctx, head, Bytes::new()).await;
    }
    let may_look = may_look(gateway, ctx);
    if path == Path::Metrics && !may_look {
        let words = "metrics on the public listener are for callers whose role has `admin: true`; `admin: {address: ...}` gives them a listener of their own";
        ctx.refuse("intake", Box::new(Refusal::http(403, "not_an_operator", words)));
        return reply::failure(session, ctx).await;
    }
    let (status, kind, body) = match path {
        Path::Pins => {
            let operator = gateway.serves == Serves::Admin
                || ctx.caller.as_ref().is_some_and(|caller| ctx.house.plan.chain.rbac.is_admin(caller));
            if !operator {
                let words = "definitions are approved on the listener `admin`, or by callers whose role has `admin: true`";
                ctx.refuse("intake", Box::new(Refusal::http(403, "not_an_operator", words)));
                return reply::failure(session, ctx).await;
            }
            return approve::pins(gateway, session, ctx).await;
        }
        Path::Health => (200, "application/json", health(ctx)),
        Path::Ready => {
            let missing = missing(gateway, ctx);
            let words: Vec<String> = missing.iter().map(|word| quote(word)).collect();
            let starting = ctx.house.servers.values().filter(|server| server.is_awaited());
            let starting: Vec<String> = starting.map(|server| quote(&server.name)).collect();
            let ready = missing.is_empty();
            // A faulty file is no reason to take a gateway out of service that runs well on the old one; and all
            // replicas of it read the same file.
            let warnings = gateway.state.config_fault().map(|fault| {
                quote(&format!("the changed configuration is faulty, the old one runs: {fault}"))
            });
            let warnings = warnings.unwrap_or_default();
            if !may_look {
                let body = Bytes::from(format!(r#"{{"ready":{ready}}}"#));
                return whole(session, ctx, if ready { 200 } else { 503 }, "application/json", body).await;
            }
            let (words, starting) = (words.join(","), starting.join(","));
            let body = format!(
                r#"{{"ready":{ready},"missing":[{words}],"starting":[{starting}],"warnings":[{warnings}]}}"#
            );
            (if ready { 200 } else { 503 }, "application/json", Bytes::from(body))
        }
        Path::Metrics => {
            let metrics = &gateway.door.metrics;
            let servers = ctx.house.servers.values();
            let pools = servers.filter_map(|server| Some((server.name.as_ref(), server.upstream.http()?)));
            metrics.endpoints_up(pools.flat_map(|(name, pool)| {
                pool.states().into_iter().map(|(label, up)| ([name.to_owned(), label.to_owned()], up))
            }));
            let known = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            metrics.connections.set(known(gateway.state.connections()));
            metrics.buffered.set(known(gateway.state.buffered()));
            if let Some(store) = ctx.house.plan.lasting.redis() {
                metrics.limit_store(store.is_there(), store.misses());
            }
            (200, "text/plain; version=0.0.4; charset=utf-8", Bytes::from(metrics.text()))
        }
    };
    whole(session, ctx, status, kind, body).await
}

async fn whole(
    session: &mut Session,
    ctx: &Ctx,
    status: u16,
    kind: &'static str,
    body: Bytes,
) -> pingora::Result<()> {
    let mut head = ResponseHeader::build(status, Some(4))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static(kind))?;
    reply::write(session, ctx, head, body).await
}

fn health(ctx: &Ctx) -> Bytes {
    let servers = &ctx.house.servers;
    let connected = servers.values().filter(|server| server.is_up()).count();
    let tools = ctx.house.catalog.endpoint("/mcp").map_or(0, |endpoint| {
        let names = endpoint.legacy.shown.iter().chain(&endpoint.modern.shown);
        names.collect::<std::collections::BTreeSet<_>>().len()
    });
    Bytes::from(format!(
        r#"{{"status":"ok","servers":{},"connected":{connected},"tools":{tools}}}"#,
        servers.len()
    ))
}

/// What keeps the gateway from being ready, in words.
fn missing(gateway: &Gateway, ctx: &Ctx) -> Vec<String> {
    let mut missing = Vec::new();
    // After a handover whoever asks once more, by a new connection, asks the successor.
    if gateway.door.drain.is_cancelled() && !gateway.state.is_handed_over() {
        missing.push("the gateway is stopping".to_owned());
    }
    missing.extend(ctx.house.missing());
    for name in gateway.door.registry.awaited() {
        missing.push(format!("the server `{name}`: still starting"));
    }
    missing
}
