//! Requests about the task of a call are decided as its tool is: by what does not depend on arguments.

use filters::cel::Condition;
use filters::rbac::{AccessQuery, Decision, Effect, PatternLists, Rbac, RbacSettings, Role, Rule, ScopeNeed};
use filters::{CallTarget, Caller, Identity, TargetKind};

const TOOL: CallTarget<'static> = CallTarget { kind: TargetKind::Tool, name: "s__report", server: "s" };

fn lists(tools: &[&str], methods: &[&str]) -> PatternLists {
    let words = |of: &[&str]| of.iter().map(|word| (*word).to_owned()).collect();
    PatternLists { tools: words(tools), methods: words(methods), ..PatternLists::default() }
}

fn rbac(allow: PatternLists, rules: &[(&str, Effect)], scopes: Vec<ScopeNeed>) -> Rbac {
    let rules = rules.iter().map(|(when, effect)| Rule {
        name: "r".into(),
        when: Condition::compile(when).expect("a condition"),
        effect: *effect,
        message: None,
    });
    let role = Role { name: "all".into(), allow, ..Role::default() };
    let settings = RbacSettings { default: Effect::Deny, roles: vec![role], rules: rules.collect(), scopes };
    Rbac::new(settings).expect("a policy")
}

fn decide(rbac: &Rbac, method: &str) -> Decision {
    let caller = Caller::new(Identity { roles: vec!["all".into()], ..Identity::default() });
    let query = AccessQuery {
        method,
        target: Some(TOOL),
        arguments: (method == "tools/call").then_some(br#"{"a":1}"#),
        ip: "192.0.2.1".parse().ok(),
    };
    rbac.decide(&caller, &query)
}

#[test]
fn a_task_is_its_callers_as_long_as_the_tool_is() {
    let all = || lists(&["*"], &[]);
    let none = || lists(&["other"], &[]);
    let rows: [(Rbac, bool); 9] = [
        (rbac(all(), &[], vec![]), true),
        (rbac(none(), &[], vec![]), false),
        (rbac(all(), &[("call.tool == 's__report'", Effect::Deny)], vec![]), false),
        // What reads arguments was decided for the call.
        (rbac(all(), &[("call.args.a == 1", Effect::Deny)], vec![]), true),
        (rbac(none(), &[("call.args.a == 1", Effect::Allow)], vec![]), true),
        (rbac(none(), &[("call.args.a == 1 && call.tool == 'other'", Effect::Allow)], vec![]), false),
        (rbac(all(), &[("caller.ip == '192.0.2.1'", Effect::Deny)], vec![]), false),
        (rbac(none(), &[("call.args.a == 1 && caller.ip == '192.0.2.9'", Effect::Allow)], vec![]), false),
        (rbac(all(), &[("call.method == 'tools/call'", Effect::Deny)], vec![]), false),
    ];
    for (number, (rbac, expected)) in rows.iter().enumerate() {
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            let decision = decide(rbac, method);
            assert_eq!(decision.is_allowed(), *expected, "row {number}, {method}: {decision:?}");
        }
    }
    assert!(matches!(decide(&rows[1].0, "tasks/get"), Decision::NotFound(_)), "as if it did not exist");
}

#[test]
fn methods_and_scopes_count_for_tasks() {
    let named = rbac(lists(&["*"], &["tools/call"]), &[], vec![]);
    assert!(decide(&named, "tools/call").is_allowed());
    assert!(matches!(decide(&named, "tasks/get"), Decision::MethodDenied(_)));
    let tasks = rbac(lists(&["*"], &["tools/call", "tasks/*"]), &[], vec![]);
    assert!(decide(&tasks, "tasks/get").is_allowed());
    let needs = ScopeNeed { lists: lists(&["s__*"], &[]), require: vec!["files".into()] };
    let scoped = rbac(lists(&["*"], &[]), &[], vec![needs]);
    assert!(matches!(decide(&scoped, "tasks/get"), Decision::MissingScopes(_)));
}
