//! Conditions see in arguments what a strict reader sees: an equation with all values is true. Arguments
//! that the reader rejects (a duplicate key, anything that is no object) are evaluated by no condition.
#![no_main]

use std::sync::LazyLock;

use filters::cel::{Arguments, CelContext, Condition, ConditionResult, InvalidArguments, MAX_TEXT};
use filters::{Caller, Identity};
use fuzz::json::{Value, depth, value};
use libfuzzer_sys::fuzz_target;

/// Longest arguments that become a condition: compiling it is the slow part.
const LONGEST: usize = 256;

static CALLER: LazyLock<Caller> = LazyLock::new(|| Caller::new(Identity::default()));
static ANY: LazyLock<Condition> =
    LazyLock::new(|| Condition::compile("size(call.args) >= 0").expect("a condition"));

fuzz_target!(|arguments: &[u8]| {
    let theirs = value(arguments).filter(|value| matches!(value, Value::Object(_)));
    let theirs = theirs.filter(|value| depth(arguments) <= 64 && value.size() <= 10_000);
    let ours = Arguments::read(arguments).map(drop);
    let finite = theirs.as_ref().is_some_and(is_finite);
    match (&theirs, ours) {
        (Some(_), Ok(())) => assert!(finite, "a number was made infinite"),
        (Some(_), Err(InvalidArguments::Number)) => {
            assert!(!finite, "a number that is not too large was refused")
        }
        (Some(_), Err(why)) => panic!("a strict reader accepts what was refused: {why}"),
        (None, Ok(())) => panic!("a strict reader refuses what was accepted"),
        (None, Err(_)) => {}
    }
    let ask = |condition: &Condition| {
        let context = CelContext::new(&CALLER, "tools/call", None).with_request(Some(arguments), None);
        condition.evaluate(&context, |_| true)
    };
    let any = ask(&ANY);
    let Some(theirs) = theirs.filter(|_| finite) else {
        assert!(matches!(any, ConditionResult::Failed(_)), "{any:?}");
        return;
    };
    assert_eq!(any, ConditionResult::True);
    if arguments.len() > LONGEST {
        return;
    }
    let text = format!("call.args == {}", said(&theirs));
    if text.len() > MAX_TEXT {
        return;
    }
    // The checker rejects some literals (a list of numbers and texts); a condition that it accepts is true.
    if let Ok(condition) = Condition::compile(&text) {
        assert_eq!(ask(&condition), ConditionResult::True, "{text}");
    }
    // Each value by itself gives the same, and has its own type.
    let Value::Object(all) = &theirs else { unreachable!("only objects are left") };
    for (key, value) in all.iter().take(3) {
        let member = format!("call.args[{}]", quoted(key));
        let kind = match value {
            Value::Null => format!("{member} == null"),
            Value::Bool(_) => format!("({member} ? true : true)"),
            Value::Number(_) => format!("{member} * {} == {member}", unit(value)),
            Value::Text(text) => format!("size({member}) == {}", text.chars().count()),
            Value::List(all) => format!("size({member}) == {}", all.len()),
            Value::Object(all) => format!("size({member}) == {}", all.len()),
        };
        let text = format!("{member} == {} && {kind}", said(value));
        if let Ok(condition) = Condition::compile(&text) {
            assert_eq!(ask(&condition), ConditionResult::True, "{text}");
        }
    }
});

/// How CEL writes a value.
fn said(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(truth) => truth.to_string(),
        Value::Text(text) => quoted(text),
        Value::Number(raw) => number(raw),
        Value::List(all) => format!("[{}]", all.iter().map(said).collect::<Vec<_>>().join(", ")),
        Value::Object(all) => {
            let member = |(key, value): &(String, Value)| format!("{}: {}", quoted(key), said(value));
            format!("{{{}}}", all.iter().map(member).collect::<Vec<_>>().join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let letter = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' => c.to_string(),
        c => format!("\\U{:08x}", u32::from(c)),
    };
    format!("\"{}\"", text.chars().map(letter).collect::<String>())
}

/// An integer that fits is an int, otherwise a uint; all others are doubles.
fn number(raw: &str) -> String {
    match raw.contains(['.', 'e', 'E']) {
        false if raw.parse::<i64>().is_ok() => raw.parse::<i64>().expect("it is one").to_string(),
        false if raw.parse::<u64>().is_ok() => format!("{raw}u"),
        _ => {
            let text = format!("{:e}", raw.parse::<f64>().expect("it is a number"));
            if text.contains('.') { text } else { text.replace('e', ".0e") }
        }
    }
}

/// One, in the type of the number: no other can be multiplied with it.
fn unit(value: &Value) -> &'static str {
    match value {
        Value::Number(raw) => match number(raw) {
            text if text.ends_with('u') => "1u",
            text if text.contains('.') => "1.0",
            _ => "1",
        },
        _ => unreachable!("asked of numbers only"),
    }
}

fn is_finite(value: &Value) -> bool {
    match value {
        Value::Number(raw) => {
            raw.parse::<u64>().is_ok() || raw.parse::<f64>().is_ok_and(|number| number.is_finite())
        }
        Value::List(all) => all.iter().all(is_finite),
        Value::Object(all) => all.iter().all(|(_, value)| is_finite(value)),
        _ => true,
    }
}
