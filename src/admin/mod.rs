//! The paths that are not MCP: `/health`, `/ready`, `/metrics` and `/tools/pins` for operators, and the
//! metadata of RFC 9728.
//!
//! Nothing here reads or writes a connection: a request comes as values, and its result is an [`AdminResponse`].

pub mod tool_pins;

use bytes::Bytes;
use filters::{Caller, ChainRejection};
use http::{HeaderMap, Method};
use mcp::json::quote::quote;
use mcp::{Reason, Rejection};

use crate::dispatch::Dispatcher;
use crate::process::state::ProcessState;
use crate::registry::Snapshot;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminPath {
    Health,
    Ready,
    Metrics,
    /// Tool definitions, and the approval of one.
    Pins,
}

impl AdminPath {
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/health" => Some(AdminPath::Health),
            "/ready" => Some(AdminPath::Ready),
            "/metrics" => Some(AdminPath::Metrics),
            "/tools/pins" => Some(AdminPath::Pins),
            _ => None,
        }
    }
}

/// What a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerRole {
    /// MCP and the admin paths: the only listener.
    All,
    /// MCP alone; the admin paths are answered with 404.
    Public,
    /// The admin paths alone, on an address that only operators reach.
    Admin,
}

/// A response to an operator.
pub struct AdminResponse {
    pub status: u16,
    pub content_type: Option<&'static str>,
    /// The methods that the path has, if another one was used.
    pub allow: Option<&'static str>,
    pub cache_control: Option<&'static str>,
    pub body: Bytes,
}

impl AdminResponse {
    fn of(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: Some(content_type), allow: None, cache_control: None, body: body.into() }
    }

    fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::of(status, "application/json", body)
    }

    fn wrong_method(allow: &'static str) -> Self {
        Self { status: 405, content_type: None, allow: Some(allow), cache_control: None, body: Bytes::new() }
    }
}

/// The resource path in a path of RFC 9728, empty for the resource at the root.
pub fn metadata_resource(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/.well-known/oauth-protected-resource")?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// The protected resource metadata of a path (RFC 9728), never a server's own. The client has sent no
/// credentials, so that the answer covers every endpoint that could exist.
///
/// # Errors
/// The rejection that the client gets.
pub fn metadata(snapshot: &Snapshot, path: &str) -> Result<AdminResponse, Rejection> {
    let Some(document) = snapshot.config.chain.auth.metadata_document(path) else {
        let message =
            "no such metadata: either this can be no endpoint, or auth.resource_metadata is not set";
        return Err(Rejection::http(404, Reason::NoMetadata, message));
    };
    Ok(AdminResponse { cache_control: Some("max-age=300"), ..AdminResponse::json(200, document) })
}

/// Whether an admin path answers despite this rejection of the head. Probes use the address, have no
/// credentials, and may have any Host. Paths that reveal servers and tools stay protected on a public
/// listener.
pub fn bypasses_refusal(path: Option<AdminPath>, stop: &ChainRejection, serves: ListenerRole) -> bool {
    match path {
        None => false,
        // It changes state: nothing that a web page could send may pass here.
        Some(AdminPath::Pins) => serves == ListenerRole::Admin && matches!(stop.filter, "auth" | "rate"),
        Some(_) if serves == ListenerRole::Admin => true,
        Some(AdminPath::Health | AdminPath::Ready) => true,
        Some(AdminPath::Metrics) => matches!(stop.filter, "origin" | "size"),
    }
}

/// The caller and the data of a response.
pub struct Admin<'a> {
    pub serves: ListenerRole,
    pub caller: Option<&'a Caller>,
    pub snapshot: &'a Snapshot,
    pub state: &'a ProcessState,
    pub dispatcher: &'a Dispatcher,
}

impl Admin<'_> {
    fn is_operator(&self) -> bool {
        self.serves == ListenerRole::Admin
            || self.caller.is_some_and(|caller| self.snapshot.config.chain.rbac.is_admin(caller))
    }

    /// Whether the caller may see details: always without authentication, otherwise operators.
    fn sees_details(&self) -> bool {
        self.snapshot.config.chain.auth.is_open() || self.is_operator()
    }

    /// Whether the caller may see and approve definitions.
    ///
    /// # Errors
    /// The rejection that the caller gets.
    fn may_approve(&self) -> Result<(), Rejection> {
        let message =
            "definitions are approved on the listener `admin`, or by callers whose role has `admin: true`";
        if self.is_operator() { Ok(()) } else { Err(Rejection::http(403, Reason::NotAnOperator, message)) }
    }

    /// Whether the body of this request is read before it is answered.
    ///
    /// # Errors
    /// The rejection that the caller gets without that.
    pub fn takes_body(
        &self,
        path: AdminPath,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<bool, Rejection> {
        if path != AdminPath::Pins || *method != Method::POST {
            return Ok(false);
        }
        self.may_approve()?;
        tool_pins::is_json(headers).map(|()| true)
    }

    /// The response to a request; `body` is empty where [none is taken](Self::takes_body).
    ///
    /// # Errors
    /// The rejection that the caller gets.
    pub fn answer(&self, path: AdminPath, method: &Method, body: &[u8]) -> Result<AdminResponse, Rejection> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match path {
            AdminPath::Pins => {
                self.may_approve()?;
                match *method {
                    Method::GET => Ok(tool_pins::list(self)),
                    Method::POST => tool_pins::approve(self, body),
                    _ => Ok(AdminResponse::wrong_method("GET, POST")),
                }
            }
            _ if !reads => Ok(AdminResponse::wrong_method("GET, HEAD")),
            AdminPath::Health => Ok(AdminResponse::json(200, self.health())),
            AdminPath::Ready => Ok(self.ready()),
            AdminPath::Metrics if !self.sees_details() => {
                let message = "metrics on the public listener are for callers whose role has `admin: true`; `admin: {address: ...}` gives them a listener of their own";
                Err(Rejection::http(403, Reason::NotAnOperator, message))
            }
            AdminPath::Metrics => {
                Ok(AdminResponse::of(200, "text/plain; version=0.0.4; charset=utf-8", self.metrics()))
            }
        }
    }

    fn health(&self) -> String {
        let servers = &self.snapshot.servers;
        let connected = servers.values().filter(|server| server.is_up()).count();
        let tools = self.snapshot.catalog.endpoint("/mcp").map_or(0, |endpoint| {
            let names = endpoint.legacy.shown.iter().chain(&endpoint.modern.shown);
            names.collect::<std::collections::BTreeSet<_>>().len()
        });
        format!(r#"{{"status":"ok","servers":{},"connected":{connected},"tools":{tools}}}"#, servers.len())
    }

    fn ready(&self) -> AdminResponse {
        let missing = self.missing();
        let ready = missing.is_empty();
        let status = if ready { 200 } else { 503 };
        if !self.sees_details() {
            return AdminResponse::json(status, format!(r#"{{"ready":{ready}}}"#));
        }
        let missing: Vec<String> = missing.iter().map(|word| quote(word)).collect();
        let starting = self.snapshot.servers.values().filter(|server| server.is_startup_awaited());
        let starting: Vec<String> = starting.map(|server| quote(&server.name)).collect();
        // An invalid file is no reason to take a gateway out of service that runs well with the old one;
        // and all its replicas read the same file.
        let warnings = self
            .state
            .config_fault()
            .map(|fault| quote(&format!("the changed configuration is invalid, the old one runs: {fault}")))
            .unwrap_or_default();
        let (missing, starting) = (missing.join(","), starting.join(","));
        let body = format!(
            r#"{{"ready":{ready},"missing":[{missing}],"starting":[{starting}],"warnings":[{warnings}]}}"#
        );
        AdminResponse::json(status, body)
    }

    fn metrics(&self) -> Bytes {
        let metrics = &self.dispatcher.metrics;
        let servers = self.snapshot.servers.values();
        let pools = servers.filter_map(|server| Some((server.name.as_ref(), server.endpoint_pool()?)));
        metrics.endpoints_up(pools.flat_map(|(name, pool)| {
            pool.states().into_iter().map(|(label, up)| ([name.to_owned(), label.to_owned()], up))
        }));
        let known = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.connections.set(known(self.state.connections()));
        metrics.buffered.set(known(self.state.buffered()));
        metrics.tasks.set(known(self.dispatcher.tasks.kept.count()));
        if let Some(store) = self.snapshot.config.reload_state.redis() {
            metrics.limit_store(store.is_there(), store.failures());
        }
        if let Some(up) = self.dispatcher.bridge.reaches_others() {
            metrics.process_channel(up);
        }
        Bytes::from(metrics.text())
    }

    /// What keeps the gateway from being ready, as text.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        // After a handover, the next request on a new connection reaches the successor.
        if self.dispatcher.drain.is_cancelled() && !self.state.is_handed_over() {
            missing.push("the gateway is stopping".to_owned());
        }
        missing.extend(self.snapshot.missing());
        for name in self.dispatcher.registry.starting_servers() {
            missing.push(format!("the server `{name}`: still starting"));
        }
        missing
    }
}

#[cfg(test)]
mod tests;
