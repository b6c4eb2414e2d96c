//! Which responses mean that a server does not speak an era.

use bytes::Bytes;
use http::StatusCode;
use mcp::Era;
use mcp::era_codec::{is_rejection_code, is_rejection_status};

use super::response::shorten;
use crate::upstream::{RpcOutcome, UpstreamError};
use mcp::jsonrpc::message;

/// The result of a handshake, or whether the server does not speak the era. Only a response that would be the
/// same another time means that (versioning.mdx: a legacy server's 400 may be in any words). That it is busy
/// now, or that a proxy before it fails, means nothing.
pub(crate) fn classify_era_error(
    server_era: Era,
    status: StatusCode,
    outcome: Result<RpcOutcome, UpstreamError>,
) -> Result<Bytes, UpstreamError> {
    match outcome {
        Ok(RpcOutcome::Result(result)) => Ok(result),
        Ok(RpcOutcome::Error(error))
            if is_rejection_status(status.as_u16()) || status.is_success() && is_refused(&error) =>
        {
            Err(UpstreamError::WrongEra(server_era, shorten(&error)))
        }
        Ok(RpcOutcome::Error(error)) => {
            Err(UpstreamError::InvalidResponse(format!("HTTP {status}: {}", shorten(&error))))
        }
        Err(UpstreamError::InvalidResponse(why)) if is_rejection_status(status.as_u16()) => {
            Err(UpstreamError::WrongEra(server_era, why))
        }
        Err(error) => Err(error),
    }
}

/// Whether the code of an error says that the server rejects this kind of request as a whole.
pub(crate) fn is_refused(error: &[u8]) -> bool {
    message::error_code(error).is_some_and(is_rejection_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_permanent_rejection_excludes_an_era() {
        let error =
            |code: i32| Ok(RpcOutcome::Error(Bytes::from(format!(r#"{{"code":{code},"message":"m"}}"#))));
        let page = || Err(UpstreamError::InvalidResponse("<html>".into()));
        for (status, outcome, ends) in [
            (400, error(-32000), true),
            (404, error(-32601), true),
            (400, page(), true),
            (405, page(), true),
            (200, error(-32601), true),
            (200, error(-32022), true),
            (200, error(-32603), false),
            (200, page(), false),
            (408, error(-32600), false),
            (429, error(-32600), false),
            (429, page(), false),
            (500, error(-32601), false),
            (503, error(-32603), false),
            (503, page(), false),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let authorized = classify_era_error(Era::Modern, status, outcome.clone());
            assert_eq!(matches!(authorized, Err(UpstreamError::WrongEra(..))), ends, "{status} {outcome:?}");
            assert!(authorized.is_err());
        }
    }
}
