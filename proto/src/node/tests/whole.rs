//! Nodes that begin in a whole mesh know what others are told.

use super::*;
use crate::view::MemberView;

const NAMES: [&str; 4] = ["c1", "h1", "h2", "w1"];

fn keys(n: &str) -> Box<Hash> {
    Box::new(Hash(Identity::Node(name(n))))
}

fn config_of(n: &str) -> NodeConfig {
    let role = match n.as_bytes()[0] {
        b'h' => Some(Role::Hot),
        b'w' => Some(Role::Warm { priority: 0 }),
        _ => None,
    };
    config(n, role, n.starts_with('c'))
}

fn whole(now: Time) -> Whole {
    let mut whole = Whole::default();
    for n in NAMES {
        for signed in Node::new(config_of(n), keys(n), now).table_records() {
            whole.add(signed, &*keys(n), now).unwrap();
        }
    }
    whole
}

#[test]
fn who_begins_in_a_whole_mesh_knows_what_those_who_met_know_and_says_nothing_new() {
    let mut lab = Lab { now: Time(1_000_000), ..Lab::default() };
    let whole = whole(lab.now);
    for n in NAMES {
        let node = Node::in_whole(config_of(n), keys(n), lab.now, &whole);
        lab.nodes.insert(name(n), node);
    }
    let roots = |lab: &Lab| -> BTreeSet<(u64, u64)> {
        let roots = |n: &Node| (n.table().tree().root(), n.member.tree().root());
        lab.nodes.values().map(roots).collect()
    };
    assert_eq!(roots(&lab).len(), 1);
    for node in lab.nodes.values() {
        let view = node.members_view(lab.now);
        assert_eq!(view.len(), NAMES.len());
        assert!(view.iter().all(MemberView::lives), "{view:?}");
    }
    lab.run(Duration::from_secs(5));
    let said = lab.sent.iter().filter(|(_, t)| {
        matches!(t, Transmit::Message { message: Message::Adverts(_) | Message::Leaves(_), .. })
    });
    assert_eq!(said.count(), 0, "all knew all of each other");
    assert_eq!(roots(&lab).len(), 1);

    let met = Lab::new(&NAMES);
    lab.healthy("h");
    lab.run(Duration::from_secs(3));
    assert_eq!(lab.choice("c1"), met.choice("c1"));
    lab.lose("h1");
    lab.run(ms(100));
    assert_eq!(lab.condition("w1"), Condition::Activating, "a loss is answered as ever");
}

#[test]
fn a_record_that_does_not_hold_is_not_added() {
    let mut whole = Whole::default();
    let mut signed = record("h1", Version { generation: Generation(1), revision: 1 });
    signed.signature = Arc::from([0; 8]);
    assert!(whole.add(signed, &*keys("h1"), Time(0)).is_err());
    let node = Node::in_whole(config_of("c1"), keys("c1"), Time(0), &whole);
    assert_eq!(node.members_view(Time(0)).len(), 1, "but for itself");
}
