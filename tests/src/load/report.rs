//! What a stretch of load says: counts, latencies, and the time until all was normal again.
//!
//! Pure: records in, figures out. A request belongs to the stretch in which it *ended*, so one in
//! flight when the fault struck counts against the fault (one in flight at the end counts in both
//! stretches, rather than in none); the number sent goes by schedule.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// Beyond this a request is slow.
pub const SLOW: Duration = Duration::from_millis(100);

/// One request.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its number, from 0.
    pub number: u32,
    /// When it was to be sent, from the start of the load.
    pub scheduled: Duration,
    /// How late the client itself was: machine and client, not what was called.
    pub late: Duration,
    /// From then to its end.
    pub latency: Duration,
    /// Status of the answer; 0 when there was none.
    pub status: u16,
    /// Who answered.
    pub served_by: String,
    /// Its `Retry-After`.
    pub retry_after: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

impl Sample {
    /// When it ended, from the start of the load.
    #[must_use]
    pub fn ended(&self) -> Duration {
        self.scheduled + self.latency
    }

    /// Failed or slow.
    #[must_use]
    pub fn bad(&self) -> bool {
        self.error.is_some() || self.latency > SLOW
    }
}

/// The figures of one stretch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseReport {
    /// Requests scheduled in it.
    pub sent: usize,
    /// Requests that ended in it without a good answer.
    pub failed: usize,
    /// Slowest request that was answered, ms.
    pub slowest_ms: f64,
    /// Half were faster, ms.
    pub p50_ms: f64,
    /// 99 % were faster, ms.
    pub p99_ms: f64,
    /// 99.9 % were faster, ms.
    pub p999_ms: f64,
    /// Answered, but later than 100 ms.
    pub over_100_ms: usize,
    /// From the start of the stretch to the end of its last failed or slow request, ms; 0 if none.
    pub normal_after_ms: f64,
    /// Who answered how many.
    pub served: BTreeMap<String, usize>,
    /// Reasons of failure, and how often.
    pub errors: BTreeMap<String, usize>,
}

/// The figures of the stretch from `mark` to `until`.
#[must_use]
pub fn report(samples: &[Sample], mark: Duration, until: Duration) -> PhaseReport {
    let sent = samples.iter().filter(|s| s.scheduled >= mark && s.scheduled < until);
    let mut ended: Vec<&Sample> = samples
        .iter()
        .filter(|s| s.ended() >= mark && (s.ended() < until || s.scheduled < until))
        .collect();
    ended.sort_by_key(|s| s.latency);
    let answered: Vec<Duration> =
        ended.iter().filter(|s| s.error.is_none()).map(|s| s.latency).collect();
    let mut served = BTreeMap::new();
    let mut errors = BTreeMap::new();
    for sample in &ended {
        match &sample.error {
            None => *served.entry(sample.served_by.clone()).or_default() += 1,
            Some(error) => *errors.entry(error.clone()).or_default() += 1,
        }
    }
    let last_bad = ended.iter().filter(|s| s.bad()).map(|s| s.ended()).max();
    PhaseReport {
        sent: sent.count(),
        failed: ended.len() - answered.len(),
        slowest_ms: ms(answered.last().copied().unwrap_or_default()),
        p50_ms: ms(quantile(&answered, 0.5)),
        p99_ms: ms(quantile(&answered, 0.99)),
        p999_ms: ms(quantile(&answered, 0.999)),
        over_100_ms: answered.iter().filter(|&&l| l > SLOW).count(),
        normal_after_ms: ms(last_bad.map_or(Duration::ZERO, |end| end.saturating_sub(mark))),
        served,
        errors,
    }
}

/// `q` of a sorted list, by nearest rank.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn quantile(sorted: &[Duration], q: f64) -> Duration {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::{Duration, Sample, report};

    fn sample(scheduled: u64, latency: u64, error: Option<&str>) -> Sample {
        Sample {
            number: 0,
            scheduled: Duration::from_millis(scheduled),
            late: Duration::ZERO,
            latency: Duration::from_millis(latency),
            status: if error.is_some() { 0 } else { 200 },
            served_by: "a".to_owned(),
            retry_after: None,
            error: error.map(str::to_owned),
        }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_request_in_flight_when_the_fault_struck_counts_against_it() {
        let samples = [sample(0, 5, None), sample(90, 200, None), sample(150, 5, None)];
        let phase = report(&samples, at(100), at(1000));
        assert_eq!((phase.sent, phase.failed, phase.over_100_ms), (1, 0, 1));
        assert!((phase.normal_after_ms - 190.0).abs() < 0.001);
        assert!((phase.slowest_ms - 200.0).abs() < 0.001);
    }

    #[test]
    fn nothing_bad_is_normal_at_once() {
        let samples: Vec<_> = (0..100).map(|n| sample(n * 2, 1 + n % 3, None)).collect();
        let phase = report(&samples, at(0), at(1000));
        assert_eq!((phase.sent, phase.failed), (100, 0));
        assert!(phase.normal_after_ms < 0.001);
        assert_eq!(phase.served["a"], 100);
    }

    #[test]
    fn failures_are_counted_by_reason_and_not_among_the_latencies() {
        let samples = [sample(0, 5, None), sample(2, 1000, Some("no answer"))];
        let phase = report(&samples, at(0), at(2000));
        assert_eq!((phase.failed, phase.errors["no answer"]), (1, 1));
        assert!((phase.slowest_ms - 5.0).abs() < 0.001);
        assert!((phase.normal_after_ms - 1002.0).abs() < 0.001);
    }
}
