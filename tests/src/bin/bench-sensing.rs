//! `make bench-sensing`: see `hearth_tests::sensing`.

use std::process::ExitCode;

fn main() -> ExitCode {
    hearth_tests::sensing::run()
}
