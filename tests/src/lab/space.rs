//! A network namespace held by one thread.
//!
//! Owns: the thread that called `unshare(CLONE_NEWNET)` and is therefore *in* the namespace. The
//! namespace has no name and no mount; it lives exactly as long as this thread and the processes
//! started from it, so a driver that dies, however it dies, leaves no namespace behind.
//!
//! Everything that must happen inside goes through that thread ([`Space::call`]) or through a
//! fresh thread that enters first ([`Space::thread`]). Programs are started *by the holding
//! thread* on purpose: their parent-death signal follows the thread that started them, and this one
//! lives as long as the namespace.
//!
//! Never: touch the namespace of the calling thread, or the machine's own network.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns, unshare};

use super::error::LabError;

type Job = Box<dyn FnOnce() + Send>;

/// Jobs waiting for the holding thread. Callers block beyond it; each job is a spawn or less.
const JOBS: usize = 16;

/// A network namespace and the thread that holds it. Dropping it ends the thread.
#[derive(Debug)]
pub struct Space {
    label: String,
    path: PathBuf,
    netns: Arc<File>,
    jobs: Option<SyncSender<Job>>,
    holder: Option<JoinHandle<()>>,
}

impl Space {
    /// Makes a new, empty namespace with its loopback down. `label` is for messages only.
    ///
    /// # Errors
    /// [`LabError::Space`] when the kernel refuses (no privilege).
    pub fn new(label: &str) -> Result<Self, LabError> {
        let (jobs, inbox) = sync_channel::<Job>(JOBS);
        let (ready, made) = sync_channel(1);
        let holder = std::thread::Builder::new()
            .name(format!("ns-{label}"))
            .spawn(move || hold(&inbox, &ready))
            .map_err(space_error("start the thread of", label))?;
        let path = made
            .recv()
            .map_err(|_| LabError::SpaceGone(label.to_owned()))?
            .map_err(space_error("make", label))?;
        let netns = File::open(&path).map_err(space_error("open", label))?;
        Ok(Self {
            label: label.to_owned(),
            path,
            netns: Arc::new(netns),
            jobs: Some(jobs),
            holder: Some(holder),
        })
    }

    /// The namespace as a path under `/proc`, for `ip link … netns PATH` and `nsenter --net=PATH`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` on the holding thread and returns its result.
    ///
    /// # Errors
    /// [`LabError::SpaceGone`] when the thread has ended.
    pub fn call<T, F>(&self, f: F) -> Result<T, LabError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let gone = || LabError::SpaceGone(self.label.clone());
        let (answer, result) = sync_channel(1);
        let job: Job = Box::new(move || {
            // The caller waits for the answer, so a failed send means that it panicked.
            let _ = answer.send(f());
        });
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())
    }

    /// Starts a thread inside the namespace, for sockets of the driver's own (load, receivers).
    ///
    /// # Errors
    /// [`LabError::Space`] when the thread cannot be started; a thread that cannot enter panics
    /// with the reason when joined.
    pub fn thread<T, F>(&self, name: &str, f: F) -> Result<JoinHandle<T>, LabError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let netns = Arc::clone(&self.netns);
        let label = self.label.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if let Err(source) = setns(netns.as_fd(), CloneFlags::CLONE_NEWNET) {
                    panic!("cannot enter network namespace `{label}`: {source}");
                }
                f()
            })
            .map_err(space_error("start a thread in", &self.label))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(holder) = self.holder.take() {
            // A panic of the holding thread has been reported to whoever asked it for something.
            let _ = holder.join();
        }
    }
}

/// Body of the holding thread: make the namespace, say where it is, do jobs until nobody can ask.
fn hold(inbox: &Receiver<Job>, ready: &SyncSender<io::Result<PathBuf>>) {
    let made = unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from).map(|()| {
        let (pid, thread) = (std::process::id(), nix::unistd::gettid());
        PathBuf::from(format!("/proc/{pid}/task/{thread}/ns/net"))
    });
    let failed = made.is_err();
    let _ = ready.send(made);
    if failed {
        return;
    }
    while let Ok(job) = inbox.recv() {
        job();
    }
}

fn space_error<'a>(
    action: &'static str,
    label: &'a str,
) -> impl FnOnce(io::Error) -> LabError + use<'a> {
    move |source| LabError::Space { action, space: label.to_owned(), source }
}
