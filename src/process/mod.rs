//! The gateway as a process of the operating system: descriptors, memory, systemd, the sockets that an
//! upgrade hands over, and the file with the admin address.

pub mod admin_address_file;
pub mod allocator;
pub mod fd_limit;
pub mod handover;
pub mod state;
pub mod systemd;
