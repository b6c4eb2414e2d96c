//! What goes in and comes back: arguments that must fit the schema of their tool, and secrets that must not pass.
//!
//! Pure values like all of this crate. It does not know which server has which setting, and remembers nothing.

pub mod detectors;
mod member_place;
mod metered_json;
pub mod redact;
pub mod schema;
mod schema_cost;
pub mod strict_json;
mod walk;

pub use detectors::Detector;
pub use member_place::MemberPath;
pub use redact::{Action, Findings, PatternError, Redacted, Redactor};
pub use schema::{Schema, Violation};

/// `text` up to `most` bytes, cut between characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
