//! How available a service is while its hosts fail and are repaired at random, beside what
//! [`hearth_proto::plan`] predicts from the same rates and the times measured in the same run.
//!
//! Every host of `ledger` (three hot, two warm) crashes after exponential times and starts again after
//! exponential times, by itself and unnoticed by nobody: the plan's rules with a crew for each, full
//! coverage and no common cause. Activation takes a known time. What is measured is the truth, not
//! anybody's view: an endpoint serves while its host runs, its application answers and its owner says so.
//!
//! Rates are accelerated (a host fails every minute and a half) so that ten thousand failures fit into
//! virtual days; hold and drain of failback are short against them and damping is off, since the plan knows
//! none of them.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use hearth_proto::advert::{Condition, Role};
use hearth_proto::document::Content;
use hearth_proto::ids::EndpointId;
use hearth_proto::plan::basis::{self, Given};
use hearth_proto::plan::forecast::PlanError;
use hearth_proto::plan::input::{Hours, Parameter, SECONDS_PER_HOUR};
use hearth_proto::plan::{Forecast, InputError, Spec};
use hearth_proto::policy::{Failback, Patience, Policy, ServicePolicy};
use hearth_proto::time::Span;
use hearth_proto::view::PlanView;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::fault::Fault;
use super::mesh::{self, CALLER, LEDGER_HOT, LEDGER_WARM, service};
use super::world::{What, World};
use super::{At, MS, S, parallel};

/// Mean time to failure of a host, in seconds.
const MTTF: f64 = 90.0;
/// Mean time from its failure to its next start, in seconds.
const MTTR: f64 = 10.0;
/// What an activation hook takes.
const HOOK: u64 = 1_500 * MS;
/// Failback's hold: the plan has the repaired endpoint back on the bench at once.
const HOLD: Duration = Duration::from_millis(500);
/// Virtual time of one seed after the mesh has settled, in seconds.
const SEED_SECONDS: u64 = 2_000;
/// How often it is looked who serves: times are right to half of it, and without bias.
const LOOK: u64 = 20 * MS;
/// Requests of each caller in a second.
const RATE: u64 = 4;
/// Hot endpoints, and how many a plan may need of them.
const HOT: usize = LEDGER_HOT.len();
/// How many standard errors an interval reaches to either side: 99.9 % of a normal distribution.
const ERRORS: f64 = 3.29;

/// What one seed came to.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Virtual seconds measured.
    pub seconds: f64,
    /// Hosts that failed.
    pub failures: u64,
    /// Seconds, summed over hosts, in which they ran.
    pub running: f64,
    /// By k - 1: seconds in which fewer than k served.
    pub down: [f64; HOT],
    /// From the failure of a host, with all well before, to the call-up of its replacement, in seconds.
    pub detected: Vec<f64>,
    /// From call-up to serving, in seconds.
    pub activated: Vec<f64>,
    /// From a host's failure to its endpoint serving or standing by again, in seconds.
    pub repaired: Vec<f64>,
    /// Requests made.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Tries beyond a request's first.
    pub retries: u64,
    /// What a caller's agent has seen, as `hearth plan --from-live` asks for it.
    pub seen: Option<PlanView>,
}

/// What is watched of one endpoint.
struct Watched {
    host: usize,
    id: EndpointId,
    role: Role,
    condition: Option<Condition>,
    since: At,
    failed: Option<At>,
}

/// The scenario of that name: its figures are in the story.
pub(super) fn availability(w: &mut World) {
    let figures = measure(w, SEED_SECONDS);
    let text = Outcome::of(vec![figures], w.seed..w.seed + 1).table();
    w.tell(|| text);
}

/// Runs a world for so long and measures.
fn measure(w: &mut World, seconds: u64) -> Figures {
    w.rate = RATE;
    w.hook_time = Some(HOOK);
    w.checks.strict = false;
    w.settle();
    w.checks.strict = false;
    let failback = Failback::After(Span(HOLD));
    w.expect_failback(failback);
    // At these rates every host flaps.
    let damping = Patience::Endless;
    let policy = ServicePolicy { failback, damping, ..ServicePolicy::default() };
    let services = [(service("ledger"), policy)].into_iter().collect();
    w.give(0, 2, Content::Policy(Policy { services, ..Policy::default() }));
    w.run_until(w.now + 5 * S);
    let (from, to) = (w.now, w.now + seconds * S);
    arm(w, from, to);
    let before = w.stats.clone();
    let mut figures = Figures { seconds: seconds as f64, ..Figures::default() };
    let mut watched: Vec<Watched> = w
        .endpoints(&service("ledger"))
        .into_iter()
        .map(|(host, id, role)| {
            let condition = w.condition(host, &id);
            Watched { host, id, role, condition, since: from, failed: None }
        })
        .collect();
    let mut all_well_until = None;
    while w.now < to {
        w.run_until(w.now + LOOK);
        look(w, &mut watched, &mut figures, &mut all_well_until);
    }
    let now = w.local(CALLER);
    figures.seen = w.hosts[CALLER].node.as_ref().and_then(|n| n.plan_view(&service("ledger"), now));
    figures.requests = w.stats.requests - before.requests;
    figures.failed = w.stats.failed - before.failed;
    figures.retries = w.stats.retries - before.retries;
    figures
}

/// Arms the failures and starts of every host with an endpoint, drawn from the seed.
fn arm(w: &mut World, from: At, to: At) {
    let mut rng = StdRng::seed_from_u64(w.seed ^ 0xa7a1);
    let mut wait = |mean: f64| {
        let u: f64 = rng.random();
        (-(1.0 - u).ln() * mean * S as f64) as u64
    };
    for host in LEDGER_HOT.into_iter().chain(LEDGER_WARM) {
        let mut at = from + wait(MTTF);
        while at < to {
            w.at(at, What::Fault(Fault::Crash(host)));
            at += wait(MTTR);
            w.at(at, What::Fault(Fault::Boot(host, false)));
            at += wait(MTTF);
        }
    }
}

/// Takes a look: who serves, who changed. `all_well_until`: when a host failed with all well before, until
/// somebody is called up for it.
fn look(
    w: &World,
    watched: &mut [Watched],
    figures: &mut Figures,
    all_well_until: &mut Option<At>,
) {
    let (now, step) = (w.now, LOOK as f64 / S as f64);
    let serving =
        |all: &[Watched]| all.iter().filter(|e| e.condition == Some(Condition::Serving)).count();
    let waiting =
        |all: &[Watched]| all.iter().filter(|e| e.condition == Some(Condition::Standby)).count();
    let well = serving(watched) == HOT && waiting(watched) == LEDGER_WARM.len();
    for e in watched.iter_mut() {
        let condition = w.condition(e.host, &e.id);
        if condition == e.condition {
            continue;
        }
        let took = (now - e.since) as f64 / S as f64;
        match (e.role, e.condition, condition) {
            (_, Some(_), None) => {
                e.failed = Some(now);
                figures.failures += 1;
                if well && e.role == Role::Hot {
                    *all_well_until = Some(now);
                }
            }
            (Role::Warm { .. }, Some(Condition::Standby), Some(Condition::Activating)) => {
                if let Some(failed) = all_well_until.take() {
                    figures.detected.push((now - failed) as f64 / S as f64);
                }
            }
            (Role::Warm { .. }, Some(Condition::Activating), Some(Condition::Serving)) => {
                figures.activated.push(took);
            }
            _ => {}
        }
        if matches!(condition, Some(Condition::Serving | Condition::Standby))
            && let Some(failed) = e.failed.take()
        {
            figures.repaired.push((now - failed) as f64 / S as f64);
            // The failure that was waited for is mended before anybody was called up for it.
            *all_well_until = None;
        }
        e.condition = condition;
        e.since = now;
    }
    figures.running += step * watched.iter().filter(|e| e.condition.is_some()).count() as f64;
    let serving = watched
        .iter()
        .filter(|e| e.condition == Some(Condition::Serving) && w.could_serve(e.host, &e.id))
        .count();
    for (k, down) in figures.down.iter_mut().enumerate() {
        if serving <= k {
            *down += step;
        }
    }
}

/// What many seeds came to.
pub struct Outcome {
    seeds: Range<u64>,
    all: Vec<Figures>,
    /// Violations of invariants, by seed.
    pub violated: Vec<(u64, String)>,
}

/// Measured and predicted, for one k.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// How many were needed.
    pub needed: u32,
    /// Share of time in which fewer served.
    pub measured: f64,
    /// Half the width of its interval, over seeds.
    pub by: f64,
    /// What the plan says, of the rates and times of all seeds.
    pub predicted: f64,
    /// What it says of what a caller's agent has seen; the mean over seeds.
    pub from_live: f64,
}

impl Line {
    /// By how much a prediction is off, as a share of what was measured.
    pub fn off(self, predicted: f64) -> f64 {
        predicted / self.measured - 1.0
    }
}

/// Why there is no prediction.
#[derive(Debug, thiserror::Error)]
pub enum NoPrediction {
    /// What was measured is no scenario.
    #[error("what was measured is no scenario: {0}")]
    Input(#[from] InputError),
    /// It cannot be solved.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Runs the seeds on all cores.
pub fn many(seeds: Range<u64>) -> Outcome {
    let all: Vec<u64> = seeds.clone().collect();
    let done = parallel::map(&all, |seed| {
        let mut world = mesh::failing(*seed);
        let figures = measure(&mut world, SEED_SECONDS);
        (*seed, figures, std::mem::take(&mut world.checks.violations))
    });
    let violated = done
        .iter()
        .flat_map(|(seed, _, violations)| violations.iter().map(|v| (*seed, v.clone())))
        .collect();
    let all = done.into_iter().map(|(_, figures, _)| figures).collect();
    Outcome { violated, ..Outcome::of(all, seeds) }
}

fn forecast(spec: &Spec) -> Result<Forecast, NoPrediction> {
    let horizon = Hours::new(Parameter::HorizonHours, 1.0)?;
    Ok(Forecast::new(spec.parse()?, horizon)?)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

impl Outcome {
    fn of(all: Vec<Figures>, seeds: Range<u64>) -> Self {
        Self { seeds, all, violated: Vec::new() }
    }

    /// Hosts that failed.
    pub fn failures(&self) -> u64 {
        self.all.iter().map(|f| f.failures).sum()
    }

    fn pooled(&self, of: impl Fn(&Figures) -> &[f64]) -> f64 {
        mean(&self.all.iter().flat_map(|f| of(f).iter().copied()).collect::<Vec<_>>())
    }

    /// The plan's scenario: rates and times as they were measured.
    pub fn spec(&self, needed: u32) -> Spec {
        let running: f64 = self.all.iter().map(|f| f.running).sum();
        let mttf = running / self.failures().max(1) as f64;
        let mttr = self.pooled(|f| &f.repaired);
        Spec {
            // A host that stands by runs as one that serves.
            warm_failure_share: 1.0,
            detection_seconds: self.pooled(|f| &f.detected),
            activation_seconds: self.pooled(|f| &f.activated),
            ..Spec::new(
                HOT as u32,
                LEDGER_WARM.len() as u32,
                needed,
                mttf / SECONDS_PER_HOUR,
                mttr / SECONDS_PER_HOUR,
            )
        }
    }

    fn forecast(&self, needed: u32) -> Result<Forecast, NoPrediction> {
        forecast(&self.spec(needed))
    }

    /// What is predicted of what callers' agents have seen, nothing else known; the mean over seeds.
    fn predicted_from_live(&self, needed: u32) -> Result<f64, NoPrediction> {
        let given = Given { needed: Some(needed), ..Given::default() };
        let seen = self.all.iter().filter_map(|f| f.seen.as_ref());
        let predicted: Result<Vec<f64>, NoPrediction> = seen
            .map(|seen| Ok(forecast(&basis::gather(&given, Some(seen)).spec)?.unavailability))
            .collect();
        predicted.map(|all| mean(&all))
    }

    /// Measured beside predicted, for k needed.
    pub fn line(&self, needed: u32) -> Result<Line, NoPrediction> {
        let at = (needed as usize).clamp(1, HOT) - 1;
        let shares: Vec<f64> = self.all.iter().map(|f| f.down[at] / f.seconds).collect();
        let measured = mean(&shares);
        let n = shares.len() as f64;
        let variance = shares.iter().map(|s| (s - measured).powi(2)).sum::<f64>() / (n - 1.0);
        Ok(Line {
            needed,
            measured,
            // One seed has no interval: nothing is borne with.
            by: if shares.len() > 1 { ERRORS * (variance / n).sqrt() } else { 0.0 },
            predicted: self.forecast(needed)?.unavailability,
            from_live: self.predicted_from_live(needed)?,
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let spec = self.spec(HOT as u32);
        let (requests, failed) = (sum(&self.all, |f| f.requests), sum(&self.all, |f| f.failed));
        let retries = sum(&self.all, |f| f.retries);
        let hours = self.all.iter().map(|f| f.seconds).sum::<f64>() / SECONDS_PER_HOUR;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "availability, seeds {}..{}: {HOT} hot and {} warm hosts over {hours:.1} virtual hours, {} \
             failures; measured: to failure {:.1} s, to repair {:.2} s, detection {:.0} ms, activation \
             {:.0} ms",
            self.seeds.start,
            self.seeds.end,
            LEDGER_WARM.len(),
            self.failures(),
            spec.mttf_hours * SECONDS_PER_HOUR,
            spec.mttr_hours * SECONDS_PER_HOUR,
            spec.detection_seconds * 1e3,
            spec.activation_seconds * 1e3,
        );
        let _ = writeln!(
            text,
            "{:>6} {:>12} {:>22} {:>12} {:>8} {:>12} {:>8}",
            "needed", "down", "99.9 % interval", "the plan", "off", "from live", "off"
        );
        for needed in (1..=HOT as u32).rev() {
            let _ = match self.line(needed) {
                Ok(line) => writeln!(
                    text,
                    "{needed:>6} {:>10.4} % {:>10.4} .. {:>6.4} % {:>10.4} % {:>+6.1} % {:>10.4} % {:>+6.1} %",
                    line.measured * 100.0,
                    (line.measured - line.by) * 100.0,
                    (line.measured + line.by) * 100.0,
                    line.predicted * 100.0,
                    line.off(line.predicted) * 100.0,
                    line.from_live * 100.0,
                    line.off(line.from_live) * 100.0
                ),
                Err(error) => writeln!(text, "{needed:>6} {error}"),
            };
        }
        let _ = writeln!(
            text,
            "of {requests} requests {failed} failed ({:.4} %), {retries} further tries ({:.4} %); one try \
             each, the plan says, loses {:.4} % with one needed",
            failed as f64 / requests.max(1) as f64 * 100.0,
            retries as f64 / requests.max(1) as f64 * 100.0,
            self.forecast(1).map_or(f64::NAN, |f| f.request_loss * 100.0),
        );
        for (seed, violation) in &self.violated {
            let _ = writeln!(text, "  VIOLATED, seed {seed}: {violation}");
        }
        text
    }

    /// Whether both predictions for all hot ones needed agree with what was measured, within a tenth, and
    /// no invariant was violated. Few failures prove nothing: below ten thousand a prediction further off is
    /// borne with where the interval of what was measured reaches to within a tenth of it.
    pub fn holds(&self) -> Result<bool, NoPrediction> {
        let line = self.line(HOT as u32)?;
        let bound = if self.failures() >= ENOUGH { 0.0 } else { line.by };
        let near =
            |predicted: f64| (predicted - line.measured).abs() <= 0.1 * line.measured + bound;
        Ok(self.violated.is_empty() && near(line.predicted) && near(line.from_live))
    }
}

/// Failures from which on a tenth is a tenth.
const ENOUGH: u64 = 10_000;

fn sum(all: &[Figures], of: impl Fn(&Figures) -> u64) -> u64 {
    all.iter().map(of).sum()
}
