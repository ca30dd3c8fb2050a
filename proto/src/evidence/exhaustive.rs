//! The standing of an endpoint for every combination of what can be known of it.

use super::*;

const SINCE: Time = Time(1_000_000);
const HEARD: Time = Time(1_010_000);
const NOW: Time = Time(3_000_000);

const CONDITIONS: [Condition; 5] = [
    Condition::Unready,
    Condition::Standby,
    Condition::Activating,
    Condition::Serving,
    Condition::Draining,
];

fn short(standing: &Standing) -> String {
    match standing.why() {
        None => standing.word().to_owned(),
        Some(why) => format!("{} {}", standing.word(), why.word()),
    }
}

/// Rows: membership; columns: our link (none, up, up and heard since the accusation, silent and confirmed).
#[test]
#[rustfmt::skip]
fn the_standing_of_a_node_is_this_table() {
    let table = [
        //                 none                up                 proven   silent
        (Swim::Unheard, ["doubtful unheard", "ready",            "ready", "doubtful silent"]),
        (Swim::Alive,   ["ready",            "ready",            "ready", "doubtful silent"]),
        (Swim::Suspect, ["doubtful suspect", "doubtful suspect", "ready", "doubtful silent"]),
        (Swim::Down,    ["out down",         "out down",         "ready", "out down"]),
        (Swim::Unsteady, ["doubtful unsteady", "doubtful unsteady", "ready", "doubtful silent"]),
    ];
    for (swim, cells) in table {
        let columns = [
            (LinkState::None, None),
            (LinkState::Up, Some(SINCE)),
            (LinkState::Up, Some(HEARD)),
            (LinkState::Silent, Some(HEARD)),
        ];
        for ((link, heard), expected) in columns.into_iter().zip(cells) {
            let confirmed = SINCE + CONFIRM_SILENCE;
            let node = NodeEvidence { swim, swim_since: SINCE, link, link_since: SINCE, confirmed, put_off: false, spared: Time(0), heard, revoked: false };
            assert_eq!(short(&node.standing(NOW)), expected, "{swim:?} {link:?} heard {heard:?}");
            let revoked = NodeEvidence { revoked: true, ..node };
            assert_eq!(short(&revoked.standing(NOW)), "out revoked", "{swim:?} {link:?}");
        }
    }
}

fn every_node() -> Vec<NodeEvidence> {
    let mut all = Vec::new();
    for swim in [Swim::Unheard, Swim::Alive, Swim::Suspect, Swim::Down, Swim::Unsteady] {
        for link in [LinkState::None, LinkState::Up, LinkState::Silent] {
            for heard in [None, Some(SINCE), Some(HEARD)] {
                for revoked in [false, true] {
                    let (swim_since, link_since) = (SINCE, SINCE);
                    let confirmed = SINCE + CONFIRM_SILENCE;
                    let timeless =
                        NodeEvidence { swim, swim_since, ..NodeEvidence::unheard(SINCE) };
                    all.push(NodeEvidence {
                        link,
                        link_since,
                        confirmed,
                        heard,
                        revoked,
                        ..timeless
                    });
                }
            }
        }
    }
    all
}

fn ejected() -> EndpointEvidence {
    let mut e = EndpointEvidence::default();
    for _ in 0..EJECT_AFTER {
        e.observe(Outcome::Refused, NOW, 0.5, true);
    }
    e
}

#[test]
fn an_endpoint_is_ready_exactly_when_nobody_objects_and_the_objections_have_an_order() {
    let sick = ejected();
    for node in every_node() {
        for left in [false, true] {
            for condition in CONDITIONS {
                for endpoint in [None, Some(&sick)] {
                    let found = short(&standing(&node, left, condition, endpoint, NOW));
                    let of_node = node.standing(NOW);
                    let expected = match (&of_node, left, condition, endpoint) {
                        (Standing::Out(_), ..) => short(&of_node),
                        (_, true, ..) => "out left".to_owned(),
                        (_, _, Condition::Serving, None) => short(&of_node),
                        (_, _, Condition::Serving, Some(_)) => "out ejected".to_owned(),
                        (_, _, c, _) => format!("out {}", c.word()),
                    };
                    assert_eq!(found, expected, "{node:?} left {left} {condition:?}");
                }
            }
        }
    }
}

#[test]
fn whatever_is_ready_is_not_lost_and_whatever_is_out_by_its_node_is() {
    for node in every_node() {
        for now in [SINCE, NOW, SINCE + CONFIRM_SILENCE, SINCE + UNHEARD_LOST] {
            match (node.standing(now), node.lost(now)) {
                (Standing::Ready, lost) => assert_eq!(lost, Ok(false)),
                (Standing::Out(_), lost) => assert_eq!(lost, Ok(true)),
                (Standing::Doubtful(Why::Suspect { .. } | Why::Unsteady { .. }), lost) => {
                    assert_eq!(lost, Ok(false));
                }
                (Standing::Doubtful(_), Err(at)) => assert!(at > now, "asks again later"),
                (Standing::Doubtful(_), Ok(lost)) => assert!(lost, "confirmed"),
            }
        }
    }
}

#[test]
fn who_was_not_lost_before_an_absence_of_ours_is_not_before_we_have_caught_up() {
    let until = NOW + UNHEARD_LOST;
    for node in every_node() {
        let mut spared = node.clone();
        spared.spare(SINCE, until);
        let caught_up = until + UNHEARD_LOST;
        assert_eq!(spared.standing(NOW), node.standing(NOW), "traffic does not wait");
        assert_eq!(spared.lost(caught_up), node.lost(caught_up));
        match (node.lost(SINCE), node.lost(NOW)) {
            (Ok(true), lost) => assert_eq!(spared.lost(NOW), lost, "{node:?}"),
            (_, Ok(false)) => assert_eq!(spared.lost(NOW), Ok(false), "{node:?}"),
            (_, Ok(true)) => assert_eq!(spared.lost(NOW), Err(until), "{node:?}"),
            (_, Err(at)) => assert_eq!(spared.lost(NOW), Err(at.max(until)), "{node:?}"),
        }
    }
}

#[test]
fn a_node_known_from_disk_only_is_lost_once_membership_had_time_to_tell_of_it() {
    let node = NodeEvidence::unheard(SINCE);
    assert_eq!(node.lost(SINCE), Err(SINCE + UNHEARD_LOST));
    assert_eq!(node.lost(SINCE + UNHEARD_LOST), Ok(true));
}

#[test]
fn ejections_grow_to_their_bound_and_are_spread_by_a_fifth() {
    let mut e = EndpointEvidence::default();
    let mut now = Time(0);
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        while !e.observe(Outcome::Broken, now, 1.0, true) {}
        let until = e.ejected_until().unwrap();
        longest = longest.max(until.since(now));
        now = until;
        assert!(e.expire(now));
    }
    assert_eq!(longest, EJECT_MAX.mul_f64(1.1));
}

#[test]
fn an_answer_ends_an_ejection_and_its_memory() {
    let mut e = ejected();
    assert!(e.is_ejected(NOW));
    e.observe(Outcome::Answered { latency: Duration::ZERO }, NOW, 0.5, true);
    assert!(!e.is_ejected(NOW));
    for _ in 0..EJECT_AFTER - 1 {
        assert!(!e.observe(Outcome::Refused, NOW, 0.5, true), "the count starts anew");
    }
    assert!(e.observe(Outcome::Refused, NOW, 0.5, true));
    assert_eq!(e.ejected_until(), Some(NOW + EJECT_BASE), "and so does the length");
}

#[test]
fn where_too_many_are_out_already_nobody_is_ejected() {
    let mut e = EndpointEvidence::default();
    for _ in 0..50 {
        assert!(!e.observe(Outcome::Broken, NOW, 0.5, false));
    }
    assert_eq!(e.standing(NOW), Standing::Ready);
}
