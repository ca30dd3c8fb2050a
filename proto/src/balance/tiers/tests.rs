//! Which tier gets how much, rule by rule.

use proptest::prelude::*;

use crate::balance::tests::{candidate, place};
use crate::evidence::Standing;
use crate::time::Time;

use super::*;

fn home() -> Place {
    place("r1", "a")
}

/// `lost` of `all` in each place, and what the tiers get in percent.
fn percent(locality: Locality, mesh: &[(&str, &str, usize, usize)]) -> Vec<(Tier, u64)> {
    let mut candidates = Vec::new();
    for (region, zone, lost, all) in mesh {
        for n in 0..*all {
            let mut c = candidate(&format!("{region}{zone}{n}"), place(region, zone));
            if n < *lost {
                c.standing = Standing::Out(Why::Down { since: Time(0) });
            }
            candidates.push(c);
        }
    }
    let ready: Vec<usize> =
        (0..candidates.len()).filter(|i| candidates[*i].standing == Standing::Ready).collect();
    let shares = shares(locality, &home(), &candidates, &ready);
    let mut before = 0;
    let part = |s: &TierShare| {
        let part = (s.upto - std::mem::replace(&mut before, s.upto)) * 1000 / WHOLE;
        (s.tier, part.div_ceil(10))
    };
    shares.iter().map(part).collect()
}

#[test]
fn where_nobody_names_a_zone_nobody_is_nearer_than_another() {
    let unnamed = Place::default();
    let candidates: Vec<Candidate> =
        ["x", "y"].iter().map(|n| candidate(n, unnamed.clone())).collect();
    assert!(shares(Locality::Zone, &unnamed, &candidates, &[0, 1]).is_empty());
    // Nor where only we do, or only they do.
    assert!(shares(Locality::Zone, &home(), &candidates, &[0, 1]).is_empty());
    assert!(percent(Locality::Off, &[("r1", "a", 0, 2), ("r1", "b", 0, 2)]).is_empty());
}

#[test]
fn a_zone_that_has_what_it_should_keeps_its_requests() {
    let mesh = [("r1", "a", 0, 2), ("r1", "b", 0, 2), ("r1", "c", 0, 2)];
    assert_eq!(percent(Locality::Zone, &mesh), [(Tier::Zone, 100), (Tier::Region, 0)]);
}

#[test]
fn a_zone_that_lost_some_keeps_what_it_can_take_and_sends_the_missing_share_on() {
    for (lost, keeps) in [(0, 100), (2, 100), (3, 98), (5, 70), (8, 28), (9, 14)] {
        let mesh = [("r1", "a", lost, 10), ("r1", "b", 0, 10)];
        let expected = [(Tier::Zone, keeps), (Tier::Region, 100 - keeps)];
        assert_eq!(percent(Locality::Zone, &mesh), expected, "{lost} of 10 are lost");
    }
}

#[test]
fn a_zone_with_less_than_an_even_part_of_the_service_does_not_bear_its_callers_alone() {
    // One of six, though the zones are three: it should have two.
    let mesh = [("r1", "a", 0, 1), ("r1", "b", 0, 2), ("r1", "c", 0, 3)];
    assert_eq!(percent(Locality::Zone, &mesh), [(Tier::Zone, 70), (Tier::Region, 30)]);
}

#[test]
fn one_endpoint_alone_in_its_zone_is_not_all_its_callers_know() {
    let mesh = [("r1", "a", 0, 1), ("r1", "b", 0, 1), ("r1", "c", 0, 1)];
    assert_eq!(percent(Locality::Zone, &mesh), [(Tier::Zone, 70), (Tier::Region, 30)]);
}

#[test]
fn what_the_region_cannot_take_goes_to_the_rest() {
    let mesh = [("r1", "a", 1, 2), ("r1", "b", 9, 10), ("r2", "a", 0, 12)];
    // Zone a should have 24 / 3.
    let expected = [(Tier::Zone, 18), (Tier::Region, 14), (Tier::Rest, 69)];
    assert_eq!(percent(Locality::Zone, &mesh), expected);
}

#[test]
fn with_locality_region_zones_do_not_count() {
    let mesh = [("r1", "a", 0, 2), ("r1", "b", 0, 2), ("r2", "c", 0, 4)];
    assert_eq!(percent(Locality::Region, &mesh), [(Tier::Region, 100), (Tier::Rest, 0)]);
}

#[test]
fn a_zone_of_the_same_name_in_another_region_is_far_away() {
    let far = candidate("x", place("r2", "a"));
    assert_eq!(tier(Locality::Zone, &home(), &far), Tier::Rest);
    assert_eq!(tier(Locality::Zone, &home(), &candidate("x", home())), Tier::Zone);
    assert_eq!(tier(Locality::Zone, &place("", "a"), &candidate("x", place("", "a"))), Tier::Zone);
}

#[test]
fn where_all_tiers_are_short_each_gets_its_part_of_what_there_is() {
    let mesh = [("r1", "a", 9, 10), ("r1", "b", 8, 10)];
    // Healths of 14 % and 28 %.
    assert_eq!(percent(Locality::Zone, &mesh), [(Tier::Zone, 34), (Tier::Region, 67)]);
}

/// Ready weights of the nearest zone and of the others, all declared.
fn keeps(near: &[u16], far: &[u16]) -> u64 {
    let all = |zone: &str, weights: &[u16]| -> Vec<Candidate> {
        let c = |(n, weight): (usize, &u16)| Candidate {
            weight: *weight,
            ..candidate(&format!("{zone}{n}"), place("r1", zone))
        };
        weights.iter().enumerate().map(c).collect()
    };
    let candidates = [all("a", near), all("b", far)].concat();
    let ready: Vec<usize> = (0..candidates.len()).collect();
    shares(Locality::Zone, &home(), &candidates, &ready)[0].upto
}

proptest! {
    #[test]
    fn a_little_less_capacity_moves_a_little_of_the_requests_never_more(
        near in prop::collection::vec(1u16..=1000, 1..9),
        far in prop::collection::vec(1u16..=1000, 1..9),
        which in any::<prop::sample::Index>(),
    ) {
        let before = keeps(&near, &far);
        let mut less = near.clone();
        let at = which.index(less.len());
        less[at] = less[at].saturating_sub(10).max(1);
        let after = keeps(&less, &far);
        prop_assert!(after <= before, "less capacity, and more comes");
        // 1.4 % of one endpoint where the far ones take what is left; where they are as short, relative to
        // all there is.
        let health = |w: &[u16], should: u64| {
            (w.iter().map(|w| u64::from(*w)).sum::<u64>() * 1400 / should).min(1000)
        };
        let should = near.len().max((near.len() + far.len()) / 2).max(2) as u64 * 1000;
        let total = (health(&near, should) + health(&far, far.len() as u64 * 1000)).min(1000);
        let step = WHOLE / 1000 * 15 * 1000 / total.max(1) + WHOLE / 200;
        prop_assert!(before - after <= step, "{} of {WHOLE} moved at once", before - after);
    }

    #[test]
    fn everything_is_dealt_out_in_order_whatever_is_lost(
        mesh in prop::collection::vec((0usize..3, 0usize..3, 0usize..6, 0usize..6), 1..7),
    ) {
        let mut candidates = Vec::new();
        for (n, (region, zone, lost, all)) in mesh.iter().enumerate() {
            let at = place(["", "r1", "r2"][*region], ["", "a", "b"][*zone]);
            for i in 0..*all {
                let mut c = candidate(&format!("n{n}x{i}"), at.clone());
                if i < *lost {
                    c.standing = Standing::Out(Why::Down { since: Time(0) });
                }
                candidates.push(c);
            }
        }
        let ready: Vec<usize> =
            (0..candidates.len()).filter(|i| candidates[*i].standing == Standing::Ready).collect();
        let shares = shares(Locality::Zone, &home(), &candidates, &ready);
        if let Some(last) = shares.last() {
            prop_assert_eq!(last.upto, WHOLE);
            prop_assert!(shares.len() > 1);
        }
        prop_assert!(shares.windows(2).all(|w| w[0].tier < w[1].tier && w[0].upto <= w[1].upto));
        prop_assert_eq!(
            shares.iter().map(|s| s.ready).sum::<u64>(),
            if shares.is_empty() { 0 } else { ready.len() as u64 * 1000 }
        );
    }
}
