//! Lanes: streams between two agents over TLS on TCP, beside QUIC.
//!
//! Kernel TCP moves requests at two thirds and bodies at half the CPU of user-space QUIC, and on a path that
//! loses nothing it loses nothing by it. A lane is one connection, dialled by the caller, one per data thread
//! of the caller, so that no request crosses threads; [`mux`] shares it among streams. Sensing stays with the
//! mesh link, since a frozen agent's kernel goes on acknowledging TCP.
//!
//! From the bottom: [`bearer`] what it runs over, [`frame`] what is said, [`outbox`] laid out for the kernel,
//! [`record`] sealed and opened in place, [`inflow`] and [`turns`] who may send how much, [`mux`] all streams of a
//! connection, [`carry`] the task between them and what carries it, [`handshake`] who is at the other end, [`pool`]
//! which lanes there are, [`choose`] whether a request takes one, [`mesh`] the mesh link itself where UDP is blocked.
//!
//! Tasks: one acceptor, one per lane. Aborting a lane's task breaks its streams as a lost connection does.

mod bearer;
pub(crate) mod carry;
pub(crate) mod choose;
mod frame;
mod half;
pub(crate) mod handshake;
mod inflow;
pub(crate) mod listen;
pub(crate) mod mesh;
pub(crate) mod mux;
mod outbox;
pub(crate) mod pool;
mod record;
#[cfg(test)]
mod tests;
mod turns;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hearth_proto::ids::{Generation, NodeName};

use super::stream::{DataStream, Receiver, Sender};
use super::{Kind, lock};
use mux::{End, Mux, NotOpened};

pub(crate) use half::{LaneReceiver, LaneSender};
pub(crate) use inflow::Budget;
pub(crate) use listen::{Doorstep, open as open_listener, run as accept};

/// One lane, for everybody who has a stream on it.
pub(crate) struct Lane {
    pub(crate) peer: NodeName,
    pub(crate) kind: Kind,
    pub(crate) end: End,
    mux: Mutex<Mux>,
    /// Reads that brought something.
    heard: AtomicU64,
    /// Records that brought something for a stream.
    worked: AtomicU64,
    /// Pings sent: what the peer's agent, not only its kernel, has to answer.
    asked: AtomicU64,
    /// Which start of the peer accepted it.
    generation: AtomicU64,
    /// The ping whose answer is timed.
    timed: Mutex<Option<(u64, Instant)>>,
    /// Smoothed, in microseconds; 0 while unknown.
    rtt: AtomicU64,
}

/// What became of something to be sent on a mesh link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MeshSent {
    Now,
    /// Too much is waiting.
    Full,
    Over,
}

impl Lane {
    pub(crate) fn new(peer: NodeName, kind: Kind, end: End, budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            peer,
            kind,
            end,
            mux: Mutex::new(Mux::new(end, budget)),
            heard: AtomicU64::new(0),
            worked: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            timed: Mutex::default(),
            rtt: AtomicU64::new(0),
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

    /// How much is under way on it.
    pub(crate) fn streams(&self) -> usize {
        lock(&self.mux).streams()
    }

    pub(crate) fn is_open(&self) -> bool {
        let mux = lock(&self.mux);
        !mux.is_over() && !mux.is_retired()
    }

    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Grows whenever something comes in for a stream.
    pub(crate) fn worked(&self) -> u64 {
        self.worked.load(Ordering::Relaxed)
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// This start of the peer accepted it.
    pub(crate) fn started(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Relaxed))
    }

    /// Asks the peer's agent for a sign of life.
    pub(crate) fn ping(&self, number: u64) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        lock(&self.timed).get_or_insert_with(|| (number, Instant::now()));
        self.with(|mux| mux.say(frame::PING, &number.to_be_bytes()));
    }

    /// An answer to one of our pings.
    pub(crate) fn answered(&self, number: u64) {
        // An answer stands for all pings before it.
        let Some((_, since)) = lock(&self.timed).take_if(|(timed, _)| number >= *timed) else {
            return;
        };
        let sample = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.rtt.load(Ordering::Relaxed);
        // RFC 6298 section 2.3, with its alpha of an eighth.
        let smoothed = if old == 0 { sample } else { old - old / 8 + sample / 8 };
        self.rtt.store(smoothed, Ordering::Relaxed);
    }

    /// How long its pings take; zero while none was answered.
    pub(crate) fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt.load(Ordering::Relaxed))
    }

    fn send_mesh(&self, say: impl FnOnce(&mut Mux) -> bool) -> MeshSent {
        self.with(|mux| match mux.is_over() {
            true => MeshSent::Over,
            false if say(mux) => MeshSent::Now,
            false => MeshSent::Full,
        })
    }

    /// Sends a datagram of the mesh link.
    pub(crate) fn send_datagram(&self, bytes: &[u8]) -> MeshSent {
        self.send_mesh(|mux| mux.say_datagram(bytes))
    }

    /// Sends a message of the mesh link.
    pub(crate) fn send_message(&self, bytes: &[u8]) -> MeshSent {
        self.send_mesh(|mux| mux.say_message(bytes))
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
