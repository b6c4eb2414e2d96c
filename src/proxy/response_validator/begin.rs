//! The head of a response: which kind of body follows, whether it may be a response to this request, and
//! which headers go on.

use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use pingora::http::ResponseHeader;

use super::*;
use crate::config;
use crate::upstream::http::UpstreamSession;
use crate::upstream::http::redirect;
use crate::upstream::http::response::kind_of;
use crate::upstream::http::retry::retry_after;

impl ResponseValidator {
    /// Validates the head of a response, which arrived now.
    pub fn begin(
        response: &mut ResponseHeader,
        upstream_request: &UpstreamRequest,
        upstream_session: Option<&Arc<UpstreamSession>>,
        framing: BodyFraming,
        now: Instant,
    ) -> Result<Self, UpstreamError> {
        let kind = kind_of(&response.headers);
        let status = response.status.as_u16();
        if response.status.is_redirection() {
            // The location is reported only if the head surely belongs to this response.
            let none = HeaderMap::new();
            return Err(redirect::elsewhere(status, if framing.certain { &response.headers } else { &none }));
        }
        let decoder = Decoder::of(&response.headers)?;
        let length =
            response.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        let limit = upstream_request.server.max_response;
        // Some servers use such a type, or none. Without a type, the body shows what it is.
        let untyped = kind.is_empty()
            && upstream_request.id().is_some()
            && length != Some(0)
            && (status == 200 || response.status.is_client_error());
        let kind = match kind.as_str() {
            "text/json" | "application/json-rpc" => "application/json",
            kind => kind,
        };
        if decoder.is_some() {
            response.remove_header(&CONTENT_LENGTH);
        }
        let mut promised = None;
        if kind == "application/json" || untyped {
            response
                .insert_header(CONTENT_TYPE, JSON)
                .map_err(|_| invalid_response("its head cannot be passed on"))?;
        }
        let form = match (status, kind) {
            (401 | 403, _) if !upstream_request.server.forwards_client_auth() => {
                if upstream_request.server.config.credentials != config::CredentialsMode::None {
                    return Err(UpstreamError::Credentials(status));
                }
                // A response that contains what it protects is accepted with any head.
                if kind.is_empty()
                    || length == Some(0)
                    || upstream_request.redactor.is_some()
                    || !framing.certain
                {
                    return Err(UpstreamError::Denied(status, String::new()));
                }
                let kind = kind.to_owned();
                response.remove_header(&CONTENT_LENGTH);
                response
                    .insert_header(CONTENT_TYPE, JSON)
                    .map_err(|_| invalid_response("its head cannot be passed on"))?;
                response
                    .set_status(StatusCode::BAD_GATEWAY)
                    .map_err(|_| invalid_response("its head cannot be passed on"))?;
                BodyKind::Denial { status, kind, held: BytesMut::new() }
            }
            (_, "") if untyped => {
                response.remove_header(&CONTENT_LENGTH);
                BodyKind::Json { held: BytesMut::new(), scan: None, open: false }
            }
            (200..=599, "application/json") if length.is_some_and(|length| length > limit) => {
                return Err(UpstreamError::TooLarge(limit));
            }
            // 204 and 205 have no body (RFC 9110 §15.3.5).
            (204 | 205, "application/json") if upstream_request.id().is_some() => {
                return Err(UpstreamError::InvalidResponse("the answer is empty".into()));
            }
            (200..=299, "application/json") if upstream_request.id().is_some() && length == Some(0) => {
                return Err(UpstreamError::InvalidResponse("the answer is empty".into()));
            }
            (200..=299, "application/json") if upstream_request.id().is_some() => {
                let whole = decoder.is_none()
                    && upstream_request.redactor.is_none()
                    && !upstream_session.is_some_and(|upstream_session| upstream_session.has_batches());
                let sized = length.zip(upstream_request.as_call()).filter(|_| whole && framing.sized);
                promised = sized.map(|(length, call)| promise(length, call));
                // Redaction and id replacement change the length.
                match promised {
                    Some(length) => drop(response.insert_header(CONTENT_LENGTH, length)),
                    None => drop(response.remove_header(&CONTENT_LENGTH)),
                }
                BodyKind::Json { held: BytesMut::new(), scan: None, open: false }
            }
            (200..=299, _) if upstream_request.id().is_none() && !upstream_request.resumes() => {
                if length != Some(0) && status != 204 {
                    response.set_status(202).expect("it is a status");
                    response.remove_header(&CONTENT_TYPE);
                    let _ = response.remove_header(&CONTENT_LENGTH);
                }
                BodyKind::Dropped
            }
            (200..=299, "text/event-stream") => {
                // A byte order mark before it and an unfinished event are dropped, and ids may become
                // longer.
                response.remove_header(&CONTENT_LENGTH);
                BodyKind::Events(EventSplitter::new(limit))
            }
            (429 | 503, "application/json") if length == Some(0) => {
                return Err(UpstreamError::RetryLater(status, retry_after(&response.headers)));
            }
            // An error may belong to another request, and may hold a secret, as a result may.
            (400..=599, "application/json")
                if upstream_request.redactor.is_some() || upstream_request.id().is_some() =>
            {
                response.remove_header(&CONTENT_LENGTH);
                let later = matches!(status, 429 | 503).then(|| (status, retry_after(&response.headers)));
                BodyKind::Failure { status, held: BytesMut::new(), later }
            }
            (400..=599, "application/json") if framing.certain => BodyKind::Other,
            (400..=599, "application/json") => return Err(UpstreamError::Nameless),
            (429 | 503, _) => return Err(UpstreamError::RetryLater(status, retry_after(&response.headers))),
            (400..=499, _) => {
                return Err(UpstreamError::ClientCaused(format!("HTTP {status} with content type {kind:?}")));
            }
            _ => {
                return Err(UpstreamError::InvalidResponse(format!(
                    "HTTP {status} with content type {kind:?}"
                )));
            }
        };
        let reader = MessageReader::of(upstream_request, upstream_session, framing.certain, now);
        let doubtful = status == 400 && upstream_request.server_era().codec().has_mirrored_headers();
        let (certain, redactor) = (framing.certain, upstream_request.redactor.clone());
        let odd = (untyped && status >= 400).then(|| (status, retry_after(&response.headers)));
        Ok(Self {
            kind: form,
            reader,
            passed: 0,
            promised,
            gone: 0,
            certain,
            redactor,
            doubtful,
            decoder,
            client_caused: odd,
        })
    }
}
