//! Who calls: bearer tokens, API keys and clients' certificates.
//!
//! A value like the other filters: it reads the head of a request and gives a [`Caller`] or a refusal. Keys come
//! from outside through [`Keys`]. It deliberately does not say what a caller may do, fetches nothing, issues
//! nothing, and never passes a credential on.

mod algorithm;
mod challenge;
mod claims;
mod client_cert;
mod credentials;
mod jwt;
mod key_set;
mod pem;
mod public_key;
mod strict_json;
mod token_cache;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

pub use algorithm::{Algorithm, UnknownAlgorithm};
pub use challenge::{Metadata, Trouble};
pub use claims::{ClaimPaths, MAX_NAME, MAX_NAMES};
pub use client_cert::Badge;
pub use credentials::{API_KEY, MAX_TOKEN};
pub use key_set::{Fixed, KeySet, Keys, MAX_JWKS, MAX_KEYS, MIN_SECRET};
pub use public_key::BadKey;
pub use token_cache::LONGEST;

use crate::request::{Caller, Head, Identity, Means};
use client_cert::Badges;
use credentials::{Credentials, Unusable};
use jwt::Wrong;
use mcp::rejection::Refusal;
use token_cache::{Entry, Memory};

/// Label in metrics and logs.
pub const NAME: &str = "auth";

/// When to come again after keys were not there.
const KEYS_RETRY: Duration = Duration::from_secs(5);

/// How callers are known.
pub struct Settings {
    /// Without: callers that bring no credentials are anonymous. Bad credentials are refused all the same.
    pub required: bool,
    pub anonymous_roles: Vec<String>,
    /// What every token and API key must carry.
    pub required_scopes: Vec<String>,
    /// Each has a name of its own.
    pub issuers: Vec<Issuer>,
    pub api_keys: Vec<ApiKey>,
    /// The first that fits counts.
    pub certificates: Vec<Badge>,
    pub metadata: Option<Metadata>,
}

/// Whose tokens are believed, and how they are read.
#[derive(Clone)]
pub struct Issuer {
    /// `iss`, compared byte by byte.
    pub issuer: String,
    /// `aud` must be one of these.
    pub audiences: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    pub claims: ClaimPaths,
    pub keys: Arc<dyn Keys>,
}

/// A key that the operator handed out; only its hash is known here.
#[derive(Clone, Debug)]
pub struct ApiKey {
    pub id: String,
    pub sha256: [u8; 32],
    pub user: String,
    pub roles: Vec<String>,
    pub tenant: Option<String>,
    pub scopes: Vec<String>,
}

/// Seconds since 1970.
type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The judge of credentials.
pub struct Auth {
    open: bool,
    required: bool,
    required_scopes: Vec<String>,
    /// What a 401 asks for.
    asked_scopes: Vec<String>,
    issuers: Vec<Issuer>,
    api_keys: ApiKeys,
    badges: Badges,
    metadata: Option<Metadata>,
    anonymous: Caller,
    memory: Memory,
    clock: Option<Clock>,
}

impl Auth {
    /// No authentication: everyone is anonymous and has no roles. Credentials are not looked at; they may be
    /// meant for a server behind.
    pub fn open() -> Self {
        let auth = Self::new(Settings {
            required: false,
            anonymous_roles: Vec::new(),
            required_scopes: Vec::new(),
            issuers: Vec::new(),
            api_keys: Vec::new(),
            certificates: Vec::new(),
            metadata: None,
        });
        Self { open: true, ..auth }
    }

    pub fn new(settings: Settings) -> Self {
        let mut asked_scopes = settings.required_scopes.clone();
        if let (true, Some(metadata)) = (asked_scopes.is_empty(), &settings.metadata) {
            // `offline_access` is the client's own business, not the resource's (MCP, scope selection).
            asked_scopes =
                metadata.scopes_supported.iter().filter(|s| *s != "offline_access").cloned().collect();
        }
        Self {
            open: false,
            required: settings.required,
            required_scopes: settings.required_scopes,
            asked_scopes,
            issuers: settings.issuers,
            api_keys: ApiKeys::new(settings.api_keys),
            badges: Badges::new(settings.certificates),
            metadata: settings.metadata,
            anonymous: Caller::new(Identity {
                user: "anonymous".into(),
                roles: claims::tidy(settings.anonymous_roles),
                ..Identity::default()
            }),
            memory: Memory::new(),
            clock: None,
        }
    }

    /// Another clock than the system's, for tests.
    pub fn with_clock(mut self, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Whether there is no authentication at all.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Who an unauthenticated caller is.
    pub fn anonymous(&self) -> Caller {
        self.anonymous.clone()
    }

    /// Who sent this head. Callers inside the process (`outside` false) bring no credentials here: whoever calls
    /// for them knows them already.
    pub async fn identify(&self, head: &Head<'_>) -> Result<Caller, Box<Refusal>> {
        if self.open {
            return Ok(self.anonymous());
        }
        let caller = match credentials::read(head) {
            // A certificate speaks only where no token does: beside one it is that of the hop, such as a proxy's.
            Ok(Credentials::None) => match self.certified(head) {
                Some(caller) => caller,
                None if !self.required => return Ok(self.anonymous()),
                None => {
                    let words = match self.badges.is_empty() {
                        true => "this gateway needs a bearer token or an API key",
                        false => "this gateway needs a bearer token, an API key or a client certificate",
                    };
                    return Err(self.unauthorized(head.path, "no_credentials", words, None));
                }
            },
            Ok(Credentials::Bearer(token)) => self.bearer(head.path, token).await?,
            Ok(Credentials::Key(key)) => self.key(head.path, key)?,
            Err(Unusable::Scheme) => {
                let words = "only the scheme Bearer is supported";
                return Err(self.unauthorized(head.path, "bad_credentials", words, None));
            }
            Err(Unusable::Request(words)) => {
                return Err(self.unusable(head.path, words));
            }
        };
        if self.required_scopes.iter().all(|scope| caller.scopes.contains(scope)) {
            Ok(caller)
        } else {
            Err(Box::new(self.insufficient_scope(head.path, &[] as &[&str])))
        }
    }

    /// The value of `WWW-Authenticate` for a request to this path.
    pub fn challenge(&self, path: &str, trouble: Option<Trouble>, scopes: &[String]) -> String {
        challenge::write(self.metadata.as_ref(), path, trouble, scopes)
    }

    /// The refusal of a call that needs scopes which the caller's token lacks. It names these and those that every
    /// token needs, so that the client asks once (MCP, basic/authorization, step-up).
    pub fn insufficient_scope(&self, path: &str, needed: &[impl AsRef<str>]) -> Refusal {
        let words = "the token lacks a scope that is needed";
        let mut scopes = self.required_scopes.clone();
        for scope in needed.iter().map(AsRef::as_ref) {
            if !scopes.iter().any(|s| s == scope) {
                scopes.push(scope.to_owned());
            }
        }
        let challenge = self.challenge(path, Some(Trouble::InsufficientScope(words)), &scopes);
        Refusal::http(403, "insufficient_scope", words).with_challenge(challenge)
    }

    /// The metadata of this resource (RFC 9728 §3.2) for a request path such as
    /// `/.well-known/oauth-protected-resource/mcp`; `None` if there is none for it.
    pub fn metadata_document(&self, path: &str) -> Option<Vec<u8>> {
        self.metadata.as_ref()?.document(path)
    }

    async fn bearer(&self, path: &str, token: &str) -> Result<Caller, Box<Refusal>> {
        if token.len() > MAX_TOKEN {
            return Err(self.refusal(path, Wrong::Malformed("the token is longer than 16 KiB")));
        }
        // Looked up before it is read: what is remembered was read once.
        let digest = token_cache::digest(token);
        if let Some(entry) = self.memory.get(&digest) {
            let keys = self.issuers[entry.issuer].keys.current();
            if self.now() < entry.expires && keys.mark() == entry.keys {
                return Ok(entry.caller);
            }
            self.memory.forget(&digest);
        }
        if !credentials::is_token(token) {
            return Err(self.unusable(path, "the header Authorization must hold one token and no more"));
        }
        match token.bytes().filter(|b| *b == b'.').count() {
            2 => {
                let entry = self.verify(token).await.map_err(|wrong| self.refusal(path, wrong))?;
                self.memory.put(digest, entry.clone());
                Ok(entry.caller)
            }
            4 => Err(self.refusal(path, Wrong::Malformed("encrypted tokens are not supported"))),
            _ => self.key(path, token),
        }
    }

    fn certified(&self, head: &Head<'_>) -> Option<Caller> {
        self.badges.find(head.certificate.filter(|_| head.outside)?)
    }

    async fn verify(&self, token: &str) -> Result<Entry, Wrong> {
        let token_size = token.len();
        let token = jwt::read(token)?;
        // `iss` is not believed yet: it only chooses whose keys and rules the token has to pass.
        let place = self.issuers.iter().position(|i| i.issuer == token.issuer).ok_or(Wrong::Issuer)?;
        let issuer = &self.issuers[place];
        let mut keys = issuer.keys.current();
        if let Err(wrong) = token.check(issuer, &keys) {
            if !token.may_pass_later(wrong) {
                return Err(wrong);
            }
            // Whatever it answers: somebody else's refresh may have come in between.
            issuer.keys.refreshed().await;
            let now = issuer.keys.current();
            if now.mark() == keys.mark() && now.was_read() == keys.was_read() {
                return Err(wrong);
            }
            token.check(issuer, &now)?;
            keys = now;
        }
        let (identity, expires) = token.judge(issuer, self.now())?;
        let caller = Caller::new(identity);
        Ok(Entry { caller, expires, issuer: place, keys: keys.mark(), size: token_size })
    }

    fn key(&self, path: &str, key: &str) -> Result<Caller, Box<Refusal>> {
        self.api_keys.find(key).ok_or_else(|| {
            let words = "the API key is not known";
            self.unauthorized(path, "unknown_api_key", words, Some(Trouble::InvalidToken(words)))
        })
    }

    fn refusal(&self, path: &str, wrong: Wrong) -> Box<Refusal> {
        let (reason, words) = (wrong.reason(), wrong.words());
        if wrong == Wrong::KeysUnread {
            return Box::new(Refusal::http(503, reason, words).retry_after(KEYS_RETRY));
        }
        self.unauthorized(path, reason, words, Some(Trouble::InvalidToken(words)))
    }

    /// 400 and not 401 (RFC 6750 §3.1): another token would not help.
    fn unusable(&self, path: &str, words: &'static str) -> Box<Refusal> {
        let challenge = self.challenge(path, Some(Trouble::InvalidRequest(words)), &[]);
        Box::new(Refusal::http(400, "bad_credentials", words).with_challenge(challenge))
    }

    fn unauthorized(
        &self,
        path: &str,
        reason: &'static str,
        words: &'static str,
        trouble: Option<Trouble>,
    ) -> Box<Refusal> {
        let challenge = self.challenge(path, trouble, &self.asked_scopes);
        Box::new(Refusal::http(401, reason, words).with_challenge(challenge))
    }

    fn now(&self) -> u64 {
        match &self.clock {
            Some(clock) => clock(),
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }
}

/// Callers by the SHA-256 of their key. The map is asked for the first eight bytes of a digest only and the whole is
/// compared in constant time: how long a look-up takes tells at most something of a digest that its sender
/// computed anyway, and nothing of the digests that are stored.
struct ApiKeys(HashMap<[u8; 8], Vec<([u8; 32], Caller)>>);

impl ApiKeys {
    fn new(keys: Vec<ApiKey>) -> Self {
        let mut map: HashMap<_, Vec<_>> = HashMap::new();
        for key in keys {
            let digest = key.sha256;
            let caller = Caller::new(Identity {
                user: key.user,
                tenant: key.tenant,
                roles: claims::tidy(key.roles),
                scopes: claims::tidy(key.scopes),
                means: Means::ApiKey,
                issuer: None,
                key: Some(key.id),
                claims: serde_json::Map::new(),
            });
            map.entry(front(&digest)).or_default().push((digest, caller));
        }
        Self(map)
    }

    fn find(&self, key: &str) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let same = |(stored, _): &&([u8; 32], Caller)| bool::from(stored.ct_eq(&digest));
        self.0.get(&front(&digest))?.iter().find(same).map(|(_, caller)| caller.clone())
    }
}

fn front(digest: &[u8; 32]) -> [u8; 8] {
    *digest.first_chunk().expect("8 of 32 bytes")
}
