//! TODO.

pub mod admin_address_file;
pub mod allocator;
pub mod fd_limit;
pub mod handover;
pub mod state;
pub mod systemd;
