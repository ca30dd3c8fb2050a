//! The worst lateness of the last seconds.
//!
//! A gauge of the last value alone would hide a stall from a scrape that comes a moment later.

use std::time::{Duration, Instant};

/// A value is shown for one to two of these: at least as long as between two scrapes of the usual 15 s.
const WINDOW: Duration = Duration::from_secs(15);

/// The largest of recent durations.
#[derive(Debug, Default)]
pub(super) struct Peak {
    since: Option<Instant>,
    now: Duration,
    before: Duration,
}

impl Peak {
    /// Takes a value in.
    pub(super) fn note(&mut self, value: Duration, at: Instant) {
        self.roll(at);
        self.now = self.now.max(value);
    }

    /// The largest value of the last one to two windows.
    pub(super) fn value(&mut self, at: Instant) -> Duration {
        self.roll(at);
        self.now.max(self.before)
    }

    fn roll(&mut self, at: Instant) {
        let age = self.since.map_or(Duration::MAX, |since| at.saturating_duration_since(since));
        if age < WINDOW {
            return;
        }
        self.before = if age < 2 * WINDOW { self.now } else { Duration::ZERO };
        self.now = Duration::ZERO;
        self.since = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_shown_for_at_least_one_window_and_at_most_two() {
        let (mut peak, start, ms) = (Peak::default(), Instant::now(), Duration::from_millis);
        assert_eq!(peak.value(start), Duration::ZERO);
        peak.note(ms(5), start);
        peak.note(ms(200), start + ms(1));
        peak.note(ms(1), start + ms(2));
        assert_eq!(peak.value(start + ms(3)), ms(200));
        peak.note(ms(7), start + WINDOW);
        assert_eq!(peak.value(start + WINDOW + ms(14_999)), ms(200));
        assert_eq!(peak.value(start + 2 * WINDOW), ms(7));
        assert_eq!(peak.value(start + 9 * WINDOW), Duration::ZERO);
    }
}
