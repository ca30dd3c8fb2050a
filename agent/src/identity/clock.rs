//! The wall clock, read in one place, so that tests can hold it still or set it wrong.
//!
//! Only what must be compared with dates that others wrote (certificates, the control plane's answers)
//! uses it. Durations and deadlines never do: those use the monotonic clock.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_proto::time::Wall;

/// A source of wall time. Cheap to clone.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> Wall + Send + Sync>);

impl WallClock {
    /// The host's clock. A clock before 1970 reads as 1970.
    pub fn system() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Wall(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
        })
    }

    /// A clock that reads what `read` returns.
    pub fn new(read: impl Fn() -> Wall + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The time now.
    pub fn now(&self) -> Wall {
        (self.0)()
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WallClock({})", rfc3339(self.now()))
    }
}

/// Wall time as certificates count it: whole seconds since 1970.
pub(crate) fn seconds(wall: Wall) -> i64 {
    i64::try_from(wall.0 / 1_000_000).unwrap_or(i64::MAX)
}

/// The inverse of [`seconds`]; a date before 1970 reads as 1970.
pub(crate) fn from_seconds(seconds: i64) -> Wall {
    Wall(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000))
}

/// `wall` as RFC 3339 in UTC, to the second: `2026-03-01T12:00:00Z`.
pub fn rfc3339(wall: Wall) -> String {
    let (date, time) = civil(wall);
    format!("{date}T{time}Z")
}

/// `wall` as RFC 3339 in UTC, to the microsecond.
pub fn rfc3339_micros(wall: Wall) -> String {
    let (date, time) = civil(wall);
    format!("{date}T{time}.{:06}Z", wall.0 % 1_000_000)
}

/// Days to a date of the proleptic Gregorian calendar, after Howard Hinnant,
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
fn civil(wall: Wall) -> (String, String) {
    let seconds = wall.0 / 1_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (
        format!("{year:04}-{month:02}-{day:02}"),
        format!("{:02}:{:02}:{:02}", second / 3_600, second % 3_600 / 60, second % 60),
    )
}

/// A duration in the unit in which people would say it: `2 h`, `5 min`, `30 s`.
pub(crate) fn roughly(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..=119 => format!("{s} s"),
        120..=7_199 => format!("{} min", (s + 30) / 60),
        7_200..=172_799 => format!("{} h", (s + 1_800) / 3_600),
        _ => format!("{} days", (s + 43_200) / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(from_seconds(seconds)), text);
        }
        assert_eq!(rfc3339_micros(Wall(1_500_000)), "1970-01-01T00:00:01.500000Z");
    }

    #[test]
    fn a_duration_is_said_in_the_unit_people_would_use() {
        for (s, text) in [(3, "3 s"), (300, "5 min"), (7_200, "2 h"), (400_000, "5 days")] {
            assert_eq!(roughly(Duration::from_secs(s)), text);
        }
    }
}
