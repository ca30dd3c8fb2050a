//! Rumours: who has said something new of itself, and who accuses whom, spread as foca's custom broadcasts.
//!
//! Decides which rumour is news. Bounded by the number of nodes; what cannot be read is stale to us.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

use foca::{BroadcastHandler, Invalidates};
use serde::{Deserialize, Serialize};

use crate::ids::{NodeName, Version};
use crate::table;
use crate::wire::{self, WireError};

use super::MemberId;
use super::suspicion::{Accusation, CONFIRMATIONS};

/// A rumour that a node has said something new of itself (at most 100 bytes on the wire).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rumour {
    /// Who.
    pub node: NodeName,
    /// In which version.
    pub version: Version,
}

/// Stands before an accusation. No [`Rumour`] begins with it: that is no length of a name.
const ACCUSATION: u8 = 0xff;
/// Nodes of which accusations are kept; the one accused longest ago goes first.
const MAX_ACCUSED: usize = 1_024;

/// What is spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Said(Rumour),
    Accused(Accusation),
}

impl Item {
    pub(super) fn encode(&self) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Said(rumour) => wire::encode_body(rumour),
            Self::Accused(accusation) => {
                let mut bytes = vec![ACCUSATION];
                wire::encode_into(accusation, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        match bytes {
            [ACCUSATION, body @ ..] => wire::decode_body(body).map(Self::Accused),
            _ => wire::decode_body(bytes).map(Self::Said),
        }
    }
}

impl Invalidates for Item {
    fn invalidates(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Said(a), Self::Said(b)) => a.node == b.node && a.version >= b.version,
            (Self::Accused(a), Self::Accused(b)) => {
                a == b || a.of.name == b.of.name && a.is_later(&b.of, b.incarnation)
            }
            _ => false,
        }
    }
}

/// Who accuses a node, in its latest life that anybody was accused in.
struct Accused {
    of: MemberId,
    incarnation: u16,
    by: BTreeSet<NodeName>,
    serial: u64,
}

/// Takes rumours in: what is news is kept and spread on. foca owns its handler and lends it to nobody, so what
/// was heard comes out through a channel that stays within one thread.
pub(super) struct Rumours {
    newest: BTreeMap<NodeName, Version>,
    accused: BTreeMap<NodeName, Accused>,
    serial: u64,
    fresh: mpsc::Sender<Item>,
}

impl Rumours {
    /// Nothing heard yet; what is fresh goes to `fresh`.
    pub(super) fn new(fresh: mpsc::Sender<Item>) -> Self {
        Self { newest: BTreeMap::new(), accused: BTreeMap::new(), serial: 0, fresh }
    }

    fn is_news(&mut self, item: &Item) -> bool {
        match item {
            Item::Said(rumour) => {
                let known = self.newest.get(&rumour.node);
                if known.is_some_and(|version| *version >= rumour.version)
                    || known.is_none() && self.newest.len() >= table::MAX_NODES
                {
                    return false;
                }
                self.newest.insert(rumour.node.clone(), rumour.version);
                true
            }
            Item::Accused(accusation) => self.is_new_accusation(accusation),
        }
    }

    /// An accuser more than are needed is no news to anybody.
    fn is_new_accusation(&mut self, accusation: &Accusation) -> bool {
        let Accusation { by, of, incarnation } = accusation;
        match self.accused.get_mut(&of.name) {
            Some(held) if !accusation.is_later(&held.of, held.incarnation) => {
                held.of == *of
                    && held.incarnation == *incarnation
                    && held.by.len() <= CONFIRMATIONS
                    && held.by.insert(by.clone())
            }
            _ => {
                self.serial += 1;
                let by = BTreeSet::from([by.clone()]);
                let (of, incarnation, serial) = (of.clone(), *incarnation, self.serial);
                self.accused.insert(of.name.clone(), Accused { of, incarnation, by, serial });
                if self.accused.len() > MAX_ACCUSED {
                    let oldest = self.accused.iter().min_by_key(|(_, held)| held.serial);
                    let oldest = oldest.map(|(name, _)| name.clone());
                    oldest.and_then(|name| self.accused.remove(&name));
                }
                true
            }
        }
    }
}

impl BroadcastHandler<MemberId> for Rumours {
    type Key = Item;
    type Error = WireError;

    fn receive_item(
        &mut self,
        data: &[u8],
        _sender: Option<&MemberId>,
    ) -> Result<Option<Item>, WireError> {
        // An error would make foca drop the packet's other rumours: what cannot be read is of a later
        // version, and stale to us.
        let Ok(item) = Item::decode(data) else { return Ok(None) };
        if !self.is_news(&item) {
            return Ok(None);
        }
        // The receiver lives in the same struct as foca: it cannot be gone.
        let _ = self.fresh.send(item.clone());
        Ok(Some(item))
    }
}
