//! Some hosts fly with a recorder; when all is over each recording is replayed, and must decide what its
//! host decided, from its beginning and from its last checkpoint alone.
//!
//! Recordings go through their file's bytes, and are cut by checkpoints now and then as a ring's segments
//! are, so that what a checkpoint forgets shows.

use std::collections::BTreeMap;

use hearth_proto::flight::{self, Entry, Recorder, Replay};
use hearth_proto::node::Node;

use super::world::World;
use super::{At, S};

/// Hosts that are recorded: the replay of all would double the time of a run.
const RECORDED: usize = 4;
/// From one checkpoint to the next, at least.
const LEG: u64 = 13 * S;
/// Entries in a frame.
const BATCH: usize = 64;

/// A host's recording, over all its starts.
#[derive(Default)]
pub(super) struct Tape {
    bytes: Vec<u8>,
    pending: Vec<Entry>,
    leg: At,
}

/// The recordings of a world.
#[derive(Default)]
pub struct Tapes(BTreeMap<usize, Tape>);

impl Tapes {
    /// Records some of `n` hosts: the first, which calls, and others by the seed.
    pub(super) fn new(seed: u64, n: usize) -> Self {
        let spread = |k: usize| (k * (n / RECORDED).max(1) + seed as usize % RECORDED) % n;
        let hosts = (1..RECORDED).map(spread).chain([0]).filter(|h| *h < n);
        Self(hosts.map(|host| (host, Tape::default())).collect())
    }

    /// The core of `host`, recorded or not.
    pub(super) fn aboard(&self, host: usize, node: Node) -> Recorder {
        match self.0.contains_key(&host) {
            true => Recorder::new(node),
            false => Recorder::off(node),
        }
    }

    /// Takes what the recorder of `host` has, and has it begin a new leg when the last is long enough.
    pub(super) fn take(&mut self, now: At, host: usize, node: &mut Recorder) {
        let Some(tape) = self.0.get_mut(&host) else { return };
        while let Some(entry) = node.poll_entry() {
            tape.pending.push(entry);
        }
        if tape.pending.len() >= BATCH {
            tape.flush();
        }
        if now >= tape.leg + LEG {
            tape.leg = now;
            node.ask_checkpoint();
        }
    }
}

impl Tape {
    fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        // What cannot be encoded is missed by the replay.
        self.bytes.extend(flight::frame(&pending).unwrap_or_default());
    }
}

impl World {
    /// Replays every recording.
    pub(super) fn check_flights(&mut self) {
        for (host, mut tape) in std::mem::take(&mut self.tapes.0) {
            tape.flush();
            let mut bytes = flight::header();
            bytes.append(&mut tape.bytes);
            if let Err(what) = self.replay(host, &bytes) {
                self.checks.violate(self.now, &format!("the recording of host {host}: {what}"));
            }
        }
    }

    fn replay(&mut self, host: usize, bytes: &[u8]) -> Result<(), String> {
        let recording = flight::read(bytes)?;
        if let Some(damage) = recording.damage {
            return Err(format!("is damaged: {damage:?}"));
        }
        let entries = recording.entries;
        let is_checkpoint = |e: &Entry| matches!(e, Entry::Checkpoint(_));
        let last = entries.iter().rposition(is_checkpoint).unwrap_or(0);
        let whole = play(entries.iter().cloned())?;
        let (steps, decisions) = (whole.steps(), whole.decisions());
        play(entries.into_iter().skip(last))?;
        self.stats.replayed_steps += steps;
        self.stats.replayed_decisions += decisions;
        self.stats.recorded_bytes += bytes.len() as u64;
        self.tell(|| format!("host {host}: {steps} steps replayed, {decisions} decisions alike"));
        Ok(())
    }
}

fn play(entries: impl Iterator<Item = Entry>) -> Result<Replay, String> {
    let mut replay = Replay::new();
    for entry in entries {
        replay.feed(entry).map_err(|e| e.to_string())?;
        if let Some(difference) = replay.difference() {
            return Err(format!("replays otherwise: {difference:?}"));
        }
    }
    Ok(replay)
}
