//! Running a recording: the same core, the same inputs, and every decision held against the one recorded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::advert::{Keyring, Untrusted};
use crate::ids::Identity;
use crate::node::{Checkpoint, Node};
use crate::route::Snapshot;
use crate::time::Time;
use crate::wire::WireError;

use super::decision;
use super::input::{Entry, Step};

/// Why a recording cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplayable {
    /// It has steps before any checkpoint.
    #[error("the recording does not begin with a checkpoint")]
    NoCheckpoint,
    /// A checkpoint's content cannot be read.
    #[error("a checkpoint cannot be read: {0}")]
    Checkpoint(#[from] WireError),
}

/// Where a replay left the recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A step decided otherwise.
    Decision {
        /// When, by the node's time.
        at: Time,
        /// Its number in the replay, from 1.
        step: u64,
        /// What was recorded.
        recorded: Vec<String>,
        /// What the replay decided.
        replayed: Vec<String>,
    },
    /// A step asked for another number of signatures to be judged.
    Verdicts {
        /// When.
        at: Time,
        /// Its number in the replay, from 1.
        step: u64,
    },
    /// All decisions were the same, the state at a later checkpoint is not.
    State {
        /// When.
        at: Time,
    },
}

impl Difference {
    /// When the two parted.
    pub fn at(&self) -> Time {
        match self {
            Self::Decision { at, .. } | Self::Verdicts { at, .. } | Self::State { at } => *at,
        }
    }
}

/// A core under replay. Feed it the entries in order; the first difference is kept.
#[derive(Default)]
pub struct Replay {
    playing: Option<Playing>,
    steps: u64,
    decisions: u64,
    dropped: u64,
    difference: Option<Difference>,
}

struct Playing {
    node: Node,
    testimony: Testimony,
    before: Arc<Snapshot>,
    at: Time,
}

impl Replay {
    /// A replay that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next entry. Returns what the replayed step decided.
    pub fn feed(&mut self, entry: Entry) -> Result<Vec<String>, Unplayable> {
        match entry {
            Entry::Checkpoint(checkpoint) => {
                self.checkpoint(*checkpoint)?;
                Ok(Vec::new())
            }
            Entry::Gap { dropped } => {
                self.dropped += dropped;
                // What the core went through meanwhile is unknown: its state is no longer that of the
                // recorded one.
                self.playing = None;
                Ok(Vec::new())
            }
            Entry::Step(step) => self.step(step),
        }
    }

    /// The first difference, if there was one.
    pub fn difference(&self) -> Option<&Difference> {
        self.difference.as_ref()
    }

    /// Steps replayed.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Decisions made in them.
    pub fn decisions(&self) -> u64 {
        self.decisions
    }

    /// Entries that the recording says it lacks.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The core as it stands, and its time.
    pub fn node(&self) -> Option<(&Node, Time)> {
        self.playing.as_ref().map(|p| (&p.node, p.at))
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), Unplayable> {
        let at = checkpoint.at();
        if let Some(playing) = &mut self.playing {
            // The same start of the same agent: what was replayed so far must have led here.
            let ours = playing.node.checkpoint(at);
            let same_start =
                ours.generation() == checkpoint.generation() && ours.node() == checkpoint.node();
            if same_start && ours.essence()? != checkpoint.essence()? {
                self.differ(Difference::State { at });
            }
        }
        let testimony = Testimony::default();
        let node = Node::resume(checkpoint, Box::new(testimony.clone()))?;
        let before = node.snapshot();
        self.playing = Some(Playing { node, testimony, before, at });
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<Vec<String>, Unplayable> {
        let Some(playing) = &mut self.playing else {
            return Err(Unplayable::NoCheckpoint);
        };
        let Step { now, input, verdicts, hearsay, decided } = step;
        self.steps += 1;
        playing.at = now;
        playing.testimony.expect(verdicts);
        playing.node.hear(hearsay);
        let mark = playing.node.mark();
        input.play(&mut playing.node, now);
        let lines = decision::lines(&playing.node, mark, &playing.before);
        playing.before = playing.node.snapshot();
        playing.node.discard_outputs();
        let judged_alike = playing.testimony.is_exhausted();
        self.decisions += lines.len() as u64;
        let (at, number) = (now, self.steps);
        if lines != decided {
            let replayed = lines.clone();
            self.differ(Difference::Decision { at, step: number, recorded: decided, replayed });
        } else if !judged_alike {
            self.differ(Difference::Verdicts { at, step: number });
        }
        Ok(lines)
    }

    fn differ(&mut self, difference: Difference) {
        self.difference.get_or_insert(difference);
    }
}

/// A keyring that says what was recorded. It has no key: what it signs is empty.
#[derive(Clone, Default)]
struct Testimony(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    verdicts: VecDeque<Result<(), Untrusted>>,
    /// More was asked than was recorded.
    short: bool,
}

impl Testimony {
    fn expect(&self, verdicts: Vec<Result<(), Untrusted>>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *told = Told { verdicts: verdicts.into(), short: false };
    }

    fn is_exhausted(&self) -> bool {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.verdicts.is_empty() && !told.short
    }
}

impl Keyring for Testimony {
    fn sign(&self, _message: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn certificate(&self) -> Arc<[u8]> {
        Arc::from([])
    }

    fn verify(
        &self,
        _signer: &Identity,
        _certificate: &[u8],
        _message: &[u8],
        _signature: &[u8],
        _lasting: bool,
    ) -> Result<(), Untrusted> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.verdicts.pop_front().unwrap_or_else(|| {
            told.short = true;
            Err(Untrusted::Signature)
        })
    }
}
