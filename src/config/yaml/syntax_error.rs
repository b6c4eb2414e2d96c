//! Messages for a file that is not valid YAML.
//!
//! The parser reports what it expected; this module reports the probable mistake.

use serde_saphyr::granit_parser::{ErrorKind, ScanError};

use super::node::{MAX_DEPTH, YamlError};
use super::source::Source;

/// The error at this byte of the file.
pub(crate) fn yaml_error(error: &ScanError, at: usize, source: &Source<'_>) -> YamlError {
    use ErrorKind as E;
    let (message, expected) = match error.kind() {
        E::TabNotAllowed | E::TabInBlockIndentation | E::TabInIndentation => {
            ("tab in the indentation", "indent with spaces")
        }
        E::UnclosedQuotedScalar => ("unclosed quote", "opened here"),
        E::UnclosedFlowCollection { .. } => ("unclosed bracket", ""),
        E::MisplacedFlowCollectionEnd => ("unexpected closing bracket", "no bracket is open here"),
        E::MismatchedFlowCollectionEnd { .. } => ("mismatched bracket", ""),
        E::ExpectedFlowMappingSeparator => ("unclosed mapping", "expected `,` or `}`"),
        E::ExpectedFlowSequenceSeparator => ("unclosed list", "expected `,` or `]`"),
        E::ExpectedBlockMappingKey | E::InvalidIndentation | E::ExpectedBlockSequenceEntry => {
            ("inconsistent indentation", "keys of one mapping must start in the same column")
        }
        E::MappingValueNotAllowed => ("unexpected `:`", "put the text in quotes, or check the indentation"),
        E::UnknownAnchor => ("alias without an anchor", "no `&name` is defined before it"),
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

/// A probable cause in the same line.
fn help(kind: &ErrorKind, line: &str) -> &'static str {
    let bare = line.match_indices("${").any(|(at, _)| !line[..at].ends_with(is_inside_text));
    let flow =
        matches!(kind, ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator);
    if bare && flow {
        "inside {...} and [...] a variable needs quotes: \"${VAR}\""
    } else if line.trim_start().starts_with("//") || line.contains(" //") {
        "comments begin with `#`, not with `//`"
    } else {
        ""
    }
}

/// A space or a bracket precedes a variable that is a whole value.
fn is_inside_text(before: char) -> bool {
    !before.is_whitespace() && !"{[,$".contains(before)
}
