//! Arguments as the schema crate sees them, with a cost for each access.
//!
//! The cost of a check is the schema times the arguments, and powers of that with circular references. So
//! each access is charged to a fixed budget. If the budget is exceeded, the check is aborted by unwinding:
//! the crate has no other way to stop. Unwinding is silent (no panic message). It leaves no partial state,
//! since a check owns all that it builds, and [`with_budget`] catches it.

use std::borrow::Cow;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, SerdeJson};
use serde_json::{Map, Value};

thread_local! {
    static BUDGET: Cell<CheckBudget> = const { Cell::new(CheckBudget { left: 0, per_chunk: 0, per_child: 1 }) };
}

/// The remaining budget, and the prices that depend on the schema.
#[derive(Clone, Copy)]
pub(super) struct CheckBudget {
    pub left: u64,
    /// For 64 bytes of a string that a pattern searches.
    pub per_chunk: u64,
    /// For a member or an element.
    pub per_child: u64,
}

/// The check was broken off.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BudgetExceeded;

/// Runs a check with a budget.
pub(super) fn with_budget<T>(budget: CheckBudget, check: impl FnOnce() -> T) -> Result<T, BudgetExceeded> {
    BUDGET.set(budget);
    catch_unwind(AssertUnwindSafe(check)).map_err(|cause| match cause.downcast::<BudgetExceeded>() {
        Ok(_) => BudgetExceeded,
        Err(fault) => resume_unwind(fault),
    })
}

fn charge(price: impl FnOnce(&CheckBudget) -> u64) {
    let mut budget = BUDGET.get();
    match budget.left.checked_sub(price(&budget)) {
        Some(left) => budget.left = left,
        None => resume_unwind(Box::new(BudgetExceeded)),
    }
    BUDGET.set(budget);
}

/// The representation: `serde_json`'s values, metered.
pub(super) struct Metered;

#[derive(Clone, Copy)]
pub(super) struct MeteredValue<'a>(pub &'a Value);

#[derive(Clone, Copy)]
pub(super) struct Members<'a>(&'a Map<String, Value>);

#[derive(Clone, Copy)]
pub(super) struct Elements<'a>(&'a [Value]);

type Plain<'a> = &'a Value;

impl Json for Metered {
    type Node<'a> = MeteredValue<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    const KEYS_PER_LOOKUP: usize = 2;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(MeteredValue<'_>) -> T) -> T {
        SerdeJson::with_string_node(buffer, string, |value| f(MeteredValue(value)))
    }
}

impl<'a> Node<'a, Metered> for MeteredValue<'a> {
    type Object = Members<'a>;
    type Array = Elements<'a>;
    type Number = &'a serde_json::Number;

    fn as_object(&self) -> Option<Members<'a>> {
        charge(|_| 1);
        Plain::as_object(&self.0).map(Members)
    }

    fn as_array(&self) -> Option<Elements<'a>> {
        charge(|_| 1);
        self.0.as_array().map(|items| Elements(items))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let text = self.0.as_str();
        charge(|budget| 1 + budget.per_chunk * (text.map_or(0, str::len) as u64).div_ceil(64));
        text.map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a serde_json::Number> {
        charge(|_| 1);
        match self.0 {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        charge(|_| 1);
        self.0.as_bool()
    }

    fn is_null(&self) -> bool {
        charge(|_| 1);
        self.0.is_null()
    }

    fn json_type(&self) -> JsonType {
        charge(|_| 1);
        Node::json_type(&self.0)
    }

    fn string_length(&self) -> Option<u64> {
        charge(|_| 1 + self.0.as_str().map_or(0, str::len) as u64 / 256);
        Node::string_length(&self.0)
    }

    fn equals_value(&self, expected: &Value) -> bool {
        // The expected value is part of the schema, so its size is bounded; a difference ends the comparison
        // at once.
        charge(|_| 2);
        Node::equals_value(&self.0, expected)
    }

    fn to_value(&self) -> Cow<'a, Value> {
        charge(|_| 1);
        Cow::Borrowed(self.0)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        charge(|_| 1);
        Node::identity(&self.0)
    }
}

impl<'a> Object<'a, Metered> for Members<'a> {
    type Node = MeteredValue<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        charge(|_| 1);
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<MeteredValue<'a>> {
        let found = self.0.get(key.as_str());
        charge(|budget| if found.is_some() { budget.per_child } else { 1 });
        found.map(MeteredValue)
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter(self.0.iter())
    }
}

pub(super) struct MembersIter<'a>(serde_json::map::Iter<'a>);

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, MeteredValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.0.next()?;
        // A name may be matched against each pattern of the schema.
        charge(|budget| budget.per_child + budget.per_chunk * (key.len() as u64).div_ceil(64));
        Some((key, MeteredValue(value)))
    }
}

impl<'a> Array<'a, Metered> for Elements<'a> {
    type Node = MeteredValue<'a>;
    type ElementsIter = ElementsIter<'a>;

    fn len(&self) -> usize {
        charge(|_| 1);
        self.0.len()
    }

    fn elements(&self) -> ElementsIter<'a> {
        ElementsIter(self.0.iter())
    }

    fn is_unique(&self) -> bool {
        // Compared by hash; each element is read completely.
        charge(|_| 8 * self.0.iter().map(size).sum::<u64>());
        jsonschema::json::unique::is_unique(self.0)
    }
}

/// Values in a value.
fn size(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<u64>(),
        Value::Object(members) => 1 + members.values().map(size).sum::<u64>(),
        Value::String(text) => 1 + text.len() as u64 / 64,
        _ => 1,
    }
}

pub(super) struct ElementsIter<'a>(std::slice::Iter<'a, Value>);

impl<'a> Iterator for ElementsIter<'a> {
    type Item = MeteredValue<'a>;

    fn next(&mut self) -> Option<MeteredValue<'a>> {
        charge(|budget| budget.per_child);
        self.0.next().map(MeteredValue)
    }
}
