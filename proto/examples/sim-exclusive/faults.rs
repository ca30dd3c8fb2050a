//! What befalls the owners: drawn from the seed, all kinds mixed.

use rand::RngExt;
use rand::rngs::StdRng;

/// One fault, or one that ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// The hosts fall into groups that do not hear each other: by host, its group.
    Split(Vec<u8>),
    /// What one sends does not reach the other; the other way it does.
    OneWay(usize, usize),
    /// All paths work again.
    Heal,
    /// The process is stopped for so long; its clock is not.
    Pause(usize, u64),
    /// It dies, and starts so much later with the disk it had.
    Restart(usize, u64),
    /// The same, with an empty disk.
    Wipe(usize, u64),
    /// Its clock runs at another rate.
    Drift(usize, u64),
    /// So many thousandths of messages are lost, and as many come twice.
    Loss(u64),
    /// Messages take up to so long.
    Latency(u64),
    /// Its application can serve, or cannot.
    Able(usize, bool),
    /// Whoever holds the lease hands it to this one.
    HandOver(usize),
    /// The next policy, with other owners, reaches a host.
    Policy(usize),
    /// A write to disk takes up to so long from now on.
    Disk(u64),
}

/// A thousandth of a second.
pub(crate) const MS: u64 = 1_000;

/// Draws the next fault.
pub(crate) fn draw(rng: &mut StdRng, hosts: usize, lease: u64) -> Fault {
    let host = rng.random_range(0..hosts);
    let long = |rng: &mut StdRng| rng.random_range(lease / 10..lease * 3);
    match rng.random_range(0..26) {
        0..3 => Fault::Split((0..hosts).map(|_| rng.random_range(0..2)).collect()),
        3 => Fault::Split((0..hosts).map(|_| rng.random_range(0..3)).collect()),
        4 => {
            // One bridge: it alone is heard by both sides.
            let bridge = u8::try_from(host).unwrap_or(0);
            Fault::Split(
                (0..hosts)
                    .map(|i| if i == usize::from(bridge) { 9 } else { rng.random_range(0..2) })
                    .collect(),
            )
        }
        5 | 6 => Fault::OneWay(host, rng.random_range(0..hosts)),
        7..10 => Fault::Heal,
        10..13 => Fault::Pause(host, long(rng)),
        13..15 => Fault::Restart(host, long(rng) / 2),
        15 => Fault::Wipe(host, long(rng) / 2),
        16..18 => Fault::Drift(
            host,
            *[900, 1_000, 1_100, rng.random_range(900..=1_100)]
                .get(rng.random_range(0..4))
                .unwrap_or(&1_000),
        ),
        18 => Fault::Loss(*[0, 10, 100, 300].get(rng.random_range(0..4)).unwrap_or(&0)),
        19 => Fault::Latency(
            *[MS, 30 * MS, 300 * MS, lease].get(rng.random_range(0..4)).unwrap_or(&MS),
        ),
        20 | 21 => Fault::Able(host, rng.random_bool(0.5)),
        22 => Fault::HandOver(host),
        23 | 24 => Fault::Policy(host),
        _ => Fault::Disk(*[MS, 20 * MS, lease / 2].get(rng.random_range(0..3)).unwrap_or(&MS)),
    }
}
