//! What a stream has received and nobody has read, and how much more its peer may send.
//!
//! Pure. The window starts small and doubles when a reader keeps up with it, out of a budget of the whole
//! process: a slow reader holds back its own stream, at a bounded cost, and no other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

/// What a peer may send on a stream before it hears that any of it was read.
pub(crate) const INITIAL_WINDOW: usize = 256 * 1024;
/// No window grows beyond this: 10 Gbit/s at 3 ms.
const MAX_WINDOW: usize = 4 * 1024 * 1024;
/// What all windows of the process may have grown by.
const BUDGET: usize = 64 * 1024 * 1024;
/// Chunks that wait are put together beyond so many, so that tiny ones do not cost more than they hold.
const MAX_CHUNKS: usize = 64;
/// Chunks of at least this size are left as they are.
const WHOLE: usize = 4096;

/// What is left for windows to grow.
#[derive(Debug)]
pub(crate) struct Budget(AtomicUsize);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicUsize::new(BUDGET))
    }
}

impl Budget {
    fn take(&self, bytes: usize) -> bool {
        let taken = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Chunks in order. Most streams never hold more than one.
#[derive(Debug, Default)]
struct Chunks {
    first: Bytes,
    more: VecDeque<Bytes>,
}

impl Chunks {
    fn push(&mut self, chunk: Bytes) {
        if self.first.is_empty() {
            self.first = chunk;
            return;
        }
        self.more.push_back(chunk);
        let small = self.more.iter().rev().take_while(|c| c.len() < WHOLE).count();
        if small >= MAX_CHUNKS {
            let tail = self.more.split_off(self.more.len() - small);
            let mut whole = BytesMut::with_capacity(tail.iter().map(Bytes::len).sum());
            tail.iter().for_each(|c| whole.extend_from_slice(c));
            self.more.push_back(whole.freeze());
        }
    }

    fn pop(&mut self, max: usize) -> Option<Bytes> {
        if self.first.is_empty() {
            return None;
        }
        if self.first.len() > max {
            return Some(self.first.split_to(max));
        }
        let next = self.more.pop_front().unwrap_or_default();
        Some(std::mem::replace(&mut self.first, next))
    }

    fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

/// The receiving side's account of one stream.
#[derive(Debug)]
pub(crate) struct Inflow {
    chunks: Chunks,
    /// Bytes in them.
    waiting: usize,
    /// What the peer may still send.
    granted: usize,
    window: usize,
    /// Read, and not yet granted anew.
    unreturned: usize,
    /// Read since the window grew the last time.
    passed: usize,
}

impl Default for Inflow {
    fn default() -> Self {
        Self {
            chunks: Chunks::default(),
            waiting: 0,
            granted: INITIAL_WINDOW,
            window: INITIAL_WINDOW,
            unreturned: 0,
            passed: 0,
        }
    }
}

/// The peer sent more than it may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

impl Inflow {
    /// Takes what came in.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Result<(), Overrun> {
        self.granted = self.granted.checked_sub(chunk.len()).ok_or(Overrun)?;
        if !chunk.is_empty() {
            self.waiting += chunk.len();
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// The next piece, and how much more the peer is to be granted for it (0: nothing yet).
    pub(crate) fn pop(&mut self, max: usize, budget: &Budget) -> Option<(Bytes, usize)> {
        let chunk = self.chunks.pop(max)?;
        self.waiting -= chunk.len();
        self.unreturned += chunk.len();
        if self.unreturned < self.window / 2 {
            return Some((chunk, 0));
        }
        let mut more = std::mem::take(&mut self.unreturned);
        self.passed += more;
        let kept_up = self.chunks.is_empty() && self.passed >= self.window;
        if kept_up && self.window < MAX_WINDOW && budget.take(self.window) {
            more += self.window;
            self.window *= 2;
            self.passed = 0;
        }
        self.granted += more;
        Some((chunk, more))
    }

    /// Bytes that nobody has read.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Nobody will read any more.
    pub(crate) fn discard(&mut self, budget: &Budget) {
        (self.chunks, self.waiting) = (Chunks::default(), 0);
        budget.give(self.window - INITIAL_WINDOW);
        self.window = INITIAL_WINDOW;
    }
}
