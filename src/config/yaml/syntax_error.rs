//! What to say of a file that is not YAML.
//!
//! The parser says what it was looking for; here it is said what was probably done.

use serde_saphyr::granit_parser::{ErrorKind, ScanError};

use super::node::{MAX_DEPTH, YamlError};
use super::source::Source;

/// The fault at this byte of the file.
pub(crate) fn yaml_error(error: &ScanError, at: usize, source: &Source<'_>) -> YamlError {
    use ErrorKind as E;
    let (message, expected) = match error.kind() {
        E::TabNotAllowed | E::TabInBlockIndentation | E::TabInIndentation => {
            ("a tab in the indentation", "indent with spaces")
        }
        E::UnclosedQuotedScalar => ("unclosed quote", "opened here"),
        E::UnclosedFlowCollection { .. } => ("unclosed bracket", ""),
        E::MisplacedFlowCollectionEnd => ("unexpected closing bracket", "no bracket is open here"),
        E::MismatchedFlowCollectionEnd { .. } => ("mismatched bracket", ""),
        E::ExpectedFlowMappingSeparator => ("unclosed mapping", "expected `,` or `}`"),
        E::ExpectedFlowSequenceSeparator => ("unclosed list", "expected `,` or `]`"),
        E::ExpectedBlockMappingKey | E::InvalidIndentation | E::ExpectedBlockSequenceEntry => {
            ("the indentation does not fit", "keys of one mapping begin in the same column")
        }
        E::MappingValueNotAllowed => ("unexpected `:`", "put the text in quotes, or look at the indentation"),
        E::UnknownAnchor => ("an alias without an anchor", "no `&name` before it"),
        E::RecursionLimitExceeded => {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            return YamlError::new(at..at, message, "");
        }
        kind => return YamlError::new(at..at, format!("not valid YAML: {kind}"), ""),
    };
    let line = source.line(source.location(&(at..at)).line);
    YamlError {
        help: help(error.kind(), line),
        ..YamlError::new(at..at, format!("not valid YAML: {message}"), expected)
    }
}

/// What else is seen in the line that may have been the cause.
fn help(kind: &ErrorKind, line: &str) -> &'static str {
    let bare = line.match_indices("${").any(|(at, _)| !line[..at].ends_with(is_inside_text));
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
fn is_inside_text(before: char) -> bool {
    !before.is_whitespace() && !"{[,$".contains(before)
}
