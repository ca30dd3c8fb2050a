//! Whom the bench measures: what a kind of agent has to have, beside being a program.
//!
//! A kind knows how one of its agents is started on a host and where its view comes from. What is done to agents,
//! and what it comes to, is the same for all kinds and not theirs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use hearth_proto::time::Wall;
use serde::Serialize;

use super::views::Views;
use crate::lab::{Host, LabError, Process};

/// One side of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Hearth, default settings.
    Hearth,
    /// serf with its LAN profile.
    Serf,
}

impl Subject {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 2] = [Self::Hearth, Self::Serf];

    /// As it is printed.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Hearth => "Hearth",
            Self::Serf => "serf",
        }
    }
}

/// A kind of agent.
pub trait Kind {
    /// Starts member `n`. All but the first join by the first.
    ///
    /// # Errors
    /// [`LabError`] when its program cannot be started.
    fn start(&self, n: usize) -> Result<Arc<Process>, LabError>;

    /// Whether member `n` has come up so far that others can join by it.
    fn up(&self, n: usize) -> bool;

    /// Brings the shared views up to date as far as it is due. `gone` cannot be asked.
    fn look(&mut self, gone: Option<usize>);

    /// How often member `n` was declared down and joined again, if it counts that.
    fn rejoined(&self, n: usize) -> Option<u64>;
}

/// Views that several threads write into.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<Views>>);

impl Shared {
    /// Of so many members, none of whom knows anything.
    #[must_use]
    pub fn new(members: usize) -> Self {
        Self(Arc::new(Mutex::new(Views::new(members))))
    }

    /// The views as they are.
    pub fn lock(&self) -> MutexGuard<'_, Views> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The members' names, which are their hosts'.
#[derive(Debug, Clone)]
pub struct Names(Arc<Vec<String>>);

impl Names {
    /// Of these hosts.
    #[must_use]
    pub fn of(hosts: &[Arc<Host>]) -> Self {
        Self(Arc::new(hosts.iter().map(|host| host.name().to_owned()).collect()))
    }

    /// For so many members: all of one length, so that a packet is as long for one as for another.
    #[must_use]
    pub fn make(members: usize) -> Vec<String> {
        (1..=members).map(|n| format!("node-{n:03}")).collect()
    }

    /// Whose name this is.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<usize> {
        let (_, digits) = name.rsplit_once('-')?;
        let number = digits.parse::<usize>().ok()?.checked_sub(1)?;
        (self.0.get(number)? == name).then_some(number)
    }

    /// The name of this member.
    #[must_use]
    pub fn name(&self, number: usize) -> &str {
        self.0.get(number).map_or("?", String::as_str)
    }
}

/// Now, as agents stamp what they say.
#[must_use]
pub fn now() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Seconds from one moment to a later one.
#[must_use]
pub fn seconds(from: Wall, to: Wall) -> f64 {
    to.0.saturating_sub(from.0) as f64 / 1e6
}
