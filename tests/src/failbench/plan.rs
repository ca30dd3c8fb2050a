//! How much, how long and how often.

use std::time::Duration;

use serde::Serialize;

/// A run's plan.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Every cell is measured so often.
    pub runs: usize,
    /// GETs a second.
    pub rate: u32,
    /// POSTs a second.
    pub posts: u32,
    /// Seconds watched before the fault.
    pub before_s: f64,
    /// Seconds watched after it.
    pub seconds: f64,
    /// How long the activation of a warm application takes, ms.
    pub hook_ms: u64,
    /// Round trip between the caller and everybody else, ms; 0: that of the machine itself.
    pub rtt_ms: u64,
}

impl Plan {
    /// A whole run.
    #[must_use]
    pub fn whole() -> Self {
        Self { runs: 3, rate: 500, posts: 50, before_s: 3.0, seconds: 12.0, hook_ms: 0, rtt_ms: 0 }
    }

    /// Once, and shortly.
    #[must_use]
    pub fn quick() -> Self {
        Self { runs: 1, before_s: 1.5, seconds: 5.0, ..Self::whole() }
    }

    /// Watched before the fault.
    #[must_use]
    pub fn before(&self) -> Duration {
        Duration::from_secs_f64(self.before_s)
    }

    /// Watched after it.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The round trip; none where it is the machine's own.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        (self.rtt_ms > 0).then(|| Duration::from_millis(self.rtt_ms))
    }

    /// The activation hook's own time.
    #[must_use]
    pub fn hook(&self) -> Duration {
        Duration::from_millis(self.hook_ms)
    }
}
