//! The `requestState` that a client returns: only one that was sealed for this caller and this call opens, whatever
//! was done to it, and no bytes make anything panic.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use filters::{Caller, Identity};
use fuzz::{changed, cut, json, number};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use toolgate::bridge::request_state::{Binding, Continuation, open, seal};
use toolgate::store::sealing::{Keyring, Purpose};

const TIME: Duration = Duration::from_secs(3600);
/// Version and kind, process, id, time, owner, call.
const LENGTH: usize = 2 + 16 + 16 + 8 + 32 + 32;
const PARAMS: &[u8] = br#"{"name":"t","arguments":{"a":1}}"#;

struct Setup {
    keyring: Keyring,
    ann: Caller,
    eve: Caller,
    binding: Binding,
    /// A state that opens.
    state: String,
}

static SETUP: LazyLock<Setup> = LazyLock::new(|| {
    let keyring = Keyring::new(&[[7; 32], [8; 32]]);
    let caller = |user: &str| Caller::new(Identity { user: user.into(), ..Identity::default() });
    let (ann, eve) = (caller("ann"), caller("eve"));
    let binding = Binding::new(&ann, None, "/mcp", "tools/call", PARAMS);
    let state = seal(&keyring, &binding, Continuation::Parked([1; 16], [2; 16]), TIME);
    assert!(open(&keyring, &binding, &state).is_ok());
    Setup { keyring, ann, eve, binding, state }
});

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    match number(&mut data) % 4 {
        0 => strangers(data),
        1 => mutations(data),
        2 => sealed_texts(data),
        _ => calls(data),
    }
});

/// A state that a client wrote itself.
fn strangers(data: &[u8]) {
    let Setup { keyring, binding, .. } = &*SETUP;
    assert!(open(keyring, binding, &String::from_utf8_lossy(data)).is_err());
}

/// An honest state with changes: the characters, or the bytes that they stand for.
fn mutations(data: &[u8]) {
    let Setup { keyring, binding, state, .. } = &*SETUP;
    let changed = String::from_utf8_lossy(&changed(state.as_bytes(), data)).into_owned();
    assert_eq!(open(keyring, binding, &changed).is_ok(), changed == *state, "{changed}");
}

/// What a gateway with the same secret has sealed: of another version, of another caller, too late.
fn sealed_texts(data: &[u8]) {
    let Setup { keyring, binding, .. } = &*SETUP;
    let honest = [&[2, 0][..], &[3; 32], &[0xff; 8], &binding.owner, &binding.call].concat();
    let text = changed(&honest, data);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let opens = text.len() == LENGTH
        && text[0] == 2
        && text[34..42].try_into().is_ok_and(|time| u64::from_be_bytes(time) > now)
        && text[42..] == honest[42..];
    let opened = open(keyring, binding, &keyring.seal(Purpose::RequestState, &text));
    assert_eq!(opened.is_ok(), opens, "{text:?}");
    match opened {
        Ok(Continuation::Parked(process, id)) => {
            assert!(text[1] == 0 && process == text[2..18] && id == text[18..34]);
        }
        Ok(Continuation::Repeated) => assert_ne!(text[1], 0),
        Err(_) => {}
    }
    assert!(open(keyring, binding, &keyring.seal(Purpose::TaskId, &honest)).is_err());
}

/// The params of a call and of its retry: the state opens if they are the same call.
fn calls(data: &[u8]) {
    let (call, retry) = cut(data, 0);
    let (Some(call_text), Some(retry_text)) = (plain(call), plain(retry)) else { return };
    let Setup { keyring, ann, eve, .. } = &*SETUP;
    let of = |caller: &Caller, endpoint: &str, method: &str, params: &[u8]| {
        Binding::new(caller, None, endpoint, method, params)
    };
    let state = seal(keyring, &of(ann, "/mcp", "tools/call", call), Continuation::Repeated, TIME);
    let opens = |binding: Binding| open(keyring, &binding, &state).is_ok();
    assert!(opens(of(ann, "/mcp", "tools/call", call)));
    assert_eq!(opens(of(ann, "/mcp", "tools/call", retry)), call_text == retry_text);
    assert!(!opens(of(eve, "/mcp", "tools/call", call)));
    assert!(!opens(of(ann, "/servers/s/mcp", "tools/call", call)));
    assert!(!opens(of(ann, "/mcp", "prompts/get", call)));
}

/// Params in one way of writing, without what may differ in a retry; `None` for what is rejected before.
fn plain(params: &[u8]) -> Option<String> {
    json::value(params)?;
    let Ok(Value::Object(mut members)) = serde_json::from_slice(params) else { return None };
    for free in ["_meta", "inputResponses", "requestState"] {
        members.remove(free);
    }
    Some(written(&Value::Object(members)))
}

fn written(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut all: Vec<_> =
                members.iter().map(|(key, value)| format!("{key:?}:{}", written(value))).collect();
            all.sort();
            format!("{{{}}}", all.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}
