//! An application's HTTP/1.1 answer: its head, what is passed on of it, and how its body ends. Pure.
//!
//! RFC 9112 section 6.3 says how long a body is; where an answer says it in two ways, it is refused: the
//! application is one hop away, and what it meant cannot be guessed.

use bytes::{BufMut, BytesMut};
use httparse::{Header, Status};

use super::super::head::{MAX_FIELDS, has_bare_lf, put_field};
use super::request;

/// Largest head of an answer.
pub(super) const MAX_ANSWER_HEAD: usize = 64 * 1024;

/// How the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Sized(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// The head of an answer, as far as it is not its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AnswerHead {
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// What `Content-Length` said, where it is passed on.
    pub(super) length: Option<u64>,
    /// The connection may be used again.
    pub(super) keep: bool,
    /// Its length in bytes.
    pub(super) head: usize,
}

/// What stands at the beginning of what an application sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Not a whole head yet.
    Partial,
    /// A 1xx of this status and length; another head follows.
    Interim(u16, usize),
    /// The final answer.
    Head(AnswerHead),
}

/// Reads the head of an answer and appends the fields that are passed on, `via` and the empty line to
/// `out`. The error says what is wrong with it.
pub(super) fn read(
    buffer: &[u8],
    to_head: bool,
    via: &[u8],
    out: &mut BytesMut,
) -> Result<Read, &'static str> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    match with(buffer, &mut fields, to_head, via, out) {
        Err(None) => {
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let read = with(buffer, &mut fields, to_head, via, out);
            read.map_err(|e| e.unwrap_or("its answer has too many fields"))
        }
        read => read.map_err(|e| e.unwrap_or("its answer cannot be read")),
    }
}

/// Appends the fields of an informational answer that are passed on, and the empty line.
pub(super) fn put_interim(head: &[u8], out: &mut BytesMut) -> Result<(), &'static str> {
    const BAD: &str = "its informational answer cannot be read";
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut fields);
    answer.parse(head).map_err(|_| BAD)?;
    let told = Told::of(answer.headers).map_err(|why| why.unwrap_or(BAD))?;
    put_fields(answer.headers, &told, b"", out);
    Ok(())
}

/// `Err(None)`: there are more fields than that.
fn with<'b>(
    buffer: &'b [u8],
    fields: &mut [Header<'b>],
    to_head: bool,
    via: &[u8],
    out: &mut BytesMut,
) -> Result<Read, Option<&'static str>> {
    let mut answer = httparse::Response::new(fields);
    let head = match answer.parse(buffer) {
        Ok(Status::Complete(head)) if head <= MAX_ANSWER_HEAD => head,
        Ok(Status::Partial) if buffer.len() < MAX_ANSWER_HEAD => return Ok(Read::Partial),
        Ok(_) => return Err(Some("the head of its answer is too large")),
        Err(httparse::Error::TooManyHeaders) => return Err(None),
        Err(_) => return Err(Some("its answer is not HTTP/1.1")),
    };
    let (Some(status), Some(minor)) = (answer.code, answer.version) else {
        return Err(Some("its answer is not HTTP/1.1"));
    };
    if has_bare_lf(&buffer[..head]) || !buffer.starts_with(b"HTTP/") {
        return Err(Some("a line of its answer is not ended by CR LF"));
    }
    match status {
        101 => return Err(Some("it switched protocols unasked")),
        100..=199 => return Ok(Read::Interim(status, head)),
        200..=599 => {}
        _ => return Err(Some("its answer has no status from 200 to 599")),
    }
    let told = Told::of(answer.headers)?;
    let (framing, length) = told.framing(status, minor, to_head)?;
    let keep = minor == 1 && !told.close && framing != Framing::Close;
    put_fields(answer.headers, &told, via, out);
    Ok(Read::Head(AnswerHead { status, framing, length, keep, head }))
}

/// What the fields say of the message itself.
#[derive(Default)]
struct Told {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    /// `Connection` names fields of this hop.
    names: bool,
}

impl Told {
    fn of(fields: &[Header<'_>]) -> Result<Self, Option<&'static str>> {
        let mut told = Self::default();
        for field in fields {
            match kind(field.name) {
                Kind::Length => {
                    let length = request::length(field.value)
                        .ok_or("the Content-Length of its answer is no number")?;
                    if told.length.is_some_and(|other| other != length) {
                        return Err(Some("its answer has two lengths"));
                    }
                    told.length = Some(length);
                }
                Kind::Coding => {
                    if told.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Some("its answer has a Transfer-Encoding other than chunked"));
                    }
                    told.chunked = true;
                }
                Kind::Connection => match request::connection(field.value) {
                    Some(close) => told.close |= close,
                    None => {
                        told.names = true;
                        told.close |= names(field.value).any(|n| n.eq_ignore_ascii_case("close"));
                    }
                },
                Kind::Hop | Kind::Other => {}
            }
        }
        Ok(told)
    }

    /// How the body ends, and which length is passed on.
    fn framing(
        &self,
        status: u16,
        minor: u8,
        to_head: bool,
    ) -> Result<(Framing, Option<u64>), Option<&'static str>> {
        if self.chunked && (self.length.is_some() || minor == 0) {
            return Err(Some("its answer says in two ways how long it is"));
        }
        Ok(match (status, self.length) {
            (204, _) => (Framing::None, None),
            (304, length) => (Framing::None, length),
            (_, length) if to_head => (Framing::None, length),
            (_, Some(length)) => (Framing::Sized(length), Some(length)),
            (_, None) if self.chunked => (Framing::Chunked, None),
            (_, None) => (Framing::Close, None),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Length,
    Coding,
    Connection,
    Hop,
    Other,
}

fn kind(name: &str) -> Kind {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is("te") => Kind::Hop,
        7 if is("upgrade") => Kind::Hop,
        10 if is("connection") => Kind::Connection,
        10 if is("keep-alive") => Kind::Hop,
        14 if is("content-length") => Kind::Length,
        16 if is("proxy-connection") => Kind::Hop,
        17 if is("transfer-encoding") => Kind::Coding,
        _ => Kind::Other,
    }
}

/// Whether a field belongs to one hop or to the framing, and must not be in the fields of a head.
pub(super) fn is_of_the_hop(name: &str) -> bool {
    kind(name) != Kind::Other
}

fn names(value: &[u8]) -> impl Iterator<Item = &str> {
    value.split(|b| *b == b',').filter_map(|n| std::str::from_utf8(n).ok()).map(str::trim)
}

fn put_fields(fields: &[Header<'_>], told: &Told, via: &[u8], out: &mut BytesMut) {
    // Trailers are passed on, and Host says nothing in an answer: what names them is not believed.
    let named = |name: &str| {
        told.names
            && !name.eq_ignore_ascii_case("trailer")
            && fields
                .iter()
                .filter(|f| kind(f.name) == Kind::Connection)
                .any(|f| names(f.value).any(|n| n.eq_ignore_ascii_case(name)))
    };
    for field in fields {
        if kind(field.name) == Kind::Other && !named(field.name) {
            put_field(out, field.name, field.value);
        }
    }
    out.put_slice(via);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str, to_head: bool) -> Result<(AnswerHead, String), &'static str> {
        let mut out = BytesMut::new();
        match read(text.as_bytes(), to_head, b"via: 1.1 b\r\n", &mut out)? {
            Read::Head(head) => Ok((head, String::from_utf8_lossy(&out).into_owned())),
            other => panic!("{other:?}"),
        }
    }

    fn framing(fields: &str, status: u16, to_head: bool) -> (Framing, Option<u64>, bool) {
        let (head, _) = answer(&format!("HTTP/1.1 {status} X\r\n{fields}\r\n"), to_head).unwrap();
        (head.framing, head.length, head.keep)
    }

    #[test]
    fn the_length_of_a_body_is_told_as_rfc_9112_has_it() {
        let length = "Content-Length: 5\r\n";
        assert_eq!(framing(length, 200, false), (Framing::Sized(5), Some(5), true));
        assert_eq!(framing(length, 200, true), (Framing::None, Some(5), true));
        assert_eq!(framing(length, 304, false), (Framing::None, Some(5), true));
        assert_eq!(framing(length, 204, false), (Framing::None, None, true));
        let twice = "Content-Length: 5\r\nContent-Length: 5\r\n";
        assert_eq!(framing(twice, 200, false), (Framing::Sized(5), Some(5), true));
        let chunked = "Transfer-Encoding: Chunked\r\n";
        assert_eq!(framing(chunked, 200, false), (Framing::Chunked, None, true));
        assert_eq!(framing("", 200, false), (Framing::Close, None, false));
        assert!(!framing("Connection: close\r\nContent-Length: 0\r\n", 200, false).2);
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_refused() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 5, 5\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "X-A: 1\n",
            "X-A: 1\r\n folded\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert!(answer(&text, false).is_err(), "{fields:?}");
        }
        for text in [
            "HTTP/1.1 101 X\r\n\r\n",
            "HTTP/1.1 999 X\r\n\r\n",
            "HTTP/2 200 X\r\n\r\n",
            "junk\r\n\r\n",
        ] {
            assert!(answer(text, false).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fields_of_the_hop_stay_behind_those_that_connection_names_too() {
        let text = "HTTP/1.1 200 OK\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
                    Upgrade: h2c\r\nX-Stays: 1\r\nContent-Length: 0\r\n\r\n";
        let (head, fields) = answer(text, false).unwrap();
        assert!(!head.keep);
        assert_eq!(fields, "X-Stays: 1\r\nvia: 1.1 b\r\n\r\n");
    }

    #[test]
    fn a_head_cut_short_is_partial_and_an_endless_one_is_refused() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        for end in 0..text.len() {
            let read = read(&text.as_bytes()[..end], false, b"", &mut BytesMut::new());
            assert_eq!(read, Ok(Read::Partial), "{end} bytes");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(MAX_ANSWER_HEAD));
        assert!(read(endless.as_bytes(), false, b"", &mut BytesMut::new()).is_err());
    }

    #[test]
    fn many_fields_are_read_and_too_many_are_not() {
        let with = |n: usize| {
            let fields: String = (0..n).map(|i| format!("x-{i}: {i}\r\n")).collect();
            answer(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), false)
        };
        assert!(with(100).is_ok());
        assert!(with(MAX_FIELDS + 1).is_err());
    }
}
