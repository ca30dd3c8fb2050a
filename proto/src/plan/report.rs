//! A plan as tables of text: what an operator reads, before anybody decides how it is drawn.
//!
//! Owns the wording and the rounding; computes nothing that [`forecast`](super::forecast) and its
//! neighbours do not.

use serde::Serialize;

use super::forecast::{Forecast, PlanError, downtime_seconds_per_year};
use super::input::{Crews, HOURS_PER_YEAR, Hours, SECONDS_PER_HOUR, Scenario};
use super::sensitivity::{self, Elasticity, Gain};
use super::shortcut::{self, Quantity, Shortcut};

/// Everything there is to say about a scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What to expect.
    pub forecast: Forecast,
    /// How strongly each number acts, strongest first.
    pub elasticities: Vec<Elasticity>,
    /// What buys most, first.
    pub gains: Vec<Gain>,
    /// Textbook shortcuts beside the truth.
    pub shortcuts: Vec<Shortcut>,
}

/// A table: a title, column headings, and rows with as many cells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Section {
    /// What it is about.
    pub title: &'static str,
    /// Headings.
    pub columns: Vec<&'static str>,
    /// Cells, row by row.
    pub rows: Vec<Vec<String>>,
    /// What to bear in mind; may be empty.
    pub notes: Vec<String>,
}

impl Report {
    /// Solves `scenario` with `horizon` as the interval and the mission of the shortcuts.
    pub fn new(scenario: Scenario, horizon: Hours) -> Result<Self, PlanError> {
        Ok(Self {
            forecast: Forecast::new(scenario, horizon)?,
            elasticities: sensitivity::elasticities(&scenario)?,
            gains: sensitivity::gains(&scenario)?,
            shortcuts: shortcut::all(&scenario, horizon)?,
        })
    }

    /// The tables, in reading order.
    pub fn sections(&self) -> Vec<Section> {
        vec![
            self.assumed(),
            self.expected(),
            self.made_of(),
            self.buys_most(),
            self.acts_most(),
            self.goes_wrong(),
        ]
    }

    fn assumed(&self) -> Section {
        let scenario = &self.forecast.scenario;
        let counts = scenario.counts;
        let crews = match scenario.crews {
            Crews::EachItsOwn => "one per endpoint".to_string(),
            Crews::Shared(crews) => crews.to_string(),
        };
        let hours = |hours: f64| duration(hours * SECONDS_PER_HOUR);
        let mut rows = vec![
            cells(["hot, warm, needed", &triple(counts.hot(), counts.warm(), counts.needed())]),
            cells(["mean time to failure (1/λ)", &hours(scenario.failure.mean().hours())]),
            cells(["failures while standing by (a)", &short(scenario.warm_share.value())]),
            cells(["mean time to repair (1/μ)", &hours(scenario.repair.mean().hours())]),
            cells(["repair crews", &crews]),
            cells(["detection", &hours(scenario.detection.hours())]),
            cells(["activation", &hours(scenario.activation.hours())]),
            cells(["failures noticed (c)", &percent(scenario.missed.value())]),
            cells(["common causes (b)", &short(scenario.common_cause.value())]),
        ];
        if scenario.missed.value() > 0.0 {
            let found = hours(scenario.recovery.mean().hours());
            rows.push(cells(["unnoticed failures found after (1/β)", &found]));
        }
        Section { title: "Assumed", columns: vec!["parameter", "value"], rows, notes: Vec::new() }
    }

    fn expected(&self) -> Section {
        let forecast = &self.forecast;
        let interval = &forecast.interval;
        let first = match forecast.mttf_hours {
            None => "never".into(),
            Some(hours) => duration(hours * SECONDS_PER_HOUR),
        };
        let horizon = duration(interval.hours * SECONDS_PER_HOUR);
        let over = format!("over the first {horizon}");
        let rows = vec![
            cells(["availability", &percent(forecast.unavailability)]),
            cells(["unavailability", &format!("{:.6e}", forecast.unavailability)]),
            cells(["downtime per year", &duration(forecast.downtime_seconds_per_year)]),
            cells(["outages per year", &short(forecast.outages_per_year)]),
            cells(["mean outage", &duration(forecast.outage_seconds)]),
            cells(["mean time to the first outage", &first]),
            cells([over.as_str(), &percent(interval.down_share)]),
            cells(["requests answered at the first try", &percent(forecast.request_loss)]),
        ];
        let columns = vec!["in the long run", "value"];
        Section { title: "Expected", columns, rows, notes: self.cautions() }
    }

    /// What to bear in mind.
    pub fn cautions(&self) -> Vec<String> {
        let scenario = &self.forecast.scenario;
        let mut notes = Vec::new();
        if scenario.counts.warm() > 0
            && scenario.takeover().is_some_and(|takeover| takeover <= scenario.repair)
        {
            notes.push(
                "Taking over is no faster than repair: while one activates, a repaired endpoint joins \
                 the bench instead of serving, and the bench can do more harm than good."
                    .into(),
            );
        }
        if scenario.missed.value() == 0.0 && scenario.common_cause.value() == 0.0 {
            notes.push(
                "Assumes that every failure is noticed and none has a common cause: an upper bound."
                    .into(),
            );
        }
        notes
    }

    /// Downtime by its cause.
    pub fn made_of(&self) -> Section {
        let blame = self.forecast.blame;
        let total = self.forecast.unavailability;
        let parts = [
            ("taking over (detection and activation)", blame.taking_over),
            ("failures nobody noticed", blame.unnoticed),
            ("too few left", blame.exhausted),
            ("common cause", blame.common_cause),
        ];
        let rows = parts.map(|(cause, part)| {
            let share = if total > 0.0 { part / total * 100.0 } else { 0.0 };
            let year = duration(downtime_seconds_per_year(part));
            cells([cause, &year, &format!("{share:.1} %")])
        });
        Section {
            title: "Made of",
            columns: vec!["cause", "downtime per year", "share"],
            rows: rows.to_vec(),
            notes: Vec::new(),
        }
    }

    /// What buys most, first.
    pub fn buys_most(&self) -> Section {
        let rows = self.gains.iter().map(|gain| {
            let left = duration(downtime_seconds_per_year(gain.unavailability));
            let saved = duration(gain.seconds_saved_per_year);
            cells([gain.purchase.label().as_str(), &saved, &left])
        });
        Section {
            title: "What buys most",
            columns: vec!["change", "saves per year", "leaves per year"],
            rows: rows.collect(),
            notes: Vec::new(),
        }
    }

    fn acts_most(&self) -> Section {
        let rows = self.elasticities.iter().map(|it| {
            let elasticity = format!("{:+.3}", it.elasticity);
            cells([it.lever.label(), &elasticity])
        });
        Section {
            title: "What acts most",
            columns: vec!["parameter", "% downtime per %"],
            rows: rows.collect(),
            notes: Vec::new(),
        }
    }

    /// Textbook shortcuts beside what they stand for.
    pub fn goes_wrong(&self) -> Section {
        let rows = self.shortcuts.iter().map(|shortcut| {
            let number = |value: f64| match shortcut.quantity {
                Quantity::Availability | Quantity::Utilisation => format!("{value:.6}"),
                Quantity::Unavailability => format!("{value:.3e}"),
            };
            let factor = shortcut.factor().map_or_else(|| "–".into(), short);
            let (says, truth) = (number(shortcut.says), number(shortcut.truth));
            cells([shortcut.name, shortcut.formula, &says, &truth, &factor, &shortcut.lesson])
        });
        Section {
            title: "Where shortcuts go wrong",
            columns: vec!["shortcut", "formula", "says", "is", "factor", "why"],
            rows: rows.collect(),
            notes: Vec::new(),
        }
    }
}

fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_string).to_vec()
}

fn triple(hot: u32, warm: u32, needed: u32) -> String {
    format!("{hot} + {warm}, {needed} needed")
}

/// Three significant digits, without an exponent where that is readable.
fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let size = value.abs().log10().floor();
    if !(-4.0..6.0).contains(&size) {
        return format!("{value:.2e}");
    }
    // -4 ..= 5: exact.
    let digits = (2.0 - size).max(0.0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// An availability as a percentage, from what is missing to it, with two digits beyond its nines.
pub fn percent(unavailability: f64) -> String {
    if unavailability <= 0.0 {
        return "100 %".into();
    }
    // Two nines stand before the point, two digits follow the last; a double ends after sixteen.
    let digits = (-unavailability.log10()).clamp(2.0, 13.0).floor() as usize;
    format!("{:.digits$} %", (1.0 - unavailability) * 100.0)
}

/// Seconds in the unit people would use, three significant digits.
pub fn duration(seconds: f64) -> String {
    const MINUTE: f64 = 60.0;
    const DAY: f64 = 24.0 * SECONDS_PER_HOUR;
    const YEAR: f64 = HOURS_PER_YEAR * SECONDS_PER_HOUR;
    // A rate's reciprocal may be a rounding below the whole number it stands for.
    let size = seconds.abs() * (1.0 + 1e-12);
    let (unit, name) = match size {
        _ if size == 0.0 => return "0 s".into(),
        _ if size < 1e-3 => (1e-6, "µs"),
        _ if size < 1.0 => (1e-3, "ms"),
        _ if size < 2.0 * MINUTE => (1.0, "s"),
        _ if size < SECONDS_PER_HOUR => (MINUTE, "min"),
        _ if size < 3.0 * DAY => (SECONDS_PER_HOUR, "h"),
        _ if size < 2.0 * YEAR => (DAY, "d"),
        _ => (YEAR, "years"),
    };
    format!("{} {name}", short(seconds / unit))
}
