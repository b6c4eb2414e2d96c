//! Headers, API keys, scopes, challenges and the metadata document.

use filters::AuthMethod;
use filters::auth::{Auth, AuthSettings, ClaimPaths};
use serde_json::{Value, json};

use crate::mint::*;

#[tokio::test]
async fn a_caller_is_what_the_claims_say() {
    let mut settings = settings();
    settings.issuers[0].claims = ClaimPaths {
        user: "email".into(),
        roles: "realm_access.roles".into(),
        scopes: "scp".into(),
        tenant: Some("https://x.example/tenant".into()),
    };
    let auth = Auth::new(settings).with_clock(|| NOW);
    let token = valid(json!({"email": "ada@x.example", "realm_access": {"roles": ["b", "a", "b"]},
        "scp": ["files:write", "mcp"], "https://x.example/tenant": 7}));
    let caller = ask(&auth, &token).await.expect("valid");
    assert_eq!(caller.user, "ada@x.example");
    assert_eq!(caller.roles, ["a", "b"]);
    assert_eq!(caller.scopes, ["files:write", "mcp"]);
    assert_eq!(caller.tenant.as_deref(), Some("7"));
    assert_eq!(
        (caller.auth_method, caller.issuer.as_deref(), caller.api_key_id.as_deref()),
        (AuthMethod::Jwt, Some(ALPHA), None)
    );
    assert_eq!(caller.claims["aud"], AUDIENCE);
}

#[tokio::test]
async fn an_api_key_is_known_by_its_hash_in_either_header() {
    let auth = auth();
    for headers in [
        [("authorization", "Bearer tg_key-of-ci")],
        [("authorization", "bEaReR   tg_key-of-ci")],
        [("x-api-key", "tg_key-of-ci")],
    ] {
        let caller = ask_with(&auth, &headers).await.expect("a known key");
        assert_eq!((caller.user.as_str(), caller.api_key_id.as_deref()), ("ci-bot", Some("ci")));
        assert_eq!((caller.auth_method, caller.tenant.as_deref()), (AuthMethod::ApiKey, Some("acme")));
        assert_eq!(
            (&caller.roles[..], &caller.scopes[..]),
            (&["robot".to_owned()][..], &["mcp".to_owned()][..])
        );
    }
    for key in ["tg_key-of-cj", "tg_key-of-c", "TG_KEY-OF-CI", "ci", "tg_key-of-ci="] {
        for headers in [[("x-api-key", key)], [("authorization", &format!("Bearer {key}"))]] {
            let rejection = ask_with(&auth, &headers).await.expect_err(key);
            assert_eq!((rejection.status, rejection.reason.as_str()), (401, "unknown_api_key"), "{key}");
        }
    }
    // A token is no API key.
    let rejection = ask_with(&auth, &[("x-api-key", &valid(json!({})))]).await.expect_err("a token");
    assert_eq!(rejection.reason.as_str(), "unknown_api_key");
}

#[tokio::test]
async fn credentials_stand_once_and_in_one_form() {
    let auth = auth();
    let token = valid(json!({}));
    let bearer = format!("Bearer {token}");
    let twice = format!("{bearer} {token}");
    let listed = format!("{bearer}, {bearer}");
    let tab = format!("Bearer\t{token}");
    let cookie = format!("token={token}");
    let basic = "Basic YWRhOmFkYQ==";
    let long = "x".repeat(16 * 1024 + 1);
    type Headers<'a> = Vec<(&'a str, &'a str)>;
    let table: Vec<(&str, Headers<'_>, u16, &str)> = vec![
        ("nothing", vec![], 401, "no_credentials"),
        ("a cookie", vec![("cookie", &cookie)], 401, "no_credentials"),
        ("a proxy's credentials", vec![("proxy-authorization", &bearer)], 401, "no_credentials"),
        ("Basic", vec![("authorization", basic)], 401, "bad_credentials"),
        ("no scheme", vec![("authorization", &token)], 401, "bad_credentials"),
        ("an empty header", vec![("authorization", "")], 401, "bad_credentials"),
        ("a longer scheme", vec![("authorization", "BearerX abc")], 401, "bad_credentials"),
        ("a tab", vec![("authorization", &tab)], 401, "bad_credentials"),
        ("no token", vec![("authorization", "Bearer")], 400, "bad_credentials"),
        ("no token but a space", vec![("authorization", "Bearer ")], 400, "bad_credentials"),
        ("two tokens", vec![("authorization", &twice)], 400, "bad_credentials"),
        ("a list", vec![("authorization", &listed)], 400, "bad_credentials"),
        ("two headers", vec![("authorization", &bearer), ("authorization", &bearer)], 400, "bad_credentials"),
        (
            "two headers, one Basic",
            vec![("authorization", basic), ("authorization", &bearer)],
            400,
            "bad_credentials",
        ),
        (
            "a header and a key",
            vec![("authorization", &bearer), ("x-api-key", "tg_key-of-ci")],
            400,
            "bad_credentials",
        ),
        (
            "two keys",
            vec![("x-api-key", "tg_key-of-ci"), ("x-api-key", "tg_key-of-ci")],
            400,
            "bad_credentials",
        ),
        ("an empty key", vec![("x-api-key", "")], 400, "bad_credentials"),
        ("a key with a space", vec![("x-api-key", "a b")], 400, "bad_credentials"),
        ("letters that are not ASCII", vec![("authorization", "Bearer tök")], 400, "bad_credentials"),
        ("quotes", vec![("authorization", "Bearer \"abc\"")], 400, "bad_credentials"),
        ("signs that no token has", vec![("authorization", "Bearer a%20b")], 400, "bad_credentials"),
        ("padding alone", vec![("authorization", "Bearer ==")], 400, "bad_credentials"),
        ("a key that is too long", vec![("x-api-key", &long)], 400, "bad_credentials"),
    ];
    for (name, headers, status, reason) in table {
        let rejection = ask_with(&auth, &headers).await.expect_err(name);
        assert_eq!(
            (rejection.status, rejection.code, rejection.reason.as_str()),
            (status, status.into(), reason),
            "{name}"
        );
        let challenge = rejection.challenge.expect(name);
        assert_eq!(challenge.contains(r#"error="invalid_request""#), status == 400, "{name}: {challenge}");
        assert_eq!(challenge.contains("error="), status == 400, "{name}: {challenge}");
    }
}

#[tokio::test]
async fn without_need_for_credentials_only_bad_ones_are_refused() {
    let auth = Auth::new(AuthSettings { required: false, required_scopes: vec!["mcp".into()], ..settings() });
    let caller = ask_with(&auth, &[]).await.expect("anonymous");
    assert_eq!((caller.auth_method, &caller.roles[..]), (AuthMethod::Anonymous, &["guest".to_owned()][..]));
    assert_eq!(caller.id(), auth.anonymous().id());
    for value in ["Basic YWRhOmFkYQ==", "Bearer unknown", "Bearer a.b.c", "Bearer"] {
        assert!(ask_with(&auth, &[("authorization", value)]).await.is_err(), "{value}");
    }
}

#[tokio::test]
async fn without_authentication_credentials_are_ignored() {
    let auth = Auth::open();
    for headers in [&[][..], &[("authorization", "Bearer for-the-server-behind")]] {
        let caller = ask_with(&auth, headers).await.expect("anonymous");
        assert_eq!((caller.auth_method, caller.roles.len()), (AuthMethod::Anonymous, 0));
    }
    assert_eq!(auth.metadata_document("/.well-known/oauth-protected-resource"), None);
}

#[tokio::test]
async fn headers_of_callers_inside_mean_nothing() {
    let mut headers = http::HeaderMap::new();
    let value = format!("Bearer {}", valid(json!({})));
    headers.insert("authorization", value.parse().expect("ASCII"));
    let http_method = http::Method::POST;
    let head = filters::RequestHead {
        http_method: &http_method,
        path: "/mcp",
        headers: &headers,
        authority: None,
        peer: None,
        certificate: None,
        is_network: false,
    };
    assert_eq!(auth().identify(&head).await.expect_err("nobody").reason.as_str(), "no_credentials");
}

#[tokio::test]
async fn scopes_that_every_token_needs_are_asked_for_at_once() {
    let scopes = vec!["mcp".to_owned(), "read".to_owned()];
    let auth = Auth::new(AuthSettings { required_scopes: scopes, ..settings() }).with_clock(|| NOW);
    for (scope, passes) in
        [("mcp read", true), ("read x mcp", true), ("mcp", false), ("mcpread", false), ("", false)]
    {
        for _ in 0..2 {
            let result = ask(&auth, &valid(json!({ "scope": scope }))).await;
            assert_eq!(result.is_ok(), passes, "{scope}");
            let Err(rejection) = result else { continue };
            assert_eq!(
                (rejection.status, rejection.code, rejection.reason.as_str()),
                (403, 403, "insufficient_scope")
            );
            assert_eq!(
                rejection.challenge.as_deref(),
                Some(
                    "Bearer realm=\"mcp\", error=\"insufficient_scope\", \
                     error_description=\"the credentials lack a scope that is needed\", scope=\"mcp read\", \
                     resource_metadata=\"https://gateway.example/.well-known/oauth-protected-resource/mcp\""
                )
            );
        }
    }
    let rejection = ask_with(&auth, &[("x-api-key", "tg_key-of-ci")]).await.expect_err("it lacks one too");
    assert_eq!(rejection.reason.as_str(), "insufficient_scope");
    let rejection = auth.insufficient_scope("/servers/files/mcp", &["files:write", "mcp"]);
    let challenge = rejection.challenge.expect("a challenge");
    assert!(challenge.contains("scope=\"mcp read files:write\""), "{challenge}");
    assert!(challenge.ends_with("oauth-protected-resource/servers/files/mcp\""), "{challenge}");
}

#[tokio::test]
async fn a_challenge_names_the_metadata_and_the_scopes() {
    let metadata = "resource_metadata=\"https://gateway.example/.well-known/oauth-protected-resource/mcp\"";
    let rejection = ask_with(&auth(), &[]).await.expect_err("nothing");
    assert_eq!(rejection.challenge, Some(format!("Bearer realm=\"mcp\", scope=\"mcp\", {metadata}")));
    let rejection = ask(&auth(), &valid(json!({"exp": 0}))).await.expect_err("expired");
    assert_eq!(
        rejection.challenge,
        Some(format!(
            "Bearer realm=\"mcp\", error=\"invalid_token\", error_description=\"the token has expired\", scope=\"mcp\", {metadata}"
        ))
    );
    let bare = Auth::new(AuthSettings { metadata: None, ..settings() });
    let rejection = ask_with(&bare, &[]).await.expect_err("nothing");
    assert_eq!(rejection.challenge.as_deref(), Some("Bearer realm=\"mcp\""));
}

#[test]
fn nothing_of_a_path_that_is_no_endpoint_comes_back() {
    let auth = auth();
    for path in [
        "/",
        "/x\"; drop",
        "/servers/a\"b/mcp",
        "/servers/../mcp",
        "/servers//mcp",
        "/servers/a/b/mcp",
        "/servers/a/b/sse",
        "/servers//messages",
        "/x/messages",
        "/metrics",
    ] {
        let challenge = auth.challenge(path, None, &[]);
        assert!(challenge.ends_with("/.well-known/oauth-protected-resource\""), "{path}: {challenge}");
    }
    let challenge = auth.challenge("/mcp", None, &["a\"b\\c\r\nd".to_owned()]);
    assert!(challenge.contains("scope=\"abcd\""), "{challenge}");
}

#[test]
fn each_endpoint_has_a_document_that_names_its_own_url() {
    let auth = auth();
    for (path, resource) in [
        ("", AUDIENCE),
        ("/", AUDIENCE),
        ("/mcp", AUDIENCE),
        ("/servers/files/mcp", "https://gateway.example/servers/files/mcp"),
        ("/sse", "https://gateway.example/sse"),
        ("/servers/files/sse", "https://gateway.example/servers/files/sse"),
    ] {
        let document = auth.metadata_document(&format!("/.well-known/oauth-protected-resource{path}"));
        let document: Value = serde_json::from_slice(&document.expect(path)).expect("JSON");
        assert_eq!(
            document,
            json!({"resource": resource, "authorization_servers": [ALPHA],
                "bearer_methods_supported": ["header"], "scopes_supported": ["mcp", "offline_access"]}),
            "{path}"
        );
    }
    for path in [
        "/mcp",
        "/.well-known/oauth-protected-resourcex",
        "/.well-known/oauth-protected-resource/x",
        "/.well-known/oauth-protected-resource/servers/a%2f/mcp",
    ] {
        assert_eq!(auth.metadata_document(path), None, "{path}");
    }
}

#[test]
fn both_paths_of_http_sse_lead_to_the_document_of_the_event_stream() {
    let auth = auth();
    for (path, described) in [
        ("/sse", "/sse"),
        ("/messages", "/sse"),
        ("/servers/files/sse", "/servers/files/sse"),
        ("/servers/files/messages", "/servers/files/sse"),
    ] {
        let challenge = auth.challenge(path, None, &[]);
        let end = format!("\"https://gateway.example/.well-known/oauth-protected-resource{described}\"");
        assert!(challenge.ends_with(&end), "{path}: {challenge}");
    }
}

#[test]
fn behind_a_proxy_that_removes_a_path_documents_name_the_public_one() {
    let mut settings = settings();
    settings.metadata.as_mut().expect("metadata").public_url = "https://gateway.example/tools".into();
    let auth = Auth::new(settings);
    let challenge = auth.challenge("/servers/files/mcp", None, &[]);
    let place = "https://gateway.example/tools/.well-known/oauth-protected-resource/servers/files/mcp\"";
    assert!(challenge.ends_with(place), "{challenge}");
    for path in ["/servers/files/mcp", "/tools/servers/files/mcp"] {
        let document = auth.metadata_document(&format!("/.well-known/oauth-protected-resource{path}"));
        let document: Value = serde_json::from_slice(&document.expect(path)).expect("JSON");
        assert_eq!(document["resource"], "https://gateway.example/tools/servers/files/mcp");
    }
    assert_eq!(auth.metadata_document("/.well-known/oauth-protected-resource/toolsx/mcp"), None);
}
