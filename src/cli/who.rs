//! Callers as they are named on the command line.

use std::convert::Infallible;
use std::str::FromStr;

use crate::config::Config;
use filters::{Caller, Identity, Means};

/// A caller on the word of whoever can read the configuration.
#[derive(Clone, Debug, Default)]
pub struct Who {
    pub user: String,
    pub roles: Vec<String>,
    pub scopes: Vec<String>,
    pub tenant: Option<String>,
}

impl Who {
    /// Roles that the configuration does not have.
    pub fn unknown_roles(&self, config: &Config) -> Vec<String> {
        let Some(rbac) = &config.rbac else { return Vec::new() };
        self.roles.iter().filter(|role| !rbac.roles.contains_key(*role)).cloned().collect()
    }

    pub fn caller(self) -> Caller {
        let tidy = |mut words: Vec<String>| {
            words.sort();
            words.dedup();
            words
        };
        Caller::new(Identity {
            user: self.user,
            tenant: self.tenant,
            roles: tidy(self.roles),
            scopes: tidy(self.scopes),
            means: Means::Operator,
            ..Identity::default()
        })
    }
}

/// `user:role,role`, as `--as` takes it.
#[derive(Clone, Debug)]
pub struct Named(pub Who);

impl FromStr for Named {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let (user, roles) = text.rsplit_once(':').unwrap_or((text, ""));
        let roles = roles.split(',').map(str::trim).filter(|role| !role.is_empty()).map(str::to_owned);
        Ok(Self(Who { user: user.to_owned(), roles: roles.collect(), ..Who::default() }))
    }
}
