//! Short programs run to their end inside a namespace: `ip`, `nft`, `hearth`, `ping`.
//!
//! Decides nothing; turns "ran and said no" into an error that carries the command line and
//! everything the program printed.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::binaries::tool;
use super::error::LabError;
use super::process::own_settings_only;
use super::space::Space;

/// A program that ran to its end.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// Host it ran on.
    pub host: String,
    /// Exit code, or none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// The standard output of a program that ended with 0.
    ///
    /// # Errors
    /// [`LabError::Failed`] with both outputs otherwise.
    pub fn success(self) -> Result<String, LabError> {
        if self.code == Some(0) {
            return Ok(self.stdout);
        }
        let status = match self.code {
            Some(code) => format!("exit code {code}"),
            None => "a signal".to_owned(),
        };
        Err(LabError::Failed {
            command: self.command,
            host: self.host,
            status,
            output: format!("{}{}", self.stdout, self.stderr).trim().to_owned(),
        })
    }
}

/// Runs `program` (a tool of the system by name, or a path) in `space`, feeding it `stdin` if given.
pub(super) fn run_in(
    space: &Space,
    host: &str,
    program: impl AsRef<Path>,
    args: &[&str],
    stdin: Option<String>,
) -> Result<Outcome, LabError> {
    let program = match program.as_ref() {
        name if name.components().count() == 1 => tool(&name.to_string_lossy())?,
        path => path.to_path_buf(),
    };
    let line = format!("{} {}", program.display(), args.join(" "));
    let start = |source| LabError::Start { program: line.clone(), host: host.to_owned(), source };
    let mut command = Command::new(&program);
    command.args(args);
    own_settings_only(&mut command);
    command.stdin(match stdin {
        Some(_) => Stdio::piped(),
        None => Stdio::null(),
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = space.call(move || command.spawn())?.map_err(start)?;
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // A program that ends without reading says why on its standard error.
        let _ = pipe.write_all(text.as_bytes());
    }
    let output: Output = child.wait_with_output().map_err(start)?;
    Ok(Outcome {
        command: line,
        host: host.to_owned(),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
