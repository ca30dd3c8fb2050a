//! Lanes: streams between two agents over TLS on TCP, beside QUIC.
//!
//! Kernel TCP moves requests at two thirds and bodies at half the CPU of user-space QUIC, and on a path that
//! loses nothing it loses nothing by it. A lane is one connection, dialled by the caller, one per data thread
//! of the caller, so that no request crosses threads; [`mux`] shares it among streams. Sensing stays with the
//! mesh link, since a frozen agent's kernel goes on acknowledging TCP.
//!
//! From the bottom: [`frame`] what is said, [`outbox`] laid out for the kernel, [`record`] sealed and opened in
//! place, [`inflow`] and [`turns`] who may send how much, [`mux`] all streams of a connection, [`carry`] the
//! task between them and the socket, [`handshake`] who is at the other end, [`pool`] which lanes there are,
//! [`choose`] whether a request takes one.
//!
//! Tasks: one acceptor, one per lane. Aborting a lane's task breaks its streams as a lost connection does.

mod carry;
pub(crate) mod choose;
mod frame;
mod half;
mod handshake;
mod inflow;
mod listen;
pub(crate) mod mux;
mod outbox;
pub(crate) mod pool;
mod record;
mod turns;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hearth_proto::ids::{Generation, NodeName};

use super::lock;
use super::stream::{DataStream, Receiver, Sender};
use mux::{End, Mux, NotOpened};

pub(crate) use half::{LaneReceiver, LaneSender};
pub(crate) use inflow::Budget;
pub(crate) use listen::{open as open_listener, run as accept};

/// One lane, for everybody who has a stream on it.
pub(crate) struct Lane {
    pub(crate) peer: NodeName,
    pub(crate) end: End,
    mux: Mutex<Mux>,
    /// Reads that brought something.
    heard: AtomicU64,
    /// Pings sent: what the peer's agent, not only its kernel, has to answer.
    asked: AtomicU64,
    /// Which start of the peer accepted it.
    generation: AtomicU64,
}

impl Lane {
    fn new(peer: NodeName, end: End, budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            peer,
            end,
            mux: Mutex::new(Mux::new(end, budget)),
            heard: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        })
    }

    /// Does something to the streams and wakes the task if it has to act on it.
    fn with<T>(&self, act: impl FnOnce(&mut Mux) -> T) -> T {
        let (result, woken) = {
            let mut mux = lock(&self.mux);
            let result = act(&mut mux);
            (result, mux.kick())
        };
        if let Some(task) = woken {
            task.wake();
        }
        result
    }

    /// Opens a stream.
    pub(crate) fn open(self: &Arc<Self>) -> Result<DataStream, NotOpened> {
        let id = self.with(Mux::open)?;
        Ok(self.stream(id))
    }

    fn stream(self: &Arc<Self>, id: u32) -> DataStream {
        DataStream {
            send: Sender::lane(LaneSender::new(self.clone(), id)),
            recv: Receiver::lane(LaneReceiver::new(self.clone(), id)),
            guard: None,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        let mux = lock(&self.mux);
        !mux.is_over() && !mux.is_retired()
    }

    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Relaxed))
    }

    /// Asks the peer's agent for a sign of life.
    pub(crate) fn ping(&self, number: u64) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.with(|mux| mux.say(frame::PING, &number.to_be_bytes()));
    }

    /// No new streams; it closes with the last one.
    pub(crate) fn retire(&self) {
        self.with(Mux::retire);
    }

    /// Closes it and says why.
    pub(crate) fn close(&self, code: super::CloseCode, why: &str) {
        self.with(|mux| mux.close(code as u32, why));
    }

    /// Gives back memory that is not used at the moment.
    pub(crate) fn rest(&self) {
        self.with(Mux::tire);
    }

    /// It is over: whoever waits on it learns why.
    fn fail(&self, why: &str) {
        let mut wakes = Vec::new();
        lock(&self.mux).fail(why, &mut wakes);
        wakes.into_iter().for_each(std::task::Waker::wake);
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lane({}, {:?})", self.peer, self.end)
    }
}
