//! Rumours: who has said something new of itself, spread as foca's custom broadcasts.
//!
//! Decides which rumour is news. Bounded by the number of nodes; what cannot be read is stale to us.

use std::collections::BTreeMap;
use std::sync::mpsc;

use foca::{BroadcastHandler, Invalidates};
use serde::{Deserialize, Serialize};

use crate::ids::{NodeName, Version};
use crate::table;
use crate::wire::{self, WireError};

use super::MemberId;

/// A rumour that a node has said something new of itself (at most 100 bytes on the wire).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rumour {
    /// Who.
    pub node: NodeName,
    /// In which version.
    pub version: Version,
}

impl Invalidates for Rumour {
    fn invalidates(&self, other: &Self) -> bool {
        self.node == other.node && self.version >= other.version
    }
}

/// Takes rumours in: what is newer than the newest heard is kept and spread on. foca owns its handler and
/// lends it to nobody, so what was heard comes out through a channel that stays within one thread.
pub(super) struct Rumours {
    newest: BTreeMap<NodeName, Version>,
    fresh: mpsc::Sender<Rumour>,
}

impl Rumours {
    /// Nothing heard yet; what is fresh goes to `fresh`.
    pub(super) fn new(fresh: mpsc::Sender<Rumour>) -> Self {
        Self { newest: BTreeMap::new(), fresh }
    }
}

impl BroadcastHandler<MemberId> for Rumours {
    type Key = Rumour;
    type Error = WireError;

    fn receive_item(
        &mut self,
        data: &[u8],
        _sender: Option<&MemberId>,
    ) -> Result<Option<Rumour>, WireError> {
        // An error would make foca drop the packet's other rumours: what cannot be read is of a later
        // version, and stale to us.
        let Ok(rumour) = wire::decode_body::<Rumour>(data) else { return Ok(None) };
        if self.newest.get(&rumour.node).is_some_and(|v| *v >= rumour.version) {
            return Ok(None);
        }
        if self.newest.len() >= table::MAX_NODES && !self.newest.contains_key(&rumour.node) {
            return Ok(None);
        }
        self.newest.insert(rumour.node.clone(), rumour.version);
        // The receiver lives in the same struct as foca: it cannot be gone.
        let _ = self.fresh.send(rumour.clone());
        Ok(Some(rumour))
    }
}
