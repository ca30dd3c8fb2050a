//! How long a service's answers take, as far as hedging needs it: the 99th percentile. Pure.
//!
//! A histogram of four buckets per octave (±9 %) over two half-overlapping windows, so that what is
//! told covers the last 10 to 20 seconds. Counting is one atomic addition.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Four per octave from 64 µs to 67 s.
const BUCKETS: usize = 80;
const FIRST_US: f64 = 64.0;
/// How long one window is filled.
const WINDOW: Duration = Duration::from_secs(10);
/// A hedge delay is told again without counting for so long.
const STALE_MS: u64 = 100;
/// With fewer answers than this the 99th percentile is a guess.
const ENOUGH: u32 = 50;
/// A hedge sooner than this costs more than it saves.
const FLOOR: Duration = Duration::from_millis(20);
/// The delay while too little is known.
const UNLEARNT: Duration = Duration::from_millis(250);
/// A hedge waits for the 99th percentile, and beyond it for as long as that lies above the median, since at the
/// percentile itself it would be sent for one request in a hundred even if nothing is wrong; at least by this
/// part of it. Where all answers take about a long path's round trip, twice the percentile would be one for
/// nothing.
const MARGIN: u32 = 4;

type Window = [AtomicU32; BUCKETS];

/// The latencies of one service.
#[derive(Debug)]
pub(crate) struct Latencies {
    origin: Instant,
    /// The hedge delay told last, in µs, and when that was, in ms since `origin`.
    told: AtomicU64,
    told_at: AtomicU64,
    /// The number of the window being filled; its parity says which of the two it is.
    era: AtomicU64,
    windows: [Window; 2],
}

impl Latencies {
    pub(crate) fn new(now: Instant) -> Self {
        let window = || std::array::from_fn(|_| AtomicU32::new(0));
        Self {
            origin: now,
            told: AtomicU64::new(0),
            told_at: AtomicU64::new(0),
            era: AtomicU64::new(0),
            windows: [window(), window()],
        }
    }

    /// Counts an answer.
    pub(crate) fn observe(&self, now: Instant, latency: Duration) {
        let era = self.turn(now);
        self.window(era)[bucket(latency)].fetch_add(1, Ordering::Relaxed);
    }

    fn window(&self, era: u64) -> &Window {
        &self.windows[usize::from(era % 2 == 1)]
    }

    /// Starts a new window when the old one is full. A sample counted into the wrong one does no harm.
    fn turn(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.origin).as_secs();
        let era = passed / WINDOW.as_secs();
        let old = self.era.load(Ordering::Relaxed);
        if era > old
            && self.era.compare_exchange(old, era, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let clear = |w: &Window| w.iter().for_each(|b| b.store(0, Ordering::Relaxed));
            clear(self.window(era));
            if era > old + 1 {
                clear(self.window(era + 1));
            }
        }
        era
    }

    /// The 99th percentile, once enough is known.
    #[cfg(test)]
    pub(crate) fn p99(&self, now: Instant) -> Option<Duration> {
        self.quantiles(now).map(|[_, p99]| p99)
    }

    /// Median and 99th percentile, once enough is known.
    fn quantiles(&self, now: Instant) -> Option<[Duration; 2]> {
        self.turn(now);
        let counts: [u32; BUCKETS] = std::array::from_fn(|i| {
            self.windows.iter().map(|w| w[i].load(Ordering::Relaxed)).sum()
        });
        let all: u32 = counts.iter().sum();
        if all < ENOUGH {
            return None;
        }
        let exceeded_by = |mut above: u32| {
            counts.iter().enumerate().rev().find_map(|(i, n)| match above.checked_sub(*n) {
                Some(rest) => {
                    above = rest;
                    None
                }
                None => Some(upper(i)),
            })
        };
        Some([exceeded_by(all / 2)?, exceeded_by(all / 100)?])
    }

    /// After which delay an unanswered request is hedged.
    pub(crate) fn hedge_delay(&self, now: Instant) -> Duration {
        let delay = |[median, p99]: [Duration; 2]| {
            let beyond = p99.saturating_sub(median).max(p99 / MARGIN);
            (p99 + beyond).max(FLOOR)
        };
        self.quantiles(now).map_or(UNLEARNT, delay)
    }
}

impl Latencies {
    /// The hedge delay as it was at most [`STALE_MS`] ago: counting anew for each request would cost more
    /// than it tells.
    pub(crate) fn recent_hedge_delay(&self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.origin).as_millis();
        // One more than passed, so that 0 says "never".
        let moment = u64::try_from(passed).unwrap_or(u64::MAX - 1) + 1;
        let at = self.told_at.load(Ordering::Relaxed);
        if at != 0 && moment.saturating_sub(at) < STALE_MS {
            return Duration::from_micros(self.told.load(Ordering::Relaxed));
        }
        let delay = self.hedge_delay(now);
        self.told.store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.told_at.store(moment, Ordering::Relaxed);
        delay
    }
}

fn bucket(latency: Duration) -> usize {
    let octaves = (latency.as_micros() as f64 / FIRST_US).max(1.0).log2();
    ((octaves * 4.0) as usize).min(BUCKETS - 1)
}

fn upper(bucket: usize) -> Duration {
    Duration::from_micros((FIRST_US * ((bucket + 1) as f64 / 4.0).exp2()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_99th_percentile_is_told_within_a_bucket() {
        let t = Instant::now();
        let l = Latencies::new(t);
        for i in 1..=1_000 {
            l.observe(t, i * MS);
        }
        let p99 = l.p99(t).unwrap();
        assert!((950 * MS..1_300 * MS).contains(&p99), "{p99:?}");
    }

    #[test]
    fn nothing_is_claimed_from_a_few_answers_and_the_floor_holds() {
        let t = Instant::now();
        let l = Latencies::new(t);
        assert_eq!(l.hedge_delay(t), UNLEARNT);
        for _ in 0..ENOUGH {
            l.observe(t, MS);
        }
        assert_eq!(l.hedge_delay(t), FLOOR);
    }

    #[test]
    fn a_hedge_waits_little_beyond_a_long_path_and_long_where_answers_differ() {
        let t = Instant::now();
        let far = Latencies::new(t);
        (0..1_000).for_each(|i| far.observe(t, 52 * MS + Duration::from_micros(i)));
        let delay = far.hedge_delay(t);
        assert!((60 * MS..90 * MS).contains(&delay), "{delay:?}");
        // 1 to 400 ms, evenly.
        let spread = Latencies::new(t);
        (1..=400).for_each(|i| spread.observe(t, i * MS));
        let delay = spread.hedge_delay(t);
        assert!((550 * MS..800 * MS).contains(&delay), "{delay:?}");
    }

    #[test]
    fn old_answers_are_forgotten() {
        let t = Instant::now();
        let l = Latencies::new(t);
        for _ in 0..100 {
            l.observe(t, 500 * MS);
        }
        assert!(l.p99(t + 11 * Duration::from_secs(1)).is_some());
        assert_eq!(l.p99(t + 21 * Duration::from_secs(1)), None);
        for _ in 0..100 {
            l.observe(t + 40 * Duration::from_secs(1), MS);
        }
        assert!(l.p99(t + 40 * Duration::from_secs(1)).unwrap() < 2 * MS);
    }

    #[test]
    fn one_slow_answer_in_two_hundred_is_not_the_99th_percentile() {
        let t = Instant::now();
        let l = Latencies::new(t);
        for i in 0..200 {
            l.observe(t, if i == 0 { 5_000 * MS } else { 2 * MS });
        }
        assert!(l.p99(t).unwrap() < 3 * MS);
    }
}
