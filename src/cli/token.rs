//! `toolgate token`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use filters::RequestHead;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};

use super::caller;
use super::caller::CallerArgs;
use super::sign_token::{TokenSpec, sign};
use crate::config::{Config, ConfigDuration, KeyLocation};
use crate::runtime::filter_chain;
use crate::runtime::filter_chain::ReloadState;

/// Prints a token for this caller.
pub fn token(config: &Config, caller: CallerArgs, ttl: &str, issuer: Option<String>) -> ExitCode {
    let Ok(lives) = ttl.parse::<ConfigDuration>() else {
        eprintln!("error: --ttl {ttl:?} is not a time; expected 30s, 5m or 1h");
        return ExitCode::from(2);
    };
    if lives.get().is_zero() || caller.user.trim().is_empty() {
        eprintln!("error: the gateway would not take such a token: --sub and --ttl must not be empty");
        return ExitCode::from(2);
    }
    caller::warn_of_unknown(config, &caller.roles);
    let Some(auth) = &config.auth else {
        eprintln!("error: the configuration has no `auth`, so nobody needs a token");
        return ExitCode::from(2);
    };
    let lacks = auth.required_scopes.iter().filter(|scope| !caller.scopes.contains(scope));
    let lacks: Vec<String> = lacks.map(|scope| format!("--scope {scope}")).collect();
    let spec = TokenSpec {
        user: caller.user,
        roles: caller.roles,
        scopes: caller.scopes,
        tenant: caller.tenant,
        lifetime: lives.get(),
        issuer,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    match sign(auth, &spec, now) {
        Ok(token) => {
            say!("{token}");
            let why = match &lacks[..] {
                [] => rejection(config, &token),
                lacks => Some(format!("auth.required_scopes wants {}", lacks.join(" "))),
            };
            if let Some(why) = why {
                eprintln!("warning: the gateway does not take this token: {why}");
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(2)
        }
    }
}

/// Why the gateway would reject the token, such as another key; not known if keys are fetched.
fn rejection(config: &Config, token: &str) -> Option<String> {
    let fetched = |keys: &KeyLocation| matches!(keys, KeyLocation::JwksUrl(_));
    if config.auth.iter().flat_map(|auth| &auth.jwt).any(|issuer| fetched(&issuer.keys)) {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let chain = filter_chain::build_chain(config, &ReloadState::default(), runtime.handle());
    let (chain, _) = match chain {
        Ok(chain) => chain,
        Err(why) => return Some(why),
    };
    let value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    let http_method = Method::POST;
    let head = RequestHead {
        http_method: &http_method,
        path: "/mcp",
        headers: &headers,
        authority: None,
        peer: None,
        certificate: None,
        is_network: true,
    };
    runtime.block_on(chain.auth.identify(&head)).err().map(|rejection| rejection.message.into_owned())
}
