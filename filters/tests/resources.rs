//! Roles, scopes, rules and limits apply to a resource in every spelling of its URI.

use filters::cel::Condition;
use filters::rate_limit::Globs;
use filters::rbac::{AccessQuery, Decision, Effect, PatternLists, Rbac, RbacSettings, Role, Rule, ScopeNeed};
use filters::uri::AmbiguousUri;
use filters::{CallTarget, Caller, Identity, TargetKind};

/// Spellings of `file:///pub/secret`.
const SECRET: [&str; 7] = [
    "file:///pub/secret",
    "FILE:///pub/secret",
    "file:/pub/secret",
    "file://localhost/pub/secret",
    "file:///pub/%73ecret",
    "file:///%70ub/secre%74",
    "file:///pub//secret",
];

/// Readable as `/etc/passwd` or `/pub/secret`.
const ODD: [(&str, AmbiguousUri); 12] = [
    ("file:///pub/../etc/passwd", AmbiguousUri::DotSegment),
    ("file:///pub/%2e%2e/etc/passwd", AmbiguousUri::DotSegment),
    ("file:///pub/x/..%2f..%2fetc/passwd", AmbiguousUri::EncodedSlash),
    ("file:///pub/..\\..\\etc", AmbiguousUri::Backslash),
    ("file:///pub/%5c..%5cetc", AmbiguousUri::Backslash),
    ("file:///pub/%252e%252e/etc/passwd", AmbiguousUri::DoubleEncoded),
    ("file:///pub/secret?", AmbiguousUri::Query),
    ("file:///pub/secret%00.txt", AmbiguousUri::Control),
    ("file://u@localhost/pub/secret", AmbiguousUri::User),
    ("file://loc\u{ad}alhost/pub/secret", AmbiguousUri::Host),
    ("file://127.0.0.1/pub/secret", AmbiguousUri::Address),
    ("file://localhost:80/pub/secret", AmbiguousUri::Port),
];

fn lists(resources: &[&str]) -> PatternLists {
    PatternLists { resources: resources.iter().map(|r| (*r).to_owned()).collect(), ..PatternLists::default() }
}

fn role(allow: &[&str], deny: &[&str]) -> RbacSettings {
    let role = Role { name: "r".into(), allow: lists(allow), deny: lists(deny), ..Role::default() };
    RbacSettings { roles: vec![role], ..RbacSettings::default() }
}

fn rule(when: &str) -> RbacSettings {
    let when = Condition::compile(when).unwrap_or_else(|flaw| panic!("{when}: {flaw}"));
    let rule = Rule { name: "rule".into(), when, effect: Effect::Deny, message: None };
    RbacSettings { default: Effect::Allow, rules: vec![rule], ..RbacSettings::default() }
}

fn caller() -> Caller {
    Caller::new(Identity { roles: vec!["r".into()], ..Identity::default() })
}

fn decide(rbac: &Rbac, uri: &str) -> Decision {
    let target = CallTarget { kind: TargetKind::Resource, name: uri, server: "files" };
    let caller = caller();
    for method in ["resources/subscribe", "resources/unsubscribe", "completion/complete", "resources/read"] {
        let query = AccessQuery { method, target: Some(target), arguments: None, ip: None };
        let said = rbac.decide(&caller, &query);
        let passes = matches!(said, Decision::Allowed(_) | Decision::MissingScopes(_));
        assert_eq!(passes, rbac.can_see(&caller, &target), "{uri}: lists and calls tell two stories");
        if method == "resources/read" {
            return said;
        }
    }
    unreachable!("it was read")
}

#[test]
fn no_spelling_gets_past_a_deny_or_into_an_allow() {
    for settings in [
        role(&["*"], &["file:///pub/secret*"]),
        role(&["*"], &["FILE://LOCALHOST/%70ub//secret"]),
        role(&["file:///open/*"], &[]),
        rule("call.resource.startsWith(\"file:///pub/secret\")"),
        rule("call.resource == \"file:///pub/secret\""),
    ] {
        let rbac = Rbac::new(settings.clone()).expect("a valid policy");
        for uri in SECRET {
            assert!(matches!(decide(&rbac, uri), Decision::NotFound(_)), "{uri} under {settings:?}");
        }
        for (uri, error) in ODD {
            assert_eq!(decide(&rbac, uri), Decision::Ambiguous(error), "{uri} under {settings:?}");
        }
        assert!(matches!(decide(&rbac, "file:///open/a"), Decision::Allowed(_)), "{settings:?}");
    }
    let rbac = Rbac::new(role(&["file:///pub/*"], &[])).expect("a valid policy");
    for uri in SECRET {
        assert!(matches!(decide(&rbac, uri), Decision::Allowed(_)), "{uri}");
    }
}

#[test]
fn a_rule_that_goes_through_the_call_as_a_whole_sees_the_same() {
    // It could read arguments, so it denies openly and hides nothing.
    let rbac = Rbac::new(rule("call[\"resource\"].endsWith(\"/secret\")")).expect("a valid policy");
    for uri in SECRET {
        let target = CallTarget { kind: TargetKind::Resource, name: uri, server: "files" };
        let query = AccessQuery { method: "resources/read", target: Some(target), arguments: None, ip: None };
        assert!(matches!(rbac.decide(&caller(), &query), Decision::Denied(..)), "{uri}");
    }
    for (uri, error) in ODD {
        assert_eq!(decide(&rbac, uri), Decision::Ambiguous(error), "{uri}");
    }
}

#[test]
fn scopes_are_needed_for_every_spelling() {
    let need = ScopeNeed { lists: lists(&["file:///pub/secret"]), require: vec!["s".into()] };
    let settings = RbacSettings { default: Effect::Allow, scopes: vec![need], ..RbacSettings::default() };
    let rbac = Rbac::new(settings).expect("a valid policy");
    for uri in SECRET {
        assert!(matches!(decide(&rbac, uri), Decision::MissingScopes(_)), "{uri}");
        let target = CallTarget { kind: TargetKind::Resource, name: uri, server: "files" };
        assert_eq!(rbac.needed_scopes("resources/read", Some(&target)), ["s"], "{uri}");
    }
    for (uri, error) in ODD {
        assert_eq!(decide(&rbac, uri), Decision::Ambiguous(error), "{uri}");
    }
}

#[test]
fn where_nothing_speaks_of_resources_they_are_called_as_they_like() {
    let tools =
        PatternLists { tools: vec!["*".into()], servers: vec!["files".into()], ..PatternLists::default() };
    let role = Role { name: "r".into(), allow: tools, ..Role::default() };
    let rbac =
        Rbac::new(RbacSettings { roles: vec![role], ..RbacSettings::default() }).expect("a valid policy");
    for (uri, _) in ODD {
        assert!(matches!(decide(&rbac, uri), Decision::Allowed(_)), "{uri}");
        assert!(matches!(decide(&Rbac::open(), uri), Decision::Allowed(_)), "{uri}");
    }
}

#[test]
fn a_limit_counts_every_spelling() {
    let globs = Globs::of_uris(["file:///pub/secret*"]).expect("patterns");
    for uri in SECRET.into_iter().chain(ODD.map(|(uri, _)| uri)) {
        assert!(globs.is_match_uri(uri), "{uri}");
    }
    assert!(!globs.is_match_uri("file:///pub/other"));
    assert!(!Globs::default().is_match_uri("file:///pub/../x"), "no pattern fits nothing");
}

#[test]
fn a_condition_that_spells_a_uri_in_another_way_is_refused() {
    for (text, instead) in [
        ("call.resource == \"FILE:///pub\"", "\"file:///pub\""),
        ("call.resource.startsWith(\"file://localhost/pub\")", "\"file:///pub\""),
        ("call.resource in [\"memo://Notes/1\"]", "\"memo://notes/1\""),
        ("call.resource.contains(\"file:///%7Ea\")", "\"file:///~a\""),
    ] {
        let flaw = Condition::compile(text).expect_err(text);
        assert_eq!(flaw.expected, instead, "{text}");
    }
    for text in [
        "call.resource.startsWith(\"file:///pub/\")",
        "caller.issuer == \"https://ID.example\"",
        "call.resource.matches(\"^memo://[A-Z]+$\") || caller.user == \"Ann\"",
    ] {
        Condition::compile(text).unwrap_or_else(|flaw| panic!("{text}: {flaw}"));
    }
}
