//! The conditions of rules: CEL over `caller`, `call` and `server`, compiled and checked once, asked per call.
//!
//! What can be wrong with a condition is said when it is compiled, with its place: a rule that fails at run time
//! denies, and nobody wants to learn of a typing error that way. Two promises hold for every condition that
//! compiles: it does not panic, and it takes no more than [`STEPS`] steps, which are some milliseconds.
//!
//! It deliberately knows no roles and no effects, and gives conditions no clock: what a rule says of a caller and
//! a tool today it also says tomorrow, so it may be remembered.

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

pub use context::Scene;
pub use cost::{Fuel, LIST, SPENT, STEPS};
pub use dependencies::Reads;
pub use eval::Outcome;
pub use value::{Arguments, Unfit};

/// Longest condition, in bytes; it bounds the tree, and so the work of one evaluation.
pub const MAX_TEXT: usize = 4096;
/// The parser recurses, and a hostile text makes it recurse far before it gives up.
const STACK: usize = 64 << 20;

/// One compiled `when`. A clone is one pointer.
#[derive(Clone)]
pub struct Condition(Arc<Compiled>);

struct Compiled {
    text: String,
    parts: Vec<Part>,
    reads: Reads,
}

/// What stands between the `&&` on the top of a condition. In CEL `&&` does not care for the order: the whole is
/// false if any part is, else an error if any part is, else true; so the parts may be asked one by one.
pub struct Part {
    pub(crate) expr: IdedExpr,
    pub reads: Reads,
    /// How many it may take: the parts share what a condition has, however many of them are asked at a time.
    steps: u32,
}

/// What is wrong with a condition, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The place in the text, on borders of characters.
    pub bytes: Range<usize>,
    pub what: String,
    pub expected: String,
}

impl Condition {
    /// Parses and checks a condition.
    pub fn compile(text: &str) -> Result<Self, Flaw> {
        if text.len() > MAX_TEXT {
            let end = text.floor_char_boundary(MAX_TEXT);
            let what = format!("a condition of {} bytes", text.len());
            return Err(Flaw { bytes: end..text.len(), what, expected: format!("at most {MAX_TEXT} bytes") });
        }
        let give_up = |what: &str| Flaw {
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

    /// The parts between the `&&` on the top, in their order.
    pub fn parts(&self) -> &[Part] {
        &self.0.parts
    }

    /// What the condition as a whole reads.
    pub fn reads(&self) -> Reads {
        self.0.reads
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

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}; expected {}", self.what, self.bytes.start, self.expected)
    }
}

impl std::error::Error for Flaw {}

fn compile(text: &str) -> Result<Condition, Flaw> {
    let (mut expr, info) =
        eval::env().parser().parse_with_source_info(text).map_err(|errors| misread(text, &errors))?;
    let places = spans::Places::new(text, &info);
    type_check::check(&expr, &places)?;
    functions::rename(&mut expr);
    cost::put_into(&mut expr);
    let mut parts = Vec::new();
    split(expr, &mut parts);
    share(&mut parts);
    let reads = parts.iter().fold(Reads::default(), |all, part| all | part.reads);
    Ok(Condition(Arc::new(Compiled { text: text.into(), parts, reads })))
}

fn split(expr: IdedExpr, parts: &mut Vec<Part>) {
    match expr.expr {
        Expr::Call(call)
            if call.func_name == functions::AND && call.target.is_none() && call.args.len() == 2 =>
        {
            call.args.into_iter().for_each(|arg| split(arg, parts));
        }
        _ => {
            let reads = Reads::of(&expr);
            parts.push(Part { expr, reads, steps: 0 });
        }
    }
}

fn share(parts: &mut [Part]) {
    let metered = |part: &Part| cost::is_metered(&part.expr);
    let all: Vec<bool> =
        parts.iter().filter(|part| metered(part)).map(|part| part.reads.is_volatile()).collect();
    for part in parts {
        let kind = part.reads.is_volatile();
        part.steps = cost::share(all.iter().filter(|other| **other == kind).count(), kind);
    }
}

/// The first thing that the parser stumbled over.
fn misread(text: &str, errors: &cel::ParseErrors) -> Flaw {
    let first = errors.errors.iter().find(|e| e.pos.0 > 0).or(errors.errors.first());
    let (line, column) = first.map_or((1, 1), |e| (e.pos.0.max(1) as usize, e.pos.1.max(1) as usize));
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let offset = text[start..].char_indices().nth(column - 1).map_or(text.len() - start, |(at, _)| at);
    let at = start + offset;
    let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
    let said = first.map_or("", |e| e.msg.as_str()).trim_start_matches("Syntax error: ");
    Flaw {
        bytes: at..end,
        what: format!("not a condition: {}", said.chars().take(160).collect::<String>()),
        expected: "a CEL expression".into(),
    }
}
