//! RBAC as a table: a policy, a caller, a call, the decision and its reason.

use filters::cel::Condition;
use filters::rbac::{
    AccessQuery, Decision, DecisionReason, Effect, PatternLists, Rbac, RbacSettings, Role, RoleList, Rule,
    ScopeNeed,
};
use filters::{AuthMethod, CallTarget, Caller, Identity, TargetKind};

fn words(of: &[&str]) -> Vec<String> {
    of.iter().map(|word| (*word).to_owned()).collect()
}

fn tools(of: &[&str]) -> PatternLists {
    PatternLists { tools: words(of), ..PatternLists::default() }
}

fn servers(of: &[&str]) -> PatternLists {
    PatternLists { servers: words(of), ..PatternLists::default() }
}

fn methods(of: &[&str]) -> PatternLists {
    PatternLists { methods: words(of), ..PatternLists::default() }
}

fn role(name: &str, inherits: &[&str], allow: PatternLists, deny: PatternLists) -> Role {
    Role { name: name.into(), inherits: words(inherits), allow, deny, admin: name == "admin" }
}

fn rule(when: &str, effect: Effect) -> Rule {
    let when = Condition::compile(when).unwrap_or_else(|flaw| panic!("{when}: {flaw}"));
    Rule { name: "r".into(), when, effect, message: (effect == Effect::Deny).then(|| "no".into()) }
}

fn deny(when: &str) -> Rule {
    rule(when, Effect::Deny)
}

fn allow(when: &str) -> Rule {
    rule(when, Effect::Allow)
}

fn caller(roles: &[&str]) -> Caller {
    let mut roles = words(roles);
    roles.sort();
    Caller::new(Identity {
        user: "ann".into(),
        tenant: Some("acme".into()),
        roles,
        scopes: words(&["files:read", "mcp"]),
        auth_method: AuthMethod::Jwt,
        ..Identity::default()
    })
}

/// A decision in a few words.
fn describe(decision: &Decision) -> String {
    let reason = |reason: &DecisionReason| match reason {
        DecisionReason::Open => "open".to_owned(),
        DecisionReason::Rule(rule) => format!("rule {rule}"),
        DecisionReason::Role { role, effect, list, glob } => {
            let side = if *effect == Effect::Deny { "deny" } else { "allow" };
            let list = match list {
                RoleList::Tools => "tools",
                RoleList::Prompts => "prompts",
                RoleList::Resources => "resources",
                RoleList::Methods => "methods",
                RoleList::Servers => "servers",
            };
            format!("role {role} {side}.{list} {glob}")
        }
        DecisionReason::Unlisted => "unlisted".to_owned(),
        DecisionReason::Default => "default".to_owned(),
        DecisionReason::Failed(rule, why) => format!("rule {rule} failed ({why})"),
    };
    match decision {
        Decision::Allowed(g) => format!("allowed: {}", reason(g)),
        Decision::NotFound(g) => format!("hidden: {}", reason(g)),
        Decision::Denied(g, None) => format!("refused: {}", reason(g)),
        Decision::Denied(g, Some(message)) => format!("refused: {}: {message}", reason(g)),
        Decision::MethodDenied(g) => format!("barred: {}", reason(g)),
        Decision::MissingScopes(scopes) => format!("scopes: {}", scopes.join(" ")),
        Decision::Ambiguous(error) => format!("ambiguous: {error}"),
    }
}

fn target<'a>(what: &'a str) -> Option<CallTarget<'a>> {
    let (kind, rest) = what.split_once(' ')?;
    let (name, server) = rest.split_once('@').unwrap_or((rest, rest.split("__").next().unwrap_or("")));
    let thing = match kind {
        "tool" => TargetKind::Tool,
        "prompt" => TargetKind::Prompt,
        "resource" => TargetKind::Resource,
        _ => return Some(CallTarget { kind: TargetKind::Server, name: "", server: rest }),
    };
    Some(CallTarget { kind: thing, name, server })
}

fn method(target: Option<CallTarget<'_>>) -> &'static str {
    match target.map(|target| target.kind) {
        Some(TargetKind::Tool) => "tools/call",
        Some(TargetKind::Prompt) => "prompts/get",
        Some(TargetKind::Resource) => "resources/read",
        Some(TargetKind::Server) => "logging/setLevel",
        None => "tools/list",
    }
}

/// `METHOD` alone, or `tool NAME`, `prompt NAME`, `resource URI@SERVER`, `server NAME`; with ` via METHOD`
/// for another than the usual method; then the arguments.
fn decide(rbac: &Rbac, caller: &Caller, what: &str, arguments: &str) -> String {
    let (what, via) = what.split_once(" via ").map_or((what, None), |(what, via)| (what, Some(via)));
    let target = target(what);
    let method = via.unwrap_or(if target.is_some() { method(target) } else { what });
    let arguments = (!arguments.is_empty()).then_some(arguments.as_bytes());
    let query = AccessQuery { method, target, arguments, ip: "10.0.0.7".parse().ok() };
    let decision = rbac.decide(caller, &query);
    if let Some(target) = target {
        let hidden = matches!(decision, Decision::NotFound(_) | Decision::Ambiguous(_));
        if !matches!(decision, Decision::MethodDenied(_)) {
            assert_eq!(hidden, !rbac.can_see(caller, &target), "{what}: lists and calls tell two stories");
        }
    }
    assert_eq!(rbac.decide(caller, &query), decision, "{what}: remembered otherwise");
    describe(&decision)
}

type Row = (&'static [&'static str], &'static str, &'static str, &'static str);

fn table(settings: RbacSettings, rows: &[Row]) -> usize {
    let rbac = Rbac::new(settings).expect("a valid policy");
    for (roles, what, arguments, expected) in rows {
        let found = decide(&rbac, &caller(roles), what, arguments);
        assert_eq!(found, *expected, "{roles:?} {what} {arguments}");
    }
    rows.len()
}

fn role_tree() -> Vec<Role> {
    let reads = PatternLists {
        tools: words(&["*__get_*", "*__list"]),
        prompts: words(&["*"]),
        resources: words(&["file://*"]),
        ..PatternLists::default()
    };
    vec![
        role("reader", &[], reads, PatternLists::default()),
        role("dev", &["reader"], tools(&["files__*"]), tools(&["files__delete_*", "files__rm"])),
        role("admin", &[], servers(&["*"]), PatternLists::default()),
        role("lead", &["dev"], tools(&["jira__*"]), PatternLists::default()),
        role("nofiles", &[], PatternLists::default(), servers(&["fil?s"])),
        role("quiet", &[], PatternLists::default(), methods(&["logging/*", "notifications/x"])),
        role("caller", &[], methods(&["tools/call", "tools/list"]), PatternLists::default()),
    ]
}

#[test]
fn roles_decide_deny_before_allow() {
    let roles = RbacSettings { roles: role_tree(), ..RbacSettings::default() };
    let cases = table(
        roles.clone(),
        &[
            (&[], "tool files__get_a", "", "hidden: default"),
            (&["nobody"], "tool files__get_a", "", "hidden: default"),
            (&["reader"], "tool files__get_a", "", "allowed: role 0 allow.tools 0"),
            (&["reader"], "tool files__list", "", "allowed: role 0 allow.tools 1"),
            (&["reader"], "tool files__write", "", "hidden: default"),
            (&["reader"], "prompt any", "", "allowed: role 0 allow.prompts 0"),
            (&["reader"], "resource file:///a/b/c@files", "", "allowed: role 0 allow.resources 0"),
            (&["reader"], "resource http://x@web", "", "hidden: default"),
            (&["dev"], "tool files__write", "", "allowed: role 1 allow.tools 0"),
            (&["dev"], "tool other__get_x", "", "allowed: role 0 allow.tools 0"),
            (&["dev"], "tool files__delete_a", "", "hidden: role 1 deny.tools 0"),
            (&["dev"], "tool files__rm", "", "hidden: role 1 deny.tools 1"),
            (&["lead"], "tool files__rm", "", "hidden: role 1 deny.tools 1"),
            (&["lead"], "tool jira__new", "", "allowed: role 3 allow.tools 0"),
            (&["lead"], "tool files__get_a", "", "allowed: role 0 allow.tools 0"),
            (&["admin"], "tool files__rm", "", "allowed: role 2 allow.servers 0"),
            (&["admin"], "prompt p", "", "allowed: role 2 allow.servers 0"),
            (&["admin"], "resource x://y@z", "", "allowed: role 2 allow.servers 0"),
            (&["admin", "dev"], "tool files__rm", "", "hidden: role 1 deny.tools 1"),
            (&["admin", "nofiles"], "tool files__get_a", "", "hidden: role 4 deny.servers 0"),
            (&["admin", "nofiles"], "prompt files__p", "", "hidden: role 4 deny.servers 0"),
            (&["admin", "nofiles"], "tool web__get_a", "", "allowed: role 2 allow.servers 0"),
            (&["admin", "nobody"], "tool a__b", "", "allowed: role 2 allow.servers 0"),
            (&["reader"], "server files", "", "allowed: role 0 allow.tools 0"),
            (&["nofiles"], "server files", "", "hidden: role 4 deny.servers 0"),
            (&["nofiles"], "server web", "", "hidden: default"),
            (&["admin"], "server web", "", "allowed: role 2 allow.servers 0"),
            (&[], "server web", "", "hidden: default"),
        ],
    );
    let open = RbacSettings { default: Effect::Allow, ..roles };
    let more = table(
        open,
        &[
            (&[], "tool files__get_a", "", "allowed: default"),
            (&["nobody"], "tool files__rm", "", "allowed: default"),
            (&["dev"], "tool files__rm", "", "hidden: role 1 deny.tools 1"),
            (&["dev"], "tool web__rm", "", "allowed: default"),
            (&["nofiles"], "server files", "", "hidden: role 4 deny.servers 0"),
            (&["nofiles"], "server web", "", "allowed: default"),
        ],
    );
    assert_eq!(cases + more, 34);
}

#[test]
fn methods_are_a_gate_of_their_own() {
    let cases = table(
        RbacSettings {
            roles: role_tree(),
            rules: vec![allow("call.method == \"logging/setLevel\"")],
            ..RbacSettings::default()
        },
        &[
            (&[], "tools/list", "", "allowed: open"),
            (&[], "initialize", "", "allowed: open"),
            (&["quiet"], "logging/setLevel", "", "barred: role 5 deny.methods 0"),
            (&["quiet"], "notifications/x", "", "barred: role 5 deny.methods 1"),
            (&["quiet"], "notifications/y", "", "allowed: open"),
            (&["quiet", "admin"], "server a", "", "barred: role 5 deny.methods 0"),
            (&["admin"], "logging/setLevel", "", "allowed: rule 0"),
            (&["caller"], "tools/list", "", "allowed: open"),
            (&["caller"], "prompts/list", "", "barred: unlisted"),
            (&["caller", "reader"], "prompts/list", "", "barred: unlisted"),
            (&["caller"], "initialize", "", "allowed: open"),
            (&["caller"], "ping", "", "allowed: open"),
            (&["caller"], "server/discover", "", "allowed: open"),
            (&["caller"], "notifications/cancelled", "", "allowed: open"),
            (&["caller", "reader"], "prompt p", "", "barred: unlisted"),
            (&["caller", "reader"], "tool a__list", "", "allowed: role 0 allow.tools 1"),
            (&["caller"], "tool a__list", "", "hidden: default"),
            (&["caller"], "", "", "allowed: open"),
        ],
    );
    assert_eq!(cases, 18);
    let rbac = Rbac::new(RbacSettings { roles: role_tree(), ..RbacSettings::default() }).expect("valid");
    assert!(!rbac.allows_method(&caller(&["quiet"]), "logging/setLevel"));
    assert!(rbac.allows_method(&caller(&["dev"]), "logging/setLevel"));
    assert!(
        rbac.can_see(&caller(&["caller", "reader"]), &target("prompt p").expect("an aim")),
        "seen, not gettable"
    );
}

#[test]
fn rules_come_before_roles_and_the_first_match_wins() {
    let rules = vec![
        deny("call.tool.startsWith(\"db__\") && call.args.env == \"prod\" && !(\"sre\" in caller.roles)"),
        allow("call.tool == \"files__rm\" && caller.tenant == \"acme\""),
        deny("call.tool == \"files__rm\""),
        deny("call.tool == \"db__drop\""),
        allow("call.tool == \"web__post\" && call.args.draft == true"),
        deny("server.name == \"web\""),
        deny("call.resource.startsWith(\"file:///etc\")"),
        deny("caller.claims.level < 3 && call.tool == \"lvl__a\""),
        allow("caller.claims.level < 3 && call.tool == \"lvl__b\""),
        deny("call.tool == \"ip__a\" && caller.ip == \"10.0.0.7\""),
        allow("call.method == \"completion/complete\""),
        deny("call.method == \"sampling/x\""),
        deny("call.args.big > 3"),
        deny("call.tool == \"lvl__c\" && caller.claims.level < 3 && call.args.big == 1"),
    ];
    let mut roles = role_tree();
    roles.push(role("sre", &[], PatternLists::default(), PatternLists::default()));
    roles[0].allow.tools = words(&["*"]);
    let cases = table(
        RbacSettings { roles, rules, ..RbacSettings::default() },
        &[
            (&["reader"], "tool db__query", r#"{"env":"prod","big":1}"#, "refused: rule 0: no"),
            (&["reader"], "tool db__query", r#"{"env":"dev","big":1}"#, "allowed: role 0 allow.tools 0"),
            (
                &["reader", "sre"],
                "tool db__query",
                r#"{"env":"prod","big":1}"#,
                "allowed: role 0 allow.tools 0",
            ),
            (&["reader"], "tool db__query", "", "refused: rule 0 failed (no such key: env): no"),
            (&["reader", "sre"], "tool db__query", r#"{"big":4}"#, "refused: rule 12: no"),
            (&["nobody"], "tool db__query", r#"{"env":"prod"}"#, "hidden: default"),
            (&["nobody"], "tool db__query", "", "hidden: default"),
            (&["dev"], "tool files__rm", "", "allowed: rule 1"),
            (&["nobody"], "tool files__rm", "", "allowed: rule 1"),
            (&["reader"], "tool db__drop", r#"{"env":"dev"}"#, "hidden: rule 3"),
            (&["reader"], "tool db__drop", r#"{"env":"prod"}"#, "hidden: rule 3"),
            (&["admin"], "tool web__get_a", r#"{"big":1}"#, "hidden: rule 5"),
            (&["nobody"], "tool web__post", r#"{"draft":true}"#, "allowed: rule 4"),
            (&["nobody"], "tool web__post", r#"{"draft":false}"#, "refused: rule 5: no"),
            (&["nobody"], "tool web__post", "", "refused: rule 5: no"),
            (&["reader"], "resource file:///etc/passwd@files", "", "hidden: rule 6"),
            (&["reader"], "resource file:///home@files", r#"{"big":1}"#, "allowed: role 0 allow.resources 0"),
            (
                &["reader"],
                "resource file:///home@files",
                "",
                "refused: rule 12 failed (no such key: big): no",
            ),
            (&["reader"], "tool lvl__a", r#"{"big":1}"#, "hidden: rule 7 failed (no such key: level)"),
            (&["nobody"], "tool lvl__b", r#"{"big":1}"#, "hidden: default"),
            (&["reader"], "tool lvl__b", r#"{"big":1}"#, "allowed: role 0 allow.tools 0"),
            (&["reader"], "tool lvl__c", r#"{"big":1}"#, "refused: rule 13 failed (no such key: level): no"),
            (&["reader"], "tool lvl__c", r#"{"big":2}"#, "allowed: role 0 allow.tools 0"),
            (&["reader"], "tool ip__a", r#"{"big":1}"#, "refused: rule 9: no"),
            (&["nobody"], "tool ip__a", r#"{"big":1}"#, "hidden: default"),
            (&["reader"], "prompt p via completion/complete", "", "allowed: rule 10"),
            (&["nobody"], "prompt p via completion/complete", "", "hidden: default"),
            (&["reader"], "sampling/x", "", "refused: rule 11: no"),
            (&["reader"], "initialize", "", "allowed: open"),
            (&["reader"], "tools/call", "", "allowed: open"),
            (&["reader"], "server db", "", "allowed: role 0 allow.tools 0"),
            (&["reader"], "server web", "", "refused: rule 5: no"),
            (
                &["reader"],
                "tool files__a",
                r#"{"big":1,"big":1}"#,
                "refused: rule 12 failed (the arguments cannot be evaluated: a key stands twice): no",
            ),
            (
                &["reader"],
                "tool files__a",
                "[1]",
                "refused: rule 12 failed (the arguments cannot be evaluated: not an object): no",
            ),
            (
                &["reader"],
                "tool files__a",
                r#"{"big":"x"}"#,
                "refused: rule 12 failed (found no matching overload for '_>_' applied to '(string, int)'): no",
            ),
        ],
    );
    assert_eq!(cases, 35);
}

#[test]
fn scopes_are_asked_for_once_a_call_is_allowed() {
    let needs = |lists: PatternLists, require: &[&str]| ScopeNeed { lists, require: words(require) };
    let settings = RbacSettings {
        roles: role_tree(),
        scopes: vec![
            needs(tools(&["files__write_*"]), &["files:write", "mcp"]),
            needs(tools(&["files__*"]), &["files:read"]),
            needs(PatternLists { methods: words(&["tools/call"]), ..servers(&["jira"]) }, &["jira"]),
            needs(methods(&["logging/setLevel"]), &["ops"]),
        ],
        ..RbacSettings::default()
    };
    let cases = table(
        settings.clone(),
        &[
            (&["dev"], "tool files__read", "", "allowed: role 1 allow.tools 0"),
            (&["dev"], "tool files__write_a", "", "scopes: files:read files:write mcp"),
            (&["reader"], "tool files__write_a", "", "hidden: default"),
            (&["lead"], "tool jira__new", "", "scopes: jira"),
            (&["lead"], "prompt jira__p", "", "allowed: role 0 allow.prompts 0"),
            (&["lead"], "logging/setLevel", "", "scopes: ops"),
            (&["lead"], "tools/list", "", "allowed: open"),
        ],
    );
    assert_eq!(cases, 7);
    let rbac = Rbac::new(settings).expect("valid");
    assert_eq!(rbac.needed_scopes("tools/call", target("tool files__x").as_ref()), ["files:read"]);
    assert!(rbac.needed_scopes("ping", None).is_empty());
}

#[test]
fn without_the_block_everything_passes() {
    let rbac = Rbac::open();
    for what in ["tool a__b", "prompt p", "server x", "tools/list", "anything/else"] {
        assert_eq!(decide(&rbac, &caller(&[]), what, ""), "allowed: open");
    }
    assert!(!rbac.is_admin(&caller(&["admin"])));
    assert_eq!(rbac.visibility_class(&caller(&["a"])), rbac.visibility_class(&caller(&["b"])));
}

#[test]
fn admins_are_those_with_an_admin_role_of_their_own() {
    let mut roles = role_tree();
    roles.push(role("heir", &["admin"], PatternLists::default(), PatternLists::default()));
    let rbac = Rbac::new(RbacSettings { roles, ..RbacSettings::default() }).expect("valid");
    assert!(rbac.is_admin(&caller(&["admin"])) && !rbac.is_admin(&caller(&["heir", "dev"])));
    assert!(rbac.can_see(&caller(&["heir"]), &target("tool a__b").expect("an aim")));
}

#[test]
fn callers_of_one_class_are_those_that_no_list_can_tell_apart() {
    let with = |rules: Vec<Rule>| {
        Rbac::new(RbacSettings { roles: role_tree(), rules, ..RbacSettings::default() }).expect("valid")
    };
    let same = |rbac: &Rbac, a: &[&str], b: &[&str]| {
        rbac.visibility_class(&caller(a)) == rbac.visibility_class(&caller(b))
    };
    let plain = with(vec![deny("caller.ip == \"\""), deny("call.args.x == 1 && call.tool == \"a\"")]);
    assert!(same(&plain, &["dev"], &["dev", "nobody"]) && same(&plain, &["dev"], &["dev", "reader"]));
    assert!(!same(&plain, &["dev"], &["reader"]) && same(&plain, &[], &["nobody"]));
    let roles = with(vec![deny("\"x\" in caller.roles")]);
    assert!(same(&roles, &["dev"], &["dev"]) && !same(&roles, &["dev"], &["dev", "x"]));
    let users = with(vec![deny("caller.user == \"bob\"")]);
    assert!(!same(&users, &["dev"], &["dev"]));
    let one = caller(&["dev"]);
    assert_eq!(users.visibility_class(&one), users.visibility_class(&one.clone()));
    assert!(same(&with(vec![deny("caller.ip == \"\" || caller.user == \"a\"")]), &["dev"], &["dev"]));
}

#[test]
fn a_policy_that_cannot_be_meant_is_refused() {
    let new = |settings: RbacSettings| Rbac::new(settings).err().expect("refused");
    let roles = |roles: Vec<Role>| RbacSettings { roles, ..RbacSettings::default() };
    let plain = |name: &str, inherits: &[&str]| {
        role(name, inherits, PatternLists::default(), PatternLists::default())
    };
    assert!(new(roles(vec![plain("a", &["b"])])).contains("`b`, which is no role"));
    assert!(new(roles(vec![plain("a", &["a"])])).contains("inherits from itself"));
    let ring = vec![plain("x", &["a"]), plain("a", &["b"]), plain("b", &["c"]), plain("c", &["a"])];
    assert!(new(roles(ring)).contains("inherits from itself"));
    assert!(new(roles(vec![plain("a", &[]), plain("a", &[])])).contains("stands twice"));
    let bad = role("a", &[], tools(&["x["]), PatternLists::default());
    assert!(new(roles(vec![bad])).starts_with("role `a`, allow.tools: the pattern `x[`"));
    let nothing = ScopeNeed { lists: PatternLists::default(), require: words(&["a"]) };
    assert!(
        new(RbacSettings { scopes: vec![nothing], ..RbacSettings::default() }).contains("needed for nothing")
    );
}
