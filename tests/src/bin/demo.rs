//! `make demo`: see `hearth_tests::demo`.

use std::process::ExitCode;

fn main() -> ExitCode {
    hearth_tests::demo::run()
}
