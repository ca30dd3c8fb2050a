//! A client's HTTP/1.1 bytes, followed from message to message before hyper sees them. Pure.
//!
//! hyper reads what most servers read; this reads what all of them read. A head goes on only when it is
//! complete, every line of it is one that RFC 9112 allows, its target has one meaning and its length is
//! certain. Behind it the body is counted, so that the next head is looked for where hyper looks for it.
//! What comes after a request to upgrade is held until the answer says whose it is.

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;

use super::framing::{Framing, Reading};
use super::head::MAX_FIELDS;
use super::target::Target;

/// Largest head of a client's request.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
/// Largest line in front of a chunk: its size and extensions that nobody uses.
const MAX_CHUNK_LINE: usize = 1024;
/// Largest trailers.
const MAX_TRAILERS: usize = 16 * 1024;
/// Empty lines before a request: some clients end a body with one that does not belong to it.
const MAX_BLANK: usize = 8;
/// What a client of HTTP/2 with prior knowledge begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Why a request is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What the client is told.
    pub(crate) status: StatusCode,
    /// In words, beginning with "its" or "it".
    pub(crate) why: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }

    fn bad(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why)
    }
}

/// Where in the stream of messages the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the very beginning: it may be HTTP/2.
    Start,
    /// Within a head, whose lines were looked at up to `seen`.
    Head { seen: usize },
    /// So many bytes of a body are left.
    Body { left: u64 },
    /// In the line in front of a chunk.
    ChunkSize,
    /// So many bytes of a chunk are left, its line end included.
    Chunk { left: u64 },
    /// Behind the last chunk.
    Trailers { seen: usize },
    /// Behind a request to upgrade that is not answered.
    Held,
    /// Bytes of another protocol.
    Opaque,
}

/// Follows one connection.
#[derive(Debug)]
pub(crate) struct Scan {
    place: Place,
    /// The message that is being read asks to upgrade.
    upgrade: bool,
    /// Empty lines before the message.
    blank: usize,
}

/// How far a look at the bytes got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// All is passed on, or waits for more.
    More,
    /// It is held until the answer to an upgrade is known.
    Held,
    /// The head is refused: nothing of it was passed on.
    Head(Refusal),
    /// The body is not one: the request it belongs to is under way.
    Body(Refusal),
}

impl Scan {
    pub(crate) fn new() -> Self {
        Self { place: Place::Start, upgrade: false, blank: 0 }
    }

    /// Whether a head has begun and is not complete; `raw` is what has not been passed on.
    pub(crate) fn within_head(&self, raw: &[u8]) -> bool {
        matches!(self.place, Place::Start | Place::Head { .. }) && !raw.is_empty()
    }

    /// The upgrade was answered: `accepted`, what follows are bytes of another protocol.
    pub(crate) fn decide(&mut self, accepted: bool) {
        self.upgrade = false;
        if accepted {
            self.place = Place::Opaque;
        } else if self.place == Place::Held {
            self.place = Place::Head { seen: 0 };
        }
    }

    /// Moves what may be passed on from `raw` to `out`.
    pub(crate) fn look(&mut self, raw: &mut BytesMut, out: &mut BytesMut) -> Look {
        loop {
            let before = (self.place, raw.len());
            let step = match self.place {
                Place::Start => self.start(raw),
                Place::Head { seen } => self.head(raw, out, seen),
                Place::Body { left } => {
                    let left = pass(raw, out, left);
                    self.place = if left == 0 { self.behind() } else { Place::Body { left } };
                    Ok(())
                }
                Place::ChunkSize => self.chunk_size(raw, out).map_err(Look::Body),
                Place::Chunk { left } => self.chunk(raw, out, left).map_err(Look::Body),
                Place::Trailers { seen } => self.trailers(raw, out, seen).map_err(Look::Body),
                Place::Held => return Look::Held,
                Place::Opaque => {
                    out.unsplit(raw.split());
                    Ok(())
                }
            };
            if let Err(end) = step {
                return end;
            }
            if raw.is_empty() || before == (self.place, raw.len()) {
                return if self.place == Place::Held { Look::Held } else { Look::More };
            }
        }
    }

    fn behind(&self) -> Place {
        if self.upgrade { Place::Held } else { Place::Head { seen: 0 } }
    }

    fn start(&mut self, raw: &BytesMut) -> Result<(), Look> {
        let common = raw.len().min(PREFACE.len());
        if raw[..common] != PREFACE[..common] {
            self.place = Place::Head { seen: 0 };
        } else if common == PREFACE.len() {
            self.place = Place::Opaque;
        }
        Ok(())
    }

    fn head(&mut self, raw: &mut BytesMut, out: &mut BytesMut, seen: usize) -> Result<(), Look> {
        match raw.first() {
            // RFC 9112 section 2.2: an empty line before a request is to be ignored.
            Some(b'\r') if raw.starts_with(b"\r\n") => {
                self.blank += 1;
                if self.blank > MAX_BLANK {
                    return Err(Look::Head(Refusal::bad("it begins with empty lines without end")));
                }
                raw.advance(2);
                return Ok(());
            }
            Some(b'\r' | b'\n' | b'!'..=b'~') | None => {}
            // TLS, for one; waiting for its end of line would be long.
            Some(_) => return Err(Look::Head(Refusal::bad("it does not begin like HTTP/1.1"))),
        }
        let end = match block_end(raw, seen).map_err(Look::Head)? {
            Ok(end) if end <= MAX_HEAD => end,
            Err(seen) if raw.len() <= MAX_HEAD => {
                self.place = Place::Head { seen };
                return Ok(());
            }
            _ => return Err(Look::Head(too_large(raw))),
        };
        let head = check(&raw[..end]).map_err(Look::Head)?;
        let bytes = raw.split_to(end);
        match &head.whole_server {
            Some(authority) => out.extend_from_slice(&asterisk(authority, &bytes)),
            None => out.unsplit(bytes),
        }
        (self.upgrade, self.blank) = (head.upgrade, 0);
        self.place = match head.framing {
            Framing::None => self.behind(),
            Framing::Length(left) => Place::Body { left },
            Framing::Chunked => Place::ChunkSize,
        };
        Ok(())
    }

    fn chunk_size(&mut self, raw: &mut BytesMut, out: &mut BytesMut) -> Result<(), Refusal> {
        let Some(end) = raw.iter().take(MAX_CHUNK_LINE).position(|b| *b == b'\n') else {
            return if raw.len() < MAX_CHUNK_LINE {
                Ok(())
            } else {
                Err(Refusal::bad("its chunks have extensions that are too long"))
            };
        };
        let size = chunk_size(&raw[..=end])
            .ok_or_else(|| Refusal::bad("the size of one of its chunks cannot be read"))?;
        out.unsplit(raw.split_to(end + 1));
        self.place = match size {
            0 => Place::Trailers { seen: 0 },
            // Proof: sizes have at most 15 digits.
            size => Place::Chunk { left: size + 2 },
        };
        Ok(())
    }

    fn chunk(&mut self, raw: &mut BytesMut, out: &mut BytesMut, left: u64) -> Result<(), Refusal> {
        if left > 2 {
            self.place = Place::Chunk { left: pass(raw, out, left - 2) + 2 };
            return Ok(());
        }
        let expected = if left == 2 { b'\r' } else { b'\n' };
        match raw.first() {
            None => return Ok(()),
            Some(byte) if *byte == expected => {}
            Some(_) => return Err(Refusal::bad("one of its chunks is longer than it says")),
        }
        let left = pass(raw, out, 1).saturating_add(left - 1);
        self.place = if left == 0 { Place::ChunkSize } else { Place::Chunk { left } };
        Ok(())
    }

    fn trailers(
        &mut self,
        raw: &mut BytesMut,
        out: &mut BytesMut,
        seen: usize,
    ) -> Result<(), Refusal> {
        if raw.starts_with(b"\r\n") {
            out.unsplit(raw.split_to(2));
            self.place = self.behind();
            return Ok(());
        }
        let end = match block_end(raw, seen)? {
            Ok(end) if end <= MAX_TRAILERS => end,
            Err(seen) if raw.len() <= MAX_TRAILERS => {
                self.place = Place::Trailers { seen };
                return Ok(());
            }
            _ => return Err(Refusal::bad("its trailers are too large")),
        };
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        if !matches!(
            httparse::parse_headers(&raw[..end], &mut fields),
            Ok(httparse::Status::Complete((n, _))) if n == end
        ) {
            return Err(Refusal::bad("its trailers cannot be read"));
        }
        out.unsplit(raw.split_to(end));
        self.place = self.behind();
        Ok(())
    }
}

/// Moves at most `left` bytes and returns what is left then.
fn pass(raw: &mut BytesMut, out: &mut BytesMut, left: u64) -> u64 {
    let now = usize::try_from(left).unwrap_or(usize::MAX).min(raw.len());
    out.unsplit(raw.split_to(now));
    left - now as u64
}

/// The end of a block of lines, its empty line included, or how far was looked.
fn block_end(raw: &[u8], seen: usize) -> Result<Result<usize, usize>, Refusal> {
    let mut at = seen;
    while let Some(found) = raw[at..].iter().position(|b| *b == b'\n') {
        let end = at + found;
        if end == 0 || raw[end - 1] != b'\r' {
            return Err(Refusal::bad("one of its lines ends with LF alone"));
        }
        if end >= 3 && raw[end - 2] == b'\n' {
            return Ok(Ok(end + 1));
        }
        at = end + 1;
    }
    Ok(Err(at))
}

fn too_large(raw: &[u8]) -> Refusal {
    if raw.iter().take(MAX_HEAD).any(|b| *b == b'\n') {
        let why = format!("its header fields are larger than {MAX_HEAD} bytes together");
        Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why)
    } else {
        let why = format!("its target is longer than {MAX_HEAD} bytes");
        Refusal::new(StatusCode::URI_TOO_LONG, why)
    }
}

/// What the scan has to know of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    framing: Framing,
    /// hyper may make another protocol of the connection.
    upgrade: bool,
    /// It asks a whole server, named by a URL without a path, and hyper would take that for its root.
    whole_server: Option<String>,
}

/// Reads a complete head.
fn check(bytes: &[u8]) -> Result<Head, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(n)) if n == bytes.len() => {}
        Ok(_) => return Err(Refusal::bad("its head cannot be read")),
        Err(httparse::Error::TooManyHeaders) => {
            let why = format!("it has more than {MAX_FIELDS} header fields");
            return Err(Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why));
        }
        Err(httparse::Error::Version) => {
            let why = "its version is neither HTTP/1.1 nor HTTP/1.0";
            return Err(Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, why));
        }
        Err(error) => return Err(Refusal::bad(format!("its head cannot be read: {error}"))),
    }
    // Proof: a head that is complete has all three.
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Refusal::bad("its head cannot be read"));
    };
    let is_11 = version == 1;
    let raw_target = target;
    let target = Target::parse(method, target).map_err(|e| Refusal::bad(e.to_string()))?;
    let mut reading = Reading::default();
    let mut upgrade = method == "CONNECT";
    let mut take = || {
        for field in &*request.headers {
            reading.field(field.name, field.value)?;
            upgrade |= is_11 && field.name.eq_ignore_ascii_case("upgrade");
        }
        reading.host(is_11, target.authority.is_some())?;
        reading.request(is_11)
    };
    match take() {
        Ok(framing) => {
            let whole = target.path == "*" && raw_target != "*";
            let whole_server = target.authority.filter(|_| whole).map(str::to_owned);
            Ok(Head { framing, upgrade, whole_server })
        }
        Err(bad) => Err(Refusal::new(bad.status(), bad.to_string())),
    }
}

/// The head of a request about a whole server, in the form that every server knows (RFC 9112 section
/// 3.2.4). Its lines were checked.
fn asterisk(authority: &str, head: &[u8]) -> Vec<u8> {
    let mut lines = head.split_inclusive(|b| *b == b'\n');
    let version = lines.next().and_then(|l| l.rsplit(|b| *b == b' ').next()).unwrap_or_default();
    let mut out = [b"OPTIONS * ", version, b"Host: ", authority.as_bytes(), b"\r\n"].concat();
    for line in lines {
        if !line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"host:")) {
            out.extend_from_slice(line);
        }
    }
    out
}

/// The size of a chunk, of its line with its end. Extensions are let through and not read.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extension) = line.split_at(digits);
    let fine = extension.iter().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..));
    if !(1..=15).contains(&digits.len()) || !fine || !matches!(extension.first(), None | Some(b';'))
    {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A request that stands for one that was refused: hyper has it answered in its turn and closes.
pub(crate) fn substitute() -> Bytes {
    Bytes::from_static(b"HEARTH-REFUSED / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

/// The method of [`substitute`].
pub(crate) const REFUSED: &str = "HEARTH-REFUSED";

#[cfg(test)]
mod tests;
