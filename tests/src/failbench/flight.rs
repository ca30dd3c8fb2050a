//! Which POSTs may fail when hosts are lost: those in flight on them, and no others.
//!
//! Pure. Who is told that a POST failed is not told where it went, so that the record does not say either. It says
//! when each was sent and ended, and which part of the requests the lost hosts had before:
//!
//! ```text
//! n        POSTs in flight: sent before a loss was to be known, and not ended when it began. It is to be known
//!          `known` after the fault was made (Fault::known: what is promised for telling a failure).
//! s        the part of the answers to GETs before the fault that came from hosts which were lost
//! allowed  the least k with P(more than k of n draws with probability s) < 1/1000
//! beyond   failed POSTs that were not in flight, and those in flight beyond `allowed`: none is promised
//! ```
//!
//! Where no host is lost (a link that loses frames) none is in flight on one, and none may fail.

use std::time::Duration;

use serde::Serialize;

use crate::load::Sample;

/// More POSTs than allowed were on lost hosts by chance in no more than this part of all cells.
const CHANCE: f64 = 1e-3;

/// What was lost, by the clock of the record.
#[derive(Debug, Clone, Default)]
pub struct Losses {
    /// Names of the hosts.
    pub hosts: Vec<String>,
    /// Each time they were lost.
    pub strikes: Vec<Strike>,
    /// So long after that it is to be known.
    pub known: Duration,
}

/// One loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// When making it was begun.
    pub begun: Duration,
    /// When it was made.
    pub made: Duration,
}

/// What became of POSTs in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Flight {
    /// POSTs in flight when hosts were lost, wherever they went.
    pub in_flight: usize,
    /// The part of all requests that these hosts had before.
    pub share: f64,
    /// So many of those in flight may have been on them, but for chance.
    pub allowed: usize,
    /// POSTs that failed and should not have.
    pub beyond: usize,
}

impl Losses {
    /// `before` are answers before the fault, `posts` all POSTs from the fault to the end.
    #[must_use]
    pub fn flight(&self, before: &[Sample], posts: &[Sample]) -> Flight {
        let share = self.share(before);
        let (flying, others): (Vec<&Sample>, Vec<&Sample>) =
            posts.iter().partition(|sample| self.finds(sample));
        let failed = |all: &[&Sample]| all.iter().filter(|s| s.error.is_some()).count();
        let allowed = at_most(flying.len(), share);
        let beyond = failed(&others) + failed(&flying).saturating_sub(allowed);
        Flight { in_flight: flying.len(), share, allowed, beyond }
    }

    /// Whether a loss finds it in flight.
    fn finds(&self, sample: &Sample) -> bool {
        let found =
            |s: &Strike| sample.scheduled < s.made + self.known && sample.ended() >= s.begun;
        self.strikes.iter().any(found)
    }

    #[allow(clippy::cast_precision_loss)] // Counts of requests.
    fn share(&self, before: &[Sample]) -> f64 {
        let answered = before.iter().filter(|sample| sample.error.is_none());
        let lost = answered.clone().filter(|sample| self.hosts.contains(&sample.served_by));
        lost.count() as f64 / answered.count().max(1) as f64
    }
}

/// So many of `n` draws that hit with probability `share` hit at most, but for [`CHANCE`].
fn at_most(n: usize, share: f64) -> usize {
    // By draws so far: the probability of each number of hits.
    let mut hits = vec![0.0; n + 1];
    hits[0] = 1.0;
    for draw in 1..=n {
        for k in (1..=draw).rev() {
            hits[k] = hits[k] * (1.0 - share) + hits[k - 1] * share;
        }
        hits[0] *= 1.0 - share;
    }
    let mut more = 0.0;
    let too_likely = |probability: &&f64| {
        more += **probability;
        more < CHANCE
    };
    n - hits.iter().rev().take_while(too_likely).count().min(n)
}

#[cfg(test)]
mod tests {
    use super::{Duration, Losses, Sample, Strike, at_most};

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sample(scheduled: u64, latency: u64, served_by: &str) -> Sample {
        Sample {
            number: 0,
            scheduled: at(scheduled),
            late: Duration::ZERO,
            latency: at(latency),
            status: 200,
            served_by: served_by.to_owned(),
            retry_after: None,
            error: served_by.is_empty().then(|| "answered 502".to_owned()),
        }
    }

    /// One of three hosts lost a second after the start, which took 10 ms.
    fn one_lost() -> (Losses, Vec<Sample>) {
        let strikes = vec![Strike { begun: at(1000), made: at(1010) }];
        let losses = Losses { hosts: vec!["hot-1".to_owned()], strikes, known: at(100) };
        let names = ["hot-1", "hot-2", "hot-3"];
        (losses, (0..300).map(|n| sample(n, 2, names[n as usize % 3])).collect())
    }

    #[test]
    fn who_was_under_way_at_the_fault_or_was_sent_before_it_is_to_be_known_may_fail() {
        let (losses, before) = one_lost();
        let posts = [sample(995, 60, ""), sample(1109, 50, ""), sample(1300, 2, "hot-2")];
        let flight = losses.flight(&before, &posts);
        assert_eq!((flight.in_flight, flight.allowed, flight.beyond), (2, 2, 0));
        assert!((flight.share - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_post_that_was_sent_when_the_loss_was_to_be_known_must_not_fail() {
        let (losses, before) = one_lost();
        let posts = [sample(1111, 2, ""), sample(990, 5, ""), sample(1020, 2, "hot-2")];
        assert_eq!(losses.flight(&before, &posts).beyond, 2);
    }

    #[test]
    fn more_than_the_lost_share_of_those_in_flight_must_not_fail() {
        let (losses, before) = one_lost();
        let posts: Vec<Sample> = (0..100).map(|n| sample(1000 + n, 30, "")).collect();
        let flight = losses.flight(&before, &posts);
        // A third of a hundred, and three deviations of 4.7.
        assert_eq!((flight.in_flight, flight.allowed, flight.beyond), (100, 48, 52));
        let all = Losses { hosts: ["hot-1", "hot-2", "hot-3"].map(str::to_owned).into(), ..losses };
        assert_eq!(all.flight(&before, &posts).beyond, 0);
    }

    #[test]
    fn where_nobody_is_lost_no_post_may_fail() {
        let (_, before) = one_lost();
        let flight =
            Losses::default().flight(&before, &[sample(1000, 50, ""), sample(1100, 2, "hot-1")]);
        assert_eq!((flight.in_flight, flight.beyond), (0, 1));
    }

    #[test]
    fn a_link_that_flaps_is_lost_each_time() {
        let (mut losses, before) = one_lost();
        losses.strikes.push(Strike { begun: at(2000), made: at(2010) });
        let posts = [sample(1050, 60, ""), sample(2050, 60, ""), sample(1500, 60, "")];
        let flight = losses.flight(&before, &posts);
        assert_eq!((flight.in_flight, flight.allowed, flight.beyond), (2, 2, 1));
    }

    #[test]
    fn chance_is_given_its_due_and_no_more() {
        // All of five hit once in 243 times, all of seven once in 2187.
        assert_eq!((at_most(5, 1.0 / 3.0), at_most(7, 1.0 / 3.0)), (5, 6));
        assert_eq!((at_most(0, 0.5), at_most(50, 0.0), at_most(50, 1.0)), (0, 0, 50));
        assert_eq!(at_most(1000, 0.5), 549);
    }
}
