//! Records that are not asked for, for a while: refused when they came, or asked for in vain.
//!
//! The last good record stays in force. One that everybody refuses (of a later build, under a certificate that ran
//! out after its owner was lost) is held by somebody all the same, so that digests differ and membership tells of a
//! start without a record: without this everybody would ask for it again at every look, its owner most of all.
//!
//! Only asking is held back, and being sent it when versions are compared. What arrives by itself is judged whenever it arrives, so that nobody keeps a good record
//! out by sending a bad one in its name.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeName, Version};
use crate::time::Time;

/// The first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(2);
/// The longest.
const LONGEST: Duration = Duration::from_secs(64);
/// So many are held at most; who comes back soonest goes first.
const MOST: usize = 1_024;

/// What is known of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    /// Of the record that was refused; `None`: none ever came.
    version: Option<Version>,
    pause: Duration,
    until: Time,
}

/// All that are held back, by owner.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Quarantine {
    held: BTreeMap<NodeName, Held>,
}

impl Quarantine {
    /// A record was refused, or, without a `version`, was asked for and never came.
    pub(super) fn hold(&mut self, now: Time, node: &NodeName, version: Option<Version>) {
        let same = self.held.get(node).filter(|held| held.version >= version);
        let pause = same.map_or(FIRST, |held| (held.pause * 2).min(LONGEST));
        let version = version.max(same.and_then(|held| held.version));
        self.held.insert(node.clone(), Held { version, pause, until: now + pause });
        if self.held.len() > MOST {
            let soonest = self.held.iter().min_by_key(|(_, held)| held.until);
            let soonest = soonest.map(|(name, _)| name.clone());
            soonest.and_then(|name| self.held.remove(&name));
        }
    }

    /// What need not be sent to us now, whoever compares versions with ours.
    pub(super) fn versions(&self, now: Time) -> impl Iterator<Item = (&NodeName, Version)> {
        let barred = self.held.iter().filter(move |(_, held)| now < held.until);
        barred.filter_map(|(node, held)| Some((node, held.version?)))
    }

    /// A record came that is good.
    pub(super) fn release(&mut self, node: &NodeName) {
        self.held.remove(node);
    }

    /// What was refused may be good now: who is trusted changed.
    pub(super) fn clear(&mut self) {
        self.held.clear();
    }

    /// Whether the record of `node` is not to be asked for now; in any `version`, or in that one.
    pub(super) fn bars(&self, now: Time, node: &NodeName, version: Option<Version>) -> bool {
        self.held.get(node).is_some_and(|held| {
            now < held.until && version.is_none_or(|version| held.version >= Some(version))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Generation;

    const T: Time = Time(1_000_000);

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).unwrap()
    }

    fn version(revision: u64) -> Version {
        Version { generation: Generation(1), revision }
    }

    #[test]
    fn each_refusal_of_the_same_record_doubles_the_pause_up_to_the_longest() {
        let (mut q, x) = (Quarantine::default(), name("x"));
        let mut now = T;
        for seconds in [2, 4, 8, 16, 32, 64, 64] {
            q.hold(now, &x, Some(version(5)));
            let until = now + Duration::from_secs(seconds);
            assert!(q.bars(until - Duration::from_millis(1), &x, None), "{seconds} s");
            assert!(!q.bars(until, &x, None), "{seconds} s");
            now = until;
        }
    }

    #[test]
    fn a_newer_record_is_asked_for_at_once_and_begins_anew_if_it_is_refused_too() {
        let (mut q, x) = (Quarantine::default(), name("x"));
        (0..3).for_each(|_| q.hold(T, &x, Some(version(5))));
        assert!(q.bars(T, &x, Some(version(5))) && q.bars(T, &x, Some(version(4))));
        assert!(!q.bars(T, &x, Some(version(6))));
        q.hold(T, &x, Some(version(6)));
        assert!(!q.bars(T + FIRST, &x, Some(version(6))));
        // An old one that comes late takes nothing back.
        q.hold(T, &x, Some(version(5)));
        assert!(q.bars(T + FIRST, &x, Some(version(6))));
        q.release(&x);
        assert!(!q.bars(T, &x, Some(version(6))));
    }

    #[test]
    fn it_is_bounded_and_empty_again_when_trust_changes() {
        let mut q = Quarantine::default();
        for n in 0..2 * MOST {
            q.hold(T + Duration::from_millis(n as u64), &name(&format!("x{n}")), None);
        }
        assert_eq!(q.held.len(), MOST);
        assert!(q.bars(T + FIRST, &name(&format!("x{}", 2 * MOST - 1)), None));
        q.clear();
        assert!(q.held.is_empty());
    }
}
