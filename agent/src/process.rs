//! The process behind an endpoint: that it ended is the kernel's word (pidfd_open(2)), not the next check's.
//!
//! Decides nothing. Which process it is says a pid file, which is read anew now and then: applications are
//! started again, and some hand over to a successor before they end. A file that is missing, cannot be read
//! or names nobody means that the checks are all there is. What a stale file names may be another process
//! of the same number: its end is taken for the application's until the check that follows says otherwise.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

/// How often the file is read.
const READ_EVERY: Duration = Duration::from_secs(1);
/// A number of a process has fewer digits; whatever follows it is of no interest.
const MAX_PID: u64 = 32;

/// What the file names. A file that was written again names another process, were it of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    pid: Pid,
    written: SystemTime,
}

/// A process that is watched.
#[derive(Debug)]
struct Process {
    named: Named,
    fd: AsyncFd<OwnedFd>,
}

/// The ends of the processes that a file names one after the other.
#[derive(Debug)]
pub struct Exits {
    file: Option<PathBuf>,
    current: Option<Process>,
    /// There is nothing more to be learnt of it: it has ended, or cannot be watched.
    done: Option<Named>,
}

impl Exits {
    /// Of the processes that `file` names. `None`: there never is one.
    pub fn of(file: Option<PathBuf>) -> Self {
        Self { file, current: None, done: None }
    }

    /// Waits until the process that the file names has ended, and says which it was. Cancel-safe.
    pub async fn next(&mut self) -> i32 {
        let Some(file) = self.file.clone() else { return std::future::pending().await };
        loop {
            if let Some(named) = named(&file).await {
                self.watch(named);
            }
            let Some(process) = &self.current else {
                sleep(READ_EVERY).await;
                continue;
            };
            let ended = tokio::select! {
                ready = process.fd.readable() => ready.is_ok(),
                () = sleep(READ_EVERY) => false,
            };
            if !ended {
                continue;
            }
            let successor = named_other(&file, process.named).await;
            let ended = process.named;
            (self.current, self.done) = (None, Some(ended));
            if !successor {
                return ended.pid.as_raw_nonzero().get();
            }
        }
    }

    fn watch(&mut self, named: Named) {
        let known = self.current.as_ref().map(|process| process.named);
        if known == Some(named) || self.done == Some(named) {
            return;
        }
        match open(named.pid) {
            Ok(fd) => self.current = Some(Process { named, fd }),
            Err(error) => {
                tracing::debug!(pid = named.pid.as_raw_nonzero().get(), %error, "process not watched");
                self.done = Some(named);
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that may close or change what they lend: an OwnedFd is \
              open and the same as long as it lives"
)]
fn open(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    // Readable once the process has ended (pidfd_open(2)).
    AsyncFd::with_interest(pidfd_open(pid, PidfdFlags::NONBLOCK)?, Interest::READABLE)
}

/// Whether the file names another process than this one by now.
async fn named_other(file: &Path, than: Named) -> bool {
    named(file).await.is_some_and(|named| named != than)
}

/// What the file names. Files are not read on the thread that the mesh runs on.
async fn named(file: &Path) -> Option<Named> {
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || read(&file)).await.ok()?.ok().flatten()
}

fn read(file: &Path) -> io::Result<Option<Named>> {
    let file = File::open(file)?;
    let written = file.metadata()?.modified()?;
    let mut text = String::new();
    file.take(MAX_PID).read_to_string(&mut text)?;
    let number = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Ok(number.and_then(Pid::from_raw).map(|pid| Named { pid, written }))
}

#[cfg(test)]
pub(crate) mod tests;
