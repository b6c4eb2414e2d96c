//! `/tools/pins`: what tools are defined as, and the operator's word that a changed definition is right.
//!
//! GET lists the tools of servers with `pinning`; POST approves of one, by its hash, so that what is approved is what
//! was looked at. For operators only, and never for a web page.

use std::time::Duration;

use bytes::Bytes;
use filters::Refusal;
use filters::agree::quote;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::{Ctx, Gateway, body, reply};
use crate::protocol::wire;
use crate::registry::Approval;
use crate::telemetry::Outcome;

/// Longest body of an approval, in bytes, and the time that it may take.
const MAX_BODY: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers a request of somebody who may.
pub async fn pins(gateway: &Gateway, session: &mut Session, ctx: &mut Ctx) -> pingora::Result<()> {
    ctx.outcome = Some(Outcome::Ok);
    let verb = session.req_header().method.clone();
    if verb == Method::GET {
        return answer(session, ctx, 200, list(gateway)).await;
    }
    if verb != Method::POST {
        let mut head = ResponseHeader::build(405, Some(4))?;
        head.insert_header(ALLOW, HeaderValue::from_static("GET, POST"))?;
        return reply::write(session, ctx, head, Bytes::new()).await;
    }
    // A page of another origin cannot send this type unasked.
    let json = session.req_header().headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.split(';').next().unwrap_or_default().trim() == "application/json")
    });
    if !json {
        let words = "an approval is JSON: send Content-Type: application/json";
        return refuse(session, ctx, Refusal::http(415, "content_type", words)).await;
    }
    // So small that it is never counted.
    let bounds = body::Bounds { limit: MAX_BODY, patience: PATIENCE, together: usize::MAX, free: 0 };
    let read = match body::read(session, &bounds, &mut gateway.state.load()).await? {
        Ok(read) => read,
        Err(refusal) => return refuse(session, ctx, refusal).await,
    };
    let part = |name| wire::member(&read, name).and_then(|place| wire::string(place.of(&read)));
    let (Some(tool), Some(hash)) = (part("tool"), part("hash")) else {
        let words = r#"expected {"tool": "server__tool", "hash": "the 64 hex digits that GET tells"}"#;
        return refuse(session, ctx, Refusal::http(400, "approval_unclear", words)).await;
    };
    match gateway.door.registry.approve(&tool, &hash) {
        Approval::Done => {
            let body = format!(r#"{{"tool":{},"hash":{}}}"#, quote(&tool), quote(&hash));
            answer(session, ctx, 200, body).await
        }
        Approval::Unknown => {
            let words = "no server with `pinning` has a tool of this name";
            refuse(session, ctx, Refusal::http(404, "unknown_tool", words)).await
        }
        Approval::Other(hashes) => {
            let words = format!("the definition has another hash now: {}", hashes.join(", "));
            refuse(session, ctx, Refusal::http(409, "definition_changed", words)).await
        }
    }
}

fn list(gateway: &Gateway) -> String {
    let definitions = gateway.door.registry.definitions();
    let lines = definitions.iter().map(|d| {
        format!(
            r#"{{"tool":{},"server":{},"era":"{}","hash":"{}","shown":{}}}"#,
            quote(&d.tool),
            quote(&d.server),
            d.era.word(),
            d.hash,
            d.shown
        )
    });
    format!(r#"{{"tools":[{}]}}"#, lines.collect::<Vec<_>>().join(","))
}

async fn answer(session: &mut Session, ctx: &Ctx, status: u16, body: String) -> pingora::Result<()> {
    let mut head = ResponseHeader::build(status, Some(4))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    reply::write(session, ctx, head, Bytes::from(body)).await
}

async fn refuse(session: &mut Session, ctx: &mut Ctx, refusal: Refusal) -> pingora::Result<()> {
    ctx.refuse("intake", Box::new(refusal));
    reply::failure(session, ctx).await
}
