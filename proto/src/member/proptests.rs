//! A member that keeps old news from foca, beside one that gives foca everything.

use super::*;
use crate::evidence::Swim;
use foca::Message;
use proptest::prelude::*;

fn id(node: u8, generation: u64, rejoin: u32, port: u16) -> MemberId {
    let parts = MemberParts {
        name: NodeName::parse(&format!("n{node}")).unwrap(),
        generation: Generation(generation),
        rejoin,
        address: ([10, 0, 0, node], port).into(),
        extension: 0,
    };
    parts.into()
}

/// Two addresses in one start: neither identity wins, and the later is taken.
fn any_id() -> impl Strategy<Value = MemberId> {
    (0..6_u8, 1..3_u64, 0..2_u32, prop_oneof![9 => Just(7940), 1 => Just(7941_u16)])
        .prop_map(|(node, generation, rejoin, port)| id(node, generation, rejoin, port))
}

fn any_record() -> impl Strategy<Value = MemberRecord> {
    (any_id(), 0..3_u16, 0..3_u8).prop_map(|(id, incarnation, state)| MemberRecord {
        id,
        incarnation,
        state,
    })
}

#[derive(Clone, Debug)]
enum Step {
    Packet { src: MemberId, incarnation: u16, kind: u8, updates: Vec<MemberRecord>, tail: Vec<u8> },
    Merge(Vec<MemberRecord>),
    Pass(u64),
    Leave,
}

fn any_step() -> impl Strategy<Value = Step> {
    let records = || prop::collection::vec(any_record(), 0..8);
    let tail = prop::collection::vec(any::<u8>(), 0..3);
    prop_oneof![
        8 => (any_id(), 0..3_u16, 0..7_u8, records(), tail).prop_map(
            |(src, incarnation, kind, updates, tail)| Step::Packet {
                src, incarnation, kind, updates, tail,
            }
        ),
        3 => records().prop_map(Step::Merge),
        4 => (1..4_000_u64).prop_map(Step::Pass),
        1 => Just(Step::Leave),
    ]
}

fn packet(
    to: &MemberId,
    src: &MemberId,
    src_incarnation: u16,
    kind: u8,
    updates: &[MemberRecord],
) -> Vec<u8> {
    let message = match kind {
        0 => Message::Ping(1),
        1 => Message::Ack(1),
        2 => Message::Gossip,
        3 => Message::Feed,
        4 => Message::Announce,
        5 => Message::TurnUndead,
        _ => Message::Broadcast,
    };
    let header = Header { src: src.clone(), src_incarnation, dst: to.clone(), message };
    let mut bytes = wire::encode_body(&header).unwrap();
    if !updates.is_empty() {
        bytes.extend_from_slice(&(updates.len() as u16).to_be_bytes());
    }
    for update in updates {
        bytes.extend_from_slice(&wire::encode_body(&update.clone().member()).unwrap());
    }
    bytes
}

/// The same without a filter: foca gets all there is.
fn give_all(twin: &mut Member, now: Time, step: &Step, bytes: &[u8]) {
    match step {
        Step::Packet { src, .. } if src.name == twin.id().name => {}
        Step::Packet { .. } => {
            twin.begin(now);
            let _ = twin.foca.handle_data(bytes, &mut twin.effects);
            twin.resize();
        }
        Step::Merge(_) if twin.left => {}
        Step::Merge(records) => {
            twin.begin(now);
            let held =
                |name: &NodeName| twin.foca.iter_membership_state().any(|m| m.id().name == *name);
            let all = records.iter().filter(|m| !m.is_down() || held(&m.id.name)).cloned();
            let all: Vec<_> = all.map(MemberRecord::member).collect();
            let _ = twin.foca.apply_many(all.into_iter(), true, &mut twin.effects);
            twin.resize();
        }
        Step::Pass(_) => twin.handle_timeout(now),
        Step::Leave => twin.leave(now),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_kept_from_foca_would_have_changed_nothing_and_the_copy_is_its_list(
        steps in prop::collection::vec(any_step(), 1..40),
    ) {
        let me = id(0, 1, 0, 7940);
        let plain = SwimConfig { lifeguard: false, ..SwimConfig::default() };
        let mut member = Member::new(me.clone(), plain, 7);
        let mut twin = Member::new(me, plain, 7);
        let mut now = Time(1_000_000);
        let mut told = std::collections::BTreeMap::new();
        for step in &steps {
            let mut bytes = Vec::new();
            match step {
                Step::Packet { src, incarnation, kind, updates, tail } => {
                    bytes = packet(&member.id().clone(), src, *incarnation, *kind, updates);
                    bytes.extend_from_slice(tail);
                    // Its own packets a node never gets: the link says whose they are.
                    if src.name != member.id().name {
                        let _ = member.handle_packet(now, &src.name, &bytes);
                    }
                }
                Step::Merge(records) => member.merge(now, records.clone()),
                Step::Pass(ms) => {
                    now = now + Duration::from_millis(*ms);
                    member.handle_timeout(now);
                }
                Step::Leave => member.leave(now),
            }
            give_all(&mut twin, now, step, &bytes);
            let list = |m: &Member| m.foca.iter_membership_state().cloned().collect::<Vec<_>>();
            prop_assert_eq!(list(&member), list(&twin));
            prop_assert_eq!(&member.effects.outbox, &twin.effects.outbox);
            prop_assert_eq!(member.poll_timeout(), twin.poll_timeout());
            prop_assert_eq!(member.timers(), twin.timers());
            prop_assert_eq!(member.id(), twin.id());

            let mut held: Vec<_> = list(&member).iter().map(MemberRecord::of).collect();
            held.sort_by(|a, b| a.id.name.cmp(&b.id.name));
            let (upto, behind) = member.effects.known.around(&member.id().name);
            let copy: Vec<_> = upto.chain(behind).cloned().collect();
            prop_assert_eq!(&held, &copy);
            // Whoever reads only what changed knows all of it.
            for name in member.changes() {
                match member.state(&name) {
                    Some(state) => told.insert(name, state),
                    None => told.remove(&name),
                };
            }
            let states: Vec<_> = held.iter().map(|m| member.state(&m.id.name).unwrap()).collect();
            prop_assert_eq!(told.values().copied().collect::<Vec<_>>(), states);
        }
    }
}

/// The law above found it: what was said before in the same view had changed what the copy still held.
#[test]
fn what_is_said_of_one_member_twice_in_one_view_is_told_to_foca_twice() {
    let said = |port| MemberRecord { id: id(3, 1, 0, port), incarnation: 0, state: 0 };
    let mut member = Member::new(id(0, 1, 0, 7940), SwimConfig::default(), 7);
    member.merge(Time(1), vec![said(7940)]);
    member.merge(Time(2), vec![said(7941), said(7940)]);
    assert_eq!(member.address(&said(0).id.name), Some(said(7940).id.address));
}

/// A recording found it: whoever looked only at packets with updates went on with the suspicion.
#[test]
fn a_suspicion_that_ends_with_the_head_of_a_packet_is_news() {
    let mut member = Member::new(id(0, 1, 0, 7940), SwimConfig::default(), 7);
    let suspect = MemberRecord { id: id(3, 1, 0, 7940), incarnation: 0, state: 1 };
    let name = suspect.id.name.clone();
    member.merge(Time(1), vec![suspect.clone()]);
    assert!(member.changes().contains(&name) && !member.has_changed());
    let refuted = packet(&member.id().clone(), &suspect.id, 1, 2, &[]);
    member.handle_packet(Time(2), &name, &refuted).unwrap();
    assert_eq!(member.state(&name).unwrap().swim, Swim::Alive);
    assert!(member.has_changed() && member.changes().contains(&name));
}
