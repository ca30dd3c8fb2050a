//! The meshes of scenarios: who offers what, who calls, how far everybody is from everybody.

use std::time::Duration;

use hearth_proto::advert::traits::CheckKind;
use hearth_proto::advert::{Protocol, Role};
use hearth_proto::ids::{EndpointId, NodeName, ServiceName};
use hearth_proto::lifecycle::Activation;
use hearth_proto::node::EndpointConfig;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::host::HostSpec;
use super::net::Net;
use super::world::World;
use super::{MS, S};

/// A service of a mesh to be built.
struct Spec {
    name: &'static str,
    hot: Vec<usize>,
    warm: Vec<usize>,
    callers: Vec<usize>,
}

pub(super) fn service(name: &str) -> ServiceName {
    #[expect(clippy::expect_used, reason = "the names in this file are labels")]
    ServiceName::parse(name).expect("a label")
}

pub(super) fn node_name(i: usize) -> NodeName {
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
            activation: Activation {
                deadline: Duration::from_secs(10),
                attempts: 3,
                warm_up: false,
            },
            weight: 100,
            check: CheckKind::Http,
            hook: true,
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

/// Fewest hosts of a [`busy`] mesh.
const BUSY: usize = 24;

/// The mesh in which failover is measured: three services of three, four and five hot hosts and two warm
/// ones each, two callers each, no host with more than one part; the rest members only.
pub fn busy(seed: u64, n: usize) -> World {
    let n = n.max(BUSY);
    let mut rng = StdRng::seed_from_u64(seed ^ 0xb5);
    let mut hosts: Vec<usize> = (0..n).collect();
    hosts.shuffle(&mut rng);
    let mut take = |k: usize| hosts.split_off(hosts.len() - k);
    let specs = [("ledger", 3), ("orders", 4), ("search", 5)].map(|(name, hot)| Spec {
        name,
        hot: take(hot),
        warm: take(2),
        callers: take(2),
    });
    build(seed, n, false, &specs)
}

/// The mesh in which availability is measured: `ledger` alone, on five hosts that may fail; two callers and a
/// member that do not.
pub fn failing(seed: u64) -> World {
    let ledger = Spec {
        name: "ledger",
        hot: LEDGER_HOT.into(),
        warm: LEDGER_WARM.into(),
        callers: vec![0, 1],
    };
    build(seed, 8, false, &[ledger])
}

pub(super) const LEDGER_HOT: [usize; 3] = [3, 4, 5];
pub(super) const LEDGER_WARM: [usize; 2] = [6, 7];
pub(super) const CALLER: usize = 0;

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
