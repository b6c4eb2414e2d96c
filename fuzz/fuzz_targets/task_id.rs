//! The id of a task that a client sends: only one that was sealed for this caller at this endpoint opens, whatever
//! was done to it, and no bytes make anything panic.
#![no_main]

use std::sync::LazyLock;

use filters::{Caller, Identity};
use fuzz::{changed, cut, number};
use libfuzzer_sys::fuzz_target;
use toolgate::store::sealing::{Keyring, Purpose};
use toolgate::tasks::handle::{MAX_ID, TaskHandle, TaskKeeper, TaskOwner};

struct Setup {
    keyring: Keyring,
    owner: TaskOwner,
    others: [TaskOwner; 2],
    /// A handle that opens.
    handle: String,
}

static SETUP: LazyLock<Setup> = LazyLock::new(|| {
    let keyring = Keyring::new(&[[7; 32], [8; 32]]);
    let owner = |user: &str, endpoint: &str| {
        TaskOwner::new(&Caller::new(Identity { user: user.into(), ..Identity::default() }), None, endpoint)
    };
    let others = [owner("eve", "/mcp"), owner("ann", "/servers/s/mcp")];
    let owner = owner("ann", "/mcp");
    let handle = task(TaskKeeper::Server, "s", "s__scan", "raw-id").seal(&keyring, &owner);
    assert!(TaskHandle::open(&keyring, &owner, &handle).is_some());
    Setup { keyring, owner, others, handle }
});

fn task(keeper: TaskKeeper, server: &str, tool: &str, id: &str) -> TaskHandle {
    TaskHandle { keeper, server: server.into(), tool: tool.into(), id: id.into() }
}

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    match number(&mut data) % 4 {
        0 => strangers(data),
        1 => mutations(data),
        2 => sealed_texts(data),
        _ => honest(data),
    }
});

/// An id that a client wrote itself.
fn strangers(data: &[u8]) {
    let Setup { keyring, owner, .. } = &*SETUP;
    assert_eq!(TaskHandle::open(keyring, owner, &String::from_utf8_lossy(data)), None);
}

/// An honest handle with changes.
fn mutations(data: &[u8]) {
    let Setup { keyring, owner, handle, .. } = &*SETUP;
    let changed = String::from_utf8_lossy(&changed(handle.as_bytes(), data)).into_owned();
    assert_eq!(TaskHandle::open(keyring, owner, &changed).is_some(), changed == *handle, "{changed}");
}

/// What a gateway with the same secret has sealed: of another version, of another caller, with other lengths.
fn sealed_texts(data: &[u8]) {
    let Setup { keyring, owner, .. } = &*SETUP;
    let mut honest = [&[1, 0][..], &owner.digest()].concat();
    for part in ["s", "s__scan", "raw-id"] {
        honest.extend_from_slice(&(part.len() as u32).to_be_bytes());
        honest.extend_from_slice(part.as_bytes());
    }
    let text = changed(&honest, data);
    let opened = TaskHandle::open(keyring, owner, &keyring.seal(Purpose::TaskId, &text));
    let expected =
        (text.len() >= 34 && text[0] == 1 && text[2..34] == owner.digest()).then(|| parts(&text[34..]));
    match (&opened, expected.flatten()) {
        (Some(task), Some(parts)) => {
            assert_eq!([&task.server, &task.tool, &task.id].map(String::as_str), parts);
            assert_eq!(task.keeper == TaskKeeper::Server, text[1] == 0);
        }
        (None, None) => {}
        (opened, expected) => panic!("{opened:?} for {expected:?}"),
    }
    assert_eq!(TaskHandle::open(keyring, owner, &keyring.seal(Purpose::RequestState, &honest)), None);
}

/// Three texts, each behind its length, and nothing else.
fn parts(text: &[u8]) -> Option<[&str; 3]> {
    let mut at = 0;
    let mut all = [""; 3];
    for part in &mut all {
        let length = u32::from_be_bytes(text.get(at..at + 4)?.try_into().ok()?) as usize;
        *part = std::str::from_utf8(text.get(at + 4..at + 4 + length)?).ok()?;
        at += 4 + length;
    }
    (at == text.len()).then_some(all)
}

/// Any id of a server leads back, for its owner only; the handle is plain enough for a header.
fn honest(data: &[u8]) {
    let (tool, id) = cut(data, 0);
    let (tool, id) = (String::from_utf8_lossy(tool), String::from_utf8_lossy(id));
    if id.len() > MAX_ID || tool.len() > 128 {
        return;
    }
    let Setup { keyring, owner, others, .. } = &*SETUP;
    for keeper in [TaskKeeper::Server, TaskKeeper::Gateway] {
        let task = task(keeper, "server", &tool, &id);
        let handle = task.seal(keyring, owner);
        assert!(handle.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
        for other in others {
            assert_eq!(TaskHandle::open(keyring, other, &handle), None);
        }
        assert_eq!(TaskHandle::open(keyring, owner, &handle), Some(task));
    }
}
