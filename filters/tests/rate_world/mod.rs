//! A manual clock, and calls written in one word, for the tests of limits.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod script;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use filters::rate_limit::{Budget, Clock, Globs, KeyPart, Match, Rate, RateRule, Slots};
use filters::{AuthMethod, Call, CallTarget, Caller, Identity, RequestHead, TargetKind};
use http::{HeaderMap, HeaderValue, Method};
use mcp::jsonrpc::request;
use mcp::{Era, Rejection};

/// Begins in the middle of a minute, an hour and a day: 2025-07-12T13:14:15Z.
pub const START: u64 = 1_752_326_055;

#[derive(Default)]
pub struct Hands(AtomicU64, AtomicU64);

impl Hands {
    pub fn new() -> Arc<Self> {
        let hands = Self::default();
        hands.turn(Duration::from_secs(1000));
        hands.1.store(Duration::from_secs(START).as_nanos() as u64, Ordering::Relaxed);
        Arc::new(hands)
    }

    pub fn turn(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
        self.1.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Sets the wall clock back, as an operator may.
    pub fn set_back(&self, by: Duration) {
        self.1.fetch_sub(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn nanos(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn unix(&self) -> Duration {
        Duration::from_nanos(self.1.load(Ordering::Relaxed))
    }
}

/// Ready at once: nothing that is awaited here ever sleeps.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => panic!("a limit without a store has nothing to wait for"),
    }
}

/// `alice@acme#dev,ops&issuer$key>server__tool%ip^method;session`, all but the first optional. `get:` before
/// it makes it a GET, `in:` a caller inside the process, `?uri` in place of `>tool` a resource of `files`,
/// and `|name` a prompt of `files`.
pub struct Spoken {
    identity: Identity,
    target: Option<(TargetKind, String, String)>,
    pub ip: Option<IpAddr>,
    method: Option<String>,
    session: Option<String>,
    get: bool,
    inside: bool,
}

impl Spoken {
    pub fn read(word: &str) -> Self {
        let mut spoken = Self {
            identity: Identity { auth_method: AuthMethod::Jwt, ..Identity::default() },
            target: None,
            ip: None,
            method: Some("tools/call".into()),
            session: None,
            get: word.starts_with("get:"),
            inside: word.starts_with("in:"),
        };
        let word = word.trim_start_matches("get:").trim_start_matches("in:");
        let marks = ['@', '#', '&', '$', '>', '%', '^', ';', '?', '|'];
        let mut rest = word;
        let mut mark = ' ';
        while mark != '.' {
            let end = rest.find(marks).unwrap_or(rest.len());
            let (text, after) = rest.split_at(end);
            spoken.set(mark, text);
            mark = after.chars().next().unwrap_or('.');
            rest = after.get(1..).unwrap_or_default();
        }
        spoken
    }

    fn set(&mut self, mark: char, text: &str) {
        let own = || text.to_owned();
        match mark {
            ' ' => self.identity.user = own(),
            '@' => self.identity.tenant = Some(own()),
            '#' => self.identity.roles = text.split(',').map(Into::into).collect(),
            '&' => self.identity.issuer = Some(own()),
            '$' => (self.identity.api_key_id, self.identity.auth_method) = (Some(own()), AuthMethod::ApiKey),
            '>' => {
                let server = text.split_once("__").map_or("", |(server, _)| server);
                self.target = Some((TargetKind::Tool, own(), server.into()));
            }
            '?' => self.target = Some((TargetKind::Resource, own(), "files".into())),
            '|' => self.target = Some((TargetKind::Prompt, own(), "files".into())),
            '%' => self.ip = Some(text.parse().expect("an address")),
            '^' => self.method = (!text.is_empty()).then(own),
            ';' => self.session = Some(own()),
            other => panic!("no mark: {other}"),
        }
    }

    pub async fn knock(&self, rate: &Rate) -> Result<Slots, Box<Rejection>> {
        let mut headers = HeaderMap::new();
        if let Some(session) = &self.session {
            headers.insert("mcp-session-id", HeaderValue::from_str(session).expect("visible"));
        }
        let http_method = if self.get { Method::GET } else { Method::POST };
        let head = RequestHead {
            http_method: &http_method,
            path: "/mcp",
            headers: &headers,
            authority: None,
            peer: None,
            certificate: None,
            is_network: !self.inside,
        };
        rate.on_head(&head, self.ip).await?;
        if self.get {
            return Ok(Slots::default());
        }
        let body = match &self.method {
            Some(method) if method.starts_with("notifications/") => {
                format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#)
            }
            Some(method) => format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#),
            None => r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.into(),
        };
        let call = Call {
            head,
            caller: self.caller(),
            rpc: Box::new(request::read(body.as_bytes(), 64).expect("a sound message")),
            body: body.as_bytes(),
            client_era: Era::Modern,
            target: self.target.as_ref().map(|(thing, name, server)| CallTarget {
                kind: *thing,
                name,
                server,
            }),
        };
        rate.on_request(&call, self.ip).await
    }

    /// A new one each time, as a new token would make.
    pub fn caller(&self) -> Caller {
        let id = &self.identity;
        Caller::new(Identity {
            user: id.user.clone(),
            tenant: id.tenant.clone(),
            roles: id.roles.clone(),
            auth_method: id.auth_method,
            issuer: id.issuer.clone(),
            api_key_id: id.api_key_id.clone(),
            ..Identity::default()
        })
    }
}

pub const SEC: Duration = Duration::from_secs(1);
pub const MIN: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);

pub fn rule(name: &str, key: &[KeyPart], budget: Budget) -> RateRule {
    RateRule { name: name.into(), key: key.into(), matches: Match::default(), budget }
}

pub fn rate(key: &[KeyPart], count: u64, per: Duration, burst: u64) -> RateRule {
    rule("limit", key, Budget::Rate { count, per, burst })
}

pub fn quota(key: &[KeyPart], count: u64, per: Duration) -> RateRule {
    rule("quota", key, Budget::Quota { count, per })
}

pub fn concurrent(key: &[KeyPart], max: u32) -> RateRule {
    rule("parallel", key, Budget::Concurrent(max))
}

pub fn globs(patterns: &[&str]) -> Globs {
    Globs::new(patterns).expect("sound patterns")
}
