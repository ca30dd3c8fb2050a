//! A random mix of faults, drawn from the seed: crashes, pauses, partitions, loss, failing applications and
//! hooks, forgeries, overlapping as they come; then everything heals, the mesh rests, and is checked.

use hearth_proto::ids::EndpointId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::application::WELL;
use super::fault::Fault;
use super::world::{What, World};
use super::{At, MS, S};

/// Lengths from 30 ms to 12 s, as many short as long.
fn some_time(rng: &mut StdRng) -> u64 {
    (30.0 * 400f64.powf(rng.random::<f64>())) as u64 * MS
}

pub(super) fn random(w: &mut World) {
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
pub(super) fn heal(w: &mut World, stay_off: &[usize]) {
    let now = w.now;
    w.tell(|| "everything heals".to_owned());
    w.net.heal(now);
    w.checks.loss_ended = now;
    w.hook_failure = 0.0;
    for app in w.hosts.iter_mut().flat_map(|h| h.apps.values_mut()) {
        app.hung = false;
        app.gray = WELL;
    }
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
