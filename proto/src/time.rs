//! Time as the core sees it: a number that comes in with every input.
//!
//! [`Time`] counts microseconds from an origin the driver chose; [`Clock`] maps it to wall time for
//! what people read. [`Span`] is a duration that must be written with its unit.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment, in microseconds since the driver's origin. Monotonic by the driver's promise.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Time(pub u64);

impl Time {
    /// The time that passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Wall time in microseconds since the Unix epoch: for records and people, never for decisions.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Wall(pub u64);

/// Maps the core's time to wall time. Fixed when the agent starts, so that a wall clock that is set
/// later bends no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Clock {
    /// Wall time at `Time(0)`.
    pub origin: Wall,
}

impl Clock {
    /// Wall time at `t`.
    pub fn wall(self, t: Time) -> Wall {
        Wall(self.origin.0.saturating_add(t.0))
    }
}

/// A duration that people write with its unit (`250ms`, `1.5s`, `30s`, `5m`, `1h`) and machines as
/// microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// No unit follows the number.
    #[error(
        "{0:?} has no unit; write for example \"{0}s\" or \"{0}ms\" (units: us, ms, s, m, h, d)"
    )]
    NoUnit(String),
    /// The text is not a number and a unit.
    #[error("{0:?} is not a duration; write a number and a unit such as \"250ms\" or \"30s\"")]
    NotASpan(String),
}

impl Span {
    /// Reads a number and a unit.
    pub fn parse(text: &str) -> Result<Self, SpanError> {
        let bad = || SpanError::NotASpan(text.to_owned());
        let text = text.trim();
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let value: f64 = number.parse().map_err(|_| bad())?;
        let seconds = match unit {
            "" => return Err(SpanError::NoUnit(text.to_owned())),
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(bad()),
        };
        Duration::try_from_secs_f64(value * seconds).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.as_micros();
        let (n, unit) = match us {
            0 => (0, "s"),
            _ if us.is_multiple_of(3_600_000_000) => (us / 3_600_000_000, "h"),
            _ if us.is_multiple_of(60_000_000) => (us / 60_000_000, "m"),
            _ if us.is_multiple_of(1_000_000) => (us / 1_000_000, "s"),
            _ if us.is_multiple_of(1_000) => (us / 1_000, "ms"),
            _ => (us, "us"),
        };
        write!(f, "{n}{unit}")
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            s.serialize_u64(u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX))
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"250ms\" or \"30s\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).map_err(E::custom)
            }
        }
        if d.is_human_readable() {
            d.deserialize_str(Text)
        } else {
            u64::deserialize(d).map(|us| Span(Duration::from_micros(us)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_needs_its_unit() {
        assert_eq!(Span::parse("250ms"), Ok(Span(Duration::from_millis(250))));
        assert_eq!(Span::parse("1.5s"), Ok(Span(Duration::from_millis(1500))));
        assert!(matches!(Span::parse("5"), Err(SpanError::NoUnit(_))));
        for bad in ["", "s", "-1s", "1 s", "5 minutes", "1e3s", "1.2.3s"] {
            assert!(Span::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_span_survives_being_printed() {
        for us in [0, 1, 999, 1_000, 1_500_000, 60_000_000, 90_000_000, 3_600_000_000] {
            let span = Span(Duration::from_micros(us));
            assert_eq!(Span::parse(&span.to_string()), Ok(span));
        }
    }
}
