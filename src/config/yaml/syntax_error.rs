//! What to say of a file that is not YAML.
//!
//! The parser says what it was looking for; here it is said what was probably done.

use serde_saphyr::granit_parser::{ErrorKind, ScanError};

use super::node::{MAX_DEPTH, Wrong};
use super::source::Source;

/// The fault at this byte of the file.
pub(crate) fn wrong(error: &ScanError, at: usize, source: &Source<'_>) -> Wrong {
    use ErrorKind as E;
    let (message, expected) = match error.kind() {
        E::TabNotAllowed | E::TabInBlockIndentation | E::TabInIndentation => {
            ("a tab in the indentation", "indent with spaces")
        }
        E::UnclosedQuotedScalar => ("a quote that is not closed", "it begins here"),
        E::UnclosedFlowCollection { .. } => ("a bracket that is not closed", ""),
        E::MisplacedFlowCollectionEnd => ("a bracket too many", "nothing is open here that it could close"),
        E::MismatchedFlowCollectionEnd { .. } => ("a bracket of the other kind", ""),
        E::ExpectedFlowMappingSeparator => ("a mapping that does not end", "expected `,` or `}`"),
        E::ExpectedFlowSequenceSeparator => ("a list that does not end", "expected `,` or `]`"),
        E::ExpectedBlockMappingKey | E::InvalidIndentation | E::ExpectedBlockSequenceEntry => {
            ("the indentation does not fit", "keys of one mapping begin in the same column")
        }
        E::MappingValueNotAllowed => {
            ("a `:` that cannot stand here", "put the text in quotes, or look at the indentation")
        }
        E::UnknownAnchor => ("an alias without an anchor", "no `&name` before it"),
        E::RecursionLimitExceeded => {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            return Wrong::new(at..at, message, "");
        }
        kind => return Wrong::new(at..at, format!("not valid YAML: {kind}"), ""),
    };
    let line = source.line(source.place(&(at..at)).line);
    Wrong {
        help: help(error.kind(), line),
        ..Wrong::new(at..at, format!("not valid YAML: {message}"), expected)
    }
}

/// What else is seen in the line that may have been the cause.
fn help(kind: &ErrorKind, line: &str) -> &'static str {
    let bare = line.match_indices("${").any(|(at, _)| !line[..at].ends_with(is_inside_a_text));
    let flow =
        matches!(kind, ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator);
    if bare && flow {
        "inside of {...} and [...] a variable needs quotes: \"${VAR}\""
    } else if line.trim_start().starts_with("//") || line.contains(" //") {
        "comments begin with `#`, not with `//`"
    } else {
        ""
    }
}

/// Before a variable that is a whole value there is a blank or a bracket.
fn is_inside_a_text(before: char) -> bool {
    !before.is_whitespace() && !"{[,$".contains(before)
}
