//! The conditions of rules: CEL over `caller`, `call` and `server`, compiled and checked once, evaluated per
//! call.
//!
//! Compiling reports as many errors as possible, with their places, because a rule that fails at run time
//! denies. Two guarantees hold for every compiled condition: it does not panic, and it takes at most
//! [`STEPS`] steps, which are some milliseconds.
//!
//! Conditions know no roles or effects of their own and have no clock: the result for a caller and a tool
//! does not change with time, so it may be cached.

mod context;
mod cost;
mod dependencies;
mod eval;
mod fields;
mod functions;
mod operators;
mod spans;
mod type_check;
mod types;
mod value;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use cel::IdedExpr;
use cel::common::ast::Expr;

pub use context::CelContext;
pub use cost::{BUDGET_EXCEEDED, Fuel, LIST, STEPS};
pub use dependencies::Dependencies;
pub use eval::ConditionResult;
pub use value::{Arguments, InvalidArguments};

/// Longest condition, in bytes; it bounds the tree, and so the work of one evaluation.
pub const MAX_TEXT: usize = 4096;
/// The parser recurses, and a hostile text makes it recurse deeply before it fails.
const STACK: usize = 64 << 20;

/// One compiled `when`. A clone is one pointer.
#[derive(Clone)]
pub struct Condition(Arc<CompiledCondition>);

struct CompiledCondition {
    text: String,
    conjuncts: Vec<Conjunct>,
    dependencies: Dependencies,
}

/// A part of a condition between the top-level `&&`. In CEL the order of `&&` has no effect: the whole is
/// false if any part is, else an error if any part is, else true. So the parts can be evaluated separately.
pub struct Conjunct {
    pub(crate) expr: IdedExpr,
    pub dependencies: Dependencies,
    /// Its budget: the conjuncts share that of the condition, however many of them are evaluated at a time.
    steps: u32,
}

/// An error in a condition, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionError {
    /// The place in the text, on borders of characters.
    pub bytes: Range<usize>,
    pub what: String,
    pub expected: String,
}

impl Condition {
    /// Parses and checks a condition.
    pub fn compile(text: &str) -> Result<Self, ConditionError> {
        if text.len() > MAX_TEXT {
            let end = text.floor_char_boundary(MAX_TEXT);
            let what = format!("condition has {} bytes", text.len());
            return Err(ConditionError {
                bytes: end..text.len(),
                what,
                expected: format!("at most {MAX_TEXT} bytes"),
            });
        }
        let give_up = |what: &str| ConditionError {
            bytes: 0..text.len(),
            what: what.into(),
            expected: "a condition such as `call.tool == \"files__read\"`".into(),
        };
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("condition".into())
                .stack_size(STACK)
                .spawn_scoped(scope, || compile(text))
                .map_err(|_| give_up("no thread to compile a condition on"))?
                .join()
                .unwrap_or_else(|_| Err(give_up("not a condition")))
        })
    }

    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The conjuncts of the top-level `&&`, in their order.
    pub fn conjuncts(&self) -> &[Conjunct] {
        &self.0.conjuncts
    }

    /// What the whole condition reads.
    pub fn dependencies(&self) -> Dependencies {
        self.0.dependencies
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.text.fmt(f)
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl fmt::Display for ConditionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}; expected {}", self.what, self.bytes.start, self.expected)
    }
}

impl std::error::Error for ConditionError {}

fn compile(text: &str) -> Result<Condition, ConditionError> {
    let (mut expr, info) =
        eval::env().parser().parse_with_source_info(text).map_err(|errors| syntax_error(text, &errors))?;
    let places = spans::ExprSpans::new(text, &info);
    type_check::check(&expr, &places)?;
    functions::rename(&mut expr);
    cost::instrument(&mut expr);
    let mut parts = Vec::new();
    split(expr, &mut parts);
    divide_budget(&mut parts);
    let reads = parts.iter().fold(Dependencies::default(), |all, part| all | part.dependencies);
    Ok(Condition(Arc::new(CompiledCondition { text: text.into(), conjuncts: parts, dependencies: reads })))
}

fn split(expr: IdedExpr, parts: &mut Vec<Conjunct>) {
    match expr.expr {
        Expr::Call(call)
            if call.func_name == functions::AND && call.target.is_none() && call.args.len() == 2 =>
        {
            call.args.into_iter().for_each(|arg| split(arg, parts));
        }
        _ => {
            let reads = Dependencies::of(&expr);
            parts.push(Conjunct { expr, dependencies: reads, steps: 0 });
        }
    }
}

fn divide_budget(parts: &mut [Conjunct]) {
    let metered = |part: &Conjunct| cost::is_metered(&part.expr);
    let all: Vec<bool> =
        parts.iter().filter(|part| metered(part)).map(|part| part.dependencies.is_volatile()).collect();
    for part in parts {
        let kind = part.dependencies.is_volatile();
        part.steps = cost::budget_share(all.iter().filter(|other| **other == kind).count(), kind);
    }
}

/// The first error of the parser.
fn syntax_error(text: &str, errors: &cel::ParseErrors) -> ConditionError {
    let first = errors.errors.iter().find(|e| e.pos.0 > 0).or(errors.errors.first());
    let (line, column) = first.map_or((1, 1), |e| (e.pos.0.max(1) as usize, e.pos.1.max(1) as usize));
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let offset = text[start..].char_indices().nth(column - 1).map_or(text.len() - start, |(at, _)| at);
    let at = start + offset;
    let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
    let message = first.map_or("", |e| e.msg.as_str()).trim_start_matches("Syntax error: ");
    ConditionError {
        bytes: at..end,
        what: format!("not a condition: {}", message.chars().take(160).collect::<String>()),
        expected: "a CEL expression".into(),
    }
}
