//! The key of a rule's budget: its parts, read from a call.
//!
//! In this process a key is a hash with secrets of the process, so that no client can cause collisions. In a
//! shared store it is readable text, with long or unusual parts hashed.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::request::{Call, CallTarget, Caller, TargetKind};
use mcp::jsonrpc::request::MessageKind;

/// Longest text that is written unchanged to a shared store's key.
const MAX_PLAIN: usize = 48;

/// One value of a counter's key. A missing one (a tenant, a tool) counts as empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyPart {
    /// The caller: method, issuer, tenant and name. So users with the same name of two issuers have two
    /// budgets. All anonymous callers count as one.
    User,
    /// The tenant of the caller.
    Tenant,
    /// All callers with a role share its budget. A call takes from the budget of each role of its caller (of
    /// those that `match.roles` lists, if set).
    Role,
    /// The client's address; of IPv6 its /64, the usual size of one subscriber.
    Ip,
    /// The id of the API key.
    ApiKey,
    /// The name of the server.
    Server,
    /// The federated name of the tool.
    Tool,
    /// The method of the call.
    Method,
}

/// The call, as keys and matches see it.
pub(super) struct Subject<'a> {
    caller: Option<&'a Caller>,
    ip: Option<IpAddr>,
    pub target: Option<CallTarget<'a>>,
    pub method: &'a str,
    pub is_network: bool,
    /// It is a request, or not yet known to be none. A response or a notification ends once it is accepted,
    /// and a request may be waiting for it. So it takes no slot.
    pub is_request: bool,
}

impl<'a> Subject<'a> {
    pub fn head(ip: Option<IpAddr>) -> Self {
        Self { caller: None, ip, target: None, method: "", is_network: true, is_request: true }
    }

    pub fn call(call: &'a Call<'_>, method: &'a str, ip: Option<IpAddr>) -> Self {
        let runs = call.rpc.kind == MessageKind::Request;
        Self {
            caller: Some(&call.caller),
            ip,
            target: call.target.map(|target| counted(target, method)),
            method,
            is_network: call.head.is_network,
            is_request: runs,
        }
    }

    pub fn roles(&self) -> &'a [String] {
        self.caller.map(|caller| caller.roles.as_slice()).unwrap_or_default()
    }

    /// Writes one part; `role` is the role of this key.
    pub fn write(&self, part: KeyPart, role: &str, to: &mut impl KeyWriter) {
        match part {
            KeyPart::User => {
                to.text(self.caller.map(|caller| caller.auth_method.as_str()).unwrap_or_default());
                to.text(self.caller.and_then(|caller| caller.issuer.as_deref()).unwrap_or_default());
                to.text(self.caller.and_then(|caller| caller.tenant.as_deref()).unwrap_or_default());
                to.text(self.caller.map(|caller| caller.user.as_str()).unwrap_or_default());
            }
            KeyPart::Tenant => {
                to.text(self.caller.and_then(|caller| caller.tenant.as_deref()).unwrap_or_default());
            }
            KeyPart::Role => to.text(role),
            KeyPart::Ip => to.address(self.ip.map(subnet)),
            KeyPart::ApiKey => {
                to.text(self.caller.and_then(|caller| caller.api_key_id.as_deref()).unwrap_or_default());
            }
            KeyPart::Server => to.text(self.target.map(|target| target.server).unwrap_or_default()),
            KeyPart::Tool => {
                to.text(
                    self.target
                        .filter(|target| target.kind == TargetKind::Tool)
                        .map(|a| a.name)
                        .unwrap_or_default(),
                );
            }
            KeyPart::Method => to.text(self.method),
        }
    }
}

/// A request about a task counts for the server alone: the call that the task is of has counted for its tool.
fn counted<'a>(target: CallTarget<'a>, method: &str) -> CallTarget<'a> {
    match method.starts_with("tasks/") {
        true => CallTarget { kind: TargetKind::Server, name: "", ..target },
        false => target,
    }
}

/// The address, or the /64 that it is of. An IPv4 address mapped to IPv6 is an IPv4 address.
pub fn subnet(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

/// The target of parts. Two lists of parts never give the same key.
pub(super) trait KeyWriter {
    fn text(&mut self, text: &str);
    fn address(&mut self, ip: Option<IpAddr>);
}

/// The secrets of the process.
#[derive(Default)]
pub(super) struct Secrets([RandomState; 2]);

impl Secrets {
    pub fn hash(&self, write: impl FnOnce(&mut Digest128)) -> u128 {
        let mut digest = Digest128(self.0[0].build_hasher(), self.0[1].build_hasher());
        write(&mut digest);
        u128::from(digest.0.finish()) << 64 | u128::from(digest.1.finish())
    }
}

/// 128 bits of SipHash, as two halves with a secret each: short enough for a map, and long enough that two
/// keys never meet by chance.
pub(super) struct Digest128(DefaultHasher, DefaultHasher);

impl Digest128 {
    pub fn number(&mut self, number: u128) {
        self.0.write_u128(number);
        self.1.write_u128(number);
    }
}

impl KeyWriter for Digest128 {
    fn text(&mut self, text: &str) {
        // Ends with the byte 0xff, which no text contains.
        text.hash(&mut self.0);
        text.hash(&mut self.1);
    }

    fn address(&mut self, ip: Option<IpAddr>) {
        self.number(match ip {
            None => 0,
            // Ones where a /64 has zeros.
            Some(IpAddr::V4(ip)) => u128::from(u64::MAX) << 32 | u128::from(ip.to_bits()),
            Some(IpAddr::V6(ip)) => ip.to_bits() | 1,
        });
    }
}

/// A key as text: `{limits}:rate:per-user:jwt:~9f86d081884c7d659a2feaa0c55ad015:acme:alice`.
pub(super) struct StoreKey(String);

impl StoreKey {
    /// The braces keep all keys of a call on one node if a proxy hides a cluster.
    pub fn new(kind: &str, rule: &str) -> Self {
        let mut spelled = Self(format!("{{limits}}:{kind}"));
        spelled.text(rule);
        spelled
    }

    pub fn finish(self) -> String {
        self.0
    }
}

impl KeyWriter for StoreKey {
    fn text(&mut self, text: &str) {
        self.0.push(':');
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@/+".contains(&b);
        if text.len() <= MAX_PLAIN && text.bytes().all(plain) {
            self.0.push_str(text);
            return;
        }
        self.0.push('~');
        for byte in &Sha256::digest(text.as_bytes())[..16] {
            self.0.extend([byte >> 4, byte & 15].map(|n| char::from_digit(n.into(), 16).unwrap_or('0')));
        }
    }

    fn address(&mut self, ip: Option<IpAddr>) {
        self.0.push(':');
        match ip {
            None => {}
            Some(IpAddr::V4(ip)) => self.0.push_str(&ip.to_string()),
            // Brackets, for the colons within.
            Some(IpAddr::V6(ip)) => self.0.push_str(&format!("[{ip}]")),
        }
    }
}
