//! All that can happen to the owners of one service, within bounds: every order of messages (each may be
//! lost, late, or come again at any time), of writes to disk, of restarts with and without a disk, of claims,
//! renewals and releases, under clocks at both ends of the allowed drift. Depth first, over the very
//! [`Core`](super::core::Core) that agents run ([`machine`]).
//!
//! Time is abstract: one tick is half a lease by a clock that is right, and every clock runs a tenth too
//! fast or too slow. A state holds times relative to now; two states that differ in nothing a core could
//! see are one. What was sent stays in the network, so that a delivery is possible at any later moment;
//! not delivering it is a loss.
//!
//! stateright was looked at and not taken: its actors own their timers and ids, so that the machine would
//! have had to be written a second time for it.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::time::Time;

use machine::{Event, Id, Machine};

mod machine;

/// Now, on every node, in every state.
const NOW: Time = Time(1_000);
/// A tick by a clock that is too slow, and by one that is too fast.
const RATES: [u64; 2] = [9, 11];
/// Two ticks of the fastest clock.
const PROMISE: u64 = 22;

fn units(n: u64) -> Duration {
    Duration::from_micros(n)
}

/// How far is looked.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    ticks: u8,
    rounds: u8,
    restarts: u8,
    wipes: u8,
    policies: u8,
}

/// A rule that is broken on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// A voter knows its term after a restart, but not to whom it promised.
    ForgetsPromise,
    /// A holder believes for as long as the voters promise.
    IgnoresDrift,
    /// A voter without memory asks, and votes at once.
    VotesBlank,
    /// A voter answers before its promise is on disk.
    AnswersEarly,
    /// The electorate changes and nobody asks the one before.
    ForgetsFormer,
}

/// What may still happen, by its place in [`World::left`].
#[derive(Clone, Copy)]
enum Budget {
    Ticks,
    Rounds,
    Restarts,
    Wipes,
    Policies,
}

#[derive(Clone)]
struct World {
    cores: [Id; 3],
    disks: [Option<Id>; 3],
    writing: [Option<Id>; 3],
    /// Ascending.
    net: Vec<Id>,
    left: [u8; 5],
    /// The greatest term won, and by whom.
    won: (u64, u8),
    wrong: Option<&'static str>,
}

impl World {
    fn spend(&self, what: Budget) -> Option<Self> {
        let left = self.left[what as usize].checked_sub(1)?;
        let mut next = self.clone();
        next.left[what as usize] = left;
        Some(next)
    }

    /// Everything, as bytes that no other state has.
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        for id in self.cores {
            bytes.extend(id.to_ne_bytes());
        }
        for id in self.disks.iter().chain(&self.writing) {
            bytes.extend(id.unwrap_or(Id::MAX).to_ne_bytes());
        }
        bytes.extend(self.left);
        bytes.extend(self.won.0.to_ne_bytes());
        bytes.extend([self.won.1, u8::from(self.wrong.is_some())]);
        for id in &self.net {
            bytes.extend(id.to_ne_bytes());
        }
    }
}

/// Hashes of the states that were reached: of 2^64, two of a hundred million are alike once in 3,700 runs. A
/// table with open addressing, three times as fast as a tree and a third of its size; 0 is an empty slot.
struct Seen {
    slots: Vec<u64>,
    states: usize,
}

impl Seen {
    fn new() -> Self {
        Self { slots: vec![0; 1 << 16], states: 0 }
    }

    /// Whether it was not there.
    fn insert(&mut self, hash: u64) -> bool {
        if self.states * 4 > self.slots.len() * 3 {
            let larger = vec![0; self.slots.len() * 2];
            for hash in std::mem::replace(&mut self.slots, larger).into_iter().filter(|h| *h != 0) {
                let at = self.place(hash);
                self.slots[at] = hash;
            }
        }
        let hash = hash.max(1);
        let at = self.place(hash);
        let new = std::mem::replace(&mut self.slots[at], hash) == 0;
        self.states += usize::from(new);
        new
    }

    /// Where a hash is, or belongs.
    fn place(&self, hash: u64) -> usize {
        let last = self.slots.len() - 1;
        let mut at = hash as usize & last;
        while self.slots[at] != 0 && self.slots[at] != hash {
            at = (at + 1) & last;
        }
        at
    }
}

struct Explorer {
    machine: Machine,
    rates: [u64; 3],
    seen: Seen,
    stack: Vec<World>,
    bytes: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
struct Found {
    states: usize,
    wrong: Option<&'static str>,
}

impl Explorer {
    fn new(broken: Broken, rates: [u64; 3]) -> Self {
        let machine = Machine::new(broken);
        Self { machine, rates, seen: Seen::new(), stack: Vec::new(), bytes: Vec::new() }
    }

    fn begin(&mut self, bounds: Bounds) {
        let firsts = [0, 1, 2].map(|node| self.machine.first(node));
        self.reach(World {
            cores: firsts.map(|(core, _)| core),
            disks: firsts.map(|(_, book)| Some(book)),
            writing: [None; 3],
            net: Vec::new(),
            left: [bounds.ticks, bounds.rounds, bounds.restarts, bounds.wipes, bounds.policies],
            won: (0, 0),
            wrong: None,
        });
    }

    /// Runs until nothing new is reached, or something is wrong.
    fn run(&mut self) -> Found {
        while let Some(world) = self.stack.pop() {
            if let Some(wrong) = world.wrong {
                return Found { states: self.seen.states, wrong: Some(wrong) };
            }
            self.successors(&world);
        }
        Found { states: self.seen.states, wrong: None }
    }

    fn reach(&mut self, mut world: World) {
        let views = world.cores.map(|core| *self.machine.view(core));
        let machine = &self.machine;
        world.net.retain(|letter| machine.hears(&views[machine.receiver(*letter)], *letter));
        if views.iter().filter(|v| v.holds).count() > 1 {
            world.wrong = Some("two nodes believe in the lease at once");
        }
        world.write(&mut self.bytes);
        if self.seen.insert(xxh3_64(&self.bytes)) {
            self.stack.push(world);
        }
    }

    /// Lets `event` happen to `node`.
    fn happen(&mut self, world: &mut World, node: usize, event: Event) {
        let step = self.machine.step(node, world.cores[node], event);
        world.cores[node] = step.core;
        for letter in &step.sends {
            if let Err(at) = world.net.binary_search(letter) {
                world.net.insert(at, *letter);
            }
        }
        world.writing[node] = step.write.or(world.writing[node]);
        let by = u8::try_from(node).expect("three owners");
        for term in &step.won {
            let (before, whose) = world.won;
            if *term < before || (*term == before && whose != by) {
                world.wrong = Some("a lease was won under a term that is not the greatest");
            }
            world.won = (before.max(*term), by);
        }
    }

    /// What is reached when `event` happens to `node`.
    fn after(&mut self, mut world: World, node: usize, event: Event) {
        self.happen(&mut world, node, event);
        self.reach(world);
    }

    fn successors(&mut self, world: &World) {
        for letter in &world.net {
            let to = self.machine.receiver(*letter);
            self.after(world.clone(), to, Event::Hear(*letter));
        }
        for node in 0..3 {
            self.of_node(world, node);
        }
        if let Some(mut next) = world.spend(Budget::Ticks) {
            for (node, rate) in self.rates.into_iter().enumerate() {
                self.happen(&mut next, node, Event::Pass(rate));
            }
            self.reach(next);
        }
    }

    fn of_node(&mut self, world: &World, node: usize) {
        let view = *self.machine.view(world.cores[node]);
        if let Some(write) = world.writing[node] {
            let mut next = world.clone();
            (next.writing[node], next.disks[node]) = (None, Some(self.machine.written(write)));
            self.after(next, node, Event::Saved(write));
        }
        // Each question has a number of its own: without a bound there were no end of states.
        if let Some(next) = world.spend(Budget::Rounds) {
            if view.blank {
                self.after(next, node, Event::Ask);
            } else if view.holds {
                self.after(next, node, Event::Renew);
            } else {
                self.after(next.clone(), node, Event::Claim { floor: 0 });
                self.after(next, node, Event::Claim { floor: world.won.0 + 1 });
            }
        }
        if view.open.is_some() || view.holds {
            self.after(world.clone(), node, Event::Release);
        }
        if let Some(next) = world.spend(Budget::Restarts) {
            self.restart(next.clone(), node, world.disks[node]);
            if let Some(write) = world.writing[node] {
                // It died between the write and the answer.
                let book = self.machine.written(write);
                self.restart(next, node, Some(book));
            }
        }
        if let Some(next) = world.spend(Budget::Wipes) {
            self.restart(next, node, None);
        }
        if view.number == 1
            && let Some(next) = world.spend(Budget::Policies)
        {
            self.after(next, node, Event::Follow);
        }
    }

    fn restart(&mut self, mut world: World, node: usize, disk: Option<Id>) {
        (world.writing[node], world.disks[node]) = (None, disk);
        self.after(world, node, Event::Restart(disk));
    }
}

/// Every choice of clocks. Owners are alike but for their clocks, and for the third, which is alone the second
/// electorate: what differs in nothing but who is called what is one choice.
fn clocks(bounds: Bounds) -> Vec<[u64; 3]> {
    let all = (0..8).map(|n: usize| [n & 1, n >> 1 & 1, n >> 2].map(|bit| RATES[bit]));
    let sorted = |[a, b, c]: &[u64; 3]| a <= b && (bounds.policies > 0 || b <= c);
    all.filter(sorted).collect()
}

/// Explores from every choice of clocks, two at a time.
fn explore(broken: Broken, bounds: Bounds) -> Found {
    let clocks = clocks(bounds);
    let explore = |clocks: &[[u64; 3]]| {
        let mut states = 0;
        for rates in clocks {
            let mut explorer = Explorer::new(broken, *rates);
            explorer.begin(bounds);
            let found = explorer.run();
            states += found.states;
            if found.wrong.is_some() {
                return Found { states, wrong: found.wrong };
            }
        }
        Found { states, wrong: None }
    };
    let (some, others) = clocks.split_at(clocks.len() / 2);
    let (some, others) = std::thread::scope(|scope| {
        let some = scope.spawn(|| explore(some));
        let others = explore(others);
        (some.join().expect("explored"), others)
    });
    Found { states: some.states + others.states, wrong: some.wrong.or(others.wrong) }
}

const fn bounds(ticks: u8, rounds: u8, restarts: u8, wipes: u8, policies: u8) -> Bounds {
    Bounds { ticks, rounds, restarts, wipes, policies }
}

/// What is explored, and how many states it has. Two ticks outlast a lease and a promise; two rounds let two
/// owners claim, or one renew. A wiped owner needs a round to ask whether it may vote: two claims around its vote
/// are three rounds, of whose states half an hour saw no end.
const BOUNDS: [(&str, Bounds, usize); 6] = [
    ("claims", bounds(2, 2, 0, 0, 0), 2_012_732),
    ("restarts", bounds(2, 2, 1, 0, 0), 15_272_982),
    ("a wiped disk", bounds(2, 2, 0, 1, 0), 6_884_838),
    ("a restart and a wiped disk", bounds(1, 2, 1, 1, 0), 14_107_256),
    ("owners change", bounds(2, 2, 0, 0, 2), 16_306_896),
    ("owners change over a restart", bounds(1, 2, 1, 0, 1), 24_290_820),
];

#[test]
#[ignore = "`make explore-exclusive`"]
fn nothing_that_three_owners_can_do_makes_two_holders_or_a_term_that_does_not_grow() {
    let found = BOUNDS.map(|(what, bounds, _)| {
        let found = explore(Broken::Nothing, bounds);
        println!("{what}: {found:?}, {bounds:?}");
        found
    });
    assert_eq!(found, BOUNDS.map(|(_, _, states)| Found { states, wrong: None }));
}

/// A little of everything, in moments.
#[test]
fn one_of_each_kind_of_misfortune_does_no_harm() {
    let found = explore(Broken::Nothing, bounds(1, 1, 1, 1, 1));
    assert_eq!(found, Found { states: 429_972, wrong: None });
}

#[test]
fn a_state_that_was_seen_is_known_again() {
    let mut seen = Seen::new();
    let hashes = |n: u64| xxh3_64(&n.to_ne_bytes());
    assert!((0..200_000).all(|n| seen.insert(hashes(n))), "through two growths");
    assert!((0..200_000).all(|n| !seen.insert(hashes(n))));
    assert!(seen.insert(0) && !seen.insert(0));
    assert_eq!(seen.states, 200_001);
}

#[test]
#[ignore = "`make explore-exclusive`"]
fn a_rule_that_is_broken_is_found_to_be() {
    for (broken, bounds) in [
        (Broken::IgnoresDrift, bounds(2, 2, 0, 0, 0)),
        (Broken::ForgetsPromise, bounds(1, 2, 1, 0, 0)),
        (Broken::AnswersEarly, bounds(1, 2, 1, 0, 0)),
        (Broken::VotesBlank, bounds(0, 3, 0, 1, 0)),
        (Broken::ForgetsFormer, bounds(1, 2, 0, 0, 1)),
    ] {
        let found = explore(broken, bounds);
        println!("{broken:?}: {:?} after {} states", found.wrong, found.states);
        assert!(found.wrong.is_some(), "{broken:?} was not found");
    }
}
