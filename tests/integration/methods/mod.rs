//! Which messages reach whom: the closed list of methods, walked over every way in and every way out.

mod front;
mod idless;
mod servers;
mod walk;
