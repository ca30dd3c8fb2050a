//! A mix of every kind of fault over a busy mesh, drawn from the seed; then everything heals, the mesh
//! rests, and no healthy endpoint may be out. What is measured meanwhile is an [`Episode`].

use hearth_proto::advert::Role;
use hearth_proto::ids::EndpointId;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::application::{Gray, WELL};
use super::episode::{Episode, KINDS, Kind};
use super::fault::Fault;
use super::random::heal;
use super::world::{What, World};
use super::{At, MS, S};

/// Requests per second of each caller to each of its services.
const RATE: u64 = 100;
/// When callers ask elsewhere: the agent's rule, twice the 99th percentile, for these applications (1 to
/// 15 ms of work) and paths.
const HEDGE: u64 = 40 * MS;
/// Faults of one run. Each strikes another host.
const FAULTS: usize = 6;
/// Rest after the last: the longest time out of an outlier (33 s), its probation, and some.
const REST: u64 = 45 * S;

pub(super) fn failover(w: &mut World) {
    w.rate = RATE;
    w.hedge = Some(HEDGE);
    w.checks.strict = false;
    w.settle();
    w.checks.strict = false;
    let mut rng = StdRng::seed_from_u64(w.seed ^ 0xfa11);
    let mut hot: Vec<(usize, EndpointId)> = w
        .services()
        .iter()
        .flat_map(|s| w.endpoints(s))
        .filter(|(_, _, role)| *role == Role::Hot)
        .map(|(host, id, _)| (host, id))
        .collect();
    hot.shuffle(&mut rng);
    let mut kinds = KINDS;
    kinds.shuffle(&mut rng);
    let mut at: At = w.now + S;
    let mut end = at;
    for ((host, id), kind) in hot.into_iter().zip(kinds).take(FAULTS) {
        let lasts = rng.random_range(4 * S..9 * S);
        strike(w, kind, host, &id, at, at + lasts);
        end = end.max(at + lasts);
        // Some overlap, some do not.
        at += rng.random_range(S..6 * S);
    }
    w.run_until(end + S);
    heal(w, &[]);
    w.run_until(w.now + REST);
    w.check_rest();
    w.healthy_out = w.check_healthy();
}

/// Arms a fault and its end.
fn strike(w: &mut World, kind: Kind, host: usize, id: &EndpointId, from: At, to: At) {
    w.episodes.push(Episode::new(kind, id.clone(), from, to));
    let others: Vec<usize> = (0..w.hosts.len()).filter(|i| *i != host).collect();
    let mut both = |begin: Fault, end: Fault| {
        w.at(from, What::Fault(begin));
        w.at(to, What::Fault(end));
    };
    let block = |to_it: bool| {
        let (a, b) =
            if to_it { (others.clone(), vec![host]) } else { (vec![host], others.clone()) };
        (Fault::Block(a.clone(), b.clone()), Fault::Free(a, b))
    };
    match kind {
        Kind::Kill => both(Fault::Crash(host), Fault::Boot(host, false)),
        Kind::Freeze => both(Fault::Pause(host), Fault::Resume(host)),
        Kind::BlackHole => {
            for to_it in [true, false] {
                let (begin, end) = block(to_it);
                both(begin, end);
            }
        }
        Kind::OneWayTo | Kind::OneWayFrom => {
            let (begin, end) = block(kind == Kind::OneWayTo);
            both(begin, end);
        }
        Kind::Loss => both(Fault::Lossy(host, 0.3), Fault::Lossy(host, 0.0)),
        Kind::Flap => {
            let mut at = from;
            while at < to {
                let off = (at + 300 * MS).min(to);
                for to_it in [true, false] {
                    let (begin, end) = block(to_it);
                    w.at(at, What::Fault(begin));
                    w.at(off, What::Fault(end));
                }
                at += 800 * MS;
            }
        }
        Kind::AppCrash => both(Fault::App(id.clone(), false), Fault::App(id.clone(), true)),
        Kind::AppHang => both(Fault::Hang(id.clone(), true), Fault::Hang(id.clone(), false)),
        Kind::GrayErrors | Kind::GraySlow => {
            let gray = if kind == Kind::GrayErrors {
                Gray { errors: 0.4, ..WELL }
            } else {
                Gray { slower: 20, ..WELL }
            };
            both(Fault::Gray(id.clone(), gray), Fault::Gray(id.clone(), WELL));
        }
    }
}
