//! Rumours: who has said something new of itself, and who accuses whom, spread as foca's custom broadcasts.
//!
//! Decides which rumour is news. Bounded by the number of members that are known; what cannot be read is stale to us.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

use foca::{BroadcastHandler, Identity, Invalidates};
use serde::{Deserialize, Serialize};

use crate::ids::{NodeName, Version};
use crate::table;
use crate::wire::{self, WireError};

use super::MemberId;
use super::known::View;
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
}

/// Takes rumours in: what is news is kept and spread on. foca owns its handler and lends it to nobody, so what
/// was heard comes out through a channel that stays within one thread, and what is known comes in as a [`View`].
pub(super) struct Rumours {
    me: NodeName,
    view: View,
    newest: BTreeMap<NodeName, Version>,
    accused: BTreeMap<NodeName, Accused>,
    /// At so many, those that say nothing any more are let go.
    room: Room,
    fresh: mpsc::Sender<Item>,
}

/// How many entries there may be before those are let go that say nothing any more.
struct Room {
    newest: usize,
    accused: usize,
}

/// Room is for twice what was left, and for so many.
const ROOM: usize = 256;

fn room(left: usize) -> usize {
    (2 * left).max(ROOM)
}

impl Rumours {
    /// Nothing heard yet; what is fresh goes to `fresh`.
    pub(super) fn new(me: NodeName, view: View, fresh: mpsc::Sender<Item>) -> Self {
        let room = Room { newest: ROOM, accused: ROOM };
        Self { me, view, newest: BTreeMap::new(), accused: BTreeMap::new(), room, fresh }
    }

    fn is_news(&mut self, item: &Item) -> bool {
        match item {
            Item::Said(rumour) => self.is_newer(rumour),
            Item::Accused(accusation) => self.is_new_accusation(accusation),
        }
    }

    fn is_newer(&mut self, rumour: &Rumour) -> bool {
        let known = self.newest.get(&rumour.node);
        if known.is_some_and(|version| *version >= rumour.version) {
            return false;
        }
        if known.is_none() && self.newest.len() >= self.room.newest {
            let view = &self.view;
            self.newest.retain(|name, _| view.get(name).is_some());
            self.room.newest = room(self.newest.len());
            if self.newest.len() >= table::MAX_NODES {
                return false;
            }
        }
        self.newest.insert(rumour.node.clone(), rumour.version);
        true
    }

    /// An accuser more than are needed is no news to anybody, nor is an accusation of somebody who is unknown, dead,
    /// or has refuted it: it would go round for as long as anybody forgets to have heard it.
    fn is_new_accusation(&mut self, accusation: &Accusation) -> bool {
        let Accusation { by, of, incarnation } = accusation;
        if !may_be_suspect(&self.me, &self.view, of, *incarnation) {
            return false;
        }
        match self.accused.get_mut(&of.name) {
            Some(held) if !accusation.is_later(&held.of, held.incarnation) => {
                held.of == *of
                    && held.incarnation == *incarnation
                    && held.by.len() <= CONFIRMATIONS
                    && held.by.insert(by.clone())
            }
            _ => {
                let by = BTreeSet::from([by.clone()]);
                let (of, incarnation) = (of.clone(), *incarnation);
                self.accused.insert(of.name.clone(), Accused { of, incarnation, by });
                if self.accused.len() >= self.room.accused {
                    let (me, view) = (&self.me, &self.view);
                    let holds = |a: &Accused| may_be_suspect(me, view, &a.of, a.incarnation);
                    self.accused.retain(|_, held| holds(held));
                    self.room.accused = room(self.accused.len());
                }
                true
            }
        }
    }
}

/// Whether a member may be suspect in a life of its: it is known, not dead, and has said nothing later. Whether we
/// may be ourselves is for SWIM to judge.
fn may_be_suspect(me: &NodeName, view: &View, of: &MemberId, incarnation: u16) -> bool {
    of.name == *me
        || view.get(&of.name).is_some_and(|held| {
            let over = held.id == *of && (held.is_down() || held.incarnation > incarnation);
            !over && !held.id.win_addr_conflict(of)
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Generation;
    use crate::member::MemberRecord;
    use rpds::RedBlackTreeMapSync;

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).unwrap()
    }

    fn id(node: &str) -> MemberId {
        MemberId::new(name(node), Generation(1), ([10, 0, 0, 1], 7940).into())
    }

    /// A handler that knows these, each in an incarnation and a state.
    fn rumours(known: &[(&str, u16, u8)]) -> (Rumours, mpsc::Receiver<Item>) {
        let mut members = RedBlackTreeMapSync::default();
        for (node, incarnation, state) in known {
            let record = MemberRecord { id: id(node), incarnation: *incarnation, state: *state };
            members.insert_mut(name(node), record);
        }
        let view = View::default();
        view.set(&members);
        let (fresh, items) = mpsc::channel();
        (Rumours::new(name("me"), view, fresh), items)
    }

    fn accuses(rumours: &mut Rumours, by: usize, of: &str, incarnation: u16) -> bool {
        let by = name(&format!("by{by}"));
        rumours.is_news(&Item::Accused(Accusation { by, of: id(of), incarnation }))
    }

    #[test]
    fn an_accusation_is_news_once_and_as_long_as_it_can_lead_to_a_verdict() {
        let (mut r, _items) = rumours(&[("alive", 3, 0), ("suspect", 3, 1), ("down", 3, 2)]);
        for of in ["alive", "suspect", "me"] {
            for by in 0..=CONFIRMATIONS {
                assert!(accuses(&mut r, by, of, 3) && !accuses(&mut r, by, of, 3), "{by} of {of}");
            }
            assert!(!accuses(&mut r, 9, of, 3), "more than are needed");
            assert!(accuses(&mut r, 0, of, 4), "{of} in a later life");
        }
        assert!(!accuses(&mut r, 0, "alive", 2), "refuted");
        assert!(
            !accuses(&mut r, 0, "down", 3) && !accuses(&mut r, 0, "down", 4),
            "a verdict was given"
        );
        assert!(!accuses(&mut r, 0, "unknown", 0));
    }

    #[test]
    fn what_says_nothing_any_more_is_let_go_and_what_does_is_never_forgotten() {
        let names: Vec<String> = (0..3_000).map(|n| format!("n{n}")).collect();
        let known: Vec<(&str, u16, u8)> = names.iter().map(|n| (n.as_str(), 0, 0)).collect();
        let (mut r, _items) = rumours(&known);
        for name in &names {
            assert!(accuses(&mut r, 0, name, 0));
        }
        assert!(names.iter().all(|name| !accuses(&mut r, 0, name, 0)), "all are remembered");
        // All refute; each is accused anew.
        let refuted: Vec<(&str, u16, u8)> = names.iter().map(|n| (n.as_str(), 1, 0)).collect();
        r.view.set(&{
            let mut members = RedBlackTreeMapSync::default();
            for (node, incarnation, state) in refuted {
                members.insert_mut(name(node), MemberRecord { id: id(node), incarnation, state });
            }
            members
        });
        assert!(names.iter().all(|name| !accuses(&mut r, 0, name, 0)), "nothing goes round again");
        let version = |revision| Version { generation: Generation(1), revision };
        for n in 0..table::MAX_NODES {
            let node = name(&format!("gone{n}"));
            assert!(r.is_news(&Item::Said(Rumour { node, version: version(1) })));
        }
        assert!(r.newest.len() < 2 * ROOM, "{} names of nobody", r.newest.len());
        let said = Rumour { node: name("n7"), version: version(2) };
        assert!(r.is_news(&Item::Said(said.clone())));
        for n in 0..ROOM {
            let node = name(&format!("more{n}"));
            r.is_news(&Item::Said(Rumour { node, version: version(1) }));
        }
        assert!(!r.is_news(&Item::Said(said)), "who is known is remembered");
    }
}
