//! RBAC as a table: a policy, a caller, a call, and what is judged on which ground.

use filters::cel::Condition;
use filters::rbac::{Effect, Ground, Judgement, List, Lists, Query, Rbac, Role, Rule, ScopeNeed, Settings};
use filters::{Aim, Caller, Identity, Means, Thing};

fn words(of: &[&str]) -> Vec<String> {
    of.iter().map(|word| (*word).to_owned()).collect()
}

fn tools(of: &[&str]) -> Lists {
    Lists { tools: words(of), ..Lists::default() }
}

fn servers(of: &[&str]) -> Lists {
    Lists { servers: words(of), ..Lists::default() }
}

fn methods(of: &[&str]) -> Lists {
    Lists { methods: words(of), ..Lists::default() }
}

fn role(name: &str, inherits: &[&str], allow: Lists, deny: Lists) -> Role {
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
        means: Means::Jwt,
        ..Identity::default()
    })
}

/// A judgement in a few words.
fn said(judgement: &Judgement) -> String {
    let ground = |ground: &Ground| match ground {
        Ground::Open => "open".to_owned(),
        Ground::Rule(rule) => format!("rule {rule}"),
        Ground::Role { role, effect, list, glob } => {
            let side = if *effect == Effect::Deny { "deny" } else { "allow" };
            let list = match list {
                List::Tools => "tools",
                List::Prompts => "prompts",
                List::Resources => "resources",
                List::Methods => "methods",
                List::Servers => "servers",
            };
            format!("role {role} {side}.{list} {glob}")
        }
        Ground::Unlisted => "unlisted".to_owned(),
        Ground::Default => "default".to_owned(),
        Ground::Failed(rule, why) => format!("rule {rule} failed ({why})"),
    };
    match judgement {
        Judgement::Allowed(g) => format!("allowed: {}", ground(g)),
        Judgement::Hidden(g) => format!("hidden: {}", ground(g)),
        Judgement::Refused(g, None) => format!("refused: {}", ground(g)),
        Judgement::Refused(g, Some(words)) => format!("refused: {}: {words}", ground(g)),
        Judgement::Barred(g) => format!("barred: {}", ground(g)),
        Judgement::MissingScopes(scopes) => format!("scopes: {}", scopes.join(" ")),
        Judgement::Ambiguous(odd) => format!("ambiguous: {odd}"),
    }
}

fn aim<'a>(what: &'a str) -> Option<Aim<'a>> {
    let (kind, rest) = what.split_once(' ')?;
    let (name, server) = rest.split_once('@').unwrap_or((rest, rest.split("__").next().unwrap_or("")));
    let thing = match kind {
        "tool" => Thing::Tool,
        "prompt" => Thing::Prompt,
        "resource" => Thing::Resource,
        _ => return Some(Aim { thing: Thing::Server, name: "", server: rest }),
    };
    Some(Aim { thing, name, server })
}

fn method(aim: Option<Aim<'_>>) -> &'static str {
    match aim.map(|aim| aim.thing) {
        Some(Thing::Tool) => "tools/call",
        Some(Thing::Prompt) => "prompts/get",
        Some(Thing::Resource) => "resources/read",
        Some(Thing::Server) => "logging/setLevel",
        None => "tools/list",
    }
}

/// `METHOD` alone, or `tool NAME`, `prompt NAME`, `resource URI@SERVER`, `server NAME`; with ` via METHOD` for
/// another method than the usual one; then the arguments.
fn judge(rbac: &Rbac, caller: &Caller, what: &str, arguments: &str) -> String {
    let (what, via) = what.split_once(" via ").map_or((what, None), |(what, via)| (what, Some(via)));
    let aim = aim(what);
    let method = via.unwrap_or(if aim.is_some() { method(aim) } else { what });
    let arguments = (!arguments.is_empty()).then_some(arguments.as_bytes());
    let query = Query { method, aim, arguments, ip: "10.0.0.7".parse().ok() };
    let judgement = rbac.judge(caller, &query);
    if let Some(aim) = aim {
        let hidden = matches!(judgement, Judgement::Hidden(_) | Judgement::Ambiguous(_));
        if !matches!(judgement, Judgement::Barred(_)) {
            assert_eq!(hidden, !rbac.sees(caller, &aim), "{what}: lists and calls tell two stories");
        }
    }
    assert_eq!(rbac.judge(caller, &query), judgement, "{what}: remembered otherwise");
    said(&judgement)
}

type Row = (&'static [&'static str], &'static str, &'static str, &'static str);

fn table(settings: Settings, rows: &[Row]) -> usize {
    let rbac = Rbac::new(settings).expect("a sound policy");
    for (roles, what, arguments, expected) in rows {
        let found = judge(&rbac, &caller(roles), what, arguments);
        assert_eq!(found, *expected, "{roles:?} {what} {arguments}");
    }
    rows.len()
}

fn house() -> Vec<Role> {
    let reads = Lists {
        tools: words(&["*__get_*", "*__list"]),
        prompts: words(&["*"]),
        resources: words(&["file://*"]),
        ..Lists::default()
    };
    vec![
        role("reader", &[], reads, Lists::default()),
        role("dev", &["reader"], tools(&["files__*"]), tools(&["files__delete_*", "files__rm"])),
        role("admin", &[], servers(&["*"]), Lists::default()),
        role("lead", &["dev"], tools(&["jira__*"]), Lists::default()),
        role("nofiles", &[], Lists::default(), servers(&["fil?s"])),
        role("quiet", &[], Lists::default(), methods(&["logging/*", "notifications/x"])),
        role("caller", &[], methods(&["tools/call", "tools/list"]), Lists::default()),
    ]
}

#[test]
fn roles_decide_deny_before_allow() {
    let roles = Settings { roles: house(), ..Settings::default() };
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
    let open = Settings { default: Effect::Allow, ..roles };
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
        Settings {
            roles: house(),
            rules: vec![allow("call.method == \"logging/setLevel\"")],
            ..Settings::default()
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
    let rbac = Rbac::new(Settings { roles: house(), ..Settings::default() }).expect("sound");
    assert!(!rbac.method(&caller(&["quiet"]), "logging/setLevel"));
    assert!(rbac.method(&caller(&["dev"]), "logging/setLevel"));
    assert!(
        rbac.sees(&caller(&["caller", "reader"]), &aim("prompt p").expect("an aim")),
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
    let mut roles = house();
    roles.push(role("sre", &[], Lists::default(), Lists::default()));
    roles[0].allow.tools = words(&["*"]);
    let cases = table(
        Settings { roles, rules, ..Settings::default() },
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
                "refused: rule 12 failed (the arguments cannot be judged: a key stands twice): no",
            ),
            (
                &["reader"],
                "tool files__a",
                "[1]",
                "refused: rule 12 failed (the arguments cannot be judged: not an object): no",
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
    let needs = |lists: Lists, require: &[&str]| ScopeNeed { lists, require: words(require) };
    let settings = Settings {
        roles: house(),
        scopes: vec![
            needs(tools(&["files__write_*"]), &["files:write", "mcp"]),
            needs(tools(&["files__*"]), &["files:read"]),
            needs(Lists { methods: words(&["tools/call"]), ..servers(&["jira"]) }, &["jira"]),
            needs(methods(&["logging/setLevel"]), &["ops"]),
        ],
        ..Settings::default()
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
    let rbac = Rbac::new(settings).expect("sound");
    assert_eq!(rbac.needed_scopes("tools/call", aim("tool files__x").as_ref()), ["files:read"]);
    assert!(rbac.needed_scopes("ping", None).is_empty());
}

#[test]
fn without_the_block_everything_passes() {
    let rbac = Rbac::open();
    for what in ["tool a__b", "prompt p", "server x", "tools/list", "anything/else"] {
        assert_eq!(judge(&rbac, &caller(&[]), what, ""), "allowed: open");
    }
    assert!(!rbac.is_admin(&caller(&["admin"])));
    assert_eq!(rbac.class(&caller(&["a"])), rbac.class(&caller(&["b"])));
}

#[test]
fn admins_are_those_with_an_admin_role_of_their_own() {
    let mut roles = house();
    roles.push(role("heir", &["admin"], Lists::default(), Lists::default()));
    let rbac = Rbac::new(Settings { roles, ..Settings::default() }).expect("sound");
    assert!(rbac.is_admin(&caller(&["admin"])) && !rbac.is_admin(&caller(&["heir", "dev"])));
    assert!(rbac.sees(&caller(&["heir"]), &aim("tool a__b").expect("an aim")));
}

#[test]
fn callers_of_one_class_are_those_that_no_list_can_tell_apart() {
    let with = |rules: Vec<Rule>| {
        Rbac::new(Settings { roles: house(), rules, ..Settings::default() }).expect("sound")
    };
    let same = |rbac: &Rbac, a: &[&str], b: &[&str]| rbac.class(&caller(a)) == rbac.class(&caller(b));
    let plain = with(vec![deny("caller.ip == \"\""), deny("call.args.x == 1 && call.tool == \"a\"")]);
    assert!(same(&plain, &["dev"], &["dev", "nobody"]) && same(&plain, &["dev"], &["dev", "reader"]));
    assert!(!same(&plain, &["dev"], &["reader"]) && same(&plain, &[], &["nobody"]));
    let roles = with(vec![deny("\"x\" in caller.roles")]);
    assert!(same(&roles, &["dev"], &["dev"]) && !same(&roles, &["dev"], &["dev", "x"]));
    let users = with(vec![deny("caller.user == \"bob\"")]);
    assert!(!same(&users, &["dev"], &["dev"]));
    let one = caller(&["dev"]);
    assert_eq!(users.class(&one), users.class(&one.clone()));
    assert!(same(&with(vec![deny("caller.ip == \"\" || caller.user == \"a\"")]), &["dev"], &["dev"]));
}

#[test]
fn a_policy_that_cannot_be_meant_is_refused() {
    let new = |settings: Settings| Rbac::new(settings).err().expect("refused");
    let roles = |roles: Vec<Role>| Settings { roles, ..Settings::default() };
    let plain = |name: &str, inherits: &[&str]| role(name, inherits, Lists::default(), Lists::default());
    assert!(new(roles(vec![plain("a", &["b"])])).contains("`b`, which is no role"));
    assert!(new(roles(vec![plain("a", &["a"])])).contains("inherits from itself"));
    let ring = vec![plain("x", &["a"]), plain("a", &["b"]), plain("b", &["c"]), plain("c", &["a"])];
    assert!(new(roles(ring)).contains("inherits from itself"));
    assert!(new(roles(vec![plain("a", &[]), plain("a", &[])])).contains("stands twice"));
    let bad = role("a", &[], tools(&["x["]), Lists::default());
    assert!(new(roles(vec![bad])).starts_with("role `a`, allow.tools: the pattern `x[`"));
    let nothing = ScopeNeed { lists: Lists::default(), require: words(&["a"]) };
    assert!(new(Settings { scopes: vec![nothing], ..Settings::default() }).contains("needed for nothing"));
}
