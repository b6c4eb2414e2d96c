//! The cost limit of one evaluation, in steps counted at run time. An evaluation over the limit fails, and
//! the condition denies.
//!
//! Callers choose claims, roles and arguments, so the text of a condition does not determine its run time:
//! `groups.exists(g, args.list.exists(x, x == g))` is cheap for ten elements and takes a minute for ten
//! thousand. The evaluator has no such limit. So compiling instruments the tree. Each pass of a loop pays for
//! the nodes of its body. An operation that copies, compares or searches a value of unknown length pays for
//! that length first.
//!
//! Steps are independent of time: the same call has the same result on a slow machine. 100,000 steps take
//! some milliseconds.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue};
use cel::common::types::{CelDouble, CelInt, CelString, DYN_TYPE, INT_TYPE, Kind};
use cel::common::value::{BuiltinRef, CowVal, Val};
use cel::{Env, ExecutionError, IdedExpr};

use super::dependencies::each;
use super::{fields, functions};
use crate::request::Caller;

/// Steps of one condition in one call.
pub const STEPS: u32 = 100_000;
/// A conjunct without arguments and address is evaluated for each name in a list, on values no larger than a
/// token.
const FIXED: u32 = STEPS / 4;
/// The steps of all conditions for the names of one list: 20,000 each for 5,000 names. Names that remain
/// after that are not shown.
pub const LIST: u32 = 100_000_000;
/// Bytes per step: of a value that is traversed, and of a text that a pattern searches.
const BYTES: usize = 128;
const SEARCHED: usize = 32;
/// Of a text that is split into pieces, each of which is a value.
const CUT: usize = 2;

/// Why an evaluation was stopped.
pub const BUDGET_EXCEEDED: &str = "it takes too many steps";

thread_local! {
    static LEFT: Cell<u32> = const { Cell::new(0) };
    static OVERSPENT: Cell<bool> = const { Cell::new(false) };
}

/// Names of functions that no condition can name.
const PASS: &str = "@pass";
const WEIGH: &str = "@weigh";
const KEY: &str = "@key";
const CUTTING: &str = "@cutting";

/// The remaining steps for a list. Each evaluation has its own limit too.
pub struct Fuel {
    left: AtomicU32,
    /// An evaluation stopped because these were spent, not its own.
    is_out: AtomicBool,
    /// The cost of converting the caller's claims to values, for each name again.
    claims: u32,
}

impl Fuel {
    /// The budget for one list of this caller; see [`LIST`].
    pub fn of(steps: u32, caller: &Caller) -> Self {
        let claims = caller.claims.values().map(values).sum();
        Self { left: AtomicU32::new(steps), is_out: AtomicBool::new(false), claims }
    }

    pub fn left(&self) -> u32 {
        self.left.load(Relaxed)
    }

    /// Resets the flag for insufficient fuel and returns its value.
    pub(crate) fn take_out(&self) -> bool {
        self.is_out.swap(false, Relaxed)
    }

    /// Pays for the claims as values.
    pub(super) fn pay_claims(&self) {
        self.burn(self.claims, self.left() < self.claims);
    }

    fn burn(&self, steps: u32, is_out: bool) {
        self.left.store(self.left().saturating_sub(steps), Relaxed);
        if is_out {
            self.is_out.store(true, Relaxed);
        }
    }
}

fn values(of: &serde_json::Value) -> u32 {
    match of {
        serde_json::Value::Array(all) => 1 + all.iter().map(values).sum::<u32>(),
        serde_json::Value::Object(all) => 1 + all.values().map(values).sum::<u32>(),
        _ => 1,
    }
}

/// Runs an evaluation with this budget, limited by `fuel`; returns whether it exceeded the budget.
pub(super) fn with_budget<T>(steps: u32, fuel: Option<&Fuel>, evaluate: impl FnOnce() -> T) -> (T, bool) {
    let budget = fuel.map_or(steps, |fuel| fuel.left().min(steps));
    LEFT.set(budget);
    OVERSPENT.set(false);
    let value = evaluate();
    if let Some(fuel) = fuel {
        fuel.burn(budget - LEFT.get(), OVERSPENT.get() && budget < steps);
    }
    (value, OVERSPENT.get())
}

/// The budget of each of so many conjuncts.
pub(super) fn budget_share(parts: usize, is_volatile: bool) -> u32 {
    let all = if is_volatile { STEPS } else { FIXED };
    all / u32::try_from(parts.max(1)).unwrap_or(u32::MAX)
}

fn charge(steps: usize) -> Result<(), ExecutionError> {
    let left = u32::try_from(steps).ok().and_then(|steps| LEFT.get().checked_sub(steps));
    LEFT.set(left.unwrap_or(0));
    if left.is_some() {
        return Ok(());
    }
    OVERSPENT.set(true);
    Err(ExecutionError::function_error("meter", BUDGET_EXCEEDED))
}

/// Pays for going over a value once.
pub(super) fn charge_value(value: &dyn Val) -> Result<(), ExecutionError> {
    match value.as_builtin() {
        BuiltinRef::String(text) => charge(1 + text.inner().len() / BYTES),
        BuiltinRef::Bytes(bytes) => charge(1 + bytes.inner().len() / BYTES),
        BuiltinRef::List(list) => {
            charge(1)?;
            list.inner().iter().try_for_each(|value| charge_value(value.as_ref()))
        }
        BuiltinRef::Map(map) => {
            charge(1)?;
            map.inner().iter().try_for_each(|(key, value)| {
                charge_value(key.inner())?;
                charge_value(value.as_ref())
            })
        }
        _ => charge(1),
    }
}

/// Charges for a pattern search. A pattern that compiles to a large program may look at each byte many times.
pub(super) fn charge_search(text: &str, is_large: bool) -> Result<(), ExecutionError> {
    let each = if is_large { SEARCHED / 8 } else { SEARCHED };
    charge(1 + text.len() / each)
}

pub(super) fn add_to(env: &mut Env) {
    let added = [
        env.add_overload(PASS, "pass_dyn", vec![DYN_TYPE, INT_TYPE], |mut args| {
            let steps = args.pop().and_then(|steps| steps.downcast_ref::<CelInt>().map(|n| *n.inner()));
            charge(steps.and_then(|steps| usize::try_from(steps).ok()).unwrap_or(usize::MAX))?;
            args.pop().ok_or_else(ExecutionError::missing_argument_or_target)
        }),
        env.add_overload(WEIGH, "weigh_dyn", vec![DYN_TYPE], |mut args| {
            let value = args.pop().ok_or_else(ExecutionError::missing_argument_or_target)?;
            charge_value(value.as_ref())?;
            Ok(value)
        }),
        env.add_overload(CUTTING, "cutting_dyn", vec![DYN_TYPE], |mut args| {
            let text = args.pop().ok_or_else(ExecutionError::missing_argument_or_target)?;
            charge(1 + text.downcast_ref::<CelString>().map_or(0, |text| text.inner().len()) / CUT)?;
            Ok(text)
        }),
        env.add_overload(KEY, "key_dyn", vec![DYN_TYPE], key),
    ];
    added.into_iter().for_each(|added| added.expect("no identifier starts with @"));
}

/// The key of an index, without a copy of the list or map: the evaluator's own error would hold the list.
fn key<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let key = args.pop().ok_or_else(ExecutionError::missing_argument_or_target)?;
    charge_value(key.as_ref())?;
    let fits = match key.get_type().kind() {
        Kind::String | Kind::Int | Kind::UInt | Kind::Boolean => true,
        Kind::Double => key.downcast_ref::<CelDouble>().is_some_and(|n| n.inner().fract() == 0.0),
        _ => false,
    };
    if fits { Ok(key) } else { Err(ExecutionError::function_error("index", "no key or index")) }
}

/// Puts the counting into a tree that was checked.
pub(super) fn instrument(expr: &mut IdedExpr) {
    walk(expr, false);
}

/// Whether evaluating it pays for anything.
pub(super) fn is_metered(expr: &IdedExpr) -> bool {
    let mut metered = match &expr.expr {
        Expr::Call(call) => [PASS, WEIGH, KEY, CUTTING, functions::MATCHES].contains(&&*call.func_name),
        Expr::Ident(name) => fields::fields(name).is_some(),
        Expr::Select(select) if matches!(select.operand.expr, Expr::Ident(_)) => return false,
        _ => false,
    };
    each(expr, &mut |inner| metered |= is_metered(inner));
    metered
}

fn walk(expr: &mut IdedExpr, in_loop: bool) {
    match &mut expr.expr {
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| walk(target, in_loop));
            call.args.iter_mut().for_each(|arg| walk(arg, in_loop));
            operands(call, in_loop);
        }
        Expr::List(list) => {
            for element in &mut list.elements {
                walk(element, in_loop);
                wrap(element, WEIGH);
            }
        }
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    for inner in [&mut entry.key, &mut entry.value] {
                        walk(inner, in_loop);
                        wrap(inner, WEIGH);
                    }
                }
            }
        }
        Expr::Comprehension(inner) => loop_(inner, in_loop),
        Expr::Select(select) => walk(&mut select.operand, in_loop),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}

/// Charges for operands that are traversed. Outside of loops only slow operations and those that create
/// values pay. The number of the others is limited by the text, and they are as fast as reading the call was.
fn operands(call: &mut CallExpr, in_loop: bool) {
    let name = call.func_name.as_str();
    let pays = match name {
        "_&&_" | "_||_" | "!_" | "@not_strictly_false" | "_?_:_" | functions::MATCHES => false,
        "_[_]" => {
            if let (true, Some(key)) = (in_loop, call.args.get_mut(1)) {
                wrap(key, KEY);
            }
            false
        }
        "split" => {
            call.target.iter_mut().for_each(|text| wrap(text, CUTTING));
            false
        }
        "_+_" => true,
        "startsWith" | "endsWith" | "dyn" | "type" => in_loop,
        _ => in_loop || !name.starts_with(['_', '@', '-']),
    };
    if pays {
        call.target.iter_mut().map(|target| &mut **target).chain(&mut call.args).for_each(|operand| {
            wrap(operand, WEIGH);
        });
    }
}

/// A loop copies each element of its range, and evaluates its body for each.
fn loop_(of: &mut ComprehensionExpr, in_loop: bool) {
    let nodes = nodes(&of.loop_cond) + nodes(&of.loop_step);
    walk(&mut of.iter_range, in_loop);
    wrap(&mut of.iter_range, WEIGH);
    // `map` and `filter` append to a list. The evaluator recognizes that by the shape of the step, which must
    // not change.
    let appends = matches!(&of.accu_init.expr, Expr::List(list) if list.elements.is_empty());
    if !appends {
        walk(&mut of.loop_cond, true);
        walk(&mut of.loop_step, true);
        // An error in the step of `all` and `exists` is deferred to the end of the loop; here it ends the
        // loop.
        return charge_steps(&mut of.loop_cond, nodes);
    }
    let Expr::Call(step) = &mut of.loop_step.expr else { return };
    match (step.func_name.as_str(), step.args.as_mut_slice()) {
        ("_?_:_", [guard, append, _]) => {
            walk(guard, true);
            charge_steps(guard, nodes);
            if let Expr::Call(append) = &mut append.expr {
                append.args.iter_mut().skip(1).for_each(|list| walk(list, true));
            }
        }
        ("_+_", [_, list]) => {
            walk(list, true);
            if let Expr::List(list) = &mut list.expr {
                list.elements.iter_mut().for_each(|element| charge_steps(element, nodes));
            }
        }
        _ => {}
    }
}

fn nodes(expr: &IdedExpr) -> usize {
    let mut count = 1;
    each(expr, &mut |inner| count += nodes(inner));
    count
}

fn charge_steps(expr: &mut IdedExpr, steps: usize) {
    let steps = i64::try_from(steps).unwrap_or(i64::MAX);
    let steps = IdedExpr { id: expr.id, expr: Expr::Literal(LiteralValue::Int(CelInt::from(steps))) };
    call(expr, PASS, vec![steps]);
}

/// Wraps an expression of unknown size.
fn wrap(expr: &mut IdedExpr, name: &str) {
    if !is_small(expr) {
        call(expr, name, Vec::new());
    }
}

fn call(expr: &mut IdedExpr, name: &str, more: Vec<IdedExpr>) {
    let id = expr.id;
    let inner = std::mem::replace(expr, IdedExpr { id, expr: Expr::Unspecified });
    let args = std::iter::once(inner).chain(more).collect();
    expr.expr = Expr::Call(CallExpr { func_name: name.into(), target: None, args });
}

/// A literal, or always a bool or a number.
fn is_small(expr: &IdedExpr) -> bool {
    match &expr.expr {
        Expr::Literal(_) => true,
        Expr::Select(select) => select.test,
        Expr::Ident(name) => functions::TYPES.contains(&name.as_str()),
        Expr::Call(call) => match call.func_name.as_str() {
            "_&&_"
            | "_||_"
            | "!_"
            | "@not_strictly_false"
            | "_==_"
            | "_!=_"
            | "_<_"
            | "_<=_"
            | "_>_"
            | "_>=_"
            | "@in"
            | "_-_"
            | "_*_"
            | "_/_"
            | "_%_"
            | "-_" => true,
            functions::MATCHES | WEIGH | PASS => true,
            name => functions::returns_scalar(name),
        },
        _ => false,
    }
}
