//! The gateway as its users meet it: the real binary, over real HTTP, in front of real servers.
//!
//! One binary for all integration tests: a second one would link the whole house again. `make test` sets up what
//! they need (`tests/tools/setup`); a test whose tools are missing fails and says so.

mod access;
mod authority;
mod authorization;
mod bad_input;
mod bodies;
mod clients;
mod commands;
#[path = "../config_faults/mod.rs"]
mod config_faults;
mod conformance;
mod conformance_client;
mod container;
#[path = "../dialects/mod.rs"]
mod dialects;
mod entries;
mod events;
mod fake;
mod federation;
mod five;
mod forms;
mod h2;
mod harness;
mod health;
mod hostile;
mod keeping;
mod legacy;
mod limits;
mod load;
mod log;
mod losses;
mod many_servers;
mod methods;
mod net;
mod pasted;
mod patience;
mod pools;
mod process;
mod procs;
mod puppet;
mod quickstart;
mod raw;
mod real_servers;
mod reload;
mod rows;
mod running_calls;
mod sessions;
mod starting;
mod stdio;
mod stopping;
mod stress;
mod tls;
mod upgrade;
mod wire;
