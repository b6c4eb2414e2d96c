//! The outward id of a task: sealed, so that it leads back to one server and tool, for one caller at one
//! endpoint, and tells nobody anything. Ids of tasks act as credentials (SEP-2663, "Security"), and the
//! header `Mcp-Name` repeats them: the handle is base64url.

use std::net::IpAddr;

use filters::Caller;
use filters::rbac::unknown_task;
use mcp::Era;
use mcp::Rejection;
use sha2::{Digest as _, Sha256};

use crate::bridge::principal;
use crate::store::parking::Digest;
use crate::store::sealing::{Keyring, Purpose};

/// The longest id of a server's task, in bytes.
pub const MAX_ID: usize = 512;
/// The longest handle that is looked at.
const MAX_HANDLE: usize = 4096;
const VERSION: u8 = 1;

/// Who runs a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKeeper {
    /// The server: it knows the task by the id.
    Server,
    /// The gateway.
    Gateway,
}

/// The caller and the endpoint of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskOwner(Digest);

impl TaskOwner {
    /// `address` tells anonymous callers apart.
    pub fn new(caller: &Caller, address: Option<IpAddr>, endpoint: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(principal(caller, address));
        hash.update(endpoint.as_bytes());
        Self(hash.finalize().into())
    }

    pub fn of(digest: Digest) -> Self {
        Self(digest)
    }

    pub fn digest(&self) -> Digest {
        self.0
    }
}

/// What a handle leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskHandle {
    pub keeper: TaskKeeper,
    /// The name of the server.
    pub server: String,
    /// The qualified name of the tool whose call the task is, for roles and rules.
    pub tool: String,
    /// The id by which the keeper knows the task.
    pub id: String,
}

impl TaskHandle {
    /// The outward id for this owner.
    pub fn seal(&self, keyring: &Keyring, owner: &TaskOwner) -> String {
        let mut text = vec![VERSION, u8::from(self.keeper == TaskKeeper::Gateway)];
        text.extend_from_slice(&owner.0);
        for part in [&self.server, &self.tool, &self.id] {
            text.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        keyring.seal(Purpose::TaskId, &text)
    }

    /// What was sealed for this owner. For all else nothing, whatever is wrong with it.
    pub fn open(keyring: &Keyring, owner: &TaskOwner, handle: &str) -> Option<Self> {
        if handle.len() > MAX_HANDLE {
            return None;
        }
        let text = keyring.open(Purpose::TaskId, handle)?;
        let ([VERSION, keeper], rest) = text.split_first_chunk()? else { return None };
        let (of, mut rest) = rest.split_first_chunk::<32>()?;
        if *of != owner.0 {
            return None;
        }
        let mut part = || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (part, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rest = after;
            String::from_utf8(part.to_vec()).ok()
        };
        let (server, tool, id) = (part()?, part()?, part()?);
        let keeper = if *keeper == 0 { TaskKeeper::Server } else { TaskKeeper::Gateway };
        rest.is_empty().then_some(Self { keeper, server, tool, id })
    }
}

/// The rejection of an id that is of no task of this caller: unknown, forged, of another, or gone.
pub fn unknown() -> Box<Rejection> {
    Box::new(unknown_task(Era::Modern))
}

#[cfg(test)]
mod tests {
    use filters::request::Identity;

    use super::*;

    fn owner(user: &str, endpoint: &str) -> TaskOwner {
        let caller = Caller::new(Identity { user: user.into(), ..Identity::default() });
        TaskOwner::new(&caller, None, endpoint)
    }

    fn task() -> TaskHandle {
        TaskHandle {
            keeper: TaskKeeper::Server,
            server: "files".into(),
            tool: "files__scan".into(),
            id: "raw-id-of-the-server".into(),
        }
    }

    #[test]
    fn a_handle_opens_for_its_caller_at_its_endpoint_only() {
        let (keyring, ann) = (Keyring::random(), owner("ann", "/mcp"));
        for keeper in [TaskKeeper::Server, TaskKeeper::Gateway] {
            let task = TaskHandle { keeper, ..task() };
            let handle = task.seal(&keyring, &ann);
            assert_eq!(TaskHandle::open(&keyring, &ann, &handle), Some(task));
            assert_eq!(TaskHandle::open(&keyring, &owner("bob", "/mcp"), &handle), None);
            assert_eq!(TaskHandle::open(&keyring, &owner("ann", "/servers/files/mcp"), &handle), None);
            assert_eq!(TaskHandle::open(&Keyring::random(), &ann, &handle), None, "another key");
        }
    }

    #[test]
    fn a_changed_handle_is_none() {
        let (keyring, ann) = (Keyring::random(), owner("ann", "/mcp"));
        let handle = task().seal(&keyring, &ann);
        for at in 0..handle.len() {
            assert_eq!(TaskHandle::open(&keyring, &ann, &handle[..at]), None, "cut at {at}");
            let mut changed = handle.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_eq!(TaskHandle::open(&keyring, &ann, &changed), None, "changed at {at}");
        }
        for other in
            ["", "raw-id-of-the-server", "786512e2-9e0d-44bd-8f29-789f320fe840", &"A".repeat(1 << 20)]
        {
            assert_eq!(TaskHandle::open(&keyring, &ann, other), None);
        }
        let state = keyring.seal(Purpose::RequestState, &[VERSION, 0]);
        assert_eq!(TaskHandle::open(&keyring, &ann, &state), None, "sealed for another purpose");
    }

    #[test]
    fn a_handle_is_plain_and_tells_nothing() {
        let (keyring, ann) = (Keyring::random(), owner("ann", "/mcp"));
        let (one, two) = (task().seal(&keyring, &ann), task().seal(&keyring, &ann));
        assert_ne!(one, two);
        assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{one}");
        assert!(one.len() < 256, "{}", one.len());
        assert!(!one.contains("files"));
    }
}
