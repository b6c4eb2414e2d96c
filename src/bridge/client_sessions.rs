//! The sessions in which modern clients call legacy servers: one for each caller, endpoint and set of client
//! capabilities. They are sessions like all others: limited, swept and evicted by the session manager.

use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use filters::AuthMethod;
use sha2::{Digest as _, Sha256};

use super::ModernClient;
use crate::session::{OwnerKey, Session, SessionManager, TooManySessions};
use mcp::bridge::capabilities;
use mcp::version;

#[derive(PartialEq, Eq, Hash)]
struct Key {
    owner: OwnerKey,
    endpoint: Arc<str>,
    /// Of the capabilities and the client info.
    client: [u8; 32],
}

#[derive(Default)]
pub(super) struct ModernClientSessions(DashMap<Key, Arc<Session>, ahash::RandomState>);

/// A session for one call.
pub(super) struct CallSession {
    pub session: Arc<Session>,
    /// It serves this call alone, and ends with it.
    own: Option<Arc<SessionManager>>,
}

impl Drop for CallSession {
    fn drop(&mut self) {
        if let Some(sessions) = self.own.take() {
            sessions.end(&self.session);
        }
    }
}

impl ModernClientSessions {
    /// The session for a call of this client: the one that it had, or a new one. Anonymous callers are not one
    /// caller: each of their calls has a session of its own.
    pub fn session(
        &self,
        sessions: &Arc<SessionManager>,
        client: &ModernClient,
    ) -> Result<CallSession, TooManySessions> {
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
        let key = Key {
            owner: client.owner.clone(),
            endpoint: client.endpoint.clone(),
            client: hash.finalize().into(),
        };
        let is_open = |session: &Arc<Session>| !session.end().is_cancelled();
        if let Some(known) = self.0.get(&key).filter(|known| is_open(known)) {
            known.touch();
            return Ok(CallSession { session: known.clone(), own: None });
        }
        let mut entry = self.0.entry(key).or_try_insert_with(open)?;
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
