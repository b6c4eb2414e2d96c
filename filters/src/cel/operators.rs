//! Type checks of operators and functions, as far as their operand types are known.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue};

use super::ConditionError;
use super::functions;
use super::functions::{FUNCTIONS, Param};
use super::type_check::{Checker, condition_error};
use super::types::CelType;

impl Checker<'_, '_> {
    /// The result type of an operator, or `None` if it is no operator.
    pub(super) fn operator(
        &self,
        expr: &IdedExpr,
        name: &str,
        nodes: &[&IdedExpr],
        kinds: &[CelType],
    ) -> Result<Option<CelType>, ConditionError> {
        let kind = match (name, kinds) {
            ("_?_:_", [test, yes, no]) => {
                self.expect_type(nodes[0], test, &CelType::Bool)?;
                yes.clone().or(no.clone())
            }
            ("_&&_" | "_||_", [one, two]) => {
                self.expect_type(nodes[0], one, &CelType::Bool)?;
                self.expect_type(nodes[1], two, &CelType::Bool)?;
                CelType::Bool
            }
            ("!_" | "@not_strictly_false", [one]) => {
                self.expect_type(nodes[0], one, &CelType::Bool)?;
                CelType::Bool
            }
            ("-_", [one]) => match one {
                CelType::Int | CelType::Double | CelType::Dyn => one.clone(),
                _ => return Err(self.type_mismatch(nodes[0], one, "an int or a double")),
            },
            ("_==_" | "_!=_", [one, two]) => {
                if !one.may_equal(two) {
                    let what = format!("{one} is never equal to {two}");
                    return Err(condition_error(self.spans.of(expr), what, "two values of one type"));
                }
                CelType::Bool
            }
            ("_<_" | "_<=_" | "_>_" | "_>=_", [one, two]) => {
                for (node, kind) in nodes.iter().zip(kinds) {
                    if matches!(kind, CelType::List(_) | CelType::Map | CelType::Null | CelType::Type) {
                        return Err(self.type_mismatch(node, kind, "values that can be ordered"));
                    }
                }
                if !one.may_equal(two) {
                    let what = format!("{one} and {two} cannot be ordered");
                    return Err(condition_error(self.spans.of(expr), what, "two values of one type"));
                }
                CelType::Bool
            }
            ("@in", [one, of]) => {
                match of {
                    CelType::List(element) if !one.may_equal(element) => {
                        let what = format!("{one} is never in {of}");
                        return Err(condition_error(
                            self.spans.of(expr),
                            what,
                            "a value of the list's element type",
                        ));
                    }
                    CelType::List(_) | CelType::Map | CelType::Dyn => {}
                    CelType::String => {
                        return Err(self.type_mismatch(
                            nodes[1],
                            of,
                            "a list or a map; for texts `x.contains(y)`",
                        ));
                    }
                    _ => return Err(self.type_mismatch(nodes[1], of, "a list or a map")),
                }
                CelType::Bool
            }
            ("_[_]", [of, at]) => match of {
                CelType::List(element) => {
                    if !matches!(at, CelType::Int | CelType::Uint | CelType::Double | CelType::Dyn) {
                        return Err(self.type_mismatch(nodes[1], at, "a number as the index of a list"));
                    }
                    (**element).clone()
                }
                CelType::Map | CelType::Dyn => CelType::Dyn,
                _ => return Err(self.type_mismatch(nodes[0], of, "a list or a map before the bracket")),
            },
            ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", [one, two]) => {
                let sums = name == "_+_";
                let fits = |kind: &CelType| match kind {
                    CelType::String | CelType::Bytes | CelType::List(_) => sums,
                    CelType::Double => name != "_%_",
                    CelType::Int | CelType::Uint | CelType::Dyn => true,
                    _ => false,
                };
                let sign = &name[1..2];
                for (node, kind) in nodes.iter().zip(kinds) {
                    if !fits(kind) {
                        let what = format!("`{sign}` does not take {kind}");
                        return Err(condition_error(self.spans.of(node), what, "numbers"));
                    }
                }
                if !one.may_be(two) {
                    let what = format!("`{sign}` does not take {one} and {two}");
                    return Err(condition_error(self.spans.of(expr), what, "two values of one type"));
                }
                match (one, two) {
                    (CelType::List(one), CelType::List(two)) => {
                        CelType::List(Box::new(one.as_ref().clone().or(two.as_ref().clone())))
                    }
                    (CelType::Dyn, known) | (known, _) => known.clone(),
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
        kinds: &[CelType],
    ) -> Result<CelType, ConditionError> {
        let name = call.func_name.as_str();
        let member = call.target.is_some();
        let mut named = FUNCTIONS.iter().filter(|function| function.name == name).peekable();
        if named.peek().is_none() {
            let known =
                FUNCTIONS.iter().map(|function| function.name).chain(functions::MACROS.iter().copied());
            let suggestion =
                functions::nearest(name, known).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            return Err(condition_error(
                self.spans.of(expr),
                format!("no function `{name}`{suggestion}"),
                "a function such as startsWith, contains, matches, size, lowerAscii, split, has, exists, all",
            ));
        }
        let mut fits = named.filter(|function| {
            function.member == member
                && function.params.len() == kinds.len()
                && function.params.iter().zip(kinds).all(|(takes, kind)| takes.accepts(kind))
        });
        let Some(function) = fits.next() else {
            let shown: Vec<String> =
                FUNCTIONS.iter().filter(|w| w.name == name).map(|w| w.signature()).collect();
            let given: Vec<String> = kinds.iter().map(CelType::to_string).collect();
            let what = format!("`{name}` cannot be called with {}", given.join(" and "));
            return Err(condition_error(self.spans.of(expr), what, shown.join(", ")));
        };
        for (takes, node) in function.params.iter().zip(nodes) {
            let literal = match &node.expr {
                Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
                _ => None,
            };
            match (takes, literal) {
                (Param::Literal, None | Some("")) | (Param::Pattern, None) => {
                    let what = format!("`{name}` requires a string literal here");
                    return Err(condition_error(self.spans.of(node), what, "a string in quotes"));
                }
                (Param::Pattern, Some(pattern)) => {
                    if let Err(error) = regex::Regex::new(pattern) {
                        let text = error.to_string();
                        let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                        let what = format!("not a regular expression: {last}");
                        return Err(condition_error(
                            self.spans.of(node),
                            what,
                            "a pattern such as \"^db__\"",
                        ));
                    }
                }
                _ => {}
            }
        }
        let first = function.returns.cel_type();
        Ok(fits.fold(first, |kind, function| kind.or(function.returns.cel_type())))
    }
}
