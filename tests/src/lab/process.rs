//! Processes that the lab started: their output, their signals, their end.
//!
//! Owns: the child handle, and with it the right to signal. A signal is sent only while the child
//! has not been reaped, under the same lock that reaps it, so a recycled process id is never hit.
//! Each process leads its own process group (a terminal's Ctrl-C goes to the driver alone) and asks
//! the kernel to be killed when the thread that started it ends.
//!
//! Never: signal anything that was not started here.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::error::LabError;

/// How often a process is looked at while its end is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// What to start: program, arguments and environment; the host adds namespace and log files.
#[derive(Debug, Clone)]
pub struct Program {
    pub(super) label: String,
    pub(super) path: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// Where its standard output goes instead of a file.
    pub(super) out: Option<Arc<PipeWriter>>,
}

impl Program {
    /// A program to be known as `label` (its output goes to `<label>.out` and `<label>.err`).
    pub fn new(label: &str, path: impl Into<PathBuf>) -> Self {
        let (label, path) = (label.to_owned(), path.into());
        Self { label, path, args: Vec::new(), env: Vec::new(), out: None }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The same under `<label>-<number>`.
    #[must_use]
    pub(crate) fn labelled(mut self, number: u32) -> Self {
        self.label = format!("{}-{number}", self.label);
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    /// Has its standard output go into this pipe, for whoever must know when a line comes. The other end sees
    /// the pipe's end when the process ends and this is dropped.
    #[must_use]
    pub fn output_to(mut self, pipe: PipeWriter) -> Self {
        self.out = Some(Arc::new(pipe));
        self
    }

    /// The command that starts it so that it dies with the starting thread. `setpriv` sets the
    /// parent-death signal and then becomes the program, keeping its process id.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(&self.path).args(&self.args);
        own_settings_only(&mut command);
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).process_group(0);
        command
    }
}

/// A running (or ended) process of the lab. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    label: String,
    host: String,
    pid: i32,
    started: Instant,
    child: Mutex<Child>,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `program` on the calling thread, in the calling thread's namespaces.
    pub(crate) fn start(
        program: &Program,
        host: &str,
        logs: &Path,
        ledger: &Path,
    ) -> Result<Self, LabError> {
        let refuse = |source| LabError::Start {
            program: program.path.display().to_string(),
            host: host.to_owned(),
            source,
        };
        let out = logs.join(format!("{}.out", program.label));
        let err = logs.join(format!("{}.err", program.label));
        let stdout = match &program.out {
            Some(pipe) => pipe.try_clone().map(Stdio::from),
            None => append(&out).map(Stdio::from),
        };
        let child = program
            .command()
            .stdout(stdout.map_err(refuse)?)
            .stderr(append(&err).map_err(refuse)?)
            .spawn()
            .map_err(refuse)?;
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        record(ledger, pid).map_err(refuse)?;
        Ok(Self {
            label: program.label.clone(),
            host: host.to_owned(),
            pid,
            started: Instant::now(),
            child: Mutex::new(child),
            out,
            err,
        })
    }

    /// Its label on the host.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// When it was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it wrote to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// Where its standard error goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.err
    }

    /// True while it has not ended.
    #[must_use]
    pub fn running(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// SIGKILL, and waits for the end: when this returns the kernel has closed its sockets.
    ///
    /// # Errors
    /// [`LabError::Signal`] when the kernel refuses.
    pub fn kill(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGKILL)?;
        let _ = self.child().wait();
        Ok(())
    }

    /// SIGTERM: asks it to end in good order.
    ///
    /// # Errors
    /// [`LabError::Signal`] when the kernel refuses.
    pub fn term(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGTERM)
    }

    /// SIGHUP: asks it to read its configuration again.
    ///
    /// # Errors
    /// [`LabError::Signal`] when the kernel refuses.
    pub fn hup(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGHUP)
    }

    /// SIGSTOP: it hangs; its sockets stay open and its kernel goes on acknowledging.
    ///
    /// # Errors
    /// [`LabError::Signal`] when the kernel refuses.
    pub fn stop(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT: ends a hang.
    ///
    /// # Errors
    /// [`LabError::Signal`] when the kernel refuses.
    pub fn cont(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGCONT)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with the tail of its standard error when it still runs.
    pub fn wait(&self, within: Duration) -> Result<ExitStatus, LabError> {
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child().try_wait() {
                return Ok(status);
            }
            if start.elapsed() >= within {
                return Err(LabError::Deadline {
                    what: format!("`{}` on `{}` to end", self.label, self.host),
                    waited_ms: start.elapsed().as_millis(),
                    seen: format!("running; {}", tail(&self.stderr(), 5)),
                });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Signals its whole group, unless it has already been reaped.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), LabError> {
        let mut child = self.child();
        if !matches!(child.try_wait(), Ok(None)) {
            return Ok(());
        }
        killpg(Pid::from_raw(self.pid), signal).map_err(|errno| LabError::Signal {
            signal: signal.as_str(),
            process: format!("{}/{}", self.host, self.label),
            pid: self.pid,
            source: errno.into(),
        })
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Takes the driver's `HEARTH_*` variables out of a child's environment: agents read settings from
/// them, and those of the lab or of whoever started it are not meant for its hosts.
pub(super) fn own_settings_only(command: &mut Command) {
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("HEARTH_") {
            command.env_remove(key);
        }
    }
}

/// The last `lines` of a text, for messages.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Notes a process in the lab's ledger, by id and start time, for the sweep of a later lab.
fn record(ledger: &Path, pid: i32) -> io::Result<()> {
    let Some(born) = super::sweep::born(pid) else {
        return Ok(()); // It ended at once; there is nothing to sweep.
    };
    writeln!(append(ledger)?, "{pid} {born}")
}
