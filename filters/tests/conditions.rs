//! Conditions: compile errors and their places, and results for calls.

use filters::cel::{CelContext, Condition, ConditionResult};
use filters::{AuthMethod, CallTarget, Caller, Identity, TargetKind};
use proptest::prelude::*;

fn flaw(text: &str) -> (String, String) {
    let flaw = Condition::compile(text).expect_err(text);
    (text[flaw.bytes.clone()].to_owned(), flaw.what)
}

#[test]
fn what_can_never_work_is_refused_at_its_place() {
    for (text, place, what) in [
        ("caler.user == \"a\"", "caler", "no variable `caler`; did you mean `caller`?"),
        ("caller.user == \"ä\" && caler.user == \"b\"", "caler", "no variable `caler`"),
        ("call.toll == \"a\"", "toll", "`call` has no field `toll`; did you mean `tool`?"),
        ("\"ä\" == call.toll", "toll", "no field `toll`"),
        ("has(caller.usr)", "usr", "no field `usr`; did you mean `user`?"),
        ("caller.user + 1 == 2", "caller.user + 1", "`+` does not take a string and an int"),
        ("caller.user - \"a\" == \"b\"", "caller.user", "`-` does not take a string"),
        ("call.tool == 3", "call.tool == 3", "a string is never equal to an int"),
        ("call.tool != null", "call.tool != null", "never equal to null"),
        ("\"x\" in caller.user", "caller.user", "a string"),
        ("3 in caller.roles", "3 in caller.roles", "an int is never in a list of strings"),
        ("caller.roles == \"a\"", "caller.roles == \"a\"", "a list of strings is never equal to a string"),
        ("caller.user", "caller.user", "a string"),
        ("caller.roles", "caller.roles", "a list of strings"),
        ("caller", "caller", "a map"),
        ("1 < \"a\"", "1 < \"a\"", "an int and a string cannot be ordered"),
        ("caller.roles < [\"a\"]", "caller.roles", "a list of strings"),
        ("call.tool && true", "call.tool", "a string"),
        ("!call.tool", "call.tool", "a string"),
        ("call.tool ? true : false", "call.tool", "a string"),
        (
            "call.tool.lowerAsci() == \"a\"",
            "call.tool.lowerAsci()",
            "no function `lowerAsci`; did you mean `lowerAscii`?",
        ),
        ("call.tool.startsWith(3)", "call.tool.startsWith(3)", "cannot be called with"),
        ("startsWith(call.tool, \"a\")", "startsWith(call.tool, \"a\")", "cannot be called with"),
        ("call.tool.matches(\"(\")", "\"(\"", "not a regular expression: unclosed group"),
        ("call.tool.matches(call.args.p)", "call.args.p", "requires a string literal"),
        ("call.args.a.split(call.args.b).size() == 1", "call.args.b", "requires a string literal"),
        ("call.args.a.split(\"\").size() == 1", "\"\"", "requires a string literal"),
        ("call.tool.user == \"a\"", "call.tool.user", "a string has no field `user`"),
        ("caller.roles[\"a\"] == \"b\"", "\"a\"", "a string"),
        ("call.tool[0] == \"b\"", "call.tool", "a string"),
        ("caller.user.all(c, c == \"a\")", "caller.user", "a string"),
        ("caller.roles.all(r, r)", "r", "a string"),
        ("caller.roles.all(r, r == 1)", "r == 1", "never equal"),
        ("caller.roles.all(call, true)", "", "`call` cannot be a loop variable"),
        ("caller.roles.all(r, caller.roles.all(r, true))", "", "`r` cannot be a loop variable"),
        ("[1].all(a, [1].all(b, [1].all(c, true)))", "", "loops are nested more than two deep"),
        ("call.args.a.all(x, call.args.b.all(y, x == y))", "call.args", "iterates over the arguments again"),
        ("call.args.a.all(x, x in call.args.a)", "call.args", "iterates over the arguments again"),
        ("call.args.a.all(x, call.method == \"a\")", "", ""),
        ("call.args.a.map(x, call[\"args\"]).size() == 1", "call", "iterates over the arguments again"),
        ("call.args.a.all(x, x.b.all(y, y == x))", "x", "iterates over the arguments again"),
        ("timestamp(\"2020-01-01T00:00:00Z\") < timestamp(\"a\")", "", "no function `timestamp`"),
        ("call.args.?x == 1", "", "not a condition"),
        ("call.tool == ", "", "not a condition"),
        ("call.tool === \"a\"", "", "not a condition"),
        ("", "", "not a condition"),
        ("Foo{a: 1} == 1", "", "messages are not supported"),
        ("{1.5: true}[\"a\"]", "1.5", "a double as the key of a map"),
        (".call.tool == \"a\"", "", "no variable `.call`"),
        ("-caller.user == 1", "caller.user", "a string"),
        ("call.args.a % 1.5 == 1.0", "1.5", "`%` does not take a double"),
    ] {
        if what.is_empty() {
            Condition::compile(text).expect(text);
            continue;
        }
        let (at, said) = flaw(text);
        assert!(said.contains(what), "{text}: {said}");
        assert!(place.is_empty() || at == place, "{text}: placed at {at:?}, not {place:?}");
    }
}

#[test]
fn long_and_deep_conditions_are_refused() {
    let long = format!("call.tool == \"{}\"", "ä".repeat(2100));
    assert!(flaw(&long).1.contains("condition has 4"));
    for text in [
        format!("{}true{}", "(".repeat(2000), ")".repeat(2000)),
        format!("{}1{} == 1", "-(".repeat(1000), ")".repeat(1000)),
        format!("call.args{}", ".a".repeat(2000)),
        format!("{}1{} == [1]", "[".repeat(2000), "]".repeat(2000)),
        format!("call.args{}", "[0]".repeat(1300)),
        "1+".repeat(2000) + "1 == 1",
        "true?".repeat(700),
    ] {
        Condition::compile(&text).expect_err("too deep");
    }
}

#[test]
fn the_deepest_condition_that_compiles_fits_half_the_stack_of_a_worker() {
    let nested = |n: usize| {
        let (open, close) = ("int(".repeat(n), ")".repeat(n));
        Condition::compile(&format!("[1].all(x, [1].all(y, {open}x{close} == 1))")).ok()
    };
    let deepest = (1..60).rev().find_map(nested).expect("one compiles");
    let said = std::thread::Builder::new()
        .stack_size(1 << 20)
        .spawn(move || deepest.evaluate(&CelContext::new(&caller(), "", None), |_| true))
        .expect("a thread")
        .join();
    assert_eq!(said.expect("an answer"), ConditionResult::True);
}

fn caller() -> Caller {
    let claims = serde_json::json!({"dept": "ops", "level": 3, "groups": ["a", "b"], "deep": {"x": [1]}});
    Caller::new(Identity {
        user: "ann".into(),
        tenant: Some("acme".into()),
        roles: vec!["dev".into(), "sre".into()],
        scopes: vec!["files:write".into()],
        auth_method: AuthMethod::Jwt,
        issuer: Some("https://id".into()),
        api_key_id: None,
        claims: claims.as_object().expect("an object").clone(),
    })
}

fn ask(text: &str, arguments: &str) -> ConditionResult {
    let condition = Condition::compile(text).unwrap_or_else(|flaw| panic!("{text}: {flaw}"));
    let caller = caller();
    let target = CallTarget { kind: TargetKind::Tool, name: "db__query", server: "db" };
    let ip = "::ffff:10.1.2.3".parse().ok();
    let context =
        CelContext::new(&caller, "tools/call", Some(target)).with_request(Some(arguments.as_bytes()), ip);
    condition.evaluate(&context, |_| true)
}

#[test]
fn conditions_see_the_caller_the_call_and_the_server() {
    for text in [
        "caller.user == \"ann\" && caller.tenant == \"acme\" && caller.via == \"jwt\"",
        "caller.issuer == \"https://id\" && caller.key == \"\"",
        "\"sre\" in caller.roles && !(\"x\" in caller.roles) && \"files:write\" in caller.scopes",
        "caller.ip == \"10.1.2.3\"",
        "caller.claims.dept == \"ops\" && caller.claims.level + 1 == 4 && \"a\" in caller.claims.groups",
        "caller[\"user\"] == \"ann\" && call[\"tool\"] == \"db__query\" && server[\"name\"] == \"db\"",
        "has(caller.claims.dept) && !has(caller.claims.nope) && has(caller.user) && has(call.args)",
        "call.method == \"tools/call\" && call.prompt == \"\" && call.resource == \"\" && server.name == \"db\"",
        "call.tool.startsWith(\"db__\") && call.tool.matches(\"^db__q\") && matches(call.tool, \"query$\")",
        "call.args.n + 1 == 4 && call.args.n - 1 == 2 && call.args.n < 4 && call.args.n == 3.0",
        "call.args.big > 9223372036854775807 && call.args.f == 1.5 && call.args.neg == -2",
        "call.args.s == \"a\\nb\" && size(call.args.l) == 3 && call.args.l[1] == 2 && call.args.z == null",
        "call.args.l.exists(x, x == 2) && call.args.l.all(x, x > 0) && call.args.l.map(x, x * 2) == [2, 4, 6]",
        "call.args.l.filter(x, x > 1).size() == 2 && call.args.l.exists_one(x, x == 1)",
        "call.args.rows.all(r, r.cells.all(c, c >= 0))",
        "caller.roles.exists(r, r in call.args.names) && call.args[\"n\"] == 3",
        "call.args.path.split(\"/\").all(p, p != \"..\") && call.args.path.lowerAscii() == \"a/b\"",
        "type(call.args.n) == int && type(call.args.s) == string && string(call.args.n) == \"3\"",
        "call.args.nope == 1 || true",
        "(call.args.nope == 1 ? true : true) || call.args.n == 3",
        "{\"a\": 1}[\"a\"] == 1 && \"n\" in call.args && [1, 2] + [3] == [1, 2, 3]",
        "call.args.t && !call.args.u",
    ] {
        let arguments = r#"{"n":3,"big":9223372036854775808,"f":1.5,"neg":-2,"s":"a\nb","l":[1,2,3],"z":null,
            "rows":[{"cells":[1,2]},{"cells":[]}],"names":["sre"],"path":"A/B","t":true,"u":false}"#;
        assert_eq!(ask(text, arguments), ConditionResult::True, "{text}");
    }
}

#[test]
fn an_evaluation_error_is_a_failure_unless_it_does_not_matter() {
    let failed = |text: &str, arguments: &str| match ask(text, arguments) {
        ConditionResult::Failed(why) => why,
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(failed("call.args.env == \"prod\"", "{}"), "no such key: env");
    assert_eq!(failed("call.args.env == \"prod\" && true", "{}"), "no such key: env");
    assert_eq!(failed("true && call.args.env == \"prod\"", "{}"), "no such key: env");
    assert_eq!(ask("call.args.env == \"prod\" && false", "{}"), ConditionResult::False);
    assert_eq!(ask("false && call.args.env == \"prod\"", "{}"), ConditionResult::False);
    assert_eq!(ask("(call.args.env == \"prod\" && true) && false", "{}"), ConditionResult::False);
    assert_eq!(failed("call.args.a", r#"{"a":1}"#), "the result is not a boolean");
    assert_eq!(failed("call.args.a / 0 == 1", r#"{"a":1}"#), "division by zero");
    assert!(failed("call.args.a + 1 == 1", r#"{"a":9223372036854775807}"#).contains("overflow"));
    assert!(!failed("call.args.a < 3", r#"{"a":"s3cret"}"#).contains("s3cret"));
    assert!(!failed("call.args.m[call.args.k] == 1", r#"{"m":{},"k":"s3cret"}"#).contains("s3cret"));
    for bad in
        [r#"{"a":1,"a":2}"#, r#"{"a":1,"\u0061":2}"#, r#"{"b":{"x":1,"x":1},"a":2}"#, "[]", "", "{", "{} x"]
    {
        assert!(failed("call.args.a == 1", bad).starts_with("the arguments cannot be evaluated"), "{bad}");
        assert_eq!(ask("call.args.a == 1 && call.tool == \"x\"", bad), ConditionResult::False);
        assert_eq!(ask("call.tool == \"db__query\"", bad), ConditionResult::True, "they are not looked at");
    }
    assert!(failed("call.args.a == 1", r#"{"a":1e400}"#).contains("too large"));
    let many = format!(r#"{{"a":[{}1]}}"#, "1,".repeat(10_000));
    assert!(failed("size(call.args.a) > 1", &many).contains("too many values"));
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(70), "]".repeat(70));
    assert!(failed("size(call.args.a) == 1", &deep).contains("nested too deep"));
}

#[test]
fn dependencies_come_from_the_text_of_a_condition() {
    let reads = |text: &str| Condition::compile(text).expect(text).dependencies();
    for text in [
        "has(call.args.x)",
        "has(call.args)",
        "call[\"args\"].x == 1",
        "call == {}",
        "size(call) == 1",
        "true || call.args.x == 1",
        "caller.ip == \"\"",
        "caller[\"ip\"] == \"\"",
        "size(caller) > 1",
        "[1].all(x, call.args.y == x)",
        "[call.args].size() == 1",
        "{\"a\": call.args}.size() == 1",
        "call[caller.user] == 1",
    ] {
        assert!(reads(text).is_volatile(), "{text}");
    }
    for text in
        ["has(caller.user)", "call.tool == \"call.args\"", "caller.roles.all(r, r == \"a\")", "server == {}"]
    {
        assert!(!reads(text).is_volatile(), "{text}");
    }
    assert!(reads("call.method == \"ping\"").method && !reads("call.tool == \"ping\"").method);
    assert!(reads("\"a\" in caller.roles").roles && !reads("\"a\" in caller.roles").person);
    assert!(reads("has(caller.claims.x)").person);
}

fn soup() -> impl Strategy<Value = String> {
    let message = prop::sample::select(vec![
        "caller",
        "call",
        "server",
        ".",
        "user",
        "args",
        "tool",
        "roles",
        "name",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "&&",
        "||",
        "!",
        "==",
        "!=",
        "<",
        "in",
        "+",
        "-",
        "*",
        "/",
        "%",
        "?",
        ":",
        ",",
        "\"a\"",
        "'",
        "r'",
        "1",
        "1.5",
        "1u",
        "-9223372036854775808",
        "true",
        "null",
        "has",
        "all",
        "exists",
        "map",
        "filter",
        "x",
        "size",
        "matches",
        "startsWith",
        "int",
        "string",
        "b\"\"",
        "\"\"\"",
        "ä",
        "\\",
        "\n",
        " ",
        "`",
        "//",
        "@",
        "@matches",
        "@result",
        "🦀",
        "0x",
        "9999999999999999999999",
        "1e999",
    ]);
    prop::collection::vec(message, 0..24).prop_map(|message| message.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_compiler_or_an_evaluation_panic(text in prop_oneof![soup(), ".{0,60}", "[\\PC(){}\\[\\]]{0,80}"]) {
        match Condition::compile(&text) {
            Err(flaw) => prop_assert!(text.get(flaw.bytes.clone()).is_some(), "{flaw:?}"),
            Ok(condition) => {
                let caller = caller();
                let said = condition.evaluate(&CelContext::new(&caller, "tools/call", None), |_| true);
                prop_assert_ne!(said, ConditionResult::Failed("the evaluation was aborted".into()));
            }
        }
    }
}
