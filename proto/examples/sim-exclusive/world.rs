//! The owners of one service, their disks, clocks and paths, their clients, and the resource they share.
//!
//! Checked after every event: no two hosts believe in the lease at the same real time, whether stopped or
//! not; every lease is won under a term greater than all before, or by the same host; what the resource
//! accepts under one term comes from one host. At the end, all faults gone: one holder within a bound, and
//! the same from then on; and once a minority is cut off for good, one holder among the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use hearth_proto::exclusive::core::{Core, Memory};
use hearth_proto::exclusive::message::Body;
use hearth_proto::exclusive::{Book, Candidacy, Electorate, Out, Seat, Status, Timing};
use hearth_proto::ids::{Generation, NodeName};
use hearth_proto::time::{Clock, Time, Wall};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::clock::DriftingClock;
use super::faults::{self, Fault, MS};

const S: u64 = 1_000 * MS;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A voter forgets to whom it promised when it restarts.
    Promise,
    /// A holder believes for as long as the voters promise.
    Drift,
    /// A voter without memory votes as soon as it has asked.
    Blank,
    /// A voter answers before its promise is on disk.
    Disk,
    /// The electorate before the present one is not asked.
    Former,
    /// The resource takes every term.
    Fence,
}

impl Broken {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Promise, Self::Drift, Self::Blank, Self::Disk, Self::Former, Self::Fence];

    /// Its name on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Promise => "promise",
            Self::Drift => "drift",
            Self::Blank => "blank",
            Self::Disk => "disk",
            Self::Former => "former",
            Self::Fence => "fence",
        }
    }
}

/// What was seen, so that a run that tested nothing is noticed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    events: u64,
    won: u64,
    expired: u64,
    released: u64,
    accepted: u64,
    refused_by_owner: u64,
    fenced: u64,
    faults: BTreeMap<&'static str, u64>,
    minority: u64,
    slowest: u64,
}

impl Tally {
    /// Adds another's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.won += other.won;
        self.expired += other.expired;
        self.released += other.released;
        self.accepted += other.accepted;
        self.refused_by_owner += other.refused_by_owner;
        self.fenced += other.fenced;
        self.minority += other.minority;
        self.slowest = self.slowest.max(other.slowest);
        for (what, n) in &other.faults {
            *self.faults.entry(what).or_default() += n;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {} events; {} leases won, {} expired, {} released; {} times a minority refused",
            self.events, self.won, self.expired, self.released, self.minority
        )?;
        writeln!(
            f,
            "  requests: {} accepted, {} refused by owners without the lease, {} by the resource for their old term",
            self.accepted, self.refused_by_owner, self.fenced
        )?;
        let faults: Vec<String> =
            self.faults.iter().map(|(what, n)| format!("{n} {what}")).collect();
        writeln!(f, "  faults: {}", faults.join(", "))?;
        write!(
            f,
            "  a holder {:.2} s after all faults at the latest",
            self.slowest as f64 / S as f64
        )
    }
}

/// What a run came to.
pub(crate) struct Report {
    /// What must not have happened.
    pub(crate) violations: Vec<String>,
    /// What happened, if asked for.
    pub(crate) story: Vec<String>,
    /// Numbers.
    pub(crate) tally: Tally,
}

enum Event {
    Deliver { to: usize, from: usize, body: Body },
    Timer { host: usize, armed: u64 },
    Saved { host: usize, start: u64, serial: u64, book: Book },
    Fault,
    Boot(usize),
    Resume(usize),
    Request(usize),
    Arrive { host: usize, term: u64 },
}

struct Host {
    name: NodeName,
    seat: Option<Seat>,
    clock: DriftingClock,
    disk: Option<Book>,
    /// The number of the book on disk, within this start.
    written: u64,
    start: u64,
    armed: u64,
    paused: bool,
    inbox: Vec<(usize, Body)>,
    able: bool,
    /// It was killed and has not started again.
    down: bool,
    policy: usize,
}

struct World {
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Event>,
    rng: StdRng,
    hosts: Vec<Host>,
    broken: Option<Broken>,
    electorates: Vec<Electorate>,
    timing: Timing,
    floor: Option<Clock>,
    blocked: BTreeSet<(usize, usize)>,
    loss: u64,
    latency: u64,
    write: u64,
    faulty: bool,
    won: (u64, usize),
    fence: u64,
    accepted: BTreeMap<u64, usize>,
    report: Report,
    story: bool,
}

/// Runs one seed.
pub(crate) fn run(seed: u64, broken: Option<Broken>, story: bool) -> Report {
    let mut world = World::new(seed, broken, story);
    world.play();
    world.report
}

impl World {
    fn new(seed: u64, broken: Option<Broken>, story: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = *[3, 3, 3, 4, 5, 5, 7].get(rng.random_range(0..7)).unwrap_or(&3);
        let changes = broken == Some(Broken::Former) || rng.random_bool(0.4);
        let extra = if changes { rng.random_range(1..=3) } else { 0 };
        let names: Vec<NodeName> =
            (0..count + extra).filter_map(|i| NodeName::parse(&format!("n{i}")).ok()).collect();
        let first: Vec<NodeName> = names[..count].to_vec();
        let mut electorates = vec![Electorate::new(1, first.clone(), [])];
        if changes {
            // Any overlap with the owners before, none included.
            let from = rng.random_range(1..=count);
            let second: Vec<NodeName> = names[from..].to_vec();
            let former = (broken != Some(Broken::Former)).then_some(first);
            electorates.push(Electorate::new(2, second, former));
        }
        let lease = Duration::from_micros(rng.random_range(S..6 * S));
        let mut timing = Timing::of(lease);
        timing.longest = timing.promise;
        match broken {
            Some(Broken::Drift) => timing.hold = timing.promise,
            Some(Broken::Blank) => timing.longest = Duration::ZERO,
            _ => {}
        }
        // Half of the runs without wall clocks, which would hide a term that does not grow.
        let floor = rng.random_bool(0.5).then_some(Clock { origin: Wall(1_000_000 * S) });
        let hosts = names.into_iter().map(|name| {
            let clock = DriftingClock::new(
                0,
                rng.random_range(0..1_000 * S),
                rng.random_range(900..=1_100),
            );
            Host {
                name,
                seat: None,
                clock,
                disk: None,
                written: 0,
                start: 0,
                armed: 0,
                paused: false,
                inbox: Vec::new(),
                able: true,
                down: false,
                policy: 0,
            }
        });
        let hosts = hosts.collect();
        Self {
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            rng,
            hosts,
            broken,
            electorates,
            timing,
            floor,
            blocked: BTreeSet::new(),
            loss: 0,
            latency: MS,
            write: MS,
            faulty: true,
            won: (0, usize::MAX),
            fence: 0,
            accepted: BTreeMap::new(),
            report: Report { violations: Vec::new(), story: Vec::new(), tally: Tally::default() },
            story,
        }
    }

    fn play(&mut self) {
        let lease = self.lease();
        for host in 0..self.hosts.len() {
            let at = self.rng.random_range(0..2 * S);
            self.at(at, Event::Boot(host));
            self.at(at, Event::Request(host));
        }
        // Some runs are disturbed from the first moment, most once they have a holder.
        let calm = if self.rng.random_bool(0.2) { 0 } else { 3 * lease };
        self.at(calm, Event::Fault);
        let faults = self.rng.random_range(10..60) * lease / 4;
        self.run_until(calm + faults);
        self.mend();
        self.expect_holder(&(0..self.hosts.len()).collect::<Vec<_>>());
        self.cut_a_minority();
    }

    fn lease(&self) -> u64 {
        u64::try_from(self.timing.promise.as_micros()).unwrap_or(u64::MAX)
    }

    /// Ends all faults; the last policy is everywhere.
    fn mend(&mut self) {
        self.faulty = false;
        self.blocked.clear();
        (self.loss, self.latency, self.write) = (0, 30 * MS, 20 * MS);
        for host in 0..self.hosts.len() {
            if self.hosts[host].paused {
                self.resume(host);
            }
            self.hosts[host].down = false;
            self.set_able(host, true);
            while self.hosts[host].policy + 1 < self.electorates.len() {
                self.policy(host);
            }
            if self.hosts[host].seat.is_none() {
                self.boot(host);
            }
        }
        self.tell(|| "all faults end".into());
    }

    /// Among these there is a holder within the bound, and it is the same for three leases then.
    fn expect_holder(&mut self, among: &[usize]) {
        let lease = self.lease();
        // A voter without memory waits for a lease by the slowest clock, then asks; a promise lasts as long;
        // an attempt that fails once is made again after half a hold.
        let bound = 2 * lease * 10 / 9 + lease + 3 * S;
        let began = self.now;
        loop {
            while self.now < began + bound && self.holder().is_none_or(|h| !among.contains(&h)) {
                self.run_until(self.now + 20 * MS);
            }
            let found = self.now;
            let Some(holder) = self.holder().filter(|h| among.contains(h)) else {
                let states: Vec<String> = among.iter().map(|h| self.describe(*h)).collect();
                return self
                    .violate(&format!("no holder within {bound} µs: {}", states.join("; ")));
            };
            while self.now < found + 3 * lease && self.holder() == Some(holder) {
                self.run_until(self.now + 20 * MS);
            }
            if self.holder() == Some(holder) {
                let took = found - began;
                self.report.tally.slowest = self.report.tally.slowest.max(took);
                return;
            }
            // One that held from before may lose it while others are without memory yet.
            if self.now >= began + bound {
                return self.violate(&format!("{holder} lost the lease with nothing in its way"));
            }
        }
    }

    fn describe(&self, host: usize) -> String {
        let h = &self.hosts[host];
        let status = h.seat.as_ref().map(|s| s.status(h.clock.at(self.now)).to_string());
        format!("{}: {}", h.name, status.unwrap_or_else(|| "off".into()))
    }

    /// The holder and as many others as a majority does without are gone for good.
    fn cut_a_minority(&mut self) {
        let Some(last) = self.electorates.last() else { return };
        let owners: Vec<usize> = (0..self.hosts.len())
            .filter(|h| last.owners().contains(&self.hosts[*h].name))
            .collect();
        let spare = owners.len() - (owners.len() / 2 + 1);
        if spare == 0 || !self.report.violations.is_empty() {
            return;
        }
        let holder = self.holder();
        let mut gone: Vec<usize> = owners.iter().copied().filter(|h| Some(*h) == holder).collect();
        gone.extend(owners.iter().copied().filter(|h| Some(*h) != holder).take(spare - 1));
        let rest: Vec<usize> = owners.into_iter().filter(|h| !gone.contains(h)).collect();
        for a in 0..self.hosts.len() {
            for b in 0..self.hosts.len() {
                if gone.contains(&a) != gone.contains(&b) {
                    self.blocked.insert((a, b));
                }
            }
        }
        self.tell(|| format!("{gone:?} are cut off for good"));
        self.expect_holder(&rest);
        let minority = gone.iter().filter(|h| self.refuses_as_minority(**h)).count();
        if minority == 0 {
            let states: Vec<String> = gone.iter().map(|h| self.describe(*h)).collect();
            self.violate(&format!("a minority does not say so: {}", states.join("; ")));
        }
    }

    fn refuses_as_minority(&self, host: usize) -> bool {
        let h = &self.hosts[host];
        let status = h.seat.as_ref().map(|s| s.status(h.clock.at(self.now)));
        matches!(status, Some(Status::Minority { .. }))
    }

    // ---- the course of events -------------------------------------------------------------------

    fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.insert((at.max(self.now), self.order), event);
    }

    fn run_until(&mut self, end: u64) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end || self.report.violations.len() > 3 {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.report.tally.events += 1;
            self.step(event);
            self.check();
        }
        self.now = self.now.max(end);
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Deliver { to, from, body } => {
                if self.hosts[to].paused {
                    self.hosts[to].inbox.push((from, body));
                } else {
                    self.deliver(to, from, body);
                }
            }
            Event::Timer { host, armed } if self.hosts[host].armed == armed => self.timer(host),
            Event::Timer { .. } => {}
            Event::Saved { host, start, serial, book } => self.saved(host, start, serial, book),
            Event::Fault if self.faulty => {
                let lease = self.lease();
                let fault = faults::draw(&mut self.rng, self.hosts.len(), lease);
                self.inflict(&fault);
                let next = self.now + self.rng.random_range(lease / 20..lease);
                self.at(next, Event::Fault);
            }
            Event::Fault => {}
            Event::Boot(host) => {
                self.hosts[host].down = false;
                if self.hosts[host].seat.is_none() && self.rng.random_bool(0.3) {
                    // The policy on its disk was not the newest.
                    let h = &mut self.hosts[host];
                    h.policy = h.policy.saturating_sub(1);
                }
                self.boot(host);
            }
            Event::Resume(host) => self.resume(host),
            Event::Request(host) => self.request(host),
            Event::Arrive { host, term } => self.arrive(host, term),
        }
    }

    fn deliver(&mut self, to: usize, from: usize, body: Body) {
        let name = self.hosts[from].name.clone();
        self.with(to, |seat, now| seat.handle(now, &name, body));
    }

    fn timer(&mut self, host: usize) {
        if self.hosts[host].paused {
            return;
        }
        self.with(host, |seat, now| {
            if seat.poll_timeout() <= now {
                seat.handle_timeout(now);
            }
        });
    }

    fn saved(&mut self, host: usize, start: u64, serial: u64, book: Book) {
        if self.hosts[host].start != start || self.hosts[host].seat.is_none() {
            return;
        }
        let h = &mut self.hosts[host];
        // Writes may overtake each other, but a book never replaces a later one.
        if serial > h.written {
            (h.disk, h.written) = (Some(book), serial);
        }
        if self.hosts[host].paused {
            // It hears of it when it runs again.
            let host_start = self.hosts[host].start;
            let book = self.hosts[host].disk.clone();
            if let Some(book) = book {
                self.at(self.now + 50 * MS, Event::Saved { host, start: host_start, serial, book });
            }
            return;
        }
        self.with(host, |seat, now| seat.saved(now, serial));
    }

    /// Gives a host's seat something, then does what it wants.
    fn with(&mut self, host: usize, give: impl FnOnce(&mut Seat, Time)) {
        let now = self.hosts[host].clock.at(self.now);
        let Some(seat) = &mut self.hosts[host].seat else { return };
        give(seat, now);
        while let Some(out) = self.hosts[host].seat.as_mut().and_then(Seat::poll) {
            self.carry_out(host, now, out);
        }
        let h = &mut self.hosts[host];
        h.armed += 1;
        let (armed, due) = (h.armed, h.seat.as_ref().map(Seat::poll_timeout));
        if let Some(due) = due.filter(|d| d.0 < u64::MAX) {
            let at = h.clock.when(due).max(self.now + 1);
            self.at(at, Event::Timer { host, armed });
        }
    }

    fn carry_out(&mut self, host: usize, now: Time, out: Out) {
        match out {
            Out::Send { to, body } => {
                if let Some(to) = self.hosts.iter().position(|h| h.name == to) {
                    self.send(host, to, &body);
                }
            }
            Out::Save { serial, book } if self.broken == Some(Broken::Disk) => {
                // The answer does not wait for the disk, which takes its time.
                let start = self.hosts[host].start;
                let at = self.now + self.lease() / 2;
                self.at(at, Event::Saved { host, start, serial, book });
                if let Some(seat) = &mut self.hosts[host].seat {
                    seat.saved(now, serial);
                }
            }
            Out::Save { serial, book } => {
                let start = self.hosts[host].start;
                let at = self.now + self.rng.random_range(0..self.write);
                self.at(at, Event::Saved { host, start, serial, book });
            }
            Out::Won { term } => {
                self.report.tally.won += 1;
                self.tell(|| format!("{host} holds the lease under term {term}"));
                let (before, by) = self.won;
                if term < before || (term == before && by != host) {
                    self.violate(&format!(
                        "{host} won under term {term}, {by} had {before} already"
                    ));
                }
                self.won = (term.max(before), host);
            }
            Out::Lost { term, why } => {
                match why.word() {
                    "expired" => self.report.tally.expired += 1,
                    _ => self.report.tally.released += 1,
                }
                self.tell(|| format!("{host} lost the lease of term {term}: {}", why.word()));
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, body: &Body) {
        if self.blocked.contains(&(from, to)) || self.rng.random_range(0..1_000) < self.loss {
            return;
        }
        let copies = 1 + u64::from(self.rng.random_range(0..1_000) < self.loss);
        for _ in 0..copies {
            let at = self.now + 100 + self.rng.random_range(0..self.latency);
            self.at(at, Event::Deliver { to, from, body: body.clone() });
        }
    }

    // ---- faults ---------------------------------------------------------------------------------

    fn inflict(&mut self, fault: &Fault) {
        let word = self.do_inflict(fault);
        if let Some(word) = word {
            *self.report.tally.faults.entry(word).or_default() += 1;
            self.tell(|| format!("{fault:?}"));
        }
        for host in 0..self.hosts.len() {
            self.report.tally.minority += u64::from(self.refuses_as_minority(host));
        }
    }

    fn do_inflict(&mut self, fault: &Fault) -> Option<&'static str> {
        match *fault {
            Fault::Split(ref groups) => {
                self.blocked.clear();
                let apart =
                    |a: usize, b: usize| groups[a] != groups[b] && groups[a] != 9 && groups[b] != 9;
                let n = self.hosts.len();
                let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
                self.blocked.extend(pairs.filter(|(a, b)| apart(*a, *b)));
                Some("partitions")
            }
            Fault::OneWay(a, b) => self.blocked.insert((a, b)).then_some("one-way paths"),
            Fault::Heal => {
                self.blocked.clear();
                Some("heals")
            }
            Fault::Pause(host, long) => {
                if self.hosts[host].paused || self.hosts[host].seat.is_none() {
                    return None;
                }
                self.hosts[host].paused = true;
                self.at(self.now + long, Event::Resume(host));
                Some("pauses")
            }
            // Most wipes happen where they harm nobody: this rule is tried by every restart.
            Fault::Restart(host, long) if self.broken == Some(Broken::Blank) => {
                self.do_inflict(&Fault::Wipe(host, long))
            }
            Fault::Restart(host, long) => self.kill(host, long).then_some("restarts"),
            Fault::Wipe(host, long) => {
                if !self.may_wipe(host) || !self.kill(host, long) {
                    return None;
                }
                self.hosts[host].disk = None;
                Some("wiped disks")
            }
            Fault::Drift(host, rate) => {
                self.hosts[host].clock.bend(self.now, rate);
                if !self.hosts[host].paused {
                    self.with(host, |_, _| {});
                }
                Some("bent clocks")
            }
            Fault::Loss(loss) => {
                self.loss = loss;
                Some("changes of loss")
            }
            Fault::Latency(latency) => {
                self.latency = latency;
                Some("changes of latency")
            }
            Fault::Able(host, able) => {
                self.set_able(host, able);
                Some("changes of health")
            }
            Fault::HandOver(next) => {
                let holder = self.holder().filter(|h| *h != next && !self.hosts[*h].paused)?;
                let next = self.hosts[next].name.clone();
                self.with(holder, |seat, now| seat.hand_over(now, Some(next)));
                Some("handovers")
            }
            Fault::Policy(host) => self.policy(host).then_some("changes of owners"),
            Fault::Disk(write) => {
                self.write = write;
                Some("changes of disk latency")
            }
        }
    }

    /// The fault model: in no electorate a majority is without memory at once.
    fn may_wipe(&self, host: usize) -> bool {
        let blank = |h: &Host| match &h.seat {
            Some(seat) => matches!(seat.core().memory(), Memory::Blank(_)) || h.disk.is_none(),
            None => h.disk.is_none(),
        };
        self.electorates.iter().all(|e| {
            let set = e.owners();
            let without = self.hosts.iter().filter(|h| set.contains(&h.name) && blank(h)).count();
            !set.contains(&self.hosts[host].name) || without < set.len() - (set.len() / 2 + 1)
        })
    }

    fn kill(&mut self, host: usize, long: u64) -> bool {
        if self.hosts[host].seat.is_none() {
            return false;
        }
        let h = &mut self.hosts[host];
        (h.seat, h.paused, h.down) = (None, false, true);
        h.inbox.clear();
        h.armed += 1;
        self.at(self.now + long, Event::Boot(host));
        true
    }

    fn boot(&mut self, host: usize) {
        let number = self.hosts[host].policy;
        let electorate = self.electorates[number].clone();
        if self.hosts[host].seat.is_some() || !electorate.voters().contains(&self.hosts[host].name)
        {
            return;
        }
        let (origin, rate) =
            (self.rng.random_range(0..1_000 * S), self.rng.random_range(900..=1_100));
        let seed = self.rng.random();
        let h = &mut self.hosts[host];
        h.start += 1;
        h.written = 0;
        h.clock = DriftingClock::new(self.now, origin, rate);
        let now = h.clock.at(self.now);
        let mut book = h.disk.clone();
        if self.broken == Some(Broken::Promise)
            && let Some(book) = &mut book
        {
            book.holder = None;
        }
        let name = h.name.clone();
        let generation = Generation(h.start);
        let core = Core::new(name, generation, electorate, self.timing, (book, self.floor), now);
        h.seat = Some(Seat::new(core, seed, now));
        let able = h.able;
        self.set_able(host, able);
    }

    fn resume(&mut self, host: usize) {
        if !std::mem::replace(&mut self.hosts[host].paused, false) {
            return;
        }
        for (from, body) in std::mem::take(&mut self.hosts[host].inbox) {
            self.deliver(host, from, body);
        }
        let able = self.hosts[host].able;
        self.set_able(host, able);
        self.with(host, Seat::handle_timeout);
    }

    fn set_able(&mut self, host: usize, able: bool) {
        self.hosts[host].able = able;
        let candidacy = match able {
            true => Candidacy::In(u32::try_from(host).unwrap_or(0)),
            false => Candidacy::Out,
        };
        if !self.hosts[host].paused {
            self.with(host, |seat, now| seat.set_candidacy(now, candidacy));
        }
    }

    fn policy(&mut self, host: usize) -> bool {
        let next = self.hosts[host].policy + 1;
        let Some(electorate) = self.electorates.get(next).cloned() else { return false };
        if self.hosts[host].paused {
            return false;
        }
        self.hosts[host].policy = next;
        let timing = self.timing;
        match self.hosts[host].seat.is_some() {
            true => self.with(host, |seat, now| seat.set_electorate(now, electorate, timing)),
            false if !self.hosts[host].down => self.boot(host),
            false => {}
        }
        true
    }

    // ---- clients and the resource ----------------------------------------------------------------

    fn request(&mut self, host: usize) {
        let next = self.now + self.rng.random_range(1..200 * MS);
        self.at(next, Event::Request(host));
        let h = &self.hosts[host];
        let Some(seat) = h.seat.as_ref().filter(|_| !h.paused) else { return };
        let Some((term, _)) = seat.holding(h.clock.at(self.now)) else {
            self.report.tally.refused_by_owner += 1;
            return;
        };
        // Between the check and the application anything may come: a full queue, or a stop of the process.
        let lease = self.lease();
        let late = if self.rng.random_bool(0.1) { 4 * lease } else { 20 * MS };
        let at = self.now + self.rng.random_range(0..late);
        self.at(at, Event::Arrive { host, term });
    }

    fn arrive(&mut self, host: usize, term: u64) {
        if term < self.fence && self.broken != Some(Broken::Fence) {
            self.report.tally.fenced += 1;
            return;
        }
        if term < self.fence {
            let fence = self.fence;
            self.violate(&format!("the resource took term {term} of {host} after {fence}"));
        }
        self.fence = self.fence.max(term);
        self.report.tally.accepted += 1;
        let first = *self.accepted.entry(term).or_insert(host);
        if first != host {
            self.violate(&format!("{first} and {host} were both accepted under term {term}"));
        }
    }

    // ---- what must hold --------------------------------------------------------------------------

    fn believers(&self) -> Vec<usize> {
        let believes =
            |h: &Host| h.seat.as_ref().is_some_and(|s| s.holding(h.clock.at(self.now)).is_some());
        (0..self.hosts.len()).filter(|i| believes(&self.hosts[*i])).collect()
    }

    fn holder(&self) -> Option<usize> {
        self.believers().first().copied()
    }

    fn check(&mut self) {
        let believers = self.believers();
        if believers.len() > 1 {
            self.violate(&format!("{believers:?} believe in the lease at once"));
        }
    }

    fn violate(&mut self, what: &str) {
        let at = self.now as f64 / S as f64;
        self.tell(|| format!("VIOLATED {what}"));
        self.report.violations.push(format!("at {at:.6} s: {what}"));
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.story {
            let at = self.now as f64 / S as f64;
            let what = what();
            self.report.story.push(format!("{at:12.6} {what}"));
        }
    }
}
