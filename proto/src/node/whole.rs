//! All that a mesh knows, at once: for simulations of large meshes, whose members would tell each other N² things
//! before anything can be measured, and would keep N² copies of them. No agent starts so.

use std::sync::Arc;

use rand::RngExt;
use rpds::RedBlackTreeMapSync;

use crate::advert::{AdvertRefused, Keyring, SignedAdvert};
use crate::evidence::{NodeEvidence, Swim};
use crate::ids::NodeName;
use crate::member::{Everybody, Member, MemberId};
use crate::table::Table;
use crate::time::Time;

use super::membership::Membership;
use super::{Node, NodeConfig};

/// A mesh in which everybody lives and everybody knows it. Nodes that begin in it share what it knows until they
/// learn something else.
#[derive(Debug, Default)]
pub struct Whole {
    table: Table,
    nodes: RedBlackTreeMapSync<NodeName, NodeEvidence>,
    everybody: Everybody,
}

impl Whole {
    /// Adds the node of a record, as it is at `now`.
    ///
    /// # Errors
    /// Where the record does not hold; nothing is added.
    pub fn add(
        &mut self,
        signed: SignedAdvert,
        keyring: &dyn Keyring,
        now: Time,
    ) -> Result<(), AdvertRefused> {
        let advert = Arc::new(signed.open(keyring, false)?);
        let name = signed.node.clone();
        let id = MemberId::new(name.clone(), signed.version.generation, advert.address);
        self.everybody.add(id);
        let alive = NodeEvidence { swim: Swim::Alive, ..NodeEvidence::unheard(now) };
        self.nodes.insert_mut(name, alive);
        self.table.insert(signed, advert, now);
        Ok(())
    }
}

impl Node {
    /// A node that knows a whole mesh which knows its advert, as if all had been told long ago. Its start is the one
    /// whose advert is in `whole`: in any other it is a [`Node::new`].
    pub fn in_whole(
        config: NodeConfig,
        keyring: Box<dyn Keyring>,
        now: Time,
        whole: &Whole,
    ) -> Self {
        let id = MemberId::new(config.name.clone(), config.generation, config.address);
        let mut node = Self::bare(config, keyring, now);
        let seed = node.rng.random();
        let member = Member::in_whole(id, node.config.swim, seed, now, &whole.everybody);
        node.member = Membership::live(member);
        node.table = whole.table.clone();
        node.nodes = whole.nodes.clone();
        node.nodes.remove_mut(&node.config.name);
        node.begin_endpoints(now);
        if let Some(ours) = node.table.get(&node.config.name) {
            node.revision = ours.signed.version.revision;
            (node.stale_advert, node.published) = (false, Some(now));
        }
        node.stale_services.extend(node.table.services().cloned());
        node.settle(now);
        node
    }
}
