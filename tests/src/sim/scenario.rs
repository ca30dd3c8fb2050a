//! The named scenarios, each with what it must show.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use hearth_proto::advert::{Condition, Role};
use hearth_proto::document::Content;
use hearth_proto::policy::{Failback, Patience, Policy, ServicePolicy};
use hearth_proto::time::{Span, Wall};

use rand::RngExt;

use super::application::{Gray, WELL};
use super::availability::availability;
use super::failover::failover;
use super::fault::Fault;
use super::host::{EPOCH, Life};
use super::hotwarm::hotwarm;
use super::mesh::{CALLER, LEDGER_HOT, LEDGER_WARM, node_name, service};
use super::random::random;
use super::rehearsal::{drill, drill_cut, drill_last};
use super::world::{What, World};
use super::{MS, S};

/// The hold of failback in the simulator's policy: short, so that virtual time is.
pub const HOLD: Duration = Duration::from_secs(4);

/// A named scenario.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(&mut World),
}

/// All scenarios; the first is the default.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "random",
        about: "a random mesh under a random mix of faults, then rest",
        run: random,
    },
    Scenario {
        name: "hotwarm",
        about: "losses, flaps, partitions, slow and failing hooks: who is called up, how long too few serve",
        run: hotwarm,
    },
    Scenario {
        name: "failover",
        about: "every kind of fault over a busy mesh: how long requests still go where it is",
        run: failover,
    },
    Scenario {
        name: "availability",
        about: "hosts fail and are repaired at random: how often too few serve, beside the plan",
        run: availability,
    },
    Scenario {
        name: "gray",
        about: "an endpoint answers errors, then slowly: out within 3 s, back when it is well",
        run: gray,
    },
    Scenario { name: "calm", about: "nothing happens: nobody is called up", run: calm },
    Scenario {
        name: "one-host-lost",
        about: "one hot host is gone: exactly one warm is called, and stands down after the hold",
        run: one_host_lost,
    },
    Scenario {
        name: "all-hot-lost",
        about: "every hot host is gone at once: requests are held, the warm ones woken",
        run: all_hot_lost,
    },
    Scenario {
        name: "partition",
        about: "the mesh is cut in halves for 20 s and heals",
        run: partition,
    },
    Scenario {
        name: "one-way",
        about: "a caller's packets to one hot host vanish, its answers would arrive",
        run: one_way,
    },
    Scenario {
        name: "caller-cut",
        about: "one caller cannot reach any hot host; the warm ones it can reach are woken for it",
        run: caller_cut,
    },
    Scenario {
        name: "documents",
        about: "a policy given to one agent reaches all, also one that was off",
        run: documents,
    },
    Scenario {
        name: "from-disk",
        about: "an agent restarted from disk serves its callers before it has heard anyone",
        run: from_disk,
    },
    Scenario {
        name: "forgery",
        about: "records in another's name change nothing and are counted",
        run: forgery,
    },
    Scenario {
        name: "pause",
        about: "a host stopped for less than the suspicion is not declared down, and returns once",
        run: pause,
    },
    Scenario {
        name: "restart",
        about: "a hot host leaves in good order and returns: nobody is called up for its start",
        run: restart,
    },
    Scenario {
        name: "figures",
        about: "how long things take in this mesh; the story says it",
        run: figures,
    },
    Scenario {
        name: "revoked",
        about: "a revoked node is out everywhere, and back with a newer certificate",
        run: revoked,
    },
    Scenario {
        name: "drill",
        about: "a hot host is taken for lost on purpose: as a loss, over in time though its author dies",
        run: drill,
    },
    Scenario {
        name: "drill-cut",
        about: "the mesh is cut while a drill runs: over in time on both sides, not revived",
        run: drill_cut,
    },
    Scenario {
        name: "drill-last",
        about: "a drill of nothing and a second one are refused",
        run: drill_last,
    },
];

/// The scenario of a name.
pub fn named(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|s| s.name == name)
}

impl World {
    fn give_policy(&mut self, host: usize, version: u64) {
        let failback = Failback::After(Span(HOLD));
        self.expect_failback(failback);
        // Short for the same reason: a suppression lasts three half-lives at most.
        let damping = Patience::For(Span(Duration::from_secs(3)));
        let one = ServicePolicy { failback, damping, ..ServicePolicy::default() };
        let services = self.services().into_iter().map(|s| (s, one.clone())).collect();
        self.give(host, version, Content::Policy(Policy { services, ..Policy::default() }));
    }

    /// Starts all hosts within two seconds, gives out the policy and lets the mesh settle until 20 s.
    pub(super) fn settle(&mut self) {
        for host in 0..self.hosts.len() {
            let at = self.rng.random_range(0..2 * S);
            self.at(at, What::Fault(Fault::Boot(host, false)));
        }
        self.at(S, What::Sample);
        self.run_until(4 * S);
        self.give_policy(0, 1);
        self.run_until(20 * S);
        self.checks.faults = 0;
        self.stats.failures.clear();
        self.stats.sent.clear();
        self.stats.settled = self.now;
    }

    pub(super) fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let what = what();
            self.tell(|| format!("EXPECTED {what}"));
            self.checks.violate(self.now, &format!("expected {what}"));
        }
    }

    /// Warm endpoints of `ledger` in one of these conditions, by their owners' word.
    pub(super) fn warm_in(&self, conditions: &[Condition]) -> usize {
        let all = self.endpoints(&service("ledger"));
        all.iter()
            .filter(|(_, _, role)| *role != Role::Hot)
            .filter(|(h, id, _)| self.condition(*h, id).is_some_and(|c| conditions.contains(&c)))
            .count()
    }

    pub(super) fn up(&self) -> usize {
        self.warm_in(&[Condition::Serving, Condition::Activating])
    }

    pub(super) fn calls(&self) -> u32 {
        self.checks.activations.values().sum()
    }

    /// Lets `seconds` pass.
    pub(super) fn pass(&mut self, seconds: f64) {
        self.run_until(self.now + (seconds * S as f64) as u64);
    }

    /// Runs until `done` or for `seconds`; says how long it took.
    pub(super) fn until(&mut self, seconds: f64, done: impl Fn(&Self) -> bool) -> Option<u64> {
        let began = self.now;
        let end = began + (seconds * S as f64) as u64;
        while self.now < end {
            if done(self) {
                return Some(self.now - began);
            }
            self.run_until(self.now + MS);
        }
        None
    }

    pub(super) fn rest(&mut self, seconds: f64) {
        self.pass(seconds);
        self.check_rest();
    }
}

fn calm(w: &mut World) {
    w.settle();
    let failed = w.stats.failed;
    w.rest(60.0);
    let (calls, incidents, failed) = (w.calls(), w.stats.incidents, w.stats.failed - failed);
    w.expect(calls == 0, || format!("no call-up, {calls} were made"));
    w.expect(incidents == 0, || format!("no incident, {incidents} were opened"));
    w.expect(failed == 0, || format!("no failed request, {failed} failed"));
}

fn one_host_lost(w: &mut World) {
    w.settle();
    let failed = w.stats.failed;
    w.inflict(&Fault::Crash(LEDGER_HOT[0]));
    let called = w.until(1.0, |w| w.up() == 1);
    w.expect(called.is_some_and(|t| t < 700 * MS), || {
        format!("a warm endpoint called up within 0.7 s, took {called:?} µs")
    });
    w.pass(15.0);
    let (up, calls) = (w.up(), w.calls());
    w.expect((up, calls) == (1, 1), || format!("exactly one call-up; {up} up, {calls} calls"));
    let names: usize = w.names.values().map(BTreeSet::len).sum();
    w.expect(names == 1, || format!("one name for one loss, {names} were given"));
    w.inflict(&Fault::Boot(LEDGER_HOT[0], false));
    let back = w.until(2.5, |w| w.warm_in(&[Condition::Draining]) > 0);
    w.expect(back.is_none(), || format!("no failback before the hold, after {back:?} µs"));
    let back = w.until(8.0, |w| w.warm_in(&[Condition::Standby]) == 2);
    w.expect(back.is_some(), || "failback after the hold".to_owned());
    w.rest(20.0);
    let (calls, failed) = (w.calls(), w.stats.failed - failed);
    w.expect(calls == 1, || format!("no second call-up, {calls} in all"));
    w.expect(failed == 0, || format!("no failed request, {failed} failed"));
}

fn all_hot_lost(w: &mut World) {
    w.settle();
    let failed = w.stats.failed;
    w.stats.slowest = 0;
    for host in LEDGER_HOT {
        w.inflict(&Fault::Crash(host));
    }
    let up = w.until(1.0, |w| w.up() == 2);
    w.expect(up.is_some_and(|t| t < 500 * MS), || {
        format!("both warm endpoints called up within 0.5 s, took {up:?} µs")
    });
    let serving = w.until(6.0, |w| w.warm_in(&[Condition::Serving]) == 2);
    w.expect(serving.is_some(), || "both to serve after their hooks".to_owned());
    w.pass(10.0);
    let failed = w.stats.failed - failed;
    w.expect(failed == 0, || format!("held requests to be answered, {failed} failed"));
    for host in LEDGER_HOT {
        w.inflict(&Fault::Boot(host, false));
    }
    w.rest(40.0);
}

fn gray(w: &mut World) {
    // Of which an endpoint in another zone gets 15 in a hundred: 67 a second, enough for a verdict in time.
    w.rate = 450;
    w.settle();
    let id = w.endpoints(&service("ledger"))[0].1.clone();
    let out = |w: &World| -> usize { w.held_out(&id) };
    let callers = 4;
    for sick in [Gray { errors: 0.4, ..WELL }, Gray { slower: 20, ..WELL }] {
        w.inflict(&Fault::Gray(id.clone(), sick));
        let gone = w.until(3.0, |w| out(w) == callers);
        w.expect(gone.is_some(), || format!("all callers to leave {sick:?} within 3 s"));
        w.pass(4.0);
        w.inflict(&Fault::Gray(id.clone(), WELL));
        // Twice out while it was sick: 2 s and 4 s ± 10 %, then ten good answers of one request in sixteen.
        let back = w.until(12.0, |w| w.count_unwell() == 0);
        w.expect(back.is_some(), || "all callers to use it in full again".to_owned());
        w.pass(35.0);
    }
    let calls = w.calls();
    w.expect(calls == 0, || format!("nobody called up for it, {calls} were"));
    w.rest(10.0);
}

fn partition(w: &mut World) {
    w.settle();
    w.checks.strict = false;
    let (a, b): (Vec<usize>, Vec<usize>) = (0..w.hosts.len()).partition(|i| i % 2 == 0);
    w.inflict(&Fault::Block(a.clone(), b.clone()));
    w.inflict(&Fault::Block(b.clone(), a.clone()));
    w.pass(20.0);
    w.inflict(&Fault::Free(a.clone(), b.clone()));
    w.inflict(&Fault::Free(b, a));
    w.rest(40.0);
}

fn one_way(w: &mut World) {
    w.settle();
    let (calls, conditions) = (w.calls(), w.stats.conditions);
    w.inflict(&Fault::Block(vec![CALLER], vec![LEDGER_HOT[0]]));
    w.pass(20.0);
    w.inflict(&Fault::Free(vec![CALLER], vec![LEDGER_HOT[0]]));
    w.rest(30.0);
    let calls = w.calls() - calls;
    w.expect(calls <= 1, || format!("one caller's path calls up one at most, {calls} were"));
    let conditions = w.stats.conditions - conditions;
    w.expect(conditions <= 6, || format!("no flapping, {conditions} changes of condition"));
}

fn caller_cut(w: &mut World) {
    w.settle();
    let failed = w.stats.failed;
    w.inflict(&Fault::Block(vec![CALLER], LEDGER_HOT.into()));
    w.inflict(&Fault::Block(LEDGER_HOT.into(), vec![CALLER]));
    let up = w.until(3.0, |w| w.up() >= 1);
    w.expect(up.is_some_and(|t| t < 1_200 * MS), || {
        format!("a warm endpoint woken within 1.2 s, took {up:?} µs")
    });
    w.pass(10.0);
    let failed = w.stats.failed - failed;
    w.expect(failed == 0, || format!("its held requests to be answered, {failed} failed"));
    w.inflict(&Fault::Free(vec![CALLER], LEDGER_HOT.into()));
    w.inflict(&Fault::Free(LEDGER_HOT.into(), vec![CALLER]));
    w.rest(30.0);
}

fn documents(w: &mut World) {
    w.settle();
    w.inflict(&Fault::Crash(7));
    w.pass(1.0);
    w.give_policy(1, 2);
    let all = w.until(5.0, |w| policy_everywhere(w, 2));
    w.expect(all.is_some(), || "the policy to reach all within 5 s".to_owned());
    w.inflict(&Fault::Boot(7, false));
    let late = w.until(10.0, |w| policy_everywhere(w, 2));
    w.expect(late.is_some(), || "the policy to reach the one that was off".to_owned());
    w.rest(20.0);
}

fn policy_everywhere(w: &World, version: u64) -> bool {
    w.hosts
        .iter()
        .filter(|h| h.life == Life::Running)
        .all(|h| h.node.as_ref().is_some_and(|n| n.snapshot().policy_version == version))
}

fn from_disk(w: &mut World) {
    w.settle();
    w.inflict(&Fault::Crash(CALLER));
    w.pass(3.0);
    w.inflict(&Fault::Boot(CALLER, false));
    let node = w.hosts[CALLER].node.as_ref();
    let choice = node.and_then(|n| n.snapshot().services.get(&service("ledger")).cloned());
    let picks = choice.as_ref().map_or(0, |r| r.choice.indices().len());
    w.expect(picks == 3, || format!("to pick from three endpoints at once, {choice:?}"));
    let failed = w.stats.failed;
    w.pass(3.0);
    let failed = w.stats.failed - failed;
    w.expect(failed == 0, || format!("no failed request, {failed} failed"));
    w.rest(20.0);
}

fn forgery(w: &mut World) {
    w.settle();
    let digest = |w: &World| -> Vec<u64> {
        w.hosts.iter().filter_map(|h| Some(h.node.as_ref()?.table().tree().root())).collect()
    };
    let before = digest(w);
    w.inflict(&Fault::Forge(LEDGER_WARM[0], LEDGER_HOT[0]));
    let after = digest(w);
    w.expect(before == after, || "no table to change".to_owned());
    let refused: u64 =
        w.stats.refused.iter().filter(|(k, _)| k.starts_with("advert/")).map(|(_, n)| n).sum();
    w.expect(refused >= 24, || format!("every forged record to be counted, {refused} were"));
    w.rest(20.0);
    let calls = w.calls();
    w.expect(calls == 0, || format!("no call-up, {calls} were made"));
}

fn pause(w: &mut World) {
    w.settle();
    let victim = LEDGER_HOT[0];
    w.inflict(&Fault::Pause(victim));
    let mut down = false;
    for _ in 0..12 {
        w.pass(0.1);
        down |= w.hosts.iter().filter_map(|h| h.node.as_ref()).any(|n| {
            let views = n.members_view(hearth_proto::time::Time(w.now));
            views.iter().any(|m| m.node == node_name(victim) && m.state == "down")
        });
    }
    w.expect(!down, || "nobody to declare it down within 1.2 s".to_owned());
    w.inflict(&Fault::Resume(victim));
    w.rest(30.0);
    let calls = w.calls();
    w.expect(calls == 1, || format!("one call-up for one silence, {calls} were made"));
    let rejoins = w.stats.unstable;
    w.expect(rejoins == 0, || format!("all incidents to become stable, {rejoins} did not"));
}

fn restart(w: &mut World) {
    w.settle();
    let failed = w.stats.failed;
    w.inflict(&Fault::Leave(LEDGER_HOT[0]));
    w.pass(12.0);
    let calls = w.calls();
    w.inflict(&Fault::Boot(LEDGER_HOT[0], false));
    w.rest(30.0);
    let (now, failed) = (w.calls(), w.stats.failed - failed);
    w.expect(now == calls, || format!("nobody called up for its start, {} were", now - calls));
    w.expect(failed == 0, || format!("no failed request, {failed} failed"));
}

fn revoked(w: &mut World) {
    w.settle();
    let victim = LEDGER_HOT[0];
    // Certificates are issued when a host starts: this withdraws the one in use, not a later one.
    let moment = Wall(EPOCH + w.now);
    w.checks.revoked.insert(victim);
    w.give(1, 1, Content::Revocations(BTreeMap::from([(node_name(victim), moment)])));
    w.pass(5.0);
    let used = |w: &World| -> usize {
        let callers = [0usize, 1, 2, 12];
        let routes = callers.iter().filter_map(|c| {
            let snapshot = w.hosts[*c].node.as_ref()?.snapshot();
            snapshot.services.get(&service("ledger")).cloned()
        });
        routes
            .filter(|r| {
                r.choice.indices().iter().any(|i| r.candidates[*i].id.node == node_name(victim))
            })
            .count()
    };
    let still = used(w);
    w.expect(still == 0, || format!("nobody to use it, {still} callers do"));
    w.inflict(&Fault::Crash(victim));
    // Enrolled anew: peers let its new certificate in.
    for host in &w.hosts {
        host.revoked.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
    w.inflict(&Fault::Boot(victim, false));
    let back = w.until(20.0, |w| used(w) == 4);
    w.expect(back.is_some(), || "all callers to use it again".to_owned());
}

/// Measures rather than checks: what `proto/ALGORITHM.md` says of times comes from here.
fn figures(w: &mut World) {
    w.settle();
    let ms = |took: Option<u64>| took.map_or(-1.0, |us| us as f64 / MS as f64);
    w.give_policy(1, 2);
    let policy = w.until(10.0, |w| policy_everywhere(w, 2));
    w.tell(|| format!("FIGURE a document reaches all: {:.1} ms", ms(policy)));
    w.pass(5.0);
    let victim = LEDGER_HOT[0];
    let before = w.hosts[CALLER].node.as_ref().and_then(|n| n.table().version(&node_name(victim)));
    let id = w.endpoints(&service("ledger"))[0].1.clone();
    w.inflict(&Fault::App(id.clone(), false));
    w.until(3.0, |w| w.condition(victim, &id) == Some(Condition::Unready));
    let all = w.until(5.0, |w| {
        w.hosts
            .iter()
            .filter_map(|h| h.node.as_ref())
            .all(|n| n.table().version(&node_name(victim)) > before)
    });
    w.tell(|| format!("FIGURE a changed record reaches all: {:.1} ms", ms(all)));
    w.inflict(&Fault::App(id, true));
    w.pass(20.0);
    let began = w.now;
    w.inflict(&Fault::Crash(LEDGER_HOT[1]));
    let up = w.until(2.0, |w| w.up() > 0);
    w.tell(|| format!("FIGURE from a host's death to the call-up: {:.1} ms", ms(up)));
    let is = |w: &World, state: &str| -> usize {
        let lost = node_name(LEDGER_HOT[1]);
        let now = hearth_proto::time::Time(w.now);
        let nodes = w.hosts.iter().filter_map(|h| h.node.as_ref());
        nodes
            .filter(|n| n.members_view(now).iter().any(|m| m.node == lost && m.state == state))
            .count()
    };
    for (state, least) in [("suspect", 1), ("down", 1), ("down", w.hosts.len() - 1)] {
        w.until(30.0, |w| is(w, state) >= least);
        let took = w.now - began;
        w.tell(|| format!("FIGURE {least} hold it for {state}: {:.1} ms", ms(Some(took))));
    }
}
