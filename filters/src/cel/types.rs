//! Static types. `Dyn` is the type of arguments and claims: anything.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CelType {
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Null,
    List(Box<CelType>),
    Map,
    Type,
    Dyn,
}

impl CelType {
    pub(super) fn strings() -> Self {
        CelType::List(Box::new(CelType::String))
    }

    pub(super) fn anything() -> Self {
        CelType::List(Box::new(CelType::Dyn))
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, CelType::Int | CelType::Uint | CelType::Double)
    }

    /// Whether a value of this type may be of the type `other`.
    pub(super) fn may_be(&self, other: &CelType) -> bool {
        match (self, other) {
            (CelType::Dyn, _) | (_, CelType::Dyn) => true,
            (CelType::List(_), CelType::List(_)) => true,
            (one, two) => one == two,
        }
    }

    /// Whether `==` could find the two equal.
    pub(super) fn may_equal(&self, other: &CelType) -> bool {
        self.may_be(other) || self.is_number() && other.is_number()
    }

    /// The common type of both.
    pub(super) fn or(self, other: CelType) -> CelType {
        if self == other { self } else { CelType::Dyn }
    }
}

impl fmt::Display for CelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CelType::Bool => "a bool",
            CelType::Int => "an int",
            CelType::Uint => "a uint",
            CelType::Double => "a double",
            CelType::String => "a string",
            CelType::Bytes => "bytes",
            CelType::Null => "null",
            CelType::List(of) if **of == CelType::String => "a list of strings",
            CelType::List(_) => "a list",
            CelType::Map => "a map",
            CelType::Type => "a type",
            CelType::Dyn => "any value",
        })
    }
}
