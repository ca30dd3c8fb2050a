//! Drills: losses on purpose, as every node of a mesh without delay lives them.

use super::*;
use crate::drill::{DrillId, DrillRefused, Lose, Plan, Said, Word};
use crate::node::DrillAsk;
use crate::policy::Drills;
use crate::time::Span;

fn ask(node: &str, seconds: u64) -> DrillAsk {
    DrillAsk {
        service: ledger(),
        lose: Lose::Node(name(node)),
        length: Span(Duration::from_secs(seconds)),
        abort_above: None,
        force: false,
    }
}

impl Lab {
    fn drill(&mut self, by: &str, ask: DrillAsk) -> Result<DrillId, DrillRefused> {
        let now = self.now;
        let begun = self.node(by).start_drill(now, ask);
        self.pump();
        begun
    }

    fn word(&mut self, to: &str, from: &str, said: Said) {
        let now = self.now;
        let message = Message::Drill(vec![said]);
        self.node(to).handle_message(now, &Identity::Node(name(from)), message);
        self.pump();
    }

    /// Nodes that are there and on which a drill runs.
    fn drilling(&self) -> Vec<&str> {
        let there = self.nodes.iter().filter(|(name, _)| !self.gone.contains(*name));
        let runs = there.filter(|(_, node)| !node.snapshot().drilled.is_empty());
        runs.map(|(name, _)| name.as_str()).collect()
    }

    fn refused(&self, wanted: &str) -> usize {
        self.count(
            |e| matches!(e, Event::Refused { what: "drill", reason, .. } if *reason == wanted),
        )
    }
}

fn plan(node: &str, by: &str, seconds: u64) -> Plan {
    Plan {
        id: DrillId(7),
        service: ledger(),
        lose: Lose::Node(name(node)),
        length: Span(Duration::from_secs(seconds)),
        abort_above: None,
        force: true,
        by: name(by),
        started: Wall(1),
    }
}

fn said(word: &Word, by: &str, seconds: u64) -> Said {
    let keys = Hash(Identity::Node(name(by)));
    let mut said = Said::sign(word, name(by), &keys).unwrap();
    said.left = Span(Duration::from_secs(seconds));
    said
}

#[test]
fn a_drill_is_a_loss_for_every_node_and_over_by_itself() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.drill("c1", ask("h1", 10)).unwrap();
    assert_eq!(lab.drilling(), ["c1", "h1", "h2", "w1"]);
    assert!(matches!(lab.standing("c1", "h1"), Standing::Doubtful(Why::Drill { .. })));
    assert_eq!(lab.choice("c1"), Choice::Serve(vec![1]), "requests leave at once");
    assert_eq!(lab.count(activated), 0, "nobody is called up before it is confirmed");
    lab.run(CONFIRM_SILENCE);
    assert!(matches!(lab.standing("c1", "h1"), Standing::Out(Why::Drill { .. })));
    assert!(matches!(lab.standing("h1", "h1"), Standing::Out(Why::Drill { .. })), "itself too");
    assert_eq!(lab.count(activated), 1, "one lost, one called");
    assert_eq!(lab.condition("h1"), Condition::Serving, "its owner's word stays");
    let opened: BTreeSet<IncidentKey> = lab
        .events
        .iter()
        .filter_map(|(_, e)| match e {
            Event::IncidentOpened { key, reason: "drill", .. } => Some(key.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(opened.len(), 1, "one name for it");
    lab.run(Duration::from_secs(10));
    assert!(lab.drilling().is_empty());
    assert_eq!(lab.standing("c1", "h1"), Standing::Ready);
    let views = lab.nodes[&name("c1")].incidents_view();
    assert!(views[0].drill.is_some() && views[0].recovered.is_some(), "{views:?}");
    let drill = &lab.nodes[&name("c1")].drill_views(lab.now)[0];
    assert_eq!(drill.why_over.as_deref(), Some("its time is over"));
    assert!(drill.part.detected.is_some() && drill.part.back.is_some(), "{drill:?}");
}

#[test]
fn other_services_on_the_node_are_not_concerned_and_neither_is_its_membership() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.drill("c1", ask("h1", 10)).unwrap();
    lab.run(Duration::from_secs(1));
    let members = lab.nodes[&name("c1")].members_view(lab.now);
    assert!(members.iter().all(|m| m.state == "alive"), "{members:?}");
    let payroll = ServiceName::parse("payroll").unwrap();
    let drills = &lab.nodes[&name("c1")].drills;
    assert!(drills.running(&ledger()).is_some() && drills.running(&payroll).is_none());
}

#[test]
fn a_drill_that_would_leave_nobody_is_refused_without_force() {
    let mut lab = Lab::new(&["c1", "h1"]);
    let refused = lab.drill("c1", ask("h1", 10)).unwrap_err();
    assert_eq!(refused.reason(), "last_capacity");
    let forced = DrillAsk { force: true, ..ask("h1", 10) };
    lab.drill("c1", forced).unwrap();
    lab.run(CONFIRM_SILENCE);
    assert_eq!(lab.choice("c1"), Choice::Nobody, "as real as a loss");
    // A warm endpoint that can be called up is somebody.
    let mut lab = Lab::new(&["c1", "h1", "w1"]);
    lab.drill("c1", ask("h1", 10)).unwrap();
}

#[test]
fn a_drill_of_nothing_too_long_or_beside_another_is_refused() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    assert_eq!(lab.drill("c1", ask("c1", 10)).unwrap_err().reason(), "nothing");
    assert_eq!(lab.drill("c1", ask("h1", 601)).unwrap_err().reason(), "length");
    lab.drill("c1", ask("h1", 10)).unwrap();
    assert_eq!(lab.drill("h2", ask("h2", 10)).unwrap_err().reason(), "busy");
}

#[test]
fn a_policy_that_forbids_drills_is_kept_by_every_node_whoever_begins_one() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.give_policy(1, ServicePolicy { drills: Drills::Off, ..ServicePolicy::default() });
    lab.run(Duration::from_secs(3));
    assert_eq!(lab.drill("c1", ask("h1", 10)).unwrap_err().reason(), "forbidden");
    let word = said(&Word::Begin(plan("h1", "h2", 10)), "h2", 10);
    lab.word("c1", "h2", word);
    assert_eq!(lab.refused("forbidden"), 1);
    assert!(lab.drilling().is_empty());
}

#[test]
fn a_policy_that_forbids_drills_ends_the_one_that_runs() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.drill("c1", ask("h1", 60)).unwrap();
    lab.run(Duration::from_secs(1));
    let reason = lab.nodes[&name("c1")].routes_view()[0].reason.clone();
    assert!(reason.contains("node h1 taken for lost"), "{reason}");
    lab.give_policy(1, ServicePolicy { drills: Drills::Off, ..ServicePolicy::default() });
    lab.run(Duration::from_secs(4));
    assert!(lab.drilling().is_empty(), "{:?}", lab.drilling());
}

#[test]
fn a_word_that_its_author_did_not_sign_changes_nothing() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    let mut forged = said(&Word::Begin(plan("h1", "h2", 10)), "h2", 10);
    forged.signature = Arc::from([0]);
    lab.word("c1", "h2", forged);
    assert_eq!(lab.refused("untrusted"), 1);
    // In another's name, though by a member.
    let other = said(&Word::Begin(plan("h1", "h2", 10)), "w1", 10);
    lab.word("c1", "w1", other);
    assert_eq!(lab.refused("malformed"), 1);
    let long = said(&Word::Begin(plan("h1", "h2", 3_600)), "h2", 3_600);
    lab.word("c1", "h2", long);
    assert_eq!(lab.refused("length"), 1);
    assert!(lab.drilling().is_empty());
}

#[test]
fn an_end_reaches_everybody_and_an_agent_that_sees_the_stated_breach_says_one() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    let id = lab.drill("h2", ask("h1", 60)).unwrap();
    lab.run(Duration::from_secs(1));
    let now = lab.now;
    assert!(lab.node("w1").stop_drill(now, id, "enough"));
    lab.pump();
    assert!(lab.drilling().is_empty());
    let watched = DrillAsk { abort_above: Some(100), ..ask("h1", 60) };
    lab.drill("h2", watched).unwrap();
    let now = lab.now;
    lab.node("c1").handle_toll(now, &[(ledger(), 100, 1)]);
    lab.pump();
    assert_eq!(lab.drilling().len(), 4, "one of a hundred is not more than 1 %");
    lab.node("c1").handle_toll(now, &[(ledger(), 0, 1)]);
    lab.pump();
    assert!(lab.drilling().is_empty());
    let drills = lab.nodes[&name("h1")].drill_views(lab.now);
    let why = drills[0].why_over.as_deref().unwrap();
    assert_eq!(why, "aborted by c1: 2 of 100 requests failed, more than 1 %");
}

#[test]
fn who_joins_during_a_drill_learns_of_it_and_ends_it_with_the_others() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.drill("c1", ask("h1", 8)).unwrap();
    lab.run(Duration::from_secs(2));
    let keys = Hash(Identity::Node(name("h2")));
    let fresh = NodeConfig { generation: Generation(2), ..config("h2", Some(Role::Hot), false) };
    let fresh = Node::new(fresh, Box::new(keys), lab.now);
    lab.nodes.insert(name("h2"), fresh);
    lab.linked.retain(|(a, b)| a.as_str() != "h2" && b.as_str() != "h2");
    for peer in ["c1", "h1", "w1"] {
        lab.link(&name("h2"), &name(peer));
        lab.link(&name(peer), &name("h2"));
    }
    lab.healthy("h2");
    lab.run(Duration::from_secs(3));
    assert!(lab.drilling().contains(&"h2"), "{:?}", lab.drilling());
    lab.run(Duration::from_secs(3));
    assert!(lab.drilling().is_empty(), "{:?}", lab.drilling());
}

#[test]
fn a_node_that_is_lost_indeed_during_its_drill_stays_out_when_it_is_over() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.drill("c1", ask("h1", 5)).unwrap();
    lab.run(Duration::from_secs(1));
    lab.lose("h1");
    lab.run(Duration::from_secs(6));
    assert!(lab.drilling().is_empty());
    assert_ne!(lab.standing("c1", "h1"), Standing::Ready);
    let view = &lab.nodes[&name("c1")].incidents_view()[0];
    assert!(view.timeline.iter().any(|e| e.event == "still-lost"), "{view:?}");
}
