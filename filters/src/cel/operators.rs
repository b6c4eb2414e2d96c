//! What operators and functions take and give, as far as it can be told from the kinds of what they are given.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue};

use super::Flaw;
use super::functions;
use super::functions::{Takes, WORDS};
use super::type_check::{Checker, flaw};
use super::types::Kind;

impl Checker<'_, '_> {
    /// The kind of an operator, or nothing if it is none.
    pub(super) fn operator(
        &self,
        expr: &IdedExpr,
        name: &str,
        nodes: &[&IdedExpr],
        kinds: &[Kind],
    ) -> Result<Option<Kind>, Flaw> {
        let kind = match (name, kinds) {
            ("_?_:_", [test, yes, no]) => {
                self.want(nodes[0], test, &Kind::Bool)?;
                yes.clone().or(no.clone())
            }
            ("_&&_" | "_||_", [one, two]) => {
                self.want(nodes[0], one, &Kind::Bool)?;
                self.want(nodes[1], two, &Kind::Bool)?;
                Kind::Bool
            }
            ("!_" | "@not_strictly_false", [one]) => {
                self.want(nodes[0], one, &Kind::Bool)?;
                Kind::Bool
            }
            ("-_", [one]) => match one {
                Kind::Int | Kind::Double | Kind::Dyn => one.clone(),
                _ => return Err(self.misfit(nodes[0], one, "an int or a double")),
            },
            ("_==_" | "_!=_", [one, two]) => {
                if !one.may_equal(two) {
                    let what = format!("{one} is never equal to {two}");
                    return Err(flaw(self.places.of(expr), what, "two values of one type"));
                }
                Kind::Bool
            }
            ("_<_" | "_<=_" | "_>_" | "_>=_", [one, two]) => {
                for (node, kind) in nodes.iter().zip(kinds) {
                    if matches!(kind, Kind::List(_) | Kind::Map | Kind::Null | Kind::Type) {
                        return Err(self.misfit(node, kind, "values that have an order"));
                    }
                }
                if !one.may_equal(two) {
                    let what = format!("{one} has no order with {two}");
                    return Err(flaw(self.places.of(expr), what, "two values of one type"));
                }
                Kind::Bool
            }
            ("@in", [one, of]) => {
                match of {
                    Kind::List(element) if !one.may_equal(element) => {
                        let what = format!("{one} is never in {of}");
                        return Err(flaw(self.places.of(expr), what, "a value such as the list has"));
                    }
                    Kind::List(_) | Kind::Map | Kind::Dyn => {}
                    Kind::String => {
                        return Err(self.misfit(nodes[1], of, "a list or a map; for texts `x.contains(y)`"));
                    }
                    _ => return Err(self.misfit(nodes[1], of, "a list or a map")),
                }
                Kind::Bool
            }
            ("_[_]", [of, at]) => match of {
                Kind::List(element) => {
                    if !matches!(at, Kind::Int | Kind::Uint | Kind::Double | Kind::Dyn) {
                        return Err(self.misfit(nodes[1], at, "a number as the index of a list"));
                    }
                    (**element).clone()
                }
                Kind::Map | Kind::Dyn => Kind::Dyn,
                _ => return Err(self.misfit(nodes[0], of, "a list or a map before the bracket")),
            },
            ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", [one, two]) => {
                let sums = name == "_+_";
                let fits = |kind: &Kind| match kind {
                    Kind::String | Kind::Bytes | Kind::List(_) => sums,
                    Kind::Double => name != "_%_",
                    Kind::Int | Kind::Uint | Kind::Dyn => true,
                    _ => false,
                };
                let sign = &name[1..2];
                for (node, kind) in nodes.iter().zip(kinds) {
                    if !fits(kind) {
                        let what = format!("`{sign}` does not take {kind}");
                        return Err(flaw(self.places.of(node), what, "numbers"));
                    }
                }
                if !one.may_be(two) {
                    let what = format!("`{sign}` does not take {one} and {two}");
                    return Err(flaw(self.places.of(expr), what, "two values of one type"));
                }
                match (one, two) {
                    (Kind::List(one), Kind::List(two)) => {
                        Kind::List(Box::new(one.as_ref().clone().or(two.as_ref().clone())))
                    }
                    (Kind::Dyn, known) | (known, _) => known.clone(),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(kind))
    }

    pub(super) fn function(
        &self,
        expr: &IdedExpr,
        call: &CallExpr,
        nodes: &[&IdedExpr],
        kinds: &[Kind],
    ) -> Result<Kind, Flaw> {
        let name = call.func_name.as_str();
        let member = call.target.is_some();
        let mut named = WORDS.iter().filter(|word| word.name == name).peekable();
        if named.peek().is_none() {
            let known = WORDS.iter().map(|word| word.name).chain(functions::MACROS.iter().copied());
            let meant = functions::nearest(name, known).map_or(String::new(), |n| format!("; `{n}`?"));
            return Err(flaw(
                self.places.of(expr),
                format!("no function `{name}`{meant}"),
                "a function such as startsWith, contains, matches, size, lowerAscii, split, has, exists, all",
            ));
        }
        let mut fits = named.filter(|word| {
            word.member == member
                && word.takes.len() == kinds.len()
                && word.takes.iter().zip(kinds).all(|(takes, kind)| takes.fits(kind))
        });
        let Some(word) = fits.next() else {
            let shown: Vec<String> = WORDS.iter().filter(|w| w.name == name).map(|w| w.shown()).collect();
            let given: Vec<String> = kinds.iter().map(Kind::to_string).collect();
            let what = format!("`{name}` cannot be called like this, with {}", given.join(" and "));
            return Err(flaw(self.places.of(expr), what, shown.join(", ")));
        };
        for (takes, node) in word.takes.iter().zip(nodes) {
            let literal = match &node.expr {
                Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
                _ => None,
            };
            match (takes, literal) {
                (Takes::Literal, None | Some("")) | (Takes::Pattern, None) => {
                    let what = format!("`{name}` takes no text that a call brings along");
                    return Err(flaw(self.places.of(node), what, "a text in quotes"));
                }
                (Takes::Pattern, Some(pattern)) => {
                    if let Err(error) = regex::Regex::new(pattern) {
                        let said = error.to_string();
                        let last = said.lines().last().unwrap_or_default().trim_start_matches("error: ");
                        let what = format!("not a regular expression: {last}");
                        return Err(flaw(self.places.of(node), what, "a pattern such as \"^db__\""));
                    }
                }
                _ => {}
            }
        }
        let first = word.gives.kind();
        Ok(fits.fold(first, |kind, word| kind.or(word.gives.kind())))
    }
}
