//! The budget of moves: call-ups and failbacks that an agent sees or makes in a time are bounded, so that a
//! mesh in trouble is not stirred as a whole.
//!
//! The generic cell rate algorithm (ITU-T I.371), the integer form of a token bucket: as many moves at once as
//! the rate has, then evenly. Moves of others are counted without being asked. What is exempt from it, its
//! user decides.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::Rate;
use crate::time::Time;

/// One agent's view of the moves in the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// When the budget would be whole again if nothing more moved.
    whole: Time,
}

impl Budget {
    /// Counts a move.
    pub fn take(&mut self, rate: Rate, now: Time) {
        if let Rate::Of { times, per } = rate {
            // At most one whole budget is owed: moves of others must not lock ours out for ever.
            self.whole = (self.whole.max(now) + one(times, per.0)).min(now + per.0);
        }
    }

    /// Whether there is room for one now; counted if so.
    pub fn withdraw(&mut self, rate: Rate, now: Time) -> bool {
        let may = self.room(rate) <= now;
        if may {
            self.take(rate, now);
        }
        may
    }

    /// From when on there is room for a move of ours.
    pub fn room(&self, rate: Rate) -> Time {
        match rate {
            Rate::None => Time(0),
            Rate::Of { times, per } => self.whole - (per.0 - one(times, per.0)),
        }
    }
}

fn one(times: u32, per: Duration) -> Duration {
    per / times.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;
    use proptest::prelude::*;

    const RATE: Rate = Rate::Of { times: 4, per: Span(Duration::from_secs(60)) };

    fn s(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    #[test]
    fn as_many_moves_at_once_as_the_rate_has_then_one_at_a_time() {
        let mut budget = Budget::default();
        for n in 0..4 {
            assert!(budget.room(RATE) <= s(100), "move {n}");
            budget.take(RATE, s(100));
        }
        assert_eq!(budget.room(RATE), s(115));
        budget.take(RATE, s(115));
        assert_eq!(budget.room(RATE), s(130));
    }

    #[test]
    fn moves_of_others_cannot_lock_ours_out_for_longer_than_one_move_takes() {
        let mut budget = Budget::default();
        (0..1_000).for_each(|_| budget.take(RATE, s(100)));
        assert_eq!(budget.room(RATE), s(115));
    }

    #[test]
    fn without_a_rate_there_is_always_room() {
        let mut budget = Budget::default();
        budget.take(Rate::None, s(100));
        assert_eq!(budget.room(Rate::None), s(0));
    }

    proptest! {
        /// In no minute are more moves let through than two budgets: one at once and one as time passes.
        #[test]
        fn no_minute_sees_more_than_two_budgets(
            mut wishes in prop::collection::vec(0u64..600, 1..200),
        ) {
            wishes.sort_unstable();
            let mut budget = Budget::default();
            let mut moved = Vec::new();
            for wish in wishes {
                if budget.withdraw(RATE, s(wish)) {
                    moved.push(wish);
                }
            }
            for at in &moved {
                let minute = moved.iter().filter(|m| (*at..at + 60).contains(m)).count();
                prop_assert!(minute <= 8, "{moved:?}");
            }
        }
    }
}
