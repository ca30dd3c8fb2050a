//! How an answer is written to a client over HTTP/1.1. Pure.

use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;

use super::super::head::{BadHead, Fields, ResponseHead, put_field};
use super::owner::put_chunk_size;
use super::response;

/// What of the request decides how its answer is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// It was a HEAD: the answer has no body whatever it says.
    pub(super) to_head: bool,
    /// The connection ends with the answer.
    pub(super) close: bool,
}

/// How the body is written, and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// There is none.
    None,
    /// So many bytes are still to come.
    Sized(u64),
    /// In chunks.
    Chunked,
}

/// Appends the head of an answer, with our own `via` line. `empty`: its end is known to follow at once.
pub(super) fn put_head(
    out: &mut BytesMut,
    head: &ResponseHead,
    via: &[u8],
    shape: Shape,
    empty: bool,
) -> Result<Coding, BadHead> {
    // An informational status would make the client take the body for its answer. What an application says
    // beyond 599 is its own affair, where hyper passed it on.
    if !matches!(head.status, 200..=999) {
        return Err(BadHead("an answer with such a status"));
    }
    put_status(out, head.status);
    if !put_fields(out, &head.fields)? {
        put_date(out);
    }
    out.put_slice(via);
    let bodiless = shape.to_head || matches!(head.status, 204 | 304);
    let length = match head.length {
        None if empty && !bodiless => Some(0),
        length => length.filter(|_| head.status != 204),
    };
    if let Some(length) = length {
        out.put_slice(b"content-length: ");
        out.put_slice(itoa::Buffer::new().format(length).as_bytes());
        out.put_slice(b"\r\n");
    } else if !bodiless {
        out.put_slice(b"transfer-encoding: chunked\r\n");
    }
    if shape.close {
        out.put_slice(b"connection: close\r\n");
    }
    out.put_slice(b"\r\n");
    Ok(match length {
        _ if bodiless => Coding::None,
        Some(length) => Coding::Sized(length),
        None => Coding::Chunked,
    })
}

/// Appends an informational answer, whole.
pub(super) fn put_interim(out: &mut BytesMut, head: &ResponseHead) -> Result<(), BadHead> {
    // A final one would be the answer, and what follows the answer to the next request; nobody asked here
    // for another protocol.
    if !matches!(head.status, 100 | 102..=199) {
        return Err(BadHead("an informational answer with such a status"));
    }
    put_status(out, head.status);
    put_fields(out, &head.fields)?;
    out.put_slice(b"\r\n");
    Ok(())
}

fn put_status(out: &mut BytesMut, status: u16) {
    if status == 200 {
        out.put_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(itoa::Buffer::new().format(status).as_bytes());
    out.put_slice(b" ");
    let reason = StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
    out.put_slice(reason.unwrap_or("").as_bytes());
    out.put_slice(b"\r\n");
}

/// Appends fields that a peer sent: read first, and without those that frame a message. `true`: they have a
/// date.
fn put_fields(out: &mut BytesMut, fields: &Fields) -> Result<bool, BadHead> {
    let (mut clean, mut dated) = (true, false);
    fields.parse(|name, _| {
        clean &= !response::is_of_the_hop(name);
        dated |= name.eq_ignore_ascii_case("date");
    })?;
    if clean {
        // Without the empty line at their end.
        let lines = fields.lines();
        out.put_slice(&lines[..lines.len().saturating_sub(2)]);
        return Ok(dated);
    }
    fields.parse(|name, value| {
        if !response::is_of_the_hop(name) {
            put_field(out, name, value);
        }
    })?;
    Ok(dated)
}

/// RFC 9110 section 6.6.1: whoever has a clock says when it got an answer that does not say when it was
/// made.
fn put_date(out: &mut BytesMut) {
    let now = httpdate::fmt_http_date(SystemTime::now());
    put_field(out, "date", now.as_bytes());
}

impl Coding {
    /// Takes a piece of body into account and appends what stands in front of it. `Err`: there is more than
    /// the head said.
    pub(super) fn before(&mut self, out: &mut BytesMut, piece: &Bytes) -> Result<(), BadHead> {
        match self {
            Self::None => Err(BadHead("a body that there cannot be")),
            Self::Sized(left) if *left < piece.len() as u64 => {
                Err(BadHead("a body longer than its head said"))
            }
            Self::Sized(left) => {
                *left -= piece.len() as u64;
                Ok(())
            }
            Self::Chunked => {
                put_chunk_size(out, piece.len());
                Ok(())
            }
        }
    }

    /// Appends what stands behind a piece.
    pub(super) fn after(self, out: &mut BytesMut) {
        if self == Self::Chunked {
            out.put_slice(b"\r\n");
        }
    }

    /// Appends the end. `Err`: the body is shorter than its head said, or the trailers cannot be read.
    pub(super) fn end(self, out: &mut BytesMut, trailers: &Fields) -> Result<(), BadHead> {
        match self {
            Self::None | Self::Sized(0) => Ok(()),
            Self::Sized(_) => Err(BadHead("a body shorter than its head said")),
            Self::Chunked => {
                out.put_slice(b"0\r\n");
                put_fields(out, trailers)?;
                out.put_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Shape = Shape { to_head: false, close: false };

    fn head(status: u16, length: Option<u64>, lines: &'static str) -> ResponseHead {
        ResponseHead {
            status,
            length,
            fields: Fields::unread(Bytes::from_static(lines.as_bytes())),
        }
    }

    /// What is written, without the date that is added.
    fn written(head: &ResponseHead, shape: Shape, empty: bool) -> (String, Coding) {
        let mut out = BytesMut::new();
        let coding = put_head(&mut out, head, b"via: 1.1 a\r\n", shape, empty).unwrap();
        let text = String::from_utf8(out.to_vec()).unwrap();
        let lines = text.split_inclusive("\r\n").filter(|l| !l.starts_with("date: "));
        (lines.collect(), coding)
    }

    #[test]
    fn a_length_that_is_known_is_said_and_one_that_is_not_is_chunked() {
        let (text, coding) = written(&head(200, Some(5), "x-a: 1\r\n\r\n"), PLAIN, false);
        assert_eq!(text, "HTTP/1.1 200 OK\r\nx-a: 1\r\nvia: 1.1 a\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(coding, Coding::Sized(5));
        let (text, coding) = written(&head(404, None, ""), PLAIN, false);
        assert_eq!(
            text,
            "HTTP/1.1 404 Not Found\r\nvia: 1.1 a\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert_eq!(coding, Coding::Chunked);
        assert_eq!(written(&head(200, None, ""), PLAIN, true).1, Coding::Sized(0));
    }

    #[test]
    fn an_answer_that_has_no_date_gets_one() {
        let put = |lines| {
            let mut out = BytesMut::new();
            put_head(&mut out, &head(200, Some(0), lines), b"", PLAIN, true).unwrap();
            String::from_utf8(out.to_vec()).unwrap().to_ascii_lowercase().matches("date: ").count()
        };
        assert_eq!((put(""), put("Date: then\r\n\r\n")), (1, 1));
    }

    #[test]
    fn answers_without_a_body_say_no_chunks() {
        let to_head = Shape { to_head: true, close: true };
        let (text, coding) = written(&head(200, Some(5), ""), to_head, true);
        assert!(text.ends_with("content-length: 5\r\nconnection: close\r\n\r\n"), "{text}");
        assert_eq!(coding, Coding::None);
        for (status, length) in [(204, Some(5)), (204, None), (304, None)] {
            let (text, coding) = written(&head(status, length, ""), PLAIN, true);
            assert!(!text.contains("content-length") && !text.contains("chunked"), "{text}");
            assert_eq!(coding, Coding::None);
        }
    }

    #[test]
    fn a_status_that_makes_two_answers_of_one_is_refused() {
        let mut out = BytesMut::new();
        for status in [0, 7, 99, 100, 101, 103, 199, 1000, u16::MAX] {
            assert!(put_head(&mut out, &head(status, None, ""), b"", PLAIN, true).is_err());
        }
        for status in [0, 99, 101, 200, 204, 304, 500, u16::MAX] {
            assert!(put_interim(&mut out, &head(status, None, "")).is_err());
        }
        assert!(out.is_empty());
        put_interim(&mut out, &head(103, None, "link: a\r\n\r\n")).unwrap();
        assert_eq!(&out[..], b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n");
    }

    #[test]
    fn fields_that_would_frame_the_message_anew_are_dropped() {
        let lines = "x-a: 1\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n";
        let (text, _) = written(&head(200, Some(5), lines), PLAIN, false);
        assert_eq!(text, "HTTP/1.1 200 OK\r\nx-a: 1\r\nvia: 1.1 a\r\ncontent-length: 5\r\n\r\n");
    }

    #[test]
    fn a_body_other_than_its_head_said_is_noticed() {
        let mut out = BytesMut::new();
        let piece = Bytes::from_static(b"123456");
        assert!(Coding::Sized(5).before(&mut out, &piece).is_err());
        assert!(Coding::None.before(&mut out, &piece).is_err());
        assert!(Coding::Sized(1).end(&mut out, &Fields::default()).is_err());
        let mut coding = Coding::Chunked;
        coding.before(&mut out, &piece).unwrap();
        out.put_slice(&piece);
        coding.after(&mut out);
        coding.end(&mut out, &Fields::unread(Bytes::from_static(b"x-t: 1\r\n\r\n"))).unwrap();
        assert_eq!(&out[..], b"6\r\n123456\r\n0\r\nx-t: 1\r\n\r\n");
    }
}
