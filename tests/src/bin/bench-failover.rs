//! `make bench-failover`: see `hearth_tests::failbench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    hearth_tests::failbench::run()
}
