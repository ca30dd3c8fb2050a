//! The faults of Rapid's evaluation (Suresh et al., USENIX ATC 2018, section 7): crashes of many at once, members
//! whose incoming path comes and goes, members that lose most of what they send.
//!
//! Out is who is down or unsteady: nobody relies on it who has better. What is asked is that exactly the faulty are out, everywhere, soon and for good; and that several losses at
//! once are one change to whoever follows the membership (in the paper a load balancer that reloads with each).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use hearth_proto::evidence::Swim;
use hearth_proto::member::SwimConfig;
use serde::Serialize;

use super::Group;
use crate::sim::{At, S, parallel};

/// Nothing happens before; the members then know each other and probe.
const BEFORE: At = 10 * S;
/// One member in a hundred is faulty.
const SHARE: usize = 100;
/// A path that comes and goes does so in turns of this.
const TURN: At = 20 * S;
/// One way between two members.
const LATENCY: u64 = 250;

/// What befalls the faulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// Their processes are gone, all at once (figure 8).
    Crash,
    /// Nothing reaches them for 20 s, everything for 20 s, and so on (figure 9).
    FlipFlop,
    /// Four of five packets that they send are lost (figure 10).
    Loss,
}

impl Trouble {
    const ALL: [Self; 3] = [Self::Crash, Self::FlipFlop, Self::Loss];

    /// How long it is watched.
    fn lasts(self) -> At {
        match self {
            Self::Crash => 60 * S,
            Self::FlipFlop => 10 * TURN,
            Self::Loss => 180 * S,
        }
    }

    /// Within this the faulty are to be out at everybody's: the longest suspicion where few accuse, half of it
    /// where all do.
    fn bound(self) -> At {
        match self {
            Self::Crash => 15 * S,
            Self::FlipFlop | Self::Loss => 30 * S,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Crash => "crashes at once",
            Self::FlipFlop => "incoming 20 s off, 20 s on",
            Self::Loss => "80 % of outgoing lost",
        }
    }
}

/// What came of one trouble.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What befell them.
    pub trouble: Trouble,
    /// The draw.
    pub seed: u64,
    /// Members.
    pub members: usize,
    /// The faulty among them.
    pub faulty: usize,
    /// Seconds until somebody healthy had one of them out.
    pub first_s: Option<f64>,
    /// Seconds until all healthy members had all of them out, for the first time.
    pub all_s: Option<f64>,
    /// Healthy members that anybody had out at some time, once a healthy one did: whom, who first, as what, after
    /// how many seconds.
    pub healthy_out: Vec<(usize, usize, Swim, f64)>,
    /// Times that a healthy member took a faulty one back that it had out, in the mean over the healthy.
    pub flaps: f64,
    /// Changes of the set of members that are out, at one healthy member: median, 99 %, most.
    pub rewrites: [usize; 3],
    /// Faulty members that are out at all healthy ones when it is over.
    pub out_at_end: usize,
}

impl Outcome {
    /// Whether the faulty were out in time and for good, nobody else, and crashes were one change.
    pub fn holds(&self) -> bool {
        let bound = self.trouble.bound() as f64 / S as f64;
        let exact = self.all_s.is_some_and(|s| s <= bound) && self.healthy_out.is_empty();
        let lasting = self.flaps == 0.0 && self.out_at_end == self.faulty;
        exact && lasting && (self.trouble != Trouble::Crash || self.rewrites[1] == 1)
    }
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct Outcomes(pub Vec<Outcome>);

impl Outcomes {
    /// Whether each holds.
    pub fn holds(&self) -> bool {
        self.0.iter().all(Outcome::holds)
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = format!(
            "{:<28} {:>5} {:>8} {:>7} {:>8} {:>8} {:>8} {:>7} {:>13} {:>8}\n",
            "one member in a hundred",
            "seed",
            "members",
            "faulty",
            "first s",
            "all s",
            "healthy",
            "flaps",
            "rewrites",
            "at end"
        );
        for o in &self.0 {
            let s = |s: Option<f64>| s.map_or("never".into(), |s| format!("{s:.1}"));
            let [half, most, all] = o.rewrites;
            let _ = writeln!(
                out,
                "{:<28} {:>5} {:>8} {:>7} {:>8} {:>8} {:>8} {:>7.2} {:>13} {:>8} {}",
                o.trouble.name(),
                o.seed,
                o.members,
                o.faulty,
                s(o.first_s),
                s(o.all_s),
                o.healthy_out.len(),
                o.flaps,
                format!("{half}/{most}/{all}"),
                o.out_at_end,
                if o.holds() { "" } else { "MISSED" }
            );
            for (of, by, swim, at) in &o.healthy_out {
                let _ = writeln!(out, "        healthy {of} was {swim} to {by} after {at:.1} s");
            }
        }
        out
    }
}

/// Runs all three over these seeds.
pub fn check(seeds: std::ops::Range<u64>, members: usize) -> Outcomes {
    let runs: Vec<(Trouble, u64)> =
        seeds.flat_map(|seed| Trouble::ALL.map(|trouble| (trouble, seed))).collect();
    Outcomes(parallel::map(&runs, |(trouble, seed)| run(*trouble, *seed, members)))
}

/// What the healthy think, as it changes.
struct Watch {
    faulty: BTreeSet<usize>,
    /// By observer: whom it has out.
    out: BTreeMap<usize, BTreeSet<usize>>,
    /// By observer: changes of that set, and when the last was.
    rewrites: BTreeMap<usize, (usize, At)>,
    healthy_out: BTreeSet<usize>,
    /// Who had a healthy member out first, and as what.
    first_to: BTreeMap<usize, (usize, Swim, At)>,
    flaps: usize,
    first: Option<At>,
    all: Option<At>,
    /// Pairs of a healthy observer and a faulty member that is out there.
    pairs: usize,
}

impl Watch {
    fn read(&mut self, group: &mut Group) {
        let healthy = group.len() - self.faulty.len();
        for verdict in std::mem::take(&mut group.verdicts) {
            let out = matches!(verdict.swim, Swim::Down | Swim::Unsteady);
            if out && !self.faulty.contains(&verdict.of) {
                let told = (verdict.by, verdict.swim, verdict.at);
                self.first_to.entry(verdict.of).or_insert(told);
            }
            if self.faulty.contains(&verdict.by) {
                continue;
            }
            let out = self.out.entry(verdict.by).or_default();
            let changed = match verdict.swim {
                Swim::Down | Swim::Unsteady => out.insert(verdict.of),
                Swim::Alive => out.remove(&verdict.of),
                // No verdict.
                Swim::Suspect | Swim::Unheard => false,
            };
            if !changed {
                continue;
            }
            let (count, last) = self.rewrites.entry(verdict.by).or_default();
            if *last != verdict.at {
                (*count, *last) = (*count + 1, verdict.at);
            }
            let gone = verdict.swim != Swim::Alive;
            match (self.faulty.contains(&verdict.of), gone) {
                (false, true) => drop(self.healthy_out.insert(verdict.of)),
                (false, false) => {}
                (true, true) => {
                    self.first.get_or_insert(verdict.at);
                    self.pairs += 1;
                    if self.pairs == healthy * self.faulty.len() {
                        self.all.get_or_insert(verdict.at);
                    }
                }
                (true, false) => {
                    self.flaps += 1;
                    self.pairs -= 1;
                }
            }
        }
    }
}

fn run(trouble: Trouble, seed: u64, members: usize) -> Outcome {
    let mut group = Group::new(seed, members, SwimConfig::default(), LATENCY);
    group.compare_views();
    group.run_until(BEFORE);
    group.verdicts.clear();
    let step = (members / (members / SHARE).max(1)).max(1);
    let faulty: BTreeSet<usize> =
        (0..members).step_by(step).take((members / SHARE).max(1)).collect();
    let mut watch = Watch {
        faulty: faulty.clone(),
        out: BTreeMap::new(),
        rewrites: BTreeMap::new(),
        healthy_out: BTreeSet::new(),
        first_to: BTreeMap::new(),
        flaps: 0,
        first: None,
        all: None,
        pairs: 0,
    };
    let end = BEFORE + trouble.lasts();
    let mut turn = 0_u64;
    while group.now < end {
        for peer in &faulty {
            match trouble {
                Trouble::Crash => group.crash(*peer),
                Trouble::FlipFlop => {
                    group.lose(*peer, if turn.is_multiple_of(2) { 1.0 } else { 0.0 }, 0.0);
                }
                Trouble::Loss => group.lose(*peer, 0.0, 0.8),
            }
        }
        turn += 1;
        group.run_until((BEFORE + turn * TURN).min(end));
        watch.read(&mut group);
    }
    let healthy = members - faulty.len();
    let mut rewrites: Vec<usize> = watch.rewrites.values().map(|(count, _)| *count).collect();
    rewrites.resize(healthy, 0);
    rewrites.sort_unstable();
    let seconds = |at: Option<At>| at.map(|at| (at - BEFORE) as f64 / S as f64);
    let everywhere =
        |of: &&usize| watch.out.values().filter(|out| out.contains(of)).count() == healthy;
    Outcome {
        trouble,
        seed,
        members,
        faulty: faulty.len(),
        first_s: seconds(watch.first),
        all_s: seconds(watch.all),
        healthy_out: watch
            .healthy_out
            .iter()
            .filter_map(|of| watch.first_to.get(of).map(|first| (*of, *first)))
            .map(|(of, (by, swim, at))| (of, by, swim, (at - BEFORE) as f64 / S as f64))
            .collect(),
        flaps: watch.flaps as f64 / healthy as f64,
        rewrites: [healthy / 2, healthy * 99 / 100, healthy - 1].map(|i| rewrites[i]),
        out_at_end: faulty.iter().filter(everywhere).count(),
    }
}
