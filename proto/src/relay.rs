//! Relays: a third agent that carries our bytes to a peer whose path from us alone is bad.
//!
//! Decides whom to ask ([`choose`]) and whether to carry for another ([`Refusal`] names why not). Owns
//! nothing. A relay is believed in nothing: what it carries is a lane like any other, sealed between the two
//! ends, and an endpoint counts as relayed only once its owner has answered through the relay.

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::NodeName;
use std::time::Duration;

/// A relay has to have been heard so lately: membership alone meets some peer every half second, and in a mesh
/// of any size enough of them within this.
pub const HEARD_LATELY: Duration = Duration::from_secs(10);
/// A relay that refused, failed or was lost is not asked for the same peer again before this.
pub const ASK_AGAIN: Duration = Duration::from_secs(10);
/// So many relays are asked for one peer within [`ASK_AGAIN`]. Who is really gone is reached through nobody, and
/// a rack that is lost must not have its callers ask the whole mesh.
pub const MAX_ASKED: usize = 3;
/// Where no relay is to be had, it is looked again after so long.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Our own path has to hold for so long before requests leave the relay: a path that flaps would else move them
/// with each beat.
pub const HOLD: Duration = Duration::from_secs(2);

/// An agent that could carry.
#[derive(Clone, Copy, Debug)]
pub struct Bystander<'a> {
    /// Who.
    pub name: &'a NodeName,
    /// Where it is.
    pub zone: &'a str,
}

/// Which of those that are fit is to carry from `from` to `to`: one in the zone of either before all others,
/// and among equals the highest rendezvous hash of the three, so that callers spread over all relays and each
/// stays with its own while others come and go.
pub fn choose<'a>(
    from: Bystander<'_>,
    to: Bystander<'_>,
    fit: impl Iterator<Item = Bystander<'a>>,
) -> Option<&'a NodeName> {
    let near = |zone: &str| !zone.is_empty() && (zone == from.zone || zone == to.zone);
    let hash = |name: &NodeName| xxh3_64(format!("{}|{}|{name}", from.name, to.name).as_bytes());
    let others = fit.filter(|b| b.name != from.name && b.name != to.name);
    others.max_by_key(|b| (near(b.zone), hash(b.name), b.name)).map(|b| b.name)
}

/// Why an agent does not carry for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its configuration says so, or it leaves.
    #[error("it relays for nobody (mesh.relay, or it leaves)")]
    Unwilling,
    /// It carries as much as it may.
    #[error("it relays as much as it may already")]
    Full,
    /// Nobody it knows under this name.
    #[error("it knows no such member")]
    Unknown,
    /// It does not hold the peer for alive.
    #[error("it does not hold that member for alive")]
    NotAlive,
    /// Its own link to the peer is silent too.
    #[error("its own link to that member is silent too")]
    Silent,
    /// No service there may be called by the asker through a relay.
    #[error("no service there may be relayed to this caller, by policy")]
    Policy,
    /// The peer's mesh port did not take its connection.
    #[error("that member's mesh port did not answer it")]
    Unreachable,
}

impl Refusal {
    /// One stable word, for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unwilling => "unwilling",
            Self::Full => "full",
            Self::Unknown => "unknown",
            Self::NotAlive => "not_alive",
            Self::Silent => "silent",
            Self::Policy => "policy",
            Self::Unreachable => "unreachable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).unwrap()
    }

    /// `a` in zone `here` asks for a way to `b` in zone `there`.
    fn chosen(from: &str, fit: &[(&str, &str)]) -> Option<String> {
        let (from, to) = (name(from), name("b"));
        let fit: Vec<(NodeName, &str)> = fit.iter().map(|(n, zone)| (name(n), *zone)).collect();
        let bystanders = fit.iter().map(|(name, zone)| Bystander { name, zone });
        let a = Bystander { name: &from, zone: "here" };
        choose(a, Bystander { name: &to, zone: "there" }, bystanders).map(ToString::to_string)
    }

    #[test]
    fn neither_end_is_its_own_relay() {
        assert_eq!(chosen("a", &[("a", "here"), ("b", "there")]), None);
        assert_eq!(chosen("a", &[("a", "here"), ("c", ""), ("b", "there")]).unwrap(), "c");
    }

    #[test]
    fn a_relay_in_the_zone_of_either_end_comes_before_all_others() {
        for near in ["here", "there"] {
            let mut fit: Vec<(String, &str)> = (0..20).map(|i| (format!("n{i}"), "far")).collect();
            fit.push(("near".into(), near));
            let fit: Vec<(&str, &str)> = fit.iter().map(|(n, z)| (n.as_str(), *z)).collect();
            assert_eq!(chosen("a", &fit).unwrap(), "near");
        }
    }

    #[test]
    fn where_no_zone_is_said_none_is_near() {
        let fit = [("c", ""), ("d", ""), ("e", "")];
        let (from, to) = (name("a"), name("b"));
        let fit: Vec<(NodeName, &str)> = fit.iter().map(|(n, zone)| (name(n), *zone)).collect();
        let bystanders = || fit.iter().map(|(name, zone)| Bystander { name, zone });
        let end = |name, zone| Bystander { name, zone };
        let nowhere = choose(end(&from, ""), end(&to, ""), bystanders());
        assert_eq!(nowhere, choose(end(&from, "x"), end(&to, "y"), bystanders()));
    }

    #[test]
    fn callers_spread_over_the_relays_and_each_stays_with_its_own_while_others_go() {
        let fit = ["c", "d", "e", "f"].map(|n| (n, ""));
        let mut used = BTreeSet::new();
        for i in 0..40 {
            let from = format!("caller-{i}");
            let first = chosen(&from, &fit).unwrap();
            for gone in fit.iter().filter(|(n, _)| *n != first) {
                let rest: Vec<_> = fit.iter().copied().filter(|f| f != gone).collect();
                assert_eq!(chosen(&from, &rest).unwrap(), first);
            }
            used.insert(first);
        }
        assert_eq!(used.len(), 4, "{used:?}");
    }
}
