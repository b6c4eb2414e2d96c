//! The sessions in which modern clients call legacy servers: one for each caller, endpoint and set of client
//! capabilities; one for all callers of a server that the configuration calls stateless. They are sessions like
//! all others: limited, swept and evicted by the session manager.

use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use filters::request::Identity;
use filters::{AuthMethod, Caller};
use sha2::{Digest as _, Sha256};

use super::ModernClient;
use crate::server::Server;
use crate::session::{OwnerKey, Session, SessionLimits, SessionManager, TooManySessions};
use crate::upstream::gateway_info;
use mcp::bridge::capabilities;
use mcp::version;

/// Whose session it is.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Caller {
        owner: OwnerKey,
        endpoint: Arc<str>,
        /// Of the capabilities and the client info.
        client: [u8; 32],
    },
    /// All callers', by the serial of the stateless server.
    Server(u64),
}

#[derive(Default)]
pub(super) struct ModernClientSessions(DashMap<Key, Arc<Session>, ahash::RandomState>);

/// A session for one call.
pub(super) struct CallSession {
    pub session: Arc<Session>,
    /// It serves this call alone, and ends with it.
    own: Option<Arc<SessionManager>>,
}

impl CallSession {
    /// The same session for somebody who does not end it.
    pub fn borrowed(&self) -> Self {
        Self { session: self.session.clone(), own: None }
    }
}

impl Drop for CallSession {
    fn drop(&mut self) {
        if let Some(sessions) = self.own.take() {
            sessions.end(&self.session);
        }
    }
}

impl ModernClientSessions {
    /// The session for a call of this client to this server: the one that it had, or a new one. Anonymous callers
    /// are not one caller: each of their calls has a session of its own.
    pub fn session(
        &self,
        sessions: &Arc<SessionManager>,
        client: &ModernClient,
        server: &Server,
    ) -> Result<CallSession, TooManySessions> {
        if server.config.stateless {
            // No caller owns it, and no id of a client names it.
            let gateway = Identity { user: "toolgate".into(), ..Identity::default() };
            let owner = OwnerKey::new(Caller::new(gateway), None);
            let info = Bytes::from_static(gateway_info().as_bytes());
            let limits = SessionLimits { per_caller: usize::MAX, ..client.limits };
            let none = Bytes::from_static(b"{}");
            let open = || {
                sessions.open(
                    owner.clone(),
                    &"".into(),
                    version::NEWEST_LEGACY,
                    none.clone(),
                    info.clone(),
                    limits,
                )
            };
            return self.known(sessions, Key::Server(server.serial), open);
        }
        let declared =
            capabilities::client_to_legacy(&client.capabilities).map_or_else(|| "{}".into(), Bytes::from);
        let info = client.client_info.clone();
        let open = || {
            sessions.open(
                client.owner.clone(),
                &client.endpoint,
                version::NEWEST_LEGACY,
                declared.clone(),
                info.clone(),
                client.limits,
            )
        };
        if client.caller.auth_method == AuthMethod::Anonymous {
            return Ok(CallSession { session: open()?, own: Some(sessions.clone()) });
        }
        let mut hash = Sha256::new();
        hash.update(declared.len().to_be_bytes());
        hash.update(&declared);
        hash.update(&info);
        let key = Key::Caller {
            owner: client.owner.clone(),
            endpoint: client.endpoint.clone(),
            client: hash.finalize().into(),
        };
        self.known(sessions, key, open)
    }

    /// The open session of a key, or a new one.
    fn known(
        &self,
        sessions: &SessionManager,
        key: Key,
        open: impl Fn() -> Result<Arc<Session>, TooManySessions>,
    ) -> Result<CallSession, TooManySessions> {
        let is_open = |session: &Arc<Session>| !session.end().is_cancelled();
        if let Some(known) = self.0.get(&key).filter(|known| is_open(known)) {
            known.touch();
            return Ok(CallSession { session: known.clone(), own: None });
        }
        let mut entry = self.0.entry(key).or_try_insert_with(&open)?;
        if !is_open(&entry) {
            *entry = open()?;
        }
        let session = entry.clone();
        drop(entry);
        // Those that ended are forgotten when there are many of them.
        if self.0.len() > 2 * sessions.count().max(64) {
            self.0.retain(|_, session| is_open(session));
        }
        Ok(CallSession { session, own: None })
    }
}
