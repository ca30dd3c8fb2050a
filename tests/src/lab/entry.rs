//! The way into a lab: what this machine allows, and a test body run in it.
//!
//! As root a lab is made directly. Without root the program starts itself again inside a user
//! namespace (`unshare -Urnm`), where it is root over its own networks. Where neither is allowed the
//! caller is told why; tests print `NOT RUN: reason` and pass.
//!
//! Named limits of the rootless form: link delay needs write access to `/dev/net/tun`; programs
//! that switch to another user cannot.

use std::fmt::Display;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use super::binaries::{target_dir, tool};
use super::{Lab, LabError};

/// Set in the program started again inside a user namespace.
const INSIDE: &str = "HEARTH_LAB_INSIDE";

/// "Service unavailable" of sysexits: this machine allows no namespaces.
const UNAVAILABLE: u8 = 69;

/// How a lab can be had here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Directly.
    Here,
    /// By starting this program again inside a user namespace.
    Again,
    /// Not at all, and why.
    No(String),
}

/// Finds out by trying: a namespace with a bridge and a rule set is made and dropped.
#[must_use]
pub fn access() -> Access {
    for name in ["ip", "nft", "setpriv", "unshare"] {
        if let Err(missing) = tool(name) {
            return Access::No(missing.to_string());
        }
    }
    let direct = match super::switch::probe() {
        Ok(()) => return Access::Here,
        Err(error) => error,
    };
    if std::env::var_os(INSIDE).is_some() {
        return Access::No(format!("even inside a user namespace: {direct}"));
    }
    match Command::new("unshare").args(["-Urnm", "true"]).output() {
        Ok(done) if done.status.success() => Access::Again,
        Ok(done) => Access::No(format!(
            "neither root ({direct}) nor user namespaces ({})",
            String::from_utf8_lossy(&done.stderr).trim()
        )),
        Err(error) => Access::No(format!("cannot run unshare: {error}")),
    }
}

/// This program again, inside a user namespace, with the given arguments.
fn again<I, S>(args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new("unshare");
    command.arg("-Urnm");
    command.arg(std::env::current_exe().unwrap_or_default());
    command.args(args).env(INSIDE, "1");
    command
}

/// Goes on where labs can be made: here, or in this program started again with the same arguments, which this
/// one becomes.
///
/// # Errors
/// The code to end with, once `program` has said why it cannot.
pub fn enter(program: &str) -> Result<(), ExitCode> {
    match access() {
        Access::Here => return Ok(()),
        Access::Again => {
            let error = again(std::env::args_os().skip(1)).exec();
            eprintln!("{program}: cannot start again inside a user namespace: {error}");
        }
        Access::No(reason) => eprintln!("{program}: NOT RUN: {reason}"),
    }
    Err(ExitCode::from(UNAVAILABLE))
}

/// A program of the lab: enters it, does `work`, and says in the program's name what went wrong.
#[must_use]
pub fn program<E: Display>(name: &str, work: impl FnOnce() -> Result<(), E>) -> ExitCode {
    if let Err(code) = enter(name) {
        return code;
    }
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a test body in a fresh lab. One lab at a time on a machine: the figures that tests assert
/// are those of an undisturbed one.
///
/// # Panics
/// When the body panics or the lab cannot be made although this machine allows it.
pub fn in_lab<F: FnOnce(&Lab)>(body: F) {
    match access() {
        Access::Here => {
            let _turn = turn();
            let lab = Lab::new().unwrap_or_else(|e| panic!("{e}"));
            body(&lab);
        }
        Access::Again => {
            let test = test_path::<F>();
            let mut command = again([&test, "--exact", "--nocapture"]);
            let status = command.status();
            assert!(
                matches!(&status, Ok(s) if s.success()),
                "{test} failed inside its user namespace: {status:?}"
            );
        }
        Access::No(reason) => println!("NOT RUN: {}: {reason}", test_path::<F>()),
    }
}

/// The path of the test whose closure `F` is, as the test harness spells it.
fn test_path<F>() -> String {
    let name = std::any::type_name::<F>();
    let name = name.split("::{{closure}}").next().unwrap_or(name);
    let (_, path) = name.split_once("::").unwrap_or(("", name));
    path.to_owned()
}

/// Held while a test uses the machine.
fn turn() -> Result<File, LabError> {
    let root = target_dir().join("lab");
    std::fs::create_dir_all(&root).map_err(LabError::file("create", &root))?;
    let path = root.join(".turn");
    let file = File::create(&path).map_err(LabError::file("create", &path))?;
    file.lock().map_err(LabError::file("lock", &path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::test_path;

    fn path_of<F: FnOnce()>(_: F) -> String {
        test_path::<F>()
    }

    #[test]
    fn a_closure_knows_its_test() {
        let path = path_of(|| {});
        assert_eq!(path, "lab::entry::tests::a_closure_knows_its_test");
    }
}
