//! Textbook shortcuts beside what they stand for, with the numbers where they go wrong.
//!
//! Each comparison is computed for the scenario at hand, not quoted, so that `hearth plan` can say
//! when a shortcut would have done. One that has no number is not here: counting an outage of the
//! control plane as one of the data plane (agents serve on without it).

use serde::Serialize;

use super::closed;
use super::forecast::{PlanError, unavailability};
use super::input::{Hours, Rate, SECONDS_PER_HOUR, Scenario, Share};
use super::model::Model;
use super::transient;

/// The common-cause share assumed where a scenario names none: one failure in a hundred.
const USUAL_COMMON_CAUSE: f64 = 0.01;

/// What two numbers of a comparison are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Share of time, or probability, up.
    Availability,
    /// Share of time down.
    Unavailability,
    /// Share of what an endpoint can carry.
    Utilisation,
}

/// A shortcut and the truth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shortcut {
    /// The belief, in a few words.
    pub name: &'static str,
    /// Its formula.
    pub formula: &'static str,
    /// What the numbers are.
    pub quantity: Quantity,
    /// What it says.
    pub says: f64,
    /// What is so.
    pub truth: f64,
    /// Where and why it goes wrong.
    pub lesson: String,
}

impl Shortcut {
    /// How many times more unavailability (or load) there is than the shortcut says; `None` where it
    /// says none, or what cannot be.
    pub fn factor(&self) -> Option<f64> {
        let (says, truth) = match self.quantity {
            Quantity::Availability => (1.0 - self.says, 1.0 - self.truth),
            Quantity::Unavailability | Quantity::Utilisation => (self.says, self.truth),
        };
        (says > 0.0 && says <= 1.0).then(|| truth / says)
    }
}

/// `A = 1 − f·t` for one endpoint: neither its availability nor its reliability.
pub fn one_minus_ft(failure: Rate, repair: Rate, time: Hours) -> Shortcut {
    let hours = time.hours();
    Shortcut {
        name: "1 − f·t as availability",
        formula: "A = 1 − f·t",
        quantity: Quantity::Availability,
        says: 1.0 - failure.per_hour() * hours,
        truth: closed::single_availability_at(failure, repair, time),
        lesson: format!(
            "the first term of the reliability e^(−f·t), which knows no repair: negative after 1/f = \
             {:.0} h; at {hours:.0} h the reliability is {:.4}, the availability tends to μ/(λ+μ)",
            failure.mean().hours(),
            closed::reliability(failure, time),
        ),
    }
}

/// Utilisation of each survivor when `lost` of `hot` endpoints are gone and each carried `share`;
/// `None`: none is left. At 1 and above queues grow without bound.
pub fn survivor_utilisation(hot: u32, lost: u32, share: Share) -> Option<f64> {
    let left = hot.checked_sub(lost).filter(|left| *left > 0)?;
    Some(share.value() * f64::from(hot) / f64::from(left))
}

/// The belief that survivors carry on as before, for one loss of `hot` at utilisation `share`.
pub fn survivors_carry_on(hot: u32, share: Share) -> Option<Shortcut> {
    let truth = survivor_utilisation(hot, 1, share)?;
    let most = f64::from(hot - 1) / f64::from(hot);
    Some(Shortcut {
        name: "survivors as fast as before",
        formula: "ρ after a loss = ρ",
        quantity: Quantity::Utilisation,
        says: share.value(),
        truth,
        lesson: format!(
            "{} survivors share the load of {hot}: ρ·N/(N−1) must stay below 1, so ρ below {most:.3}",
            hot - 1
        ),
    })
}

/// Share of capacity that false ejections take away: ejections per hour and endpoint times how long
/// each lasts (at most all of it). A detector twice as fast with a hundred times the false alarms
/// can cost more than it gains.
pub fn ejected_share(false_ejections: Rate, dwell: Hours) -> f64 {
    (false_ejections.per_hour() * dwell.hours()).min(1.0)
}

/// The shortcuts that apply to `scenario`, with a mission of `time` where one is needed.
pub fn all(scenario: &Scenario, time: Hours) -> Result<Vec<Shortcut>, PlanError> {
    let truth = unavailability(*scenario)?;
    let mut list = vec![one_minus_ft(scenario.failure, scenario.repair, time)];
    list.push(redundancy_is_a_product(scenario, truth));
    if scenario.counts.warm() > 0 {
        list.extend(bench_is_simple(scenario, truth)?);
    }
    list.push(failures_are_independent(scenario, truth)?);
    list.extend(repair_begins_at_once(scenario));
    list.push(steady_for_short_missions(scenario, truth)?);
    Ok(list)
}

fn redundancy_is_a_product(scenario: &Scenario, truth: f64) -> Shortcut {
    let single = closed::single_unavailability(scenario.failure, scenario.repair);
    let says = closed::k_of_n_unavailability(
        scenario.counts.needed(),
        scenario.counts.total(),
        // λ/(λ+μ) is a share by its form.
        Share::ALL.scaled(single),
    );
    Shortcut {
        name: "redundancy as a product",
        formula: "U = sum of C(n,i)·A^i·(1−A)^(n−i), i < k",
        quantity: Quantity::Unavailability,
        says,
        truth,
        lesson: "right for hot endpoints that fail independently, are noticed at once and repaired by a \
                 crew each; it ignores takeover, coverage, shared crews and common causes"
            .into(),
    }
}

fn bench_is_simple(scenario: &Scenario, truth: f64) -> Result<Vec<Shortcut>, PlanError> {
    let cold = Scenario { warm_share: Share::NONE, ..*scenario };
    let instant = Scenario { detection: Hours::ZERO, activation: Hours::ZERO, ..*scenario };
    let mut list = Vec::new();
    if scenario.warm_share.value() > 0.0 {
        list.push(Shortcut {
            name: "warm as cold",
            formula: "λ_w = 0",
            quantity: Quantity::Unavailability,
            says: unavailability(cold)?,
            truth,
            lesson: "what stands by fails too, and unseen unless it is checked".into(),
        });
    }
    if let Some(takeover) = scenario.takeover() {
        list.push(Shortcut {
            name: "warm as instantly hot",
            formula: "1/δ = 0",
            quantity: Quantity::Unavailability,
            says: unavailability(instant)?,
            truth,
            lesson: format!(
                "each loss costs the takeover: about λ/δ = {:.2e} per place when all are needed",
                scenario.failure.per_hour() / takeover.per_hour()
            ),
        });
    }
    Ok(list)
}

fn failures_are_independent(scenario: &Scenario, truth: f64) -> Result<Shortcut, PlanError> {
    let given = scenario.common_cause.value() > 0.0;
    let share = if given { scenario.common_cause.value() } else { USUAL_COMMON_CAUSE };
    let with = |share| unavailability(Scenario { common_cause: share, ..*scenario });
    let single = closed::single_unavailability(scenario.failure, scenario.repair);
    Ok(Shortcut {
        name: "failures as independent",
        formula: "b = 0",
        quantity: Quantity::Unavailability,
        says: if given { with(Share::NONE)? } else { truth },
        truth: if given { truth } else { with(Share::ALL.scaled(share))? },
        lesson: format!(
            "with {}{:.1} % of failures in common U is at least b·(1−A) = {:.2e}, however many endpoints \
             there are: look for racks, zones, configuration pushes, versions",
            if given { "" } else { "only " },
            share * 100.0,
            share * single
        ),
    })
}

/// MTTR without the time until anybody knows; for one endpoint, where that is all there is to it.
fn repair_begins_at_once(scenario: &Scenario) -> Option<Shortcut> {
    let missed = scenario.missed.value();
    let unknown = scenario.missed.rest().value() * scenario.detection.hours()
        + missed * scenario.recovery.mean().hours();
    let (up, repair) = (scenario.failure.mean().hours(), scenario.repair.mean().hours());
    (unknown > 0.0).then(|| Shortcut {
        name: "MTTR without detection",
        formula: "A = MTTF/(MTTF + MTTR), one endpoint",
        quantity: Quantity::Unavailability,
        says: repair / (up + repair),
        truth: (repair + unknown) / (up + repair + unknown),
        lesson: format!(
            "repair begins when somebody knows: {:.1} s on average; and MTBF = MTTF + MTTR, so neither \
             stands for the other",
            unknown * SECONDS_PER_HOUR
        ),
    })
}

/// A steady state quoted for a mission of a tenth of a repair, begun with everything in order.
fn steady_for_short_missions(scenario: &Scenario, truth: f64) -> Result<Shortcut, PlanError> {
    let mission = scenario.repair.mean().scaled(0.1);
    let span = transient::over(Model::new(*scenario)?.chain(), mission)?;
    Ok(Shortcut {
        name: "steady state for a short mission",
        formula: "U(mission) = U(∞)",
        quantity: Quantity::Unavailability,
        says: truth,
        truth: span.down_share,
        lesson: format!(
            "over {:.2} h from \"all well\" double failures have had no time to meet; the long run is \
             reached after several repairs",
            mission.hours()
        ),
    })
}
