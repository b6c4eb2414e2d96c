//! Names in a config: of servers, toolsets and tools.
//!
//! They become parts of tool names, paths and metric labels, so all of them are letters, digits, `_` and `-`.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{ScalarValue, scalar};

/// The name of a server or a toolset: `[A-Za-z0-9][A-Za-z0-9_-]{0,31}` without `__`, which separates the
/// server from the tool in a qualified name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName(Arc<str>);

/// The prefix of a tool's name on the federated endpoint, without the `__`: at most 32 of `[A-Za-z0-9_-]`, or
/// empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(pub String);

/// The new name of a tool: 1 to 64 of `[A-Za-z0-9_-]`, since model providers reject more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToolName(pub String);

/// A free name, of a role, a user or a rule: any text without surrounding spaces and control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name(pub String);

/// An OAuth scope (RFC 6749 §3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScopeName(pub String);

/// Longest free name, in bytes.
const MAX_NAME: usize = 256;
/// Longest name that model providers accept.
const MAX_TOOL: usize = 64;
/// Longest name of a server, and longest prefix.
const MAX_SERVER: usize = 32;

fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

impl ScalarValue for ServerName {
    const EXPECTED: &'static str =
        "1 to 32 letters, digits, `_` or `-`, starting with a letter or digit, without `__`";

    fn read(text: &str) -> Result<Self, &'static str> {
        let first = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !first || !is_word(text) || text.len() > MAX_SERVER || text.contains("__") {
            return Err("invalid name for a server or toolset");
        }
        Ok(Self(text.into()))
    }
}

scalar!(ServerName);

impl ScalarValue for Prefix {
    const EXPECTED: &'static str = "at most 32 letters, digits, `_` or `-`, or \"\" for none";

    fn read(text: &str) -> Result<Self, &'static str> {
        if is_word(text) && text.len() <= MAX_SERVER { Ok(Self(text.into())) } else { Err("invalid prefix") }
    }
}

scalar!(Prefix);

impl ScalarValue for ToolName {
    const EXPECTED: &'static str = "1 to 64 letters, digits, `_` or `-`";

    fn read(text: &str) -> Result<Self, &'static str> {
        let fits = !text.is_empty() && text.len() <= MAX_TOOL && is_word(text);
        if fits { Ok(Self(text.into())) } else { Err("invalid tool name") }
    }
}

scalar!(ToolName);

impl ScalarValue for Name {
    const EXPECTED: &'static str = "a name of 1 to 256 bytes, without spaces around it";

    fn read(text: &str) -> Result<Self, &'static str> {
        let fits = text.trim() == text && !text.contains(char::is_control);
        match text.len() {
            0 => Err("empty name"),
            1..=MAX_NAME if fits => Ok(Self(text.into())),
            _ => Err("not a name"),
        }
    }
}

scalar!(Name);

impl ScalarValue for ScopeName {
    const EXPECTED: &'static str = "one scope such as `files:write`; use one list item per scope";

    fn read(text: &str) -> Result<Self, &'static str> {
        let fits = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        match text.len() {
            0 => Err("empty scope"),
            1..=MAX_NAME if fits => Ok(Self(text.into())),
            _ if text.contains(' ') => Err("scope contains a space"),
            _ => Err("not a scope"),
        }
    }
}

scalar!(ScopeName);

impl ServerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for ServerName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ServerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ServerName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

macro_rules! word_schema {
    ($type:ty, $name:literal, $pattern:literal, $description:literal) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"description": $description, "type": "string", "pattern": $pattern})
            }
        }
    };
}

word_schema!(
    ServerName,
    "ServerName",
    "^(?!.*__)[A-Za-z0-9][A-Za-z0-9_-]{0,31}$",
    "A name: letters, digits, `_` and `-`, without `__`."
);
word_schema!(Prefix, "Prefix", "^[A-Za-z0-9_-]{0,32}$", "Stands before a tool's name; \"\" is none.");
word_schema!(Name, "Name", "^\\S(.*\\S)?$", "A name, without blanks around it.");
word_schema!(ScopeName, "Scope", "^[!#-\\[\\]-~]{1,256}$", "An OAuth scope.");
word_schema!(ToolName, "ToolName", "^[A-Za-z0-9_-]{1,64}$", "The name that a tool gets.");

/// Their texts.
pub(crate) fn names(names: Vec<Name>) -> Vec<String> {
    names.into_iter().map(|name| name.0).collect()
}

/// Their texts.
pub(crate) fn scopes(scopes: Vec<ScopeName>) -> Vec<String> {
    scopes.into_iter().map(|scope| scope.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_servers_are_plain_words() {
        for name in ["a", "0", "files", "My-Server_2", "a_", &"x".repeat(32)] {
            assert!(ServerName::read(name).is_ok(), "{name}");
        }
        for name in ["", "_a", "-a", "a__b", "a b", "a.b", "ä", "a/b", &"x".repeat(33)] {
            assert!(ServerName::read(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_prefix_may_be_nothing_and_a_tool_may_not() {
        assert!(Prefix::read("").is_ok() && Prefix::read("a__").is_ok());
        assert!(Prefix::read("a.b").is_err() && Prefix::read(&"x".repeat(33)).is_err());
        assert!(ToolName::read("").is_err() && ToolName::read("a.b").is_err());
        assert!(ToolName::read(&"x".repeat(64)).is_ok() && ToolName::read(&"x".repeat(65)).is_err());
    }

    #[test]
    fn a_scope_is_one_word_and_a_name_may_be_several() {
        assert!(Name::read("Gateway Admins").is_ok() && ScopeName::read("files:write").is_ok());
        for text in ["", " a", "a ", "a\nb", &"x".repeat(257)] {
            assert!(Name::read(text).is_err(), "{text:?}");
        }
        for text in ["", "a b", "a\"b", "a\\b", "é", &"x".repeat(257)] {
            assert!(ScopeName::read(text).is_err(), "{text:?}");
        }
    }
}
