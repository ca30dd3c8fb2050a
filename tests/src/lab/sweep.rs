//! Removes what a lab whose driver is dead left behind.
//!
//! Namespaces vanish by themselves and processes die with their parent, so what stays is
//! directories, and processes that a hook started (or a program that cleared its parent-death signal).
//! Decides by process id *and* start time, so that a recycled id is never taken for the old one.
//!
//! Never: touch a directory not named like a lab's, or a process not in the ledger of a lab that ended.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Directories of dead labs kept for reading: a failed run's logs are why one opens them.
const KEPT: usize = 12;

/// File that names a lab's driver.
pub(super) const OWNER: &str = "owner";
/// File that lists the processes a lab started.
pub(super) const LEDGER: &str = "processes";

/// When a process started, in clock ticks since boot; with its id this is unique.
pub(super) fn born(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in parentheses and may hold anything: count from behind it.
    let after = &stat[stat.rfind(')')? + 1..];
    after.split_whitespace().nth(19)?.parse().ok()
}

/// Sweeps `root` (where labs live). Problems are ignored: a lab must start on a messy disk too.
pub(super) fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    let mut dead: Vec<_> = entries
        .flatten()
        .filter(|e| is_lab_name(&e.file_name().to_string_lossy()))
        .map(|e| e.path())
        .filter(|dir| !alive(&dir.join(OWNER)))
        .collect();
    for dir in &dead {
        end_all(&dir.join(LEDGER));
    }
    dead.sort_by_key(|dir| fs::metadata(dir).and_then(|m| m.modified()).ok());
    for dir in dead.iter().rev().skip(KEPT) {
        let _ = fs::remove_dir_all(dir);
    }
}

/// Ends what of a ledger still runs.
pub(super) fn end_all(path: &Path) {
    for (pid, started) in ledger(path) {
        if born(pid) == Some(started) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// `hl<pid>-<n>`.
fn is_lab_name(name: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    name.strip_prefix("hl")
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(pid, n)| digits(pid) && digits(n))
}

fn alive(owner: &Path) -> bool {
    ledger(owner).iter().any(|&(pid, started)| born(pid) == Some(started))
}

fn ledger(path: &Path) -> Vec<(i32, u64)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (pid, started) = line.split_once(' ')?;
            Some((pid.parse().ok()?, started.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{born, is_lab_name};

    #[test]
    fn only_names_made_by_a_lab_are_swept() {
        assert!(is_lab_name("hl123-0"));
        for other in ["deps", "build", "hl", "hl12", "hl-1", "hlx-1", "hl1-x"] {
            assert!(!is_lab_name(other), "{other}");
        }
    }

    #[test]
    fn a_running_process_has_a_birth() {
        assert!(born(std::process::id().cast_signed()).is_some());
        assert!(born(i32::MAX).is_none());
    }
}
