//! The binary `toolgate`; all of it is in the library.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: toolgate::process::allocator::Allocator = toolgate::process::allocator::Allocator;

fn main() -> ExitCode {
    // Both of rustls' providers are linked (Pingora wants one, reqwest the other), so it cannot choose by itself.
    // An error means that one was chosen before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    toolgate::cli::main()
}
