//! The cost of limits for an accepted call, on one core and with all cores on one budget.

use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use filters::rate_limit::{Budget, Counters, Globs, KeyPart, Match, OnFailure, Rate, RateRule};
use filters::{AuthMethod, Call, CallTarget, Caller, Identity, RequestHead, TargetKind};
use http::{HeaderMap, Method};
use mcp::Era;
use mcp::jsonrpc::request;

const BODY: &[u8] =
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search__web","arguments":{}}}"#;

fn rule(name: &str, key: &[KeyPart], tools: &[&str], budget: Budget) -> RateRule {
    let tools = Globs::new(tools).expect("valid patterns");
    RateRule { name: name.into(), key: key.into(), matches: Match { tools, ..Match::default() }, budget }
}

fn plenty() -> Budget {
    Budget::Rate { count: 1_000_000_000, per: Duration::from_secs(1), burst: 1_000_000_000 }
}

fn of(rules: Vec<RateRule>) -> Rate {
    Rate::new(rules, Arc::new(Counters::default()), None, OnFailure::Local)
}

fn with_call<T>(user: &str, work: impl FnOnce(&Call<'_>) -> T) -> T {
    let headers = HeaderMap::new();
    let identity = Identity {
        user: user.into(),
        tenant: Some("acme".into()),
        issuer: Some("https://id.example.com/realms/main".into()),
        roles: vec!["dev".into(), "ops".into()],
        auth_method: AuthMethod::Jwt,
        ..Identity::default()
    };
    work(&Call {
        head: RequestHead {
            http_method: &Method::POST,
            path: "/mcp",
            headers: &headers,
            authority: None,
            peer: None,
            certificate: None,
            is_network: true,
        },
        caller: Caller::new(identity),
        body: BODY,
        rpc: Box::new(request::read(BODY, 64).expect("a valid message")),
        client_era: Era::Modern,
        target: Some(CallTarget { kind: TargetKind::Tool, name: "search__web", server: "search" }),
    })
}

fn passes(rate: &Rate, call: &Call<'_>) {
    let decision = std::pin::pin!(rate.on_request(call, None)).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(black_box(decision), Poll::Ready(Ok(_))));
}

fn rates(c: &mut Criterion) {
    use KeyPart::{Tenant, Tool, User};
    let three = || {
        vec![
            rule("per-user", &[User], &[], plenty()),
            rule("per-user-tool", &[User, Tool], &["search__*", "web__*"], plenty()),
            rule("per-tenant", &[Tenant], &[], plenty()),
        ]
    };
    let mut group = c.benchmark_group("rate");
    with_call("alice@example.com", |call| {
        let (one, all, odd) = (
            of(vec![rule("per-user", &[User], &[], plenty())]),
            of(three()),
            of(vec![rule("odd", &[User], &["{search,web}__?eb"], plenty())]),
        );
        let mut kinds = three();
        kinds.push(rule(
            "daily",
            &[User],
            &[],
            Budget::Quota { count: 1 << 32, per: Duration::from_secs(86400) },
        ));
        kinds.push(rule("parallel", &[User], &[], Budget::Concurrent(16)));
        let kinds = of(kinds);
        group.bench_function("none", |b| b.iter(|| passes(&Rate::none(), call)));
        group.bench_function("one rule", |b| b.iter(|| passes(&one, call)));
        group.bench_function("three rules", |b| b.iter(|| passes(&all, call)));
        group.bench_function("three rules, a quota and a slot", |b| b.iter(|| passes(&kinds, call)));
        group.bench_function("an odd pattern", |b| b.iter(|| passes(&odd, call)));
    });
    for (name, users) in [("two threads, two users", ["a", "b"]), ("two threads, one user", ["a", "a"])] {
        let rate = of(three());
        group.bench_function(name, |b| {
            b.iter_custom(|times| {
                let from = Instant::now();
                std::thread::scope(|scope| {
                    for user in users {
                        let rate = &rate;
                        scope.spawn(move || {
                            with_call(user, |call| (0..times).for_each(|_| passes(rate, call)))
                        });
                    }
                });
                from.elapsed()
            })
        });
    }
    group.finish();
}

criterion_group!(benches, rates);
criterion_main!(benches);
