//! The cost limit of a condition, with many elements from callers: claims of a token of 15 KB against
//! arguments of 50 KB. No clock is used: without the limit these take minutes.

use filters::cel::{BUDGET_EXCEEDED, CelContext, Condition, ConditionResult, Fuel, LIST};
use filters::rbac::{Effect, Rbac, RbacSettings, Rule};
use filters::{AuthMethod, CallTarget, Caller, Identity, TargetKind};
use serde_json::json;

const MANY: usize = 9_900;

fn ask(caller: &Caller, text: &str, arguments: &str) -> ConditionResult {
    let condition = Condition::compile(text).unwrap_or_else(|flaw| panic!("{text}: {flaw}"));
    let target = CallTarget { kind: TargetKind::Tool, name: "db__query", server: "db" };
    let context =
        CelContext::new(caller, "tools/call", Some(target)).with_request(Some(arguments.as_bytes()), None);
    condition.evaluate(&context, |_| true)
}

fn caller(many: usize) -> Caller {
    let claims = json!({
        "g": vec![1; many],
        "half": vec![1.5; many],
        "names": (0..many).map(|n| format!("n{n}")).collect::<Vec<_>>(),
        "o": (0..many).map(|n| (format!("k{n}"), json!(n))).collect::<serde_json::Map<_, _>>(),
    });
    Caller::new(Identity {
        user: "ann".into(),
        roles: (0..many).map(|n| format!("r{n}")).collect(),
        auth_method: AuthMethod::Jwt,
        claims: claims.as_object().expect("an object").clone(),
        ..Identity::default()
    })
}

fn arguments(many: usize, text: usize) -> String {
    let half = many / 4;
    json!({
        "a": vec![2; half],
        "rows": vec![["x"]; half],
        "o": (0..half).map(|n| (format!("q{n}"), json!(0))).collect::<serde_json::Map<_, _>>(),
        "text": "a".repeat(text),
    })
    .to_string()
}

#[test]
fn values_chosen_by_callers_on_both_sides_hit_the_limit() {
    let (caller, arguments) = (caller(MANY), arguments(MANY, 3 << 20));
    for text in [
        "caller.claims.g.exists(x, call.args.a.exists(y, y == x))",
        "caller.claims.g.all(x, !call.args.a.exists_one(y, y == x))",
        "caller.claims.g.exists(x, call.args.a.map(y, y + 1).size() == 0)",
        "caller.claims.g.exists(x, call.args.a.filter(y, y > 2).size() == 1)",
        "caller.claims.g.map(x, call.args.a.filter(y, y == x)).size() == 0",
        "caller.claims.g.map(x, [x, call.args]).size() == 0",
        "caller.claims.g.map(x, {\"x\": call.args}).size() == 0",
        "caller.claims.g.filter(x, call.args.a == [x]).size() == 1",
        "caller.claims.g.exists(x, caller.claims.g.exists(y, y + x == 3))",
        "caller.claims.o.exists(k, caller.claims.names.exists(n, n == k))",
        "caller.roles.exists(r, caller.claims.names.exists(n, n == r))",
        "caller.roles.exists(r, r in caller.claims.names)",
        "call.args.a.exists(y, y in caller.claims.g)",
        "call.args.a.exists(y, caller.claims.g + [y] == [])",
        "call.args.a.exists(y, [y] + caller.claims.names == [])",
        "call.args.a.all(y, caller.claims.names != caller.claims.g + [y])",
        "caller.claims.g.exists(x, call.args.text.contains(\"b\"))",
        "caller.claims.g.exists(x, call.args.text.matches(\"b\"))",
        "caller.claims.g.exists(x, matches(call.args.text, \"b\"))",
        "caller.claims.g.exists(x, call.args.text.lowerAscii() == \"b\")",
        "caller.claims.g.exists(x, call.args.text + call.args.text == \"\")",
        "caller.claims.g.exists(x, call.args.text.endsWith(caller.user))",
        "caller.claims.g.exists(x, call.args.text < \"A\")",
        "caller.claims.g.exists(x, call.args.text.split(\"a\").size() == x)",
        "caller.claims.g.exists(x, size(call.args.text) == x)",
        "caller.claims.g.exists(x, call.args.o[call.args.text] == x)",
        "caller.claims.half.exists(x, call.args.a[x] == 1)",
        "caller.claims.g.exists(x, dyn(call.args.rows)[0] == x)",
        "caller.claims.g.exists(x, caller[\"user\"] == \"zoe\")",
        "caller.claims.g.exists(x, call[\"method\"] == \"zoe\")",
        "call.args.a.exists(x, caller == caller)",
        // With any other operands, and where a failure is deferred.
        "caller.claims.g.exists(x, call.args.a.exists(y, y == x)) || true",
        "caller.claims.g.exists(x, call.args.a.exists(y, y == x) || x > 5)",
        "(caller.claims.g.exists(x, call.args.a.exists(y, y == x)) ? true : true)",
        "caller.claims.g.exists(x, call.args.a.exists(y, y.nothing == x))",
        "caller.claims.g.exists(x, call.args.a.exists(y, int(y) + int(x) + int(y) * int(x) - int(x) / 1 == 77))",
        // Without a loop.
        "call.args.text.contains(\"b\") || call.args.text.contains(\"c\") || call.args.text.contains(\"d\") || call.args.text.contains(\"e\") || call.args.text.contains(\"f\")",
        // A value for each byte.
        "call.args.text.split(\"a\").size() == 1",
        // A pattern that compiles to much.
        "call.args.text.matches(\"x\\\\w{1,60}y\")",
    ] {
        let arguments = if text.contains("text") { arguments.as_str() } else { &self::arguments(MANY, 1) };
        assert_eq!(ask(&caller, text, arguments), ConditionResult::Failed(BUDGET_EXCEEDED.into()), "{text}");
    }
}

#[test]
fn what_people_write_over_what_people_have_passes() {
    let few = caller(60);
    let call = arguments(240, 100_000);
    for (text, said) in [
        ("caller.claims.g.exists(x, call.args.a.exists(y, y == x))", ConditionResult::False),
        ("call.args.a.all(y, !(y in caller.claims.g))", ConditionResult::True),
        ("caller.roles.exists(r, r in caller.claims.names)", ConditionResult::False),
        (
            "call.args.text.split(\"b\").size() == 1 && caller.claims.names.all(n, n.split(\"n\").size() == 2)",
            ConditionResult::True,
        ),
        ("call.args.text.contains(\"secret\") || call.args.text.matches(\"^b+$\")", ConditionResult::False),
        ("call.args.rows.all(r, r.all(c, c in [\"x\", \"y\", \"z\"]))", ConditionResult::True),
        ("caller[\"user\"] == \"ann\" && call.args.o.exists(k, k.startsWith(\"q5\"))", ConditionResult::True),
        ("call.args.a.map(y, y + 1).filter(y, y == 3).size() == 60", ConditionResult::True),
        ("call.args.a.exists_one(y, y == 2)", ConditionResult::False),
        (
            "caller.claims.names.filter(n, n.endsWith(\"7\")).map(n, n.size()) == [2, 3, 3, 3, 3, 3]",
            ConditionResult::True,
        ),
    ] {
        assert_eq!(ask(&few, text, &call), said, "{text}");
    }
    // One pass over the highest number of values, by a usual condition.
    let rows: Vec<_> = (0..3_000).map(|n| json!({"kind": "a", "n": n})).collect();
    let long = json!({ "rows": rows }).to_string();
    let text = "call.args.rows.all(r, r.kind == \"a\" && r.n >= 0)";
    assert_eq!(ask(&few, text, &long), ConditionResult::True);
    let text = "!caller.claims.names.exists(n, call.args.body.contains(\"n77\"))";
    assert_eq!(ask(&few, text, &json!({"body": "x".repeat(50_000)}).to_string()), ConditionResult::True);
}

#[test]
fn the_parts_of_a_condition_share_its_steps() {
    let (caller, arguments) = (caller(MANY), arguments(MANY, 1));
    let one = "call.args.a.exists(y, y == 3 || y == 4 || y == 5)";
    assert_eq!(ask(&caller, one, &arguments), ConditionResult::False);
    // Failed or false: the order of evaluation does not change the decision.
    let many = ["!call.args.a.exists(y, y == 3 || y == 4 || y == 5)"; 40].join(" && ");
    assert_eq!(ask(&caller, &many, &arguments), ConditionResult::Failed(BUDGET_EXCEEDED.into()));
    assert_eq!(
        ask(&caller, &format!("{many} && call.tool == \"other\""), &arguments),
        ConditionResult::False
    );
}

/// A policy with these rules, which allows the rest.
fn policy(rules: &[(&str, Effect)]) -> Rbac {
    let rule = |(text, effect): &(&str, Effect)| Rule {
        name: "r".into(),
        when: Condition::compile(text).expect("a condition"),
        effect: *effect,
        message: None,
    };
    let rules = rules.iter().map(rule).collect();
    Rbac::new(RbacSettings { default: Effect::Allow, rules, ..RbacSettings::default() }).expect("a policy")
}

fn listed(rbac: &Rbac, caller: &Caller, names: usize, fuel: &Fuel) -> [usize; 3] {
    let mut counts = [0; 3];
    for n in 0..names {
        let name = format!("s__tool_{n}");
        let seen =
            rbac.sees_within(caller, &CallTarget { kind: TargetKind::Tool, name: &name, server: "s" }, fuel);
        counts[seen.map_or(2, usize::from)] += 1;
    }
    counts
}

#[test]
fn what_a_list_costs_is_bounded_for_all_its_names_together() {
    let caller = caller(2_000);
    let costly = "caller.claims.names.exists(n, call.tool.startsWith(n))";
    let rbac = policy(&[(costly, Effect::Deny)]);
    let fuel = Fuel::of(200_000, &caller);
    let [hidden, shown, untold] = listed(&rbac, &caller, 200, &fuel);
    assert_eq!((hidden, shown + untold, fuel.left()), (0, 200, 0), "{shown} {untold}");
    assert!((1..100).contains(&shown), "{shown} were paid for by 200,000 steps");
    // A call of a skipped name has its own steps, and is decided as if it had not been in a list.
    let last = CallTarget { kind: TargetKind::Tool, name: "s__tool_199", server: "s" };
    assert!(rbac.can_see(&caller, &last));
    // A rule that would show it fails for lack of steps: it stays hidden, whatever rules follow.
    let rbac = policy(&[(costly, Effect::Allow)]);
    assert_eq!(listed(&rbac, &caller, 5, &Fuel::of(100, &caller)), [0, 0, 5]);
    // Converting the claims to values is charged too, even if a condition hardly reads them.
    let rbac = policy(&[("caller.claims.g.size() == 3 && call.tool == \"x\"", Effect::Deny)]);
    let fuel = Fuel::of(100_000, &caller);
    let [_, shown, untold] = listed(&rbac, &caller, 100, &fuel);
    assert!(shown < 20 && untold > 80, "{shown} {untold}");
}

#[test]
fn honest_rules_list_five_thousand_names() {
    let caller = caller(200);
    let rbac = policy(&[
        ("caller.claims.names.exists(n, call.tool.startsWith(n + \"__\"))", Effect::Allow),
        ("caller.roles.exists(r, call.tool.endsWith(r))", Effect::Deny),
    ]);
    let fuel = Fuel::of(LIST, &caller);
    let [hidden, shown, untold] = listed(&rbac, &caller, 5_000, &fuel);
    assert_eq!((hidden + shown, untold), (5_000, 0));
    assert!(fuel.left() > LIST / 2, "{} are left", fuel.left());
}
