//! Client certificates and the users of their names.
//!
//! The TLS handshake has verified the certificate; here its name is only looked up. A certificate without a
//! matching entry counts as none.

use globset::GlobMatcher;
use moka::sync::Cache;

use super::claims;
use crate::request::{AuthMethod, Caller, ClientCertificate, Identity};

/// Most principals that are remembered.
const CAPACITY: u64 = 10_000;

/// The accepted certificates and their users.
#[derive(Clone, Debug)]
pub struct ClientCertMapping {
    /// Over the principal.
    pub subject: GlobMatcher,
    /// By default the principal itself.
    pub user: Option<String>,
    pub roles: Vec<String>,
    pub tenant: Option<String>,
    pub scopes: Vec<String>,
}

/// The mappings in their order of matching, and a cache of principals.
pub(super) struct ClientCertMappings {
    list: Vec<(ClientCertMapping, Option<Caller>)>,
    found: Cache<String, Option<Caller>>,
}

impl ClientCertMappings {
    pub fn new(mappings: Vec<ClientCertMapping>) -> Self {
        let list = mappings.into_iter().map(|mapping| {
            // One user is one caller, with any of its certificates.
            let caller = mapping.user.as_deref().map(|user| mapping.caller(user));
            (mapping, caller)
        });
        Self { list: list.collect(), found: Cache::new(CAPACITY) }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The user of the first matching entry.
    pub fn find(&self, certificate: &ClientCertificate) -> Option<Caller> {
        if self.is_empty() {
            return None;
        }
        let principal = certificate.principal.as_str();
        if let Some(found) = self.found.get(principal) {
            return found;
        }
        // Single flight: two callers at the same moment would be two identities.
        self.found.get_with_by_ref(principal, || {
            let (mapping, caller) =
                self.list.iter().find(|(mapping, _)| mapping.subject.is_match(principal))?;
            Some(caller.clone().unwrap_or_else(|| mapping.caller(principal)))
        })
    }
}

impl ClientCertMapping {
    fn caller(&self, user: &str) -> Caller {
        Caller::new(Identity {
            user: user.to_owned(),
            tenant: self.tenant.clone(),
            roles: claims::sorted_unique(self.roles.clone()),
            scopes: claims::sorted_unique(self.scopes.clone()),
            auth_method: AuthMethod::Certificate,
            issuer: None,
            api_key_id: None,
            claims: serde_json::Map::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;
    use http::{HeaderMap, Method};

    use super::*;
    use crate::auth::{ApiKey, Auth, AuthSettings};
    use crate::request::RequestHead;

    fn mapping(subject: &str, user: Option<&str>, role: &str) -> ClientCertMapping {
        ClientCertMapping {
            subject: GlobBuilder::new(subject).build().expect(subject).compile_matcher(),
            user: user.map(str::to_owned),
            roles: vec![role.into(), role.into()],
            tenant: Some("acme".into()),
            scopes: vec!["mcp".into()],
        }
    }

    fn settings(required: bool) -> AuthSettings {
        use sha2::Digest as _;
        AuthSettings {
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
                mapping("spiffe://prod/ci-*", Some("ci-bot"), "robot"),
                mapping("spiffe://prod/*", None, "service"),
            ],
            metadata: None,
        }
    }

    async fn who(auth: &Auth, principal: Option<&str>, key: Option<&'static str>) -> Result<Caller, u16> {
        let certificate = principal.map(|principal| ClientCertificate { principal: principal.into() });
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert("x-api-key", http::HeaderValue::from_static(key));
        }
        let head = RequestHead {
            http_method: &Method::POST,
            path: "/mcp",
            headers: &headers,
            authority: None,
            peer: None,
            certificate: certificate.as_ref(),
            is_network: true,
        };
        auth.identify(&head).await.map_err(|rejection| rejection.status)
    }

    #[tokio::test]
    async fn the_first_matching_subject_decides_the_user() {
        let auth = Auth::new(settings(true));
        let caller = who(&auth, Some("spiffe://prod/ci-7"), None).await.expect("the first");
        assert_eq!((caller.user.as_str(), caller.auth_method), ("ci-bot", AuthMethod::Certificate));
        assert_eq!((&*caller.roles, caller.tenant.as_deref()), (&["robot".to_owned()][..], Some("acme")));
        let other = who(&auth, Some("spiffe://prod/web"), None).await.expect("the second");
        assert_eq!((other.user.as_str(), &*other.roles), ("spiffe://prod/web", &["service".to_owned()][..]));
    }

    #[tokio::test]
    async fn one_user_is_one_identity() {
        let auth = Auth::new(settings(true));
        let serial = async |principal| who(&auth, Some(principal), None).await.expect("known").id();
        assert_eq!(serial("spiffe://prod/ci-1").await, serial("spiffe://prod/ci-2").await);
        assert_eq!(serial("spiffe://prod/a").await, serial("spiffe://prod/a").await);
        assert_ne!(serial("spiffe://prod/a").await, serial("spiffe://prod/b").await);
    }

    #[tokio::test]
    async fn a_certificate_that_nothing_fits_is_no_credential() {
        let unknown = Some("spiffe://test/ci-1");
        assert_eq!(who(&Auth::new(settings(true)), unknown, None).await.err(), Some(401));
        let caller = who(&Auth::new(settings(false)), unknown, None).await.expect("anonymous");
        assert_eq!((caller.auth_method, &*caller.roles), (AuthMethod::Anonymous, &["guest".to_owned()][..]));
        let caller = who(&Auth::new(settings(true)), unknown, Some("key")).await.expect("its key is good");
        assert_eq!((caller.user.as_str(), caller.auth_method), ("kim", AuthMethod::ApiKey));
    }

    #[tokio::test]
    async fn a_key_beside_a_certificate_decides() {
        let auth = Auth::new(settings(true));
        let certificate = Some("spiffe://prod/ci-7");
        let caller = who(&auth, certificate, Some("key")).await.expect("the key");
        assert_eq!((caller.user.as_str(), caller.auth_method), ("kim", AuthMethod::ApiKey));
        assert_eq!(who(&auth, certificate, Some("wrong")).await.err(), Some(401), "and not the certificate");
    }

    #[tokio::test]
    async fn what_all_must_carry_a_certificate_must_too() {
        let auth = Auth::new(AuthSettings { required_scopes: vec!["admin".into()], ..settings(true) });
        assert_eq!(who(&auth, Some("spiffe://prod/ci-7"), None).await.err(), Some(403));
    }
}
