//! Compile-time checks of a condition: unknown names, types that never match, and expensive shapes. Only
//! certain errors are rejected; arguments and claims can be anything.
//!
//! The cost: a loop over the arguments must not iterate over the arguments again for each element. Inside of
//! it, only the loop's own variable reaches them. One nested loop is enough for rows and cells; a third level
//! is rejected. These checks help the author of a condition; `cost` enforces the limit.

use std::ops::Range;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SelectExpr};

use super::dependencies::Dependencies;
use super::functions;
use super::spans::ExprSpans;
use super::types::CelType;
use super::{ConditionError, fields};
use crate::uri;

/// Deepest tree. An evaluation recurses as deep, on the stack of a worker.
const MAX_DEPTH: usize = 24;
const MAX_LOOPS: usize = 2;

/// A variable of a loop.
struct Local<'e> {
    name: &'e str,
    kind: CelType,
    /// It is an element of the arguments.
    of_args: bool,
}

pub(super) struct Checker<'e, 'p> {
    pub(super) spans: &'p ExprSpans<'p>,
    locals: Vec<Local<'e>>,
    depth: usize,
    loops: usize,
    /// The condition reads `call.resource`, a URI in normal form.
    resources: bool,
}

/// The known facts about a node: its type, and whether it holds a part of the arguments.
struct TypedNode {
    cel_type: CelType,
    of_args: bool,
}

type Checked = Result<TypedNode, ConditionError>;

/// Finds the first flaw of a condition.
pub(super) fn check(expr: &IdedExpr, spans: &ExprSpans<'_>) -> Result<(), ConditionError> {
    let resources = Dependencies::of(expr).resource;
    let mut checker = Checker { spans, locals: Vec::new(), depth: 0, loops: 0, resources };
    let kind = checker.node(expr)?.cel_type;
    checker.expect_type(expr, &kind, &CelType::Bool)
}

pub(super) fn condition_error(
    bytes: Range<usize>,
    what: impl Into<String>,
    expected: impl Into<String>,
) -> ConditionError {
    ConditionError { bytes, what: what.into(), expected: expected.into() }
}

impl<'e> Checker<'e, '_> {
    fn node(&mut self, expr: &'e IdedExpr) -> Checked {
        if self.depth == MAX_DEPTH {
            let expected = format!("at most {MAX_DEPTH} levels");
            return Err(condition_error(self.spans.of(expr), "condition is nested too deep", expected));
        }
        self.depth += 1;
        let known = self.inside(expr);
        self.depth -= 1;
        known
    }

    fn inside(&mut self, expr: &'e IdedExpr) -> Checked {
        let constant = |kind| Ok(TypedNode { cel_type: kind, of_args: false });
        match &expr.expr {
            Expr::Literal(LiteralValue::String(text)) if self.resources => {
                self.check_uri(expr, text.inner())?;
                constant(CelType::String)
            }
            Expr::Literal(literal) => constant(match literal {
                LiteralValue::Boolean(_) => CelType::Bool,
                LiteralValue::Bytes(_) => CelType::Bytes,
                LiteralValue::Double(_) => CelType::Double,
                LiteralValue::Int(_) => CelType::Int,
                LiteralValue::Null => CelType::Null,
                LiteralValue::String(_) => CelType::String,
                LiteralValue::UInt(_) => CelType::Uint,
            }),
            Expr::Ident(name) => self.ident(expr, name),
            Expr::Select(select) => self.select(expr, select),
            Expr::Call(call) => self.call(expr, call),
            Expr::Comprehension(inner) => self.comprehension(expr, inner),
            Expr::List(list) => {
                let mut of_args = false;
                let mut kind: Option<CelType> = None;
                for element in &list.elements {
                    let known = self.node(element)?;
                    of_args |= known.of_args;
                    kind = Some(kind.map_or(known.cel_type.clone(), |kind| kind.or(known.cel_type)));
                }
                Ok(TypedNode { cel_type: CelType::List(Box::new(kind.unwrap_or(CelType::Dyn))), of_args })
            }
            Expr::Map(map) => {
                let mut of_args = false;
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(condition_error(self.spans.of(expr), "not a map", "`{\"key\": value}`"));
                    };
                    let key = self.node(&entry.key)?;
                    if matches!(
                        key.cel_type,
                        CelType::Double | CelType::Null | CelType::Map | CelType::List(_) | CelType::Bytes
                    ) {
                        let what = format!("{} as the key of a map", key.cel_type);
                        return Err(condition_error(
                            self.spans.of(&entry.key),
                            what,
                            "a string, a whole number or a bool",
                        ));
                    }
                    of_args |= key.of_args | self.node(&entry.value)?.of_args;
                }
                Ok(TypedNode { cel_type: CelType::Map, of_args })
            }
            Expr::Struct(_) | Expr::Unspecified => Err(condition_error(
                self.spans.of(expr),
                "messages are not supported in conditions",
                "a map such as `{\"key\": value}`",
            )),
        }
    }

    /// A URI not in normal form would silently never match `call.resource`.
    fn check_uri(&self, expr: &IdedExpr, text: &str) -> Result<(), ConditionError> {
        match uri::normalize(text) {
            Ok(normal) if uri::is_absolute(text) && normal != text => Err(condition_error(
                self.spans.of(expr),
                "`call.resource` never equals this URI, which is not in its normal form",
                format!("\"{normal}\""),
            )),
            _ => Ok(()),
        }
    }

    fn ident(&mut self, expr: &IdedExpr, name: &str) -> Checked {
        if let Some(at) = self.locals.iter().rposition(|local| local.name == name) {
            let local = &self.locals[at];
            if local.of_args && self.locals[at + 1..].iter().any(|deeper| deeper.of_args) {
                return Err(self.again(expr));
            }
            return Ok(TypedNode { cel_type: local.kind.clone(), of_args: local.of_args });
        }
        if fields::fields(name).is_some() {
            let of_args = name == "call";
            if of_args && self.loops_over_args() {
                return Err(self.again(expr));
            }
            return Ok(TypedNode { cel_type: CelType::Map, of_args });
        }
        if functions::TYPES.contains(&name) {
            return Ok(TypedNode { cel_type: CelType::Type, of_args: false });
        }
        let known = ["caller", "call", "server"];
        let suggestion = functions::nearest(name, known.into_iter())
            .map_or(String::new(), |n| format!("; did you mean `{n}`?"));
        let what = format!("no variable `{name}`{suggestion}");
        Err(condition_error(self.spans.of(expr), what, "`caller`, `call` or `server`"))
    }

    fn select(&mut self, expr: &'e IdedExpr, select: &'e SelectExpr) -> Checked {
        let kind_if = |kind: CelType| if select.test { CelType::Bool } else { kind };
        let local = |name: &str| self.locals.iter().any(|local| local.name == name);
        if let Expr::Ident(variable) = &select.operand.expr
            && !local(variable)
            && let Some(fields) = fields::fields(variable)
        {
            if !fields.contains(&select.field.as_str()) {
                let suggestion = functions::nearest(&select.field, fields.iter().copied());
                let suggestion = suggestion.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
                let place = self.spans.name(expr, &select.field);
                let what = format!("`{variable}` has no field `{}`{suggestion}", select.field);
                return Err(condition_error(place, what, format!("one of {}", fields.join(", "))));
            }
            let of_args = variable == "call" && select.field == "args";
            if of_args && self.loops_over_args() {
                return Err(self.again(expr));
            }
            let kind = match select.field.as_str() {
                "roles" | "scopes" => CelType::strings(),
                "args" | "claims" => CelType::Map,
                _ => CelType::String,
            };
            return Ok(TypedNode { cel_type: kind_if(kind), of_args });
        }
        let operand = self.node(&select.operand)?;
        if !operand.cel_type.may_be(&CelType::Map) {
            let what = format!("{} has no field `{}`", operand.cel_type, select.field);
            return Err(condition_error(self.spans.of(expr), what, "a map before the dot"));
        }
        Ok(TypedNode { cel_type: kind_if(CelType::Dyn), of_args: operand.of_args })
    }

    fn call(&mut self, expr: &'e IdedExpr, call: &'e CallExpr) -> Checked {
        let mut kinds = Vec::new();
        let mut nodes = Vec::new();
        let mut of_args = false;
        for node in call.target.iter().map(|target| &**target).chain(&call.args) {
            let known = self.node(node)?;
            of_args |= known.of_args;
            kinds.push(known.cel_type);
            nodes.push(node);
        }
        let kind = match self.operator(expr, &call.func_name, &nodes, &kinds)? {
            Some(kind) => kind,
            None => self.function(expr, call, &nodes, &kinds)?,
        };
        // A bool or a number has no elements to iterate over.
        let small = matches!(kind, CelType::Bool | CelType::Int | CelType::Uint | CelType::Double);
        Ok(TypedNode { cel_type: kind, of_args: of_args && !small })
    }

    fn comprehension(&mut self, expr: &'e IdedExpr, inner: &'e ComprehensionExpr) -> Checked {
        if self.loops == MAX_LOOPS {
            let what = "loops are nested more than two deep";
            return Err(condition_error(self.spans.of(expr), what, "at most one loop within another"));
        }
        if inner.iter_var2.is_some() || self.shadows(&inner.iter_var) {
            let what = format!("`{}` cannot be a loop variable", inner.iter_var);
            return Err(condition_error(self.spans.of(expr), what, "a name that has no other meaning"));
        }
        let range = self.node(&inner.iter_range)?;
        let element = match &range.cel_type {
            CelType::List(element) => (**element).clone(),
            CelType::Map | CelType::Dyn => CelType::Dyn,
            other => {
                return Err(self.type_mismatch(&inner.iter_range, other, "a list or a map to iterate over"));
            }
        };
        let init = self.node(&inner.accu_init)?;
        let accu =
            if matches!(init.cel_type, CelType::List(_)) { CelType::anything() } else { init.cel_type };
        self.loops += 1;
        let floor = self.locals.len();
        self.locals.push(Local { name: &inner.iter_var, kind: element, of_args: range.of_args });
        self.locals.push(Local { name: &inner.accu_var, kind: accu, of_args: false });
        self.node(&inner.loop_cond)?;
        let step = self.node(&inner.loop_step)?;
        let result = self.node(&inner.result)?;
        self.locals.truncate(floor);
        self.loops -= 1;
        let small = matches!(result.cel_type, CelType::Bool | CelType::Int);
        Ok(TypedNode { cel_type: result.cel_type, of_args: !small && (range.of_args || step.of_args) })
    }

    fn shadows(&self, name: &str) -> bool {
        fields::fields(name).is_some()
            || functions::TYPES.contains(&name)
            || self.locals.iter().any(|local| local.name == name)
    }

    fn loops_over_args(&self) -> bool {
        self.locals.iter().any(|local| local.of_args)
    }

    fn again(&self, expr: &IdedExpr) -> ConditionError {
        let what = "iterates over the arguments again for each of their elements";
        condition_error(self.spans.of(expr), what, "the variable of the innermost loop")
    }

    pub(super) fn expect_type(
        &self,
        node: &IdedExpr,
        kind: &CelType,
        wanted: &CelType,
    ) -> Result<(), ConditionError> {
        if kind.may_be(wanted) { Ok(()) } else { Err(self.type_mismatch(node, kind, &wanted.to_string())) }
    }

    pub(super) fn type_mismatch(&self, node: &IdedExpr, kind: &CelType, expected: &str) -> ConditionError {
        condition_error(self.spans.of(node), kind.to_string(), expected)
    }
}
