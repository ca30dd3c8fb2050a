//! How a program ends: exit code, what went wrong, what to do.
//!
//! Exit codes are those of sysexits(3), so that units and scripts can tell "fix the settings" from
//! "try again". Every error a person can meet becomes a [`Failure`] before it is printed.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// The exit codes in use (sysexits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 64: the command line is wrong.
    Usage,
    /// 65: the input (a policy file) is wrong.
    Data,
    /// 66: an input file is missing.
    NoInput,
    /// 69: what should answer does not.
    Unavailable,
    /// 70: a defect of the program.
    Software,
    /// 73: what should be made cannot be made.
    CannotCreate,
    /// 74: reading or writing failed.
    Io,
    /// 75: try again later.
    Temporary,
    /// 77: not allowed.
    NoPermission,
    /// 78: the settings are wrong.
    Config,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Data => 65,
            Self::NoInput => 66,
            Self::Unavailable => 69,
            Self::Software => 70,
            Self::CannotCreate => 73,
            Self::Io => 74,
            Self::Temporary => 75,
            Self::NoPermission => 77,
            Self::Config => 78,
        }
    }
}

/// A program's end that is not success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What was attempted, with what, and what came of it.
    pub what: String,
    /// What to do; may be empty.
    pub hint: String,
}

impl Failure {
    /// A failure with its advice.
    pub fn new(exit: Exit, what: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self { exit, what: what.to_string(), hint: hint.into() }
    }

    /// Prints it on standard error and gives the exit code.
    pub fn report(&self) -> ExitCode {
        eprintln!("{self}");
        ExitCode::from(self.exit.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Prints an answer on standard output. A reader that has seen enough (`| head`) is no failure; a disk
/// that is full is one, and not a panic.
pub fn print(text: &str) -> Result<(), Failure> {
    written(io::stdout().lock(), text)
}

fn written(mut to: impl Write, text: &str) -> Result<(), Failure> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Io,
            format!("cannot write the answer: {e}"),
            "it was asked for and given; only the output is incomplete",
        )),
        _ => Ok(()),
    }
}

/// Runs clap's parser with sysexits: help and version end with 0, a wrong command line with 64.
pub fn command_line<T: clap::Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|e| {
        // Nothing is left to do if even this cannot be printed.
        let _ = e.print();
        match e.use_stderr() {
            true => ExitCode::from(Exit::Usage.code()),
            false => ExitCode::SUCCESS,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Refusing(io::ErrorKind);

    impl Write for Refusing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure_and_a_full_disk_is_one() {
        assert_eq!(written(Refusing(io::ErrorKind::BrokenPipe), "x"), Ok(()));
        let full = written(Refusing(io::ErrorKind::StorageFull), "x").unwrap_err();
        assert_eq!(full.exit, Exit::Io);
    }
}
