//! Who is picked, rule by rule, and how the draws fall.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::advert::{Condition, Protocol, Role};
use crate::evidence::Standing;
use crate::ids::{EndpointId, Generation, NodeName, ServiceName};
use crate::policy::{Affinity, Locality};
use crate::route::Share;

use super::*;

pub(super) fn place(region: &str, zone: &str) -> Place {
    Place { zone: zone.into(), region: region.into() }
}

pub(super) fn candidate(node: &str, place: Place) -> Candidate {
    Candidate {
        id: EndpointId {
            service: ServiceName::parse("ledger").unwrap(),
            node: NodeName::parse(node).unwrap(),
            instance: 0,
        },
        address: "10.0.0.1:7940".parse().unwrap(),
        generation: Generation(1),
        protocol: Protocol::Http,
        role: Role::Hot,
        condition: Condition::Serving,
        standing: Standing::Ready,
        share: Share::Full,
        via: None,
        term: None,
        capacity: 100,
        weight: FULL_WEIGHT,
        place,
    }
}

fn weighted(weights: &[u16]) -> Vec<Candidate> {
    let of = |(n, weight): (usize, &u16)| Candidate {
        weight: *weight,
        ..candidate(&format!("n{n}"), Place::default())
    };
    weights.iter().enumerate().map(of).collect()
}

fn by(balance: Balance) -> ServicePolicy {
    ServicePolicy { balance, ..ServicePolicy::default() }
}

fn spread(policy: &ServicePolicy, candidates: &[Candidate]) -> Spread {
    let all = (0..candidates.len()).collect();
    Spread::of(policy, candidates, &Choice::Serve(all), &place("r1", "a"))
}

fn idle(_: usize, _: Measure) -> u64 {
    0
}

/// How often each of `n` is picked in so many draws.
fn counts(spread: &Spread, n: usize, draws: u64, load: impl Fn(usize, Measure) -> u64) -> Vec<f64> {
    let mut rng = StdRng::seed_from_u64(5);
    let mut counts = vec![0.0; n];
    for turn in 0..draws {
        let draw = Draw { random: rng.random(), turn, session: None };
        counts[spread.pick(&draw, |_| false, &load).unwrap().index] += 1.0;
    }
    counts
}

fn chi_square(counts: &[f64], expected: &[f64]) -> f64 {
    counts.iter().zip(expected).map(|(n, e)| (n - e).powi(2) / e).sum()
}

/// What weighted pairs come to by arithmetic: of a pair each stands aside by what its weight lacks; of
/// pairs in which both do another is drawn.
fn expected(weights: &[u16], draws: f64) -> Vec<f64> {
    let heaviest = f64::from(*weights.iter().max().unwrap());
    let part = |w: u16| f64::from(w) / heaviest;
    let mut shares = vec![0.0; weights.len()];
    for (i, x) in weights.iter().enumerate() {
        for (j, y) in weights.iter().enumerate().filter(|(j, _)| *j != i) {
            let (x, y) = (part(*x), part(*y));
            // As the first of an idle pair it wins when it takes part, and leaves it to the second else.
            shares[i] += x;
            shares[j] += (1.0 - x) * y;
        }
    }
    let sum: f64 = shares.iter().sum();
    shares.iter().map(|s| s / sum * draws).collect()
}

#[test]
fn idle_endpoints_are_picked_by_their_weights() {
    // 99.99 % quantile of χ² with 4 degrees of freedom: 23.5.
    for weights in [[1000; 5], [1000, 500, 1000, 250, 750], [1000, 20, 1000, 500, 100]] {
        let expected = expected(&weights, 100_000.0);
        for balance in [Balance::PeakEwma, Balance::LeastRequest] {
            let counts = counts(&spread(&by(balance), &weighted(&weights)), 5, 100_000, idle);
            let chi = chi_square(&counts, &expected);
            assert!(chi < 23.5, "χ² = {chi}: {counts:?}, {expected:?}");
        }
    }
}

#[test]
fn one_that_ramps_up_gets_no_more_than_its_part_however_idle_it_is() {
    for balance in [Balance::PeakEwma, Balance::LeastRequest] {
        let s = spread(&by(balance), &weighted(&[1000, 1000, 1000, 100]));
        let busy = |i: usize, _| if i == 3 { 0 } else { 50 };
        let counts = counts(&s, 4, 100_000, busy);
        // It wins every pair it takes part in: half of all pairs have it, a tenth of them with it.
        assert!((4_700.0..5_300.0).contains(&counts[3]), "{balance:?}: {counts:?}");
    }
}

#[test]
fn the_cheaper_of_two_is_picked_by_peak_latency_and_requests_under_way() {
    let s = spread(&by(Balance::PeakEwma), &weighted(&[1000, 1000]));
    let load = |i: usize, m: Measure| match m {
        Measure::Cost => [5, 4][i],
        Measure::UnderWay => [1, 2][i],
    };
    assert_eq!(counts(&s, 2, 100, load), [0.0, 100.0]);
    let s = spread(&by(Balance::LeastRequest), &weighted(&[1000, 1000]));
    assert_eq!(counts(&s, 2, 100, load), [100.0, 0.0]);
}

#[test]
fn least_request_compares_what_is_under_way_by_weight() {
    let s = spread(&by(Balance::LeastRequest), &weighted(&[1000, 500]));
    let load = |i: usize, _| [9, 5][i];
    let c = counts(&s, 2, 10_000, load);
    assert_eq!(c[1], 0.0, "5 of a half is more than 9 of a whole");
    let load = |i: usize, _| [11, 5][i];
    let c = counts(&s, 2, 10_000, load);
    assert!((4_700.0..5_300.0).contains(&c[1]), "{c:?}");
}

#[test]
fn turns_are_taken_smoothly_as_nginx_takes_them() {
    let s = spread(&by(Balance::RoundRobin), &weighted(&[1000, 200, 200]));
    let turns = |n: u64| -> Vec<usize> {
        let turn = |turn| Draw { random: 3, turn, session: None };
        (0..n).map(|t| s.pick(&turn(t), |_| false, idle).unwrap().index).collect()
    };
    // 20 : 4 : 4 is 5 : 1 : 1, which nginx's own description deals out as a a b a c a a.
    assert_eq!(turns(7), [0, 0, 1, 0, 2, 0, 0]);
    let round = turns(28);
    for who in 0..3 {
        let n = round.iter().filter(|i| **i == who).count();
        assert_eq!(n, [20, 4, 4][who]);
    }
    let s = spread(&by(Balance::RoundRobin), &weighted(&[300; 4]));
    let counts = counts(&s, 4, 400, idle);
    assert_eq!(counts, [100.0; 4], "exactly");
}

#[test]
fn whoever_was_met_already_loses_its_turn_to_the_next() {
    let s = spread(&by(Balance::RoundRobin), &weighted(&[1000; 3]));
    let pick = |turn, met: &[usize]| {
        let draw = Draw { random: 3, turn, session: None };
        s.pick(&draw, |i| met.contains(&i), idle).map(|p| p.index)
    };
    assert_eq!(pick(0, &[0]), Some(1));
    assert_eq!(pick(2, &[2]), Some(0));
    assert_eq!(pick(5, &[0, 2]), Some(1));
    assert_eq!(pick(5, &[0, 1, 2]), None);
}

fn keeping() -> ServicePolicy {
    let affinity: Affinity = serde_json::from_str(r#"{"header": "x-user"}"#).unwrap();
    ServicePolicy { affinity: Some(affinity), ..ServicePolicy::default() }
}

fn session(s: &Spread, n: u64, met: &[usize], load: impl Fn(usize) -> u64) -> Option<usize> {
    let draw =
        Draw { random: mix(n), turn: n, session: Some(session::key(format!("u{n}").as_bytes())) };
    s.pick(&draw, |i| met.contains(&i), |i, _| load(i)).map(|p| p.index)
}

/// All sessions' endpoints, where those that `lost` names are out.
fn owners(candidates: &[Candidate], lost: &[usize]) -> Vec<String> {
    let left: Vec<usize> = (0..candidates.len()).filter(|i| !lost.contains(i)).collect();
    let s = Spread::of(&keeping(), candidates, &Choice::Serve(left), &Place::default());
    let name = |i: usize| candidates[i].id.node.to_string();
    (0..10_000).map(|n| name(session(&s, n, &[], |_| 0).unwrap())).collect()
}

#[test]
fn a_loss_moves_the_sessions_of_the_lost_one_alone_evenly_and_they_return_with_it() {
    let all = weighted(&[1000; 8]);
    let before = owners(&all, &[]);
    let after = owners(&all, &[2]);
    let mut moved: BTreeMap<&str, f64> = BTreeMap::new();
    for (a, b) in before.iter().zip(&after) {
        match a.as_str() {
            "n2" => *moved.entry(b).or_default() += 1.0,
            _ => assert_eq!(a, b, "another's session moved"),
        }
    }
    // To each of seven; the 99.99 % quantile of χ² with 6 degrees of freedom is 27.9.
    let counts: Vec<f64> = moved.values().copied().collect();
    let even = counts.iter().sum::<f64>() / 7.0;
    assert!(counts.len() == 7 && chi_square(&counts, &[even; 7]) < 27.9, "{moved:?}");
    assert_eq!(owners(&all, &[]), before);
}

#[test]
fn sessions_fall_evenly_and_alike_whoever_asks_and_however_much_others_weigh() {
    let all = weighted(&[1000; 8]);
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    let owners = owners(&all, &[]);
    owners.iter().for_each(|o| *counts.entry(o.clone()).or_default() += 1.0);
    let counts: Vec<f64> = counts.values().copied().collect();
    // 99.99 % quantile with 7 degrees of freedom: 29.9.
    assert!(chi_square(&counts, &[1250.0; 8]) < 29.9, "{counts:?}");
    // Another order of candidates, another place, another latency: the same endpoint.
    let mut turned = all.clone();
    turned.reverse();
    let s = Spread::of(
        &keeping(),
        &turned,
        &Choice::Serve((0..8).collect()),
        &place("elsewhere", "far"),
    );
    for n in 0..1000 {
        let index = session(&s, n, &[], |_| 0).unwrap();
        assert_eq!(turned[index].id.node.to_string(), owners[n as usize]);
    }
}

#[test]
fn a_session_stays_with_its_endpoint_until_that_has_a_quarter_more_than_its_part() {
    let s = spread(&keeping(), &weighted(&[1000; 4]));
    let own = session(&s, 1, &[], |_| 0).unwrap();
    let with = |mine: u64, others: u64| {
        session(&s, 1, &[], |i| if i == own { mine } else { others }).unwrap() == own
    };
    assert!(with(session::ROOM - 1, 0), "few are luck");
    assert!(!with(session::ROOM, 0));
    // 100 each and one more: each may have 126 of 401.
    assert!(with(120, 100) && !with(140, 100));
}

#[test]
fn requests_without_a_session_are_balanced() {
    let s = spread(&keeping(), &weighted(&[1000; 4]));
    let counts = counts(&s, 4, 40_000, idle);
    assert!(chi_square(&counts, &[10_000.0; 4]) < 21.1, "{counts:?}");
}

#[test]
fn a_repeated_request_of_a_session_goes_where_the_session_would_move() {
    let all = weighted(&[1000; 6]);
    let s = spread(&keeping(), &all);
    for n in 0..200 {
        let own = session(&s, n, &[], |_| 0).unwrap();
        let next = session(&s, n, &[own], |_| 0).unwrap();
        let left: Vec<usize> = (0..6).filter(|i| *i != own).collect();
        let without = Spread::of(&keeping(), &all, &Choice::Serve(left), &Place::default());
        assert_eq!(session(&without, n, &[], |_| 0), Some(next));
    }
}

#[test]
fn one_on_trial_gets_one_in_sixteen_of_its_sessions_requests_and_the_rest_moves() {
    let mut all = weighted(&[1000; 4]);
    let own = session(&spread(&keeping(), &all), 1, &[], |_| 0).unwrap();
    all[own].share = Share::Trial;
    let s = spread(&keeping(), &all);
    let mut rng = StdRng::seed_from_u64(3);
    let key = Some(session::key(b"u1"));
    let mut here = 0;
    for turn in 0..16_000 {
        let draw = Draw { random: rng.random(), turn, session: key };
        here += usize::from(s.pick(&draw, |_| false, idle).unwrap().index == own);
    }
    assert!((850..1_150).contains(&here), "{here}");
}

/// Two in our zone of which one is lost, two in the other.
fn half_a_zone(lost: bool) -> (Vec<Candidate>, Choice) {
    let all: Vec<Candidate> = ["a", "a", "b", "b"]
        .iter()
        .enumerate()
        .map(|(n, zone)| candidate(&format!("n{n}"), place("r1", zone)))
        .collect();
    let left = if lost { vec![0, 2, 3] } else { vec![0, 1, 2, 3] };
    (all, Choice::Serve(left))
}

#[test]
fn tiers_get_their_shares_of_the_draws() {
    for balance in [Balance::PeakEwma, Balance::LeastRequest, Balance::RoundRobin] {
        let (all, choice) = half_a_zone(true);
        let s = Spread::of(&by(balance), &all, &choice, &place("r1", "a"));
        let c = counts(&s, 4, 100_000, idle);
        // 99.99 % quantile with 2 degrees of freedom: 18.4.
        let chi = chi_square(&[c[0], c[2], c[3]], &[70_000.0, 15_000.0, 15_000.0]);
        assert!(chi < 18.4, "{balance:?}, χ² = {chi}: {c:?}");
        let (all, choice) = half_a_zone(false);
        let s = Spread::of(&by(balance), &all, &choice, &place("r1", "a"));
        let c = counts(&s, 4, 10_000, idle);
        assert_eq!(c[2] + c[3], 0.0, "a whole zone keeps everything: {c:?}");
    }
}

#[test]
fn a_repetition_leaves_the_zone_when_all_of_it_were_met() {
    let (all, choice) = half_a_zone(false);
    let s = Spread::of(&ServicePolicy::default(), &all, &choice, &place("r1", "a"));
    for random in 0..100 {
        let pick = |met: &[usize]| {
            s.pick(&mix(random).into(), |i| met.contains(&i), idle).map(|p| p.index)
        };
        assert_eq!(pick(&[0]), Some(1));
        assert!(matches!(pick(&[0, 1]), Some(2 | 3)));
        assert_eq!(pick(&[0, 1, 2, 3]), None);
    }
}

#[test]
fn in_a_panic_distance_does_not_count() {
    let (all, _) = half_a_zone(false);
    let panic = Choice::Panic(vec![0, 2, 3]);
    let s = Spread::of(&ServicePolicy::default(), &all, &panic, &place("r1", "a"));
    let c = counts(&s, 4, 30_000, idle);
    assert!(s.shares().is_empty());
    assert!(chi_square(&[c[0], c[2], c[3]], &[10_000.0; 3]) < 18.4, "{c:?}");
}

#[test]
fn with_a_route_to_nobody_nobody_is_picked() {
    for choice in [Choice::Nobody, Choice::Wake(vec![0])] {
        let s = Spread::of(&keeping(), &weighted(&[1000]), &choice, &Place::default());
        assert_eq!(s.pick(&7.into(), |_| false, idle), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whoever_is_left_is_picked_from_and_nobody_else_ever(
        of in prop::collection::vec((1u16..=1000, any::<bool>(), 0usize..4, 0u64..50), 1..12),
        balance in 0usize..4, locality in 0usize..3, key in any::<Option<u64>>(),
        random in any::<u64>(), met in any::<u16>(), panic in any::<bool>(),
    ) {
        let places = [place("", ""), place("r1", "a"), place("r1", "b"), place("r2", "a")];
        let all: Vec<Candidate> = of.iter().enumerate().map(|(n, (weight, trial, at, _))| Candidate {
            weight: *weight,
            share: if *trial { Share::Trial } else { Share::Full },
            ..candidate(&format!("n{n}"), places[*at].clone())
        }).collect();
        let policy = ServicePolicy {
            balance: [Balance::PeakEwma, Balance::LeastRequest, Balance::RoundRobin, Balance::RingHash]
                [balance],
            locality: [Locality::Zone, Locality::Region, Locality::Off][locality],
            ..ServicePolicy::default()
        };
        let these: Vec<usize> = (0..all.len()).filter(|i| i % 4 != 3).collect();
        let choice =
            if panic { Choice::Panic(these.clone()) } else { Choice::Serve(these.clone()) };
        let s = Spread::of(&policy, &all, &choice, &places[1]);
        let met = |i: usize| met >> i & 1 == 1;
        let draw = Draw { random, turn: random >> 7, session: key };
        let picked = s.pick(&draw, met, |i, _| of[i].3).map(|p| p.index);
        let left: Vec<usize> = these.into_iter().filter(|i| !met(*i)).collect();
        match picked {
            Some(i) => {
                prop_assert!(left.contains(&i));
                let first = (0..all.len()).filter(|i| i % 4 != 3).all(|i| !met(i));
                let spared = left.iter().any(|i| !of[*i].1);
                prop_assert!(first || !spared || !of[i].1, "a repetition took a trial");
            }
            None => prop_assert!(left.is_empty(), "{:?} were left", left),
        }
    }

    /// Mirrokni, Thorup, Zadimoghaddam: with requests that stay, nobody gets more than a quarter above its part.
    #[test]
    fn no_endpoint_takes_more_than_its_bound_however_the_sessions_fall(
        weights in prop::collection::vec(1u16..=1000, 1..9), same in any::<bool>(), n in 1u64..400,
    ) {
        let all = weighted(&weights);
        let s = spread(&keeping(), &all);
        let mut load = vec![0u64; weights.len()];
        for i in 0..n {
            let who = session(&s, if same { 7 } else { i }, &[], |i| load[i]).unwrap();
            load[who] += 1;
        }
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        for (load, weight) in load.iter().zip(&weights) {
            let part = (n * u64::from(*weight) * 125).div_ceil(sum * 100);
            let bound = part.max(session::ROOM * u64::from(*weight) / 1000).max(1);
            prop_assert!(*load <= bound, "{load} of {n}, at most {bound}");
        }
    }
}

#[test]
fn those_reached_through_a_relay_are_picked_from_however_far_they_are() {
    let all = [candidate("near", place("r", "z")), candidate("far", place("s", "y"))];
    let choice = Choice::Relay(vec![0, 1]);
    let spread = Spread::of(&ServicePolicy::default(), &all, &choice, &place("r", "z"));
    assert_eq!(spread.shares(), []);
    let pick = |met: usize| spread.pick(&Draw::from(1), |i| i == met, |_, _| 0).unwrap();
    let why = "relayed: our own path to it is silent";
    assert_eq!((pick(0), pick(1)), (Picked { index: 1, why }, Picked { index: 0, why }));
}

#[test]
fn an_endpoints_part_is_that_of_its_tier_by_its_weight() {
    let at = |node, zone, weight| Candidate { weight, ..candidate(node, place("r1", zone)) };
    let candidates = [at("x", "a", 1000), at("y", "b", 500), at("z", "b", 1000)];
    let spread = spread(&ServicePolicy::default(), &candidates);
    let part = |i: usize| (spread.part(i).unwrap() * 1000 + tiers::WHOLE / 2) / tiers::WHOLE;
    // One of three, where two should be: 1.4 / 2 of the requests stay.
    assert_eq!((part(0), part(1), part(2)), (700, 100, 200));
    assert_eq!(spread.part(3), None);
}
