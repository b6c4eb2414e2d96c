//! `${VAR}` and `${VAR:-default}` in the values of a config file.
//!
//! Variables are substituted after parsing, one scalar at a time: so their values cannot become keys, lists
//! or comments. Keys are not changed. `${env:VAR}`, as Cursor and VS Code write it, is the same as `${VAR}`,
//! and `${input:api-key}` the same as `${INPUT_API_KEY}`. The result is not interpolated again, so `${` in a
//! value stays unchanged.

use super::source::ByteRange;

/// The source of variables: from a name to a value.
pub type Environment<'e> = dyn Fn(&str) -> Option<String> + 'e;

/// A variable that could not be filled in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MissingVariable {
    /// Its place in the scalar's text, in bytes.
    pub bytes: ByteRange,
    pub message: String,
    pub expected: &'static str,
}

/// The text with its variables substituted; `Ok(None)` if it has none.
///
/// # Errors
/// All variables that are missing or badly written.
pub(crate) fn interpolate(
    text: &str,
    environment: &Environment<'_>,
) -> Result<Option<String>, Vec<MissingVariable>> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut filled = String::with_capacity(text.len());
    let mut missing = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, variable) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = &variable[2..];
            continue;
        }
        filled.push_str(before);
        let start = text.len() - variable.len();
        let Some(end) = variable.find('}') else {
            missing.push(MissingVariable {
                bytes: start..text.len(),
                message: "unclosed variable".into(),
                expected: "write `${NAME}`, or `$${` for a literal `${`",
            });
            break;
        };
        match value(&variable[2..end], environment) {
            Ok(value) => filled.push_str(&value),
            Err((message, expected)) => {
                missing.push(MissingVariable { bytes: start..start + end + 1, message, expected })
            }
        }
        rest = &variable[end + 1..];
    }
    filled.push_str(rest);
    if missing.is_empty() { Ok(Some(filled)) } else { Err(missing) }
}

/// The text between `${` and `}`.
fn value(inside: &str, environment: &Environment<'_>) -> Result<String, (String, &'static str)> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let name = name.strip_prefix("env:").unwrap_or(name);
    // There is no user to ask.
    let asked = name.strip_prefix("input:").map(input);
    let name = asked.as_deref().unwrap_or(name);
    if default.is_some_and(|default| default.contains("${")) {
        return Err((format!("variable in the default of `{name}`"), "defaults are used as written"));
    }
    if !is_name(name) {
        let message = "invalid variable name".into();
        return Err((message, "write `${NAME}` or `${NAME:-default}`; names are letters, digits and `_`"));
    }
    // As in a shell, `:-` also replaces a variable with an empty value.
    match (environment(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(default)) => Ok(if value.is_empty() { default.into() } else { value }),
        (None, Some(default)) => Ok(default.into()),
        (None, None) if asked.is_some() => Err((
            format!("the variable `{name}`, which replaces an input, is not set"),
            "set it in the environment: interactive inputs are not supported",
        )),
        (None, None) => Err((
            format!("the variable `{name}` is not set"),
            "set it in the environment, or give a default: `${NAME:-default}`",
        )),
    }
}

/// The variable for an input that VS Code asks the user for: `${input:api-key}` is `${INPUT_API_KEY}`.
pub(crate) fn input(id: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("INPUT_{}", id.chars().map(word).collect::<String>())
}

pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.com".into()),
            "INPUT_API_KEY" => Some("abc".into()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("a: {b} # '${HOST}'\n- c".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in_anywhere_in_a_text() {
        for (text, filled) in [
            ("plain", None),
            ("$HOST and $", None),
            ("${HOST}", Some("example.com")),
            ("https://${HOST}/${PATH_:-mcp}", Some("https://example.com/mcp")),
            ("${env:HOST}", Some("example.com")),
            ("${input:api-key}", Some("abc")),
            ("${EMPTY}", Some("")),
            ("${EMPTY:-x}", Some("x")),
            ("${NONE:-}", Some("")),
            ("${NONE:-a:-b}", Some("a:-b")),
            ("$${HOST}", Some("${HOST}")),
            ("$$${HOST}", Some("$${HOST}")),
            ("${TRICKY}", Some("a: {b} # '${HOST}'\n- c")),
        ] {
            assert_eq!(interpolate(text, &environment), Ok(filled.map(String::from)), "{text}");
        }
    }

    #[test]
    fn each_variable_that_cannot_be_filled_in_is_named_with_its_place() {
        for (text, wanted) in [
            ("${NONE}", vec![(0..7, "the variable `NONE` is not set")]),
            (
                "é${A} ${B}",
                vec![(2..6, "the variable `A` is not set"), (7..11, "the variable `B` is not set")],
            ),
            ("x${A", vec![(1..4, "unclosed variable")]),
            ("${}", vec![(0..3, "invalid variable name")]),
            ("${A-b}", vec![(0..6, "invalid variable name")]),
            ("${A:?no}", vec![(0..8, "invalid variable name")]),
            ("${1A}", vec![(0..5, "invalid variable name")]),
            ("${A:-${B}}", vec![(0..9, "variable in the default of `A`")]),
            (
                "${input:my-key}",
                vec![(0..15, "the variable `INPUT_MY_KEY`, which replaces an input, is not set")],
            ),
        ] {
            let missing = interpolate(text, &environment).expect_err(text);
            let found: Vec<_> = missing.into_iter().map(|missing| (missing.bytes, missing.message)).collect();
            let wanted: Vec<_> =
                wanted.into_iter().map(|(bytes, message)| (bytes, message.to_owned())).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }
}
