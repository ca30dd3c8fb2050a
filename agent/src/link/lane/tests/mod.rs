//! Lanes without sockets: two ends whose records are carried over by hand.

mod frames;
mod records;
mod streams;
mod turns;

use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::frame::Frames;
use super::inflow::Budget;
use super::mux::{Arrival, End, Happened, Mux, Violation};
use super::record::{HEAD, Records, TAIL};
use crate::link::stream::StreamError;

/// The two ends of a lane.
pub(super) struct Ends {
    pub(super) dialler: Mux,
    pub(super) acceptor: Mux,
}

impl Ends {
    pub(super) fn new() -> Self {
        let budget = Arc::new(Budget::default());
        Self {
            dialler: Mux::new(End::Dialled, budget.clone()),
            acceptor: Mux::new(End::Accepted, budget),
        }
    }

    /// Carries over what the dialler has queued.
    pub(super) fn forth(&mut self) -> Vec<Arrival> {
        carry(&mut self.dialler, &mut self.acceptor).unwrap()
    }

    /// Carries over what the acceptor has queued.
    pub(super) fn back(&mut self) -> Vec<Arrival> {
        carry(&mut self.acceptor, &mut self.dialler).unwrap()
    }

    /// Opens a stream and makes it known to the acceptor.
    pub(super) fn stream(&mut self) -> u32 {
        let id = self.dialler.open().unwrap();
        assert_eq!(write(&mut self.dialler, id, b"?"), Poll::Ready(Ok(())));
        assert_eq!(self.forth(), [Arrival::Opened(id)]);
        assert_eq!(read(&mut self.acceptor, id), Poll::Ready(Ok(Some(b"?".as_slice().into()))));
        id
    }
}

/// Moves what is queued at one end to the other, as if it had been sealed and opened.
pub(super) fn carry(from: &mut Mux, to: &mut Mux) -> Result<Vec<Arrival>, Violation> {
    let mut records = Vec::new();
    from.take_outbox(&mut records);
    let mut happened = Happened::default();
    let mut rest = &records[..];
    while let Some(length) = Records::length(rest).unwrap() {
        let plain = Bytes::copy_from_slice(&rest[HEAD..length - TAIL]);
        for frame in Frames::new(&plain) {
            let (header, at) = frame.unwrap();
            let payload = &plain[at..at + header.length];
            to.receive(header, payload, Some(&plain), &mut happened)?;
        }
        rest = &rest[length..];
    }
    // Writers that waited for room may go on, as after a write to the socket.
    while from.grant(&mut happened.wakes) {}
    Ok(happened.arrivals)
}

/// Writes as much as goes at once; pending: not all did.
pub(super) fn write(mux: &mut Mux, id: u32, bytes: &[u8]) -> Poll<Result<(), StreamError>> {
    mux.write(id, &mut &bytes[..], false, Waker::noop())
}

/// Writes what goes at once and says how much that was.
pub(super) fn write_some(mux: &mut Mux, id: u32, bytes: &[u8]) -> usize {
    let mut rest = bytes;
    let _ = mux.write(id, &mut rest, false, Waker::noop());
    bytes.len() - rest.len()
}

pub(super) fn read(mux: &mut Mux, id: u32) -> Poll<Result<Option<Bytes>, StreamError>> {
    mux.read(id, usize::MAX, Waker::noop())
}

/// Reads all that came in, and says how much that was.
pub(super) fn drain(mux: &mut Mux, id: u32) -> usize {
    let mut bytes = 0;
    while let Poll::Ready(Ok(Some(chunk))) = read(mux, id) {
        bytes += chunk.len();
    }
    bytes
}
