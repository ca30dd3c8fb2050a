//! The members of one kind, running: started together, looked at, struck and started again.
//!
//! Owns their processes, ends them when dropped, and only them. What is waited for is what members *say*, with
//! a deadline. Decides nothing about figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_proto::time::Wall;

use super::kind::{Kind, Names, Shared, now};
use super::views::Views;
use crate::bench::account::Watched;
use crate::lab::process::tail;
use crate::lab::wait::wait_for;
use crate::lab::{Host, LabError, Process};

/// For the first to come up.
const UP: Duration = Duration::from_secs(30);
/// Between two looks while something is watched. Not a figure: changes carry their own moments.
const LOOK: Duration = Duration::from_millis(20);

/// Members that run.
pub struct Group {
    kind: Box<dyn Kind>,
    names: Names,
    views: Shared,
    processes: Vec<Arc<Process>>,
}

impl Group {
    /// Starts the first member, waits until it is up, and starts all others. Returns when it began with those,
    /// and when it had started the last.
    ///
    /// # Errors
    /// [`LabError`] with the one that could not be started, or did not come up.
    pub fn start(
        kind: Box<dyn Kind>,
        hosts: &[Arc<Host>],
        views: Shared,
    ) -> Result<(Self, Wall, Wall), LabError> {
        let mut group = Self { kind, names: Names::of(hosts), views, processes: Vec::new() };
        let first = group.kind.start(0)?;
        group.processes.push(first);
        wait_for("the first agent to come up", UP, || match group.kind.up(0) {
            true => Ok(()),
            false => Err(tail(&group.processes[0].stderr(), 5)),
        })?;
        let began = now();
        for n in 1..hosts.len() {
            let process = group.kind.start(n)?;
            group.processes.push(process);
        }
        Ok((group, began, now()))
    }

    /// What is accounted: each member for itself.
    #[must_use]
    pub fn watched(&self) -> Vec<Watched> {
        let one = |(n, process): (usize, &Arc<Process>)| Watched {
            label: self.names.name(n).to_owned(),
            pids: vec![process.pid()],
        };
        self.processes.iter().enumerate().map(one).collect()
    }

    /// The name of a member.
    #[must_use]
    pub fn name(&self, n: usize) -> String {
        self.names.name(n).to_owned()
    }

    /// Members whose process does not run.
    #[must_use]
    pub fn ended(&self) -> Vec<&str> {
        let all = self.processes.iter().enumerate();
        all.filter(|(_, process)| !process.running()).map(|(n, _)| self.names.name(n)).collect()
    }

    /// How often a member was declared down and joined again, if it counts that.
    #[must_use]
    pub fn rejoined(&self, n: usize) -> Option<u64> {
        self.kind.rejoined(n)
    }

    /// Asks the views as they are.
    pub fn views<T>(&self, ask: impl FnOnce(&Views) -> T) -> T {
        ask(&self.views.lock())
    }

    /// Looks at the views until they answer. `gone` is not asked.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with what `ask` said last.
    pub fn wait<T>(
        &mut self,
        what: &str,
        within: Duration,
        gone: Option<usize>,
        mut ask: impl FnMut(&Views) -> Result<T, String>,
    ) -> Result<T, LabError> {
        wait_for(what, within, || {
            self.kind.look(gone);
            ask(&self.views.lock())
        })
    }

    /// Waits until everybody sees everybody, and returns since when.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with how many do not.
    pub fn whole(&mut self, within: Duration) -> Result<Wall, LabError> {
        self.wait("everybody to see everybody", within, None, |views| {
            views.whole_since().ok_or_else(|| format!("{} pairs do not", views.lacking()))
        })
    }

    /// Keeps the views up to date for so long. `gone` is not asked.
    pub fn watch(&mut self, length: Duration, gone: Option<usize>) {
        let begun = Instant::now();
        while let Some(left) = length.checked_sub(begun.elapsed()) {
            self.kind.look(gone);
            std::thread::sleep(LOOK.min(left));
        }
    }

    /// SIGKILL to a member. Returns when.
    ///
    /// # Errors
    /// [`LabError::Signal`].
    pub fn kill(&mut self, n: usize) -> Result<Wall, LabError> {
        let at = now();
        self.processes[n].kill()?;
        Ok(at)
    }

    /// Starts a member again that was killed. Returns when.
    ///
    /// # Errors
    /// [`LabError::Start`].
    pub fn restart(&mut self, n: usize) -> Result<Wall, LabError> {
        // What it knew has gone with it.
        self.views.lock().forget(n);
        let at = now();
        self.processes[n] = self.kind.start(n)?;
        Ok(at)
    }

    /// SIGSTOP to a member. Returns when.
    ///
    /// # Errors
    /// [`LabError::Signal`].
    pub fn stop(&self, n: usize) -> Result<Wall, LabError> {
        let at = now();
        self.processes[n].stop()?;
        Ok(at)
    }

    /// SIGCONT to a member. Returns when.
    ///
    /// # Errors
    /// [`LabError::Signal`].
    pub fn cont(&self, n: usize) -> Result<Wall, LabError> {
        let at = now();
        self.processes[n].cont()?;
        Ok(at)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for process in &self.processes {
            // The lab kills what is left with its hosts.
            let _ = process.kill();
        }
    }
}
