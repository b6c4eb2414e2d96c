//! The small settings of the process itself: threads, the log, and CORS.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::listen::{AllowedOrigin, texts};
use super::scalar::{ScalarValue, scalar};

/// Threads that serve requests: `auto` is one for each core. A change needs a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// One for each core that the process may use.
    #[default]
    Auto,
    /// This many, 1 to 1024.
    Count(NonZeroUsize),
}

impl Workers {
    /// How many threads that is on this machine.
    pub fn count(self) -> usize {
        match self {
            Workers::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            Workers::Count(count) => count.get(),
        }
    }
}

impl ScalarValue for Workers {
    const EXPECTED: &'static str = "`auto` or 1 to 1024";

    fn read(text: &str) -> Result<Self, &'static str> {
        if text == "auto" {
            return Ok(Workers::Auto);
        }
        let count = text.parse().map_err(|_| "invalid number of threads")?;
        if NonZeroUsize::get(count) <= 1024 { Ok(Workers::Count(count)) } else { Err("too many threads") }
    }
}

scalar!(Workers);

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Workers::Auto => f.write_str("auto"),
            Workers::Count(count) => count.fmt(f),
        }
    }
}

impl JsonSchema for Workers {
    fn schema_name() -> Cow<'static, str> {
        "Workers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Threads: `auto` is one for each core. A change needs a restart.",
            "anyOf": [{"type": "integer", "minimum": 1, "maximum": 1024}, {"const": "auto"}],
        })
    }
}

/// The log, on standard error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// One JSON object per line, or text for people. A change needs a restart.
    pub format: LogFormat,
    /// The lowest level that is logged. A change needs a restart.
    pub level: LogLevel,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text if standard error is a terminal, else JSON.
    #[default]
    Auto,
    /// One object a line.
    Json,
    /// For people.
    Text,
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Something may break.
    Warn,
    /// Normal events.
    #[default]
    Info,
    /// Why it happens.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The value in the config, which is also that of `tracing`.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// What web pages of other origins may do (CORS). `listen.allowed_origins` decides whether they may call at
/// all.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins that may read responses, or `*`. In lower case.
    #[serde(deserialize_with = "origins")]
    #[schemars(with = "Vec<AllowedOrigin>")]
    pub origins: Vec<String>,
    /// Methods that they may use.
    #[serde(default = "CorsMethod::usual")]
    pub methods: Vec<CorsMethod>,
    /// Request headers that they may send, or `*`. In lower case.
    #[serde(default = "any_header", deserialize_with = "headers")]
    #[schemars(with = "Vec<Header>")]
    pub headers: Vec<String>,
}

/// A method that CORS may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "they are HTTP's own words")]
pub enum CorsMethod {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl CorsMethod {
    fn usual() -> Vec<Self> {
        vec![CorsMethod::Get, CorsMethod::Post, CorsMethod::Delete]
    }

    /// As in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            CorsMethod::Get => "GET",
            CorsMethod::Head => "HEAD",
            CorsMethod::Post => "POST",
            CorsMethod::Put => "PUT",
            CorsMethod::Patch => "PATCH",
            CorsMethod::Delete => "DELETE",
            CorsMethod::Options => "OPTIONS",
        }
    }
}

struct Header(String);

impl ScalarValue for Header {
    const EXPECTED: &'static str = "the name of a header, or `*`";

    fn read(text: &str) -> Result<Self, &'static str> {
        let name = http::HeaderName::from_bytes(text.as_bytes()).map_err(|_| "invalid header name")?;
        Ok(Self(name.as_str().into()))
    }
}

scalar!(Header);

impl From<Header> for String {
    fn from(header: Header) -> Self {
        header.0
    }
}

impl JsonSchema for Header {
    fn schema_name() -> Cow<'static, str> {
        "HeaderName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The name of a header, or `*`.",
            "type": "string",
            "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
        })
    }
}

fn any_header() -> Vec<String> {
    vec!["*".into()]
}

fn origins<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    texts::<AllowedOrigin, D>(from).map(Option::unwrap_or_default)
}

fn headers<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    texts::<Header, D>(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_auto_or_a_number() {
        assert_eq!(Workers::read("auto"), Ok(Workers::Auto));
        assert_eq!(Workers::read("8").map(Workers::count), Ok(8));
        for bad in ["", "0", "-1", "Auto", "1025", "4.0"] {
            assert!(Workers::read(bad).is_err(), "{bad}");
        }
        assert!(Workers::Auto.count() > 0);
    }

    #[test]
    fn levels_are_ordered_from_broken_to_everything() {
        assert!(LogLevel::Error < LogLevel::Warn && LogLevel::Debug < LogLevel::Trace);
        assert_eq!(LogLevel::default().as_str(), "info");
    }
}
