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

use bytes::{BufMut, Bytes, BytesMut};
use hearth_proto::ids::ServiceName;
use hearth_proto::wire;
use http::{HeaderMap, HeaderName, HeaderValue};
use quinn::RecvStream;
use serde::{Deserialize, Serialize};

const DATA: u8 = 0;
const TRAILERS: u8 = 1;
const END: u8 = 2;
const HEAD: u8 = 3;
const REFUSED: u8 = 4;
const GO: u8 = 5;

/// What the stream carries.
const HTTP: u8 = 1;
const BYTES: u8 = 2;

/// Largest head or trailers, in bytes: above what the HTTP servers at the edges let in.
pub(crate) const MAX_HEAD: usize = 128 * 1024;
/// Largest payload of one data frame that is written; any is read.
pub(crate) const MAX_DATA: usize = 256 * 1024;

/// How the request's body comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BodyKind {
    /// There is none.
    None,
    /// It follows at once.
    Inline,
    /// It follows after `GO`.
    AfterGo,
}

/// Header fields as they travel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fields(Vec<(String, Vec<u8>)>);

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        Self(map.iter().map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec())).collect())
    }
}

impl TryFrom<Fields> for HeaderMap {
    type Error = FrameError;
    fn try_from(fields: Fields) -> Result<Self, FrameError> {
        let malformed = |_| FrameError::Malformed("a header field");
        let mut map = HeaderMap::with_capacity(fields.0.len());
        for (name, value) in fields.0 {
            let name = HeaderName::try_from(name).map_err(|e| malformed(e.to_string()))?;
            let value = HeaderValue::try_from(value).map_err(|e| malformed(e.to_string()))?;
            map.append(name, value);
        }
        Ok(map)
    }
}

/// What a caller asks for. Who it is, its certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestHead {
    /// The service it calls.
    pub(crate) service: ServiceName,
    /// The instance on the owner's host.
    pub(crate) instance: u16,
    /// Microseconds left until the caller gives up.
    pub(crate) left_us: u64,
    /// How the body comes.
    pub(crate) body: BodyKind,
    /// Its length where it is known, 0 for none.
    pub(crate) length: Option<u64>,
    /// HTTP method; empty for opaque bytes.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// The authority the client addressed.
    pub(crate) authority: String,
    /// Header fields, those of single hops removed.
    pub(crate) fields: Fields,
}

/// The application's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResponseHead {
    /// HTTP status.
    pub(crate) status: u16,
    /// Header fields, those of single hops removed.
    pub(crate) fields: Fields,
}

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
    /// The peer gave the stream up.
    #[error("the peer gave the request up")]
    Reset,
    /// The connection is gone.
    #[error("{why}")]
    Lost {
        /// What happened.
        why: String,
        /// The peer never let us in: it has seen no request.
        unseen: bool,
    },
}

impl From<quinn::ReadError> for FrameError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(_) => Self::Reset,
            quinn::ReadError::ConnectionLost(e) => Self::Lost {
                // Crypto errors (RFC 9001 section 4.8) end a handshake, never a connection in use.
                unseen: matches!(&e, quinn::ConnectionError::ConnectionClosed(c)
                    if (0x100..0x200).contains(&u64::from(c.error_code))),
                why: format!("the connection broke: {e}"),
            },
            other => Self::Lost { why: other.to_string(), unseen: false },
        }
    }
}

impl From<quinn::ReadExactError> for FrameError {
    fn from(error: quinn::ReadExactError) -> Self {
        match error {
            quinn::ReadExactError::FinishedEarly(_) => Self::Truncated,
            quinn::ReadExactError::ReadError(e) => e.into(),
        }
    }
}

/// What a stream is opened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Http(RequestHead),
    Bytes(RequestHead),
}

/// The preamble of a stream.
pub(crate) fn encode_opening(opening: &Opening) -> Result<Bytes, wire::WireError> {
    let (what, head) = match opening {
        Opening::Http(head) => (HTTP, head),
        Opening::Bytes(head) => (BYTES, head),
    };
    let head = wire::encode_body(head)?;
    let mut bytes = BytesMut::with_capacity(head.len() + 6);
    bytes.put_u8(wire::PROTOCOL);
    put(&mut bytes, what, &head);
    Ok(bytes.freeze())
}

/// Reads the preamble.
pub(crate) async fn read_opening(recv: &mut RecvStream) -> Result<Opening, FrameError> {
    let mut start = [0; 6];
    recv.read_exact(&mut start).await?;
    let [version, what, length @ ..] = start;
    if version != wire::PROTOCOL {
        return Err(FrameError::Version(version));
    }
    let head = read_payload(recv, u32::from_be_bytes(length), "a request head").await?;
    let head = wire::decode_body(&head).map_err(|_| FrameError::Malformed("a request head"))?;
    match what {
        HTTP => Ok(Opening::Http(head)),
        BYTES => Ok(Opening::Bytes(head)),
        _ => Err(FrameError::Malformed("a request of an unknown kind")),
    }
}

async fn read_payload(
    recv: &mut RecvStream,
    length: u32,
    what: &'static str,
) -> Result<Vec<u8>, FrameError> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_HEAD {
        return Err(FrameError::TooLarge(what));
    }
    let mut payload = vec![0; length];
    recv.read_exact(&mut payload).await?;
    Ok(payload)
}

fn put(bytes: &mut BytesMut, kind: u8, payload: &[u8]) {
    put_header(bytes, kind, payload.len());
    bytes.put_slice(payload);
}

fn put_header(bytes: &mut BytesMut, kind: u8, length: usize) {
    bytes.put_u8(kind);
    // Proof: heads and trailers are bounded by MAX_HEAD and data is cut at MAX_DATA.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// The frames of one piece of body, to be written one after the other.
pub(crate) fn data(out: &mut Vec<Bytes>, mut piece: Bytes) {
    while !piece.is_empty() {
        let part = piece.split_to(piece.len().min(MAX_DATA));
        let mut header = BytesMut::with_capacity(5);
        put_header(&mut header, DATA, part.len());
        out.push(header.freeze());
        out.push(part);
    }
}

/// Trailers. Such that cannot be encoded or are too large are left out.
pub(crate) fn trailers(out: &mut Vec<Bytes>, map: &HeaderMap) {
    if let Ok(payload) = wire::encode_body(&Fields::from(map))
        && payload.len() <= MAX_HEAD
    {
        let mut bytes = BytesMut::with_capacity(payload.len() + 5);
        put(&mut bytes, TRAILERS, &payload);
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

/// An answer's head.
pub(crate) fn head(head: &ResponseHead) -> Result<Bytes, wire::WireError> {
    framed(HEAD, head)
}

/// A refusal.
pub(crate) fn refused(refused: &Refused) -> Result<Bytes, wire::WireError> {
    framed(REFUSED, refused)
}

fn framed(kind: u8, value: &impl Serialize) -> Result<Bytes, wire::WireError> {
    let payload = wire::encode_body(value)?;
    let mut bytes = BytesMut::with_capacity(payload.len() + 5);
    put(&mut bytes, kind, &payload);
    Ok(bytes.freeze())
}

/// A frame, or a piece of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame {
    /// Some of the body.
    Data(Bytes),
    /// Trailers.
    Trailers(HeaderMap),
    /// The end of the body.
    End,
    /// The head of an answer.
    Head(ResponseHead),
    /// A refusal.
    Refused(Refused),
    /// The body is asked for.
    Go,
}

/// Reads frames off a stream. Data comes in the pieces it arrived in, without a copy.
#[derive(Debug)]
pub(crate) struct Frames {
    recv: RecvStream,
    left: usize,
}

impl Frames {
    pub(crate) fn new(recv: RecvStream) -> Self {
        Self { recv, left: 0 }
    }

    /// The stream itself, to go on as opaque bytes. Nothing of it is buffered here.
    pub(crate) fn into_bytes(self) -> RecvStream {
        self.recv
    }

    /// The next frame. Must not be called again after an error or [`Frame::End`]. Not cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Frame, FrameError> {
        loop {
            if self.left > 0 {
                let chunk = self.recv.read_chunk(self.left, true).await?;
                let chunk = chunk.ok_or(FrameError::Truncated)?;
                self.left -= chunk.bytes.len();
                return Ok(Frame::Data(chunk.bytes));
            }
            let mut header = [0; 5];
            self.recv.read_exact(&mut header).await?;
            let [kind, length @ ..] = header;
            let length = u32::from_be_bytes(length);
            match kind {
                DATA => self.left = usize::try_from(length).unwrap_or(usize::MAX),
                END => return Ok(Frame::End),
                GO => return Ok(Frame::Go),
                TRAILERS => {
                    let fields: Fields = self.value(length, "trailers").await?;
                    return Ok(Frame::Trailers(fields.try_into()?));
                }
                HEAD => return Ok(Frame::Head(self.value(length, "an answer's head").await?)),
                REFUSED => return Ok(Frame::Refused(self.value(length, "a refusal").await?)),
                _ => drop(read_payload(&mut self.recv, length, "an unknown frame").await?),
            }
        }
    }

    async fn value<T: serde::de::DeserializeOwned>(
        &mut self,
        length: u32,
        what: &'static str,
    ) -> Result<T, FrameError> {
        let payload = read_payload(&mut self.recv, length, what).await?;
        wire::decode_body(&payload).map_err(|_| FrameError::Malformed(what))
    }
}
