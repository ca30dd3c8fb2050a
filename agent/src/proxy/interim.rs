//! Interim answers (1xx) on their way to a client. Pure.
//!
//! 100 is not among them: it answers `Expect` hop by hop, as bodies are asked for. 101 is an answer.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use super::head::{Fields, ResponseHead};

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
