//! Sizes: `64KiB`, `4MiB`, `1GB`, or a plain number of bytes.
//!
//! Whole numbers only. `4M` is rejected, since many readers take it for a million.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::{ScalarValue, scalar};

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Largest first.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// This many bytes.
    pub const fn of(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This many KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// This many MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In bytes, as large as an address may be.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl ScalarValue for ByteSize {
    const EXPECTED: &'static str = "a size such as `64KiB`, `4MiB` or a number of bytes";

    fn read(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "not a size";
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let name = unit.strip_prefix(' ').unwrap_or(unit);
        let bytes = match UNITS.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(name)) {
            Some((_, bytes)) => *bytes,
            None if unit.is_empty() => 1,
            None => return Err(WRONG),
        };
        if number.is_empty() {
            return Err(WRONG);
        }
        let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(bytes));
        size.map(Self).ok_or("size too large")
    }
}

scalar!(ByteSize);

impl fmt::Display for ByteSize {
    /// In the largest unit without a remainder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes)) {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => f.write_str("0B"),
        }
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As written in the file, for the defaults in the schema.
impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A size: a number of bytes, or with a unit, binary (`64KiB` = 65,536) or decimal (`1GB` = 1,000,000,000).",
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": "^[0-9]+( ?([KMGkmg][Ii]?)?[Bb])?$"},
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, shown) in [
            ("0", 0, "0B"),
            ("1", 1, "1B"),
            ("1024", 1024, "1KiB"),
            ("64KiB", 65_536, "64KiB"),
            ("64 kib", 65_536, "64KiB"),
            ("4MiB", 4_194_304, "4MiB"),
            ("4MB", 4_000_000, "4MB"),
            ("5KB", 5_000, "5KB"),
            ("1025", 1025, "1025B"),
            ("2GiB", 2_147_483_648, "2GiB"),
            ("17B", 17, "17B"),
        ] {
            let size = ByteSize::read(text).expect(text);
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, shown), "{text}");
            assert_eq!(ByteSize::read(&size.to_string()), Ok(size), "what is shown can be read");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in
            ["", "MiB", "4M", "4Mi", "-1", "1.5MiB", "4  MiB", "0x10", "4MiBs", "4iB", "4 ", "٤MiB", " 4MiB"]
        {
            assert_eq!(ByteSize::read(text), Err("not a size"), "{text:?}");
        }
        for text in ["99999999999999999999", "99999999999GiB"] {
            assert_eq!(ByteSize::read(text), Err("size too large"), "{text}");
        }
    }
}
