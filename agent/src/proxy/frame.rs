//! One request on one stream between two agents: what is said, in which bytes.
//!
//! Caller to owner: a preamble `[protocol version][what][length][head]`, then frames. Owner to caller:
//! frames. A frame is `[kind][length, big endian, 4 bytes][payload]`; kinds that are not known are
//! skipped. A body ends with [`END`] and never with the end of the stream alone, so that nothing cut short
//! is taken for whole.
//!
//! The caller of a request whose body is not in the preamble's shadow waits for [`GO`] before it sends
//! any of it: `GO` says that the application's connection stands and asks for the body. Whatever fails
//! before it leaves the body untouched, to be sent elsewhere.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hearth_proto::ids::NodeName;
use hearth_proto::wire;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::head::{BadHead, Fields, RequestHead, ResponseHead};
use crate::link::{Receiver, StreamError};

pub(crate) const DATA: u8 = 0;
pub(crate) const TRAILERS: u8 = 1;
pub(crate) const END: u8 = 2;
pub(crate) const HEAD: u8 = 3;
pub(crate) const REFUSED: u8 = 4;
pub(crate) const GO: u8 = 5;
pub(crate) const INFO: u8 = 6;

/// Kind and length in front of each frame.
pub(crate) const HEADER: usize = 5;

/// What the stream carries.
pub(crate) const HTTP: u8 = 1;
const BYTES: u8 = 2;
const DATAGRAMS: u8 = 3;
/// No request: a way to another member is asked for. In place of a head stands that one's name.
pub(crate) const RELAY: u8 = 4;

/// Largest head or trailers, in bytes: above what the HTTP servers at the edges let in.
pub(crate) const MAX_HEAD: usize = 128 * 1024;
/// Largest payload of one data frame that is written; any is read.
pub(crate) const MAX_DATA: usize = 256 * 1024;

/// Why the owner did not bring an answer of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// No such endpoint here.
    NotOurs,
    /// The endpoint does not serve.
    NotServing,
    /// The policy does not let the caller call.
    Denied,
    /// The application refused the connection.
    AppRefused,
    /// The application broke the connection before it answered.
    AppBroke,
    /// The application did not answer in time.
    AppSilent,
    /// Too much is under way here.
    Busy,
    /// The request could not be understood.
    Malformed,
    /// The caller calls more often than the policy lets it.
    TooOften,
    /// The endpoint does not hold the lease, or not under the term it was sent under.
    Fenced,
}

impl Cause {
    /// One stable word, for metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NotOurs => "not_ours",
            Self::NotServing => "not_serving",
            Self::Denied => "denied",
            Self::AppRefused => "app_refused",
            Self::AppBroke => "app_broke",
            Self::AppSilent => "app_silent",
            Self::Busy => "busy",
            Self::Malformed => "malformed",
            Self::TooOften => "too_often",
            Self::Fenced => "fenced",
        }
    }
}

/// A refusal, and whether the application may have seen the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// `false`: nothing of the request reached the application; it may be sent elsewhere, whatever it
    /// asks for.
    pub(crate) executed: bool,
    /// Why.
    pub(crate) cause: Cause,
    /// In words.
    pub(crate) detail: String,
}

/// Why what came on a stream is not a request or an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// Something could not be read.
    #[error("the peer sent {0} that cannot be read")]
    Malformed(&'static str),
    /// Of another protocol version.
    #[error("the peer speaks protocol version {0}")]
    Version(u8),
    /// Too large.
    #[error("the peer sent {0} larger than allowed")]
    TooLarge(&'static str),
    /// The stream ended too early.
    #[error("the peer's stream ended before its end was said")]
    Truncated,
    /// The stream broke.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl From<BadHead> for FrameError {
    fn from(bad: BadHead) -> Self {
        Self::Malformed(bad.0)
    }
}

/// What a stream is opened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Http(RequestHead),
    Bytes(RequestHead),
    Datagrams(RequestHead),
}

/// What a preamble asks for.
pub(crate) fn opening(kind: u8, head: &Bytes) -> Result<Opening, FrameError> {
    match kind {
        HTTP => Ok(Opening::Http(RequestHead::decode(head)?)),
        BYTES => Ok(Opening::Bytes(RequestHead::decode(head)?)),
        DATAGRAMS => Ok(Opening::Datagrams(RequestHead::decode(head)?)),
        _ => Err(FrameError::Malformed("a request of an unknown kind")),
    }
}

/// The preamble of a stream. `None`: a part of the head is too long to be written.
pub(crate) fn encode_opening(opening: &Opening) -> Option<Bytes> {
    let (what, head) = match opening {
        Opening::Http(head) => (HTTP, head),
        Opening::Bytes(head) => (BYTES, head),
        Opening::Datagrams(head) => (DATAGRAMS, head),
    };
    let room = 512 + head.target.len() + head.authority.len() + head.fields.lines().len();
    let mut bytes = BytesMut::with_capacity(room);
    bytes.put_u8(wire::PROTOCOL);
    let written = with_header(&mut bytes, what, |bytes| head.put(bytes));
    (head.fits() && written <= MAX_HEAD).then(|| bytes.freeze())
}

/// The preamble of a stream that is to be relayed to `to`.
pub(crate) fn relay(to: &NodeName) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(wire::PROTOCOL);
    with_header(&mut bytes, RELAY, |bytes| bytes.put_slice(to.as_str().as_bytes()));
    bytes.freeze()
}

/// Appends a frame whose payload is written by `put`, and returns the payload's length.
pub(crate) fn with_header(
    bytes: &mut BytesMut,
    kind: u8,
    put: impl FnOnce(&mut BytesMut),
) -> usize {
    let start = bytes.len();
    put_header(bytes, kind, 0);
    put(bytes);
    let length = bytes.len() - start - HEADER;
    // Proof: heads are far below 4 GiB, and MAX_HEAD is checked by who writes them.
    bytes[start + 1..start + HEADER].copy_from_slice(&(length as u32).to_be_bytes());
    length
}

pub(crate) fn put_header(bytes: &mut BytesMut, kind: u8, length: usize) {
    bytes.put_u8(kind);
    // Proof: heads and trailers are bounded by MAX_HEAD and data is cut at MAX_DATA.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// The frames of one piece of body, to be written one after the other.
pub(crate) fn data(out: &mut Vec<Bytes>, mut piece: Bytes) {
    while !piece.is_empty() {
        let part = piece.split_to(piece.len().min(MAX_DATA));
        let mut header = BytesMut::with_capacity(HEADER);
        put_header(&mut header, DATA, part.len());
        out.push(header.freeze());
        out.push(part);
    }
}

/// Trailers. Such that are too large are left out.
pub(crate) fn trailers(out: &mut Vec<Bytes>, map: &HeaderMap) {
    let fields = Fields::from(map);
    if fields.lines().len() <= MAX_HEAD {
        let mut bytes = BytesMut::with_capacity(fields.lines().len() + HEADER);
        with_header(&mut bytes, TRAILERS, |b| b.put_slice(fields.lines()));
        out.push(bytes.freeze());
    }
}

/// The end of a body.
pub(crate) fn end() -> Bytes {
    Bytes::from_static(&[END, 0, 0, 0, 0])
}

/// The owner asks for the body.
pub(crate) fn go() -> Bytes {
    Bytes::from_static(&[GO, 0, 0, 0, 0])
}

/// An answer's head. `None`: it is too large.
pub(crate) fn head(head: &ResponseHead) -> Option<Bytes> {
    headed(HEAD, head)
}

/// An interim answer. `None`: it is too large.
pub(crate) fn info(head: &ResponseHead) -> Option<Bytes> {
    headed(INFO, head)
}

fn headed(kind: u8, head: &ResponseHead) -> Option<Bytes> {
    let mut bytes =
        BytesMut::with_capacity(HEADER + ResponseHead::FIXED + head.fields.lines().len());
    let written = with_header(&mut bytes, kind, |b| head.put(b));
    (written <= MAX_HEAD).then(|| bytes.freeze())
}

/// A refusal.
pub(crate) fn refused(refused: &Refused) -> Result<Bytes, wire::WireError> {
    let payload = wire::encode_body(refused)?;
    let mut bytes = BytesMut::with_capacity(payload.len() + HEADER);
    with_header(&mut bytes, REFUSED, |b| b.put_slice(&payload));
    Ok(bytes.freeze())
}

/// A frame, or a piece of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame {
    /// Some of the body.
    Data(Bytes),
    /// Trailers.
    Trailers(Fields),
    /// The end of the body.
    End,
    /// An informational answer (1xx); the final one follows.
    Info(ResponseHead),
    /// The head of an answer.
    Head(ResponseHead),
    /// A refusal.
    Refused(Refused),
    /// The body is asked for.
    Go,
}

/// Reads frames off a stream. Data comes in the pieces it arrived in, without a copy; so do heads that
/// arrived in one piece.
#[derive(Debug)]
pub(crate) struct Frames {
    recv: Receiver,
    /// What was read of the stream and not yet of its frames.
    ahead: Bytes,
    /// The same, while it is put together from several pieces; `ahead` is empty then.
    gathered: BytesMut,
    /// What is left of a data frame.
    left: usize,
}

impl Frames {
    pub(crate) fn new(recv: Receiver) -> Self {
        Self { recv, ahead: Bytes::new(), gathered: BytesMut::new(), left: 0 }
    }

    /// The stream itself, to go on as opaque bytes, and what was read of it already.
    pub(crate) fn into_bytes(self) -> (Bytes, Receiver) {
        (self.ahead, self.recv)
    }

    /// Reads the preamble: what is asked for, and the bytes of its head. Cancel-safe.
    pub(crate) async fn preamble(&mut self) -> Result<(u8, Bytes), FrameError> {
        self.at_least(1 + HEADER).await?;
        let version = self.ahead[0];
        if version != wire::PROTOCOL {
            return Err(FrameError::Version(version));
        }
        let (kind, length) = header(&self.ahead[1..]);
        if length > MAX_HEAD {
            return Err(FrameError::TooLarge("a request head"));
        }
        self.at_least(1 + HEADER + length).await?;
        self.ahead.advance(1 + HEADER);
        Ok((kind, self.ahead.split_to(length)))
    }

    /// The next frame. Must not be called again after an error or [`Frame::End`]. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Frame, FrameError> {
        loop {
            match self.ready()? {
                Ready::Frame(frame) => return Ok(frame),
                Ready::Wants(bytes) => self.at_least(bytes).await?,
            }
        }
    }

    /// The next frame if it is here already.
    pub(crate) fn ready(&mut self) -> Result<Ready, FrameError> {
        take(&mut self.ahead, &mut self.left)
    }

    /// Reads until `wanted` bytes are ahead.
    async fn at_least(&mut self, wanted: usize) -> Result<(), FrameError> {
        while self.ahead.len() + self.gathered.len() < wanted {
            let more = self.recv.read_chunk(usize::MAX).await?.ok_or(FrameError::Truncated)?;
            if self.ahead.is_empty() && self.gathered.is_empty() {
                self.ahead = more;
                continue;
            }
            if self.gathered.is_empty() {
                self.gathered.reserve(wanted + more.len());
                self.gathered.put_slice(&std::mem::take(&mut self.ahead));
            }
            self.gathered.put_slice(&more);
        }
        if !self.gathered.is_empty() {
            self.ahead = std::mem::take(&mut self.gathered).freeze();
        }
        Ok(())
    }
}

/// What is here of a stream.
#[derive(Debug)]
pub(crate) enum Ready {
    /// A frame.
    Frame(Frame),
    /// Nothing whole before so many bytes are ahead.
    Wants(usize),
}

/// Takes the next frame off `ahead`; `left` is what is left of a data frame. Pure.
pub(crate) fn take(ahead: &mut Bytes, left: &mut usize) -> Result<Ready, FrameError> {
    loop {
        if *left > 0 {
            if ahead.is_empty() {
                return Ok(Ready::Wants(1));
            }
            let piece = ahead.split_to((*left).min(ahead.len()));
            *left -= piece.len();
            return Ok(Ready::Frame(Frame::Data(piece)));
        }
        if ahead.len() < HEADER {
            return Ok(Ready::Wants(HEADER));
        }
        let (kind, length) = header(ahead);
        if kind == DATA {
            ahead.advance(HEADER);
            *left = length;
            continue;
        }
        if length > MAX_HEAD {
            return Err(FrameError::TooLarge(what(kind)));
        }
        if ahead.len() < HEADER + length {
            return Ok(Ready::Wants(HEADER + length));
        }
        ahead.advance(HEADER);
        let payload = ahead.split_to(length);
        return Ok(Ready::Frame(match kind {
            END => Frame::End,
            GO => Frame::Go,
            TRAILERS => Frame::Trailers(Fields::unread(payload)),
            HEAD => Frame::Head(ResponseHead::decode(payload)?),
            INFO => Frame::Info(ResponseHead::decode(payload)?),
            REFUSED => match wire::decode_body(&payload) {
                Ok(refused) => Frame::Refused(refused),
                Err(_) => return Err(FrameError::Malformed(what(kind))),
            },
            _ => continue,
        }));
    }
}

/// Kind and length of a frame. `bytes` has at least [`HEADER`] of them.
fn header(bytes: &[u8]) -> (u8, usize) {
    let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    (bytes[0], usize::try_from(length).unwrap_or(usize::MAX))
}

fn what(kind: u8) -> &'static str {
    match kind {
        TRAILERS => "trailers",
        HEAD => "an answer's head",
        REFUSED => "a refusal",
        _ => "an unknown frame",
    }
}
