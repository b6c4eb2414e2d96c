//! `toolgate token`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use super::who::Who;
use crate::config::{Config, Span};
use crate::token::{Wish, mint as sign};

/// Prints a token for this caller.
pub fn mint(config: &Config, who: Who, ttl: &str, issuer: Option<String>) -> ExitCode {
    let Ok(lives) = ttl.parse::<Span>() else {
        eprintln!("error: --ttl {ttl:?} is not a time; expected 30s, 5m or 1h");
        return ExitCode::from(2);
    };
    if lives.get().is_zero() || who.user.trim().is_empty() {
        eprintln!("error: the gateway would not take such a token: --sub and --ttl must not be empty");
        return ExitCode::from(2);
    }
    for role in who.unknown_roles(config) {
        eprintln!("warning: no role `{role}` in the file: it means nothing");
    }
    let Some(auth) = &config.auth else {
        eprintln!("error: the configuration has no `auth`, so nobody needs a token");
        return ExitCode::from(2);
    };
    let wish = Wish {
        user: who.user,
        roles: who.roles,
        scopes: who.scopes,
        tenant: who.tenant,
        lives: lives.get(),
        issuer,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    match sign(auth, &wish, now) {
        Ok(token) => {
            println!("{token}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(2)
        }
    }
}
