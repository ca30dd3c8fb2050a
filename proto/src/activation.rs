//! How long the activations of one endpoint took, as its owner measured: a bounded distribution.
//!
//! From the call until it served, hook, readiness and warm-up included. The last [`KEPT`] are kept, of all the
//! number. Serialised to disk by the shell, so that a restart forgets nothing; told to others in the advert.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::advert::traits::ActivationTimes;
use crate::view::ActivationView;

/// Activations whose times are kept: enough for a 95th percentile, few enough to follow a change.
pub const KEPT: usize = 64;

/// The activations of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Activations {
    /// Those that ended in serving.
    pub count: u64,
    /// Those that were given up.
    pub failures: u64,
    /// The last times, oldest first, in milliseconds, rounded up: none takes no time.
    took_ms: VecDeque<u32>,
}

impl Activations {
    /// One more that ended in serving.
    pub fn succeeded(&mut self, took: Duration) {
        self.count = self.count.saturating_add(1);
        let ms = took.as_micros().div_ceil(1_000);
        self.took_ms.push_back(u32::try_from(ms).unwrap_or(u32::MAX));
        while self.took_ms.len() > KEPT {
            self.took_ms.pop_front();
        }
    }

    /// One more that was given up.
    pub fn gave_up(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// The least of the kept times that at least `percent` of them do not exceed.
    pub fn percentile(&self, percent: u8) -> Option<Duration> {
        let mut sorted: Vec<u32> = self.took_ms.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * usize::from(percent.min(100))).div_ceil(100).max(1);
        sorted.get(rank - 1).map(|ms| Duration::from_millis((*ms).into()))
    }

    /// The mean of the kept times, in milliseconds.
    fn mean_ms(&self) -> Option<u32> {
        let number = u64::try_from(self.took_ms.len()).ok()?;
        let sum: u64 = self.took_ms.iter().map(|ms| u64::from(*ms)).sum();
        u32::try_from(sum.checked_div(number)?).ok()
    }

    /// What is told to others: times in milliseconds, nought where there are none.
    pub fn times(&self) -> ActivationTimes {
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let ms = |percent| {
            let took = self.percentile(percent).unwrap_or_default();
            u32::try_from(took.as_millis()).unwrap_or(u32::MAX)
        };
        ActivationTimes {
            attempts: number(self.count.saturating_add(self.failures)),
            failed: number(self.failures),
            mean_ms: self.mean_ms().unwrap_or_default(),
            p50_ms: ms(50),
            p95_ms: ms(95),
        }
    }

    /// As shown; `None` where none was ever tried.
    pub fn view(&self) -> Option<ActivationView> {
        let seconds = |percent| self.percentile(percent).map(|took| took.as_secs_f64());
        (self.count + self.failures > 0).then(|| ActivationView {
            count: self.count,
            failures: self.failures,
            p50_s: seconds(50),
            p95_s: seconds(95),
            max_s: seconds(100),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_activations_and_the_number_is_of_all() {
        let mut all = Activations::default();
        assert_eq!((all.percentile(50), all.view()), (None, None));
        for ms in 1..=200 {
            all.succeeded(Duration::from_millis(ms));
        }
        all.gave_up();
        let view = all.view().unwrap();
        assert_eq!((view.count, view.failures), (200, 1));
        // The last 64 are 137 to 200 ms.
        assert_eq!((view.p50_s, view.p95_s, view.max_s), (Some(0.168), Some(0.197), Some(0.2)));
    }

    #[test]
    fn activations_are_told_by_their_quantiles_and_failures_have_no_time() {
        let mut a = Activations::default();
        assert_eq!(a.times(), ActivationTimes::default());
        for i in 1..=20 {
            a.succeeded(Duration::from_millis(i * 10));
        }
        a.gave_up();
        let told = a.times();
        assert_eq!((told.attempts, told.failed, told.succeeded()), (21, 1, 20));
        assert_eq!((told.mean_ms, told.p50_ms, told.p95_ms), (105, 100, 190));
    }

    #[test]
    fn an_activation_that_took_less_than_a_millisecond_is_not_told_as_none() {
        let mut a = Activations::default();
        a.succeeded(Duration::from_micros(1));
        assert_eq!((a.times().mean_ms, a.times().p95_ms), (1, 1));
    }

    #[test]
    fn they_survive_their_text_and_a_longer_list_is_cut() {
        let mut all = Activations::default();
        all.succeeded(Duration::from_millis(7));
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Activations>(&text).unwrap(), all);
        assert_eq!(serde_json::from_str::<Activations>("{}").unwrap(), Activations::default());
        let long = Activations { took_ms: (0..1_000).collect(), ..Activations::default() };
        let mut again = long.clone();
        again.succeeded(Duration::from_secs(1));
        assert_eq!(again.took_ms.len(), KEPT);
    }
}
