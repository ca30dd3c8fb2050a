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

/// A moment as UTC, to the microsecond: `2026-11-23 09:36:08.000250Z`.
pub fn utc_exact(wall: Wall) -> String {
    let whole = utc(wall);
    format!("{}.{:06}Z", whole.trim_end_matches('Z'), wall.0 % 1_000_000)
}

/// Reads a moment as [`utc`] and [`utc_exact`] print it; a `T` may stand for the space, and the fraction may
/// have any number of digits up to six.
pub fn parse_utc(text: &str) -> Option<Wall> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once([' ', 'T'])?;
    let number = |t: &str, digits: usize| {
        (t.len() == digits && t.bytes().all(|b| b.is_ascii_digit()))
            .then(|| t.parse::<u64>().ok())?
    };
    let mut date = date.splitn(3, '-');
    let (year, month, day) =
        (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':');
    let (h, m, s) = (number(time.next()?, 2)?, number(time.next()?, 2)?, number(time.next()?, 2)?);
    let micros = number(&format!("{fraction:0<6}"), 6)?;
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if h > 23 || m > 59 || s > 59 {
        return None;
    }
    // The inverse of `utc`, from the same paper.
    let y = year - u64::from(month <= 2);
    let (era, yoe) = (y / 400, y % 400);
    let doy = (153 * (month + if month > 2 { 0 } else { 12 } - 3) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    Some(Wall((((days * 24 + h) * 60 + m) * 60 + s) * 1_000_000 + micros))
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
    fn a_moment_survives_being_printed_and_what_is_none_is_not_read() {
        for wall in [0, 951_782_400_000_001, 1_795_426_568_123_456, 1_709_210_096_000_000] {
            assert_eq!(parse_utc(&utc_exact(Wall(wall))), Some(Wall(wall)));
            assert_eq!(parse_utc(&utc(Wall(wall))), Some(Wall(wall / 1_000_000 * 1_000_000)));
        }
        assert_eq!(parse_utc("2026-11-23T09:36:08.25Z"), Some(Wall(1_795_426_568_250_000)));
        for bad in
            ["", "Z", "2026-11-23Z", "2026-11-23 09:36:08", "2026-13-01 00:00:00Z", "x", "+1s"]
        {
            assert_eq!(parse_utc(bad), None, "{bad}");
        }
    }

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
