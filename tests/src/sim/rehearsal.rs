//! Drills in a whole mesh: as a loss for routing, without one, and over in time whoever dies.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_proto::advert::Condition;
use hearth_proto::drill::Lose;
use hearth_proto::node::DrillAsk;
use hearth_proto::time::Span;

use super::fault::Fault;
use super::host::Life;
use super::mesh::{CALLER, LEDGER_HOT, node_name, service};
use super::world::World;
use super::{At, MS, S};

/// How long the drills here last.
const LENGTH: Duration = Duration::from_secs(8);
/// Until everybody has heard of one: a push, and the rounds of half a second for whom it missed.
const SPREAD: f64 = 1.5;

impl World {
    fn drill(&mut self, at: usize, victim: usize, force: bool) {
        let ask = DrillAsk {
            service: service("ledger"),
            lose: Lose::Node(node_name(victim)),
            length: Span(LENGTH),
            abort_above: None,
            force,
        };
        self.checks.drilled = self.now.max(1);
        let begun = self.step(at, |node, now| node.start_drill(now, ask));
        self.expect(matches!(begun, Some(Ok(_))), || format!("the drill to begin: {begun:?}"));
    }

    /// Hosts that run, and on which a drill does. One that is stopped serves nobody, and ends it with its
    /// first step.
    fn drilling(&self) -> Vec<usize> {
        let runs = |host: &usize| {
            let h = &self.hosts[*host];
            let node = h.node.as_ref().filter(|_| h.life == Life::Running);
            node.is_some_and(|n| !n.snapshot().drilled.is_empty())
        };
        (0..self.hosts.len()).filter(runs).collect()
    }

    fn running(&self) -> usize {
        self.hosts.iter().filter(|h| h.life == Life::Running).count()
    }
}

/// A drill moves requests and calls one warm endpoint up, like a loss; it ends by itself everywhere, though
/// who began it is gone, and no request fails.
pub(super) fn drill(w: &mut World) {
    w.settle();
    let failed = w.stats.failed;
    let began = w.now;
    w.drill(CALLER, LEDGER_HOT[0], false);
    let called = w.until(1.0, |w| w.up() == 1);
    w.expect(called.is_some_and(|t| t < 700 * MS), || {
        format!("a warm endpoint called up within 0.7 s, took {called:?} µs")
    });
    let all = w.until(SPREAD, |w| w.drilling().len() == w.running());
    let drilling = w.drilling();
    w.expect(all.is_some(), || format!("all to drill, {drilling:?} do"));
    let names: BTreeSet<_> = w.names.values().flatten().cloned().collect();
    w.expect(names.len() == 1, || format!("one name for one loss: {names:?}"));
    // The one who began it dies, and one that knows of it comes back with an empty memory.
    w.inflict(&Fault::Crash(CALLER));
    w.inflict(&Fault::Crash(LEDGER_HOT[2]));
    w.pass(1.0);
    w.inflict(&Fault::Boot(LEDGER_HOT[2], false));
    over_in_time(w, began);
    w.pass(3.0);
    let back = w.hosts[2].node.as_ref().is_some_and(|n| {
        let snapshot = n.snapshot();
        snapshot.services.get(&service("ledger")).is_some_and(|r| {
            r.choice.indices().iter().any(|i| r.candidates[*i].id.node == node_name(LEDGER_HOT[0]))
        })
    });
    w.expect(back, || "requests to go where the drill was".to_owned());
    w.inflict(&Fault::Boot(CALLER, false));
    w.rest(30.0);
    let (calls, failed) = (w.calls(), w.stats.failed - failed);
    w.expect((1..=2).contains(&calls), || {
        format!("a call-up for the drill, one for the crash: {calls}")
    });
    let bench = w.warm_in(&[Condition::Standby]);
    w.expect(bench == 2, || "the bench to be back".to_owned());
    w.expect(failed == 0, || format!("no failed request, {failed} failed"));
}

/// Nobody drills later than its length after it began, a message's way apart.
fn over_in_time(w: &mut World, began: At) {
    let end = began + u64::try_from(LENGTH.as_micros()).unwrap_or(u64::MAX);
    let left = end.saturating_sub(w.now);
    w.pass(left as f64 / S as f64 - 0.2);
    let still = w.drilling().len();
    w.expect(still > 0, || "the drill to last its time".to_owned());
    w.pass(1.2);
    let late = w.drilling();
    w.expect(late.is_empty(), || format!("the drill to be over a second after its time: {late:?}"));
}

/// The mesh is cut while a drill runs, and heals when it is over: no side revives it.
pub(super) fn drill_cut(w: &mut World) {
    w.settle();
    w.checks.strict = false;
    let began = w.now;
    w.drill(CALLER, LEDGER_HOT[0], false);
    w.pass(2.0);
    let (a, b): (Vec<usize>, Vec<usize>) = (0..w.hosts.len()).partition(|i| i % 2 == 0);
    w.inflict(&Fault::Block(a.clone(), b.clone()));
    w.inflict(&Fault::Block(b.clone(), a.clone()));
    w.inflict(&Fault::Pause(LEDGER_HOT[1]));
    over_in_time(w, began);
    w.inflict(&Fault::Free(a.clone(), b.clone()));
    w.inflict(&Fault::Free(b, a));
    w.inflict(&Fault::Resume(LEDGER_HOT[1]));
    w.pass(3.0);
    let revived = w.drilling();
    w.expect(revived.is_empty(), || format!("nobody to drill again: {revived:?}"));
    w.rest(40.0);
}

/// Where a drill would leave nobody it is refused; with force it is made, and requests fail as they would.
pub(super) fn drill_last(w: &mut World) {
    w.settle();
    let every = |w: &mut World, force: bool| {
        let ask = DrillAsk {
            service: service("ledger"),
            lose: Lose::Zone("nowhere".to_owned()),
            length: Span(LENGTH),
            abort_above: None,
            force,
        };
        w.step(CALLER, |node, now| node.start_drill(now, ask))
    };
    let nothing = every(w, true);
    w.expect(matches!(&nothing, Some(Err(e)) if e.reason() == "nothing"), || {
        format!("a drill of nothing to be refused: {nothing:?}")
    });
    let began = w.now;
    w.drill(CALLER, LEDGER_HOT[0], false);
    let second = every(w, true);
    w.expect(second.is_some_and(|s| s.is_err()), || "a second drill to be refused".to_owned());
    over_in_time(w, began);
    w.rest(30.0);
}
