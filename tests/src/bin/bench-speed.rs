//! `make bench-speed`: see `hearth_tests::bench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    hearth_tests::bench::run()
}
