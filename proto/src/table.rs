//! The replicated table: the newest advert of every node, and how two tables become equal.
//!
//! Merge laws (property-tested): commutative, associative, idempotent, monotone in version; a record
//! is changed only by a newer one that its owner signed. A record that does not verify changes nothing.
//!
//! Two tables compare by the hashes of a [`Tree`]; only the versions in leaves that differ are exchanged, and
//! only the records that are missing travel. Departed nodes are forgotten after
//! [`REMEMBER`], their version floor is kept as long again, so that no old record revives them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rpds::RedBlackTreeMapSync;
use xxhash_rust::xxh3::xxh3_64;

use crate::advert::{Advert, AdvertRefused, Keyring, SignedAdvert};
use crate::digest::{LeafSet, Tree};
use crate::ids::{NodeName, ServiceName, Version};
use crate::time::Time;

/// Most nodes a table holds. Beyond, unknown ones are refused and counted.
pub const MAX_NODES: usize = 20_000;
/// How long a departed or dead node's record is kept.
pub const REMEMBER: Duration = Duration::from_secs(24 * 3600);

/// A record and what we know of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As signed, to be passed on.
    pub signed: SignedAdvert,
    /// As opened.
    pub advert: Arc<Advert>,
    /// When this version arrived.
    pub received: Time,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It is newer than what we held (or the first of its node).
    Newer,
    /// We held it already.
    Same,
    /// We hold a newer one.
    Older,
}

/// Why a record was not merged. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeRefused {
    /// The record does not hold.
    #[error(transparent)]
    Advert(#[from] AdvertRefused),
    /// The table is full.
    #[error("the table holds {MAX_NODES} nodes already; {0} was not taken in")]
    Full(NodeName),
}

impl MergeRefused {
    /// Everything [`Self::reason`] may say, so that counters can start at zero.
    pub const REASONS: [&'static str; 9] = [
        "too_large",
        "certificate",
        "other_identity",
        "expired",
        "revoked",
        "signature",
        "malformed",
        "contradiction",
        "table_full",
    ];

    /// One word for the counter's `reason` label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Advert(a) => a.reason(),
            Self::Full(_) => "table_full",
        }
    }
}

/// The replicated table. Copies share their entries until they change; the rest is small.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: RedBlackTreeMapSync<NodeName, Entry>,
    floors: BTreeMap<NodeName, (Version, Time)>,
    tree: Tree,
    /// Who offers what: routes are made anew with every change, of a few nodes among thousands.
    offers: BTreeMap<ServiceName, BTreeSet<NodeName>>,
}

fn record_hash(node: &NodeName, version: Version) -> u64 {
    xxh3_64(format!("{node}|{version}").as_bytes())
}

impl Table {
    /// The record of a node.
    pub fn get(&self, node: &NodeName) -> Option<&Entry> {
        self.entries.get(node)
    }

    /// All records, by node.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, &Entry)> {
        self.entries.iter()
    }

    /// The records of those who offer a service, by node.
    pub fn offering(&self, service: &ServiceName) -> impl Iterator<Item = (&NodeName, &Entry)> {
        let nodes = self.offers.get(service).into_iter().flatten();
        nodes.filter_map(|node| self.entries.get_key_value(node))
    }

    /// What anybody offers.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.offers.keys()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.size()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The version held of a node, or below which its records are refused.
    pub fn version(&self, node: &NodeName) -> Option<Version> {
        let held = self.entries.get(node).map(|e| e.signed.version);
        held.max(self.floors.get(node).map(|(v, _)| *v))
    }

    /// Merges one record. The cheap comparison comes first: a record that is not newer is not verified.
    pub fn merge(
        &mut self,
        signed: SignedAdvert,
        keyring: &dyn Keyring,
        lasting: bool,
        now: Time,
    ) -> Result<Merged, MergeRefused> {
        if let Some(held) = self.version(&signed.node) {
            match signed.version.cmp(&held) {
                std::cmp::Ordering::Less => return Ok(Merged::Older),
                std::cmp::Ordering::Equal => return Ok(Merged::Same),
                std::cmp::Ordering::Greater => {}
            }
        } else if self.entries.size() >= MAX_NODES {
            return Err(MergeRefused::Full(signed.node));
        }
        let advert = Arc::new(signed.open(keyring, lasting)?);
        self.insert(signed, advert, now);
        Ok(Merged::Newer)
    }

    /// Puts our own record in, unverified: we made it.
    pub fn insert(&mut self, signed: SignedAdvert, advert: Arc<Advert>, now: Time) {
        let node = signed.node.clone();
        self.take_out(&node);
        self.tree.toggle(&node, record_hash(&node, signed.version));
        self.floors.remove(&node);
        for e in &advert.endpoints {
            self.offers.entry(e.service.clone()).or_default().insert(node.clone());
        }
        self.entries.insert_mut(node, Entry { signed, advert, received: now });
    }

    /// Takes a node's record out, with what follows from it.
    fn take_out(&mut self, node: &NodeName) -> Option<Version> {
        let old = self.entries.get(node)?.clone();
        self.entries.remove_mut(node);
        let version = old.signed.version;
        self.tree.toggle(node, record_hash(node, version));
        for e in &old.advert.endpoints {
            if let Some(nodes) = self.offers.get_mut(&e.service) {
                nodes.remove(node);
                if nodes.is_empty() {
                    self.offers.remove(&e.service);
                }
            }
        }
        Some(version)
    }

    /// Forgets a node but for its version floor.
    pub fn forget(&mut self, node: &NodeName, now: Time) {
        if let Some(version) = self.take_out(node) {
            self.floors.insert(node.clone(), (version, now));
        }
        self.floors.retain(|_, (_, since)| now.since(*since) < REMEMBER);
    }

    /// Versions below which records of forgotten nodes are refused, and since when.
    pub(crate) fn floors(&self) -> impl Iterator<Item = (&NodeName, Version, Time)> {
        self.floors.iter().map(|(node, (version, since))| (node, *version, *since))
    }

    /// Puts the floors of an earlier table in force.
    pub(crate) fn set_floors(&mut self, floors: Vec<(NodeName, Version, Time)>) {
        self.floors = floors.into_iter().map(|(n, v, t)| (n, (v, t))).collect();
    }

    /// The hashes of all records.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The versions of all records in `leaves`.
    pub fn versions_in(&self, leaves: &[u16]) -> Vec<(NodeName, Version)> {
        let asked = LeafSet::new(leaves);
        self.entries
            .iter()
            .filter(|(node, _)| asked.holds(node))
            .map(|(node, e)| (node.clone(), e.signed.version))
            .collect()
    }

    /// Compares versions of others with ours, within `leaves`: what they should send us, and what we
    /// should send them.
    pub fn compare(
        &self,
        leaves: &[u16],
        theirs: &[(NodeName, Version)],
    ) -> (Vec<(NodeName, Version)>, Vec<SignedAdvert>) {
        let newer = |(node, version): &&(NodeName, Version)| {
            self.version(node).is_none_or(|ours| ours < *version)
        };
        let want = theirs.iter().filter(newer).cloned().collect();
        let theirs: BTreeMap<&NodeName, Version> = theirs.iter().map(|(n, v)| (n, *v)).collect();
        let asked = LeafSet::new(leaves);
        let owed = self
            .entries
            .iter()
            .filter(|(node, _)| asked.holds(node))
            .filter(|(node, e)| theirs.get(node).is_none_or(|v| *v < e.signed.version))
            .map(|(_, e)| e.signed.clone())
            .collect();
        (want, owed)
    }
}

#[cfg(test)]
mod proptests;
