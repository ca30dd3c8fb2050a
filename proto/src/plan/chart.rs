//! Curves of availability, drawn: what both renderers share.
//!
//! Owns the chart as data and its scales. The vertical axis counts nines (−log10 of the
//! unavailability), so that up is better and each line of the grid is ten times less downtime; the
//! right edge says the same in time per year. [`svg`] and [`terminal`] turn it into text; both are
//! pure functions.

pub mod svg;
pub mod terminal;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::chain::ChainError;
use super::forecast::downtime_seconds_per_year;
use super::input::{Counts, Hours, Parameter, Scenario};
use super::report::{duration, percent};
use super::sweep::{self, Point};

/// Points per curve over a continuous parameter.
const POINTS: u32 = 61;
/// Nines beyond which curves are drawn flat: 1 − U is 1 in a double anyway.
const MOST_NINES: f64 = 15.0;

/// How x is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Seconds, a decade per grid line.
    LogSeconds,
    /// Whole numbers, each a dot.
    Count,
}

/// A named curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// What distinguishes it, short.
    pub name: String,
    /// From left to right.
    pub points: Vec<Point>,
}

/// A chart of unavailability over one parameter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chart {
    /// Heading.
    pub title: String,
    /// What x is.
    pub x_label: String,
    /// How x is laid out.
    pub scale: Scale,
    /// The curves.
    pub series: Vec<Series>,
    /// Where the scenario itself is.
    pub here: Option<Point>,
}

impl Chart {
    /// Availability over activation time, 10 ms to 1,000 s, for the scenario's bench and its neighbours.
    pub fn by_activation(scenario: &Scenario) -> Result<Self, ChainError> {
        let warm = scenario.counts.warm();
        let (from, to) = (Hours::ZERO.plus_seconds(0.01), Hours::ZERO.plus_seconds(1_000.0));
        let mut series = Vec::new();
        for warm in warm.saturating_sub(1)..=warm + 1 {
            let Some(other) = with_warm(scenario, warm) else { continue };
            match sweep::by_activation(&other, from, to, POINTS) {
                Ok(points) => series.push(Series { name: format!("M = {warm}"), points }),
                // A neighbour may be too large; the scenario itself must not be.
                Err(ChainError::TooManyStates { .. }) if warm > scenario.counts.warm() => {}
                Err(error) => return Err(error),
            }
        }
        let here = Point {
            x: scenario.activation.seconds().clamp(from.seconds(), to.seconds()),
            unavailability: super::forecast::unavailability(*scenario)?,
        };
        Ok(Self {
            title: format!("Availability by activation time, {}", needed(scenario)),
            x_label: "activation time".into(),
            scale: Scale::LogSeconds,
            series,
            here: Some(here),
        })
    }

    /// Availability over the number of warm endpoints, up to twice the scenario's and at least 4, as
    /// it is and with takeovers that cost no time.
    pub fn by_warm(scenario: &Scenario) -> Result<Self, ChainError> {
        let (_, limit) = Parameter::Warm.range();
        // The limit is a whole number below 2^32.
        let most = (scenario.counts.warm() * 2).max(4).min(limit as u32);
        let instant = Scenario { detection: Hours::ZERO, activation: Hours::ZERO, ..*scenario };
        let taken = duration(scenario.detection.seconds() + scenario.activation.seconds());
        let mut series = Vec::new();
        if scenario.takeover().is_some() {
            let points = sweep::by_warm(scenario, most)?;
            series.push(Series { name: format!("takeover {taken}"), points });
        }
        series.push(Series { name: "at once".into(), points: sweep::by_warm(&instant, most)? });
        let here = Point {
            x: f64::from(scenario.counts.warm()),
            unavailability: super::forecast::unavailability(*scenario)?,
        };
        Ok(Self {
            title: format!("Availability by warm endpoints, {}", needed(scenario)),
            x_label: "warm endpoints (M)".into(),
            scale: Scale::Count,
            series,
            here: Some(here),
        })
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.series.iter().flat_map(|series| &series.points).chain(&self.here)
    }

    /// The scales that show every point.
    fn frame(&self) -> Frame {
        let mut frame = Frame {
            scale: self.scale,
            left: f64::INFINITY,
            right: f64::NEG_INFINITY,
            bottom: f64::INFINITY,
            top: f64::NEG_INFINITY,
        };
        for point in self.points() {
            let (across, nines) = (frame.across(point.x), nines(point.unavailability));
            frame.left = frame.left.min(across);
            frame.right = frame.right.max(across);
            frame.bottom = frame.bottom.min(nines.floor());
            frame.top = frame.top.max(nines.ceil());
        }
        if frame.left > frame.right {
            (frame.left, frame.right, frame.bottom, frame.top) = (0.0, 1.0, 0.0, 1.0);
        }
        if frame.left == frame.right {
            frame.right += 1.0;
        }
        if frame.bottom == frame.top {
            frame.top += 1.0;
        }
        frame
    }
}

fn with_warm(scenario: &Scenario, warm: u32) -> Option<Scenario> {
    let counts = scenario.counts;
    let counts = Counts::new(counts.hot(), warm, counts.needed()).ok()?;
    Some(Scenario { counts, ..*scenario })
}

fn needed(scenario: &Scenario) -> String {
    format!("{} hot, {} needed", scenario.counts.hot(), scenario.counts.needed())
}

/// −log10 U, from 0 to [`MOST_NINES`].
fn nines(unavailability: f64) -> f64 {
    if unavailability <= 0.0 {
        return MOST_NINES;
    }
    // Just above a whole number by rounding only, 1e-5 would open a row of its own.
    let nines = -unavailability.log10();
    let whole = nines.round();
    (if (nines - whole).abs() < 1e-9 { whole } else { nines }).clamp(0.0, MOST_NINES)
}

/// A labelled line of the grid.
struct Tick {
    /// 0 to 1 along its axis.
    at: f64,
    label: String,
    /// The same said otherwise, at the opposite edge; empty on x.
    other: String,
}

/// From values to 0..1 along each axis.
struct Frame {
    scale: Scale,
    left: f64,
    right: f64,
    bottom: f64,
    top: f64,
}

impl Frame {
    fn across(&self, x: f64) -> f64 {
        match self.scale {
            Scale::LogSeconds => x.max(1e-9).log10(),
            Scale::Count => x,
        }
    }

    /// Where a point is, from the left and from the bottom.
    fn place(&self, point: &Point) -> (f64, f64) {
        (
            (self.across(point.x) - self.left) / (self.right - self.left),
            (nines(point.unavailability) - self.bottom) / (self.top - self.bottom),
        )
    }

    /// Whole nines, from the bottom up, every other one where there are many.
    fn y_ticks(&self) -> Vec<Tick> {
        let step = if self.top - self.bottom > 8.0 { 2.0 } else { 1.0 };
        let mut ticks = Vec::new();
        let mut at = self.bottom;
        while at <= self.top {
            let share = 10f64.powf(-at);
            ticks.push(Tick {
                at: (at - self.bottom) / (self.top - self.bottom),
                // Nobody counts more than nine nines by eye.
                label: if at > 9.0 { format!("{at:.0} nines") } else { tick_percent(share) },
                other: duration(downtime_seconds_per_year(share)),
            });
            at += step;
        }
        ticks
    }

    /// Decades or counts, from the left.
    fn x_ticks(&self) -> Vec<Tick> {
        let step = match self.scale {
            Scale::LogSeconds => 1.0,
            Scale::Count => ((self.right - self.left) / 12.0).ceil().max(1.0),
        };
        let mut ticks = Vec::new();
        let mut at = self.left.ceil();
        // Decades may be a rounding to the left or right of whole.
        if at - self.left > 1.0 - 1e-9 {
            at -= 1.0;
        }
        while at <= self.right + 1e-9 {
            let label = match self.scale {
                Scale::LogSeconds => seconds_label(10f64.powf(at)),
                Scale::Count => format!("{at:.0}"),
            };
            let at_share = ((at - self.left) / (self.right - self.left)).clamp(0.0, 1.0);
            ticks.push(Tick { at: at_share, label, other: String::new() });
            at += step;
        }
        ticks
    }
}

/// A power of ten as an availability, all its nines and no more.
fn tick_percent(share: f64) -> String {
    let text = percent(share);
    match text.strip_suffix(" %") {
        Some(number) if number.contains('.') => {
            format!("{} %", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// Decades of seconds without changing the unit at 100 s: they are read as a row.
fn seconds_label(seconds: f64) -> String {
    if seconds < 0.99 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.0} s") }
}
