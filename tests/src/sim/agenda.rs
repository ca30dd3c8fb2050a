//! What is to happen, in order of time; what falls on one moment in the order in which it was armed.
//!
//! A calendar queue (Brown 1988): moments within the coming four seconds lie unsorted in slices of a
//! millisecond, and only the present slice is a heap. Nearly everything that is armed lies within them, so
//! that arming costs a push and the heap that is popped from stays small however large the mesh. What is
//! armed lies still in a slab, and the queues hold its place.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::At;

/// Microseconds in a slice, as a power of two.
const SLICE: u32 = 10;
/// Slices ahead of the present one.
const AHEAD: u64 = 4_096;

/// When, which of that moment, and where it lies.
type Key = Reverse<(At, u64, u32)>;

/// See the module's text.
pub(super) struct Agenda<T> {
    /// The present slice: its moments and earlier ones are in `present`.
    slice: u64,
    present: BinaryHeap<Key>,
    coming: Vec<Vec<Key>>,
    /// How many there are in `coming`.
    waiting: usize,
    /// Beyond.
    later: BinaryHeap<Key>,
    armed: u64,
    slab: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Agenda<T> {
    pub(super) fn new() -> Self {
        Self {
            slice: 0,
            present: BinaryHeap::new(),
            coming: (0..AHEAD).map(|_| Vec::new()).collect(),
            waiting: 0,
            later: BinaryHeap::new(),
            armed: 0,
            slab: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Arms something.
    pub(super) fn arm(&mut self, at: At, what: T) {
        self.armed += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.slab[place as usize] = Some(what);
                place
            }
            None => {
                self.slab.push(Some(what));
                (self.slab.len() - 1) as u32
            }
        };
        self.place(Reverse((at, self.armed, place)));
    }

    fn place(&mut self, key: Key) {
        let slice = key.0.0 >> SLICE;
        if slice <= self.slice {
            self.present.push(key);
        } else if slice < self.slice + AHEAD {
            self.coming[(slice % AHEAD) as usize].push(key);
            self.waiting += 1;
        } else {
            self.later.push(key);
        }
    }

    /// The next thing that happens, if it does so by `end`.
    pub(super) fn next(&mut self, end: At) -> Option<(At, T)> {
        while self.present.is_empty() {
            if self.slice >= end >> SLICE || !self.turn() {
                return None;
            }
        }
        let Reverse((at, _, place)) = *self.present.peek()?;
        if at > end {
            return None;
        }
        self.present.pop();
        self.free.push(place);
        self.slab[place as usize].take().map(|what| (at, what))
    }

    /// Goes on to the next slice. Returns whether anything is left.
    fn turn(&mut self) -> bool {
        if self.waiting == 0 {
            // Nothing in the slices: straight to what lies beyond.
            let Some(Reverse((at, ..))) = self.later.peek() else { return false };
            self.slice = at >> SLICE;
        } else {
            self.slice += 1;
        }
        let slice = &mut self.coming[(self.slice % AHEAD) as usize];
        self.waiting -= slice.len();
        self.present.extend(slice.drain(..));
        while let Some(Reverse((at, ..))) = self.later.peek()
            && at >> SLICE < self.slice + AHEAD
        {
            let Some(key) = self.later.pop() else { break };
            self.place(key);
        }
        true
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self { slice: self.slice, armed: self.armed, ..Self::new() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn everything_happens_in_order_of_time_and_then_of_arming() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut agenda, mut now, mut armed, mut happened) =
            (Agenda::new(), 0, Vec::new(), Vec::new());
        for round in 0..200 {
            for i in 0..rng.random_range(0..40_u64) {
                // The same moment, the same slice, within the calendar, beyond it.
                let after =
                    [0, 3, 900, 50_000, 6_000_000, 60_000_000][rng.random_range(0..6_usize)];
                let at = now + rng.random_range(0..=after);
                agenda.arm(at, (round, i));
                armed.push((at, round, i));
            }
            let end = now + rng.random_range(0..2_000_000);
            while let Some((at, (round, i))) = agenda.next(end) {
                assert!((now..=end).contains(&at), "{at} is not between {now} and {end}");
                now = at;
                happened.push((at, round, i));
            }
            now = end;
        }
        while let Some((at, (round, i))) = agenda.next(At::MAX) {
            happened.push((at, round, i));
        }
        armed.sort_unstable();
        assert_eq!(happened, armed);
    }

    #[test]
    fn what_is_due_at_the_very_end_happens_and_what_is_due_behind_it_does_not() {
        let mut agenda = Agenda::new();
        agenda.arm(2_000, 'a');
        agenda.arm(2_001, 'b');
        assert_eq!(agenda.next(1_999), None);
        assert_eq!(agenda.next(2_000), Some((2_000, 'a')));
        assert_eq!(agenda.next(2_000), None);
        assert_eq!(agenda.next(9_000), Some((2_001, 'b')));
    }
}
