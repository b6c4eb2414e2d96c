//! Clients' certificates: whom the name in one stands for.
//!
//! That a certificate is genuine was seen in the handshake; here a name is looked up, and nothing is verified. A
//! certificate that no entry fits is as good as none.

use globset::GlobMatcher;
use moka::sync::Cache;

use super::claims;
use crate::request::{Caller, Certificate, Identity, Means};

/// Most principals that are remembered.
const CAPACITY: u64 = 10_000;

/// Certificates that are taken, and whom they stand for.
#[derive(Clone, Debug)]
pub struct Badge {
    /// Over the principal.
    pub subject: GlobMatcher,
    /// The principal itself if there is none.
    pub user: Option<String>,
    pub roles: Vec<String>,
    pub tenant: Option<String>,
    pub scopes: Vec<String>,
}

/// Badges in the order in which they are asked, and what was found for principals that were there before.
pub(super) struct Badges {
    list: Vec<(Badge, Option<Caller>)>,
    found: Cache<String, Option<Caller>>,
}

impl Badges {
    pub fn new(badges: Vec<Badge>) -> Self {
        let list = badges.into_iter().map(|badge| {
            // One user is one caller, whichever of its certificates it shows.
            let caller = badge.user.as_deref().map(|user| badge.caller(user));
            (badge, caller)
        });
        Self { list: list.collect(), found: Cache::new(CAPACITY) }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whom the first badge that fits stands for.
    pub fn find(&self, certificate: &Certificate) -> Option<Caller> {
        if self.is_empty() {
            return None;
        }
        let principal = certificate.principal.as_str();
        if let Some(found) = self.found.get(principal) {
            return found;
        }
        // Single flight: two callers at the same moment would be two identities.
        self.found.get_with_by_ref(principal, || {
            let (badge, caller) = self.list.iter().find(|(badge, _)| badge.subject.is_match(principal))?;
            Some(caller.clone().unwrap_or_else(|| badge.caller(principal)))
        })
    }
}

impl Badge {
    fn caller(&self, user: &str) -> Caller {
        Caller::new(Identity {
            user: user.to_owned(),
            tenant: self.tenant.clone(),
            roles: claims::tidy(self.roles.clone()),
            scopes: claims::tidy(self.scopes.clone()),
            means: Means::Certificate,
            issuer: None,
            key: None,
            claims: serde_json::Map::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;
    use http::{HeaderMap, Method};

    use super::*;
    use crate::auth::{ApiKey, Auth, Settings};
    use crate::request::Head;

    fn badge(subject: &str, user: Option<&str>, role: &str) -> Badge {
        Badge {
            subject: GlobBuilder::new(subject).build().expect(subject).compile_matcher(),
            user: user.map(str::to_owned),
            roles: vec![role.into(), role.into()],
            tenant: Some("acme".into()),
            scopes: vec!["mcp".into()],
        }
    }

    fn settings(required: bool) -> Settings {
        use sha2::Digest as _;
        Settings {
            required,
            anonymous_roles: vec!["guest".into()],
            required_scopes: Vec::new(),
            issuers: Vec::new(),
            api_keys: vec![ApiKey {
                id: "k".into(),
                sha256: sha2::Sha256::digest("key").into(),
                user: "kim".into(),
                roles: Vec::new(),
                tenant: None,
                scopes: Vec::new(),
            }],
            certificates: vec![
                badge("spiffe://prod/ci-*", Some("ci-bot"), "robot"),
                badge("spiffe://prod/*", None, "service"),
            ],
            metadata: None,
        }
    }

    async fn who(auth: &Auth, principal: Option<&str>, key: Option<&'static str>) -> Result<Caller, u16> {
        let certificate = principal.map(|principal| Certificate { principal: principal.into() });
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert("x-api-key", http::HeaderValue::from_static(key));
        }
        let head = Head {
            verb: &Method::POST,
            path: "/mcp",
            headers: &headers,
            authority: None,
            peer: None,
            certificate: certificate.as_ref(),
            outside: true,
        };
        auth.identify(&head).await.map_err(|refusal| refusal.status)
    }

    #[tokio::test]
    async fn the_first_subject_that_fits_says_who_it_is() {
        let auth = Auth::new(settings(true));
        let caller = who(&auth, Some("spiffe://prod/ci-7"), None).await.expect("the first");
        assert_eq!((caller.user.as_str(), caller.means), ("ci-bot", Means::Certificate));
        assert_eq!((&*caller.roles, caller.tenant.as_deref()), (&["robot".to_owned()][..], Some("acme")));
        let other = who(&auth, Some("spiffe://prod/web"), None).await.expect("the second");
        assert_eq!((other.user.as_str(), &*other.roles), ("spiffe://prod/web", &["service".to_owned()][..]));
    }

    #[tokio::test]
    async fn one_user_is_one_identity() {
        let auth = Auth::new(settings(true));
        let serial = async |principal| who(&auth, Some(principal), None).await.expect("known").serial();
        assert_eq!(serial("spiffe://prod/ci-1").await, serial("spiffe://prod/ci-2").await);
        assert_eq!(serial("spiffe://prod/a").await, serial("spiffe://prod/a").await);
        assert_ne!(serial("spiffe://prod/a").await, serial("spiffe://prod/b").await);
    }

    #[tokio::test]
    async fn a_certificate_that_nothing_fits_is_no_credential() {
        let stranger = Some("spiffe://test/ci-1");
        assert_eq!(who(&Auth::new(settings(true)), stranger, None).await.err(), Some(401));
        let caller = who(&Auth::new(settings(false)), stranger, None).await.expect("anonymous");
        assert_eq!((caller.means, &*caller.roles), (Means::Anonymous, &["guest".to_owned()][..]));
        let caller = who(&Auth::new(settings(true)), stranger, Some("key")).await.expect("its key is good");
        assert_eq!((caller.user.as_str(), caller.means), ("kim", Means::ApiKey));
    }

    #[tokio::test]
    async fn a_key_beside_a_certificate_decides() {
        let auth = Auth::new(settings(true));
        let certificate = Some("spiffe://prod/ci-7");
        let caller = who(&auth, certificate, Some("key")).await.expect("the key");
        assert_eq!((caller.user.as_str(), caller.means), ("kim", Means::ApiKey));
        assert_eq!(who(&auth, certificate, Some("wrong")).await.err(), Some(401), "and not the certificate");
    }

    #[tokio::test]
    async fn what_all_must_carry_a_certificate_must_too() {
        let auth = Auth::new(Settings { required_scopes: vec!["admin".into()], ..settings(true) });
        assert_eq!(who(&auth, Some("spiffe://prod/ci-7"), None).await.err(), Some(403));
    }
}
