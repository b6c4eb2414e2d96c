//! Which messages reach which side: the closed list of methods, on every path in and every path out.

mod front;
mod idless;
mod servers;
mod walk;
