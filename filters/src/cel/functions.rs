//! The functions that conditions may use.
//!
//! Left out on purpose: what makes more than it was given (`replace`, `join`, `format`), what has no use without
//! a clock (`timestamp`, `duration`; their sums can panic), and texts to search for that a caller could choose
//! where the search would not be linear.

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr};

use super::types::Kind;

pub(super) const AND: &str = "_&&_";
/// [`matches`](super::eval) that remembers its patterns. No text can name it.
pub(super) const MATCHES: &str = "@matches";

/// One way to call a function.
pub(super) struct Word {
    pub name: &'static str,
    /// Written `x.name()`: the first of `takes` stands before the dot.
    pub member: bool,
    pub takes: &'static [Takes],
    pub gives: Gives,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
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
pub(super) enum Gives {
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

impl Takes {
    pub(super) fn fits(self, kind: &Kind) -> bool {
        match self {
            Takes::Any => true,
            Takes::Bool => kind.may_be(&Kind::Bool),
            Takes::Int => kind.may_be(&Kind::Int),
            Takes::Uint => kind.may_be(&Kind::Uint),
            Takes::Double => kind.may_be(&Kind::Double),
            Takes::String | Takes::Literal | Takes::Pattern => kind.may_be(&Kind::String),
            Takes::Bytes => kind.may_be(&Kind::Bytes),
            Takes::List => kind.may_be(&Kind::anything()),
            Takes::Map => kind.may_be(&Kind::Map),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Takes::Bool => "bool",
            Takes::Int => "int",
            Takes::Uint => "uint",
            Takes::Double => "double",
            Takes::String => "string",
            Takes::Bytes => "bytes",
            Takes::List => "list",
            Takes::Map => "map",
            Takes::Any => "value",
            Takes::Literal => "\"text\"",
            Takes::Pattern => "\"pattern\"",
        }
    }
}

impl Gives {
    pub(super) fn kind(self) -> Kind {
        match self {
            Gives::Bool => Kind::Bool,
            Gives::Int => Kind::Int,
            Gives::Uint => Kind::Uint,
            Gives::Double => Kind::Double,
            Gives::String => Kind::String,
            Gives::Bytes => Kind::Bytes,
            Gives::Strings => Kind::strings(),
            Gives::Type => Kind::Type,
            Gives::Any => Kind::Dyn,
        }
    }
}

impl Word {
    /// How it is written, for messages.
    pub(super) fn shown(&self) -> String {
        let words = |of: &[Takes]| of.iter().map(|t| t.word()).collect::<Vec<_>>().join(", ");
        match (self.member, self.takes) {
            (true, [target, rest @ ..]) => format!("{}.{}({})", target.word(), self.name, words(rest)),
            _ => format!("{}({})", self.name, words(self.takes)),
        }
    }
}

const fn member(name: &'static str, takes: &'static [Takes], gives: Gives) -> Word {
    Word { name, member: true, takes, gives }
}

const fn global(name: &'static str, takes: &'static [Takes], gives: Gives) -> Word {
    Word { name, member: false, takes, gives }
}

pub(super) static WORDS: &[Word] = &{
    use Takes::{Any, Bool, Bytes, Double, Int, List, Literal, Map, Pattern, String, Uint};
    [
        member("startsWith", &[String, String], Gives::Bool),
        member("endsWith", &[String, String], Gives::Bool),
        member("contains", &[String, String], Gives::Bool),
        member("matches", &[String, Pattern], Gives::Bool),
        global("matches", &[String, Pattern], Gives::Bool),
        member("size", &[String], Gives::Int),
        member("size", &[List], Gives::Int),
        member("size", &[Map], Gives::Int),
        member("size", &[Bytes], Gives::Int),
        global("size", &[String], Gives::Int),
        global("size", &[List], Gives::Int),
        global("size", &[Map], Gives::Int),
        global("size", &[Bytes], Gives::Int),
        member("lowerAscii", &[String], Gives::String),
        member("upperAscii", &[String], Gives::String),
        member("trim", &[String], Gives::String),
        member("reverse", &[String], Gives::String),
        member("charAt", &[String, Int], Gives::String),
        member("substring", &[String, Int], Gives::String),
        member("substring", &[String, Int, Int], Gives::String),
        member("indexOf", &[String, Literal], Gives::Int),
        member("lastIndexOf", &[String, Literal], Gives::Int),
        member("split", &[String, Literal], Gives::Strings),
        global("string", &[String], Gives::String),
        global("string", &[Bool], Gives::String),
        global("string", &[Int], Gives::String),
        global("string", &[Uint], Gives::String),
        global("string", &[Double], Gives::String),
        global("string", &[Bytes], Gives::String),
        global("int", &[Int], Gives::Int),
        global("int", &[Uint], Gives::Int),
        global("int", &[Double], Gives::Int),
        global("int", &[String], Gives::Int),
        global("uint", &[Uint], Gives::Uint),
        global("uint", &[Int], Gives::Uint),
        global("uint", &[Double], Gives::Uint),
        global("uint", &[String], Gives::Uint),
        global("double", &[Double], Gives::Double),
        global("double", &[Int], Gives::Double),
        global("double", &[Uint], Gives::Double),
        global("double", &[String], Gives::Double),
        global("bool", &[Bool], Gives::Bool),
        global("bool", &[String], Gives::Bool),
        global("bytes", &[String], Gives::Bytes),
        global("bytes", &[Bytes], Gives::Bytes),
        global("dyn", &[Any], Gives::Any),
        global("type", &[Any], Gives::Type),
    ]
};

/// Whether a function gives a bool or a number whatever it takes.
pub(super) fn gives_small(name: &str) -> bool {
    let mut named = WORDS.iter().filter(|word| word.name == name).peekable();
    named.peek().is_some()
        && named.all(|word| matches!(word.gives, Gives::Bool | Gives::Int | Gives::Uint | Gives::Double))
}

/// The macros of CEL, which the parser has replaced already; for "did you mean".
pub(super) static MACROS: &[&str] = &["has", "all", "exists", "exists_one", "map", "filter"];

/// The types that can be named, as in `type(call.args.n) == int`.
pub(super) static TYPES: &[&str] =
    &["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// Puts [`MATCHES`] in the place of `matches`, whose pattern is known to be written out.
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

/// The known name that is meant, if one is near enough for that.
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
