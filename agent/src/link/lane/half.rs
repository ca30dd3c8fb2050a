//! The two halves of a lane's stream, as their holders see them.

use std::future::{Future, poll_fn};
use std::sync::Arc;

use bytes::Bytes;

use super::Lane;
use crate::link::stream::StreamError;

/// The sending half. Whoever holds it says its end by [`LaneSender::finish`] or [`LaneSender::abandon`].
#[derive(Debug)]
pub(crate) struct LaneSender {
    lane: Arc<Lane>,
    id: u32,
}

impl LaneSender {
    pub(crate) fn new(lane: Arc<Lane>, id: u32) -> Self {
        Self { lane, id }
    }

    /// Writes all of `bytes`, and the end with them if they are the `last`.
    pub(crate) async fn write(&mut self, bytes: &[u8], last: bool) -> Result<(), StreamError> {
        self.write_from(bytes, &mut 0, last).await
    }

    /// The same for what stands behind `from`, which is moved on as it is written. Cancel-safe.
    pub(crate) async fn write_from(
        &mut self,
        bytes: &[u8],
        from: &mut usize,
        last: bool,
    ) -> Result<(), StreamError> {
        poll_fn(|cx| {
            let mut rest = &bytes[*from..];
            let written = self.lane.with(|mux| mux.write(self.id, &mut rest, last, cx.waker()));
            *from = bytes.len() - rest.len();
            written
        })
        .await
    }

    /// Writes several pieces, as one frame where that is possible.
    pub(crate) async fn write_chunks(&mut self, chunks: &[Bytes]) -> Result<(), StreamError> {
        if self.lane.with(|mux| mux.write_gathered(self.id, chunks, false)) {
            return Ok(());
        }
        for chunk in chunks {
            self.write(chunk, false).await?;
        }
        Ok(())
    }

    pub(crate) fn finish(&mut self) {
        self.lane.with(|mux| mux.finish(self.id));
    }

    pub(crate) fn abandon(&mut self) {
        self.lane.with(|mux| mux.abandon(self.id));
    }

    /// Resolves once the peer reads no more (`true`), or it no longer matters (`false`).
    pub(crate) fn stopped(&self) -> impl Future<Output = bool> + Send + use<> {
        let (lane, id) = (self.lane.clone(), self.id);
        poll_fn(move |cx| lane.with(|mux| mux.stopped(id, cx.waker())))
    }
}

/// The receiving half. Dropped before its end it tells the peer to stop.
#[derive(Debug)]
pub(crate) struct LaneReceiver {
    lane: Arc<Lane>,
    id: u32,
    ended: bool,
}

impl LaneReceiver {
    pub(crate) fn new(lane: Arc<Lane>, id: u32) -> Self {
        Self { lane, id, ended: false }
    }

    /// The next piece, at most `max` bytes of it; `None` at the end that the peer said. Cancel-safe.
    pub(crate) async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        if self.ended {
            return Ok(None);
        }
        let chunk = poll_fn(|cx| self.lane.with(|mux| mux.read(self.id, max, cx.waker()))).await?;
        self.ended = chunk.is_none();
        Ok(chunk)
    }
}

impl Drop for LaneReceiver {
    fn drop(&mut self) {
        if !self.ended {
            self.lane.with(|mux| mux.stop(self.id));
        }
    }
}
