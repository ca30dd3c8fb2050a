//! The wall clock, and times as people read them.
//!
//! Operations take the time as an argument; only handlers and tasks ask for it here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_proto::time::Wall;

/// Now. Before 1970 it is 1970.
pub fn now() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// `wall` and then `d`.
pub fn after(wall: Wall, d: Duration) -> Wall {
    Wall(wall.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
}

/// `d` earlier than `wall`.
pub fn before(wall: Wall, d: Duration) -> Wall {
    Wall(wall.0.saturating_sub(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
}

/// The time between two moments; zero when `later` is not later.
pub fn between(earlier: Wall, later: Wall) -> Duration {
    Duration::from_micros(later.0.saturating_sub(earlier.0))
}

/// A moment as UTC, to the second: `2026-11-23 09:36:08Z`.
pub fn utc(wall: Wall) -> String {
    let seconds = wall.0 / 1_000_000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date (H. Hinnant, "chrono-compatible low-level date algorithms").
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}Z")
}

/// A length of time as it is measured: as [`length`], with tenths below ten seconds (`1.2 s`).
pub fn measured(d: Duration) -> String {
    match d.as_millis() {
        ms @ 1_000..10_000 => format!("{}.{} s", ms / 1_000, ms / 100 % 10),
        _ => length(d),
    }
}

/// A length of time in one or two units: `45 ms`, `12 s`, `3 min 20 s`, `5 h 2 min`, `4 d 1 h`.
pub fn length(d: Duration) -> String {
    let two = |big: u64, bu: &str, small: u64, su: &str| match small {
        0 => format!("{big} {bu}"),
        _ => format!("{big} {bu} {small} {su}"),
    };
    match d.as_secs() {
        0 => format!("{} ms", d.as_millis()),
        s @ 1..60 => format!("{s} s"),
        s @ 60..3_600 => two(s / 60, "min", s % 60, "s"),
        s @ 3_600..86_400 => two(s / 3_600, "h", s / 60 % 60, "min"),
        s => two(s / 86_400, "d", s / 3_600 % 24, "h"),
    }
}

/// How long ago: `12 s ago`, `just now`, `in 23 h 59 min`.
pub fn ago(then: Wall, now: Wall) -> String {
    if then > now {
        return format!("in {}", length(between(now, then)));
    }
    match between(then, now) {
        d if d < Duration::from_secs(1) => "just now".to_owned(),
        d => format!("{} ago", length(d)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_utc_and_as_distance() {
        assert_eq!(utc(Wall(0)), "1970-01-01 00:00:00Z");
        assert_eq!(utc(Wall(951_782_400_000_000)), "2000-02-29 00:00:00Z");
        assert_eq!(utc(Wall(1_795_426_568_000_000)), "2026-11-23 09:36:08Z");
        let at = |s: u64| Wall(s * 1_000_000);
        assert_eq!(ago(at(100), at(112)), "12 s ago");
        assert_eq!(ago(at(100), at(300)), "3 min 20 s ago");
        assert_eq!(ago(at(100), at(100)), "just now");
        assert_eq!(ago(at(86_500), at(100)), "in 1 d");
        let told = [45, 1_283, 9_999, 12_345].map(|ms| measured(Duration::from_millis(ms)));
        assert_eq!(told, ["45 ms", "1.2 s", "9.9 s", "12 s"]);
    }
}
