//! Why a permitted call cannot be dispatched, in messages that name the server, the name or the era at fault.

use std::borrow::Cow;
use std::sync::Arc;

use filters::TargetKind;
use filters::rbac::not_found;
use mcp::rejection::code;
use mcp::{Era, Reason, Rejection};

use super::{AuthorizedRequest, Dispatcher};
use crate::catalog::{Endpoint, Target};
use crate::config::BridgeSetting;
use crate::registry::Snapshot;
use crate::server::Server;
use crate::session::SessionLimits;
use crate::upstream::UpstreamError;

/// How many sessions the configuration allows.
pub fn session_limits(snapshot: &Snapshot) -> SessionLimits {
    let limits = &snapshot.config.config.limits;
    let number = |of: u64| usize::try_from(of).unwrap_or(usize::MAX);
    SessionLimits { total: number(limits.max_sessions), per_caller: number(limits.share()) }
}

impl Dispatcher {
    /// Whether any server of the endpoint speaks the era, or may come to; else a rejection that names both
    /// eras.
    pub(super) fn require_era(&self, endpoint: &Endpoint, client_era: Era) -> Result<(), Box<Rejection>> {
        let view = endpoint.view(client_era);
        if view.servers > 0 || endpoint.members.is_empty() {
            return Ok(());
        }
        match &endpoint.single {
            Some(server) if view.starting => return Err(starting(server)),
            None if view.starting => return Ok(()),
            _ => {}
        }
        if endpoint.view(client_era.other()).servers == 0 {
            return Err(self.server_down(endpoint.single.as_ref()));
        }
        Err(wrong_era(client_era, None))
    }

    /// Whether the endpoint may answer `server/discover`. A client that speaks both eras chooses one by that,
    /// once. If its servers turn out to speak the other and are not bridged, it would see none of them.
    pub(super) fn require_initialized(&self, endpoint: &Endpoint) -> Result<(), Box<Rejection>> {
        let (modern, legacy) = (&endpoint.modern, &endpoint.legacy);
        if modern.servers > 0 || !modern.starting {
            return self.require_era(endpoint, Era::Modern);
        }
        if legacy.servers > 0 {
            return Err(wrong_era(Era::Modern, None));
        }
        let mut starting_now = endpoint.members.iter().filter(|server| server.is_starting(Era::Modern));
        let is_bridged = |server: &Arc<Server>| server.config.bridge == BridgeSetting::Auto;
        if endpoint.single.is_none() && starting_now.clone().any(is_bridged) {
            return Ok(());
        }
        let awaited = starting_now.next();
        Err(awaited.map_or_else(|| self.server_down(None), starting))
    }

    pub(super) fn server_down(&self, server: Option<&Arc<Server>>) -> Box<Rejection> {
        Box::new(match server {
            Some(server) => UpstreamError::Unreachable(String::new()).rejection(&server.name),
            None => {
                Rejection::http(502, Reason::UpstreamUnreachable, "no server is reachable; try again later")
            }
        })
    }

    /// Why a name cannot be resolved: its server speaks the other era, may be starting, was never connected,
    /// or does not exist.
    pub(super) async fn unknown(
        &self,
        authorized: &AuthorizedRequest<'_>,
        endpoint: &Endpoint,
        kind: TargetKind,
        name: &str,
        elsewhere: Option<&Target>,
    ) -> Box<Rejection> {
        let client_era = authorized.permit.client_era;
        // A server that speaks both eras may still show something in one of them only.
        let view = endpoint.view(client_era);
        let speaks = |server: &Server| {
            let mut shown = view.tools.values().chain(view.prompts.values()).chain(view.resources.values());
            shown.any(|target| target.server.serial == server.serial)
        };
        if let Some(target) = elsewhere.filter(|target| !speaks(&target.server)) {
            return match target.server.is_starting(client_era) {
                true => starting(&target.server),
                false => wrong_era(client_era, Some(&target.server)),
            };
        }
        for server in
            endpoint.members.iter().filter(|server| server.is_starting(client_era) && !speaks(server))
        {
            // Names of a server without a prefix, and URIs, do not identify their server.
            let is_nameless = server.prefix().is_empty() || kind == TargetKind::Resource;
            if endpoint.single.is_some()
                || server.owns_prefix(name)
                || (is_nameless && authorized.reach(self).await.covers(server))
            {
                return starting(server);
            }
        }
        let never_seen = |server: &&Arc<Server>| {
            (endpoint.single.is_some() || server.owns_prefix(name))
                && !server.is_up()
                && endpoint.view(client_era).tools.values().all(|t| t.server.serial != server.serial)
        };
        if let Some(server) = endpoint.members.iter().find(never_seen) {
            return self.server_down(Some(server));
        }
        Box::new(not_found(client_era, kind, name))
    }
}

fn starting(server: &Arc<Server>) -> Box<Rejection> {
    Box::new(UpstreamError::Starting.rejection(&server.name))
}

/// Params that a request must not have.
pub(super) fn invalid(
    client_era: Era,
    reason: Reason,
    message: impl Into<Cow<'static, str>>,
) -> Box<Rejection> {
    let status = client_era.codec().status_of(code::INVALID_PARAMS);
    Box::new(Rejection::new(status, code::INVALID_PARAMS, reason, message))
}

pub(super) fn unknown_method(client_era: Era) -> Box<Rejection> {
    let status = client_era.codec().status_of(code::METHOD_NOT_FOUND);
    Box::new(Rejection::new(
        status,
        code::METHOD_NOT_FOUND,
        Reason::UnknownMethod,
        "Method not found: this endpoint does not have it in this protocol revision",
    ))
}

/// The client speaks one era and the server only the other.
pub(super) fn wrong_era(client_era: Era, server: Option<&Arc<Server>>) -> Box<Rejection> {
    let revisions =
        |era: Era| format!("the {} revisions ({})", era.as_str(), era.codec().versions().join(", "));
    let who =
        server.map_or_else(|| "this endpoint".to_owned(), |server| format!("the server `{}`", server.name));
    let message = format!(
        "{who} speaks only {}, and the request is of {}, and this is not bridged",
        revisions(client_era.other()),
        revisions(client_era)
    );
    let rejection = Rejection::new(400, client_era.codec().era_mismatch(), Reason::EraMismatch, message);
    let data = match (client_era, server) {
        (Era::Legacy, _) => Some(Era::Modern.codec().unsupported_version("initialize")),
        (Era::Modern, server) => {
            server.map(|server| format!(r#"{{"server":{}}}"#, mcp::json::quote::quote(&server.name)))
        }
    };
    Box::new(match data {
        Some(data) => rejection.with_data(data),
        None => rejection,
    })
}
