//! Gray failure: an endpoint that answers, but worse than its siblings. Samples in, verdicts out.
//!
//! What fails outright is [`crate::evidence`]'s (consecutive failures). Here an endpoint is compared with
//! its *siblings*, the other ready endpoints of its service as this agent meets them, as in Envoy's success
//! rate outlier detection. An answer is *bad* if it is an error, or so slow that hardly any of a sibling's
//! is. What befalls all alike (an overloaded application, a slow network, our own stall) makes no outlier.
//!
//! The life of an endpoint here:
//!
//! ```text
//! well ──enough evidence──→ out ──its time is over──→ probation ──two good periods──→ well
//!   │ ↖ good                 ↑ ↖─────────bad─────────────┘
//!   └──avoided by the balancer, last answers bad──→ on trial ──enough evidence──→ out
//! ```
//!
//! On trial and on probation it gets a small share of the requests ([`crate::route::TRIAL_ONE_IN`]), so that
//! its answers tell how it is and few are hurt. It comes back by good answers only, never by time alone.
//!
//! Pure: no clock, no randomness; decides about one service at a time, keeps one [`Track`] per endpoint.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Time;

pub mod sample;

pub use sample::{BUCKETS, Sample};

/// The traffic path hands over what it counted so often.
pub const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// A period lasts at least so long: a sample, less what its timer may be early.
const PERIOD: Duration = Duration::from_millis(200);
/// … and has at least so many answers, else it goes on: two bad ones of five are by chance (2 % errors) in
/// one period of 260.
pub const MIN_VOLUME: u64 = 5;
/// A period that has not come to its volume after so long is thrown away: its answers are of many causes.
/// Envoy's interval. On trial and on probation it waits, for answers are few by intent.
const STALE: Duration = Duration::from_secs(10);
/// A period is bad when its share of bad answers exceeds the median of its siblings by this …
pub const EXCESS: f64 = 0.20;
/// … and by so many standard deviations of a binomial of its volume. Envoy's factor is 1.9 over 100
/// requests; here volumes are small, and a verdict is wanted from each.
const DEVIATIONS: f64 = 3.0;
/// What is looked for is an endpoint with this much more bad answers than its siblings. What lies halfway
/// and below is no outlier, however long it lasts.
const SOUGHT: f64 = 0.30;
/// Siblings without any bad answer are taken for as bad as this: of one in twenty nothing is thought.
const NOISE: f64 = 0.05;
/// Slow is what takes five half-octaves, some six times, longer than the 90th percentile of the siblings
/// (their median), and than the endpoint's own usual one: a far host is far, not sick.
const SLOW_HALF_OCTAVES: usize = 5;
/// Nothing faster than the bound of this bucket (11.3 ms) is ever slow: nobody is hurt by it, and a host that
/// is short of CPU answers so now and then.
const NEVER_SLOW: usize = 11;
/// The evidence after which an endpoint is out: a CUSUM (Page 1954) of the likelihood ratio between "as bad
/// as sought" and "as its siblings", floored at nothing. e^18 answers of a healthy endpoint pass before
/// chance comes to it (five days at 150 per second if 5 % fail by nature, centuries if 2 % do); one that
/// fails forty in a hundred comes to it in 33 answers.
const EVIDENCE: f64 = 18.0;
/// A period adds at most this share of it, however bad: what one stall slowed or one burst failed is one
/// event, not fifty.
pub const PERIODS: u32 = 3;
/// Good periods in a row that end a probation.
pub const PROBATION_GOOD: u8 = 2;
/// First time out; doubled each time after, up to [`OUT_MAX`].
pub const OUT_BASE: Duration = Duration::from_secs(2);
/// Longest time out. Shorter than for what fails outright: half-sick endpoints recover unseen.
pub const OUT_MAX: Duration = Duration::from_secs(30);
/// Well for so long, an endpoint's times out count from one again.
const FORGET: Duration = Duration::from_secs(30);
/// The balancer avoids an endpoint when it came to less than [`MIN_VOLUME`] while its siblings' median came
/// to so many times that.
const AVOIDED: u64 = 2;

/// Of `n` endpoints that should serve so many may be out as outliers, whatever else is out counted: a
/// third, at least one. Envoy's default is a tenth, at least one; services here have a handful of
/// endpoints.
pub fn cap(n: usize) -> usize {
    (n / 3).max(1)
}

/// What was wrong with an endpoint's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symptom {
    /// Bad answers in a hundred.
    pub percent: u8,
    /// The same of its siblings, their median.
    pub siblings: u8,
    /// Mostly of which kind.
    pub kind: Ailment,
}

/// Of which kind most bad answers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ailment {
    /// Errors.
    Failing,
    /// Slow: longer than this.
    Slow {
        /// Hardly any of a sibling's answers takes so long.
        limit: Duration,
    },
}

impl fmt::Display for Symptom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { percent, siblings, kind } = self;
        match kind {
            Ailment::Failing => {
                write!(f, "{percent} % of its answers were bad, most of them errors")?;
            }
            Ailment::Slow { limit } => {
                let limit = limit.as_secs_f64() * 1e3;
                write!(
                    f,
                    "{percent} % of its answers were bad, most took more than {limit:.0} ms"
                )?;
            }
        }
        write!(f, ", against {siblings} % of its siblings'")
    }
}

/// A period's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As its siblings.
    Good,
    /// Worse.
    Bad,
}

/// What a period says of an endpoint.
#[derive(Clone, Copy, Debug)]
struct Finding {
    /// By itself.
    verdict: Verdict,
    /// What it adds to the evidence; negative when it speaks for the endpoint.
    weight: f64,
    symptom: Symptom,
}

/// Where an endpoint stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Nothing is held against it.
    #[default]
    Well,
    /// The balancer avoids it and its last answers were bad: asked now and then to find out.
    Trial,
    /// Takes nothing.
    Out {
        /// Until when.
        until: Time,
        /// Why.
        symptom: Symptom,
    },
    /// Was out; good answers bring it back.
    Probation {
        /// Good periods so far.
        good: u8,
    },
}

/// A period that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Closed {
    from: Time,
    to: Time,
    sample: Sample,
}

/// What is kept of one endpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Track {
    state: State,
    open: Sample,
    /// When the open period began; `None` while nothing was counted.
    opened: Option<Time>,
    closed: Option<Closed>,
    /// The usual 90th percentile: a bucket, in sixteenths.
    usual: Option<usize>,
    /// What speaks against it, less what speaks for it.
    evidence: f64,
    /// Times out in a row.
    outs: u32,
    well_since: Time,
    /// How much it is to get beside its siblings, in no unit: less where it is far or starts slowly.
    part: u64,
}

impl Track {
    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why and until when it is out at `now`, if it is.
    pub fn out(&self, now: Time) -> Option<(Symptom, Time)> {
        match self.state {
            State::Out { until, symptom } if until > now => Some((symptom, until)),
            _ => None,
        }
    }

    /// Whether it is to get a small share only.
    pub fn on_trial(&self) -> bool {
        matches!(self.state, State::Trial | State::Probation { .. })
    }

    /// Takes in how much it is to get ([`crate::balance::Spread::part`]); `None` says nothing new.
    pub fn expect(&mut self, part: Option<u64>) {
        self.part = part.unwrap_or(self.part);
    }

    /// Takes in a sample: what was answered in the [`SAMPLE_EVERY`] before `now`.
    pub fn take(&mut self, now: Time, sample: &Sample) {
        if sample.volume() == 0 || matches!(self.state, State::Out { .. }) {
            return;
        }
        if self.opened.is_some_and(|from| now.since(from) > STALE) && !self.on_trial() {
            self.open = Sample::default();
            self.opened = None;
        }
        self.opened.get_or_insert(now - SAMPLE_EVERY);
        self.open.add(sample);
    }

    /// Ends a time out that is over: probation. Returns whether that happened now.
    pub fn expire(&mut self, now: Time) -> bool {
        match self.state {
            State::Out { until, .. } if until <= now => {
                self.begin(State::Probation { good: 0 });
                true
            }
            _ => false,
        }
    }

    /// Lets it back in at once and in full, since too few others are left.
    pub fn readmit(&mut self, now: Time) {
        self.begin(State::Well);
        self.well_since = now;
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        self.open = Sample::default();
        self.opened = None;
        self.closed = None;
        self.evidence = 0.0;
    }

    /// Ends the open period if it is long and full enough. Returns whether it did.
    fn close(&mut self, now: Time) -> bool {
        let Some(from) = self.opened else { return false };
        if now.since(from) < PERIOD || self.open.volume() < MIN_VOLUME {
            return false;
        }
        self.opened = None;
        let sample = std::mem::take(&mut self.open);
        // Its first answers say what is usual there: how far it is, nobody told.
        self.usual = self.usual.or(sample.p90().map(|p90| p90 * 16));
        self.closed = Some(Closed { from, to: now, sample });
        true
    }

    /// Above which bucket an answer of this endpoint is slow, given its siblings' usual one.
    fn limit(&self, siblings: Option<usize>) -> usize {
        let Some(siblings) = siblings else { return BUCKETS };
        let own = self.usual.map_or(0, |u| u / 16);
        (siblings.max(own) + SLOW_HALF_OCTAVES).max(NEVER_SLOW)
    }

    /// Learns what is usual: at once when it is faster, slowly when it is slower, never from a bad period.
    fn learn(&mut self) {
        let Some(p90) = self.closed.as_ref().and_then(|c| c.sample.p90()) else { return };
        let p90 = p90 * 16;
        self.usual = Some(match self.usual {
            None => p90,
            Some(usual) if p90 < usual => (usual + p90) / 2,
            Some(usual) => usual + (p90 - usual).div_ceil(32),
        });
    }

    /// Takes in what a period says. `may_go` is false where no more may go out. Returns whether its state
    /// changed.
    fn follow(&mut self, now: Time, finding: Finding, may_go: bool, jitter: f64) -> bool {
        let before = self.state;
        match (self.state, finding.verdict) {
            (State::Out { .. }, _) => {}
            (State::Probation { good }, Verdict::Good) if good + 1 >= PROBATION_GOOD => {
                self.state = State::Well;
                self.well_since = now;
                self.evidence = 0.0;
            }
            (State::Probation { good }, Verdict::Good) => {
                self.state = State::Probation { good: good + 1 };
            }
            (State::Probation { .. }, Verdict::Bad) if may_go => {
                self.go(now, finding.symptom, jitter);
            }
            (State::Probation { .. }, Verdict::Bad) => self.state = State::Probation { good: 0 },
            (State::Well | State::Trial, verdict) => {
                let most = EVIDENCE / f64::from(PERIODS);
                let sum = self.evidence + finding.weight.min(most);
                self.evidence = sum.clamp(0.0, EVIDENCE);
                if self.evidence >= EVIDENCE && finding.weight > 0.0 && may_go {
                    self.go(now, finding.symptom, jitter);
                } else if verdict == Verdict::Good {
                    self.state = State::Well;
                    self.learn();
                }
            }
        }
        self.state != before
    }

    fn go(&mut self, now: Time, symptom: Symptom, jitter: f64) {
        if !matches!(self.state, State::Probation { .. }) && now.since(self.well_since) >= FORGET {
            self.outs = 0;
        }
        let long = (OUT_BASE * (1 << self.outs.min(8))).min(OUT_MAX);
        self.outs += 1;
        let until = now + long.mul_f64(0.9 + 0.2 * jitter);
        self.begin(State::Out { until, symptom });
    }
}

/// What judging a service needs to know of it beside the tracks.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Endpoints that should serve: ready, doubtful or ejected, not those that cannot or shall not.
    pub should: usize,
    /// Of those, how many are not ready, for whatever reason.
    pub not_ready: usize,
    /// How many must stay ready: the policy's panic threshold. At least one does.
    pub needed: usize,
}

impl Limits {
    /// Whether one more may go out.
    fn one_more(&self, not_ready: usize) -> bool {
        not_ready < cap(self.should) && not_ready + 1 + self.needed.max(1) <= self.should
    }
}

/// Judges the *ready* endpoints of one service against each other after a round of samples:
///
/// 1. periods that are long and full enough are closed, all before any is judged;
/// 2. each closed one is compared with the siblings whose last period overlaps it;
/// 3. the worst goes first, while no more than [`cap`] of the service is out, for any reason;
/// 4. who is avoided by the balancer after bad answers is put on trial.
///
/// `jitter` in 0..1 spreads the ends of times out. Returns the indices of those whose state changed.
pub fn judge(now: Time, tracks: &mut [&mut Track], limits: Limits, jitter: f64) -> Vec<usize> {
    let fresh: Vec<bool> = tracks.iter_mut().map(|t| t.close(now)).collect();
    let mut findings: Vec<(usize, Finding)> = (0..tracks.len())
        .filter(|i| fresh[*i])
        .filter_map(|i| Some((i, compare(tracks, i)?)))
        .collect();
    findings.sort_by_key(|(i, f)| (u8::MAX - f.symptom.percent, *i));
    let avoided: Vec<usize> =
        (0..tracks.len()).filter(|i| !fresh[*i] && is_avoided(now, tracks, *i, &fresh)).collect();
    let mut changed = Vec::new();
    let mut not_ready = limits.not_ready;
    for (i, finding) in findings {
        let may_go = limits.one_more(not_ready);
        if tracks[i].follow(now, finding, may_go, jitter) {
            not_ready += usize::from(matches!(tracks[i].state, State::Out { .. }));
            changed.push(i);
        }
    }
    for i in avoided {
        tracks[i].state = State::Trial;
        changed.push(i);
    }
    changed
}

/// Compares endpoint `i`'s last period with its siblings'. `None` if there is nobody to compare it with.
///
/// With one sibling only, that one must itself be well: of two that are both sick neither is the outlier.
fn compare(tracks: &[&mut Track], i: usize) -> Option<Finding> {
    let own = tracks[i].closed.as_ref()?;
    let siblings: Vec<&Sample> = tracks
        .iter()
        .enumerate()
        .filter(|(j, t)| *j != i && matches!(t.state, State::Well | State::Trial))
        .filter_map(|(_, t)| t.closed.as_ref())
        .filter(|c| c.to > own.from)
        .map(|c| &c.sample)
        .collect();
    let limit = tracks[i].limit(median(siblings.iter().filter_map(|s| s.p90()).collect()));
    let share = |s: &Sample| s.bad(limit) as f64 / s.volume() as f64;
    // Shares in millionths, so that they have an order.
    let theirs = median(siblings.iter().map(|s| (share(s) * 1e6) as u64).collect())? as f64 / 1e6;
    let ours = share(&own.sample);
    let slow = own.sample.slow(limit) > u64::from(own.sample.failed);
    let kind = if slow { Ailment::Slow { limit: sample::bound(limit) } } else { Ailment::Failing };
    let whole = |share: f64| (share * 100.0).round() as u8;
    let symptom = Symptom { percent: whole(ours), siblings: whole(theirs), kind };
    if siblings.len() == 1 && theirs > NOISE {
        return Some(Finding { verdict: Verdict::Good, weight: 0.0, symptom });
    }
    let expected = theirs.max(NOISE);
    let volume = own.sample.volume() as f64;
    let deviation = (expected * (1.0 - expected) / volume).sqrt();
    let bad = ours >= expected + EXCESS.max(DEVIATIONS * deviation);
    let verdict = if bad { Verdict::Bad } else { Verdict::Good };
    Some(Finding { verdict, weight: volume * weight(ours, expected), symptom })
}

/// How much one answer of a period with a share `ours` of bad ones speaks for a sick endpoint, as against one
/// of which `expected` are bad: the mean log-likelihood ratio of a Bernoulli draw. Nothing where its siblings
/// are so bad that none could be that much worse.
fn weight(ours: f64, expected: f64) -> f64 {
    let sought = expected + SOUGHT;
    if sought >= 1.0 - NOISE {
        return 0.0;
    }
    ours * (sought / expected).ln() + (1.0 - ours) * ((1.0 - sought) / (1.0 - expected)).ln()
}

/// Whether the balancer gives endpoint `i` next to nothing, after answers some of which were bad.
fn is_avoided(now: Time, tracks: &[&mut Track], i: usize, fresh: &[bool]) -> bool {
    let track = &tracks[i];
    let siblings: Vec<(&Closed, u64)> = tracks
        .iter()
        .enumerate()
        .filter(|(j, _)| *j != i && fresh[*j])
        .filter_map(|(_, t)| Some((t.closed.as_ref()?, t.part)))
        .collect();
    // What it would have come to by its part, had each of them been given what is its own.
    let due = |(c, part): &(&Closed, u64)| {
        u128::from(c.sample.volume()) * u128::from(track.part.max(1)) / u128::from((*part).max(1))
    };
    let dues = siblings.iter().map(due).collect();
    let busy = median(dues).is_some_and(|v| v >= u128::from(AVOIDED * MIN_VOLUME));
    let limit = track.limit(median(siblings.iter().filter_map(|(c, _)| c.sample.p90()).collect()));
    let bad = |s: &Sample| s.bad(limit) > 0;
    let last = track.closed.as_ref().filter(|c| now.since(c.to) < STALE);
    let seen = bad(&track.open) || last.is_some_and(|c| bad(&c.sample));
    track.state == State::Well && busy && seen
}

/// The upper median: with two the larger, which accuses less.
fn median<T: Ord + Copy>(mut of: Vec<T>) -> Option<T> {
    of.sort_unstable();
    of.get(of.len() / 2).copied()
}

#[cfg(test)]
mod tests;
