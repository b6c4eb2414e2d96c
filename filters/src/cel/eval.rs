//! Evaluates one conjunct. Any error is a result of its own, which denies.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::types::{CelBool, CelString, STRING_TYPE};
use cel::common::value::CowVal;
use cel::{Context, Env, ExecutionError, Value};

use super::context::CelContext;
use super::{Condition, Conjunct, cost, functions};

/// The result of a condition for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionResult {
    True,
    False,
    /// The evaluation failed. The text holds no value of an argument, so it may be logged.
    Failed(String),
}

impl ConditionResult {
    /// `&&`: false if either is false, else a failure if either failed.
    pub fn and(self, other: ConditionResult) -> ConditionResult {
        match (self, other) {
            (ConditionResult::False, _) | (_, ConditionResult::False) => ConditionResult::False,
            (ConditionResult::Failed(why), _) | (_, ConditionResult::Failed(why)) => {
                ConditionResult::Failed(why)
            }
            (ConditionResult::True, ConditionResult::True) => ConditionResult::True,
        }
    }
}

impl Condition {
    /// Evaluates the conjuncts that `chosen` selects.
    pub fn evaluate(&self, values: &CelContext<'_>, chosen: impl Fn(&Conjunct) -> bool) -> ConditionResult {
        let mut context = Context::with_env(Arc::clone(env()));
        context.set_variable_resolver(values);
        let mut all = ConditionResult::True;
        for part in self.conjuncts().iter().filter(|part| chosen(part)) {
            all = all.and(self.evaluate_conjunct(part, values, &context));
            if all == ConditionResult::False {
                break;
            }
        }
        all
    }

    fn evaluate_conjunct(
        &self,
        part: &Conjunct,
        values: &CelContext<'_>,
        context: &Context<'_, '_>,
    ) -> ConditionResult {
        if part.dependencies.args
            && let Some(why) = values.arguments_error()
        {
            return ConditionResult::Failed(format!("the arguments cannot be evaluated: {why}"));
        }
        // No panic is known. A panic must not let a call through or end a worker.
        let (result, overspent) = cost::with_budget(part.steps, values.fuel(), || {
            catch_unwind(AssertUnwindSafe(|| {
                Value::resolve_val(&part.expr, context)
                    .map(|value| value.downcast_ref::<CelBool>().map(|b| *b.inner()))
            }))
        });
        if overspent {
            // `too much || true` is no result either.
            return ConditionResult::Failed(cost::BUDGET_EXCEEDED.into());
        }
        match result {
            Ok(Ok(Some(true))) => ConditionResult::True,
            Ok(Ok(Some(false))) => ConditionResult::False,
            Ok(Ok(None)) => ConditionResult::Failed("the result is not a boolean".into()),
            Ok(Err(error)) => ConditionResult::Failed(self.error_text(&error)),
            Err(_) => ConditionResult::Failed("the evaluation was aborted".into()),
        }
    }

    /// The text of the error, without its values.
    fn error_text(&self, error: &ExecutionError) -> String {
        use ExecutionError as E;
        match error {
            E::NoSuchKey(key) if key.len() <= 128 && self.text().contains(key.as_str()) => {
                format!("no such key: {key}")
            }
            E::NoSuchKey(_) => "no such key".into(),
            E::NoSuchOverload(error) => error.to_string(),
            E::UnexpectedType { got, want: acquisition } => format!("{got} where {acquisition} is needed"),
            E::UnsupportedBinaryOperator(name, ..) => format!("`{name}` does not take these types"),
            E::ValuesNotComparable(..) => "types that cannot be ordered".into(),
            E::DivisionByZero(_) | E::RemainderByZero(_) => "division by zero".into(),
            E::Overflow(name, ..) => format!("`{name}` overflows"),
            E::IndexOutOfBounds(_) => "index out of bounds".into(),
            E::FunctionError { function, .. } => format!("`{function}` failed"),
            _ => "it cannot be evaluated".into(),
        }
    }
}

/// The one environment: building it costs a hundred microseconds.
pub(super) fn env() -> &'static Arc<Env> {
    static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
        let mut env = Env::stdlib().with_optional_support(false);
        env.add_extension(cel::extensions::strings).expect("the standard library has no names of `strings`");
        env.add_overload(functions::MATCHES, "matches_literal", vec![STRING_TYPE, STRING_TYPE], matches)
            .expect("no identifier starts with @");
        cost::add_to(&mut env);
        Arc::new(env)
    });
    &ENV
}

/// Most patterns that a thread remembers.
const MAX_PATTERNS: usize = 512;

/// A larger compiled pattern may look at each byte of a text many times.
const LARGE_PATTERN: usize = 64 << 10;

/// A pattern that a thread remembers.
struct CompiledRegex {
    regex: regex::Regex,
    is_large: bool,
}

impl CompiledRegex {
    fn new(pattern: &str) -> Result<Self, regex::Error> {
        let is_large = regex::RegexBuilder::new(pattern).size_limit(LARGE_PATTERN).build().is_err();
        Ok(Self { regex: regex::Regex::new(pattern)?, is_large })
    }

    fn is_match(&self, text: &str) -> Result<bool, ExecutionError> {
        cost::charge_search(text, self.is_large)?;
        Ok(self.regex.is_match(text))
    }
}

/// `matches` of the standard library compiles its pattern at each call.
fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    thread_local! {
        static PATTERNS: RefCell<HashMap<String, CompiledRegex>> = RefCell::default();
    }
    let text = |at: usize| args.get(at).and_then(|arg| arg.downcast_ref::<CelString>()).map(|s| s.inner());
    let (Some(text), Some(pattern)) = (text(0), text(1)) else {
        return Err(ExecutionError::missing_argument_or_target());
    };
    let found = PATTERNS.with_borrow_mut(|patterns| {
        if let Some(known) = patterns.get(pattern) {
            return known.is_match(text);
        }
        if patterns.len() == MAX_PATTERNS {
            patterns.clear();
        }
        let compiled =
            CompiledRegex::new(pattern).map_err(|e| ExecutionError::function_error("matches", e))?;
        let found = compiled.is_match(text);
        patterns.insert(pattern.to_owned(), compiled);
        found
    })?;
    Ok(CowVal::owned(CelBool::from(found)))
}
