//! Meshes and what befalls them: named scenarios, each with what it must show, and `random`, which draws
//! a mesh and a mix of faults from its seed.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use hearth_proto::advert::{Condition, Protocol, Role, SignedAdvert};
use hearth_proto::document::{Content, Document, SignedDocument};
use hearth_proto::ids::{EndpointId, Identity, NodeName, ServiceName};
use hearth_proto::node::EndpointConfig;
use hearth_proto::policy::{Failback, Policy, ServicePolicy};
use hearth_proto::time::{Span, Wall};
use hearth_proto::wire::Message;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::keyring::{Keys, Revoked, Signed};
use super::net::Net;
use super::world::{HostSpec, Life, What, World};
use super::{At, MS, S};

/// The hold of failback in the simulator's policy: short, so that virtual time is.
pub const HOLD: Duration = Duration::from_secs(4);

/// What befalls a mesh.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The host's process is gone.
    Crash(usize),
    /// It starts again, from its disk or wiped.
    Boot(usize, bool),
    /// It is stopped.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// Nothing passes from the first to the second group.
    Block(Vec<usize>, Vec<usize>),
    /// It passes again.
    Free(Vec<usize>, Vec<usize>),
    /// This share of packets is lost.
    Loss(f64),
    /// The application behind an endpoint is gone, or back.
    App(EndpointId, bool),
    /// The host leaves in good order.
    Leave(usize),
    /// This share of hooks fails.
    Hooks(f64),
    /// A member sends records in others' names.
    Forge(usize, usize),
}

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
        name: "revoked",
        about: "a revoked node is out everywhere, and back with a newer certificate",
        run: revoked,
    },
];

/// The scenario of a name.
pub fn named(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|s| s.name == name)
}

/// A service of a mesh to be built.
struct Spec {
    name: &'static str,
    hot: Vec<usize>,
    warm: Vec<usize>,
    callers: Vec<usize>,
}

fn service(name: &str) -> ServiceName {
    #[expect(clippy::expect_used, reason = "the names in this file are labels")]
    ServiceName::parse(name).expect("a label")
}

fn node_name(i: usize) -> NodeName {
    #[expect(clippy::expect_used, reason = "n and digits are a label")]
    NodeName::parse(&format!("n{i:03}")).expect("a label")
}

fn build(seed: u64, n: usize, wide: bool, specs: &[Spec]) -> World {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xbade);
    let mut hosts = vec![HostSpec::default(); n];
    for (i, host) in hosts.iter_mut().enumerate() {
        host.zone = (i % 3) as u8;
    }
    for spec in specs {
        let endpoint = |host: usize, role: Role| EndpointConfig {
            id: EndpointId { service: service(spec.name), node: node_name(host), instance: 0 },
            role,
            protocol: Protocol::Http,
            activation_deadline: Duration::from_secs(10),
        };
        for host in &spec.hot {
            hosts[*host].endpoints.push(endpoint(*host, Role::Hot));
        }
        for (order, host) in spec.warm.iter().enumerate() {
            let priority = (order / 2) as u16;
            hosts[*host].endpoints.push(endpoint(*host, Role::Warm { priority }));
        }
        for host in &spec.callers {
            hosts[*host].interest.insert(service(spec.name));
        }
    }
    let zones: Vec<u8> = hosts.iter().map(|h| h.zone).collect();
    let net = Net::new(n, |a, b| match (zones[a] == zones[b], wide) {
        (true, _) => rng.random_range(60..300),
        (false, false) => rng.random_range(300..1_500),
        (false, true) => rng.random_range(8 * MS..40 * MS),
    });
    World::new(seed, hosts, net)
}

/// The mesh of the named scenarios: `ledger` with three hot and two warm hosts, `orders` with two and
/// two, four callers, the rest members only.
pub fn standard(seed: u64, n: usize) -> World {
    let n = n.max(13);
    let callers = vec![0, 1, 2, 12];
    let ledger = Spec { name: "ledger", hot: LEDGER_HOT.into(), warm: LEDGER_WARM.into(), callers };
    let orders = Spec { name: "orders", hot: vec![8, 9], warm: vec![10, 11], callers: vec![0, 12] };
    build(seed, n, false, &[ledger, orders])
}

const LEDGER_HOT: [usize; 3] = [3, 4, 5];
const LEDGER_WARM: [usize; 2] = [6, 7];
const CALLER: usize = 0;

// ---- what scenarios are made of ----------------------------------------------------------------

impl World {
    /// Does what a fault says.
    pub(super) fn inflict(&mut self, fault: &Fault) {
        self.checks.faults += 1;
        let now = self.now;
        match fault {
            Fault::Crash(host) => self.crash(*host),
            Fault::Boot(host, wipe) => self.boot(*host, *wipe),
            Fault::Pause(host) => self.pause(*host),
            Fault::Resume(host) => self.resume(*host),
            Fault::Block(from, to) | Fault::Free(from, to) => {
                let on = matches!(fault, Fault::Block(..));
                self.tell(|| format!("{from:?} → {to:?}: blocked {on}"));
                for (a, b) in from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b))) {
                    if a != b {
                        self.net.block(a, b, on, now);
                    }
                }
            }
            Fault::Loss(share) => {
                self.tell(|| format!("loss of {share:.3}"));
                self.net.loss = *share;
                self.checks.loss_ended = now;
            }
            Fault::App(endpoint, up) => self.set_app(endpoint, *up),
            Fault::Leave(host) => {
                if self.hosts[*host].life == Life::Running {
                    self.checks.leaving(*host);
                    self.tell(|| format!("host {host} leaves"));
                    self.leave(*host);
                }
            }
            Fault::Hooks(share) => {
                self.tell(|| format!("hooks fail: {share:.2}"));
                self.hook_failure = *share;
            }
            Fault::Forge(by, victim) => self.forge(*by, *victim),
        }
    }

    fn set_app(&mut self, endpoint: &EndpointId, up: bool) {
        self.tell(|| format!("the application of {endpoint} is up: {up}"));
        let now = self.now;
        let Some(host) = self.index(&endpoint.node) else { return };
        if let Some(app) = self.hosts[host].apps.get_mut(endpoint) {
            app.up = up;
            app.activated &= up;
            app.changed = now;
        }
    }

    /// `by` sends every neighbour a record of `victim` that it made itself.
    fn forge(&mut self, by: usize, victim: usize) {
        self.tell(|| format!("host {by} forges records of host {victim}"));
        let Some(node) = &self.hosts[by].node else { return };
        let Some(real) = node.table().get(&node_name(victim)) else { return };
        let mut advert = (*real.advert).clone();
        advert.version.revision += 1_000;
        advert.left = true;
        let mine = Identity::Node(node_name(by));
        let keys = Keys::new(self.seed, mine, Wall(0), Revoked::default(), Signed::default());
        let Ok(mut forged) = SignedAdvert::sign(&advert, &keys) else { return };
        let mut plain = real.signed.clone();
        plain.version.revision += 2_000;
        let from = Identity::Node(node_name(by));
        for victim_certificate in [false, true] {
            if victim_certificate {
                forged.certificate = real_certificate(&plain);
            }
            let records = vec![forged.clone(), plain.clone()];
            for host in 0..self.hosts.len() {
                if host != by && self.hosts[host].life == Life::Running {
                    let message = Message::Adverts(records.clone());
                    self.step(host, |node, now| node.handle_message(now, &from, message));
                }
            }
        }
    }

    /// Hands one agent a document as the control plane does.
    pub fn give(&mut self, host: usize, version: u64, content: Content) {
        #[expect(clippy::expect_used, reason = "a label, and a document of a few bytes")]
        let signed = {
            let control = NodeName::parse("control-1").expect("a label");
            let who = Identity::Control(control.clone());
            let (none, log) = (Revoked::default(), Signed::default());
            let keys = Keys::new(self.seed, who, Wall(0), none, log);
            let source = String::new();
            let document = Document { version, issued: Wall(self.now), source, content };
            SignedDocument::sign(&document, control, &keys).expect("small")
        };
        let from = Identity::Control(signed.signer.clone());
        let message = Message::Documents(vec![signed]);
        self.step(host, |node, now| node.handle_message(now, &from, message));
    }

    fn give_policy(&mut self, host: usize, version: u64) {
        let failback = Failback::After(Span(HOLD));
        self.expect_failback(failback);
        let one = ServicePolicy { failback, ..ServicePolicy::default() };
        let services = self.services().into_iter().map(|s| (s, one.clone())).collect();
        self.give(host, version, Content::Policy(Policy { services }));
    }

    /// Starts all hosts within two seconds, gives out the policy and lets the mesh settle until 20 s.
    fn settle(&mut self) {
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
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let what = what();
            self.tell(|| format!("EXPECTED {what}"));
            self.checks.violate(self.now, format!("expected {what}"));
        }
    }

    /// Warm endpoints of `ledger` in one of these conditions, by their owners' word.
    fn warm_in(&self, conditions: &[Condition]) -> usize {
        let all = self.endpoints(&service("ledger"));
        all.iter()
            .filter(|(_, _, role)| *role != Role::Hot)
            .filter(|(h, id, _)| self.condition(*h, id).is_some_and(|c| conditions.contains(&c)))
            .count()
    }

    fn up(&self) -> usize {
        self.warm_in(&[Condition::Serving, Condition::Activating])
    }

    fn calls(&self) -> u32 {
        self.checks.activations.values().sum()
    }

    /// Lets `seconds` pass.
    fn pass(&mut self, seconds: f64) {
        self.run_until(self.now + (seconds * S as f64) as u64);
    }

    /// Runs until `done` or for `seconds`; says how long it took.
    fn until(&mut self, seconds: f64, done: impl Fn(&Self) -> bool) -> Option<u64> {
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

    fn rest(&mut self, seconds: f64) {
        self.pass(seconds);
        self.check_rest();
    }
}

fn real_certificate(record: &SignedAdvert) -> std::sync::Arc<[u8]> {
    record.certificate.clone()
}

// ---- named scenarios ---------------------------------------------------------------------------

fn calm(w: &mut World) {
    w.settle();
    w.rest(60.0);
    let (calls, incidents, failed) = (w.calls(), w.stats.incidents, w.stats.failed);
    w.expect(calls == 0, || format!("no call-up, {calls} were made"));
    w.expect(incidents == 0, || format!("no incident, {incidents} were opened"));
    let early = w.stats.failed;
    w.expect(failed == early, || "no failed request".to_owned());
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
    let digest = |w: &World| -> Vec<Vec<u64>> {
        w.hosts.iter().filter_map(|h| Some(h.node.as_ref()?.table().digest())).collect()
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
    let moment = Wall(1_767_225_600 * S + w.now);
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

// ---- random scenarios --------------------------------------------------------------------------

/// A random mesh of `n` hosts.
pub fn random_mesh(seed: u64, n: usize) -> World {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let names = ["ledger", "orders", "search"];
    let specs: Vec<Spec> = names[..rng.random_range(1..=3)]
        .iter()
        .map(|name| {
            let mut hosts: Vec<usize> = (0..n).collect();
            hosts.shuffle(&mut rng);
            let mut take = |k: usize| hosts.split_off(hosts.len().saturating_sub(k));
            let (hot, warm) = (take(rng.random_range(2..=4)), take(rng.random_range(1..=3)));
            Spec { name, hot, warm, callers: take(rng.random_range(2..=5)) }
        })
        .collect();
    let wide = rng.random_bool(0.2);
    let mut world = build(seed, n, wide, &specs);
    for host in &mut world.hosts {
        if rng.random_bool(0.1) {
            host.clock_offset = rng.random_range(-2 * 3600 * S as i64..2 * 3600 * S as i64);
        }
    }
    world
}

/// Lengths from 30 ms to 12 s, as many short as long.
fn some_time(rng: &mut StdRng) -> u64 {
    (30.0 * 400f64.powf(rng.random::<f64>())) as u64 * MS
}

fn random(w: &mut World) {
    w.settle();
    let mut rng = StdRng::seed_from_u64(w.seed ^ 0xfa17);
    let n = w.hosts.len();
    let mut stay_off = Vec::new();
    let mut at: At = w.now + S;
    for _ in 0..rng.random_range(2..8) {
        let lasts = some_time(&mut rng);
        let host = rng.random_range(0..n);
        plan(w, &mut rng, at, lasts, host, &mut stay_off);
        at += if rng.random_bool(0.5) { rng.random_range(0..2 * S) } else { some_time(&mut rng) };
    }
    w.run_until(at + 14 * S);
    heal(w, &stay_off);
    w.run_until(w.now + 40 * S);
    w.check_rest();
}

/// Arms one random fault and its end.
fn plan(
    w: &mut World,
    rng: &mut StdRng,
    at: At,
    lasts: u64,
    host: usize,
    stay_off: &mut Vec<usize>,
) {
    let n = w.hosts.len();
    let others: Vec<usize> = (0..n).filter(|i| *i != host).collect();
    let mut between = |from: Fault, to: Fault| {
        w.at(at, What::Fault(from));
        w.at(at + lasts, What::Fault(to));
    };
    match rng.random_range(0..100) {
        0..22 => {
            if rng.random_bool(0.3) {
                stay_off.push(host);
            }
            between(Fault::Crash(host), Fault::Boot(host, rng.random_bool(0.25)));
        }
        22..40 => between(Fault::Pause(host), Fault::Resume(host)),
        40..52 => {
            let (a, b) = (vec![host], others);
            between(Fault::Block(a.clone(), b.clone()), Fault::Free(a.clone(), b.clone()));
            between(Fault::Block(b.clone(), a.clone()), Fault::Free(b, a));
            w.checks.strict = false;
        }
        52..62 => {
            let share = rng.random_range(0.1..0.6);
            let (a, b): (Vec<usize>, Vec<usize>) = (0..n).partition(|_| rng.random_bool(share));
            between(Fault::Block(a.clone(), b.clone()), Fault::Free(a.clone(), b.clone()));
            between(Fault::Block(b.clone(), a.clone()), Fault::Free(b, a));
            w.checks.strict = false;
        }
        62..72 => {
            let to = others[rng.random_range(0..others.len())];
            between(Fault::Block(vec![host], vec![to]), Fault::Free(vec![host], vec![to]));
            w.checks.strict = false;
        }
        72..80 => {
            between(Fault::Loss(rng.random_range(0.005..0.15)), Fault::Loss(0.0));
            w.checks.strict = false;
        }
        80..90 => {
            let all: Vec<EndpointId> =
                w.hosts.iter().flat_map(|h| h.apps.keys().cloned()).collect();
            let id = all[rng.random_range(0..all.len())].clone();
            w.at(at, What::Fault(Fault::App(id.clone(), false)));
            w.at(at + lasts, What::Fault(Fault::App(id, true)));
        }
        90..94 => between(Fault::Leave(host), Fault::Boot(host, false)),
        94..97 => between(Fault::Hooks(rng.random_range(0.2..1.0)), Fault::Hooks(0.0)),
        _ => w.at(at, What::Fault(Fault::Forge(host, others[0]))),
    }
}

/// Everything is as it should be, but for hosts that stay off.
fn heal(w: &mut World, stay_off: &[usize]) {
    let now = w.now;
    w.tell(|| "everything heals".to_owned());
    w.net.heal(now);
    w.net.loss = 0.0;
    w.checks.loss_ended = now;
    w.hook_failure = 0.0;
    let ids: Vec<EndpointId> = w.hosts.iter().flat_map(|h| h.apps.keys().cloned()).collect();
    for id in ids {
        let up = w.index(&id.node).is_none_or(|h| w.hosts[h].apps[&id].up);
        if !up {
            w.inflict(&Fault::App(id, true));
        }
    }
    for host in 0..w.hosts.len() {
        w.resume(host);
        if stay_off.contains(&host) {
            w.crash(host);
        } else {
            w.boot(host, false);
        }
    }
}
