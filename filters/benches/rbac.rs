//! The cost of a decision: 50 roles with 200 patterns, 10 rules.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use filters::cel::Condition;
use filters::rbac::{AccessQuery, Decision, Effect, PatternLists, Rbac, RbacSettings, Role, Rule};
use filters::{AuthMethod, CallTarget, Caller, Identity, TargetKind};

/// With `reads`, one of the rules reads arguments.
fn policy(reads: bool) -> Rbac {
    let roles = (0..50).map(|n| Role {
        name: format!("role{n}"),
        allow: PatternLists {
            tools: vec![format!("s{n}__get_*"), format!("s{n}__*_list"), format!("*__common{n}_*")],
            ..PatternLists::default()
        },
        deny: PatternLists { tools: vec![format!("s{n}__get_secret*")], ..PatternLists::default() },
        ..Role::default()
    });
    let mut texts: Vec<String> = (0..10)
        .map(|n| match n % 3 {
            0 => format!("call.tool.startsWith(\"db{n}__\") && !(\"role{n}\" in caller.roles)"),
            1 => format!("caller.tenant == \"t{n}\" && call.method == \"tools/call\""),
            _ => format!("call.tool.matches(\"^x{n}__[a-z]+$\") && caller.claims.level < 3"),
        })
        .collect();
    if reads {
        texts[4] =
            "call.tool.startsWith(\"s7__\") && call.args.env == \"prod\" && !(\"sre\" in caller.roles)"
                .into();
    }
    let rules = texts.iter().map(|text| Rule {
        name: text.clone(),
        when: Condition::compile(text).expect("a valid condition"),
        effect: Effect::Deny,
        message: Some("no".into()),
    });
    let settings = RbacSettings {
        default: Effect::Deny,
        roles: roles.collect(),
        rules: rules.collect(),
        scopes: vec![],
    };
    Rbac::new(settings).expect("a valid policy")
}

fn caller(roles: usize) -> Caller {
    let claims = serde_json::json!({"level": 5, "dept": "ops", "groups": ["a", "b", "c"]});
    let mut roles: Vec<String> = (0..roles).map(|n| format!("role{}", n + 5)).collect();
    roles.sort();
    Caller::new(Identity {
        user: "ann".into(),
        tenant: Some("acme".into()),
        roles,
        auth_method: AuthMethod::Jwt,
        claims: claims.as_object().expect("an object").clone(),
        ..Identity::default()
    })
}

fn query<'a>(name: &'a str, arguments: &'a [u8]) -> AccessQuery<'a> {
    AccessQuery {
        method: "tools/call",
        target: Some(CallTarget { kind: TargetKind::Tool, name, server: "s7" }),
        arguments: Some(arguments),
        ip: "10.0.0.1".parse().ok(),
    }
}

fn decide(c: &mut Criterion) {
    let arguments = br#"{"env":"dev","table":"users","limit":100,"columns":["id","name"],"where":{"id":17}}"#;
    let (plain, reading) = (policy(false), policy(true));
    let caller = caller(5);
    let query = query("s7__get_rows", arguments);
    let allowed = |rbac: &Rbac| assert!(matches!(rbac.decide(&caller, &query), Decision::Allowed(_)));
    allowed(&plain);
    allowed(&reading);
    c.bench_function("judge/remembered", |b| b.iter(|| plain.decide(black_box(&caller), black_box(&query))));
    c.bench_function("judge/reads_arguments", |b| {
        b.iter(|| reading.decide(black_box(&caller), black_box(&query)));
    });
    let big = format!(r#"{{"env":"dev","text":"{}"}}"#, "lorem ipsum ".repeat(340));
    let big = self::query("s7__get_rows", big.as_bytes());
    c.bench_function("judge/reads_arguments_4k", |b| {
        b.iter(|| reading.decide(black_box(&caller), black_box(&big)));
    });
    let mut n = 0u64;
    c.bench_function("judge/first_time", |b| {
        b.iter(|| {
            n += 1;
            let name = format!("s7__get_rows{n}");
            plain.decide(black_box(&caller), &self::query(&name, arguments))
        });
    });
}

fn lists(c: &mut Criterion) {
    let names: Vec<String> = (0..1000).map(|n| format!("s{}__get_{n}", n % 50)).collect();
    let rbac = policy(true);
    let see = |caller: &Caller| {
        let seen =
            |name: &&String| rbac.can_see(caller, &CallTarget { kind: TargetKind::Tool, name, server: "s" });
        names.iter().filter(seen).count()
    };
    let known = caller(5);
    c.bench_function("sees/1000_tools_remembered", |b| b.iter(|| see(black_box(&known))));
    c.bench_function("sees/1000_tools_of_a_new_caller", |b| b.iter(|| see(&caller(5))));
    c.bench_function("class", |b| b.iter(|| rbac.visibility_class(black_box(&known))));
}

fn compile(c: &mut Criterion) {
    let text = "call.tool.startsWith(\"db__\") && call.args.env == \"prod\" && !(\"sre\" in caller.roles)";
    c.bench_function("compile", |b| b.iter(|| Condition::compile(black_box(text)).expect("valid")));
}

criterion_group!(benches, decide, lists, compile);
criterion_main!(benches);
