//! The messages to a client whose call RBAC denies.

use filters::cel::Condition;
use filters::rbac::{Denial, Effect, PatternLists, Rbac, RbacSettings, Role, Rule, ScopeNeed, not_found};
use filters::{Call, CallTarget, Caller, Identity, RequestHead, TargetKind};
use mcp::{Era, Rejection};

fn rbac() -> Rbac {
    let list = |of: &[&str]| of.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let allow = PatternLists {
        tools: list(&["files__*"]),
        resources: list(&["ok:*"]),
        prompts: list(&["ok"]),
        ..PatternLists::default()
    };
    let deny = PatternLists {
        tools: list(&["files__rm"]),
        methods: list(&["tasks/*", "notifications/x"]),
        ..PatternLists::default()
    };
    let rule = |when: &str, message: Option<&str>| Rule {
        name: "no-prod".into(),
        when: Condition::compile(when).expect(when),
        effect: Effect::Deny,
        message: message.map(str::to_owned),
    };
    Rbac::new(RbacSettings {
        roles: vec![Role { name: "dev".into(), allow, deny, ..Role::default() }],
        rules: vec![
            rule("has(call.args.env) && call.args.env == \"prod\"", Some("production is read-only")),
            rule("has(call.args.env) && call.args.env == \"test\"", None),
        ],
        scopes: vec![ScopeNeed {
            lists: PatternLists { tools: list(&["files__write"]), ..PatternLists::default() },
            require: list(&["files:write"]),
        }],
        ..RbacSettings::default()
    })
    .expect("a valid policy")
}

fn admit(client_era: Era, target: Option<CallTarget<'_>>, body: &str) -> Result<(), Denial> {
    let headers = http::HeaderMap::new();
    let head = RequestHead {
        http_method: &http::Method::POST,
        path: "/mcp",
        headers: &headers,
        authority: None,
        peer: None,
        certificate: None,
        is_network: true,
    };
    let caller =
        Caller::new(Identity { user: "ann".into(), roles: vec!["dev".into()], ..Identity::default() });
    let rpc = Box::new(mcp::jsonrpc::request::read(body.as_bytes(), 64).expect("a valid message"));
    rbac().enforce(&Call { head, caller, body: body.as_bytes(), rpc, client_era, target })
}

fn rejection(client_era: Era, target: Option<CallTarget<'_>>, body: &str) -> Rejection {
    match admit(client_era, target, body) {
        Err(Denial::Rejected(rejection)) => *rejection,
        other => panic!("{body}: {other:?}"),
    }
}

fn request(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#)
}

fn tool(name: &str) -> Option<CallTarget<'_>> {
    Some(CallTarget { kind: TargetKind::Tool, name, server: "files" })
}

#[test]
fn what_is_hidden_is_answered_like_what_does_not_exist_under_the_name_that_was_sent() {
    let call = request("tools/call", r#""name":"r\u006d""#);
    let rejected = rejection(Era::Modern, tool("files__rm"), &call);
    assert_eq!(rejected, not_found(Era::Modern, TargetKind::Tool, "rm"));
    assert_eq!(
        (rejected.status, rejected.code, rejected.reason.as_str(), &*rejected.message),
        (400, -32602, "unknown_tool", "Unknown tool: rm")
    );
    assert_eq!(rejection(Era::Legacy, tool("files__rm"), &call).status, 200);
    let prompt = CallTarget { kind: TargetKind::Prompt, name: "files__p", server: "files" };
    let rejected = rejection(Era::Modern, Some(prompt), &request("prompts/get", r#""name":"p""#));
    assert_eq!((rejected.reason.as_str(), &*rejected.message), ("unknown_prompt", "Unknown prompt: p"));
    let rejected = rejection(
        Era::Modern,
        Some(prompt),
        &request("completion/complete", r#""ref":{"type":"ref/prompt","name":"p"}"#),
    );
    assert_eq!(&*rejected.message, "Unknown prompt: p");
    let resource = CallTarget { kind: TargetKind::Resource, name: "no:\"x", server: "files" };
    let rejected = rejection(Era::Modern, Some(resource), &request("resources/read", r#""uri":"no:\"x""#));
    assert_eq!(
        (rejected.reason.as_str(), &*rejected.message),
        ("unknown_resource", "Resource not found: no:\"x")
    );
    assert_eq!(rejected.data.as_deref(), Some(r#"{"uri":"no:\"x"}"#));
    // Legacy revisions have a code of their own for it.
    for (client_era, code) in [(Era::Modern, -32602), (Era::Legacy, -32002)] {
        assert_eq!(not_found(client_era, TargetKind::Resource, "x").code, code);
    }
    assert_eq!(not_found(Era::Modern, TargetKind::Tool, &"ä".repeat(500)).message.chars().count(), 14 + 128);
}

#[test]
fn what_is_seen_is_refused_in_the_words_of_the_rule() {
    let call =
        |env: &str| request("tools/call", &format!(r#""name":"files__a","arguments":{{"env":"{env}"}}"#));
    assert!(admit(Era::Modern, tool("files__a"), &call("dev")).is_ok());
    let rejected = rejection(Era::Modern, tool("files__a"), &call("prod"));
    assert_eq!((rejected.status, rejected.code, rejected.reason.as_str()), (403, 403, "rule_denied"));
    assert_eq!(rejected.message, "production is read-only");
    let rejected = rejection(Era::Legacy, tool("files__a"), &call("test"));
    assert_eq!((rejected.status, &*rejected.message), (403, "not allowed by the gateway's policy"));
}

#[test]
fn methods_scopes_notifications_and_responses_have_their_own_ends() {
    let rejected = rejection(Era::Modern, None, &request("tasks/get", r#""taskId":"1""#));
    assert_eq!((rejected.status, rejected.code, rejected.reason.as_str()), (403, 403, "method_denied"));
    match admit(Era::Modern, tool("files__write"), &request("tools/call", r#""name":"files__write""#)) {
        Err(Denial::MissingScopes(scopes)) => assert_eq!(scopes, ["files:write"]),
        other => panic!("{other:?}"),
    }
    let note = |method: &str| format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#);
    assert_eq!(rejection(Era::Modern, None, &note("notifications/x")).reason.as_str(), "method_denied");
    assert!(admit(Era::Modern, None, &note("notifications/cancelled")).is_ok());
    assert!(admit(Era::Modern, None, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).is_ok());
    assert!(
        admit(Era::Modern, None, &request("tools/call", r#""name":"nobody_knows""#)).is_ok(),
        "the dispatcher rejects an unknown name"
    );
}
