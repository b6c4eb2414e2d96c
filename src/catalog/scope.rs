//! Which servers an endpoint shows.

use crate::config::GlobList;

/// Which servers an endpoint shows, and under which names.
pub enum Scope<'a> {
    All,
    Single,
    Toolset(&'a GlobList),
}
