//! Each rule of the judgement by name, then what must hold whatever is answered.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const MS: Duration = Duration::from_millis(1);
/// Long after anything that could be remembered.
const BEGIN: Time = Time(1_000_000_000);

/// How an endpoint answers: `rate` per second, of which `errors` fail; latencies around `typical`.
#[derive(Clone, Copy)]
struct Habit {
    rate: f64,
    errors: f64,
    typical: Duration,
}

const WELL: Habit = Habit { rate: 160.0, errors: 0.0, typical: Duration::from_millis(2) };

/// Endpoints of one service as one agent meets them.
struct Bench {
    now: Time,
    rng: StdRng,
    habits: Vec<Habit>,
    tracks: Vec<Track>,
    /// Who is not ready for other reasons than these.
    others_gone: usize,
    most_out: usize,
    came_out: u32,
}

impl Bench {
    fn new(habits: &[Habit]) -> Self {
        Self {
            now: BEGIN,
            rng: StdRng::seed_from_u64(11),
            habits: habits.to_vec(),
            tracks: vec![Track::default(); habits.len()],
            others_gone: 0,
            most_out: 0,
            came_out: 0,
        }
    }

    /// A bench that has been well for long enough to know what is usual.
    fn settled(habits: &[Habit]) -> Self {
        let mut bench = Self::new(habits);
        bench.pass(Duration::from_secs(5));
        assert!((0..habits.len()).all(|i| bench.state(i) == State::Well));
        bench
    }

    fn state(&self, i: usize) -> State {
        self.tracks[i].state()
    }

    fn is_out(&self, i: usize) -> bool {
        self.tracks[i].out(self.now).is_some()
    }

    fn sample(&mut self, i: usize) -> Sample {
        let habit = self.habits[i];
        let share = if self.tracks[i].on_trial() { 1.0 / 16.0 } else { 1.0 };
        let expected = habit.rate * share * SAMPLE_EVERY.as_secs_f64();
        let count = expected as usize + usize::from(self.rng.random_bool(expected.fract()));
        let mut sample = Sample::default();
        for _ in 0..count {
            if self.rng.random_bool(habit.errors) {
                sample.failed();
            } else {
                let spread = 0.5 + self.rng.random::<f64>() * 1.5;
                sample.answered(habit.typical.mul_f64(spread));
            }
        }
        sample
    }

    /// One round.
    fn round(&mut self) {
        self.now = self.now + SAMPLE_EVERY;
        for i in 0..self.tracks.len() {
            self.tracks[i].expire(self.now);
            if !self.is_out(i) {
                let sample = self.sample(i);
                self.tracks[i].take(self.now, &sample);
            }
        }
        let all = self.tracks.len() + self.others_gone;
        let now = self.now;
        let mut ready: Vec<&mut Track> =
            self.tracks.iter_mut().filter(|t| t.out(now).is_none()).collect();
        let limits = Limits { should: all, not_ready: all - ready.len(), needed: all.div_ceil(2) };
        let before = ready.len();
        judge(now, &mut ready, limits, self.rng.random());
        let out = (0..self.tracks.len()).filter(|i| self.is_out(*i)).count();
        self.came_out += u32::try_from(before + out - self.tracks.len()).unwrap();
        self.most_out = self.most_out.max(out);
    }

    fn pass(&mut self, long: Duration) {
        let end = self.now + long;
        while self.now < end {
            self.round();
        }
    }

    /// How long until `done`, at most a minute.
    fn until(&mut self, done: impl Fn(&Self) -> bool) -> Duration {
        let began = self.now;
        while !done(self) {
            assert!(self.now.since(began) < 60 * Duration::from_secs(1), "it never came to it");
            self.round();
        }
        self.now.since(began)
    }
}

#[test]
fn an_endpoint_that_fails_forty_of_a_hundred_is_out_within_three_seconds() {
    for n in [2, 3, 5, 12] {
        let mut bench = Bench::settled(&vec![WELL; n]);
        bench.habits[0].errors = 0.4;
        let took = bench.until(|b| b.is_out(0));
        assert!(took <= 3 * Duration::from_secs(1), "{took:?} of {n}");
        let (symptom, _) = bench.tracks[0].out(bench.now).unwrap();
        assert_eq!(symptom.kind, Ailment::Failing);
        assert!((25..=60).contains(&symptom.percent), "{symptom:?}");
    }
}

#[test]
fn with_twenty_answers_per_second_forty_bad_of_a_hundred_are_out_within_three_seconds_still() {
    let habit = Habit { rate: 20.0, ..WELL };
    let took: Vec<Duration> = (0..40)
        .map(|seed| {
            let mut bench = Bench::settled(&[habit; 3]);
            bench.rng = StdRng::seed_from_u64(seed);
            bench.habits[0].errors = 0.4;
            bench.until(|b| b.is_out(0))
        })
        .collect();
    let in_time = took.iter().filter(|t| **t <= 3 * Duration::from_secs(1)).count();
    assert!(in_time >= 36, "{took:?}");
}

#[test]
fn one_period_however_bad_puts_nobody_out() {
    for sick in [Sample { failed: 10_000, ..Sample::default() }, {
        let mut slow = Sample::default();
        (0..10_000).for_each(|_| slow.answered(900 * MS));
        slow
    }] {
        let mut bench = Bench::settled(&[WELL; 3]);
        for _ in 1..PERIODS {
            let now = bench.now;
            bench.tracks[0].take(now, &sick);
            bench.round();
        }
        bench.pass(10 * Duration::from_secs(1));
        assert_eq!(bench.came_out, 0);
    }
}

#[test]
fn evidence_speaks_for_who_is_less_than_halfway_as_bad_as_sought_and_against_who_is_as_bad() {
    for expected in [0.05, 0.1, 0.3, 0.5] {
        assert!(weight(expected, expected) < 0.0);
        assert!(weight(expected + SOUGHT / 3.0, expected) < 0.0);
        assert!(weight(expected + SOUGHT, expected) > 0.0);
    }
    assert_eq!(weight(1.0, 0.7), 0.0, "who fails with nearly all is none");
}

#[test]
fn an_endpoint_that_is_twenty_times_slower_is_out_within_three_seconds() {
    for n in [2, 3, 5, 12] {
        let mut bench = Bench::settled(&vec![WELL; n]);
        bench.habits[0].typical = WELL.typical * 20;
        let took = bench.until(|b| b.is_out(0));
        assert!(took <= 3 * Duration::from_secs(1), "{took:?} of {n}");
        let (symptom, _) = bench.tracks[0].out(bench.now).unwrap();
        assert!(matches!(symptom.kind, Ailment::Slow { .. }), "{symptom:?}");
    }
}

#[test]
fn one_that_the_balancer_avoids_after_slow_answers_is_put_on_trial_and_found_out() {
    let mut bench = Bench::settled(&[WELL; 3]);
    // The answers of those under way when it became slow, among those of before; then nothing comes.
    bench.habits[0] = Habit { rate: 0.0, ..WELL };
    let mut last = Sample::default();
    (0..20).for_each(|_| last.answered(2 * MS));
    (0..4).for_each(|_| last.answered(45 * MS));
    let now = bench.now;
    bench.tracks[0].take(now, &last);
    bench.habits[0].typical = WELL.typical * 20;
    bench.until(|b| b.state(0) == State::Trial);
    // On trial it gets its share whatever the balancer thinks.
    bench.habits[0].rate = 500.0;
    let took = bench.until(|b| b.is_out(0));
    assert!(took <= 2 * Duration::from_secs(1), "{took:?}");
}

#[test]
fn one_that_the_balancer_avoids_after_a_hiccup_is_asked_and_well_again() {
    let mut bench = Bench::settled(&[WELL; 3]);
    let mut hiccup = Sample::default();
    (0..4).for_each(|_| hiccup.answered(300 * MS));
    let now = bench.now;
    bench.tracks[0].take(now, &hiccup);
    bench.habits[0].rate = 0.0;
    bench.until(|b| b.state(0) == State::Trial);
    bench.habits[0].rate = 500.0;
    let took = bench.until(|b| b.state(0) == State::Well);
    assert!(took <= Duration::from_secs(1), "{took:?}");
    assert_eq!(bench.came_out, 0);
}

#[test]
fn one_that_gets_little_by_its_part_is_judged_by_that_and_not_taken_for_avoided() {
    let far = Habit { rate: 18.0, ..WELL };
    let mut bench = Bench::settled(&[far, WELL, far]);
    for (track, part) in bench.tracks.iter_mut().zip([9, 82, 9]) {
        track.expect(Some(part));
    }
    bench.habits[0].errors = 0.4;
    let began = bench.now;
    while !bench.is_out(0) {
        assert_ne!(bench.state(0), State::Trial);
        bench.round();
    }
    let took = bench.now.since(began);
    assert!(took <= 3 * Duration::from_secs(1), "{took:?}");
}

#[test]
fn one_that_answered_well_is_not_tried_because_little_is_asked_of_it() {
    let mut bench = Bench::settled(&[WELL; 3]);
    bench.habits[0].rate = 0.5;
    bench.pass(30 * Duration::from_secs(1));
    assert_eq!(bench.state(0), State::Well);
}

#[test]
fn a_single_stall_of_one_endpoint_puts_nobody_out() {
    let mut bench = Bench::settled(&[WELL; 3]);
    bench.habits[0].typical = 500 * MS;
    bench.round();
    bench.round();
    bench.habits[0] = WELL;
    bench.pass(10 * Duration::from_secs(1));
    assert_eq!(bench.came_out, 0);
}

#[test]
fn what_befalls_all_alike_puts_nobody_out() {
    for (errors, factor) in [(0.4, 1), (0.9, 1), (0.0, 50), (0.3, 20)] {
        let mut bench = Bench::settled(&[WELL; 4]);
        for habit in &mut bench.habits {
            *habit = Habit { errors, typical: WELL.typical * factor, ..WELL };
        }
        bench.pass(60 * Duration::from_secs(1));
        assert_eq!(bench.came_out, 0, "errors {errors}, {factor} times slower");
    }
}

#[test]
fn a_far_endpoint_is_far_and_not_sick_but_found_when_it_becomes_so() {
    let far = Habit { typical: 60 * MS, ..WELL };
    let mut bench = Bench::settled(&[far, WELL, WELL]);
    bench.pass(60 * Duration::from_secs(1));
    assert_eq!(bench.came_out, 0);
    bench.habits[0].typical = far.typical * 20;
    assert!(bench.until(|b| b.is_out(0)) <= 3 * Duration::from_secs(1));
}

#[test]
fn where_a_tenth_of_the_answers_is_slow_by_nature_nobody_is_out_for_it() {
    let mut bench = Bench::new(&[Habit { rate: 0.0, ..WELL }; 3]);
    for _ in 0..2_000 {
        for i in 0..3 {
            let mut sample = Sample::default();
            for _ in 0..6 {
                let slow = bench.rng.random_bool(0.1);
                sample.answered(if slow { 400 * MS } else { MS });
            }
            let now = bench.now;
            bench.tracks[i].take(now, &sample);
        }
        bench.round();
    }
    assert_eq!(bench.came_out, 0);
}

#[test]
fn below_some_milliseconds_nobody_is_slow() {
    let mut bench = Bench::settled(&[Habit { typical: 100 * MS / 1000, ..WELL }; 3]);
    bench.habits[0].typical = 2 * MS;
    bench.pass(20 * Duration::from_secs(1));
    assert_eq!(bench.came_out, 0);
}

#[test]
fn of_two_that_are_both_sick_neither_is_the_outlier() {
    let mut bench = Bench::settled(&[WELL; 2]);
    bench.habits[0].errors = 0.5;
    bench.habits[1].errors = 0.2;
    bench.pass(30 * Duration::from_secs(1));
    assert_eq!(bench.came_out, 0);
}

#[test]
fn one_alone_is_never_an_outlier() {
    let mut bench = Bench::settled(&[WELL]);
    bench.habits[0] = Habit { errors: 0.9, typical: 900 * MS, ..WELL };
    bench.pass(30 * Duration::from_secs(1));
    assert_eq!(bench.state(0), State::Well);
}

#[test]
fn never_more_than_a_third_is_out_and_never_more_than_the_panic_threshold_leaves() {
    for (n, sick) in [(2, 1), (3, 1), (6, 2), (9, 4), (9, 3)] {
        let mut bench = Bench::settled(&vec![WELL; n]);
        (0..sick).for_each(|i| bench.habits[i].errors = 0.6);
        bench.pass(60 * Duration::from_secs(1));
        assert_eq!(bench.most_out, sick.min(cap(n)), "{sick} sick of {n}");
    }
}

#[test]
fn who_is_lost_otherwise_counts_into_the_cap() {
    let mut bench = Bench::settled(&[WELL; 2]);
    bench.others_gone = 1;
    bench.habits[0].errors = 0.6;
    bench.pass(30 * Duration::from_secs(1));
    assert_eq!(bench.came_out, 0);
}

#[test]
fn of_several_the_worst_goes_first() {
    let mut bench = Bench::settled(&[WELL; 5]);
    bench.habits[0].errors = 0.4;
    bench.habits[1].errors = 0.9;
    bench.until(|b| b.came_out > 0);
    assert!(bench.is_out(1) && !bench.is_out(0));
}

#[test]
fn after_its_recovery_it_is_back_once_its_time_and_two_good_periods_are_over() {
    let mut bench = Bench::settled(&[WELL; 3]);
    bench.habits[0].errors = 0.4;
    bench.until(|b| b.is_out(0));
    bench.habits[0] = WELL;
    let out = bench.until(|b| b.state(0) == State::Probation { good: 0 });
    assert!(out <= OUT_BASE.mul_f64(1.1) + SAMPLE_EVERY, "{out:?}");
    let back = bench.until(|b| b.state(0) == State::Well);
    assert!(back <= 3 * Duration::from_secs(1), "{back:?}");
}

#[test]
fn without_good_answers_time_alone_brings_it_on_probation_and_no_further() {
    let mut bench = Bench::settled(&[WELL; 3]);
    bench.habits[0].errors = 0.6;
    bench.until(|b| b.is_out(0));
    bench.habits[0].rate = 0.0;
    bench.pass(60 * Duration::from_secs(1));
    assert_eq!(bench.state(0), State::Probation { good: 0 });
}

#[test]
fn still_sick_on_probation_it_goes_at_once_for_twice_as_long_up_to_the_bound() {
    let mut bench = Bench::settled(&[WELL; 3]);
    bench.habits[0].errors = 0.9;
    let mut lengths = Vec::new();
    for _ in 0..6 {
        bench.until(|b| b.is_out(0));
        let (_, until) = bench.tracks[0].out(bench.now).unwrap();
        lengths.push(until.since(bench.now).as_secs_f64());
        bench.until(|b| !b.is_out(0));
    }
    for (length, base) in lengths.iter().zip([2.0, 4.0, 8.0, 16.0, 30.0, 30.0]) {
        assert!((base * 0.89..base * 1.11).contains(length), "{lengths:?}");
    }
}

#[test]
fn well_for_long_enough_its_times_out_count_from_one_again() {
    let mut bench = Bench::settled(&[WELL; 3]);
    for spell in [FORGET * 2, Duration::from_secs(1)] {
        bench.habits[0].errors = 0.9;
        bench.until(|b| b.is_out(0));
        let (_, until) = bench.tracks[0].out(bench.now).unwrap();
        assert!(until.since(bench.now) <= OUT_BASE.mul_f64(1.1), "before {spell:?}");
        bench.habits[0] = WELL;
        bench.until(|b| b.state(0) == State::Well);
        bench.pass(FORGET * 2);
    }
    bench.habits[0].errors = 0.9;
    bench.until(|b| b.is_out(0));
    bench.habits[0] = WELL;
    bench.until(|b| b.state(0) == State::Well);
    bench.habits[0].errors = 0.9;
    bench.until(|b| b.is_out(0));
    let (_, until) = bench.tracks[0].out(bench.now).unwrap();
    assert!(until.since(bench.now) > OUT_BASE.mul_f64(1.5), "soon again is for longer");
}

#[test]
fn who_is_let_back_in_for_want_of_others_is_so_in_full() {
    let mut bench = Bench::settled(&[WELL; 3]);
    bench.habits[0].errors = 0.6;
    bench.until(|b| b.is_out(0));
    let now = bench.now;
    bench.tracks[0].readmit(now);
    assert_eq!(bench.state(0), State::Well);
    assert!(!bench.tracks[0].on_trial());
}

#[test]
fn periods_that_do_not_overlap_are_not_compared() {
    let mut tracks = [Track::default(), Track::default()];
    let mut good = Sample::default();
    (0..50).for_each(|_| good.answered(MS));
    let bad = Sample { failed: 50, ..Sample::default() };
    tracks[1].take(BEGIN, &good);
    let limits = Limits { should: 2, not_ready: 0, needed: 1 };
    for round in 0..10 {
        let now = BEGIN + SAMPLE_EVERY * (round + 2);
        if round > 0 {
            tracks[0].take(now, &bad);
        }
        judge(now, &mut tracks.each_mut(), limits, 0.5);
    }
    assert_eq!(tracks[0].state(), State::Well, "its sibling said nothing since");
}

#[test]
fn an_hour_of_healthy_endpoints_with_two_in_a_hundred_errors_puts_nobody_out() {
    for rate in [3.0, 20.0, 40.0, 400.0] {
        let mut bench = Bench::new(&[Habit { rate, errors: 0.02, ..WELL }; 4]);
        bench.pass(3_600 * Duration::from_secs(1));
        assert_eq!(bench.came_out, 0, "{rate} requests per second each");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_answered_the_cap_holds_and_enough_stay(
        n in 1_usize..9,
        seed: u64,
        draws in prop::collection::vec((0.0..1.0_f64, 1_u32..400, 0.0..300.0_f64), 9),
    ) {
        let habits: Vec<Habit> = draws[..n]
            .iter()
            .map(|(errors, slow, rate)| Habit { rate: *rate, errors: *errors, typical: MS * *slow })
            .collect();
        let mut bench = Bench::new(&habits);
        bench.rng = StdRng::seed_from_u64(seed);
        for _ in 0..200 {
            bench.round();
            let turn = bench.rng.random_range(0..n);
            bench.habits[turn].errors = bench.rng.random();
        }
        prop_assert!(bench.most_out <= cap(n));
        prop_assert!(n > 1 || bench.most_out == 0);
        prop_assert!(n - bench.most_out >= n.div_ceil(2));
    }

    #[test]
    fn the_same_answers_get_the_same_judgement(seed: u64) {
        let run = || {
            let mut bench = Bench::new(&[Habit { errors: 0.3, ..WELL }, WELL, WELL]);
            bench.rng = StdRng::seed_from_u64(seed);
            bench.pass(20 * Duration::from_secs(1));
            (0..3).map(|i| bench.state(i)).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}
