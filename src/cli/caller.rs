//! Callers as they are named on the command line.

use std::convert::Infallible;
use std::str::FromStr;

use filters::{AuthMethod, Caller, Identity};

use crate::config::Config;

/// A caller that the user asserts, who can read the configuration.
#[derive(Clone, Debug, Default)]
pub struct CallerArgs {
    pub user: String,
    pub roles: Vec<String>,
    pub scopes: Vec<String>,
    pub tenant: Option<String>,
}

impl CallerArgs {
    pub fn caller(self) -> Caller {
        let tidy = |mut items: Vec<String>| {
            items.sort();
            items.dedup();
            items
        };
        Caller::new(Identity {
            user: self.user,
            tenant: self.tenant,
            roles: tidy(self.roles),
            scopes: tidy(self.scopes),
            auth_method: AuthMethod::Operator,
            ..Identity::default()
        })
    }
}

/// Prints which of these roles the configuration does not have: usually they are misspelt.
pub fn warn_of_unknown(config: &Config, roles: &[String]) {
    let Some(rbac) = &config.rbac else { return };
    for role in roles.iter().filter(|role| !rbac.roles.contains_key(*role)) {
        eprintln!("warning: rbac.roles has no role `{role}`: only conditions that name it know it");
    }
}

/// `user:role,role`, as `--as` takes it.
#[derive(Clone, Debug)]
pub struct NamedCaller(pub CallerArgs);

impl FromStr for NamedCaller {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let (user, roles) = text.rsplit_once(':').unwrap_or((text, ""));
        let roles = roles.split(',').map(str::trim).filter(|role| !role.is_empty()).map(str::to_owned);
        Ok(Self(CallerArgs { user: user.to_owned(), roles: roles.collect(), ..CallerArgs::default() }))
    }
}
