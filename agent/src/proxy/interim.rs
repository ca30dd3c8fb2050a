//! Interim answers (1xx) on their way to a client. Pure.
//!
//! 100 is not among them: it answers `Expect` hop by hop, as bodies are asked for. 101 is an answer.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use super::head::{Fields, ResponseHead};

/// More interim answers than this to one request are an application gone mad.
const MOST: usize = 16;

/// Interim answers to one request without end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it sends informational answers without end")]
pub(crate) struct Endless;

/// How many interim answers there were to one request.
#[derive(Debug, Default)]
pub(crate) struct Count(usize);

impl Count {
    /// Counts one more, or says that it is one too many.
    pub(crate) fn one_more(&mut self) -> Result<(), Endless> {
        self.0 += 1;
        if self.0 > MOST { Err(Endless) } else { Ok(()) }
    }
}

/// An interim answer as HTTP/1.1 has it; `None` for one that cannot be passed on.
pub(crate) fn encode(head: &ResponseHead) -> Option<Bytes> {
    let status = StatusCode::from_u16(head.status).ok().filter(|_| head.is_interim())?;
    // Read, not copied: they come from a peer.
    let fields = Fields::from(&HeaderMap::try_from(&head.fields).ok()?);
    let mut bytes = BytesMut::with_capacity(64 + fields.lines().len());
    bytes.put_slice(b"HTTP/1.1 ");
    bytes.put_slice(status.as_str().as_bytes());
    bytes.put_u8(b' ');
    bytes.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    bytes.put_slice(b"\r\n");
    bytes.put_slice(if fields.lines().is_empty() { b"\r\n" } else { fields.lines() });
    Some(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(status: u16, lines: &'static str) -> Option<Bytes> {
        let fields = Fields::unread(Bytes::from_static(lines.as_bytes()));
        encode(&ResponseHead { status, length: None, fields })
    }

    #[test]
    fn only_interim_answers_that_can_be_read_are_written() {
        let hints = encoded(103, "link: </a>\r\n\r\n").unwrap();
        assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        assert_eq!(encoded(102, "").unwrap(), "HTTP/1.1 102 Processing\r\n\r\n");
        for (status, lines) in [(101, ""), (200, ""), (99, ""), (103, "a: b\n\r\n")] {
            assert_eq!(encoded(status, lines), None, "{status} {lines:?}");
        }
    }
}
