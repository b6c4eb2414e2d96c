//! The functions that conditions may use.
//!
//! Deliberately missing: functions with a result larger than their input (`replace`, `join`, `format`), those
//! that need a clock (`timestamp`, `duration`; their sums can panic), and search texts chosen by a caller
//! where the search would not be linear.

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr};

use super::types::CelType;

pub(super) const AND: &str = "_&&_";
/// [`matches`](super::eval) with cached patterns. No condition can name it.
pub(super) const MATCHES: &str = "@matches";

/// One overload of a function.
pub(super) struct Function {
    pub name: &'static str,
    /// Written `x.name()`: the first of `params` is before the dot.
    pub member: bool,
    pub params: &'static [Param],
    pub returns: Return,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Param {
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    List,
    Map,
    Any,
    /// A string that is written out in the condition, and not empty.
    Literal,
    /// A regular expression that is written out in the condition.
    Pattern,
}

#[derive(Clone, Copy)]
pub(super) enum Return {
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Strings,
    Type,
    Any,
}

impl Param {
    pub(super) fn accepts(self, kind: &CelType) -> bool {
        match self {
            Param::Any => true,
            Param::Bool => kind.may_be(&CelType::Bool),
            Param::Int => kind.may_be(&CelType::Int),
            Param::Uint => kind.may_be(&CelType::Uint),
            Param::Double => kind.may_be(&CelType::Double),
            Param::String | Param::Literal | Param::Pattern => kind.may_be(&CelType::String),
            Param::Bytes => kind.may_be(&CelType::Bytes),
            Param::List => kind.may_be(&CelType::anything()),
            Param::Map => kind.may_be(&CelType::Map),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Param::Bool => "bool",
            Param::Int => "int",
            Param::Uint => "uint",
            Param::Double => "double",
            Param::String => "string",
            Param::Bytes => "bytes",
            Param::List => "list",
            Param::Map => "map",
            Param::Any => "value",
            Param::Literal => "\"text\"",
            Param::Pattern => "\"pattern\"",
        }
    }
}

impl Return {
    pub(super) fn cel_type(self) -> CelType {
        match self {
            Return::Bool => CelType::Bool,
            Return::Int => CelType::Int,
            Return::Uint => CelType::Uint,
            Return::Double => CelType::Double,
            Return::String => CelType::String,
            Return::Bytes => CelType::Bytes,
            Return::Strings => CelType::strings(),
            Return::Type => CelType::Type,
            Return::Any => CelType::Dyn,
        }
    }
}

impl Function {
    /// How it is written, for messages.
    pub(super) fn signature(&self) -> String {
        let params = |of: &[Param]| of.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(", ");
        match (self.member, self.params) {
            (true, [target, rest @ ..]) => format!("{}.{}({})", target.as_str(), self.name, params(rest)),
            _ => format!("{}({})", self.name, params(self.params)),
        }
    }
}

const fn member(name: &'static str, takes: &'static [Param], gives: Return) -> Function {
    Function { name, member: true, params: takes, returns: gives }
}

const fn global(name: &'static str, takes: &'static [Param], gives: Return) -> Function {
    Function { name, member: false, params: takes, returns: gives }
}

pub(super) static FUNCTIONS: &[Function] = &{
    use Param::{Any, Bool, Bytes, Double, Int, List, Literal, Map, Pattern, String, Uint};
    [
        member("startsWith", &[String, String], Return::Bool),
        member("endsWith", &[String, String], Return::Bool),
        member("contains", &[String, String], Return::Bool),
        member("matches", &[String, Pattern], Return::Bool),
        global("matches", &[String, Pattern], Return::Bool),
        member("size", &[String], Return::Int),
        member("size", &[List], Return::Int),
        member("size", &[Map], Return::Int),
        member("size", &[Bytes], Return::Int),
        global("size", &[String], Return::Int),
        global("size", &[List], Return::Int),
        global("size", &[Map], Return::Int),
        global("size", &[Bytes], Return::Int),
        member("lowerAscii", &[String], Return::String),
        member("upperAscii", &[String], Return::String),
        member("trim", &[String], Return::String),
        member("reverse", &[String], Return::String),
        member("charAt", &[String, Int], Return::String),
        member("substring", &[String, Int], Return::String),
        member("substring", &[String, Int, Int], Return::String),
        member("indexOf", &[String, Literal], Return::Int),
        member("lastIndexOf", &[String, Literal], Return::Int),
        member("split", &[String, Literal], Return::Strings),
        global("string", &[String], Return::String),
        global("string", &[Bool], Return::String),
        global("string", &[Int], Return::String),
        global("string", &[Uint], Return::String),
        global("string", &[Double], Return::String),
        global("string", &[Bytes], Return::String),
        global("int", &[Int], Return::Int),
        global("int", &[Uint], Return::Int),
        global("int", &[Double], Return::Int),
        global("int", &[String], Return::Int),
        global("uint", &[Uint], Return::Uint),
        global("uint", &[Int], Return::Uint),
        global("uint", &[Double], Return::Uint),
        global("uint", &[String], Return::Uint),
        global("double", &[Double], Return::Double),
        global("double", &[Int], Return::Double),
        global("double", &[Uint], Return::Double),
        global("double", &[String], Return::Double),
        global("bool", &[Bool], Return::Bool),
        global("bool", &[String], Return::Bool),
        global("bytes", &[String], Return::Bytes),
        global("bytes", &[Bytes], Return::Bytes),
        global("dyn", &[Any], Return::Any),
        global("type", &[Any], Return::Type),
    ]
};

/// Whether a function always returns a bool or a number.
pub(super) fn returns_scalar(name: &str) -> bool {
    let mut named = FUNCTIONS.iter().filter(|function| function.name == name).peekable();
    named.peek().is_some()
        && named.all(|function| {
            matches!(function.returns, Return::Bool | Return::Int | Return::Uint | Return::Double)
        })
}

/// The macros of CEL, which the parser has already expanded; for "did you mean".
pub(super) static MACROS: &[&str] = &["has", "all", "exists", "exists_one", "map", "filter"];

/// The types with a name, as in `type(call.args.n) == int`.
pub(super) static TYPES: &[&str] =
    &["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// Replaces `matches` with [`MATCHES`]; its pattern is known to be a literal.
pub(super) fn rename(expr: &mut IdedExpr) {
    match &mut expr.expr {
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| rename(target));
            call.args.iter_mut().for_each(rename);
            if call.func_name == "matches" {
                if let Some(target) = call.target.take() {
                    call.args.insert(0, *target);
                }
                call.func_name = MATCHES.into();
            }
        }
        Expr::Comprehension(loop_) => {
            for inner in [
                &mut loop_.iter_range,
                &mut loop_.accu_init,
                &mut loop_.loop_cond,
                &mut loop_.loop_step,
                &mut loop_.result,
            ] {
                rename(inner);
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(rename),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    rename(&mut entry.key);
                    rename(&mut entry.value);
                }
            }
        }
        Expr::Select(select) => rename(&mut select.operand),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}

/// The most similar known name, if there is one.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (distance(&word.to_lowercase(), &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Levenshtein's distance.
fn distance(one: &str, two: &str) -> usize {
    if one.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=two.chars().count()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in two.chars().enumerate() {
            let change = corner + usize::from(a != b);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[two.chars().count()]
}
