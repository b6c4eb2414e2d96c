//! The `requestState` of a bridged call: sealed, and bound to its caller, its endpoint and its call
//! (2026-07-28, basic/utilities/mrtr, "Server Requirements").

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use filters::{AuthMethod, Caller};
use mcp::json::object::Object;
use mcp::method::Method;
use mcp::rejection::code;
use mcp::{Reason, Rejection};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::ModernClient;
use crate::store::parking::{Digest, ParkingId};
use crate::store::process_messages::ProcessId;
use crate::store::sealing::{Keyring, Purpose};

/// Bytes of the sealed text: version, kind, process, id, time, owner, call.
const LENGTH: usize = 2 + 16 + 16 + 8 + 32 + 32;
const VERSION: u8 = 2;

/// How the call goes on after the retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// It waits in this process, parked under this id.
    Parked(ProcessId, ParkingId),
    /// It has ended with the demand to open URLs, and is made again.
    Repeated,
}

/// What a retry is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    pub owner: Digest,
    /// Endpoint, method and params, without `_meta` and the members of a retry.
    pub call: Digest,
}

impl Binding {
    /// That of a call of this client. It reads all of the params.
    pub fn of(client: &ModernClient, method: Method, params: &[u8]) -> Self {
        Self::new(&client.caller, client.address, &client.endpoint, method.as_str(), params)
    }

    /// `address` tells anonymous callers apart.
    pub fn new(
        caller: &Caller,
        address: Option<IpAddr>,
        endpoint: &str,
        method: &str,
        params: &[u8],
    ) -> Self {
        Self { owner: principal(caller, address), call: call(endpoint, method, params) }
    }
}

pub(super) fn principal(caller: &Caller, address: Option<IpAddr>) -> Digest {
    let mut hash = Sha256::new();
    let parts = [
        Some(caller.auth_method.as_str()),
        caller.issuer.as_deref(),
        caller.tenant.as_deref(),
        Some(caller.user.as_ref()),
    ];
    for part in parts {
        let part = part.map_or_else(|| "-".to_owned(), |part| format!("+{}:{part}", part.len()));
        hash.update(part.as_bytes());
    }
    if let (AuthMethod::Anonymous, Some(address)) = (caller.auth_method, address) {
        hash.update(address.to_canonical().to_string().as_bytes());
    }
    hash.finalize().into()
}

/// Members of params that may differ between a call and its retry.
const FREE: [&str; 3] = ["_meta", "inputResponses", "requestState"];

/// The order of keys and the writing of numbers may differ between a call and its retry.
fn call(endpoint: &str, method: &str, params: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    for part in [endpoint, method] {
        hash.update(format!("{}:{part}", part.len()).as_bytes());
    }
    let object = Object::read(params);
    let mut members: Vec<_> = object.iter().flat_map(Object::iter).collect();
    members.retain(|(name, _)| !FREE.contains(&&**name));
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, value) in members {
        hash.update(format!("{}:{name}", name.len()).as_bytes());
        match serde_json::from_slice::<Value>(value) {
            Ok(value) => canonical(&value, &mut hash),
            // Nested too deep for that reader: as it was written.
            Err(_) => hash.update(value),
        }
    }
    hash.finalize().into()
}

fn canonical(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort_unstable();
            hash.update(b"{");
            for name in names {
                hash.update(Value::String(name.clone()).to_string().as_bytes());
                canonical(&members[name], hash);
            }
            hash.update(b"}");
        }
        Value::Array(items) => {
            hash.update(b"[");
            items.iter().for_each(|item| canonical(item, hash));
            hash.update(b"]");
        }
        other => hash.update(format!("{other},").as_bytes()),
    }
}

/// The digest of the answers of a retry: another answer to the same question is another message.
pub(super) fn answers_digest(responses: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    match serde_json::from_slice::<Value>(responses) {
        Ok(value) => canonical(&value, &mut hash),
        Err(_) => hash.update(responses),
    }
    hash.finalize().into()
}

/// Seals how a call goes on, for this long.
pub fn seal(keyring: &Keyring, binding: &Binding, then: Continuation, time: Duration) -> String {
    let mut text = Vec::with_capacity(LENGTH);
    let (kind, process, id) = match then {
        Continuation::Parked(process, id) => (0, process, id),
        Continuation::Repeated => (1, ProcessId::default(), ParkingId::default()),
    };
    text.extend_from_slice(&[VERSION, kind]);
    text.extend_from_slice(&process);
    text.extend_from_slice(&id);
    text.extend_from_slice(&(now() + time).as_secs().to_be_bytes());
    text.extend_from_slice(&binding.owner);
    text.extend_from_slice(&binding.call);
    keyring.seal(Purpose::RequestState, &text)
}

/// Opens what [`seal`] has sealed for this caller and call.
///
/// # Errors
///
/// Always the same rejection, whatever is wrong; the reason is for the log.
pub fn open(keyring: &Keyring, binding: &Binding, state: &str) -> Result<Continuation, Box<Rejection>> {
    let refused = |why: &str| {
        tracing::info!(why, "a requestState is refused");
        Box::new(invalid())
    };
    let text = keyring.open(Purpose::RequestState, state);
    let text = text.ok_or_else(|| refused("it was not sealed here, or was changed"))?;
    if text.len() != LENGTH || text[0] != VERSION {
        return Err(refused("it is of another version"));
    }
    let (kind, rest) = (text[1], &text[2..]);
    let (process, rest) = rest.split_at(16);
    let (id, rest) = rest.split_at(16);
    let (time, rest) = rest.split_at(8);
    let (owner, call) = rest.split_at(32);
    let until = u64::from_be_bytes(time.try_into().unwrap_or_default());
    if until <= now().as_secs() {
        return Err(refused("it has expired"));
    }
    if owner != binding.owner {
        return Err(refused("it is of another caller"));
    }
    if call != binding.call {
        return Err(refused("it is of another call"));
    }
    Ok(match kind {
        0 => Continuation::Parked(process.try_into().unwrap_or_default(), id.try_into().unwrap_or_default()),
        _ => Continuation::Repeated,
    })
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The rejection of a `requestState`: it tells nothing of the reason.
pub(super) fn invalid() -> Rejection {
    let message = "this requestState is not valid: make the call again without it";
    Rejection::new(400, code::INVALID_PARAMS, Reason::InvalidRequestState, message)
        .with_data(r#"{"reason":"invalid_request_state"}"#.into())
}

#[cfg(test)]
mod tests {
    use filters::request::Identity;

    use super::*;

    fn caller(user: &str) -> Caller {
        Caller::new(Identity { user: user.into(), ..Identity::default() })
    }

    fn binding(user: &str, endpoint: &str, params: &str) -> Binding {
        Binding::new(&caller(user), None, endpoint, "tools/call", params.as_bytes())
    }

    const TIME: Duration = Duration::from_secs(600);

    #[test]
    fn a_state_opens_for_its_caller_and_its_call_only() {
        let keyring = Keyring::random();
        let own = binding("ann", "/mcp", r#"{"arguments":{"a":1,"b":[{"c":2}]}}"#);
        let then = Continuation::Parked([6; 16], [7; 16]);
        let state = seal(&keyring, &own, then, TIME);
        assert!(state.len() < 220, "{}", state.len());
        assert_eq!(open(&keyring, &own, &state), Ok(then));
        let reordered = r#"{"_meta":{"x":1},"inputResponses":{},"arguments":{ "b":[{"c":2}],"a":1}}"#;
        assert_eq!(open(&keyring, &binding("ann", "/mcp", reordered), &state), Ok(then));
        for other in [
            binding("bob", "/mcp", r#"{"arguments":{"a":1,"b":[{"c":2}]}}"#),
            binding("ann", "/servers/s/mcp", r#"{"arguments":{"a":1,"b":[{"c":2}]}}"#),
            binding("ann", "/mcp", r#"{"arguments":{"a":2,"b":[{"c":2}]}}"#),
            binding("ann", "/mcp", r#"{"arguments":{"a":1,"b":[{"c":2},{}]}}"#),
            binding("ann", "/mcp", "{}"),
            binding("ann", "/mcp", r#"{"name":"t","arguments":{"a":1,"b":[{"c":2}]}}"#),
            binding("ann", "/mcp", r#"{"uri":"x://1","arguments":{"a":1,"b":[{"c":2}]}}"#),
        ] {
            let refused = open(&keyring, &other, &state).expect_err("of another");
            assert_eq!((refused.code, refused.reason), (-32602, Reason::InvalidRequestState));
        }
        assert!(open(&Keyring::random(), &own, &state).is_err());
        assert!(open(&keyring, &own, "").is_err());
        assert!(open(&keyring, &own, &seal(&keyring, &own, then, Duration::ZERO)).is_err(), "expired");
        let repeated = seal(&keyring, &own, Continuation::Repeated, TIME);
        assert_eq!(open(&keyring, &own, &repeated), Ok(Continuation::Repeated));
    }

    #[test]
    fn anonymous_callers_of_two_addresses_are_two() {
        let at = |address: &str| {
            let caller = Caller::new(Identity { auth_method: AuthMethod::Anonymous, ..Identity::default() });
            Binding::new(&caller, address.parse().ok(), "/mcp", "tools/call", b"{}")
        };
        assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }

    #[test]
    fn other_answers_have_another_digest() {
        let digest = |text: &str| answers_digest(text.as_bytes());
        assert_eq!(digest(r#"{"a":{"x":1,"y":2}}"#), digest(r#"{ "a":{"y":2,"x":1}}"#));
        assert_ne!(digest(r#"{"a":{"x":1}}"#), digest(r#"{"a":{"x":2}}"#));
        assert_ne!(digest(r#"{"a":["1"]}"#), digest(r#"{"a":[1]}"#));
        assert_ne!(digest(r#"{"a":[[],1]}"#), digest(r#"{"a":[[1]]}"#));
    }
}
