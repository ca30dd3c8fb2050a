//! The agent with its allocations on record: see `hearth_tests::counted`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

fn main() -> ExitCode {
    hearth_tests::counted::run()
}
