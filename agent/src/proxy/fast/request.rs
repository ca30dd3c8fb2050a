//! A client's HTTP/1.1 request as the fast path takes it: the plain majority, read in one pass. Pure.
//!
//! Plain is what leaves no room for two opinions: HTTP/1.1, one valid `Host`, a target in origin form that
//! is canonical already, no body or one announced by a single `Content-Length`, nothing to negotiate
//! (`Expect`, `Upgrade`, `TE`, `Connection` beyond `keep-alive` and `close`). Everything else is
//! [`Read::Unusual`] and goes to hyper as it came, with all the rules for it. So this never has to decide
//! what a strange message means, only to recognise one that is not; where the two would differ, this is
//! the stricter.

use std::mem::MaybeUninit;
use std::net::IpAddr;

use bytes::{BufMut, BytesMut};
use httparse::{Header, Status};

use super::super::head::{has_bare_lf, put_field};
use super::super::headers::is_traceparent;
use super::super::safety::MAX_REPLAY;
use super::super::target::valid_authority;

/// Requests with more fields are unusual.
pub(super) const MAX_PLAIN_FIELDS: usize = 48;
/// Longer heads are unusual.
pub(super) const MAX_PLAIN_HEAD: usize = 16 * 1024;
/// Longer targets and hosts are unusual.
const MAX_TEXT: usize = 8 * 1024;
const MAX_HOST: usize = 255;

/// What stands at the beginning of what a client sent.
pub(super) enum Read<'b, 'h> {
    /// Not a whole head yet.
    Partial,
    /// Nothing for the fast path.
    Unusual,
    /// A plain request.
    Plain(Plain<'b, 'h>),
}

/// A plain request's head.
pub(super) struct Plain<'b, 'h> {
    pub(super) method: &'b str,
    /// Path and query, in canonical form.
    pub(super) target: &'b str,
    pub(super) host: &'b str,
    /// Length of the body.
    pub(super) length: u64,
    /// The client wants the connection closed after the answer.
    pub(super) close: bool,
    /// Length of the head.
    pub(super) head: usize,
    /// It carries ids of its own.
    has_id: bool,
    has_trace: bool,
    has_proto: bool,
    fields: &'h [Header<'b>],
}

/// Room for the fields of a plain request.
pub(super) type Room<'b> = [MaybeUninit<Header<'b>>; MAX_PLAIN_FIELDS];

/// Reads the head of a request; `room` is where its fields are noted.
pub(super) fn read<'b, 'h>(buffer: &'b [u8], room: &'h mut Room<'b>) -> Read<'b, 'h> {
    let mut request = httparse::Request::new(&mut []);
    let head = match request.parse_with_uninit_headers(buffer, room) {
        Ok(Status::Complete(head)) if head <= MAX_PLAIN_HEAD => head,
        Ok(Status::Partial) if buffer.len() < MAX_PLAIN_HEAD => return Read::Partial,
        _ => return Read::Unusual,
    };
    let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version)
    else {
        return Read::Unusual;
    };
    // The line of the request too must be ended as it should be, and nothing stand before it.
    if has_bare_lf(&buffer[..head])
        || !buffer.starts_with(method.as_bytes())
        || !is_plain_method(method)
        || !is_canonical(target)
    {
        return Read::Unusual;
    }
    let mut plain = Plain {
        method,
        target,
        host: "",
        length: 0,
        close: false,
        head,
        has_id: false,
        has_trace: false,
        has_proto: false,
        fields: request.headers,
    };
    let mut seen_length = false;
    for field in plain.fields {
        match kind(field.name) {
            Kind::Host if plain.host.is_empty() => match host(field.value) {
                Some(host) => plain.host = host,
                None => return Read::Unusual,
            },
            Kind::Length if !seen_length => match length(field.value) {
                Some(length) => (plain.length, seen_length) = (length, true),
                None => return Read::Unusual,
            },
            Kind::Connection => match connection(field.value) {
                Some(close) => plain.close |= close,
                None => return Read::Unusual,
            },
            Kind::Id => plain.has_id = true,
            Kind::Trace if !plain.has_trace && is_traceparent(field.value) => {
                plain.has_trace = true;
            }
            Kind::Proto => plain.has_proto = true,
            Kind::KeepAlive | Kind::For | Kind::Other => {}
            Kind::Host | Kind::Length | Kind::Trace | Kind::Unusual => return Read::Unusual,
        }
    }
    if plain.host.is_empty() || plain.length > MAX_REPLAY {
        return Read::Unusual;
    }
    Read::Plain(plain)
}

/// What a field means to the fast path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Host,
    Length,
    Connection,
    KeepAlive,
    Id,
    Trace,
    For,
    Proto,
    /// Has to be negotiated, or changes what the message is.
    Unusual,
    Other,
}

fn kind(name: &str) -> Kind {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is("te") => Kind::Unusual,
        3 if is("via") => Kind::Unusual,
        4 if is("host") => Kind::Host,
        6 if is("expect") => Kind::Unusual,
        7 if is("upgrade") || is("trailer") => Kind::Unusual,
        9 if is("forwarded") => Kind::Unusual,
        10 if is("connection") => Kind::Connection,
        10 if is("keep-alive") => Kind::KeepAlive,
        11 if is("traceparent") => Kind::Trace,
        11 if is("hearth-term") => Kind::Unusual,
        12 if is("max-forwards") => Kind::Unusual,
        12 if is("x-request-id") => Kind::Id,
        14 if is("content-length") => Kind::Length,
        14 if is("http2-settings") => Kind::Unusual,
        15 if is("x-forwarded-for") => Kind::For,
        16 if is("proxy-connection") => Kind::KeepAlive,
        17 if is("transfer-encoding") => Kind::Unusual,
        17 if is("x-forwarded-proto") => Kind::Proto,
        _ => Kind::Other,
    }
}

/// Methods that mean to us what they say; the others are hyper's.
fn is_plain_method(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS")
}

/// A path and query that normalisation would not touch.
fn is_canonical(target: &str) -> bool {
    let bytes = target.as_bytes();
    if bytes.first() != Some(&b'/') || bytes.len() > MAX_TEXT {
        return false;
    }
    let mut before = 0;
    for (n, &byte) in bytes.iter().enumerate() {
        match byte {
            b'?' => {
                return bytes[n..]
                    .iter()
                    .all(|b| matches!(b, b'!'..=b'~') && !b"#\\\"<>".contains(b));
            }
            b'/' | b'.' if before == b'/' => return false,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {}
            b'/' | b'.' | b'-' | b'_' | b'~' | b'=' | b'+' | b',' | b':' | b'@' | b'&' | b'!'
            | b'$' | b'\'' | b'(' | b')' | b'*' | b';' => {}
            _ => return false,
        }
        before = byte;
    }
    true
}

fn host(value: &[u8]) -> Option<&str> {
    if value.len() > MAX_HOST {
        return None;
    }
    std::str::from_utf8(value).ok().filter(|host| valid_authority(host))
}

/// Digits only, few enough not to overflow.
pub(super) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value
        .iter()
        .try_fold(0_u64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0')))
}

/// Whether the connection is to be closed; `None` for anything that is neither `close` nor `keep-alive`.
pub(super) fn connection(value: &[u8]) -> Option<bool> {
    if value.eq_ignore_ascii_case(b"keep-alive") {
        Some(false)
    } else if value.eq_ignore_ascii_case(b"close") {
        Some(true)
    } else {
        None
    }
}

impl Plain<'_, '_> {
    /// Its header fields.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| (field.name, field.value))
    }

    /// Appends the fields as they go on, with what an intermediary adds. `via` is our own line, whole.
    pub(super) fn put_fields(
        &self,
        out: &mut BytesMut,
        via: &[u8],
        client: &str,
        random: impl Fn() -> u128,
    ) {
        out.reserve(self.head + 256);
        let mut chain = false;
        for field in self.fields {
            match kind(field.name) {
                Kind::Host | Kind::Length | Kind::Connection | Kind::KeepAlive => {}
                Kind::For => chain = true,
                _ => put_field(out, field.name, field.value),
            }
        }
        out.put_slice(via);
        out.put_slice(b"x-forwarded-for: ");
        if chain {
            for field in self.fields {
                if kind(field.name) == Kind::For {
                    out.put_slice(field.value);
                    out.put_slice(b", ");
                }
            }
        }
        out.put_slice(client.as_bytes());
        out.put_slice(b"\r\n");
        if !self.has_proto {
            out.put_slice(b"x-forwarded-proto: http\r\n");
        }
        if !self.has_id {
            out.put_slice(b"x-request-id: ");
            put_hex(out, &random().to_be_bytes());
            out.put_slice(b"\r\n");
        }
        if !self.has_trace {
            // All-zero ids are invalid (W3C Trace Context section 3.2.2). Not sampled: nobody asked for it.
            let (trace, span) = (random().max(1), random());
            let span = u64::try_from(span & u128::from(u64::MAX)).unwrap_or(1).max(1);
            out.put_slice(b"traceparent: 00-");
            put_hex(out, &trace.to_be_bytes());
            out.put_slice(b"-");
            put_hex(out, &span.to_be_bytes());
            out.put_slice(b"-00\r\n");
        }
        out.put_slice(b"\r\n");
    }
}

fn put_hex(out: &mut BytesMut, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.put_u8(DIGITS[usize::from(byte >> 4)]);
        out.put_u8(DIGITS[usize::from(byte & 15)]);
    }
}

/// An address as it stands in `X-Forwarded-For`.
pub(super) fn text_of(client: IpAddr) -> String {
    client.to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room<'b>() -> Room<'b> {
        [MaybeUninit::uninit(); MAX_PLAIN_FIELDS]
    }

    const HEAD: &str = "GET /a?b=c HTTP/1.1\r\nHost: ledger.mesh\r\nAccept: */*\r\n\r\n";

    fn verdict(text: &str) -> &'static str {
        match read(text.as_bytes(), &mut room()) {
            Read::Partial => "partial",
            Read::Unusual => "unusual",
            Read::Plain(_) => "plain",
        }
    }

    #[test]
    fn a_head_cut_short_anywhere_is_partial() {
        for end in 0..HEAD.len() {
            assert_eq!(verdict(&HEAD[..end]), "partial", "{end} bytes");
        }
        assert_eq!(verdict(HEAD), "plain");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_unusual() {
        let with = |line: &str| format!("POST /a HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n");
        for line in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: +1",
            "Content-Length: 1, 1",
            "Content-Length: 0x1",
            "Content-Length: ",
            "Content-Length: 1234567890123456789",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Host: y",
            "Host: x",
            "Expect: 100-continue",
            "Upgrade: websocket",
            "Connection: upgrade",
            "Connection: close, x-hop",
            "TE: trailers",
            "Via: 1.1 a",
            "Max-Forwards: 9",
            "Forwarded: for=1.2.3.4",
            "X-A: 1\nX-B: 2",
            "X-A: 1\r\n folded",
            "X-A : 1",
        ] {
            assert_eq!(verdict(&with(line)), "unusual", "{line:?}");
        }
        for head in [
            "GET /a HTTP/1.0\r\nHost: x\r\n\r\n",
            "GET /a HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost:\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a:b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a:70000\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: [::1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: x\r\nTraceparent: 00-a-b-01\r\n\r\n",
            "GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
            "get /a HTTP/1.1\r\nHost: x\r\n\r\n",
            "\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET  /a HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /a HTTP/1.1\nHost: x\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: x\n\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            assert_eq!(verdict(head), "unusual", "{head:?}");
        }
    }

    #[test]
    fn a_target_that_normalisation_would_touch_is_unusual() {
        for (target, expected) in [
            ("/", true),
            ("/a/b.c-d_e~f", true),
            ("/a?x=/../%2e%20", true),
            ("/a//b", false),
            ("/a/./b", false),
            ("/a/../b", false),
            ("/.well-known", false),
            ("/a%2fb", false),
            ("/a\\b", false),
            ("/a?b#c", false),
            ("/a?b\"c", false),
            ("/a?b<c", false),
            ("/a?b>c", false),
            ("/a?b\\c", false),
            ("/a#b", false),
            ("/\u{e9}", false),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(is_canonical(target), expected, "{target:?}");
        }
    }

    #[test]
    fn fields_go_on_without_those_of_the_hop_and_with_ours() {
        let text = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nKeep-Alive: 5\r\nX-A: 1\r\n\
                    x-forwarded-for: 9.9.9.9\r\nContent-Length: 0\r\n\r\n";
        let mut room = room();
        let Read::Plain(plain) = read(text.as_bytes(), &mut room) else { panic!("not plain") };
        assert!(plain.close);
        let mut out = BytesMut::new();
        plain.put_fields(&mut out, b"via: 1.1 web-1\r\n", "127.0.0.1", || 7);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            "X-A: 1\r\nvia: 1.1 web-1\r\nx-forwarded-for: 9.9.9.9, 127.0.0.1\r\n\
             x-forwarded-proto: http\r\nx-request-id: 00000000000000000000000000000007\r\n\
             traceparent: 00-00000000000000000000000000000007-0000000000000007-00\r\n\r\n"
        );
    }

    #[test]
    fn ids_that_came_with_the_request_are_kept() {
        let text = "GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\nTraceparent: 00-\
                    4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";
        let mut room = room();
        let Read::Plain(plain) = read(text.as_bytes(), &mut room) else { panic!("not plain") };
        let mut out = BytesMut::new();
        plain.put_fields(&mut out, b"", "::1", || 0);
        let out = std::str::from_utf8(&out).unwrap();
        assert_eq!(out.matches("equest-").count(), 1, "{out}");
        assert_eq!(out.matches("parent").count(), 1, "{out}");
    }
}
