//! Whose turn it is to fill the outbox, when several streams have more to send than the socket takes.
//!
//! Pure. Streams that must wait queue up in order. Whenever the outbox has been emptied, the first of them get
//! an equal share of it each; nobody passes those who wait, except with something small. Shares last for one
//! round, so that one who no longer wants his holds nobody up.

use std::collections::VecDeque;

use super::frame::MAX_PAYLOAD;

/// What may wait in the outbox; as much again may wait for the socket. Enough for the socket to be kept busy
/// while writers are woken, and little enough that a request behind a body waits well under a millisecond.
pub(crate) const LIMIT: usize = 128 * 1024;
/// Shares given out in one round: below a sixteenth of the outbox, frames would be cut small.
const SHARES: usize = 16;
/// What is small enough not to wait for its turn: heads, and the bodies of most answers.
pub(crate) const SMALL: usize = 4096;

/// A stream's place in all this.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    queued: bool,
    /// What it may append in that round.
    share: usize,
    round: u64,
}

/// The queue and the round.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    waiting: VecDeque<u32>,
    round: u64,
    /// Shares of this round that are not used up.
    granted: usize,
    /// Those who hold shares were given time to use them.
    lingered: bool,
}

impl Turns {
    /// How much of `wanted` bytes a stream may append to an outbox of so many; 0: it has to wait.
    pub(crate) fn room(&self, turn: &Turn, backlog: usize, wanted: usize) -> usize {
        if wanted <= SMALL && backlog < 2 * LIMIT {
            return wanted;
        }
        if turn.round == self.round && turn.share > 0 {
            return turn.share;
        }
        let free = self.waiting.is_empty() && self.granted == 0;
        if free { LIMIT.saturating_sub(backlog) } else { 0 }
    }

    /// It appended so many bytes.
    pub(crate) fn used(&mut self, turn: &mut Turn, bytes: usize) {
        if turn.round == self.round && turn.share > 0 {
            turn.share = turn.share.saturating_sub(bytes);
            if turn.share == 0 {
                self.granted = self.granted.saturating_sub(1);
            }
        }
    }

    /// It waits.
    pub(crate) fn queue(&mut self, id: u32, turn: &mut Turn) {
        if !std::mem::replace(&mut turn.queued, true) {
            self.waiting.push_back(id);
        }
    }

    /// Begins a round, if one can begin with such a backlog: calls `place` with each stream's id and its new
    /// turn (`false`: it wants no more). `true`: a round is to be tried again soon.
    pub(crate) fn begin(
        &mut self,
        backlog: usize,
        mut place: impl FnMut(u32, Turn) -> bool,
    ) -> bool {
        if self.waiting.is_empty() {
            (self.round, self.granted, self.lingered) = (self.round + 1, 0, false);
            return false;
        }
        if backlog >= LIMIT {
            return false;
        }
        if self.granted > 0 && !std::mem::replace(&mut self.lingered, true) {
            return true;
        }
        (self.round, self.granted, self.lingered) = (self.round + 1, 0, false);
        let shares = self.waiting.len().min(SHARES);
        let share = (LIMIT / shares).max(MAX_PAYLOAD);
        for _ in 0..shares {
            let Some(id) = self.waiting.pop_front() else { break };
            self.granted +=
                usize::from(place(id, Turn { queued: false, share, round: self.round }));
        }
        !self.waiting.is_empty()
    }
}
