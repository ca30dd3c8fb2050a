//! Hashes over a set of records, in three levels, by which two who hold nearly the same find where they differ.
//!
//! One root over [`FAN`] branches over [`LEAVES`] leaves; a record belongs to the leaf of its name. Who holds
//! the same has the same root, and one number says so. Otherwise the branches are compared, then the leaves of
//! those that differ, and only what lies in leaves that differ is exchanged: the bytes follow the number of
//! differences, not the size of the set (a Merkle tree as in Dynamo's anti-entropy, DeCandia et al., SOSP 2007,
//! section 4.7; sums are exclusive-or, so that a record is added or taken out where it lies).
//!
//! A hash says nothing about trust: what is exchanged is verified by its own signature.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::ids::NodeName;

/// Branches of the root, and leaves of each branch.
pub const FAN: usize = 32;
/// All leaves: at 2,000 nodes two records share one.
pub const LEAVES: usize = FAN * FAN;

/// Which replicated set is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Replica {
    /// The adverts.
    Table,
    /// The membership.
    Members,
}

/// The hashes of some branches' leaves.
pub type BranchLeaves = Vec<(u8, Vec<u64>)>;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Tree {
    leaves: Box<[u64; LEAVES]>,
    branches: Box<[u64; FAN]>,
    root: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self { leaves: Box::new([0; LEAVES]), branches: Box::new([0; FAN]), root: 0 }
    }
}

/// The leaf to which the record of a node belongs.
pub fn leaf(node: &NodeName) -> usize {
    (xxh3_64(node.as_str().as_bytes()) % LEAVES as u64) as usize
}

impl Tree {
    /// Adds a record of this hash, or takes it out again.
    pub fn toggle(&mut self, node: &NodeName, hash: u64) {
        let leaf = leaf(node);
        self.leaves[leaf] ^= hash;
        self.branches[leaf / FAN] ^= hash;
        self.root ^= hash;
    }

    /// Equal roots: equal sets.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The hashes of all branches.
    pub fn branches(&self) -> Vec<u64> {
        self.branches.to_vec()
    }

    /// The leaves of those branches in which `theirs` differs; of a list of another length, of all. A branch
    /// in which nothing lies has no leaves.
    pub fn leaves_where(&self, theirs: &[u64]) -> BranchLeaves {
        let differs = |b: &usize| theirs.len() != FAN || theirs[*b] != self.branches[*b];
        (0..FAN).filter(differs).map(|b| (b as u8, self.leaves_of(b))).collect()
    }

    fn leaves_of(&self, branch: usize) -> Vec<u64> {
        let leaves = &self.leaves[branch * FAN..(branch + 1) * FAN];
        if leaves.iter().all(|hash| *hash == 0) { Vec::new() } else { leaves.to_vec() }
    }

    /// The leaves in which we differ from those that somebody named.
    pub fn differing(&self, theirs: &[(u8, Vec<u64>)]) -> Vec<u16> {
        let mut differing = [false; LEAVES];
        // Whoever names more branches than there are says nothing new with them.
        for (branch, hashes) in theirs.iter().take(FAN) {
            let first = usize::from(*branch) * FAN;
            let Some(ours) = self.leaves.get(first..first + FAN) else { continue };
            for (i, our) in ours.iter().enumerate() {
                differing[first + i] |= hashes.get(i).copied().unwrap_or(0) != *our;
            }
        }
        (0..LEAVES).filter(|i| differing[*i]).map(|i| i as u16).collect()
    }
}

/// Leaves that somebody named, as a set: a hostile list may be long, this is not.
pub struct LeafSet([bool; LEAVES]);

impl LeafSet {
    /// Those of `leaves` that there are.
    pub fn new(leaves: &[u16]) -> Self {
        let mut set = [false; LEAVES];
        for leaf in leaves {
            if let Some(flag) = set.get_mut(usize::from(*leaf)) {
                *flag = true;
            }
        }
        Self(set)
    }

    /// Whether the record of a node lies in one of them.
    pub fn holds(&self, node: &NodeName) -> bool {
        self.0[leaf(node)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn name(i: u16) -> NodeName {
        NodeName::parse(&format!("n{i}")).unwrap()
    }

    fn tree(of: &BTreeMap<u16, u64>) -> Tree {
        let mut tree = Tree::default();
        for (i, hash) in of {
            tree.toggle(&name(*i), *hash);
        }
        tree
    }

    /// What two say to each other until they know the leaves.
    fn differing(a: &Tree, b: &Tree) -> Vec<u16> {
        if a.root() == b.root() {
            return Vec::new();
        }
        b.differing(&a.leaves_where(&b.branches()))
    }

    proptest! {
        #[test]
        fn exactly_the_leaves_in_which_two_sets_differ_are_found(
            a in prop::collection::btree_map(0u16..200, 1u64.., 0..60),
            changes in prop::collection::btree_map(0u16..200, prop::option::of(1u64..), 0..10),
        ) {
            let mut b = a.clone();
            for (i, change) in &changes {
                match change {
                    Some(hash) => b.insert(*i, *hash),
                    None => b.remove(i),
                };
            }
            let changed = (0..200).filter(|i| a.get(i) != b.get(i));
            let mut want: Vec<u16> = changed.map(|i| leaf(&name(i)) as u16).collect();
            want.sort_unstable();
            want.dedup();
            let (a, b) = (tree(&a), tree(&b));
            prop_assert_eq!(differing(&a, &b), want.clone());
            prop_assert_eq!(differing(&b, &a), want.clone());
            let set = LeafSet::new(&want);
            prop_assert!(changes.keys().all(|i| set.holds(&name(*i)) == want.contains(&(leaf(&name(*i)) as u16))));
        }

        #[test]
        fn hostile_hashes_name_no_more_leaves_than_there_are(
            branches in prop::collection::vec(any::<u64>(), 0..80),
            leaves in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u64>(), 0..80)), 0..80),
            named in prop::collection::vec(any::<u16>(), 0..80),
        ) {
            let tree = tree(&BTreeMap::from([(1, 1), (2, 2)]));
            prop_assert!(tree.leaves_where(&branches).len() <= FAN);
            prop_assert!(tree.differing(&leaves).len() <= LEAVES);
            let _ = LeafSet::new(&named).holds(&name(1));
        }
    }

    #[test]
    fn what_is_put_in_and_taken_out_leaves_nothing() {
        let mut tree = tree(&BTreeMap::from([(7, 99)]));
        assert_ne!(tree.root(), 0);
        tree.toggle(&name(7), 99);
        assert_eq!((tree.root(), tree.branches()), (0, vec![0; FAN]));
    }
}
