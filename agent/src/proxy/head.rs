//! The heads of requests and answers as they travel between agents: a fixed prefix, then the header
//! fields as HTTP/1.1 field lines.
//!
//! Field lines are what both edges speak mostly, so that a head crosses the mesh by being copied, not by
//! being taken apart and put together. They come from a peer, who may be of another opinion on what a line
//! is: whoever writes them to an application or a client has to have them read by [`Fields::parse`] first,
//! which takes nothing that RFC 9112 section 5 does not allow.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hearth_proto::ids::ServiceName;
use http::{HeaderMap, HeaderName, HeaderValue};

/// More fields than this are refused, at every edge.
pub(crate) const MAX_FIELDS: usize = 256;

/// How the request's body comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyKind {
    /// There is none.
    None,
    /// It follows at once.
    Inline,
    /// It follows after `GO`.
    AfterGo,
}

/// Header fields: lines of `name: value`, each ended by CR LF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(Bytes);

/// Why something that a peer sent is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} that cannot be read")]
pub(crate) struct BadHead(pub(crate) &'static str);

impl Fields {
    /// Takes lines as they are, the empty one at their end included; they are not read yet.
    pub(crate) fn unread(lines: Bytes) -> Self {
        Self(lines)
    }

    /// The lines, with the empty one at their end; nothing at all where there is no field.
    pub(crate) fn lines(&self) -> &[u8] {
        &self.0
    }

    /// Reads the lines, strictly, and hands each field to `take`.
    pub(crate) fn parse(&self, take: impl FnMut(&str, &[u8])) -> Result<(), BadHead> {
        parse_lines(&self.0, take)
    }
}

/// Reads field lines, the empty one at their end included, strictly, and hands each field to `take`.
pub(crate) fn parse_lines(lines: &[u8], take: impl FnMut(&str, &[u8])) -> Result<(), BadHead> {
    if lines.is_empty() {
        return Ok(());
    }
    if has_bare_lf(lines) {
        return Err(BadHead("a header field"));
    }
    // Most heads have few fields; room for many is only cleared for those that need it.
    match read::<32>(lines, take) {
        Ok(done) => done,
        Err(take) => read::<MAX_FIELDS>(lines, take).unwrap_or(Err(BadHead("too many fields"))),
    }
}

/// Reads at most `N` fields. `Err` gives `take` back, unused: there are more.
fn read<const N: usize>(
    lines: &[u8],
    mut take: impl FnMut(&str, &[u8]),
) -> Result<Result<(), BadHead>, impl FnMut(&str, &[u8])> {
    let mut fields = [httparse::EMPTY_HEADER; N];
    match httparse::parse_headers(lines, &mut fields) {
        Ok(httparse::Status::Complete((end, fields))) if end == lines.len() => {
            fields.iter().for_each(|f| take(f.name, f.value));
            Ok(Ok(()))
        }
        Err(httparse::Error::TooManyHeaders) => Err(take),
        _ => Ok(Err(BadHead("a header field"))),
    }
}

/// A line that ends with LF alone: some take it for the end of a line and some do not (RFC 9112 section
/// 2.2), so nobody gets to see it.
pub(crate) fn has_bare_lf(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        if map.is_empty() {
            return Self::default();
        }
        let room = map.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum::<usize>() + 2;
        let mut lines = BytesMut::with_capacity(room);
        for (name, value) in map {
            put_field(&mut lines, name.as_str(), value.as_bytes());
        }
        lines.put_slice(b"\r\n");
        Self(lines.freeze())
    }
}

/// Appends one field line.
pub(crate) fn put_field(lines: &mut BytesMut, name: &str, value: &[u8]) {
    lines.put_slice(name.as_bytes());
    lines.put_slice(b": ");
    lines.put_slice(value);
    lines.put_slice(b"\r\n");
}

impl TryFrom<&Fields> for HeaderMap {
    type Error = BadHead;
    fn try_from(fields: &Fields) -> Result<Self, BadHead> {
        let mut map = HeaderMap::new();
        let mut bad = false;
        fields.parse(|name, value| {
            match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
                (Ok(name), Ok(value)) => drop(map.append(name, value)),
                _ => bad = true,
            }
        })?;
        if bad { Err(BadHead("a header field")) } else { Ok(map) }
    }
}

/// What a caller asks for. Who it is, its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    /// The service it calls.
    pub(crate) service: ServiceName,
    /// The instance on the owner's host.
    pub(crate) instance: u16,
    /// Microseconds left until the caller gives up.
    pub(crate) left_us: u64,
    /// How often the request was tried before, wherever: who failed more often goes first.
    pub(crate) attempts: u8,
    /// How the body comes.
    pub(crate) body: BodyKind,
    /// Its length where it is known.
    pub(crate) length: Option<u64>,
    /// HTTP method; empty for opaque bytes.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// The authority the client addressed.
    pub(crate) authority: String,
    /// What the connection is to become (RFC 9110 section 7.8, RFC 8441 section 4), empty for nothing.
    pub(crate) upgrade: String,
    /// Header fields, those of single hops removed.
    pub(crate) fields: Fields,
}

/// No length is known.
const UNKNOWN: u64 = u64::MAX;

/// The time that is left and the attempts made before share eight bytes, so that heads are read alike by
/// agents that know nothing of attempts: to them a repeated request has time without end. The lower 56 bits
/// hold two thousand years.
const LEFT_BITS: u32 = 56;
const LEFT_MOST: u64 = (1 << LEFT_BITS) - 1;

/// What stands in a head for the time that is left after so many attempts.
pub(crate) fn left_after(left_us: u64, attempts: u8) -> u64 {
    left_us.min(LEFT_MOST) | (u64::from(attempts) << LEFT_BITS)
}

/// The parts of a request's head as they stand in the bytes of the one or the other edge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadParts<'a> {
    pub(crate) service: &'a ServiceName,
    pub(crate) instance: u16,
    pub(crate) left_us: u64,
    pub(crate) attempts: u8,
    pub(crate) body: BodyKind,
    pub(crate) length: Option<u64>,
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) upgrade: &'a str,
}

/// Appends all of a head but its fields, whose lines follow as they are.
pub(crate) fn put_request(out: &mut BytesMut, head: &HeadParts<'_>) {
    let short = |text: &str| u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.put_u16(head.instance);
    out.put_u64(left_after(head.left_us, head.attempts));
    out.put_u8(match head.body {
        BodyKind::None => 0,
        BodyKind::Inline => 1,
        BodyKind::AfterGo => 2,
    });
    out.put_u64(head.length.unwrap_or(UNKNOWN));
    // Proof of the lengths: names are labels of at most 63 bytes; `RequestHead::fits` and the edges hold
    // the rest below what a head may have.
    out.put_u8(short(head.service.as_str()));
    out.put_u8(short(head.method));
    out.put_u8(short(head.upgrade));
    out.put_u16(u16::try_from(head.authority.len()).unwrap_or(u16::MAX));
    out.put_u32(u32::try_from(head.target.len()).unwrap_or(u32::MAX));
    for text in [head.service.as_str(), head.method, head.upgrade, head.authority, head.target] {
        out.put_slice(text.as_bytes());
    }
}

/// Bytes of a request's head in front of its texts.
const FIXED: usize = 2 + 8 + 1 + 8 + 1 + 1 + 1 + 2 + 4;

impl RequestHead {
    /// Whether every part has a length that can be written.
    pub(crate) fn fits(&self) -> bool {
        let short = usize::from(u8::MAX);
        self.method.len() <= short
            && self.upgrade.len() <= short
            && self.authority.len() <= usize::from(u16::MAX)
    }

    fn parts(&self) -> HeadParts<'_> {
        HeadParts {
            service: &self.service,
            instance: self.instance,
            left_us: self.left_us,
            attempts: self.attempts,
            body: self.body,
            length: self.length,
            method: &self.method,
            target: &self.target,
            authority: &self.authority,
            upgrade: &self.upgrade,
        }
    }

    /// Appends it.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        put_request(out, &self.parts());
        out.put_slice(self.fields.lines());
    }

    /// The same, borrowed.
    #[cfg(test)]
    pub(crate) fn borrowed(&self) -> HeadRef<'_> {
        HeadRef {
            service: self.service.as_str(),
            instance: self.instance,
            left_us: self.left_us,
            attempts: self.attempts,
            body: self.body,
            length: self.length,
            method: &self.method,
            target: &self.target,
            authority: &self.authority,
            upgrade: &self.upgrade,
            lines: self.fields.lines(),
        }
    }

    /// Reads what [`RequestHead::put`] wrote. The fields are not read yet.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, BadHead> {
        let head = HeadRef::read(bytes)?;
        Ok(Self {
            service: ServiceName::parse(head.service).map_err(|_| BAD)?,
            instance: head.instance,
            left_us: head.left_us,
            attempts: head.attempts,
            body: head.body,
            length: head.length,
            method: head.method.to_owned(),
            target: head.target.to_owned(),
            authority: head.authority.to_owned(),
            upgrade: head.upgrade.to_owned(),
            fields: Fields::unread(bytes.slice_ref(head.lines)),
        })
    }
}

const BAD: BadHead = BadHead("a request head");

/// A request's head as it stands in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadRef<'a> {
    /// Not known to be a name yet.
    pub(crate) service: &'a str,
    pub(crate) instance: u16,
    pub(crate) left_us: u64,
    pub(crate) attempts: u8,
    pub(crate) body: BodyKind,
    pub(crate) length: Option<u64>,
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) upgrade: &'a str,
    /// The lines of the fields, not read yet.
    pub(crate) lines: &'a [u8],
}

impl<'a> HeadRef<'a> {
    /// Reads what [`RequestHead::put`] wrote.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, BadHead> {
        let (mut fixed, mut texts) = bytes.split_at_checked(FIXED).ok_or(BAD)?;
        let instance = fixed.get_u16();
        let left = fixed.get_u64();
        // Proof: what is left of a shift by 56 fits a byte.
        let (left_us, attempts) = (left & LEFT_MOST, (left >> LEFT_BITS) as u8);
        let body = match fixed.get_u8() {
            0 => BodyKind::None,
            1 => BodyKind::Inline,
            2 => BodyKind::AfterGo,
            _ => return Err(BAD),
        };
        let length = Some(fixed.get_u64()).filter(|l| *l != UNKNOWN);
        let lengths = [fixed.get_u8(), fixed.get_u8(), fixed.get_u8()].map(usize::from);
        let [service, method, upgrade] = lengths;
        let authority = usize::from(fixed.get_u16());
        let target = usize::try_from(fixed.get_u32()).map_err(|_| BAD)?;
        let mut text = |length: usize| {
            let (text, rest) = texts.split_at_checked(length).ok_or(BAD)?;
            texts = rest;
            std::str::from_utf8(text).map_err(|_| BAD)
        };
        let (service, method, upgrade) = (text(service)?, text(method)?, text(upgrade)?);
        let (authority, target) = (text(authority)?, text(target)?);
        let lines = texts;
        Ok(Self {
            service,
            instance,
            left_us,
            attempts,
            body,
            length,
            method,
            target,
            authority,
            upgrade,
            lines,
        })
    }
}

/// The application's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    /// HTTP status.
    pub(crate) status: u16,
    /// The length of the body where the application told it.
    pub(crate) length: Option<u64>,
    /// Header fields, those of single hops and of framing removed.
    pub(crate) fields: Fields,
}

impl ResponseHead {
    /// Bytes in front of the fields.
    pub(crate) const FIXED: usize = 2 + 8;

    /// Whether the answer itself is still to come.
    pub(crate) fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    /// Appends all of it but its fields.
    pub(crate) fn put_start(out: &mut BytesMut, status: u16, length: Option<u64>) {
        out.put_u16(status);
        out.put_u64(length.unwrap_or(UNKNOWN));
    }

    /// Appends it.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        Self::put_start(out, self.status, self.length);
        out.put_slice(self.fields.lines());
    }

    /// Reads what [`ResponseHead::put`] wrote. The fields are not read yet.
    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, BadHead> {
        if bytes.len() < Self::FIXED {
            return Err(BadHead("an answer's head"));
        }
        let status = bytes.get_u16();
        let length = Some(bytes.get_u64()).filter(|l| *l != UNKNOWN);
        Ok(Self { status, length, fields: Fields::unread(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &'static str) -> Fields {
        Fields::unread(Bytes::from_static(lines.as_bytes()))
    }

    fn head() -> RequestHead {
        RequestHead {
            service: ServiceName::parse("ledger").unwrap(),
            instance: 3,
            left_us: 15_000_000,
            attempts: 2,
            body: BodyKind::AfterGo,
            length: Some(7),
            method: "POST".into(),
            target: "/a?b=c".into(),
            authority: "ledger.mesh".into(),
            upgrade: String::new(),
            fields: fields("x-a: 1\r\nx-b: 2\r\n\r\n"),
        }
    }

    fn written(head: &RequestHead) -> Bytes {
        let mut out = BytesMut::new();
        head.put(&mut out);
        out.freeze()
    }

    #[test]
    fn a_head_comes_back_as_it_was_written() {
        for length in [None, Some(0), Some(u64::MAX - 1)] {
            let head = RequestHead { length, ..head() };
            assert_eq!(RequestHead::decode(&written(&head)), Ok(head));
        }
        let answer = ResponseHead { status: 404, length: Some(3), fields: fields("a: b\r\n\r\n") };
        let mut out = BytesMut::new();
        answer.put(&mut out);
        assert_eq!(ResponseHead::decode(out.freeze()), Ok(answer));
    }

    /// What an agent that knows nothing of attempts writes, and what it reads of ours.
    #[test]
    fn a_first_attempt_stands_in_a_head_as_it_did_before_there_were_attempts_in_it() {
        let first = written(&RequestHead { attempts: 0, ..head() });
        assert_eq!(first[2..10], 15_000_000u64.to_be_bytes());
        assert_eq!(first.len(), written(&head()).len());
        let left = u64::from_be_bytes(written(&head())[2..10].try_into().unwrap());
        assert!(left > 15_000_000, "a later one has at least its time");
        let endless = RequestHead { left_us: u64::MAX, attempts: 0, ..head() };
        let read = RequestHead::decode(&written(&endless)).unwrap();
        assert_eq!((read.left_us, read.attempts), (LEFT_MOST, 0));
    }

    #[test]
    fn a_head_cut_short_anywhere_before_its_fields_is_refused() {
        let whole = written(&RequestHead { fields: Fields::default(), ..head() });
        for end in 0..whole.len() {
            assert!(RequestHead::decode(&whole.slice(..end)).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn field_lines_that_http_does_not_allow_are_refused() {
        for bad in [
            "x-a: 1\n\r\n",
            "x-a: 1\r\n\n",
            "x-a : 1\r\n\r\n",
            "x-a: 1\r\n b\r\n\r\n",
            "x-a: \0\r\n\r\n",
            "x a: 1\r\n\r\n",
            "x-a: 1\r\n",
            "x-a: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            ": 1\r\n\r\n",
            "x-a: 1\rb: 2\r\n\r\n",
        ] {
            assert!(fields(bad).parse(|_, _| ()).is_err(), "{bad:?} was taken");
            assert!(HeaderMap::try_from(&fields(bad)).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn many_fields_are_read_and_too_many_are_not() {
        let many = |n: usize| {
            let lines: String = (0..n).map(|i| format!("x-{i}: {i}\r\n")).collect();
            Fields::unread(Bytes::from(lines + "\r\n"))
        };
        for n in [1, 32, 33, MAX_FIELDS] {
            let mut seen = 0;
            many(n).parse(|_, _| seen += 1).unwrap();
            assert_eq!(seen, n);
        }
        assert!(many(MAX_FIELDS + 1).parse(|_, _| ()).is_err());
    }
}
