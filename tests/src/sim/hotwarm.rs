//! The hot/warm engine under losses, flaps, partitions, slow activations and failing hooks, watched as it goes:
//! too few never serve for longer than a bound, nobody is called up beyond what is lost, nobody stands down
//! while that leaves too few, and who flaps moves nobody.
//!
//! A run is one of three kinds, by its seed: a *clean* mix, in which all agents can see the same and every
//! surplus call-up is a violation; a *torn* one with partitions and loss, in which surplus is counted; and a
//! host, application or path that *flaps* every 30 s.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hearth_proto::advert::{Condition, Role};
use hearth_proto::document::Content;
use hearth_proto::ids::{EndpointId, ServiceName};
use hearth_proto::policy::{Failback, Patience, Policy, ServicePolicy};
use hearth_proto::time::Span;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::fault::Fault;
use super::host::Life;
use super::random::heal;
use super::world::{What, World};
use super::{At, MS, S};

/// How often the world is looked at.
const LOOK: u64 = 100 * MS;
/// How long too few may serve: an application's second failed check (2.2 s), its advert, the slowest hook (3 s),
/// its check and warm-up (1 s), and some. Each further loss or failed attempt in that time begins it anew for
/// one endpoint.
const BOUND: u64 = 7 * S;
/// A hot endpoint of a host that has just started counts as starting for so long.
const GRACE: u64 = 10 * S;
/// What befell a host within this time may not be known everywhere: a suspicion, and a check of an application.
const NEWS: u64 = 3 * S;
/// The flapper's period.
const PERIOD: u64 = 30 * S;
const FLAPS: u64 = 6;

pub(super) fn hotwarm(w: &mut World) {
    let mut rng = StdRng::seed_from_u64(w.seed ^ 0x5a1d);
    for e in w.hosts.iter_mut().flat_map(|h| h.spec.endpoints.iter_mut()) {
        e.activation.warm_up = rng.random_bool(0.3);
        e.activation.attempts = rng.random_range(1..=4);
    }
    w.settle();
    w.checks.strict = false;
    match w.seed % 4 {
        0 | 1 => mix(w, &mut rng, false),
        2 => mix(w, &mut rng, true),
        _ => flap(w, &mut rng),
    }
}

fn give(w: &mut World, hold: Duration, damping: Patience, ramp: Patience) {
    let failback = Failback::After(Span(hold));
    w.expect_failback(failback);
    let one = ServicePolicy { failback, damping, ramp, ..ServicePolicy::default() };
    let services = w.services().into_iter().map(|s| (s, one.clone())).collect();
    w.give(0, 2, Content::Policy(Policy { services, ..Policy::default() }));
}

fn after(seconds: u64) -> Patience {
    Patience::For(Span(Duration::from_secs(seconds)))
}

// ---- the mix -----------------------------------------------------------------------------------

fn mix(w: &mut World, rng: &mut StdRng, torn: bool) {
    let ramp = if rng.random_bool(0.5) { after(2) } else { Patience::Endless };
    // Without damping, so that what is missing can be read from the truth alone.
    give(w, Duration::from_secs(4), Patience::Endless, ramp);
    w.slow_hooks = rng.random_bool(0.4);
    let mut watch = Watch::new(w, torn);
    watch.until(w, w.now + 2 * S);
    let mut at = w.now + S;
    for _ in 0..rng.random_range(3..9) {
        let lasts = (200.0 * 60f64.powf(rng.random::<f64>())) as u64 * MS;
        plan(w, rng, at, lasts, torn);
        at += rng.random_range(0..5 * S);
    }
    watch.until(w, at + 14 * S);
    heal(w, &[]);
    w.slow_hooks = false;
    // A cool-down may take a minute after four failures in a row; here the longest is 20 s.
    watch.until(w, w.now + 45 * S);
    w.check_rest();
    w.stats.surplus += watch.surplus;
    w.stats.failbacks += watch.failbacks;
}

/// Arms one fault of a host that has a part in a service, and its end.
fn plan(w: &mut World, rng: &mut StdRng, at: At, lasts: u64, torn: bool) {
    let all: Vec<(usize, EndpointId)> =
        w.services().iter().flat_map(|s| w.endpoints(s)).map(|(host, id, _)| (host, id)).collect();
    let (host, id) = all[rng.random_range(0..all.len())].clone();
    let n = w.hosts.len();
    let mut between = |from: Fault, to: Fault| {
        w.at(at, What::Fault(from));
        w.at(at + lasts, What::Fault(to));
    };
    match rng.random_range(0..if torn { 10 } else { 6 }) {
        0 => between(Fault::Crash(host), Fault::Boot(host, false)),
        1 => between(Fault::Kill(host), Fault::Boot(host, false)),
        2 => between(Fault::Pause(host), Fault::Resume(host)),
        3 | 4 => between(Fault::App(id.clone(), false), Fault::App(id, true)),
        5 => between(Fault::Hooks(rng.random_range(0.2..1.0)), Fault::Hooks(0.0)),
        6 => {
            let (a, b): (Vec<usize>, Vec<usize>) = (0..n).partition(|_| rng.random_bool(0.5));
            between(Fault::Block(a.clone(), b.clone()), Fault::Free(a.clone(), b.clone()));
            between(Fault::Block(b.clone(), a.clone()), Fault::Free(b, a));
        }
        7 => {
            let others: Vec<usize> = (0..n).filter(|i| *i != host).collect();
            let (a, b) = (vec![host], others);
            between(Fault::Block(a.clone(), b.clone()), Fault::Free(a.clone(), b.clone()));
            between(Fault::Block(b.clone(), a.clone()), Fault::Free(b, a));
        }
        8 => {
            let to = (host + rng.random_range(1..n)) % n;
            between(Fault::Block(vec![host], vec![to]), Fault::Free(vec![host], vec![to]));
        }
        _ => between(Fault::Loss(rng.random_range(0.005..0.1)), Fault::Loss(0.0)),
    }
}

// ---- the flapper -------------------------------------------------------------------------------

fn flap(w: &mut World, rng: &mut StdRng) {
    // With the hold of the defaults a flapper of 30 s never sees a failback; with a short one damping must
    // hold it back.
    let short = rng.random_bool(0.5);
    let hold = Duration::from_secs(if short { 4 } else { 30 });
    give(w, hold, after(60), after(2));
    let services = w.services();
    let service = services[rng.random_range(0..services.len())].clone();
    let hot: Vec<(usize, EndpointId, Role)> =
        w.endpoints(&service).into_iter().filter(|(_, _, role)| *role == Role::Hot).collect();
    let (host, id, _) = hot[rng.random_range(0..hot.len())].clone();
    let others: Vec<usize> = (0..w.hosts.len()).filter(|i| *i != host).collect();
    let kind = rng.random_range(0..4);
    let mut watch = Watch::new(w, true);
    watch.until(w, w.now + 3 * S);
    let mut known = 0;
    for n in 0..FLAPS {
        // Long enough for two failed checks: what nobody noticed is no flap.
        let away = rng.random_range(4 * S..PERIOD / 2);
        let began = w.now;
        let cut = |w: &mut World, on: bool| {
            let (a, b) = (vec![host], others.clone());
            for (from, to) in [(a.clone(), b.clone()), (b, a)] {
                let fault = if on { Fault::Block(from, to) } else { Fault::Free(from, to) };
                w.inflict(&fault);
            }
        };
        match kind {
            0 => w.inflict(&Fault::Crash(host)),
            1 => w.inflict(&Fault::Pause(host)),
            2 => w.inflict(&Fault::App(id.clone(), false)),
            _ => cut(w, true),
        }
        watch.until(w, began + away);
        match kind {
            0 => w.inflict(&Fault::Boot(host, false)),
            1 => w.inflict(&Fault::Resume(host)),
            2 => w.inflict(&Fault::App(id.clone(), true)),
            _ => cut(w, false),
        }
        // It is known to flap once it has returned a third time.
        watch.until(w, began + PERIOD.min(away + 3 * S));
        if n == 2 {
            known = watch.moves(&service);
        }
        watch.until(w, began + PERIOD);
    }
    let flaps = watch.moves(&service) - known;
    let allowed = if short { 5 } else { 1 };
    let services_share_hosts = services.len() > 1;
    w.stats.flaps += flaps;
    w.stats.failbacks += watch.failbacks;
    let name = w.hosts[host].name.clone();
    if flaps > 0 {
        w.checks.violate(w.now, &format!("{id} of {name} flapped, and moved {flaps} times"));
    }
    if known > allowed && !services_share_hosts {
        w.checks.violate(w.now, &format!("{known} moves before the flapper was known"));
    }
    // Three half-lives and the hold end it.
    w.run_until(w.now + 185 * S + 35 * S);
    w.check_rest();
}

// ---- watching ----------------------------------------------------------------------------------

/// What has been seen of one service.
struct Line {
    service: ServiceName,
    conditions: BTreeMap<EndpointId, Condition>,
    /// Since when each endpoint could serve.
    able: BTreeMap<EndpointId, At>,
    /// Since when fewer serve than must.
    short: Option<At>,
    /// When something was lost, or an attempt failed.
    setbacks: VecDeque<At>,
    call_ups: u64,
    failbacks: u64,
}

struct Watch {
    lines: Vec<Line>,
    torn: bool,
    hooks_failed: u64,
    surplus: u64,
    failbacks: u64,
}

impl Watch {
    fn new(w: &World, torn: bool) -> Self {
        let line = |service| Line {
            service,
            conditions: BTreeMap::new(),
            able: BTreeMap::new(),
            short: None,
            setbacks: VecDeque::new(),
            call_ups: 0,
            failbacks: 0,
        };
        let lines = w.services().into_iter().map(line).collect();
        Self { lines, torn, hooks_failed: w.stats.hooks_failed, surplus: 0, failbacks: 0 }
    }

    fn until(&mut self, w: &mut World, end: At) {
        while w.now < end {
            w.run_until((w.now + LOOK).min(end));
            self.look(w);
        }
    }

    /// Call-ups and failbacks of a service so far.
    fn moves(&self, service: &ServiceName) -> u64 {
        let of = self.lines.iter().filter(|l| l.service == *service);
        of.map(|l| l.call_ups + l.failbacks).sum()
    }

    fn look(&mut self, w: &mut World) {
        let failed = w.stats.hooks_failed - self.hooks_failed;
        self.hooks_failed = w.stats.hooks_failed;
        for line in &mut self.lines {
            line.setbacks.extend((0..failed).map(|_| w.now));
            line.note(w);
            let (surplus, found) = line.moved(w, self.torn);
            self.surplus += surplus;
            for what in found {
                w.checks.violate(w.now, &what);
            }
            if !self.torn
                && let Some(what) = line.too_few(w)
            {
                w.checks.violate(w.now, &what);
                line.short = None;
            }
        }
        self.failbacks = self.lines.iter().map(|l| l.failbacks).sum();
    }
}

impl Line {
    /// Takes in who could serve now, and who no longer can.
    fn note(&mut self, w: &World) {
        for (host, id, role) in w.endpoints(&self.service) {
            let runs = w.hosts[host].life == Life::Running && w.hosts[host].apps[&id].up;
            let condition = w.condition(host, &id).filter(|_| role != Role::Hot);
            let cooling = condition == Some(Condition::Unready);
            // Its application went away while it was called, and with it what the hook did there: that it is back
            // does not bring this back, and only the deadline will tell.
            let in_vain = condition == Some(Condition::Activating) && !self.able.contains_key(&id);
            if runs && !cooling && !in_vain {
                self.able.entry(id).or_insert(w.now);
            } else if self.able.remove(&id).is_some() {
                self.setbacks.push_back(w.now);
            } else if cooling && self.conditions.get(&id) == Some(&Condition::Activating) {
                // Its application was gone before it was called: that took its whole deadline.
                self.setbacks.push_back(w.now);
            }
        }
        while self.setbacks.front().is_some_and(|at| at + BOUND < w.now) {
            self.setbacks.pop_front();
        }
    }

    fn serves(w: &World, host: usize, id: &EndpointId) -> bool {
        w.condition(host, id) == Some(Condition::Serving) && w.could_serve(host, id)
    }

    /// Whether the survivors would allow more to serve, and have for too long.
    fn too_few(&mut self, w: &World) -> Option<String> {
        let all = w.endpoints(&self.service);
        let hot =
            all.iter().filter(|(host, _, role)| *role == Role::Hot && !w.checks.has_left(*host));
        let needed = hot.clone().count();
        let serving = all.iter().filter(|(host, id, _)| Self::serves(w, *host, id)).count();
        if serving >= needed {
            self.short = None;
            return None;
        }
        let since = *self.short.get_or_insert(w.now);
        let starting = hot
            .filter(|(host, id, _)| {
                w.hosts[*host].since + GRACE + BOUND > w.now && !Self::serves(w, *host, id)
            })
            .count();
        // Called, and its application is or was gone since: it stays called, nobody goes in its place, and only
        // the deadline will tell.
        let in_vain = all.iter().filter(|(host, id, _)| {
            w.condition(*host, id) == Some(Condition::Activating)
                && w.hosts[*host].life == Life::Running
                && !self.able.contains_key(id)
        });
        let excused = self.setbacks.len() + starting + in_vain.count();
        let able = self.able.values().filter(|at| **at + BOUND <= w.now).count();
        let allowed = needed.min(able).saturating_sub(excused);
        (since + BOUND < w.now && serving < allowed).then(|| {
            format!(
                "{}: only {serving} serve, {allowed} could, for {} ms",
                self.service,
                (w.now - since) / MS
            )
        })
    }

    /// Who was called up or stood down since the last look, and whether that was right. Returns call-ups in
    /// surplus that a difference of views justifies, and what nothing does.
    fn moved(&mut self, w: &World, torn: bool) -> (u64, Vec<String>) {
        let (mut surplus, mut found) = (0, Vec::new());
        let all = w.endpoints(&self.service);
        for (host, id, role) in all.iter().filter(|(_, _, role)| *role != Role::Hot) {
            debug_assert!(*role != Role::Hot);
            let now = w.condition(*host, id);
            let before = self.conditions.get(id).copied();
            match now {
                Some(now) => self.conditions.insert(id.clone(), now),
                None => self.conditions.remove(id),
            };
            let up = matches!(now, Some(Condition::Activating | Condition::Serving));
            if before == Some(Condition::Standby) && up {
                self.call_ups += 1;
                if self.is_surplus(w, *host, id) {
                    if torn || is_news(w) {
                        surplus += 1;
                    } else {
                        found.push(format!("{id} was called up beyond what is lost"));
                    }
                }
            }
            let down = now == Some(Condition::Draining);
            if before == Some(Condition::Serving) && down && !w.checks.has_left(*host) {
                self.failbacks += 1;
                if let Some(what) = self.dips(w, id).filter(|_| !torn) {
                    found.push(what);
                }
            }
        }
        (surplus, found)
    }

    /// Whether more warm endpoints are up with this one than hot ones are missing, or may be.
    fn is_surplus(&self, w: &World, host: usize, id: &EndpointId) -> bool {
        let recent = |at: At| at > 0 && w.now < at + NEWS;
        let all = w.endpoints(&self.service);
        let missing = all
            .iter()
            .filter(|(h, id, role)| {
                let app = &w.hosts[*h].apps[id];
                let changed = recent(w.hosts[*h].since) || recent(app.changed);
                *role == Role::Hot && (changed || !Self::serves(w, *h, id))
            })
            .count();
        let damped = w.hosts[host]
            .node
            .as_ref()
            .map(|node| node.snapshot())
            .map_or(0, |s| s.services.get(&self.service).map_or(0, |route| route.tally.damped));
        let up = all
            .iter()
            .filter(|(h, other, role)| {
                let c = w.condition(*h, other);
                let up = matches!(c, Some(Condition::Activating | Condition::Serving));
                *role != Role::Hot && other != id && up && w.hosts[*h].life == Life::Running
            })
            .count();
        up + 1 > missing + damped
    }

    /// Whether fewer serve than must once this one stands down, though nothing was lost a moment ago.
    fn dips(&self, w: &World, id: &EndpointId) -> Option<String> {
        let all = w.endpoints(&self.service);
        let hot =
            all.iter().filter(|(host, _, role)| *role == Role::Hot && !w.checks.has_left(*host));
        let needed = hot.count();
        let left =
            all.iter().filter(|(h, other, _)| other != id && Self::serves(w, *h, other)).count();
        let news = self.setbacks.iter().filter(|at| **at + NEWS > w.now).count();
        (left + news < needed)
            .then(|| format!("{id} stood down and left {left} of {needed} that must serve"))
    }
}

/// Whether anything happened of late that not everybody need know: a host that started, stopped or was stopped.
fn is_news(w: &World) -> bool {
    let recent = |at: At| at > 0 && w.now < at + NEWS;
    w.hosts.iter().any(|h| {
        h.life == Life::Paused || recent(h.since) || h.apps.values().any(|app| recent(app.changed))
    })
}
