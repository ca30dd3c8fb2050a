//! An agent that was stopped and goes on: it judges and moves nobody before it has caught up. One that ran
//! all the while does not wait.

use super::*;
use crate::policy::{Failback, Patience};
use crate::time::Span;

const STOP: Duration = Duration::from_secs(12);

impl Lab {
    /// `n` stands still while the others go on, and is not yet told that it may run again.
    pub(super) fn stop(&mut self, n: &str, long: Duration) {
        self.gone.insert(name(n));
        self.run(long);
        self.gone.remove(&name(n));
    }

    /// It goes on: timers first, then its links, all of which died meanwhile.
    fn go_on(&mut self, n: &str) {
        let now = self.now;
        self.node(n).handle_timeout(now);
        for peer in self.peers(n) {
            self.node(n).handle_link(now, &peer, LinkInput::Closed { orderly: false });
        }
        self.pump();
    }

    /// Its links are made anew.
    fn relink(&mut self, n: &str, with: &[NodeName]) {
        let now = self.now;
        for peer in with {
            let (ours, theirs) = (self.node(n).hello(), self.node(peer.as_str()).hello());
            self.node(n).handle_link(now, peer, LinkInput::Up(theirs));
            self.node(peer.as_str()).handle_link(now, &name(n), LinkInput::Up(ours));
        }
        self.pump();
    }

    fn peers(&self, n: &str) -> Vec<NodeName> {
        self.nodes.keys().filter(|peer| **peer != name(n)).cloned().collect()
    }

    /// A short hold, no ramp.
    fn hold(&mut self, long: Duration) {
        let failback = Failback::After(Span(long));
        let ramp = Patience::Endless;
        self.give_policy(1, ServicePolicy { failback, ramp, ..Default::default() });
        self.run(ms(500));
    }
}

fn opened(e: &Event) -> bool {
    matches!(e, Event::IncidentOpened { .. })
}

/// Seeds 121, 139, 227, 358 and 375 of `hotwarm`.
#[test]
fn an_agent_that_was_stopped_calls_nobody_up_for_links_that_died_meanwhile() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.stop("w1", STOP);
    lab.events.clear();
    lab.go_on("w1");
    assert!(matches!(lab.standing("w1", "h1"), Standing::Doubtful(_)), "traffic does not wait");
    lab.run(ms(900));
    lab.relink("w1", &lab.peers("w1"));
    lab.run(Duration::from_secs(5));
    assert_eq!((lab.count(activated), lab.count(opened)), (0, 0));
}

#[test]
fn an_agent_that_was_stopped_calls_up_for_a_real_loss_as_soon_as_it_has_caught_up() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.stop("w1", STOP);
    lab.lose("h1");
    lab.go_on("w1");
    lab.relink("w1", &["c1", "h2"].map(name));
    lab.run(CATCH_UP - ms(1));
    assert_eq!(lab.count(activated), 0);
    lab.run(ms(1));
    assert_eq!(lab.condition("w1"), Condition::Activating);
}

#[test]
fn a_stop_is_caught_up_with_in_as_long_as_it_lasted() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.stop("w1", ms(700));
    let now = lab.now;
    lab.node("w1").handle_timeout(now);
    lab.lose("h1");
    lab.run(ms(400));
    assert_eq!(lab.count(activated), 0);
    lab.run(ms(300));
    assert_eq!(lab.count(activated), 1);
}

#[test]
fn an_agent_that_ran_all_the_while_or_was_only_a_little_late_waits_for_nothing() {
    for late in [0, 50, 95] {
        let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
        let due = lab.nodes[&name("w1")].poll_timeout();
        lab.run(due.since(lab.now).saturating_sub(ms(1)));
        lab.stop("w1", ms(1 + late));
        let now = lab.now;
        lab.node("w1").handle_timeout(now);
        lab.lose("h1");
        lab.run(CONFIRM_SILENCE);
        assert_eq!(lab.count(activated), 1, "{late} ms late");
    }
}

#[test]
fn a_stop_does_not_make_a_lost_host_return() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.hold(Duration::from_secs(4));
    lab.lose("h1");
    lab.run(ms(200));
    let now = lab.now;
    lab.hook("w1", Ok(()));
    lab.node("w1").handle_health(now, &at("w1"), true);
    lab.run(Duration::from_secs(1));
    lab.stop("w1", STOP);
    lab.events.clear();
    lab.go_on("w1");
    let hot = lab.nodes[&name("w1")].snapshot().services[&ledger()].tally.hot;
    assert_eq!(hot, 1, "h1 was lost before, h2 is spared");
    lab.relink("w1", &["c1", "h2"].map(name));
    lab.run(Duration::from_secs(20));
    assert_eq!(lab.condition("w1"), Condition::Serving);
    let lost_again =
        |e: &Event| matches!(e, Event::IncidentOpened { key, .. } if key.lost == at("h1"));
    assert_eq!(lab.count(lost_again), 0);
}

/// An activated endpoint that is no longer needed, with a hold of 4 s just begun.
fn held() -> Lab {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.hold(Duration::from_secs(4));
    let now = lab.now;
    lab.node("h1").handle_health(now, &at("h1"), false);
    lab.run(ms(100));
    let now = lab.now;
    lab.hook("w1", Ok(()));
    lab.node("w1").handle_health(now, &at("w1"), true);
    lab.healthy("h1");
    lab
}

#[test]
fn a_long_stop_within_the_hold_begins_it_anew() {
    let mut lab = held();
    lab.run(Duration::from_secs(1));
    lab.stop("w1", STOP);
    lab.go_on("w1");
    lab.relink("w1", &lab.peers("w1"));
    lab.run(ms(3_900));
    assert_eq!(lab.condition("w1"), Condition::Serving, "what it learnt last was old");
    lab.run(Duration::from_secs(2));
    assert_eq!(lab.condition("w1"), Condition::Standby);
}

#[test]
fn a_hold_that_ended_during_a_short_stop_is_over_once_that_is_caught_up_with() {
    let mut lab = held();
    lab.run(ms(3_800));
    lab.stop("w1", ms(600));
    let now = lab.now;
    lab.node("w1").handle_timeout(now);
    lab.run(ms(350));
    assert_eq!(lab.condition("w1"), Condition::Serving, "it may be needed by now");
    lab.run(ms(250));
    assert_eq!(lab.condition("w1"), Condition::Draining);
}

#[test]
fn a_wake_that_lay_unread_while_we_were_stopped_is_heeded_only_when_it_is_repeated() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.stop("w1", STOP);
    lab.go_on("w1");
    let say = |lab: &mut Lab| {
        let now = lab.now;
        lab.node("w1").handle_message(now, &Identity::Node(name("c1")), wake(loss_of("h1")));
        lab.pump();
    };
    say(&mut lab);
    say(&mut lab);
    assert_eq!(lab.count(activated), 0);
    lab.run(ms(500));
    say(&mut lab);
    assert_eq!(lab.count(activated), 1, "its caller still waits");
}
