//! The binary: everything is in the library.

use std::process::ExitCode;

/// Requests make many short-lived allocations on all threads, which this allocator is best at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tollgate::cli::run()
}
