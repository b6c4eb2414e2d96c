//! The era of a message: with sessions, or without.

/// The two variants of MCP: with `initialize` and sessions, or stateless with `_meta` in each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Era {
    Legacy,
    Modern,
}

impl Era {
    pub fn other(self) -> Self {
        match self {
            Era::Legacy => Era::Modern,
            Era::Modern => Era::Legacy,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Era::Legacy => "legacy",
            Era::Modern => "modern",
        }
    }
}
