//! Errors of a config file, and how they are shown.
//!
//! An error keeps only the source line that it points at, with secrets masked (`yaml/mask_secrets.rs`). So it
//! can be logged and shown. It keeps neither the file nor any value of the environment.

use std::fmt;
use std::ops::Range;

use super::yaml::source::Location;

/// The highest number of listed errors.
pub(super) const MAX_ERRORS: usize = 64;

/// The longest shown part of a source line, in characters.
const WIDTH: usize = 100;

/// One error in a config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// From 1; 0 if the error concerns the whole file.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Length of the invalid part within its line, in characters.
    pub len: usize,
    /// What is wrong, in one line.
    pub message: String,
    /// The expectation there; may be empty.
    pub expected: String,
    /// Further help, in zero or more lines.
    pub help: String,
    /// The line of the file, or the part of it around the error, with secrets masked.
    pub source: String,
    /// The underlined part of `source`, in characters.
    under: Range<usize>,
}

/// All errors of a config file: at least one, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    name: String,
    list: Vec<ConfigError>,
    more: bool,
}

impl ConfigErrors {
    /// For a file without a readable tree.
    pub(super) fn whole(name: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(name, vec![ConfigError::whole(message, help)])
    }

    pub(super) fn new(name: &str, mut list: Vec<ConfigError>) -> Self {
        list.sort_by_key(|error| (error.line, error.column));
        let more = list.len() > MAX_ERRORS;
        list.truncate(MAX_ERRORS);
        Self { name: name.into(), list, more }
    }

    /// The name of the file, as given when it was read.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// At least one, at most 64.
    pub fn list(&self) -> &[ConfigError] {
        &self.list
    }

    /// One line per error, `conf.yaml:3:5: unknown key ...`, without any text of the file: for logs and
    /// `/ready`.
    pub fn one_line(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(|f| {
            for (index, error) in self.list.iter().enumerate() {
                if index > 0 {
                    f.write_str("\n")?;
                }
                f.write_str(&self.name)?;
                if error.line > 0 {
                    write!(f, ":{}:{}", error.line, error.column)?;
                }
                write!(f, ": {}", error.message)?;
            }
            Ok(())
        })
    }
}

impl fmt::Display for ConfigErrors {
    /// Like rustc: each error with its line underlined, then their number. No line break at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.list {
            error.render(&self.name, f)?;
            f.write_str("\n")?;
        }
        let count = self.list.len();
        let more = if self.more { "more than " } else { "" };
        write!(f, "{more}{count} error{} in {}", if count == 1 { "" } else { "s" }, self.name)
    }
}

impl ConfigError {
    /// An error of the file as a whole.
    pub(super) fn whole(message: impl Into<String>, help: impl Into<String>) -> Self {
        let (message, help) = (message.into(), help.into());
        let (line, column, len, expected, source, under) = Default::default();
        Self { line, column, len, message, expected, help, source, under }
    }

    /// An error at this place; `line` is the masked source line.
    pub(super) fn at(place: Location, line: &str, message: String, expected: String, help: String) -> Self {
        let Location { line: number, column, len } = place;
        let (source, under) = crop(line, column - 1..column - 1 + len);
        Self { line: number, column, len, message, expected, help, source, under }
    }

    fn render(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        let gutter = if self.line == 0 { 0 } else { self.line.ilog10() as usize + 1 };
        if self.line == 0 {
            writeln!(f, " --> {name}")?;
        } else {
            writeln!(f, "{:gutter$}--> {name}:{}:{}", "", self.line, self.column)?;
            writeln!(f, "{:gutter$} |", "")?;
            writeln!(f, "{} | {}", self.line, self.source)?;
            let (indent, underline) = (self.under.start, "^".repeat(self.under.len()));
            let under = format!("{:gutter$} | {:indent$}{underline} {}", "", "", self.expected);
            writeln!(f, "{}", under.trim_end())?;
        }
        for (index, line) in self.help.lines().enumerate() {
            let mark = if index == 0 { "= help:" } else { "       " };
            writeln!(f, "{}", format!("{:gutter$} {mark} {line}", "").trim_end())?;
        }
        Ok(())
    }
}

/// The part of a line around the underlined range (both in characters). Characters that would break the
/// alignment or the terminal are replaced.
fn crop(line: &str, under: Range<usize>) -> (String, Range<usize>) {
    let clean = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    let length = line.trim_end().chars().count();
    let chars = line.trim_end().chars().map(clean);
    if length <= WIDTH {
        return (chars.collect(), under);
    }
    let from = under.start.saturating_sub(WIDTH / 3).min(length - WIDTH);
    let to = from + WIDTH;
    let part: String = chars.skip(from).take(WIDTH).collect();
    let (before, after) = (if from > 0 { "…" } else { "" }, if to < length { "…" } else { "" });
    let shift = before.chars().count();
    let start = under.start - from + shift;
    // A range that ends past the part is underlined up to the end of the part.
    let end = (under.end - from + shift).min(WIDTH + 2 * shift).max(start + 1);
    (format!("{before}{part}{after}"), start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: usize, column: usize, len: usize, source: &str) -> ConfigError {
        let (message, expected) = ("unknown key `adress`".into(), "did you mean `address`?".into());
        ConfigError::at(Location { line, column, len }, source, message, expected, "one\ntwo".into())
    }

    #[test]
    fn an_error_is_rendered_like_rustc() {
        let errors = ConfigErrors::new("conf.yaml", vec![error(12, 3, 6, "  adress: x")]);
        let wanted = "\
error: unknown key `adress`
  --> conf.yaml:12:3
   |
12 |   adress: x
   |   ^^^^^^ did you mean `address`?
   = help: one
           two

1 error in conf.yaml";
        assert_eq!(errors.to_string(), wanted);
        assert_eq!(errors.one_line().to_string(), "conf.yaml:12:3: unknown key `adress`");
    }

    #[test]
    fn errors_follow_the_order_of_the_file() {
        let errors = ConfigErrors::new("c", vec![error(9, 1, 1, "x"), error(2, 1, 1, "y")]);
        assert_eq!(errors.list().iter().map(|error| error.line).collect::<Vec<_>>(), [2, 9]);
        assert!(errors.to_string().ends_with("\n\n2 errors in c"));
    }

    #[test]
    fn a_long_line_is_cropped_around_the_error() {
        let line = format!("{}adress{}", "a".repeat(500), "b".repeat(500));
        for (under, shown, ends) in [(500..506, "adress", "……"), (0..3, "aaa", " …"), (990..1006, "b", "… ")]
        {
            let (text, cropped) = crop(&line, under);
            let part: String = text.chars().skip(cropped.start).take(cropped.len()).collect();
            assert!(part.starts_with(shown) && part.len() == cropped.len(), "{cropped:?} of {text}");
            assert_eq!(text.starts_with('…'), ends.starts_with('…'), "{text}");
            assert_eq!(text.ends_with('…'), ends.ends_with('…'), "{text}");
        }
        let (text, cropped) = crop(&line, 500..1006);
        assert_eq!(cropped.end, text.chars().count(), "{text}");
    }

    #[test]
    fn a_line_cannot_play_with_the_terminal() {
        assert_eq!(crop("a\tb\u{1b}[2J", 0..1).0, "a b\u{fffd}[2J");
    }
}
