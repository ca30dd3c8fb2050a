//! What an endpoint answered in a stretch of time: failures, and a histogram of how long good answers took.
//!
//! Integer arithmetic throughout: the same answers make the same sample on every machine, and the traffic
//! path counts into a bucket with a handful of instructions.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Two per octave from 250 µs to 46 s; the first holds all below, the last all above.
pub const BUCKETS: usize = 36;
/// Upper bound of the first bucket.
const FIRST_US: u64 = 250;
/// √2 · 256: where the upper half of an octave begins, in the fixed point of [`bucket`].
const HALF: u64 = 362;

/// The answers of one endpoint since the last sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Server errors (5xx, gRPC's alike), refusals, what broke off, what did not come in time.
    pub failed: u32,
    /// Good answers by [`bucket`] of their latency.
    pub latencies: [u32; BUCKETS],
}

impl Default for Sample {
    fn default() -> Self {
        Self { failed: 0, latencies: [0; BUCKETS] }
    }
}

// Most buckets behind the slowest answer are empty: they are not written.
impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let used = self.latencies.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
        (self.failed, &self.latencies[..used]).serialize(s)
    }
}

impl<'de> Deserialize<'de> for Sample {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (failed, used) = <(u32, Vec<u32>)>::deserialize(d)?;
        let mut sample = Self { failed, ..Self::default() };
        for (slot, n) in sample.latencies.iter_mut().zip(used) {
            *slot = n;
        }
        Ok(sample)
    }
}

/// The bucket of a latency.
pub fn bucket(latency: Duration) -> usize {
    let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    if us <= FIRST_US {
        return 0;
    }
    // In 256ths of the first bound, less one so that a bound belongs to the bucket it ends.
    let ratio = (us.min(1 << 40) * 256 - 1) / FIRST_US;
    let octave = ratio.ilog2() - 8;
    let upper = (ratio >> octave) >= HALF;
    let index = 1 + 2 * octave as usize + usize::from(upper);
    index.min(BUCKETS - 1)
}

/// What no latency of a bucket exceeds, the last bucket's apart.
pub fn bound(bucket: usize) -> Duration {
    let octaves = Duration::from_micros(FIRST_US << (bucket / 2).min(40));
    if bucket.is_multiple_of(2) { octaves } else { octaves.mul_f64(std::f64::consts::SQRT_2) }
}

impl Sample {
    /// Counts a good answer.
    pub fn answered(&mut self, latency: Duration) {
        let n = &mut self.latencies[bucket(latency)];
        *n = n.saturating_add(1);
    }

    /// Counts a failure.
    pub fn failed(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }

    /// Adds what another counted.
    pub fn add(&mut self, other: &Self) {
        self.failed = self.failed.saturating_add(other.failed);
        for (mine, theirs) in self.latencies.iter_mut().zip(&other.latencies) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// How many answers it counts.
    pub fn volume(&self) -> u64 {
        self.good() + u64::from(self.failed)
    }

    fn good(&self) -> u64 {
        self.latencies.iter().map(|n| u64::from(*n)).sum()
    }

    /// The bucket in which the 90th percentile of the good answers lies; `None` without any.
    pub fn p90(&self) -> Option<usize> {
        let rank = (self.good() * 9).div_ceil(10);
        let mut seen = 0;
        self.latencies.iter().position(|n| {
            seen += u64::from(*n);
            rank > 0 && seen >= rank
        })
    }

    /// How many failed, or took longer than `limit`'s bucket holds.
    pub fn bad(&self, limit: usize) -> u64 {
        u64::from(self.failed) + self.slow(limit)
    }

    /// How many good answers took longer than `limit`'s bucket holds.
    pub fn slow(&self, limit: usize) -> u64 {
        self.latencies.iter().skip(limit.saturating_add(1)).map(|n| u64::from(*n)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_between_the_bounds_of_its_bucket_and_the_one_before() {
        let mut us = 1_u64;
        while us < 40_000_000 {
            let latency = Duration::from_micros(us);
            let i = bucket(latency);
            // The fixed point of the half octave is right to four in a thousand.
            assert!(latency <= bound(i).mul_f64(1.004), "{us} µs in {i}");
            assert!(i == 0 || latency >= bound(i - 1).mul_f64(0.996), "{us} µs in {i}");
            us += 1 + us / 97;
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert_eq!(bucket(Duration::ZERO), 0);
    }

    #[test]
    fn a_longer_latency_never_lies_in_an_earlier_bucket() {
        let indices: Vec<usize> =
            (0..200_000).map(|us| bucket(Duration::from_micros(us))).collect();
        assert!(indices.is_sorted());
    }

    #[test]
    fn the_90th_percentile_is_that_of_the_good_answers() {
        let mut sample = Sample::default();
        assert_eq!(sample.p90(), None);
        for ms in 1..=10 {
            sample.answered(Duration::from_millis(ms * 10));
        }
        (0..50).for_each(|_| sample.failed());
        assert_eq!(sample.p90(), Some(bucket(Duration::from_millis(90))));
        assert_eq!(sample.volume(), 60);
    }

    #[test]
    fn what_two_samples_counted_is_their_sum_and_never_overflows() {
        let mut a = Sample { failed: u32::MAX - 1, ..Sample::default() };
        a.answered(Duration::from_millis(1));
        let mut b = Sample { failed: 5, ..Sample::default() };
        b.answered(Duration::from_millis(1));
        a.add(&b);
        assert_eq!(a.failed, u32::MAX);
        assert_eq!(a.volume() - u64::from(a.failed), 2);
    }
}
