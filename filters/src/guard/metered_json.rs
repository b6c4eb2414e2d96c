//! Arguments as the schema crate sees them, with a meter on each look.
//!
//! What a check costs is the schema times the arguments, and with circular references their powers. So each
//! look at a value is paid for out of a fixed purse, and when that is empty the check is broken off, from
//! whatever depth, by unwinding: the crate has no other way out. Unwinding is silent (no panic message), leaves
//! nothing half done, as all that a check builds is its own, and is caught in [`within`].

use std::borrow::Cow;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, SerdeJson};
use serde_json::{Map, Value};

thread_local! {
    static PURSE: Cell<Purse> = const { Cell::new(Purse { left: 0, letter: 0, child: 1 }) };
}

/// What is left, and the prices that depend on the schema.
#[derive(Clone, Copy)]
pub(super) struct Purse {
    pub left: u64,
    /// For 64 bytes of a string that a pattern is held against.
    pub letter: u64,
    /// For a member or an element.
    pub child: u64,
}

/// The check was broken off.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spent;

/// Runs a check that may spend so much.
pub(super) fn within<T>(purse: Purse, check: impl FnOnce() -> T) -> Result<T, Spent> {
    PURSE.set(purse);
    catch_unwind(AssertUnwindSafe(check)).map_err(|cause| match cause.downcast::<Spent>() {
        Ok(_) => Spent,
        Err(fault) => resume_unwind(fault),
    })
}

fn pay(price: impl FnOnce(&Purse) -> u64) {
    let mut purse = PURSE.get();
    match purse.left.checked_sub(price(&purse)) {
        Some(left) => purse.left = left,
        None => resume_unwind(Box::new(Spent)),
    }
    PURSE.set(purse);
}

/// The representation: `serde_json`'s values, metered.
pub(super) struct Metered;

#[derive(Clone, Copy)]
pub(super) struct Seen<'a>(pub &'a Value);

#[derive(Clone, Copy)]
pub(super) struct Members<'a>(&'a Map<String, Value>);

#[derive(Clone, Copy)]
pub(super) struct Elements<'a>(&'a [Value]);

type Plain<'a> = &'a Value;

impl Json for Metered {
    type Node<'a> = Seen<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    const KEYS_PER_LOOKUP: usize = 2;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(Seen<'_>) -> T) -> T {
        SerdeJson::with_string_node(buffer, string, |value| f(Seen(value)))
    }
}

impl<'a> Node<'a, Metered> for Seen<'a> {
    type Object = Members<'a>;
    type Array = Elements<'a>;
    type Number = &'a serde_json::Number;

    fn as_object(&self) -> Option<Members<'a>> {
        pay(|_| 1);
        Plain::as_object(&self.0).map(Members)
    }

    fn as_array(&self) -> Option<Elements<'a>> {
        pay(|_| 1);
        self.0.as_array().map(|items| Elements(items))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let text = self.0.as_str();
        pay(|purse| 1 + purse.letter * (text.map_or(0, str::len) as u64).div_ceil(64));
        text.map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a serde_json::Number> {
        pay(|_| 1);
        match self.0 {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        pay(|_| 1);
        self.0.as_bool()
    }

    fn is_null(&self) -> bool {
        pay(|_| 1);
        self.0.is_null()
    }

    fn json_type(&self) -> JsonType {
        pay(|_| 1);
        Node::json_type(&self.0)
    }

    fn string_length(&self) -> Option<u64> {
        pay(|_| 1 + self.0.as_str().map_or(0, str::len) as u64 / 256);
        Node::string_length(&self.0)
    }

    fn equals_value(&self, expected: &Value) -> bool {
        // The expectation is part of the schema, so its size is bounded; what is unlike is told at once.
        pay(|_| 2);
        Node::equals_value(&self.0, expected)
    }

    fn to_value(&self) -> Cow<'a, Value> {
        pay(|_| 1);
        Cow::Borrowed(self.0)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        pay(|_| 1);
        Node::identity(&self.0)
    }
}

impl<'a> Object<'a, Metered> for Members<'a> {
    type Node = Seen<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        pay(|_| 1);
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Seen<'a>> {
        let found = self.0.get(key.as_str());
        pay(|purse| if found.is_some() { purse.child } else { 1 });
        found.map(Seen)
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter(self.0.iter())
    }
}

pub(super) struct MembersIter<'a>(serde_json::map::Iter<'a>);

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, Seen<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.0.next()?;
        // A name may be held against each pattern of the schema.
        pay(|purse| purse.child + purse.letter * (key.len() as u64).div_ceil(64));
        Some((key, Seen(value)))
    }
}

impl<'a> Array<'a, Metered> for Elements<'a> {
    type Node = Seen<'a>;
    type ElementsIter = ElementsIter<'a>;

    fn len(&self) -> usize {
        pay(|_| 1);
        self.0.len()
    }

    fn elements(&self) -> ElementsIter<'a> {
        ElementsIter(self.0.iter())
    }

    fn is_unique(&self) -> bool {
        // Compared by hash; each element is read whole.
        pay(|_| 8 * self.0.iter().map(size).sum::<u64>());
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
    type Item = Seen<'a>;

    fn next(&mut self) -> Option<Seen<'a>> {
        pay(|purse| purse.child);
        self.0.next().map(Seen)
    }
}
