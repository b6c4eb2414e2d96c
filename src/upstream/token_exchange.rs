//! Exchanges a caller's token for one that a server accepts (RFC 8693), so that the caller's own never leaves
//! the gateway for an audience that it was not issued for.
//!
//! A token is requested once for each user, set of scopes and roles, and audience, and cached until shortly
//! before it expires; many calls at once wait for one response. Failures are not cached.

use std::sync::Arc;
use std::time::{Duration, Instant};

use filters::Caller;
use http::HeaderValue;
use moka::Expiry;
use moka::future::Cache;
use serde::Deserialize;
use tokio::runtime::Handle;

use super::{UpstreamError, cause};

/// Longest response of a token endpoint that is read, in bytes.
const MAX_RESPONSE: usize = 64 * 1024;
/// A token is dropped this long before it expires, so that it is still valid when it arrives.
const EXPIRY_MARGIN: Duration = Duration::from_secs(30);
/// How long a token without `expires_in` is cached, and the most for any.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
const MAX_TOKENS: u64 = 100_000;

/// The token endpoint and the gateway's credentials there.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEndpoint {
    pub url: String,
    pub client_id: String,
    pub client_secret: Option<crate::config::Secret>,
    pub timeout: Duration,
}

pub struct TokenExchange {
    endpoint: TokenEndpoint,
    client: reqwest::Client,
    core: Handle,
    tokens: Cache<TokenCacheKey, Arc<ExchangedToken>>,
}

/// A token is issued for a user with certain rights: another token of the same user may have fewer.
#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenCacheKey {
    issuer: Option<String>,
    tenant: Option<String>,
    user: String,
    scopes: Vec<String>,
    roles: Vec<String>,
    audience: Arc<str>,
}

impl TokenCacheKey {
    fn of(caller: &Caller, audience: &Arc<str>) -> Self {
        Self {
            issuer: caller.issuer.clone(),
            tenant: caller.tenant.clone(),
            user: caller.user.clone(),
            scopes: caller.scopes.clone(),
            roles: caller.roles.clone(),
            audience: audience.clone(),
        }
    }
}

struct ExchangedToken {
    header: HeaderValue,
    lifetime: Duration,
}

struct TokenExpiry;

impl Expiry<TokenCacheKey, Arc<ExchangedToken>> for TokenExpiry {
    fn expire_after_create(
        &self,
        _: &TokenCacheKey,
        token: &Arc<ExchangedToken>,
        _: Instant,
    ) -> Option<Duration> {
        Some(token.lifetime)
    }
}

/// RFC 8693 §2.2.1.
#[derive(Deserialize)]
struct TokenResponse {
    access_token: String,
    #[serde(default)]
    token_type: String,
    expires_in: Option<u64>,
}

impl TokenExchange {
    /// Connections live on `runtime`, which outlives the listeners.
    pub fn new(endpoint: TokenEndpoint, runtime: Handle) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(endpoint.timeout)
            .timeout(endpoint.timeout)
            .build()
            .map_err(|error| error.to_string())?;
        let tokens = Cache::builder().max_capacity(MAX_TOKENS).expire_after(TokenExpiry).build();
        Ok(Self { endpoint, client, core: runtime, tokens })
    }

    pub fn endpoint(&self) -> &TokenEndpoint {
        &self.endpoint
    }

    /// The value of `Authorization` for a server; `subject` is the caller's own token.
    pub async fn token(
        &self,
        caller: &Caller,
        subject: &str,
        audience: &Arc<str>,
    ) -> Result<HeaderValue, UpstreamError> {
        let key = TokenCacheKey::of(caller, audience);
        let asking = self.request(subject.to_owned(), audience.clone());
        match self.tokens.try_get_with(key, asking).await {
            Ok(token) => Ok(token.header.clone()),
            Err(why) => {
                // The caller learns that it failed; the cause is logged for the operator.
                tracing::warn!(%audience, %why, "a token was not exchanged");
                Err(UpstreamError::Exchange(why.to_string()))
            }
        }
    }

    /// Drops a token that its server no longer accepts; the next call gets a new one.
    pub fn forget(&self, caller: &Caller, audience: &Arc<str>) {
        let (tokens, key) = (self.tokens.clone(), TokenCacheKey::of(caller, audience));
        self.core.spawn(async move { tokens.invalidate(&key).await });
    }

    async fn request(&self, subject: String, audience: Arc<str>) -> Result<Arc<ExchangedToken>, String> {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", &subject),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("audience", &audience),
            ("client_id", &self.endpoint.client_id),
        ];
        let mut request = self.client.post(&self.endpoint.url).header("accept", "application/json");
        request = match &self.endpoint.client_secret {
            // RFC 6749 §2.3.1: the id is in the header then, and not in the body too.
            Some(secret) => request
                .basic_auth(form_encoded(&self.endpoint.client_id), Some(form_encoded(secret.expose())))
                .form(&form[..5]),
            None => request.form(&form),
        };
        let asked = self.core.spawn(async move {
            let response = request.send().await.map_err(|error| cause(&error))?;
            let status = response.status();
            let body = read(response).await?;
            if !status.is_success() {
                // `error` is a code of RFC 6749 §5.2; the description may repeat the token.
                let word = serde_json::from_slice::<serde_json::Value>(&body).ok();
                let word = word.as_ref().and_then(|body| body["error"].as_str()).unwrap_or("no reason given");
                let word: String = word.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
                return Err(format!("HTTP {}: {word}", status.as_u16()));
            }
            serde_json::from_slice::<TokenResponse>(&body)
                .map_err(|_| "the answer holds no access token".to_owned())
        });
        let answer = asked.await.map_err(|_| "the gateway is shutting down".to_owned())??;
        if !answer.token_type.eq_ignore_ascii_case("bearer") {
            return Err("the token is not a bearer token".into());
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {}", answer.access_token))
            .map_err(|_| "the token cannot stand in a header".to_owned())?;
        header.set_sensitive(true);
        let lives = answer.expires_in.map_or(DEFAULT_LIFETIME, Duration::from_secs).min(MAX_LIFETIME);
        Ok(Arc::new(ExchangedToken {
            header,
            lifetime: lives.saturating_sub(EXPIRY_MARGIN).max(Duration::from_secs(1)),
        }))
    }
}

async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| cause(&error))? {
        if body.len() + piece.len() > MAX_RESPONSE {
            return Err("the answer is too long".into());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// `application/x-www-form-urlencoded`, as RFC 6749 §2.3.1 requires for the parts of basic credentials.
fn form_encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'*');
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        match b {
            b if plain(b) => out.push(char::from(b)),
            b' ' => out.push('+'),
            b => out.push_str(&format!("%{b:02X}")),
        }
        out
    })
}
