//! The cost of all filters for an accepted call: its head, its body and the whole request. The caller's token
//! is cached.

use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use criterion::{Criterion, criterion_group, criterion_main};
use filters::auth::{Algorithm, ApiKey, Auth, AuthSettings, ClaimPaths, Issuer, KeySet, StaticKeys};
use filters::cel::Condition;
use filters::header_match::HeaderMatch;
use filters::origin::Origin;
use filters::rate_limit::{Budget, Counters, Globs, KeyPart, Match, OnFailure, Rate};
use filters::rbac::{self, Effect, PatternLists, Rbac, Role};
use filters::size_limits::Size;
use filters::{CallTarget, Chain, Permit, RequestHead, TargetKind};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use sha2::{Digest as _, Sha256};

const ISSUERS: [&str; 2] = ["https://id.example.com/realms/main", "https://ci.example.com"];
const AUDIENCE: &str = "https://gateway.example.com/mcp";
const TOOL: &str = "s7__get_rows";

fn auth() -> Auth {
    let issuer = |issuer: &str| Issuer {
        issuer: issuer.into(),
        audiences: vec![AUDIENCE.into()],
        algorithms: Algorithm::ASYMMETRIC.to_vec(),
        leeway: Duration::from_secs(30),
        claims: ClaimPaths {
            roles: "realm_access.roles".into(),
            tenant: Some("org".into()),
            ..ClaimPaths::default()
        },
        keys: Arc::new(StaticKeys::new(
            KeySet::from_pem(include_str!("../tests/keys/rsa-public.pem")).expect("a fixture"),
        )),
    };
    let key = |n: u32| ApiKey {
        id: format!("key-{n}"),
        sha256: Sha256::digest(format!("tg_secret-of-key-{n}")).into(),
        user: format!("user-{n}"),
        roles: vec![],
        tenant: None,
        scopes: vec!["mcp".into()],
    };
    Auth::new(AuthSettings {
        certificates: Vec::new(),
        required: true,
        anonymous_roles: vec![],
        required_scopes: vec!["mcp".into()],
        issuers: ISSUERS.map(issuer).into(),
        api_keys: (0..20).map(key).collect(),
        metadata: None,
    })
}

/// About 700 bytes with RS256, as issuers make them.
fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = json!({"iss": ISSUERS[0], "aud": AUDIENCE, "sub": "5f7c8ec7-23ac-4b1e-8f4c-2d1b0f9f1a33",
        "exp": now + 86400, "scope": "mcp", "org": "acme", "level": 5,
        "realm_access": {"roles": ["role5", "role6", "role7", "role8", "role9"]}});
    let key = EncodingKey::from_rsa_pem(include_bytes!("../tests/keys/rsa.pem")).expect("a fixture");
    encode(&Header::new(jsonwebtoken::Algorithm::RS256), &claims, &key).expect("a token")
}

fn rate() -> Rate {
    use KeyPart::{Tenant, Tool, User};
    let rule = |name: &str, key: &[KeyPart], tools: &[&str]| {
        let tools = Globs::new(tools).expect("valid patterns");
        let matches = Match { tools, ..Match::default() };
        let budget = Budget::Rate { count: 1_000_000_000, per: Duration::from_secs(1), burst: 1_000_000_000 };
        filters::rate_limit::RateRule { name: name.into(), key: key.into(), matches, budget }
    };
    let rules = vec![
        rule("per-user", &[User], &[]),
        rule("per-user-tool", &[User, Tool], &["s7__*", "web__*"]),
        rule("per-tenant", &[Tenant], &[]),
    ];
    Rate::new(rules, Arc::new(Counters::default()), None, OnFailure::Local)
}

/// 50 roles with 200 patterns and 10 rules. With `reads`, one of them reads the arguments of this tool.
fn rbac(reads: bool) -> Rbac {
    let roles = (0..50).map(|n| Role {
        name: format!("role{n}"),
        allow: PatternLists {
            tools: vec![format!("s{n}__get_*"), format!("s{n}__*_list"), format!("*__common{n}_*")],
            ..PatternLists::default()
        },
        deny: PatternLists { tools: vec![format!("s{n}__get_secret*")], ..PatternLists::default() },
        ..Role::default()
    });
    let rules = (0..10).map(|n| {
        let text = match n % 3 {
            _ if reads && n == 4 => {
                "call.tool.startsWith(\"s7__\") && call.args.env == \"prod\" && !(\"sre\" in caller.roles)"
                    .into()
            }
            0 => format!("call.tool.startsWith(\"db{n}__\") && !(\"role{n}\" in caller.roles)"),
            1 => format!("caller.tenant == \"t{n}\" && call.method == \"tools/call\""),
            _ => format!("call.tool.matches(\"^x{n}__[a-z]+$\") && caller.claims.level < 3"),
        };
        let when = Condition::compile(&text).expect("a valid condition");
        rbac::Rule { name: text, when, effect: Effect::Deny, message: Some("no".into()) }
    });
    let settings = rbac::RbacSettings {
        default: Effect::Deny,
        roles: roles.collect(),
        rules: rules.collect(),
        scopes: vec![],
    };
    Rbac::new(settings).expect("a valid policy")
}

fn chain(auth: Auth, rate: Rate, rbac: Rbac) -> Chain {
    Chain {
        origin: Origin::new(None, Some(vec!["gateway.example.com".into()])),
        size: Size { max_body: 4 << 20, max_header: 64 << 10, max_depth: 64 },
        auth,
        header_match: HeaderMatch,
        rate,
        rbac,
    }
}

/// A modern call, 300 bytes long.
fn body() -> Vec<u8> {
    let text = |more: &str| {
        json!({"jsonrpc": "2.0", "id": 4711, "method": "tools/call", "params": {"name": TOOL,
            "arguments": {"env": "dev", "table": "users", "limit": 100, "columns": ["id", more]},
            "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {}}}})
        .to_string()
    };
    let body = text(&"n".repeat(300 - text("").len()));
    assert_eq!(body.len(), 300);
    body.into()
}

fn headers(token: &str, body: &[u8]) -> HeaderMap {
    let value = |text: &str| HeaderValue::from_str(text).expect("ASCII");
    let pairs = [
        ("host", "gateway.example.com"),
        ("user-agent", "python-httpx/0.28.1"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "gzip, deflate"),
        ("content-type", "application/json"),
        ("content-length", &body.len().to_string()),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", TOOL),
        ("authorization", &format!("Bearer {token}")),
    ];
    pairs.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect()
}

/// A future that waits for nothing is ready at the first poll: no runtime is measured.
fn ready<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("nothing to wait for"),
    }
}

fn head(headers: &HeaderMap) -> RequestHead<'_> {
    RequestHead {
        certificate: None,
        http_method: &Method::POST,
        path: "/mcp",
        headers,
        authority: None,
        peer: "203.0.113.9".parse().ok(),
        is_network: true,
    }
}

fn passes(chain: &Chain, headers: &HeaderMap, body: &[u8]) -> Permit {
    let caller = ready(chain.on_head(&head(headers))).expect("a good head");
    let mut call = chain.read(head(headers), caller, body).expect("a valid message");
    // The dispatcher looks this up in its catalog.
    call.target = Some(CallTarget { kind: TargetKind::Tool, name: TOOL, server: "s7" });
    ready(chain.on_request(call)).expect("it is allowed")
}

fn chains(c: &mut Criterion) {
    let (token, body) = (token(), body());
    let headers = headers(&token, &body);
    let open = chain(Auth::open(), Rate::none(), Rbac::open());
    let plain = chain(auth(), rate(), rbac(false));
    let reading = chain(auth(), rate(), rbac(true));
    let mut group = c.benchmark_group("chain");
    for (name, chain) in
        [("all off", &open), ("all on", &plain), ("all on, a rule reads arguments", &reading)]
    {
        group.bench_function(name, |b| b.iter(|| passes(black_box(chain), &headers, black_box(&body))));
    }
    // The cost of each part.
    group.bench_function("all on: greet", |b| b.iter(|| ready(black_box(&plain).on_head(&head(&headers)))));
    let caller = ready(plain.on_head(&head(&headers))).expect("a good head");
    group.bench_function("all on: read", |b| {
        b.iter(|| plain.read(head(&headers), caller.clone(), black_box(&body)).is_ok());
    });
    group.finish();
    println!("a token of {} bytes, a body of {}", token.len(), body.len());
}

criterion_group!(benches, chains);
criterion_main!(benches);
