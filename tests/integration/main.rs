//! The gateway as its users see it: the real binary, over real HTTP, in front of real servers.
//!
//! One binary for all integration tests: a second one would link the gateway again. `make test` sets up
//! what they need (`tests/tools/setup`); a test whose tools are missing fails with a message.

mod access;
mod authorization;
mod bad_input;
mod bodies;
mod bridge;
mod clients;
mod commands;
#[path = "../config_faults/mod.rs"]
mod config_faults;
mod conformance;
mod conformance_client;
mod conformance_rows;
mod container;
#[path = "../dialects/mod.rs"]
mod dialects;
mod docs;
mod entries;
mod events;
mod faulty_server;
mod federation;
mod forms;
mod h2;
mod harness;
mod health;
mod hostile;
mod isolation;
mod legacy;
mod limits;
mod list_retention;
mod load;
mod log;
mod many_servers;
mod matrix;
mod methods;
mod mock_server;
mod net;
mod oauth_server;
mod pasted;
mod patience;
mod pools;
mod process;
mod process_limits;
mod quickstart;
mod raw;
mod real_servers;
mod real_servers_setup;
mod reload;
mod running_calls;
mod server_crash;
mod sessions;
mod sse_front;
mod sse_servers;
mod starting;
mod stdio;
mod stopping;
mod stress;
mod tasks;
mod tls;
mod upgrade;
mod wire;
