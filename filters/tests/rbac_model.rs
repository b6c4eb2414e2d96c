//! RBAC against a model as simple as its description: no cache, no conjuncts, no optimized order.

use std::sync::LazyLock;

use filters::cel::Condition;
use filters::rbac::{AccessQuery, Decision, Effect, PatternLists, Rbac, RbacSettings, Role, Rule};
use filters::{CallTarget, Caller, Identity, TargetKind};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tri {
    True,
    False,
    Error,
}

use Tri::{Error, False, True};

fn tri(b: bool) -> Tri {
    if b { True } else { False }
}

fn and(a: Tri, b: Tri) -> Tri {
    match (a, b) {
        (False, _) | (_, False) => False,
        (Error, _) | (_, Error) => Error,
        _ => True,
    }
}

/// The values that the conditions below read.
#[derive(Clone, Debug)]
struct Call {
    roles: Vec<usize>,
    level: Option<i64>,
    thing: TargetKind,
    name: String,
    server: String,
    method: &'static str,
    /// Without: not an object.
    args: Option<Args>,
    ip: bool,
}

#[derive(Clone, Debug)]
struct Args {
    env: Option<bool>,
    n: Option<i64>,
}

impl Call {
    fn tool(&self) -> &str {
        if self.thing == TargetKind::Tool { &self.name } else { "" }
    }

    fn prod(&self) -> Tri {
        self.args.as_ref().and_then(|a| a.env).map_or(Error, tri)
    }

    fn n(&self, n: i64) -> Tri {
        self.args.as_ref().and_then(|a| a.n).map_or(Error, |m| tri(m == n))
    }

    fn level(&self) -> Tri {
        self.level.map_or(Error, |level| tri(level > 2))
    }
}

/// A condition, and its evaluation by the model: the fixed part, and the other part if any.
type Meaning = (&'static str, fn(&Call) -> Tri, Option<fn(&Call) -> Tri>);

const CONDITIONS: &[Meaning] = &[
    ("call.tool.startsWith(\"a__\")", |c| tri(c.tool().starts_with("a__")), None),
    ("\"r1\" in caller.roles", |c| tri(c.roles.contains(&1)), None),
    ("call.args.env == \"prod\"", |_| True, Some(Call::prod)),
    ("call.tool == \"a__x\" && call.args.env == \"prod\"", |c| tri(c.tool() == "a__x"), Some(Call::prod)),
    ("call.args.env == \"prod\" && call.args.n == 1", |_| True, Some(|c| and(c.prod(), c.n(1)))),
    ("has(call.args.env)", |_| True, Some(|c| c.args.as_ref().map_or(Error, |a| tri(a.env.is_some())))),
    ("caller.claims.level > 2", Call::level, None),
    ("caller.claims.level > 2 && call.args.n == 1", Call::level, Some(|c| c.n(1))),
    (
        "call.args.n + 1 == 2 && caller.claims.level > 2 && call.tool != \"\"",
        |c| and(c.level(), tri(!c.tool().is_empty())),
        Some(|c| c.n(1)),
    ),
    ("caller.ip == \"10.0.0.1\"", |_| True, Some(|c| tri(c.ip))),
    ("call.method == \"completion/complete\"", |c| tri(c.method == "completion/complete"), None),
    (
        "server.name == \"b\" || call.args.n == 1",
        |_| True,
        Some(|c| {
            if c.args.is_none() {
                Error
            } else if c.server == "b" {
                True
            } else {
                c.n(1)
            }
        }),
    ),
    ("call.args.n == 1 && false", |_| False, Some(|c| c.n(1))),
    ("true", |_| True, None),
    (
        "caller.claims.level > 2 || call.tool == \"a__x\"",
        |c| match (c.level(), c.tool() == "a__x") {
            (True, _) | (_, true) => True,
            (level, _) => level,
        },
        None,
    ),
    (
        "server.name == \"a\" && !(\"r0\" in caller.roles)",
        |c| tri(c.server == "a" && !c.roles.contains(&0)),
        None,
    ),
];

static COMPILED: LazyLock<Vec<Condition>> = LazyLock::new(|| {
    CONDITIONS.iter().map(|(text, ..)| Condition::compile(text).expect("a valid condition")).collect()
});

const GLOBS: &[&str] = &["*", "a__*", "*__x", "b__y", "?__x", "a", "?", "tools/*", "prompts/get", "a__x"];

/// `*` and `?`, by trying everything.
fn fits(glob: &[u8], name: &[u8]) -> bool {
    match (glob.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => fits(&glob[1..], name) || !name.is_empty() && fits(glob, &name[1..]),
        (Some(b'?'), Some(_)) => fits(&glob[1..], &name[1..]),
        (Some(a), Some(b)) => a == b && fits(&glob[1..], &name[1..]),
        _ => false,
    }
}

fn one_fits(globs: &[String], name: &str) -> bool {
    globs.iter().any(|glob| fits(glob.as_bytes(), name.as_bytes()))
}

#[derive(Clone, Debug)]
struct Policy {
    default: Effect,
    roles: Vec<Role>,
    rules: Vec<(usize, Effect)>,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Allowed,
    Hidden,
    Refused,
    Barred,
}

impl Policy {
    fn settings(&self) -> RbacSettings {
        let rules = self.rules.iter().map(|(condition, effect)| Rule {
            name: String::new(),
            when: COMPILED[*condition].clone(),
            effect: *effect,
            message: None,
        });
        RbacSettings {
            default: self.default,
            roles: self.roles.clone(),
            rules: rules.collect(),
            scopes: vec![],
        }
    }

    fn line(&self, index: usize, line: &mut Vec<usize>) {
        line.push(index);
        for parent in &self.roles[index].inherits {
            self.line(parent[1..].parse().expect("r and a number"), line);
        }
    }

    fn roles(&self, call: &Call) -> Vec<&Role> {
        let mut line = Vec::new();
        call.roles.iter().filter(|r| **r < self.roles.len()).for_each(|r| self.line(*r, &mut line));
        line.into_iter().map(|index| &self.roles[index]).collect()
    }

    fn barred(&self, call: &Call) -> bool {
        let roles = self.roles(call);
        let lists: Vec<_> = roles.iter().map(|r| &r.allow.methods).filter(|m| !m.is_empty()).collect();
        roles.iter().any(|r| one_fits(&r.deny.methods, call.method))
            || !lists.is_empty() && !lists.iter().any(|m| one_fits(m, call.method))
    }

    fn by_roles(&self, call: &Call) -> bool {
        let speaks = |lists: &PatternLists| {
            let things = match call.thing {
                TargetKind::Tool => &lists.tools,
                TargetKind::Prompt => &lists.prompts,
                _ => &lists.resources,
            };
            one_fits(things, &call.name) || one_fits(&lists.servers, &call.server)
        };
        let roles = self.roles(call);
        let denied = roles.iter().any(|r| speaks(&r.deny));
        let allowed = roles.iter().any(|r| speaks(&r.allow)) || self.default == Effect::Allow;
        !denied && allowed
    }

    /// Whether a call passes if the conditions have these results.
    fn passes(&self, call: &Call, said: impl Fn(usize) -> Tri) -> bool {
        for (index, (_, effect)) in self.rules.iter().enumerate() {
            match (said(index), effect) {
                (True, effect) => return *effect == Effect::Allow,
                (Error, Effect::Deny) => return false,
                _ => {}
            }
        }
        self.by_roles(call)
    }

    /// Whether any arguments from any address could pass, as far as conditions are independent of each other.
    fn seen(&self, call: &Call) -> bool {
        let first = if call.thing == TargetKind::Tool { "tools/call" } else { "prompts/get" };
        let call = Call { method: first, ..call.clone() };
        let worlds = 3usize.pow(self.rules.len() as u32);
        (0..worlds).any(|world| {
            self.passes(&call, |index| {
                let (_, fixed, open) = CONDITIONS[self.rules[index].0];
                let luck = [True, False, Error][world / 3usize.pow(index as u32) % 3];
                if open.is_some() { and(fixed(&call), luck) } else { fixed(&call) }
            })
        })
    }

    fn decide(&self, call: &Call) -> Verdict {
        if self.barred(call) {
            return Verdict::Barred;
        }
        if !self.seen(call) {
            return Verdict::Hidden;
        }
        let said = |index: usize| {
            let (_, fixed, open) = CONDITIONS[self.rules[index].0];
            open.map_or(fixed(call), |open| and(fixed(call), open(call)))
        };
        if self.passes(call, said) { Verdict::Allowed } else { Verdict::Refused }
    }
}

fn globs(max: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(GLOBS).prop_map(str::to_owned), 0..=max)
}

fn lists() -> impl Strategy<Value = PatternLists> {
    let methods = prop_oneof![4 => Just(vec![]), 1 => globs(2)];
    (globs(2), globs(1), methods, globs(1)).prop_map(|(tools, prompts, methods, servers)| PatternLists {
        tools,
        prompts,
        resources: vec![],
        methods,
        servers,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let effect = || prop_oneof![Just(Effect::Allow), Just(Effect::Deny)];
    let roles = prop::collection::vec((lists(), lists(), prop::bool::weighted(0.6), 0..16u8), 0..4);
    let rules = prop::collection::vec((0..CONDITIONS.len(), effect()), 0..4);
    (effect(), roles, rules).prop_map(|(default, roles, rules)| {
        let roles = roles.into_iter().enumerate().map(|(index, (allow, deny, gentle, bits))| Role {
            name: format!("r{index}"),
            // Only earlier ones, so there are no rings.
            inherits: (0..index).filter(|i| bits & 1 << i != 0).map(|i| format!("r{i}")).collect(),
            allow,
            deny: if gentle { PatternLists::default() } else { deny },
            admin: false,
        });
        Policy { default, roles: roles.collect(), rules }
    })
}

fn call() -> impl Strategy<Value = Call> {
    let args =
        (prop::option::of(any::<bool>()), prop::option::of(0..3i64)).prop_map(|(env, n)| Args { env, n });
    let server = prop::sample::select(vec!["a", "b"]);
    let name = prop::sample::select(vec!["x", "y"]);
    let roles = prop::collection::btree_set(0..5usize, 0..3);
    let level = prop::option::of(1..5i64);
    (
        roles,
        level,
        any::<bool>(),
        server,
        name,
        any::<bool>(),
        prop::option::weighted(0.9, args),
        any::<bool>(),
    )
        .prop_map(|(roles, level, tool, server, name, usual, args, ip)| Call {
            roles: roles.into_iter().collect(),
            level,
            thing: if tool { TargetKind::Tool } else { TargetKind::Prompt },
            name: format!("{server}__{name}"),
            server: server.into(),
            method: match (tool, usual) {
                (true, _) => "tools/call",
                (false, true) => "prompts/get",
                (false, false) => "completion/complete",
            },
            args,
            ip,
        })
}

fn caller(call: &Call) -> Caller {
    let level = call.level.map(|level| ("level".to_owned(), level.into()));
    Caller::new(Identity {
        roles: call.roles.iter().map(|r| format!("r{r}")).collect(),
        claims: level.into_iter().collect(),
        ..Identity::default()
    })
}

fn arguments(args: &Option<Args>) -> String {
    let Some(args) = args else { return "[]".into() };
    let env = args.env.map(|prod| format!(r#""env":"{}""#, if prod { "prod" } else { "dev" }));
    let n = args.n.map(|n| format!(r#""n":{n}"#));
    format!("{{{}}}", env.into_iter().chain(n).collect::<Vec<_>>().join(","))
}

fn decide(rbac: &Rbac, caller: &Caller, call: &Call) -> Verdict {
    let target = CallTarget { kind: call.thing, name: &call.name, server: &call.server };
    let arguments = arguments(&call.args);
    let ip = if call.ip { "10.0.0.1" } else { "10.0.0.2" };
    let query = AccessQuery {
        method: call.method,
        target: Some(target),
        arguments: Some(arguments.as_bytes()),
        ip: Some(ip.parse().expect("an address")),
    };
    match rbac.decide(caller, &query) {
        Decision::Allowed(_) => Verdict::Allowed,
        Decision::NotFound(_) => Verdict::Hidden,
        Decision::Denied(..) => Verdict::Refused,
        Decision::MethodDenied(_) => Verdict::Barred,
        Decision::MissingScopes(_) => panic!("no scopes are asked for"),
        Decision::Ambiguous(error) => panic!("{error}: no name here is"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_policy_judges_as_the_model_does(
        policy in policy(),
        calls in prop::collection::vec(call(), 1..8),
    ) {
        let rbac = Rbac::new(policy.settings()).expect("a valid policy");
        for call in &calls {
            let caller = caller(call);
            // Twice: the second time it is remembered.
            for _ in 0..2 {
                prop_assert_eq!(decide(&rbac, &caller, call), policy.decide(call), "{:?}", call);
            }
            // The same caller with other arguments, from the cache.
            for other in &calls {
                let call = Call { args: other.args.clone(), ip: other.ip, ..call.clone() };
                prop_assert_eq!(decide(&rbac, &caller, &call), policy.decide(&call), "{:?}", call);
            }
        }
    }

    #[test]
    fn what_is_denied_appears_in_no_list_and_what_is_in_no_list_is_denied(
        policy in policy(),
        call in call(),
        worlds in prop::collection::vec((call(), any::<bool>()), 4),
    ) {
        let rbac = Rbac::new(policy.settings()).expect("a valid policy");
        let caller = caller(&call);
        let sees = rbac.can_see(&caller, &CallTarget { kind: call.thing, name: &call.name, server: &call.server });
        for (other, usual) in worlds {
            let method = if call.thing == TargetKind::Prompt && !usual { "completion/complete" } else { call.method };
            let call = Call { args: other.args, ip: other.ip, method, ..call.clone() };
            match decide(&rbac, &caller, &call) {
                Verdict::Allowed | Verdict::Refused => prop_assert!(sees),
                Verdict::Hidden => prop_assert!(!sees),
                Verdict::Barred => {}
            }
        }
        if sees {
            prop_assert!(rbac.can_see_server(&caller, &call.server), "a tool of a server that is hidden");
        }
    }

    #[test]
    fn callers_of_one_class_see_the_same(policy in policy(), one in call(), two in call()) {
        let rbac = Rbac::new(policy.settings()).expect("a valid policy");
        let (a, b) = (caller(&one), caller(&two));
        if rbac.visibility_class(&a) == rbac.visibility_class(&b) {
            for name in ["a__x", "a__y", "b__x", "b__y"] {
                let target = CallTarget { kind: one.thing, name, server: &name[..1] };
                prop_assert_eq!(rbac.can_see(&a, &target), rbac.can_see(&b, &target));
            }
        }
    }
}
