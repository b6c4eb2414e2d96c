//! Searches a server's responses for secrets on their way to the client, and redacts or blocks them.

use std::sync::Arc;

use bytes::Bytes;
use filters::guard::{Action, Redacted, Redactor};
use mcp::json::reader::JsonError;

use super::UpstreamError;
use crate::config::{self, Redaction};
use crate::telemetry::{Direction, Metrics};

/// Set for responses that are searched; these are held until they are complete.
#[derive(Clone)]
pub struct ResponseRedactor {
    redactor: Arc<Redactor>,
    block: bool,
    server: Arc<str>,
    metrics: Arc<Metrics>,
}

impl ResponseRedactor {
    /// For the responses of a server, if they are to be searched.
    pub fn of(
        name: &Arc<str>,
        config: &config::ServerConfig,
        redactor: Option<&Arc<Redactor>>,
        metrics: &Arc<Metrics>,
    ) -> Option<Self> {
        let block = match config.redact.results {
            Redaction::Off => return None,
            Redaction::Redact => false,
            Redaction::Block => true,
        };
        Some(Self { redactor: redactor?.clone(), block, server: name.clone(), metrics: metrics.clone() })
    }

    /// A whole message, redacted; `None` if it is unchanged.
    pub fn message(&self, message: &[u8]) -> Result<Option<Bytes>, UpstreamError> {
        self.redact(self.redactor.redact_message(message))
    }

    /// The same for JSON that is no message.
    pub fn text(&self, json: &[u8]) -> Result<Option<Bytes>, UpstreamError> {
        self.redact(self.redactor.redact(json))
    }

    fn redact(&self, found: Result<Option<Redacted>, JsonError>) -> Result<Option<Bytes>, UpstreamError> {
        let found =
            found.map_err(|_| UpstreamError::InvalidResponse("its answer cannot be searched".into()))?;
        let Some((clean, found)) = found else { return Ok(None) };
        let action = if self.block { Action::Block } else { Action::Redact };
        self.metrics.redacted(&self.server, Direction::Results, action, &found);
        if self.block {
            return Err(UpstreamError::Blocked(found.to_string()));
        }
        Ok(Some(Bytes::from(clean)))
    }
}
