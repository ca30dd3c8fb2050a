//! What one cell of the comparison says: a fault, a side, a run.
//!
//! Pure: records in, figures out. Latency of GETs by [`report`]; for POSTs also when a failure was told, which
//! were in flight on a lost host ([`super::flight`]), and what was executed twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::flight::{Flight, Losses};
use crate::load::{PhaseReport, Sample, report};

/// Width of a [`Moment`].
pub const MOMENT: Duration = Duration::from_millis(50);

/// All figures of one cell.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// GETs, from the fault to the end.
    pub gets: PhaseReport,
    /// POSTs, from the fault to the end.
    pub posts: PhaseReport,
    /// POSTs in flight on lost hosts, and those that failed without it.
    pub flight: Flight,
    /// The failed POST that learnt of it last, ms; 0 if none failed.
    pub told_ms: f64,
    /// POSTs executed more than once, from the beginning to the end.
    pub twice: usize,
    /// POSTs that were answered well and that no application has executed: 0, or the bench is broken.
    pub unexecuted: usize,
    /// GETs before the fault: what is slow then is slow without any fault.
    pub before: PhaseReport,
    /// How late the client itself was, at most, from the fault to the end, ms: nobody can be faster.
    pub late_ms: f64,
    /// GETs over time.
    pub timeline: Vec<Moment>,
}

/// GETs scheduled within 50 ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moment {
    /// When it begins, from the fault, s.
    pub at_s: f64,
    /// The slowest that was answered, ms.
    pub slowest_ms: f64,
    /// How many failed.
    pub failed: usize,
}

/// One stream of requests: its record, when the fault struck and when watching ended, on its clock.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Every request.
    pub samples: Vec<Sample>,
    /// The fault.
    pub mark: Duration,
    /// The end.
    pub until: Duration,
}

/// The figures of a cell. `before` is how long all was watched before the fault; `losses` are by the clock of the
/// POSTs; `executed` has an id as often as it was executed.
#[must_use]
pub fn figures(
    gets: &Stream,
    posts: &Stream,
    before: Duration,
    losses: &Losses,
    executed: &[String],
) -> Figures {
    let start = gets.mark.saturating_sub(before);
    let ended = |stream: &Stream| -> Vec<Sample> {
        let ours = |s: &&Sample| s.ended() >= stream.mark && s.scheduled < stream.until;
        stream.samples.iter().filter(ours).cloned().collect()
    };
    let after = ended(posts);
    let told = after.iter().filter(|s| s.error.is_some()).map(|s| s.latency).max();
    let late = ended(gets).into_iter().map(|s| s.late).max();
    let earlier = ended_before(&gets.samples, gets.mark);
    let just_before: Vec<Sample> =
        earlier.iter().filter(|s| s.scheduled >= start).cloned().collect();
    Figures {
        gets: report(&gets.samples, gets.mark, gets.until),
        posts: report(&posts.samples, posts.mark, posts.until),
        flight: losses.flight(&just_before, &after),
        told_ms: ms(told.unwrap_or_default()),
        twice: twice(executed),
        unexecuted: unexecuted(&posts.samples, executed),
        before: report(&earlier, start, gets.mark),
        late_ms: ms(late.unwrap_or_default()),
        timeline: timeline(gets, before),
    }
}

/// How many ids were executed more than once.
#[must_use]
pub fn twice(executed: &[String]) -> usize {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for id in executed {
        *times.entry(id).or_default() += 1;
    }
    times.values().filter(|&&count| count > 1).count()
}

/// How many requests were answered well although none of the applications knows of them. The id of a
/// request is its number.
fn unexecuted(samples: &[Sample], executed: &[String]) -> usize {
    let known: BTreeSet<&str> = executed.iter().map(String::as_str).collect();
    let answered = samples.iter().filter(|s| s.error.is_none());
    answered.filter(|s| !known.contains(s.number.to_string().as_str())).count()
}

/// A request in flight when the fault strikes is the fault's.
fn ended_before(samples: &[Sample], mark: Duration) -> Vec<Sample> {
    samples.iter().filter(|s| s.ended() < mark).cloned().collect()
}

fn timeline(gets: &Stream, before: Duration) -> Vec<Moment> {
    let start = gets.mark.saturating_sub(before);
    let mut moments: BTreeMap<u32, Moment> = BTreeMap::new();
    let inside = |s: &&Sample| s.scheduled >= start && s.scheduled < gets.until;
    for sample in gets.samples.iter().filter(inside) {
        let since = sample.scheduled.saturating_sub(start);
        // Seconds by a twentieth: far from any limit.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let number = (since.as_secs_f64() / MOMENT.as_secs_f64()) as u32;
        let at_s = f64::from(number) * MOMENT.as_secs_f64() - before.as_secs_f64();
        let moment = moments.entry(number).or_insert(Moment { at_s, slowest_ms: 0.0, failed: 0 });
        match sample.error {
            Some(_) => moment.failed += 1,
            None => moment.slowest_ms = moment.slowest_ms.max(ms(sample.latency)),
        }
    }
    moments.into_values().collect()
}

/// Milliseconds, to the microsecond.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::{Duration, Figures, Losses, Sample, Stream, twice};
    use crate::failbench::flight::Strike;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sample(number: u32, scheduled: u64, latency: u64, error: Option<&str>) -> Sample {
        Sample {
            number,
            scheduled: at(scheduled),
            late: at(latency / 10),
            latency: at(latency),
            status: 200,
            served_by: "hot-1".to_owned(),
            retry_after: None,
            error: error.map(str::to_owned),
        }
    }

    /// Nobody is lost.
    fn figures(gets: &Stream, posts: &Stream, before: Duration, executed: &[String]) -> Figures {
        super::figures(gets, posts, before, &Losses::default(), executed)
    }

    fn ids(all: &[u32]) -> Vec<String> {
        all.iter().map(u32::to_string).collect()
    }

    fn stream(samples: Vec<Sample>) -> Stream {
        Stream { samples, mark: at(1000), until: at(2000) }
    }

    #[test]
    fn an_id_executed_three_times_is_one_that_was_executed_twice() {
        assert_eq!(twice(&ids(&[1, 2, 3])), 0);
        assert_eq!(twice(&ids(&[1, 2, 1, 3, 1, 2])), 2);
    }

    #[test]
    fn a_failed_post_is_told_when_it_ends_and_one_that_failed_before_the_fault_does_not_count() {
        let posts = stream(vec![
            sample(0, 100, 500, Some("no answer")),
            sample(1, 990, 60, Some("answered 502")),
            sample(2, 1100, 30, Some("answered 502")),
            sample(3, 1200, 90, None),
        ]);
        let seen = figures(&stream(Vec::new()), &posts, at(1000), &ids(&[3]));
        assert_eq!((seen.posts.failed, seen.told_ms), (2, 60.0));
        assert_eq!((seen.twice, seen.unexecuted), (0, 0));
    }

    #[test]
    fn what_lost_hosts_had_is_told_by_the_gets_before_the_fault() {
        let gets = stream((0..10).map(|n| sample(n, 900 + u64::from(n), 1, None)).collect());
        let posts = stream(vec![
            sample(0, 100, 500, Some("no answer")),
            sample(1, 1020, 30, Some("answered 502")),
            sample(2, 1500, 30, Some("answered 502")),
        ]);
        let strikes = vec![Strike { begun: at(1000), made: at(1005) }];
        let losses = Losses { hosts: vec!["hot-1".to_owned()], strikes, known: at(100) };
        let flight = super::figures(&gets, &posts, at(500), &losses, &[]).flight;
        assert_eq!((flight.in_flight, flight.allowed, flight.beyond), (1, 1, 1));
        // What they had longer ago than is watched says nothing.
        let flight = super::figures(&gets, &posts, at(50), &losses, &[]).flight;
        assert_eq!((flight.allowed, flight.beyond), (0, 2));
    }

    #[test]
    fn an_answered_post_that_nobody_executed_is_seen() {
        let posts = stream(vec![sample(0, 1100, 2, None), sample(1, 1102, 2, Some("no answer"))]);
        assert_eq!(figures(&posts, &posts, at(500), &[]).unexecuted, 1);
    }

    #[test]
    fn before_and_after_the_fault_are_told_apart_and_what_was_in_flight_is_the_faults() {
        let gets = stream(vec![
            sample(0, 100, 300, None), // Before anything was watched.
            sample(1, 600, 20, None),
            sample(2, 980, 30, None),
            sample(3, 1500, 200, Some("no answer")),
        ]);
        let seen = figures(&gets, &stream(Vec::new()), at(500), &[]);
        assert!((seen.before.slowest_ms - 20.0).abs() < 1e-9, "{:?}", seen.before);
        assert!((seen.gets.slowest_ms - 30.0).abs() < 1e-9, "{:?}", seen.gets);
        assert_eq!((seen.gets.failed, seen.late_ms), (1, 20.0));
        assert!((seen.gets.normal_after_ms - 700.0).abs() < 1e-9);
    }

    #[test]
    fn the_timeline_counts_from_the_fault_and_keeps_the_slowest_of_each_moment() {
        let gets = stream(vec![
            sample(0, 910, 3, None),
            sample(1, 1001, 7, None),
            sample(2, 1040, 9, None),
            sample(3, 1045, 1000, Some("no answer")),
        ]);
        let seen = figures(&gets, &stream(Vec::new()), at(100), &[]).timeline;
        assert_eq!(seen.len(), 2);
        assert!((seen[0].at_s + 0.1).abs() < 1e-9 && seen[0].failed == 0, "{seen:?}");
        assert!((seen[1].at_s).abs() < 1e-9 && (seen[1].slowest_ms - 9.0).abs() < 1e-9);
        assert_eq!(seen[1].failed, 1);
    }
}
