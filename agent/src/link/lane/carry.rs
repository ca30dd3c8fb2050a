//! The task that carries a lane: socket to streams, streams to socket, in one poll.
//!
//! A hand-written future rather than two loops: it reads as much as there is in one system call, opens the
//! records in place, hands their frames to the streams, seals in place what streams have queued, and writes it
//! in one system call. Being woken behind the tasks that queue, it sends what many of them wrote as one record.
//! It waits for nobody but the socket: streams that nobody reads are bounded by their windows.
//!
//! Dropping it ends the lane for everybody who holds a stream of it.

use std::future::Future;
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::Lane;
use super::bearer::Bearer;
use super::frame::Frames;
use super::handshake::Established;
use super::mux::{Arrival, Happened, LARGE, Mux};
use super::record::{HEAD, Opened, Records};
use crate::link::{CloseCode, Farewell, lock};

/// What is asked of the socket at once, at first and at most. Doubled whenever a read fills it.
const READ: usize = 8 * 1024;
const MAX_READ: usize = 64 * 1024;
/// Reads in one turn; then others get theirs.
const READS: usize = 4;

/// Who is told what comes in beside the streams' bytes.
pub(crate) trait Attendant: Send + Unpin {
    /// Called without any lock held, in the order of arrival.
    fn arrived(&mut self, lane: &Arc<Lane>, arrival: Arrival);
}

/// How a lane ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) why: String,
    pub(crate) farewell: Farewell,
    /// The peer's host ended it without a word of its agent: as a kernel does for a process that is gone.
    pub(crate) cut: bool,
}

fn broken(why: impl std::fmt::Display) -> Ending {
    Ending { why: format!("the connection broke: {why}"), farewell: Farewell::None, cut: false }
}

/// A socket that failed: reset by the peer's host, or given up by ours.
fn failed(error: &std::io::Error) -> Ending {
    let cut = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    Ending { cut, ..broken(error) }
}

/// We close it.
fn closed(code: u32, why: String) -> Ending {
    let farewell = match CloseCode::farewell(code.into()) {
        // That we do not go on with it says nothing of the peer.
        Farewell::GivenUp => Farewell::None,
        farewell => farewell,
    };
    Ending { why, farewell, cut: false }
}

/// A lane's task. Ends with the connection and says why.
pub(crate) struct Carry<A> {
    lane: Arc<Lane>,
    attendant: A,
    socket: Bearer,
    records: Records,
    /// Read and not opened yet.
    read: BytesMut,
    wanted: usize,
    /// Sealed, and written up to `written`.
    sealed: Vec<u8>,
    written: usize,
    happened: Happened,
    /// The peer said the last word.
    last: Option<Ending>,
}

impl<A: Attendant> Carry<A> {
    pub(crate) fn new(lane: Arc<Lane>, established: Established, attendant: A) -> Self {
        let Established { socket, records, rest, .. } = established;
        Self {
            lane,
            attendant,
            socket,
            records,
            read: rest,
            wanted: READ,
            sealed: Vec::new(),
            written: 0,
            happened: Happened::default(),
            last: None,
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let mut again = match self.receive(cx) {
            Ok(again) => again,
            Err(ending) => return Poll::Ready(ending),
        };
        let blocked = match self.transmit(cx) {
            Ok(blocked) => blocked,
            Err(ending) => return Poll::Ready(ending),
        };
        let mut wakes = std::mem::take(&mut self.happened.wakes);
        let tired = {
            let mut mux = lock(&self.lane.mux);
            if mux.is_retired() && mux.streams() == 0 {
                mux.close(0, "another connection took over");
            }
            // What we close with is written as far as the socket takes it; nobody waits for it.
            if let Some((code, why)) = mux.closing()
                && (blocked || !mux.has_output())
            {
                return Poll::Ready(closed(*code, why.clone()));
            }
            again |= mux.grant(&mut wakes);
            again |= !blocked && mux.has_output();
            mux.sleep(cx.waker(), blocked);
            mux.rest()
        };
        wakes.drain(..).for_each(Waker::wake);
        self.happened.wakes = wakes;
        if tired {
            self.rest();
        }
        if again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Reads what there is. `true`: there may be more.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        if !self.read.is_empty() {
            self.open_records()?;
        }
        for _ in 0..READS {
            if self.read.capacity() - self.read.len() < self.wanted / 2 {
                self.read.reserve(self.wanted);
            }
            let room = self.read.capacity() - self.read.len();
            let reading = pin!(self.socket.read_buf(&mut self.read));
            let count = match reading.poll(cx) {
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => return Err(failed(&error)),
                Poll::Pending => return Ok(false),
            };
            if count == 0 {
                let unsaid = || Ending { cut: true, ..broken("the peer closed it without a word") };
                return Err(self.last.take().unwrap_or_else(unsaid));
            }
            self.lane.heard.fetch_add(1, Ordering::Relaxed);
            self.open_records()?;
            if count == room {
                self.wanted = (self.wanted * 2).min(MAX_READ);
            }
        }
        Ok(true)
    }

    /// Gives back the memory of the last burst, as far as nothing is in it.
    fn rest(&mut self) {
        if self.read.is_empty() {
            (self.read, self.wanted) = (BytesMut::new(), READ);
        }
        if self.written == self.sealed.len() {
            (self.sealed, self.written) = (Vec::new(), 0);
        }
        self.happened = Happened::default();
    }

    /// Opens all whole records and hands on their frames.
    fn open_records(&mut self) -> Result<(), Ending> {
        let result = self.dispatch();
        // What was understood is handed on, whatever came after it.
        self.happened.wakes.drain(..).for_each(Waker::wake);
        for arrival in self.happened.arrivals.drain(..) {
            if let Arrival::Closed { code, why } = arrival {
                let why = format!("the peer closed the connection: {why} ({code})");
                let farewell = CloseCode::farewell(code.into());
                self.last = Some(Ending { why, farewell, cut: false });
            } else {
                self.attendant.arrived(&self.lane, arrival);
            }
        }
        // Whatever came after its last word, that is why it ended.
        result.map_err(|ending| self.last.take().unwrap_or(ending))
    }

    fn dispatch(&mut self) -> Result<(), Ending> {
        let mut mux = lock(&self.lane.mux);
        loop {
            let length = match Records::length(&self.read).map_err(broken)? {
                Some(length) if length <= self.read.len() => length,
                Some(length) => {
                    self.wanted = self.wanted.max(length);
                    return Ok(());
                }
                None => return Ok(()),
            };
            match self.records.open(&mut self.read[..length]).map_err(broken)? {
                Opened::Application(plain) => {
                    let large = plain > LARGE
                        && Frames::new(&self.read[HEAD..HEAD + plain])
                            .any(|f| f.is_ok_and(|(header, _)| header.length >= LARGE));
                    let worked = if large {
                        let record = self.read.split_to(length).freeze();
                        let record = record.slice(HEAD..HEAD + plain);
                        receive(&mut mux, &record, Some(&record), &mut self.happened)?
                    } else {
                        let record = &self.read[HEAD..HEAD + plain];
                        let worked = receive(&mut mux, record, None, &mut self.happened)?;
                        self.read.advance(length);
                        worked
                    };
                    if worked {
                        self.lane.worked.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Opened::Nothing => self.read.advance(length),
                Opened::End => return Err(broken("the peer closed it")),
            }
        }
    }

    /// Writes what is queued. `true`: the socket takes no more for now.
    fn transmit(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        loop {
            if self.written == self.sealed.len() {
                self.sealed.clear();
                self.written = 0;
                lock(&self.lane.mux).take_outbox(&mut self.sealed);
                if self.sealed.is_empty() {
                    return Ok(false);
                }
                self.records.seal_all(&mut self.sealed).map_err(broken)?;
            }
            let rest = &self.sealed[self.written..];
            match Pin::new(&mut self.socket).poll_write(cx, rest) {
                Poll::Ready(Ok(count)) => self.written += count,
                Poll::Ready(Err(error)) => return Err(failed(&error)),
                Poll::Pending => return Ok(true),
            }
        }
    }
}

/// Hands a record's frames on. `true`: some were for streams.
fn receive(
    mux: &mut Mux,
    plain: &[u8],
    record: Option<&Bytes>,
    happened: &mut Happened,
) -> Result<bool, Ending> {
    let mut worked = false;
    for frame in Frames::new(plain) {
        let (header, at) = frame.map_err(broken)?;
        let payload = &plain[at..at + header.length];
        mux.receive(header, payload, record, happened).map_err(broken)?;
        worked |= header.stream != 0;
    }
    Ok(worked)
}

impl<A: Attendant> Future for Carry<A> {
    type Output = Ending;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ending> {
        let this = self.get_mut();
        let polled = this.turn(cx);
        if let Poll::Ready(ending) = &polled {
            this.lane.fail(&ending.why);
            if this.written == this.sealed.len()
                && let Ok(notify) = this.records.close_notify()
            {
                // Best effort: the peer has our word already, or is gone.
                let _ = Pin::new(&mut this.socket).poll_write(cx, &notify);
            }
        }
        polled
    }
}

impl<A> Drop for Carry<A> {
    fn drop(&mut self) {
        self.lane.fail("this agent is shutting down");
    }
}
