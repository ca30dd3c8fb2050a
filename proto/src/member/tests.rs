//! What a member says of others and of itself, told one thing after the other.

use std::collections::BTreeSet;

use super::*;
use crate::evidence::Swim;

const T: Time = Time(1_000_000);

fn id(node: &str, rejoin: u32) -> MemberId {
    let parts = MemberParts {
        name: NodeName::parse(node).unwrap(),
        generation: Generation(1),
        rejoin,
        address: ([10, 0, 0, 1], 7940).into(),
        extension: 0,
    };
    parts.into()
}

fn record(node: &str, rejoin: u32, state: u8) -> MemberRecord {
    MemberRecord { id: id(node, rejoin), incarnation: 0, state }
}

/// `a`, which knows that `x` and `y` live, and has not begun to probe.
fn member() -> Member {
    let config = SwimConfig { probe_period: Duration::from_secs(3_600), ..SwimConfig::default() };
    let mut member = Member::new(id("a", 0), config, 7);
    member.merge(T, vec![record("x", 0, 0), record("y", 0, 0)]);
    member.changes();
    member
}

fn swim(member: &Member, node: &str) -> Swim {
    member.state(&NodeName::parse(node).unwrap()).unwrap().swim
}

#[test]
fn whoever_is_told_an_old_record_of_itself_answers_with_its_own() {
    let mut member = member();
    let (alive, suspect) = (record("a", 0, 0), record("a", 0, 1));
    assert_eq!(member.correction(&[alive, record("x", 0, 1)]), None, "nothing to correct");
    member.merge(T, vec![suspect.clone()]);
    let ours = member.correction(std::slice::from_ref(&suspect)).unwrap();
    assert_eq!((&ours.id, ours.incarnation, ours.state), (member.id(), 1, 0));
    member.merge(T, vec![suspect.clone()]);
    assert_eq!(member.correction(&[suspect]), Some(ours), "it refutes once, and says so again");
}

#[test]
fn who_was_declared_down_and_lives_is_said_to_be_unsteady_and_that_it_no_longer_is() {
    let mut member = member();
    let x = BTreeSet::from([NodeName::parse("x").unwrap()]);
    member.merge(T, vec![record("x", 0, 2)]);
    assert_eq!((swim(&member, "x"), member.changes()), (Swim::Down, x.clone()));
    member.merge(T, vec![record("x", 1, 0)]);
    assert_eq!((swim(&member, "x"), member.changes()), (Swim::Unsteady, x.clone()));
    assert_eq!(member.states()[&NodeName::parse("x").unwrap()].swim, Swim::Unsteady);
    let mut now = T;
    while swim(&member, "x") == Swim::Unsteady {
        now = member.poll_timeout().unwrap();
        member.handle_timeout(now);
    }
    assert_eq!(now, T + Duration::from_secs(40));
    assert_eq!((swim(&member, "x"), member.changes()), (Swim::Alive, x));
}
