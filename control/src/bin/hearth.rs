//! `hearth`: the operator's command line.

use std::process::ExitCode;

use hearth_control::cli::{self, CommandLine};
use hearth_control::failure::command_line;

fn main() -> ExitCode {
    let line: CommandLine = match command_line() {
        Ok(line) => line,
        Err(code) => return code,
    };
    match cli::run(&line) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
