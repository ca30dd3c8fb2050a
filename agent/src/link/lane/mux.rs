//! The streams of one lane: who may send how much, what came in, and how each half ends.
//!
//! Sans IO: frames go in by [`Mux::receive`], records come out of [`Mux::outbox`]; nothing here waits, reads a
//! clock or touches a socket. Everything sits behind the lane's one lock, which is taken for moments by tasks
//! of one thread. Whoever is to be woken is handed out, to be woken when the lock is released.
//!
//! A stream lives while either of its handles does. [`frame::OPEN`] tells a stream's first frame from a late
//! one, so nothing is remembered of streams that are gone: their late frames are skipped.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::frame::{self, Header};
use super::inflow::{Budget, INITIAL_WINDOW, Inflow};
use super::outbox::Outbox;
use super::turns::{LIMIT, Turn, Turns};
use crate::link::stream::StreamError;

/// Streams of one lane at once.
pub(crate) const MAX_STREAMS: usize = 1024;
/// A peer that makes us answer and never reads the answers is cut off at so many bytes.
const UNREAD: usize = 16 * LIMIT;
/// Payloads of at least this size are handed on without a copy. Below it, a copy costs less than what a
/// small piece would keep alive of the buffer it came in.
pub(crate) const LARGE: usize = 8192;
/// A stream with more than this unread gets copies: what a slow reader keeps must not keep whole buffers alive.
const SHARED_UNREAD: usize = 64 * 1024;
/// Longest reason in a [`frame::CLOSE`] that is read.
const MAX_WHY: usize = 256;

/// Stream ids are small numbers given out in order: they need no mixing beyond a multiplication.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u32(u32::from(*b)));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// We dialled, and open streams.
    Dialled,
    /// The peer dialled.
    Accepted,
}

/// How it stands with what we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Open,
    /// The peer reads no more.
    Stopped,
    /// Finished or given up: nobody of ours holds it.
    Released,
}

/// How it stands with what we receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Open,
    /// The peer said that this is all.
    Finished,
    /// The peer gave up.
    Reset,
    /// The peer never opened it: it has as many as it takes.
    Refused,
    /// Read to its end, or given up: nobody of ours holds it.
    Released,
}

struct Stream {
    /// The peer knows of it.
    known: bool,
    sending: Sending,
    /// What the peer lets us send.
    credit: usize,
    turn: Turn,
    writer: Option<Waker>,
    /// Those who want to know when the peer stops reading.
    watchers: Vec<Waker>,
    receiving: Receiving,
    inflow: Inflow,
    reader: Option<Waker>,
}

impl Stream {
    fn new(known: bool) -> Self {
        Self {
            known,
            sending: Sending::Open,
            credit: INITIAL_WINDOW,
            turn: Turn::default(),
            writer: None,
            watchers: Vec::new(),
            receiving: Receiving::Open,
            inflow: Inflow::default(),
            reader: None,
        }
    }

    /// The kind of its next frame of data.
    fn kind(&mut self, last: bool) -> u8 {
        let open = if std::mem::replace(&mut self.known, true) { 0 } else { frame::OPEN };
        frame::DATA | open | if last { frame::FIN } else { 0 }
    }

    /// What the peer's giving up means.
    fn given_up(&self) -> StreamError {
        match self.receiving {
            Receiving::Refused => StreamError::Busy,
            _ => StreamError::Reset,
        }
    }

    fn wake_all(&mut self, wakes: &mut Vec<Waker>) {
        wakes.extend(self.writer.take());
        wakes.extend(self.reader.take());
        wakes.append(&mut self.watchers);
    }
}

fn wait(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(old) if old.will_wake(waker) => {}
        slot => *slot = Some(waker.clone()),
    }
}

/// What came in that is not a stream's own business.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Opened(u32),
    Welcome(u64),
    Pong(u64),
    Closed { code: u32, why: String },
    Datagram(Bytes),
    Message(Bytes),
}

/// What follows from what came in, for when the lock is released.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    pub(crate) wakes: Vec<Waker>,
    pub(crate) arrivals: Vec<Arrival>,
}

/// The peer does what the protocol does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke the protocol: {0}")]
pub(crate) struct Violation(pub(crate) &'static str);

/// Why no stream can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotOpened {
    /// Too many are open.
    Busy,
    /// The connection ends or has ended.
    Over,
}

/// All streams of one lane.
pub(crate) struct Mux {
    end: End,
    pub(crate) outbox: Outbox,
    streams: HashMap<u32, Stream, BuildHasherDefault<IdHasher>>,
    next: u32,
    turns: Turns,
    budget: Arc<Budget>,
    /// The newest ping that is to be answered.
    pong: Option<u64>,
    /// Parts of a message.
    message: Vec<u8>,
    /// Why it is over.
    over: Option<StreamError>,
    /// No new streams; it closes with the last one.
    retired: bool,
    /// What we close it with.
    closing: Option<(u32, String)>,
    /// Wakes the task that carries this lane.
    task: Option<Waker>,
    /// The socket takes no more for now.
    blocked: bool,
    stirred: bool,
    tired: bool,
}

impl Mux {
    pub(crate) fn new(end: End, budget: Arc<Budget>) -> Self {
        Self {
            end,
            outbox: Outbox::default(),
            streams: HashMap::default(),
            next: 1,
            turns: Turns::default(),
            budget,
            pong: None,
            message: Vec::new(),
            over: None,
            retired: false,
            closing: None,
            task: None,
            blocked: false,
            stirred: false,
            tired: false,
        }
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.is_some() || self.closing.is_some()
    }

    /// Why nothing more can be sent, if so.
    fn why_over(&self) -> Option<StreamError> {
        let closing = self.closing.as_ref();
        let closing = closing.map(|(_, why)| StreamError::Lost { why: why.clone(), unseen: false });
        self.over.clone().or(closing)
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired
    }

    /// Opens a stream. The peer learns of it by its first frame.
    pub(crate) fn open(&mut self) -> Result<u32, NotOpened> {
        if self.is_over() || self.retired || self.next == u32::MAX {
            return Err(NotOpened::Over);
        }
        if self.streams.len() >= MAX_STREAMS {
            return Err(NotOpened::Busy);
        }
        let id = self.next;
        self.next += 1;
        self.streams.insert(id, Stream::new(false));
        Ok(id)
    }

    /// Appends as much of `rest` as may be sent now, and takes it off its front; with `last` and all of it
    /// appended, the end too.
    pub(crate) fn write(
        &mut self,
        id: u32,
        rest: &mut &[u8],
        last: bool,
        waker: &Waker,
    ) -> Poll<Result<(), StreamError>> {
        loop {
            if let Some(why) = self.why_over() {
                return Poll::Ready(Err(why));
            }
            let Some(stream) = self.streams.get_mut(&id) else {
                return Poll::Ready(Err(StreamError::Reset));
            };
            if stream.sending != Sending::Open {
                return Poll::Ready(Err(stream.given_up()));
            }
            if rest.is_empty() {
                if last {
                    self.finish(id);
                }
                return Poll::Ready(Ok(()));
            }
            let wanted = rest.len().min(stream.credit);
            if wanted == 0 {
                wait(&mut stream.writer, waker);
                return Poll::Pending;
            }
            let room = self.turns.room(&stream.turn, self.outbox.len(), rest.len());
            if room == 0 {
                self.turns.queue(id, &mut stream.turn);
                wait(&mut stream.writer, waker);
                self.stirred = true;
                return Poll::Pending;
            }
            let piece = self.outbox.next_piece(wanted.min(room));
            let (now, later) = rest.split_at(piece);
            *rest = later;
            stream.credit -= piece;
            self.turns.used(&mut stream.turn, piece);
            let ends = last && rest.is_empty();
            let kind = stream.kind(ends);
            let deaf = kind & frame::OPEN != 0 && stream.receiving == Receiving::Released;
            self.outbox.frame(id, kind, now);
            self.stirred = true;
            if deaf {
                self.outbox.frame(id, frame::STOP, &[]);
            }
            if ends {
                self.release_sending(id);
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Appends several pieces as one frame. `false`: they do not fit now, or cannot be sent any more.
    pub(crate) fn write_gathered(&mut self, id: u32, pieces: &[Bytes], last: bool) -> bool {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let (backlog, over) = (self.outbox.len(), self.is_over());
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let open = !over && stream.sending == Sending::Open;
        let fits = length <= frame::MAX_PAYLOAD
            && length <= stream.credit
            && length <= self.turns.room(&stream.turn, backlog, length);
        if !open || !fits || length == 0 {
            return false;
        }
        stream.credit -= length;
        self.turns.used(&mut stream.turn, length);
        let kind = stream.kind(last);
        let deaf = kind & frame::OPEN != 0 && stream.receiving == Receiving::Released;
        self.outbox.gathered(id, kind, length, pieces.iter().map(|p| &p[..]));
        self.stirred = true;
        if deaf {
            self.outbox.frame(id, frame::STOP, &[]);
        }
        if last {
            self.release_sending(id);
        }
        true
    }

    /// Says the end of what is sent.
    pub(crate) fn finish(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sending == Sending::Open && self.over.is_none() {
            let kind = stream.kind(true);
            self.outbox.frame(id, kind, &[]);
            self.stirred = true;
        }
        self.release_sending(id);
    }

    /// Gives up sending.
    pub(crate) fn abandon(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sending == Sending::Open && self.over.is_none() {
            if stream.known {
                self.outbox.frame(id, frame::RESET, &[frame::ABANDONED]);
                self.stirred = true;
            } else if stream.receiving == Receiving::Open {
                // The peer never heard of it: nobody will answer.
                stream.receiving = Receiving::Reset;
                stream.reader.take().into_iter().for_each(Waker::wake);
            }
        }
        self.release_sending(id);
    }

    /// Gives up receiving.
    pub(crate) fn stop(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.receiving == Receiving::Open && stream.known && self.over.is_none() {
            self.outbox.frame(id, frame::STOP, &[]);
            self.stirred = true;
        }
        self.release_receiving(id);
    }

    /// The next piece of what came in.
    pub(crate) fn read(
        &mut self,
        id: u32,
        max: usize,
        waker: &Waker,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(StreamError::Reset));
        };
        if matches!(stream.receiving, Receiving::Reset | Receiving::Refused) {
            return Poll::Ready(Err(stream.given_up()));
        }
        if let Some((chunk, more)) = stream.inflow.pop(max, &self.budget) {
            if more > 0 && stream.receiving == Receiving::Open && self.over.is_none() {
                // Proof: a window is at most 4 MiB, so what is granted at once fits.
                self.outbox.frame(id, frame::WINDOW, &(more as u32).to_be_bytes());
                self.stirred = true;
            }
            return Poll::Ready(Ok(Some(chunk)));
        }
        match (stream.receiving, &self.over) {
            (Receiving::Finished, _) => {
                self.release_receiving(id);
                Poll::Ready(Ok(None))
            }
            (_, Some(why)) => Poll::Ready(Err(why.clone())),
            (_, None) => {
                wait(&mut stream.reader, waker);
                Poll::Pending
            }
        }
    }

    /// Whether the peer has given up reading; pending while it has not and may.
    pub(crate) fn stopped(&mut self, id: u32, waker: &Waker) -> Poll<bool> {
        if self.over.is_some() {
            return Poll::Ready(false);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(false) };
        match stream.sending {
            Sending::Stopped => Poll::Ready(true),
            Sending::Released => Poll::Ready(false),
            Sending::Open => {
                if !stream.watchers.iter().any(|w| w.will_wake(waker)) {
                    stream.watchers.push(waker.clone());
                }
                Poll::Pending
            }
        }
    }

    fn release_sending(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.sending = Sending::Released;
        stream.writer = None;
        stream.watchers.drain(..).for_each(Waker::wake);
        self.forget_if_done(id);
    }

    fn release_receiving(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.receiving = Receiving::Released;
        stream.reader = None;
        stream.inflow.discard(&self.budget);
        self.forget_if_done(id);
    }

    fn forget_if_done(&mut self, id: u32) {
        let done =
            |s: &Stream| s.sending == Sending::Released && s.receiving == Receiving::Released;
        if self.streams.get(&id).is_some_and(done) {
            self.streams.remove(&id);
            self.stirred |= self.retired && self.streams.is_empty();
        }
    }

    /// Takes in one frame. `record`: the buffer that `payload` is part of, if parts of it may be kept.
    pub(crate) fn receive(
        &mut self,
        header: Header,
        payload: &[u8],
        record: Option<&Bytes>,
        happened: &mut Happened,
    ) -> Result<(), Violation> {
        if self.outbox.len() > UNREAD {
            return Err(Violation("it asks for answers and does not read them"));
        }
        let id = header.stream;
        if header.is_data() {
            return self.receive_data(header, payload, record, happened);
        }
        match header.kind {
            frame::RESET => {
                if let Some(stream) = self.streams.get_mut(&id)
                    && stream.receiving == Receiving::Open
                {
                    stream.receiving = match payload {
                        [frame::BUSY] => Receiving::Refused,
                        _ => Receiving::Reset,
                    };
                    stream.inflow.discard(&self.budget);
                    happened.wakes.extend(stream.reader.take());
                }
            }
            frame::STOP => {
                if let Some(stream) = self.streams.get_mut(&id)
                    && stream.sending == Sending::Open
                {
                    stream.sending = Sending::Stopped;
                    happened.wakes.extend(stream.writer.take());
                    happened.wakes.append(&mut stream.watchers);
                }
            }
            frame::WINDOW => {
                let more = frame::number(payload).ok_or(Violation("a window is unreadable"))?;
                // Proof: 32 bits fit into a usize on every platform that has sockets.
                let more = u32::from_be_bytes(more) as usize;
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.credit = stream.credit.saturating_add(more);
                    happened.wakes.extend(stream.writer.take());
                }
            }
            _ => self.receive_other(header.kind, payload, happened)?,
        }
        Ok(())
    }

    fn receive_data(
        &mut self,
        header: Header,
        payload: &[u8],
        record: Option<&Bytes>,
        happened: &mut Happened,
    ) -> Result<(), Violation> {
        let id = header.stream;
        if header.kind & frame::OPEN != 0 {
            if self.end == End::Dialled {
                return Err(Violation("only the dialler opens streams"));
            }
            if self.streams.contains_key(&id) {
                return Err(Violation("a stream was opened twice"));
            }
            if self.streams.len() >= MAX_STREAMS || self.retired || self.is_over() {
                self.outbox.frame(id, frame::RESET, &[frame::BUSY]);
                self.outbox.frame(id, frame::STOP, &[]);
                return Ok(());
            }
            self.streams.insert(id, Stream::new(true));
            happened.arrivals.push(Arrival::Opened(id));
        }
        // Of a stream that we are done with.
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        match stream.receiving {
            Receiving::Released => return Ok(()),
            Receiving::Finished | Receiving::Reset | Receiving::Refused => {
                return Err(Violation("bytes came after a stream's end"));
            }
            Receiving::Open => {}
        }
        if !payload.is_empty() {
            let chunk = match record {
                Some(record)
                    if payload.len() >= LARGE && stream.inflow.waiting() < SHARED_UNREAD =>
                {
                    record.slice_ref(payload)
                }
                _ => Bytes::copy_from_slice(payload),
            };
            let overrun = |_| Violation("more bytes came than a stream's window allows");
            stream.inflow.push(chunk).map_err(overrun)?;
        }
        if header.kind & frame::FIN != 0 {
            stream.receiving = Receiving::Finished;
        }
        happened.wakes.extend(stream.reader.take());
        Ok(())
    }

    fn receive_other(
        &mut self,
        kind: u8,
        payload: &[u8],
        happened: &mut Happened,
    ) -> Result<(), Violation> {
        let number = || {
            let bytes = frame::number(payload).ok_or(Violation("a number is unreadable"))?;
            Ok(u64::from_be_bytes(bytes))
        };
        match kind {
            frame::PING => self.pong = Some(number()?),
            frame::PONG => happened.arrivals.push(Arrival::Pong(number()?)),
            frame::WELCOME => happened.arrivals.push(Arrival::Welcome(number()?)),
            frame::CLOSE => {
                let (code, why) =
                    payload.split_first_chunk().ok_or(Violation("a close is unreadable"))?;
                let why = &why[..why.len().min(MAX_WHY)];
                happened.arrivals.push(Arrival::Closed {
                    code: u32::from_be_bytes(*code),
                    why: String::from_utf8_lossy(why).into_owned(),
                });
            }
            frame::DATAGRAM => {
                happened.arrivals.push(Arrival::Datagram(Bytes::copy_from_slice(payload)));
            }
            frame::MESSAGE | frame::MESSAGE_MORE => {
                if self.message.len() + payload.len() > hearth_proto::wire::MAX_MESSAGE {
                    return Err(Violation("a message is too long"));
                }
                self.message.extend_from_slice(payload);
                if kind == frame::MESSAGE {
                    let message = std::mem::take(&mut self.message);
                    happened.arrivals.push(Arrival::Message(message.into()));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Says something that belongs to no stream.
    pub(crate) fn say(&mut self, kind: u8, payload: &[u8]) {
        if !self.is_over() {
            self.outbox.frame(0, kind, payload);
            self.stirred = true;
        }
    }

    /// Says a datagram. `false`: too much is waiting to be sent, or it is too large.
    pub(crate) fn say_datagram(&mut self, datagram: &[u8]) -> bool {
        if self.outbox.len() > UNREAD / 4 || datagram.len() > frame::MAX_PAYLOAD {
            return false;
        }
        self.say(frame::DATAGRAM, datagram);
        true
    }

    /// Says a message. `false`: too much is waiting to be sent.
    pub(crate) fn say_message(&mut self, message: &[u8]) -> bool {
        if self.is_over() || self.outbox.len() > UNREAD / 2 {
            return false;
        }
        let mut rest = message;
        while rest.len() > frame::MAX_PAYLOAD {
            let (part, later) = rest.split_at(frame::MAX_PAYLOAD);
            self.outbox.frame(0, frame::MESSAGE_MORE, part);
            rest = later;
        }
        self.outbox.frame(0, frame::MESSAGE, rest);
        self.stirred = true;
        true
    }

    /// No new streams; the lane closes with the last one.
    pub(crate) fn retire(&mut self) {
        self.retired = true;
        self.stirred = true;
    }

    /// Closes the lane as soon as this is said; what is queued before it still goes out.
    pub(crate) fn close(&mut self, code: u32, why: &str) {
        if self.is_over() {
            return;
        }
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(why.as_bytes());
        payload.truncate(MAX_WHY);
        self.outbox.frame(0, frame::CLOSE, &payload);
        self.closing = Some((code, why.to_owned()));
        // Whoever is blocked has to look at it all the same.
        (self.stirred, self.blocked) = (true, false);
    }

    pub(crate) fn closing(&self) -> Option<&(u32, String)> {
        self.closing.as_ref()
    }

    /// It is over, for the reason given first.
    pub(crate) fn fail(&mut self, why: &str, wakes: &mut Vec<Waker>) {
        if self.over.is_none() {
            self.over = Some(StreamError::Lost { why: why.to_owned(), unseen: false });
        }
        self.streams.values_mut().for_each(|s| s.wake_all(wakes));
        self.outbox = Outbox::default();
    }

    /// Moves what is to be sent into `out`, which must be empty.
    pub(crate) fn take_outbox(&mut self, out: &mut Vec<u8>) {
        if let Some(number) = self.pong.take() {
            self.outbox.frame(0, frame::PONG, &number.to_be_bytes());
        }
        self.outbox.take(out);
    }

    /// Whether something is to be sent.
    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty() || self.pong.is_some()
    }

    /// Lets waiting writers go on, as far as there is room. `true`: try again soon.
    pub(crate) fn grant(&mut self, wakes: &mut Vec<Waker>) -> bool {
        let streams = &mut self.streams;
        let again = self.turns.begin(self.outbox.len(), |id, turn| {
            let Some(stream) = streams.get_mut(&id) else { return false };
            stream.turn = turn;
            let writer = stream.writer.take();
            let wanted = writer.is_some();
            wakes.extend(writer);
            wanted
        });
        again && self.outbox.is_empty()
    }

    /// The task that carries the lane goes to sleep.
    pub(crate) fn sleep(&mut self, waker: &Waker, blocked: bool) {
        self.blocked = blocked;
        self.stirred = false;
        wait(&mut self.task, waker);
    }

    /// Asks for memory to be given back once it is not used; `rest` then says so to the task, once.
    pub(crate) fn tire(&mut self) {
        (self.tired, self.stirred) = (true, true);
    }

    /// Gives memory back, if that was asked for.
    pub(crate) fn rest(&mut self) -> bool {
        let tired = std::mem::take(&mut self.tired);
        if tired {
            self.outbox.rest();
            if self.streams.is_empty() {
                self.streams = HashMap::default();
            }
        }
        tired
    }

    /// The task to be woken for what was done since the last call.
    pub(crate) fn kick(&mut self) -> Option<Waker> {
        if !self.stirred || self.blocked {
            return None;
        }
        self.stirred = false;
        self.task.take()
    }
}
