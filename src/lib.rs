//! Toolgate: an MCP gateway. `ARCHITECTURE.md` says what each module is for; they stand in the order of its floors,
//! from the lowest up.

pub mod config;

pub mod process;
pub mod store;
pub mod telemetry;

pub mod upstream;

pub mod server;

pub mod runtime;

pub mod catalog;

pub mod session;

pub mod exchange;
pub mod registry;

pub mod bridge;
pub mod dispatch;
pub mod listener;
pub mod streams;
pub mod tasks;

pub mod admin;
pub mod proxy;

pub mod lifecycle;

pub mod cli;
pub mod stdio;
