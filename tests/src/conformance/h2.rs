//! HTTP/2 frames as bytes (RFC 9113), and a connection that writes any of them in any order.
//!
//! Writes header blocks as plain literals, and announces a header table of size zero, so that of what
//! comes back the status can be read without a table.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::client::{Connection, End};

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub mod kind {
    /// Content.
    pub const DATA: u8 = 0;
    /// The beginning of a message, or its trailers.
    pub const HEADERS: u8 = 1;
    /// Deprecated.
    pub const PRIORITY: u8 = 2;
    /// One stream is given up.
    pub const RST_STREAM: u8 = 3;
    /// Parameters of the connection.
    pub const SETTINGS: u8 = 4;
    /// For servers only.
    pub const PUSH_PROMISE: u8 = 5;
    /// To be answered.
    pub const PING: u8 = 6;
    /// No more streams.
    pub const GOAWAY: u8 = 7;
    /// Leave to send more.
    pub const WINDOW_UPDATE: u8 = 8;
    /// More of a header block.
    pub const CONTINUATION: u8 = 9;
}

/// Of SETTINGS and PING.
pub const ACK: u8 = 1;
/// Of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// Of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;
/// Of DATA and HEADERS.
pub const PADDED: u8 = 8;
/// Of a HEADERS frame that is a whole request.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

/// Error codes.
pub mod code {
    /// None.
    pub const NO_ERROR: u32 = 0;
    /// Of the protocol.
    pub const PROTOCOL: u32 = 1;
    /// More than the window.
    pub const FLOW_CONTROL: u32 = 3;
    /// Of a stream that is over.
    pub const STREAM_CLOSED: u32 = 5;
    /// Of a wrong size.
    pub const FRAME_SIZE: u32 = 6;
    /// Not begun.
    pub const REFUSED_STREAM: u32 = 7;
    /// No longer wanted.
    pub const CANCEL: u32 = 8;
    /// Of the header table.
    pub const COMPRESSION: u32 = 9;
    /// Too much of it.
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// One of [`kind`].
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The number that begins its payload at `at`.
    #[must_use]
    pub fn number(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_be_bytes)
    }

    /// The status of an answer that begins with it.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        (self.kind == kind::HEADERS).then(|| status(&self.payload)).flatten()
    }
}

/// The bytes of a frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A SETTINGS frame.
#[must_use]
pub fn settings(parameters: &[(u16, u32)]) -> Vec<u8> {
    let bytes = |(id, value): &(u16, u32)| {
        id.to_be_bytes().into_iter().chain(value.to_be_bytes()).collect::<Vec<_>>()
    };
    frame(kind::SETTINGS, 0, 0, &parameters.iter().flat_map(bytes).collect::<Vec<_>>())
}

/// A WINDOW_UPDATE frame.
#[must_use]
pub fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// A header block of literals.
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            integer(&mut bytes, text.len());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// RFC 7541 section 5.1, with a prefix of seven bits.
fn integer(bytes: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        bytes.push(value as u8);
        return;
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
}

/// A HEADERS frame.
#[must_use]
pub fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, &block(fields))
}

/// The fields of a request for `path`, and more.
#[must_use]
pub fn request<'a>(
    method: &'a str,
    path: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut fields =
        vec![(":method", method), (":scheme", "http"), (":authority", "svc"), (":path", path)];
    fields.extend(more);
    fields
}

fn status(mut block: &[u8]) -> Option<u16> {
    // A change of the table's size comes first.
    while block.first()? & 0xe0 == 0x20 {
        let long = block[0] & 0x1f == 0x1f;
        block = &block[1..];
        while long && block.first()? & 0x80 != 0 {
            block = &block[1..];
        }
        block = if long { &block[1..] } else { block };
    }
    let first = *block.first()?;
    let indexed = [200, 204, 206, 304, 400, 404, 500];
    match first {
        0x88..=0x8e => return Some(indexed[usize::from(first - 0x88)]),
        0x48..=0x4e | 0x08..=0x0e => {}
        // A literal, never indexed, with a name of the static table.
        0x18..=0x1e => {}
        _ => return None,
    }
    let length = *block.get(1)?;
    let text = block.get(2..2 + usize::from(length & 0x7f))?;
    match length & 0x80 {
        0 => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => digits(text),
    }
}

/// Three digits in the code of RFC 7541 appendix B.
fn digits(text: &[u8]) -> Option<u16> {
    let bits: Vec<u8> = text.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)).collect();
    let (mut at, mut value) = (0, 0);
    for _ in 0..3 {
        let take = |n: usize| {
            bits.get(at..at + n).map(|bits| bits.iter().fold(0u16, |v, b| v << 1 | u16::from(*b)))
        };
        let digit = match take(5)? {
            short @ 0..=2 => {
                at += 5;
                short
            }
            _ => {
                let long = take(6)?.checked_sub(0b011001)?;
                at += 6;
                long + 3
            }
        };
        value = value * 10 + digit;
    }
    Some(value)
}

/// The whole frames at the beginning of bytes.
#[must_use]
pub fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut found = Vec::new();
    while let Some(head) = bytes.get(..9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some(payload) = bytes.get(9..9 + length) else { break };
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        found.push(Frame { kind: head[3], flags: head[4], stream, payload: payload.to_vec() });
        bytes = &bytes[9 + length..];
    }
    found
}

/// A connection.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
}

impl Session {
    /// Opens one, says the preface and these settings, and acknowledges the peer's.
    ///
    /// # Errors
    /// In words.
    pub fn open(to: SocketAddr, parameters: &[(u16, u32)]) -> Result<Self, String> {
        let mut session = Self::silent(to)?;
        let mut all = vec![(1, 0)];
        all.extend(parameters);
        session.send(&[PREFACE, &settings(&all)].concat()).map_err(|e| e.to_string())?;
        session.wait("its SETTINGS", |frames, _| {
            frames.iter().find(|f| f.kind == kind::SETTINGS && f.flags == 0).map(drop)
        })?;
        session.send(&frame(kind::SETTINGS, ACK, 0, &[])).map_err(|e| e.to_string())?;
        Ok(session)
    }

    /// Opens one and says nothing.
    ///
    /// # Errors
    /// In words.
    pub fn silent(to: SocketAddr) -> Result<Self, String> {
        let connection = Connection::open(to).map_err(|e| format!("connect: {e}"))?;
        Ok(Self { connection })
    }

    /// Writes.
    ///
    /// # Errors
    /// The peer may be gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.send(bytes)
    }

    /// Waits for something among the frames that came.
    ///
    /// # Errors
    /// What came instead.
    pub fn wait<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&[Frame], Option<End>) -> Option<T>,
    ) -> Result<T, String> {
        const SOON: Duration = Duration::from_secs(10);
        let found = self.connection.wait(SOON, |bytes, end| {
            let frames = frames(bytes);
            match look(&frames, end) {
                Some(found) => Some(Ok(found)),
                None if end.is_some() => Some(Err(())),
                None => None,
            }
        });
        match found {
            Ok(Ok(found)) => Ok(found),
            _ => Err(format!("no {what}; came: {}", self.story())),
        }
    }

    /// The answer on a stream: status and content, once it is whole.
    ///
    /// # Errors
    /// What came instead.
    pub fn answer(&self, stream: u32) -> Result<(u16, Vec<u8>), String> {
        self.wait(&format!("whole answer on stream {stream}"), |frames, _| {
            let own = || frames.iter().filter(|f| f.stream == stream);
            let status = own().filter_map(Frame::status).find(|s| *s >= 200)?;
            let ended = |f: &Frame| f.kind <= kind::HEADERS && f.flags & END_STREAM != 0;
            own().any(ended).then(|| {
                let data = own().filter(|f| f.kind == kind::DATA);
                (status, data.flat_map(|f| f.payload.clone()).collect())
            })
        })
    }

    /// What came, in words.
    #[must_use]
    pub fn story(&self) -> String {
        let (bytes, end) = self.connection.got();
        let told = frames(&bytes).iter().map(tell).collect::<Vec<_>>();
        let cut = told.len().saturating_sub(40);
        format!("{} frames … {}; then {end:?}", told.len(), told[cut..].join(", "))
    }
}

fn tell(frame: &Frame) -> String {
    const NAMES: [&str; 10] = [
        "DATA",
        "HEADERS",
        "PRIORITY",
        "RST_STREAM",
        "SETTINGS",
        "PUSH_PROMISE",
        "PING",
        "GOAWAY",
        "WINDOW_UPDATE",
        "CONTINUATION",
    ];
    let name = NAMES.get(usize::from(frame.kind)).copied().unwrap_or("UNKNOWN");
    let detail = match frame.kind {
        kind::HEADERS => format!(" {:?}", frame.status()),
        kind::RST_STREAM | kind::WINDOW_UPDATE => format!(" {}", frame.number(0)),
        kind::GOAWAY => format!(" error {} last {}", frame.number(4), frame.number(0)),
        _ => format!(" {} bytes", frame.payload.len()),
    };
    format!("{name}[{}]{detail}", frame.stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_indexed_plain_and_coded() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8c]), Some(400));
        assert_eq!(status(b"\x48\x03503"), Some(503));
        // RFC 7541 appendix C.6: 302 and 307.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = [settings(&[(4, 7)]), window(3, 9), frame(200, 1, 5, b"x")].concat();
        let read = frames(&bytes[..bytes.len()]);
        assert_eq!(read.len(), 3);
        assert_eq!((read[0].payload.len(), read[1].number(0), read[2].stream), (6, 9, 5));
        assert_eq!(frames(&bytes[..bytes.len() - 1]).len(), 2);
    }
}
