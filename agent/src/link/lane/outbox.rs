//! What a lane is about to send: frames, laid out as the records they will be sealed in.
//!
//! Pure. Writers copy their bytes once, to where the kernel will take them from: each record has room for its
//! header in front and for its tag behind, so that sealing moves nothing.

use super::frame::{HEADER, Header, MAX_PAYLOAD, MAX_RECORD};
use super::record::{APPLICATION, HEAD, TAIL, head};

/// A record with less room left is closed rather than given a sliver of a large payload.
const SLIVER: usize = 1024;

/// Records to be sealed.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    records: Vec<u8>,
    /// Where the plaintext of the record that is being filled begins.
    open: Option<usize>,
}

impl Outbox {
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Appends one frame. Proof that it fits: no payload is longer than [`MAX_PAYLOAD`].
    pub(crate) fn frame(&mut self, stream: u32, kind: u8, payload: &[u8]) {
        debug_assert!(payload.len() <= MAX_PAYLOAD);
        self.begin(HEADER + payload.len());
        self.records.extend_from_slice(&Header { stream, length: payload.len(), kind }.bytes());
        self.records.extend_from_slice(payload);
    }

    /// Appends one frame whose payload, `length` bytes in all, comes in pieces.
    pub(crate) fn gathered<'a>(
        &mut self,
        stream: u32,
        kind: u8,
        length: usize,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) {
        self.begin(HEADER + length);
        self.records.extend_from_slice(&Header { stream, length, kind }.bytes());
        pieces.for_each(|piece| self.records.extend_from_slice(piece));
    }

    /// How much of a payload the next frame takes.
    pub(crate) fn next_piece(&self, payload: usize) -> usize {
        let room = self.open.map_or(0, |open| MAX_RECORD - (self.records.len() - open));
        let room = room.saturating_sub(HEADER);
        if room >= payload.min(SLIVER) { payload.min(room) } else { payload.min(MAX_PAYLOAD) }
    }

    /// Makes sure that the open record has room for `wanted` bytes.
    fn begin(&mut self, wanted: usize) {
        match self.open {
            Some(open) if self.records.len() - open + wanted <= MAX_RECORD => return,
            Some(_) => self.close(),
            None => {}
        }
        self.records.extend_from_slice(&head(0));
        self.open = Some(self.records.len());
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let plain = self.records.len() - open;
        self.records[open - HEAD..open].copy_from_slice(&head(plain));
        self.records.push(APPLICATION);
        self.records.resize(self.records.len() + TAIL - 1, 0);
    }

    /// Moves all records into `out`, which must be empty; its memory is used for those that follow.
    pub(crate) fn take(&mut self, out: &mut Vec<u8>) {
        self.close();
        std::mem::swap(&mut self.records, out);
    }

    /// Gives all memory back if nothing is waiting.
    pub(crate) fn rest(&mut self) {
        if self.records.is_empty() {
            self.records = Vec::new();
        }
    }
}
