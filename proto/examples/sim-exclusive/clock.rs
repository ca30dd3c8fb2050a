//! A host's own monotone clock: it starts anywhere, and runs up to a tenth too fast or too slow.

use hearth_proto::time::Time;

/// Local time as a line through real time, bent now and then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DriftingClock {
    since: u64,
    local: u64,
    /// In thousandths of real time: 900 to 1,100.
    rate: u64,
}

impl DriftingClock {
    /// A clock that shows `local` at the real time `now`.
    pub(crate) fn new(now: u64, local: u64, rate: u64) -> Self {
        Self { since: now, local, rate }
    }

    /// What it shows.
    pub(crate) fn at(&self, now: u64) -> Time {
        Time(self.local + (now - self.since) * self.rate / 1_000)
    }

    /// When it will show at least `local`, if its rate stays.
    pub(crate) fn when(&self, local: Time) -> u64 {
        let left = local.0.saturating_sub(self.local);
        self.since + left.saturating_mul(1_000).div_ceil(self.rate)
    }

    /// It runs at another rate from now on.
    pub(crate) fn bend(&mut self, now: u64, rate: u64) {
        *self = Self::new(now, self.at(now).0, rate);
    }
}
