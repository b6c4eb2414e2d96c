//! The gateway as a process of the operating system: descriptors, memory, systemd, the sockets that an upgrade hands over,
//! the file that says where operators find it.

pub mod admin_address_file;
pub mod allocator;
pub mod fd_limit;
pub mod handover;
pub mod state;
pub mod systemd;
