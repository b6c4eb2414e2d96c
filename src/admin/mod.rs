//! The paths that are not MCP: `/health`, `/ready`, `/metrics` and `/tools/pins` for operators, and the metadata of RFC 9728.
//!
//! Nothing here reads or writes a connection: a request comes as values, and what becomes of it is a [`Response`].

pub mod tool_pins;

use bytes::Bytes;
use filters::{Caller, Stop};
use http::Method;
use mcp::Refusal;
use mcp::json::quote::quote;

use crate::dispatch::Door;
use crate::process::state::State;
use crate::registry::House;

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

/// What a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// MCP and the operators' paths: the only listener.
    All,
    /// MCP; of the operators' paths what probes need.
    Public,
    /// The operators' paths alone, on an address that only they reach.
    Admin,
}

/// An answer to an operator.
pub struct Response {
    pub status: u16,
    pub content_type: Option<&'static str>,
    /// The methods that the path has, where another one was asked for.
    pub allow: Option<&'static str>,
    pub body: Bytes,
}

impl Response {
    fn of(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: Some(content_type), allow: None, body: body.into() }
    }

    fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::of(status, "application/json", body)
    }

    fn wrong_method(allow: &'static str) -> Self {
        Self { status: 405, content_type: None, allow: Some(allow), body: Bytes::new() }
    }
}

/// What a path of RFC 9728 describes: the path of the resource, empty for the one at the root.
pub fn described(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/.well-known/oauth-protected-resource")?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
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

/// Who asks, and of what the answer is made.
pub struct Admin<'a> {
    pub serves: Serves,
    pub caller: Option<&'a Caller>,
    pub house: &'a House,
    pub state: &'a State,
    pub door: &'a Door,
}

impl Admin<'_> {
    fn is_operator(&self) -> bool {
        self.serves == Serves::Admin
            || self.caller.is_some_and(|caller| self.house.plan.chain.rbac.is_admin(caller))
    }

    /// Whether the caller is an operator, where that is asked for.
    fn may_look(&self) -> bool {
        self.house.plan.chain.auth.is_open() || self.is_operator()
    }

    /// Whether the caller may see and approve definitions.
    ///
    /// # Errors
    /// The refusal that the caller gets.
    pub fn may_approve(&self) -> Result<(), Refusal> {
        let words =
            "definitions are approved on the listener `admin`, or by callers whose role has `admin: true`";
        if self.is_operator() { Ok(()) } else { Err(Refusal::http(403, "not_an_operator", words)) }
    }

    /// The answer to `GET` and `HEAD`.
    ///
    /// # Errors
    /// The refusal that the caller gets.
    pub fn answer(&self, path: Path, method: &Method) -> Result<Response, Refusal> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match path {
            Path::Pins => {
                self.may_approve()?;
                Ok(if *method == Method::GET {
                    tool_pins::list(self)
                } else {
                    Response::wrong_method("GET, POST")
                })
            }
            _ if !reads => Ok(Response::wrong_method("GET, HEAD")),
            Path::Health => Ok(Response::json(200, self.health())),
            Path::Ready => Ok(self.ready()),
            Path::Metrics if !self.may_look() => {
                let words = "metrics on the public listener are for callers whose role has `admin: true`; `admin: {address: ...}` gives them a listener of their own";
                Err(Refusal::http(403, "not_an_operator", words))
            }
            Path::Metrics => {
                Ok(Response::of(200, "text/plain; version=0.0.4; charset=utf-8", self.metrics()))
            }
        }
    }

    fn health(&self) -> String {
        let servers = &self.house.servers;
        let connected = servers.values().filter(|server| server.is_up()).count();
        let tools = self.house.catalog.endpoint("/mcp").map_or(0, |endpoint| {
            let names = endpoint.legacy.shown.iter().chain(&endpoint.modern.shown);
            names.collect::<std::collections::BTreeSet<_>>().len()
        });
        format!(r#"{{"status":"ok","servers":{},"connected":{connected},"tools":{tools}}}"#, servers.len())
    }

    fn ready(&self) -> Response {
        let missing = self.missing();
        let ready = missing.is_empty();
        let status = if ready { 200 } else { 503 };
        if !self.may_look() {
            return Response::json(status, format!(r#"{{"ready":{ready}}}"#));
        }
        let missing: Vec<String> = missing.iter().map(|word| quote(word)).collect();
        let starting = self.house.servers.values().filter(|server| server.is_awaited());
        let starting: Vec<String> = starting.map(|server| quote(&server.name)).collect();
        // A faulty file is no reason to take a gateway out of service that runs well on the old one; and all
        // replicas of it read the same file.
        let warnings = self
            .state
            .config_fault()
            .map(|fault| quote(&format!("the changed configuration is faulty, the old one runs: {fault}")))
            .unwrap_or_default();
        let (missing, starting) = (missing.join(","), starting.join(","));
        let body = format!(
            r#"{{"ready":{ready},"missing":[{missing}],"starting":[{starting}],"warnings":[{warnings}]}}"#
        );
        Response::json(status, body)
    }

    fn metrics(&self) -> Bytes {
        let metrics = &self.door.metrics;
        let servers = self.house.servers.values();
        let pools = servers.filter_map(|server| Some((server.name.as_ref(), server.upstream.http()?)));
        metrics.endpoints_up(pools.flat_map(|(name, pool)| {
            pool.states().into_iter().map(|(label, up)| ([name.to_owned(), label.to_owned()], up))
        }));
        let known = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.connections.set(known(self.state.connections()));
        metrics.buffered.set(known(self.state.buffered()));
        if let Some(store) = self.house.plan.lasting.redis() {
            metrics.limit_store(store.is_there(), store.misses());
        }
        Bytes::from(metrics.text())
    }

    /// What keeps the gateway from being ready, in words.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        // After a handover whoever asks once more, by a new connection, asks the successor.
        if self.door.drain.is_cancelled() && !self.state.is_handed_over() {
            missing.push("the gateway is stopping".to_owned());
        }
        missing.extend(self.house.missing());
        for name in self.door.registry.awaited() {
            missing.push(format!("the server `{name}`: still starting"));
        }
        missing
    }
}
