//! What is known of a value before it is there. `Dyn` is what arguments and claims are: anything.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Null,
    List(Box<Kind>),
    Map,
    Type,
    Dyn,
}

impl Kind {
    pub(super) fn strings() -> Self {
        Kind::List(Box::new(Kind::String))
    }

    pub(super) fn anything() -> Self {
        Kind::List(Box::new(Kind::Dyn))
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Kind::Int | Kind::Uint | Kind::Double)
    }

    /// Whether a value of this kind could be one that `other` is, as far as is known.
    pub(super) fn may_be(&self, other: &Kind) -> bool {
        match (self, other) {
            (Kind::Dyn, _) | (_, Kind::Dyn) => true,
            (Kind::List(_), Kind::List(_)) => true,
            (one, two) => one == two,
        }
    }

    /// Whether `==` could find the two equal.
    pub(super) fn may_equal(&self, other: &Kind) -> bool {
        self.may_be(other) || self.is_number() && other.is_number()
    }

    /// What a value is whichever of the two it is.
    pub(super) fn or(self, other: Kind) -> Kind {
        if self == other { self } else { Kind::Dyn }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Bool => "a bool",
            Kind::Int => "an int",
            Kind::Uint => "a uint",
            Kind::Double => "a double",
            Kind::String => "a string",
            Kind::Bytes => "bytes",
            Kind::Null => "null",
            Kind::List(of) if **of == Kind::String => "a list of strings",
            Kind::List(_) => "a list",
            Kind::Map => "a map",
            Kind::Type => "a type",
            Kind::Dyn => "any value",
        })
    }
}
