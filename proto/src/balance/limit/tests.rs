//! Queues under a seeded virtual clock: applications with so many workers, requests that come whether or
//! not earlier ones were answered, and callers that give up.

use std::collections::{BinaryHeap, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::balance::gate::{Arrival, Ended, Gate, Rule, Ticket, Told};

use super::*;

/// A caller waits so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the application works on a request, in microseconds.
#[derive(Clone, Copy, Debug)]
enum Work {
    Constant(f64),
    Exponential(f64),
    /// Median and σ of the logarithm: a heavy tail.
    LogNormal(f64, f64),
    /// Mostly short, one in ten fifty times as long.
    Mixed(f64),
}

impl Work {
    const ALL: [Self; 5] = [
        Self::Constant(10_000.0),
        Self::Exponential(10_000.0),
        Self::LogNormal(6_000.0, 1.2),
        Self::Mixed(2_000.0),
        Self::Exponential(150_000.0),
    ];

    fn mean(self) -> f64 {
        match self {
            Self::Constant(m) | Self::Exponential(m) => m,
            Self::LogNormal(median, sigma) => median * (sigma * sigma / 2.0).exp(),
            Self::Mixed(short) => short * 5.9,
        }
    }

    fn draw(self, rng: &mut StdRng) -> f64 {
        match self {
            Self::Constant(m) => m,
            Self::Exponential(m) => exponential(rng, m),
            Self::LogNormal(median, sigma) => {
                let (a, b): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
                let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
                median * (sigma * normal).exp()
            }
            Self::Mixed(short) if rng.random_range(0..10) > 0 => short,
            Self::Mixed(short) => short * 50.0,
        }
    }
}

fn exponential(rng: &mut StdRng, mean: f64) -> f64 {
    -mean * (1.0 - rng.random::<f64>()).ln()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Comes,
    Done(usize, usize),
    WaitedLongEnough(usize),
    CallerGone(usize),
}

#[derive(Clone, Copy, Debug)]
enum At {
    Nowhere,
    Waits(usize, Ticket),
    Under(usize, Time),
}

struct Request {
    born: Time,
    met: Vec<usize>,
    at: At,
}

struct Endpoint {
    alive: bool,
    gate: Gate<usize>,
    busy: usize,
    queue: VecDeque<usize>,
}

/// What came of the requests of some span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    came: u32,
    answered: u32,
    shed: u32,
    late: u32,
    worst: Duration,
}

/// What the world does at a moment.
struct World {
    work: Work,
    /// Workers of each endpoint.
    workers: usize,
    endpoints: usize,
    adaptive: bool,
    /// Load per endpoint that is alive at first, of its capacity.
    load: Box<dyn Fn(f64) -> f64>,
    /// How much slower everything is.
    slow: Box<dyn Fn(f64) -> f64>,
    /// Nothing goes on between these seconds.
    stall: (f64, f64),
    /// The first endpoint is lost then.
    loss: f64,
    seconds: f64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            work: Work::Constant(10_000.0),
            workers: 8,
            endpoints: 1,
            adaptive: true,
            load: Box::new(|_| 0.7),
            slow: Box::new(|_| 1.0),
            stall: (0.0, 0.0),
            loss: f64::MAX,
            seconds: 60.0,
        }
    }
}

struct Sim<'a> {
    world: &'a World,
    rng: StdRng,
    now: Time,
    events: BinaryHeap<std::cmp::Reverse<(Time, u64, Event)>>,
    n: u64,
    endpoints: Vec<Endpoint>,
    requests: Vec<Request>,
    /// By the second in which a request came.
    sums: Vec<Sum>,
    /// Seconds in which something was limited.
    limited: Vec<bool>,
}

impl World {
    fn run(&self, seed: u64) -> Run {
        let rule = || match self.adaptive {
            true => Rule::Adaptive(Box::new(Limit::new(Time(0)))),
            false => Rule::Fixed(usize::MAX),
        };
        let endpoint =
            |_| Endpoint { alive: true, gate: Gate::new(rule()), busy: 0, queue: VecDeque::new() };
        let seconds = self.seconds as usize + 1;
        let mut sim = Sim {
            world: self,
            rng: StdRng::seed_from_u64(seed),
            now: Time(0),
            events: BinaryHeap::new(),
            n: 0,
            endpoints: (0..self.endpoints).map(endpoint).collect(),
            requests: Vec::new(),
            sums: vec![Sum::default(); seconds],
            limited: vec![false; seconds],
        };
        sim.run();
        Run { sums: sim.sums, limited: sim.limited }
    }

    /// Requests per second that one endpoint can answer.
    fn capacity(&self) -> f64 {
        self.workers as f64 / self.work.mean() * 1e6
    }
}

struct Run {
    sums: Vec<Sum>,
    limited: Vec<bool>,
}

impl Run {
    fn between(&self, from: usize, to: usize) -> Sum {
        self.sums[from..to].iter().fold(Sum::default(), |a, b| Sum {
            came: a.came + b.came,
            answered: a.answered + b.answered,
            shed: a.shed + b.shed,
            late: a.late + b.late,
            worst: a.worst.max(b.worst),
        })
    }
}

impl Sim<'_> {
    fn after(&mut self, us: f64, event: Event) {
        self.n += 1;
        let at = self.now + Duration::from_micros(us as u64);
        self.events.push(std::cmp::Reverse((at, self.n, event)));
    }

    fn run(&mut self) {
        self.after(0.0, Event::Comes);
        while let Some(std::cmp::Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            let t = at.0 as f64 / 1e6;
            if t > self.world.loss && self.endpoints[0].alive {
                self.lose();
            }
            match event {
                Event::Comes if t < self.world.seconds => self.comes(t),
                Event::Comes => {}
                Event::Done(e, r) => self.done(e, r),
                Event::WaitedLongEnough(r) => {
                    if let At::Waits(e, ticket) = self.requests[r].at {
                        let mut told = vec![(r, Told::Away)];
                        let gate = &mut self.endpoints[e].gate;
                        gate.give_up(self.now, ticket, true, |r, how| told.push((r, how)));
                        self.tell(e, told);
                    }
                }
                Event::CallerGone(r) => self.caller_gone(r),
            }
        }
    }

    fn sum(&mut self, r: usize) -> &mut Sum {
        let second = self.requests[r].born.0 as usize / 1_000_000;
        &mut self.sums[second]
    }

    fn comes(&mut self, t: f64) {
        let rate = self.world.capacity() * self.world.endpoints as f64 * (self.world.load)(t);
        let next = exponential(&mut self.rng, 1e6 / rate);
        self.after(next, Event::Comes);
        let r = self.requests.len();
        self.requests.push(Request { born: self.now, met: Vec::new(), at: At::Nowhere });
        self.sum(r).came += 1;
        self.after(PATIENCE.as_micros() as f64, Event::CallerGone(r));
        self.send(r);
    }

    /// To the less loaded of two that it has not met.
    fn send(&mut self, r: usize) {
        let open: Vec<usize> = (0..self.endpoints.len())
            .filter(|e| self.endpoints[*e].alive && !self.requests[r].met.contains(e))
            .collect();
        if open.is_empty() {
            self.sum(r).shed += 1;
            self.requests[r].at = At::Nowhere;
            return;
        }
        let load =
            |e: &usize| self.endpoints[*e].gate.under_way() + self.endpoints[*e].gate.waiting();
        let (a, b) = (
            open[self.rng.random_range(0..open.len())],
            open[self.rng.random_range(0..open.len())],
        );
        let e = if load(&b) < load(&a) { b } else { a };
        let attempts = self.requests[r].met.len() as u8;
        self.requests[r].met.push(e);
        let left = PATIENCE - self.now.since(self.requests[r].born);
        let mut told = Vec::new();
        let gate = &mut self.endpoints[e].gate;
        let arrival = gate.arrive(self.now, attempts, left, || r, |r, how| told.push((r, how)));
        let second = self.now.0 as usize / 1_000_000;
        let held = matches!(gate.rule(), Rule::Adaptive(limit) if limit.limit().is_some());
        if let Some(limited) = self.limited.get_mut(second) {
            *limited |= held;
        }
        match arrival {
            Arrival::In => self.enters(e, r),
            Arrival::Waits(ticket, until) => {
                self.requests[r].at = At::Waits(e, ticket);
                self.after(until.since(self.now).as_micros() as f64, Event::WaitedLongEnough(r));
            }
            Arrival::Full => self.turned_away(r),
        }
        self.tell(e, told);
    }

    fn tell(&mut self, e: usize, told: Vec<(usize, Told)>) {
        for (r, how) in told {
            match how {
                Told::In => self.enters(e, r),
                Told::Away => self.turned_away(r),
            }
        }
    }

    fn turned_away(&mut self, r: usize) {
        self.requests[r].at = At::Nowhere;
        self.send(r);
    }

    fn enters(&mut self, e: usize, r: usize) {
        self.requests[r].at = At::Under(e, self.now);
        self.endpoints[e].queue.push_back(r);
        self.work(e);
    }

    fn work(&mut self, e: usize) {
        while self.endpoints[e].busy < self.world.workers
            && let Some(r) = self.endpoints[e].queue.pop_front()
        {
            self.endpoints[e].busy += 1;
            let t = self.now.0 as f64 / 1e6;
            let (from, to) = self.world.stall;
            let stalled = if (from..to).contains(&t) { (to - t) * 1e6 } else { 0.0 };
            let us = self.world.work.draw(&mut self.rng) * (self.world.slow)(t) + stalled;
            self.after(us, Event::Done(e, r));
        }
    }

    fn done(&mut self, e: usize, r: usize) {
        self.endpoints[e].busy -= 1;
        if let At::Under(at, began) = self.requests[r].at
            && at == e
        {
            let took = self.now.since(self.requests[r].born);
            self.requests[r].at = At::Nowhere;
            let sum = self.sum(r);
            sum.answered += 1;
            sum.worst = sum.worst.max(took);
            self.leave(e, began, Ended::Answered);
        }
        self.work(e);
    }

    fn leave(&mut self, e: usize, began: Time, how: Ended) {
        let mut told = Vec::new();
        self.endpoints[e].gate.leave(self.now, began, how, |r, how| told.push((r, how)));
        self.tell(e, told);
    }

    /// It does not wait for ever; the application, which does not know, works on.
    fn caller_gone(&mut self, r: usize) {
        match self.requests[r].at {
            At::Nowhere => return,
            At::Waits(e, ticket) => {
                let mut told = Vec::new();
                let gate = &mut self.endpoints[e].gate;
                gate.give_up(self.now, ticket, false, |r, how| told.push((r, how)));
                self.tell(e, told);
            }
            At::Under(e, began) => self.leave(e, began, Ended::GivenUp),
        }
        self.requests[r].at = At::Nowhere;
        self.sum(r).late += 1;
    }

    /// The first endpoint is gone, and what it worked on goes elsewhere.
    fn lose(&mut self) {
        self.endpoints[0].alive = false;
        self.endpoints[0].queue.clear();
        for r in 0..self.requests.len() {
            if matches!(self.requests[r].at, At::Waits(0, _) | At::Under(0, _)) {
                self.turned_away(r);
            }
        }
    }
}

#[test]
fn at_normal_load_nothing_is_limited_let_alone_turned_away_however_answers_are_distributed() {
    for work in Work::ALL {
        for load in [0.05, 0.5, 0.7] {
            for seed in 0..3 {
                let world = World { work, load: Box::new(move |_| load), ..World::default() };
                let run = world.run(seed);
                let sum = run.between(0, 60);
                assert_eq!(sum.shed, 0, "{work:?} at {load}, seed {seed}: {sum:?}");
                assert!(!run.limited.contains(&true), "{work:?} at {load}, seed {seed}");
            }
        }
    }
}

#[test]
fn at_nine_tenths_of_capacity_one_in_a_thousand_is_turned_away_at_most() {
    for work in Work::ALL {
        let world = World { work, load: Box::new(|_| 0.9), endpoints: 3, ..World::default() };
        let sum = world.run(4).between(0, 60);
        assert!(sum.shed * 1000 <= sum.came, "{work:?}: {sum:?}");
    }
}

#[test]
fn when_one_of_three_at_nine_tenths_is_lost_the_others_answer_all_they_can() {
    for work in Work::ALL {
        for seed in 0..3 {
            let world = World {
                work,
                endpoints: 3,
                load: Box::new(|_| 0.9),
                loss: 20.0,
                seconds: 80.0,
                ..World::default()
            };
            let run = world.run(seed);
            // From the loss on, what it takes to notice included.
            let sum = run.between(20, 80);
            let capacity = 2.0 * world.capacity() * 60.0;
            let goodput = f64::from(sum.answered) / capacity;
            let late = f64::from(sum.late) / f64::from(sum.came);
            assert!(goodput >= 0.95, "{work:?}, seed {seed}: {goodput:.3} of capacity, {sum:?}");
            assert!(late < 0.01, "{work:?}, seed {seed}: {late:.4} came to nothing, {sum:?}");
        }
    }
}

/// Nothing was ever known of it but that most of its answers came too late for anybody.
#[test]
fn an_endpoint_that_is_overwhelmed_from_its_first_request_on_comes_to_answer_all_it_can() {
    for work in Work::ALL {
        for load in [3.0, 10.0] {
            let load = move |_| load;
            let world = World { work, load: Box::new(load), seconds: 90.0, ..World::default() };
            let run = world.run(5);
            let sum = run.between(45, 90);
            let goodput = f64::from(sum.answered) / (world.capacity() * 45.0);
            assert!(goodput >= 0.9, "{work:?}: {goodput:.3} of capacity, {sum:?}");
        }
    }
}

/// What the limit is for: without one the same loss brings the survivors down.
#[test]
fn without_a_limit_the_survivors_answer_whom_nobody_waits_for_any_more() {
    let world = World {
        endpoints: 3,
        adaptive: false,
        load: Box::new(|_| 0.9),
        loss: 20.0,
        seconds: 80.0,
        ..World::default()
    };
    let sum = world.run(1).between(40, 80);
    assert!(f64::from(sum.answered) < 0.2 * 2.0 * world.capacity() * 40.0, "{sum:?}");
}

#[test]
fn a_stall_of_the_machine_turns_nobody_away() {
    for work in [Work::Constant(10_000.0), Work::Exponential(10_000.0)] {
        let world = World { work, stall: (20.0, 20.3), ..World::default() };
        let sum = world.run(2).between(0, 60);
        assert_eq!(sum.shed, 0, "{work:?}: {sum:?}");
    }
}

#[test]
fn an_application_that_became_slow_by_itself_is_not_limited_for_long() {
    // A thousand workers: no queue, but what they call takes thirty times as long.
    let slow = |t: f64| if t > 20.0 { 30.0 } else { 1.0 };
    let world = World {
        workers: 1000,
        load: Box::new(|_| 0.005),
        slow: Box::new(slow),
        seconds: 120.0,
        ..World::default()
    };
    let run = world.run(3);
    let sum = run.between(20, 120);
    assert!(sum.shed * 100 <= sum.came, "{sum:?}");
    assert!(!run.limited[30..].contains(&true), "{:?}", run.limited);
}

/// Few requests at a time, so that an experiment takes long: its answers come one after the other.
#[test]
fn requests_that_take_longer_by_nature_are_not_taken_for_overload() {
    let slow = |t: f64| if t > 20.0 { 30.0 } else { 1.0 };
    let world = World {
        workers: 1000,
        load: Box::new(|_| 0.0005),
        slow: Box::new(slow),
        seconds: 120.0,
        ..World::default()
    };
    let run = world.run(3);
    let sum = run.between(20, 120);
    assert!(sum.shed * 50 <= sum.came, "{sum:?}");
    assert!(!run.limited[35..].contains(&true), "{:?}", run.limited);
}

#[test]
fn a_burst_passes_and_the_limit_goes() {
    let load = |t: f64| if (20.0..30.0).contains(&t) { 1.5 } else { 0.5 };
    let world = World { load: Box::new(load), ..World::default() };
    let run = world.run(5);
    assert!(run.limited[21..30].iter().all(|l| *l), "{:?}", run.limited);
    assert!(!run.limited[36..].contains(&true), "{:?}", run.limited);
    let during = run.between(22, 30);
    assert!(f64::from(during.answered) >= 0.95 * world.capacity() * 8.0, "{during:?}");
    assert_eq!(run.between(36, 60).shed, 0);
}

#[test]
fn what_is_answered_under_overload_is_answered_soon() {
    let load = |t: f64| if t > 20.0 { 1.5 } else { 0.7 };
    let world = World { load: Box::new(load), ..World::default() };
    let worst = world.run(6).between(25, 60).worst;
    assert!(worst < Duration::from_millis(500), "{worst:?}");
}
