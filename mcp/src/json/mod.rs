//! JSON as bytes (RFC 8259): read once, never built into a tree.

pub mod object;
pub mod quote;
pub mod reader;
pub mod splice;
pub mod string_scan;
pub mod surrogates;

pub use reader::{Span, Text};
