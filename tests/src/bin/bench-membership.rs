//! `make bench-membership`: see `hearth_tests::membench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    hearth_tests::membench::run()
}
