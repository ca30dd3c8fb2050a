//! A program as hook: argument list, no shell, a process group of its own.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::{Attempt, Failure, HookCall, HookError, OUTPUT_KEPT};

/// After the program ended its output is read for so long; processes it left behind may hold the pipe.
const DRAIN: Duration = Duration::from_millis(100);

/// Kills the whole group unless the program ended by itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // The group is gone already: then there is nothing to do.
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}

/// Runs the program once. Dropping the future kills it and all it started.
pub(super) async fn run(words: &[String], call: &HookCall) -> Result<(), Attempt> {
    let [program, arguments @ ..] = words else { return Ok(()) };
    let mut child = Command::new(program)
        .args(arguments)
        .env("HEARTH_SERVICE", call.endpoint.service.as_str())
        .env("HEARTH_INCIDENT", &call.incident)
        .env("HEARTH_ENDPOINT", call.endpoint.to_string())
        .envs(call.term.map(|term| ("HEARTH_TERM", term.to_string())))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|source| not_started(program, source))?;
    let mut group = Group(pid_of(&child));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let status = {
        let reading = async {
            tokio::join!(keep(stdout, &mut out), keep(stderr, &mut err));
        };
        tokio::pin!(reading);
        let (status, read) = tokio::select! {
            status = child.wait() => (status, false),
            // Both pipes closed before the end: wait for the end alone.
            () = &mut reading => (child.wait().await, true),
        };
        group.0 = None;
        if !read {
            // What was printed last may still be in the pipe; that it is lost changes nothing.
            let _ = tokio::time::timeout(DRAIN, reading).await;
        }
        status
    };
    out.extend_from_slice(&err);
    out.truncate(OUTPUT_KEPT);
    let failed = |status: String| {
        let output = String::from_utf8_lossy(&out).into_owned();
        Attempt::Failed(Failure::Exit { program: program.clone(), status, output })
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(status.to_string())),
        Err(e) => Err(failed(format!("an unknown status ({e})"))),
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
}

/// A program that is not there will not be there in a second either; a system that is short of something
/// may have it then.
fn not_started(program: &str, source: io::Error) -> Attempt {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotFound, PermissionDenied};
    let program = program.to_owned();
    match source.kind() {
        NotFound | PermissionDenied | InvalidInput | IsADirectory => {
            Attempt::Hopeless(HookError::Start { program, source })
        }
        _ => Attempt::Failed(Failure::NoAnswer(format!("cannot run {program}: {source}"))),
    }
}

/// Reads to the end, so that the program never waits for us, and keeps the beginning.
async fn keep(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 4096];
    while let Ok(n) = pipe.read(&mut buffer).await {
        if n == 0 {
            return;
        }
        let room = OUTPUT_KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
}
