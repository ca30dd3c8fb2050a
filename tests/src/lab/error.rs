//! What can go wrong while a lab is built, driven or taken down.
//!
//! One enum for the lab as a whole: every operation of it is "ask the kernel or a program for
//! something", and the caller's only choice is to give up and print. Each text says what was
//! attempted, on which host, and what came back.

use std::path::PathBuf;

/// A lab operation that failed. Nothing needs to be undone by the caller: dropping the lab removes
/// whatever had been made.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A namespace could not be made or entered.
    #[error("cannot {action} network namespace `{space}`: {source}; needs root or user namespaces")]
    Space {
        /// What was tried.
        action: &'static str,
        /// Label of the namespace.
        space: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The thread that holds a namespace is gone (it panicked).
    #[error("the thread holding network namespace `{0}` has ended")]
    SpaceGone(String),
    /// A program could not be started.
    #[error("cannot start `{program}` on `{host}`: {source}")]
    Start {
        /// Program that was to run.
        program: String,
        /// Host it was to run on.
        host: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A program ran and said no.
    #[error("`{command}` on `{host}` ended with {status}: {output}")]
    Failed {
        /// The whole command line.
        command: String,
        /// Host it ran on.
        host: String,
        /// Exit status in words.
        status: String,
        /// What it printed, both streams.
        output: String,
    },
    /// A file or directory of the lab could not be written or read.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A binary the lab runs is not built or not installed.
    #[error("`{name}` was not found in {looked}; {hint}")]
    NoBinary {
        /// Its file name.
        name: String,
        /// Directories looked into.
        looked: String,
        /// How to get it.
        hint: &'static str,
    },
    /// A signal could not be delivered to a process of ours.
    #[error("cannot send {signal} to `{process}` (pid {pid}): {source}")]
    Signal {
        /// Signal name.
        signal: &'static str,
        /// Label of the process.
        process: String,
        /// Its id.
        pid: i32,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A condition did not come about in time.
    #[error("waited {waited_ms} ms for {what}; last seen: {seen}")]
    Deadline {
        /// The condition, in words.
        what: String,
        /// How long it was waited for.
        waited_ms: u128,
        /// The last observation.
        seen: String,
    },
    /// The admin socket of an agent gave no usable answer.
    #[error("admin request {path} at {socket}: {reason}")]
    Admin {
        /// Unix socket asked.
        socket: PathBuf,
        /// Path asked for.
        path: String,
        /// What happened.
        reason: String,
    },
    /// A fault that this host's link cannot carry out.
    #[error("host `{host}` cannot do that: {reason}")]
    Unable {
        /// The host.
        host: String,
        /// Why, and what to do.
        reason: String,
    },
}

impl LabError {
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
