//! Authentication: bearer tokens, API keys and client certificates.
//!
//! A value like the other filters: it reads the head of a request and returns a [`Caller`] or a rejection.
//! The keys come through [`KeySource`]. It does not decide what a caller may do, fetches nothing, issues
//! nothing, and never forwards a credential.

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
pub use challenge::{ChallengeError, ResourceMetadata};
pub use claims::{ClaimPaths, MAX_NAME, MAX_NAMES};
pub use client_cert::ClientCertMapping;
pub use credentials::{API_KEY, MAX_TOKEN};
pub use key_set::{KeySet, KeySource, MAX_JWKS, MAX_KEYS, MIN_SECRET, StaticKeys};
pub use public_key::KeyError;
pub use token_cache::MAX_AGE;

use crate::request::{AuthMethod, Caller, Identity, RequestHead};
use client_cert::ClientCertMappings;
use credentials::{Credentials, CredentialsError};
use jwt::TokenError;
use mcp::{Reason, Rejection};
use token_cache::{CachedToken, TokenCache};

/// Label in metrics and logs.
pub const NAME: &str = "auth";

/// When to retry after keys were not available.
const KEYS_RETRY: Duration = Duration::from_secs(5);

/// Settings of authentication.
pub struct AuthSettings {
    /// If false, callers without credentials are anonymous. Invalid credentials are still rejected.
    pub required: bool,
    pub anonymous_roles: Vec<String>,
    /// Scopes that every token and API key must have.
    pub required_scopes: Vec<String>,
    /// With unique names.
    pub issuers: Vec<Issuer>,
    pub api_keys: Vec<ApiKey>,
    /// The first match counts.
    pub certificates: Vec<ClientCertMapping>,
    pub metadata: Option<ResourceMetadata>,
}

/// The accepted issuers, and how their tokens are read.
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
    pub keys: Arc<dyn KeySource>,
}

/// An API key; only its hash is known here.
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
type UnixClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The authenticator.
pub struct Auth {
    open: bool,
    required: bool,
    required_scopes: Vec<String>,
    /// The content of a 401's challenge.
    asked_scopes: Vec<String>,
    issuers: Vec<Issuer>,
    api_keys: ApiKeys,
    client_certs: ClientCertMappings,
    metadata: Option<ResourceMetadata>,
    anonymous: Caller,
    token_cache: TokenCache,
    clock: Option<UnixClock>,
}

impl Auth {
    /// No authentication: every caller is anonymous and has no roles. Credentials are ignored, since they may
    /// be meant for a server.
    pub fn open() -> Self {
        let auth = Self::new(AuthSettings {
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

    pub fn new(settings: AuthSettings) -> Self {
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
            client_certs: ClientCertMappings::new(settings.certificates),
            metadata: settings.metadata,
            anonymous: Caller::new(Identity {
                user: "anonymous".into(),
                roles: claims::sorted_unique(settings.anonymous_roles),
                ..Identity::default()
            }),
            token_cache: TokenCache::new(),
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

    /// The caller without credentials.
    pub fn anonymous(&self) -> Caller {
        self.anonymous.clone()
    }

    /// The caller of this head. Callers inside the process (`is_network` false) have no credentials here,
    /// since their identity is already known.
    pub async fn identify(&self, head: &RequestHead<'_>) -> Result<Caller, Box<Rejection>> {
        if self.open {
            return Ok(self.anonymous());
        }
        let caller = match credentials::read(head) {
            // A certificate counts only without a token: beside a token it is that of the last hop, such as a
            // proxy.
            Ok(Credentials::None) => match self.certificate_caller(head) {
                Some(caller) => caller,
                None if !self.required => return Ok(self.anonymous()),
                None => {
                    let message = match self.client_certs.is_empty() {
                        true => "this gateway needs a bearer token or an API key",
                        false => "this gateway needs a bearer token, an API key or a client certificate",
                    };
                    return Err(self.unauthorized(head.path, Reason::NoCredentials, message, None));
                }
            },
            Ok(Credentials::Bearer(token)) => self.bearer(head.path, token).await?,
            Ok(Credentials::Key(key)) => self.key(head.path, key)?,
            Err(CredentialsError::Scheme) => {
                let message = "only the scheme Bearer is supported";
                return Err(self.unauthorized(head.path, Reason::BadCredentials, message, None));
            }
            Err(CredentialsError::Request(message)) => {
                return Err(self.bad_request(head.path, message));
            }
        };
        if self.required_scopes.iter().all(|scope| caller.scopes.contains(scope)) {
            Ok(caller)
        } else {
            Err(Box::new(self.insufficient_scope(head.path, &[] as &[&str])))
        }
    }

    /// The value of `WWW-Authenticate` for a request to this path.
    pub fn challenge(&self, path: &str, error: Option<ChallengeError>, scopes: &[String]) -> String {
        challenge::write(self.metadata.as_ref(), path, error, scopes)
    }

    /// The rejection of a call whose token lacks scopes. It names these and the scopes that every token
    /// requires, so that the client asks only once (MCP, basic/authorization, step-up).
    pub fn insufficient_scope(&self, path: &str, needed: &[impl AsRef<str>]) -> Rejection {
        let message = "the credentials lack a scope that is needed";
        let mut scopes = self.required_scopes.clone();
        for scope in needed.iter().map(AsRef::as_ref) {
            if !scopes.iter().any(|s| s == scope) {
                scopes.push(scope.to_owned());
            }
        }
        let challenge = self.challenge(path, Some(ChallengeError::InsufficientScope(message)), &scopes);
        Rejection::http(403, Reason::InsufficientScope, message).with_challenge(challenge)
    }

    /// The metadata of this resource (RFC 9728 §3.2) for a request path such as
    /// `/.well-known/oauth-protected-resource/mcp`; `None` if there is none.
    pub fn metadata_document(&self, path: &str) -> Option<Vec<u8>> {
        self.metadata.as_ref()?.document(path)
    }

    async fn bearer(&self, path: &str, token: &str) -> Result<Caller, Box<Rejection>> {
        if token.len() > MAX_TOKEN {
            return Err(self.rejection(path, TokenError::Malformed("the token is longer than 16 KiB")));
        }
        // The cache is checked before parsing: a cached token was parsed before.
        let digest = token_cache::digest(token);
        if let Some(entry) = self.token_cache.get(&digest) {
            let keys = self.issuers[entry.issuer].keys.current();
            if self.now() < entry.expires && keys.fingerprint() == entry.keys {
                return Ok(entry.caller);
            }
            self.token_cache.remove(&digest);
        }
        if !credentials::is_token(token) {
            return Err(self.bad_request(path, "the header Authorization must hold one token and no more"));
        }
        match token.bytes().filter(|b| *b == b'.').count() {
            2 => {
                let entry = self.verify(token).await.map_err(|error| self.rejection(path, error))?;
                self.token_cache.insert(digest, entry.clone());
                Ok(entry.caller)
            }
            4 => Err(self.rejection(path, TokenError::Malformed("encrypted tokens are not supported"))),
            _ => self.key(path, token),
        }
    }

    fn certificate_caller(&self, head: &RequestHead<'_>) -> Option<Caller> {
        self.client_certs.find(head.certificate.filter(|_| head.is_network)?)
    }

    async fn verify(&self, token: &str) -> Result<CachedToken, TokenError> {
        let token_size = token.len();
        let token = jwt::read(token)?;
        // `iss` is not verified yet: it only selects the keys and rules for the token.
        let place = self.issuers.iter().position(|i| i.issuer == token.issuer).ok_or(TokenError::Issuer)?;
        let issuer = &self.issuers[place];
        let mut keys = issuer.keys.current();
        if let Err(error) = token.verify_signature(issuer, &keys) {
            if !token.needs_key_refresh(error) {
                return Err(error);
            }
            // The result does not matter: another request may have refreshed the keys meanwhile.
            issuer.keys.refresh().await;
            let now = issuer.keys.current();
            if now.fingerprint() == keys.fingerprint() && now.is_loaded() == keys.is_loaded() {
                return Err(error);
            }
            token.verify_signature(issuer, &now)?;
            keys = now;
        }
        let (identity, expires) = token.validate_claims(issuer, self.now())?;
        let caller = Caller::new(identity);
        Ok(CachedToken { caller, expires, issuer: place, keys: keys.fingerprint(), size: token_size })
    }

    fn key(&self, path: &str, key: &str) -> Result<Caller, Box<Rejection>> {
        self.api_keys.find(key).ok_or_else(|| {
            let message = "the API key is not known";
            self.unauthorized(
                path,
                Reason::UnknownApiKey,
                message,
                Some(ChallengeError::InvalidToken(message)),
            )
        })
    }

    fn rejection(&self, path: &str, error: TokenError) -> Box<Rejection> {
        let (reason, message) = (error.reason(), error.message());
        if error == TokenError::KeysUnavailable {
            return Box::new(Rejection::http(503, reason, message).retry_after(KEYS_RETRY));
        }
        self.unauthorized(path, reason, message, Some(ChallengeError::InvalidToken(message)))
    }

    /// 400 and not 401 (RFC 6750 §3.1): another token would not help.
    fn bad_request(&self, path: &str, message: &'static str) -> Box<Rejection> {
        let challenge = self.challenge(path, Some(ChallengeError::InvalidRequest(message)), &[]);
        Box::new(Rejection::http(400, Reason::BadCredentials, message).with_challenge(challenge))
    }

    fn unauthorized(
        &self,
        path: &str,
        reason: Reason,
        message: &'static str,
        error: Option<ChallengeError>,
    ) -> Box<Rejection> {
        let challenge = self.challenge(path, error, &self.asked_scopes);
        Box::new(Rejection::http(401, reason, message).with_challenge(challenge))
    }

    fn now(&self) -> u64 {
        match &self.clock {
            Some(clock) => clock(),
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |started| started.as_secs()),
        }
    }
}

/// Callers by the SHA-256 of their key. The map uses only the first eight bytes of a digest; the whole is
/// compared in constant time. So the time of a look-up reveals at most a part of the sender's own digest, and
/// nothing of the stored ones.
struct ApiKeys(HashMap<[u8; 8], Vec<([u8; 32], Caller)>>);

impl ApiKeys {
    fn new(keys: Vec<ApiKey>) -> Self {
        let mut map: HashMap<_, Vec<_>> = HashMap::new();
        for key in keys {
            let digest = key.sha256;
            let caller = Caller::new(Identity {
                user: key.user,
                tenant: key.tenant,
                roles: claims::sorted_unique(key.roles),
                scopes: claims::sorted_unique(key.scopes),
                auth_method: AuthMethod::ApiKey,
                issuer: None,
                api_key_id: Some(key.id),
                claims: serde_json::Map::new(),
            });
            map.entry(digest_prefix(&digest)).or_default().push((digest, caller));
        }
        Self(map)
    }

    fn find(&self, key: &str) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let same = |(stored, _): &&([u8; 32], Caller)| bool::from(stored.ct_eq(&digest));
        self.0.get(&digest_prefix(&digest))?.iter().find(same).map(|(_, caller)| caller.clone())
    }
}

fn digest_prefix(digest: &[u8; 32]) -> [u8; 8] {
    *digest.first_chunk().expect("8 of 32 bytes")
}
