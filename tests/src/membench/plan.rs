//! How many, how often and how long.

use std::time::Duration;

use serde::Serialize;

/// A run's plan.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Agents of each kind.
    pub agents: usize,
    /// So many members are killed, one after the other.
    pub kills: usize,
    /// So many are stopped, one after the other.
    pub freezes: usize,
    /// For so long, s.
    pub freeze_s: f64,
    /// So long is watched after each stop whether somebody is still taken for failed, s.
    pub watch_s: f64,
    /// The quiet time that is measured, s.
    pub quiet_s: f64,
    /// Traffic of two windows of this length is compared to see whether it has settled, s.
    pub window_s: f64,
}

impl Plan {
    /// A whole run.
    #[must_use]
    pub fn whole() -> Self {
        Self {
            agents: 100,
            kills: 5,
            freezes: 5,
            freeze_s: 3.0,
            // serf holds a suspicion for eight seconds at this size before it says more.
            watch_s: 15.0,
            quiet_s: 60.0,
            window_s: 10.0,
        }
    }

    /// Few, and shortly.
    #[must_use]
    pub fn quick() -> Self {
        let usual = Self::whole();
        Self {
            agents: 10,
            kills: 2,
            freezes: 2,
            watch_s: 8.0,
            quiet_s: 15.0,
            window_s: 5.0,
            ..usual
        }
    }

    /// Length of a stop.
    #[must_use]
    pub fn freeze(&self) -> Duration {
        Duration::from_secs_f64(self.freeze_s)
    }

    /// Watched after it.
    #[must_use]
    pub fn watch(&self) -> Duration {
        Duration::from_secs_f64(self.watch_s)
    }

    /// The quiet time.
    #[must_use]
    pub fn quiet(&self) -> Duration {
        Duration::from_secs_f64(self.quiet_s)
    }

    /// A window of traffic.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_secs_f64(self.window_s)
    }

    /// Who is killed, in order. Never the first, by whom the others join.
    #[must_use]
    pub fn killed(&self) -> Vec<usize> {
        spread(self.kills, self.agents, 0)
    }

    /// Who is stopped, in order: others, where there are enough.
    #[must_use]
    pub fn frozen(&self) -> Vec<usize> {
        spread(self.freezes, self.agents, 1)
    }
}

/// `count` of the members behind the first, evenly spread; `half` a step further on.
fn spread(count: usize, members: usize, half: usize) -> Vec<usize> {
    let others = members.saturating_sub(1).max(1);
    (0..count).map(|k| 1 + (2 * k + half) * others / (2 * count) % others).collect()
}

#[cfg(test)]
mod tests {
    use super::Plan;

    #[test]
    fn nobody_is_struck_twice_and_never_the_first() {
        for plan in [Plan::whole(), Plan::quick(), Plan { agents: 40, ..Plan::whole() }] {
            let mut all = [plan.killed(), plan.frozen()].concat();
            assert!(all.iter().all(|&n| n > 0 && n < plan.agents), "{all:?}");
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), plan.kills + plan.freezes, "{all:?}");
        }
    }
}
