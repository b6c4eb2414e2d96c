//! Checks of content: arguments must match the schema of their tool, and secrets must not pass.
//!
//! Pure values like all of this crate. It has no settings of servers and keeps no state.

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
