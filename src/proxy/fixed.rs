//! The operator's paths: `/health`, `/ready`, `/metrics`.

use bytes::Bytes;
use filters::agree::quote;
use http::HeaderValue;
use http::header::{ALLOW, CONTENT_TYPE};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::{Ctx, Gateway, reply};
use crate::telemetry::Outcome;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Health,
    Ready,
    Metrics,
}

impl Path {
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/health" => Some(Path::Health),
            "/ready" => Some(Path::Ready),
            "/metrics" => Some(Path::Metrics),
            _ => None,
        }
    }
}

pub async fn answer(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
    path: Path,
) -> pingora::Result<()> {
    ctx.outcome = Some(Outcome::Ok);
    if !matches!(session.req_header().method.as_str(), "GET" | "HEAD") {
        let mut head = ResponseHeader::build(405, Some(4))?;
        head.insert_header(ALLOW, HeaderValue::from_static("GET, HEAD"))?;
        return reply::write(session, ctx, head, Bytes::new()).await;
    }
    let (status, kind, body) = match path {
        Path::Health => (200, "application/json", health(ctx)),
        Path::Ready => {
            let missing = missing(gateway, ctx);
            let words: Vec<String> = missing.iter().map(|word| quote(word)).collect();
            let ready = missing.is_empty();
            // A faulty file is no reason to take a gateway out of service that runs well on the old one; and all
            // replicas of it read the same file.
            let warnings = gateway.state.config_fault().map(|fault| {
                quote(&format!("the changed configuration is faulty, the old one runs: {fault}"))
            });
            let warnings = warnings.unwrap_or_default();
            let body =
                format!(r#"{{"ready":{ready},"missing":[{}],"warnings":[{warnings}]}}"#, words.join(","));
            (if ready { 200 } else { 503 }, "application/json", Bytes::from(body))
        }
        Path::Metrics => {
            (200, "text/plain; version=0.0.4; charset=utf-8", Bytes::from(gateway.door.metrics.text()))
        }
    };
    let mut head = ResponseHeader::build(status, Some(4))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static(kind))?;
    reply::write(session, ctx, head, body).await
}

fn health(ctx: &Ctx) -> Bytes {
    let servers = &ctx.house.plan.servers;
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
    if gateway.door.drain.is_cancelled() {
        missing.push("the gateway is stopping".to_owned());
    }
    for server in ctx.house.plan.servers.values().filter(|server| server.config.required && !server.is_up()) {
        let why =
            server.last_error().map_or_else(|| "not connected yet".to_owned(), |error| error.to_string());
        missing.push(format!("the required server `{}`: {why}", server.name));
    }
    missing
}
