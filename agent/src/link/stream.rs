//! A stream between two agents, whatever lane carries it: bytes in order, an end that is said, and either
//! half given up at any time.
//!
//! Decides nothing; it is the one shape in which the traffic path sees lanes. Both halves hold their peer
//! back when their reader is slow. A half that is dropped before its end resets the stream, so that nothing
//! cut short is ever taken for whole.

use std::future::Future;

use bytes::Bytes;
use futures_util::future::Either;
use quinn::{RecvStream, SendStream, VarInt};

use super::data::InFlight;
use super::lane::{LaneReceiver, LaneSender};

/// A stream that was dropped before its end.
const ABANDONED: VarInt = VarInt::from_u32(1);

/// Why a stream does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer gave the stream up.
    #[error("the peer gave the request up")]
    Reset,
    /// The peer never opened the stream: it has as many as it takes, and has seen no request.
    #[error("the peer takes no more requests on this connection")]
    Busy,
    /// The connection is gone.
    #[error("{why}")]
    Lost {
        /// What happened.
        why: String,
        /// The peer never let us in: it has seen no request.
        unseen: bool,
    },
}

impl From<quinn::ConnectionError> for StreamError {
    fn from(error: quinn::ConnectionError) -> Self {
        Self::Lost {
            // Crypto errors (RFC 9001 section 4.8) end a handshake, never a connection in use.
            unseen: matches!(&error, quinn::ConnectionError::ConnectionClosed(c)
                if (0x100..0x200).contains(&u64::from(c.error_code))),
            why: format!("the connection broke: {error}"),
        }
    }
}

impl From<quinn::ReadError> for StreamError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(_) => Self::Reset,
            quinn::ReadError::ConnectionLost(e) => e.into(),
            other => Self::Lost { why: other.to_string(), unseen: false },
        }
    }
}

impl From<quinn::WriteError> for StreamError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(_) => Self::Reset,
            quinn::WriteError::ConnectionLost(e) => e.into(),
            other => Self::Lost { why: other.to_string(), unseen: false },
        }
    }
}

#[derive(Debug)]
enum SendHalf {
    Quic(SendStream),
    Lane(LaneSender),
}

#[derive(Debug)]
enum ReceiveHalf {
    Quic(RecvStream),
    Lane(LaneReceiver),
}

/// The sending half of a stream. Dropped before [`Sender::finish`] it resets the stream.
#[derive(Debug)]
pub struct Sender {
    half: SendHalf,
    finished: bool,
}

impl Sender {
    pub(crate) fn quic(stream: SendStream) -> Self {
        Self { half: SendHalf::Quic(stream), finished: false }
    }

    pub(crate) fn lane(stream: LaneSender) -> Self {
        Self { half: SendHalf::Lane(stream), finished: false }
    }

    /// Writes all of `bytes`; waits only when the peer or the path holds us back.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        match &mut self.half {
            SendHalf::Quic(stream) => Ok(stream.write_all(bytes).await?),
            SendHalf::Lane(stream) => stream.write(bytes, false).await,
        }
    }

    /// Writes `bytes` and the end of the stream.
    pub async fn write_last(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.write_last_from(bytes, &mut 0).await
    }

    /// Writes what stands in `bytes` behind `from`, and the end of the stream. Cancel-safe: `from` tells how
    /// far it came, and it can be called again with the same.
    pub async fn write_last_from(
        &mut self,
        bytes: &[u8],
        from: &mut usize,
    ) -> Result<(), StreamError> {
        if self.finished {
            return Ok(());
        }
        match &mut self.half {
            SendHalf::Quic(stream) => {
                while *from < bytes.len() {
                    *from += stream.write(&bytes[*from..]).await?;
                }
                self.finish();
            }
            SendHalf::Lane(stream) => {
                stream.write_from(bytes, from, true).await?;
                self.finished = true;
            }
        }
        Ok(())
    }

    /// Writes a chunk without a copy where the lane can.
    pub async fn write_chunk(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        match &mut self.half {
            SendHalf::Quic(stream) => Ok(stream.write_chunk(bytes).await?),
            SendHalf::Lane(stream) => stream.write(&bytes, false).await,
        }
    }

    /// Writes several chunks, as one write where the lane can. They are taken out of `chunks`.
    pub async fn write_all_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), StreamError> {
        match &mut self.half {
            SendHalf::Quic(stream) => Ok(stream.write_all_chunks(chunks).await?),
            SendHalf::Lane(stream) => stream.write_chunks(chunks).await,
        }
    }

    /// The end of what is sent.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        match &mut self.half {
            // Refused only when the peer stopped reading, or it was finished before: no more to do then.
            SendHalf::Quic(stream) => drop(stream.finish()),
            SendHalf::Lane(stream) => stream.finish(),
        }
    }

    /// Gives the stream up.
    pub fn abandon(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        match &mut self.half {
            SendHalf::Quic(stream) => drop(stream.reset(ABANDONED)),
            SendHalf::Lane(stream) => stream.abandon(),
        }
    }

    /// Waits until the peer has given up reading (`true`), or has all of it or is gone (`false`).
    pub fn stopped(&self) -> impl Future<Output = bool> + Send + use<> {
        let stopped = match &self.half {
            SendHalf::Quic(stream) => Either::Left(stream.stopped()),
            SendHalf::Lane(stream) => Either::Right(stream.stopped()),
        };
        async move {
            match stopped {
                Either::Left(stopped) => matches!(stopped.await, Ok(Some(_))),
                Either::Right(stopped) => stopped.await,
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// The receiving half of a stream. Dropped before its end it tells the peer to stop.
#[derive(Debug)]
pub struct Receiver {
    half: ReceiveHalf,
}

impl Receiver {
    pub(crate) fn quic(stream: RecvStream) -> Self {
        Self { half: ReceiveHalf::Quic(stream) }
    }

    pub(crate) fn lane(stream: LaneReceiver) -> Self {
        Self { half: ReceiveHalf::Lane(stream) }
    }

    /// The next piece, at most `max` bytes of it; `None` at the end that the peer said. Cancel-safe.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        match &mut self.half {
            ReceiveHalf::Quic(stream) => {
                Ok(stream.read_chunk(max, true).await?.map(|chunk| chunk.bytes))
            }
            ReceiveHalf::Lane(stream) => stream.read_chunk(max).await,
        }
    }
}

/// A stream between two agents.
#[derive(Debug)]
pub struct DataStream {
    /// Our half.
    pub send: Sender,
    /// The peer's half.
    pub recv: Receiver,
    /// Counts the stream among those under way; dropped when nothing more is awaited on it.
    pub guard: Option<InFlight>,
}
