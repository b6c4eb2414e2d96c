//! Toolgate: an MCP gateway. `ARCHITECTURE.md` is the plan of the house; the modules stand in the order of its
//! floors, from the ground up.

pub mod allocator;
pub mod config;
pub mod protocol;

pub mod descriptors;
pub mod files;
pub mod handover;
pub mod sign;
pub mod state;
pub mod systemd;
pub mod telemetry;
pub mod tls;

pub mod store;

pub mod catalog;
pub mod upstream;

pub mod address;
pub mod server;
pub mod session;

pub mod keys;
pub mod plan;
pub mod registry;
pub mod rooms;

pub mod door;
pub mod reload;

pub mod admin;
pub mod proxy;

pub mod app;
pub mod cli;
pub mod demo_server;
pub mod stdio;
pub mod token;
