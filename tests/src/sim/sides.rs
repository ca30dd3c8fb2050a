//! One host's sides of its links, found by the peer's number: looked up several times with each frame.

use super::link::Side;

/// See the module's text.
#[derive(Default)]
pub struct Sides {
    /// By peer: where its side lies, from 1; 0 if there is none.
    places: Vec<u32>,
    sides: Vec<(usize, Side)>,
}

impl Sides {
    /// The side towards a peer.
    pub(super) fn of(&mut self, peer: usize, fresh: impl FnOnce() -> Side) -> &mut Side {
        if self.places.len() <= peer {
            self.places.resize(peer + 1, 0);
        }
        if self.places[peer] == 0 {
            self.sides.push((peer, fresh()));
            self.places[peer] = self.sides.len() as u32;
        }
        &mut self.sides[self.places[peer] as usize - 1].1
    }

    /// All peers there is a side towards, in order.
    pub(super) fn peers(&self) -> Vec<usize> {
        let mut peers: Vec<usize> = self.sides.iter().map(|(peer, _)| *peer).collect();
        peers.sort_unstable();
        peers
    }

    /// All of them, in no order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Side)> {
        self.sides.iter_mut().map(|(peer, side)| (*peer, side))
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
