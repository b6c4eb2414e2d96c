//! Any text as a condition: it compiles within its bounds or reports an error at a position in the text. A
//! compiled condition is evaluated with any arguments. Neither panics nor takes long (the run has a time
//! limit per input).
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use filters::cel::{CelContext, Condition, ConditionResult};
use filters::{CallTarget, Caller, Identity, TargetKind};
use fuzz::cut;
use libfuzzer_sys::fuzz_target;

static CALLER: LazyLock<Caller> = LazyLock::new(|| {
    let claims = serde_json::json!({"dept": "a", "n": 7, "deep": {"list": [1, "x", null]}});
    Caller::new(Identity {
        user: "ada".into(),
        tenant: Some("t".into()),
        roles: vec!["dev".into(), "ops".into()],
        scopes: vec!["tools:read".into()],
        claims: claims.as_object().cloned().expect("an object"),
        ..Identity::default()
    })
});

fuzz_target!(|data: &[u8]| {
    let (text, arguments) = cut(data, 0);
    let Ok(text) = std::str::from_utf8(text) else { return };
    let condition = match Condition::compile(text) {
        Ok(condition) => condition,
        Err(error) => {
            let _ = error.to_string();
            assert!(text.get(error.bytes.clone()).is_some(), "{:?} is no place in the text", error.bytes);
            return;
        }
    };
    assert!(!condition.conjuncts().is_empty());
    let target = CallTarget { kind: TargetKind::Tool, name: "files__read", server: "files" };
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let context =
        || CelContext::new(&CALLER, "tools/call", Some(target)).with_request(Some(arguments), Some(address));
    let outcome = condition.evaluate(&context(), |_| true);
    assert_eq!(
        outcome,
        condition.evaluate(&context(), |_| true),
        "the same call is judged twice in two ways"
    );
    // Evaluated in two halves it gives the same result: the decision cache works this way.
    let halves = condition
        .evaluate(&context(), |conjunct| conjunct.dependencies.args)
        .and(condition.evaluate(&context(), |conjunct| !conjunct.dependencies.args));
    let failed = |outcome: &ConditionResult| matches!(outcome, ConditionResult::Failed(_));
    assert!(halves == outcome || (failed(&halves) && failed(&outcome)), "{halves:?} and {outcome:?}");
    // A condition that reads no arguments does not depend on them.
    if !condition.dependencies().args {
        let bare = CelContext::new(&CALLER, "tools/call", Some(target)).with_request(None, Some(address));
        assert_eq!(outcome, condition.evaluate(&bare, |_| true));
    }
    if let ConditionResult::Failed(why) = &outcome {
        assert!(why.len() < 1024);
    }
});
