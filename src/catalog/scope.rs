//! Which servers an endpoint shows.

use crate::config::Globs;

/// Which servers an endpoint shows, and under which names.
pub enum Scope<'a> {
    All,
    Single,
    Toolset(&'a Globs),
}
