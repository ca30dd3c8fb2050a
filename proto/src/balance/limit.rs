//! How many requests an endpoint can work on at once, found out while it is too many, and only then.
//!
//! An owner sees answers, not the queue inside its application. Overload shows in them alike for all: even
//! the fastest quarter of the answers takes far longer than it used to, since those too waited. But so it
//! does when what the application itself calls has become slow, and then a limit would only do harm. What
//! tells the two apart is an experiment: let in half of what it worked on when it was well, and see whether
//! answers come faster. If not, the new latency is the usual one from now on, and nothing is limited. (Envoy
//! and BBR look for the latency without a queue the same way, but regularly; here a healthy endpoint is never
//! experimented with.)
//!
//! While an endpoint is *held*, as many requests are let in as it answers in the time an answer usually takes
//! and as much again (Little's law, with the best rate seen lately): enough to keep all of it busy, whatever
//! its answers' distribution, and few enough that none waits in it for long. It is let go when nothing had
//! to wait for a while.
//!
//! An endpoint may be overwhelmed before anything is known of it, as after a start: then most requests are given
//! up by their callers, and what it works on is for nobody. Whether it answers at all when little is let in is
//! the same experiment.
//!
//! A pure state machine: it is told of answers and says how many may be under way; [`super::gate`] holds the
//! others back. What it cannot see: an application of which only a part is overloaded that most requests do
//! not touch. There a fixed `max_requests` is the tool.

use std::time::Duration;

use crate::time::Time;

/// A window is judged when it has so many answers and is so long: less is luck …
const ENOUGH: u32 = 32;
const WINDOW: Duration = Duration::from_millis(100);
/// … or when it has so few after so long.
const FEW: u32 = 8;
const LONG: Duration = Duration::from_secs(2);
/// Windows with fewer answers than that say nothing after so long.
const STALE: Duration = Duration::from_secs(10);
/// So many windows in a row must be slow: a collection of garbage or a moment without a core is none.
const SLOW: u32 = 3;
/// Slow is so many times the usual, and longer than it by this: below it nobody minds, and a busy endpoint's
/// ordinary queue is in it.
const TIMES: f64 = 5.0;
const MINDED_US: f64 = 100_000.0;
/// With fewer requests under way nothing can be queued.
const IDLE: usize = 4;
/// What is usual is the least of the last one to two of these.
const USUAL: Duration = Duration::from_secs(60);
/// The weight of a new window in the average that the least is taken of.
const SMOOTH: f64 = 0.3;
/// The best rate is that of the last one to two of these.
const BEST: Duration = Duration::from_secs(5);
/// Answers of an experiment: from as many as are let in, within these.
const TOLD: (usize, usize) = (4, 16);
/// An experiment takes at most this, or so many times what it should with the latency it began with.
const EXPERIMENT: Duration = Duration::from_secs(1);
const EXPERIMENT_TIMES: f64 = 2.0;
/// The next one comes after this, or so many times as long as the last took: half of the endpoint idles
/// meanwhile.
const AGAIN: Duration = Duration::from_secs(15);
const AGAIN_TIMES: u32 = 40;
/// An endpoint is let go when nothing had to wait for so long.
const CALM: Duration = Duration::from_secs(3);
/// Never fewer than this while it is held.
const LEAST: usize = 4;

/// What answers take, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Usual {
    /// The fastest quarter.
    quarter: f64,
    /// On average.
    mean: f64,
}

impl Usual {
    fn least(self, other: Self) -> Self {
        Self { quarter: self.quarter.min(other.quarter), mean: self.mean.min(other.mean) }
    }

    fn mixed(self, new: Self, weight: f64) -> Self {
        let mix = |a: f64, b: f64| a + (b - a) * weight;
        Self { quarter: mix(self.quarter, new.quarter), mean: mix(self.mean, new.mean) }
    }

    /// From which on the fastest quarter is slow.
    fn slow(self) -> f64 {
        (self.quarter * TIMES).max(self.quarter + MINDED_US)
    }
}

/// Answers, counted by their latency: four buckets per octave from 64 µs on.
#[derive(Clone, Debug)]
struct Answers {
    buckets: [u32; 80],
    n: u32,
    sum: f64,
}

impl Default for Answers {
    fn default() -> Self {
        Self { buckets: [0; 80], n: 0, sum: 0.0 }
    }
}

impl Answers {
    fn count(&mut self, latency: Duration) {
        let us = latency.as_micros() as f64;
        let bucket = ((us / 64.0).max(1.0).log2() * 4.0) as usize;
        self.buckets[bucket.min(79)] += 1;
        self.n += 1;
        self.sum += us;
    }

    fn merge(&mut self, other: &Self) {
        for (here, there) in self.buckets.iter_mut().zip(other.buckets) {
            *here += there;
        }
        self.n += other.n;
        self.sum += other.sum;
    }

    fn usual(&self) -> Usual {
        let quarter = self.n.div_ceil(4);
        let mut seen = 0;
        let reached = |n: &u32| {
            seen += n;
            seen >= quarter
        };
        let at = self.buckets.iter().position(reached).unwrap_or(0);
        Usual {
            quarter: 64.0 * ((at as f64 + 0.5) / 4.0).exp2(),
            mean: self.sum / f64::from(self.n.max(1)),
        }
    }
}

/// The extreme of the last one to two spans of time.
#[derive(Clone, Copy, Debug)]
struct Lately<T> {
    span: Duration,
    since: Time,
    now: Option<T>,
    before: Option<T>,
}

impl<T: Copy> Lately<T> {
    fn new(span: Duration, at: Time) -> Self {
        Self { span, since: at, now: None, before: None }
    }

    fn note(&mut self, at: Time, value: T, extreme: impl Fn(T, T) -> T) {
        if at.since(self.since) >= self.span {
            (self.before, self.now, self.since) = (self.now, None, at);
        }
        self.now = Some(self.now.map_or(value, |n| extreme(n, value)));
    }

    fn value(&self, extreme: impl Fn(T, T) -> T) -> Option<T> {
        match (self.now, self.before) {
            (Some(a), Some(b)) => Some(extreme(a, b)),
            (a, b) => a.or(b),
        }
    }

    fn set(&mut self, at: Time, value: T) {
        (self.since, self.now, self.before) = (at, Some(value), None);
    }
}

/// Where an endpoint is.
#[derive(Clone, Debug)]
enum State {
    /// Nothing is limited.
    Open {
        /// Slow windows in a row.
        slow: u32,
    },
    /// Little is let in, to see whether answers come faster then.
    Experiment {
        limit: usize,
        began: Time,
        until: Time,
        /// The slow quarter it began with.
        slow: f64,
        /// No more than `limit` are under way since: what was let in from then on tells.
        drained: Option<Time>,
        answers: Box<Answers>,
    },
    /// No more than it can work on is let in.
    Held {
        /// Nothing had to wait since.
        calm: Time,
        /// When it is looked at again.
        again: Time,
    },
}

/// The limit of one endpoint.
#[derive(Clone, Debug)]
pub struct Limit {
    state: State,
    since: Time,
    window: Box<Answers>,
    /// Given up in this window.
    lost: Box<Answers>,
    /// The last window's.
    seen: Option<Usual>,
    smooth: Option<Usual>,
    usual: Lately<Usual>,
    /// Answers per microsecond.
    best: Lately<f64>,
}

impl Limit {
    /// Of an endpoint nothing is known of.
    pub fn new(now: Time) -> Self {
        Self {
            state: State::Open { slow: 0 },
            since: now,
            window: Box::default(),
            lost: Box::default(),
            seen: None,
            smooth: None,
            usual: Lately::new(USUAL, now),
            best: Lately::new(BEST, now),
        }
    }

    /// How many may be under way. `None`: any number.
    pub fn limit(&self) -> Option<usize> {
        match &self.state {
            State::Open { .. } => None,
            State::Experiment { limit, .. } => Some(*limit),
            State::Held { .. } => Some(self.held_at()),
        }
    }

    /// `open`, `experiment` or `held`.
    pub fn word(&self) -> &'static str {
        match self.state {
            State::Open { .. } => "open",
            State::Experiment { .. } => "experiment",
            State::Held { .. } => "held",
        }
    }

    /// A request that was let in at `began` was answered; `under_way` are left.
    pub fn answered(&mut self, now: Time, began: Time, under_way: usize) {
        let latency = now.since(began);
        self.window.count(latency);
        if let State::Experiment { drained: Some(at), answers, .. } = &mut self.state
            && began >= *at
        {
            answers.count(latency);
        }
        self.look(now, under_way);
    }

    /// A request that was let in at `began` was given up. It counts as one that takes as long, for it would have
    /// taken longer, if that is slow.
    pub fn given_up(&mut self, now: Time, began: Time, under_way: usize) {
        let usual = self.usual.value(Usual::least);
        let waited = now.since(began);
        if waited.as_micros() as f64 > usual.map_or(MINDED_US, Usual::slow) {
            self.lost.count(waited);
            self.look(now, under_way);
        }
    }

    /// Judges the window if it is full.
    fn look(&mut self, now: Time, under_way: usize) {
        let length = now.since(self.since);
        let n = self.window.n + self.lost.n;
        if n >= ENOUGH && length >= WINDOW || n >= FEW && length >= LONG {
            self.judge(now, length, under_way);
        } else if length >= STALE {
            self.restart(now);
        }
        self.passed(now, under_way);
    }

    /// As many as are answered in `time`: more need not wait that long for their turn.
    pub fn answered_in(&self, time: Duration) -> usize {
        (self.best() * time.as_micros() as f64) as usize
    }

    /// A request has to wait.
    pub fn waits(&mut self, now: Time) {
        if let State::Held { calm, .. } = &mut self.state {
            *calm = now;
        }
    }

    /// Time passed, or somebody left; `under_way` are left.
    pub fn passed(&mut self, now: Time, under_way: usize) {
        match &mut self.state {
            State::Open { .. } => {}
            State::Experiment { limit, drained, until, answers, .. } => {
                if under_way <= *limit && drained.is_none() {
                    *drained = Some(now);
                }
                let told = (*limit).clamp(TOLD.0, TOLD.1);
                if answers.n as usize >= told || now >= *until {
                    self.conclude(now);
                }
            }
            State::Held { calm, again } => {
                if now.since(*calm) >= CALM {
                    self.state = State::Open { slow: 0 };
                    self.restart(now);
                } else if now >= *again {
                    self.experiment(now);
                }
            }
        }
    }

    fn restart(&mut self, now: Time) {
        *self.window = Answers::default();
        *self.lost = Answers::default();
        self.since = now;
    }

    /// Looks at a window that is full.
    fn judge(&mut self, now: Time, length: Duration, under_way: usize) {
        let (answered, lost) = (self.window.n, self.lost.n);
        let (seen, waited) = (self.window.usual(), self.lost.usual());
        self.window.merge(&self.lost);
        let all = self.window.usual();
        self.restart(now);
        self.seen = Some(all);
        if answered > 0 && !matches!(self.state, State::Experiment { .. }) {
            let rate = f64::from(answered) / length.as_micros().max(1) as f64;
            self.best.note(now, rate, f64::max);
        }
        let usual = self.usual.value(Usual::least);
        if usual.is_none() && answered > 0 && matches!(self.state, State::Held { .. }) {
            // No more are let in than it works on at once: that is how long it takes.
            self.usual.set(now, seen);
        }
        let State::Open { slow } = &mut self.state else { return };
        let drowns = usual.map_or(lost > answered, |usual| all.quarter > usual.slow());
        if drowns && under_way > IDLE {
            *slow += 1;
            if *slow >= SLOW {
                match usual {
                    Some(_) => self.experiment(now),
                    None => self.begin(now, LEAST, waited.quarter),
                }
            }
            return;
        }
        *slow = 0;
        if answered > lost {
            let smooth = self.smooth.map_or(seen, |s| s.mixed(seen, SMOOTH));
            self.smooth = Some(smooth);
            self.usual.note(now, smooth, Usual::least);
        }
    }

    fn best(&self) -> f64 {
        self.best.value(f64::max).unwrap_or(0.0)
    }

    fn held_at(&self) -> usize {
        let Some(usual) = self.usual.value(Usual::least) else { return LEAST };
        let time = usual.mean + usual.mean.max(MINDED_US);
        ((self.best() * time) as usize).max(LEAST)
    }

    fn experiment(&mut self, now: Time) {
        let Some(usual) = self.usual.value(Usual::least) else { return };
        let limit = ((self.best() * usual.mean / 2.0) as usize).max(1);
        self.begin(now, limit, self.recent_quarter(usual));
    }

    /// Begins an experiment in which `limit` are let in, where the fastest quarter took `slow` so far.
    fn begin(&mut self, now: Time, limit: usize, slow: f64) {
        // Those under way have to be answered first, then those that tell.
        let rounds = 1 + limit.clamp(TOLD.0, TOLD.1).div_ceil(limit);
        let latency = self.seen.map_or(slow, |seen| seen.mean);
        let patience = latency * rounds as f64 * EXPERIMENT_TIMES;
        let patience = Duration::from_micros(patience as u64).max(EXPERIMENT);
        self.state = State::Experiment {
            limit,
            began: now,
            until: now + patience,
            slow,
            drained: None,
            answers: Box::default(),
        };
    }

    /// How slow the fastest quarter was before an experiment. From a held endpoint it is what its limit
    /// lets it be.
    fn recent_quarter(&self, usual: Usual) -> f64 {
        match self.state {
            State::Held { .. } => usual.quarter + usual.mean.max(MINDED_US),
            _ => usual.slow(),
        }
    }

    /// An experiment is over: were answers faster?
    fn conclude(&mut self, now: Time) {
        let State::Experiment { began, slow, answers, .. } = &self.state else { return };
        let usual = self.usual.value(Usual::least);
        // Where there is no answer at all, it hangs.
        let (took, told) = (now.since(*began), answers.n > 0);
        let seen = answers.usual();
        let quarter = usual.map_or(0.0, |usual| usual.quarter);
        let faster = !told || seen.quarter < (quarter + slow) / 2.0;
        self.restart(now);
        if faster {
            if told {
                self.usual.set(now, usual.map_or(seen, |usual| usual.mixed(seen, SMOOTH)));
            }
            let again = now + AGAIN.max(took * AGAIN_TIMES);
            self.state = State::Held { calm: now, again };
        } else {
            // It is as slow with half as much to do: that is how it is now.
            self.usual.set(now, seen);
            self.smooth = Some(seen);
            self.state = State::Open { slow: 0 };
        }
    }
}

#[cfg(test)]
mod tests;
