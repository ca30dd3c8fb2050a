//! A strict reader of HTTP/1 messages (RFC 9112), written for these tests alone: what it does not accept,
//! no agent may send.
//!
//! Pure. Reads heads whole and bodies in pieces of any size.

/// Heads longer than this are none.
const MAX_HEAD: usize = 4 << 20;

/// The start line and the fields of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The start line.
    pub line: String,
    /// Names in lower case, values without surrounding whitespace.
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// The values of a field, in order.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<String> {
        all(&self.fields, name)
    }

    /// The only value of a field; several are joined, as a list field's are.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let values = self.all(name);
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// Whether a list field has this member.
    #[must_use]
    pub fn lists(&self, name: &str, member: &str) -> bool {
        let members = self.get(name).unwrap_or_default().to_ascii_lowercase();
        members.split(',').any(|m| m.trim() == member)
    }

    /// The words of the start line.
    #[must_use]
    pub fn words(&self) -> Vec<&str> {
        self.line.split(' ').collect()
    }
}

/// The values of a field, in order.
#[must_use]
pub fn all(fields: &[(String, Vec<u8>)], name: &str) -> Vec<String> {
    let text = |v: &Vec<u8>| String::from_utf8_lossy(v).into_owned();
    fields.iter().filter(|(n, _)| n == name).map(|(_, v)| text(v)).collect()
}

/// What a beginning of bytes is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read<T> {
    /// Not enough of it yet.
    More,
    /// A whole one, and its length in bytes.
    Whole(T, usize),
    /// None, and why.
    Wrong(String),
}

/// Reads a head.
#[must_use]
pub fn head(bytes: &[u8]) -> Read<Head> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return match bytes.len() > MAX_HEAD {
            true => Read::Wrong("a head without end".into()),
            false => Read::More,
        };
    };
    let mut lines = split_lines(&bytes[..end]);
    let line = lines.next().unwrap_or_default();
    if let Some(byte) = line.iter().find(|b| control(**b)) {
        return Read::Wrong(format!("byte {byte:#04x} in the start line"));
    }
    let mut head = Head { line: text(line), fields: Vec::new() };
    for line in lines {
        match field(line) {
            Ok(field) => head.fields.push(field),
            Err(why) => return Read::Wrong(why),
        }
    }
    Read::Whole(head, end + 4)
}

fn split_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let end = bytes.windows(2).position(|two| two == b"\r\n");
        rest = end.map(|end| &bytes[end + 2..]);
        Some(&bytes[..end.unwrap_or(bytes.len())])
    })
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>), String> {
    let colon = line.iter().position(|b| *b == b':');
    let Some(colon) = colon else { return Err(format!("no colon in {:?}", text(line))) };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.is_empty() || !name.iter().all(|b| token(*b)) {
        return Err(format!("{:?} is no field name", text(name)));
    }
    if value.iter().any(|b| control(*b)) {
        return Err(format!("a control character in {:?}", text(line)));
    }
    Ok((text(name).to_ascii_lowercase(), value.to_vec()))
}

fn control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How long a body is (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// It has none.
    Nothing,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// As long as the connection.
    UntilClose,
}

/// The framing that a head states. `otherwise` holds where it states none.
///
/// # Errors
/// In words, where it states two, or one that is not exact.
pub fn framing(head: &Head, otherwise: Framing) -> Result<Framing, String> {
    let (lengths, codings) = (head.all("content-length"), head.all("transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(otherwise),
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        ([length], []) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
            length.parse().map(Framing::Length).map_err(|_| format!("content-length: {length}"))
        }
        _ => Err(format!("content-length {lengths:?} with transfer-encoding {codings:?}")),
    }
}

/// A body while it comes.
#[derive(Debug, Clone)]
pub struct Body {
    state: State,
    line: Vec<u8>,
    /// The fields after the last chunk.
    pub trailers: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Left(u64),
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Open,
    Done,
}

impl Body {
    /// One with this framing, of which nothing has come.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Nothing | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Left(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::Open,
        };
        Self { state, line: Vec::new(), trailers: Vec::new() }
    }

    /// Whether all of it came.
    #[must_use]
    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether only the connection's end can end it.
    #[must_use]
    pub fn until_close(&self) -> bool {
        self.state == State::Open
    }

    /// Takes what belongs to the body from the front of `bytes`, hands its content to `content`, and
    /// returns how many bytes it took.
    ///
    /// # Errors
    /// In words, where the framing is broken.
    pub fn feed(&mut self, bytes: &[u8], mut content: impl FnMut(&[u8])) -> Result<usize, String> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            let rest = &bytes[at..];
            let left = match self.state {
                State::Left(left) | State::Data(left) => left,
                State::Open => u64::MAX,
                _ => {
                    at += self.line_byte(rest[0])?;
                    continue;
                }
            };
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            content(&rest[..take]);
            at += take;
            let left = left - take as u64;
            self.state = match self.state {
                State::Left(_) if left == 0 => State::Done,
                State::Left(_) => State::Left(left),
                State::Data(_) if left == 0 => State::DataEnd,
                State::Data(_) => State::Data(left),
                other => other,
            };
        }
        Ok(at)
    }

    fn line_byte(&mut self, byte: u8) -> Result<usize, String> {
        self.line.push(byte);
        if self.line.len() > MAX_HEAD {
            return Err("a line of a chunked body without end".into());
        }
        if !self.line.ends_with(b"\r\n") {
            return match byte {
                b'\n' => Err(format!("bare LF in a chunked body: {:?}", text(&self.line))),
                _ => Ok(1),
            };
        }
        let line = std::mem::take(&mut self.line);
        let line = &line[..line.len() - 2];
        self.state = match self.state {
            State::Size => match size(line)? {
                0 => State::Trailers,
                size => State::Data(size),
            },
            State::DataEnd if line.is_empty() => State::Size,
            State::DataEnd => return Err(format!("{:?} after a chunk", text(line))),
            _ if line.is_empty() => State::Done,
            _ => {
                self.trailers.push(field(line)?);
                State::Trailers
            }
        };
        Ok(1)
    }
}

fn size(line: &[u8]) -> Result<u64, String> {
    let digits = line.split(|b| *b == b';').next().unwrap_or_default();
    let wrong = || format!("chunk size {:?}", text(line));
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    u64::from_str_radix(&text(digits), 16).map_err(|_| wrong())
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// As its framing says.
    Yes,
    /// The connection ended it, and its head said nothing else would.
    ByClose,
    /// It is not over.
    Not,
}

/// An answer, or the beginning of one.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Line and fields.
    pub head: Head,
    /// What came of its content.
    pub body: Vec<u8>,
    /// The fields after it.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// The interim answers (1xx) before it.
    pub interim: Vec<(u16, Head)>,
    /// Whether it is over.
    pub whole: Whole,
}

/// Reads the answers to requests with these methods. Returns them, what is left over, and what is wrong.
#[must_use]
pub fn answers<'a>(
    mut bytes: &'a [u8],
    methods: &[&str],
) -> (Vec<Answer>, &'a [u8], Option<String>) {
    let mut found = Vec::new();
    let mut interim = Vec::new();
    // Whatever comes beyond the last request is read as to a GET.
    let mut methods = methods.iter();
    while !bytes.is_empty() {
        let (head, used) = match head(bytes) {
            Read::More => break,
            Read::Wrong(why) => return (found, bytes, Some(why)),
            Read::Whole(head, used) => (head, used),
        };
        let status = match status(&head) {
            Ok(status) => status,
            Err(why) => return (found, bytes, Some(why)),
        };
        bytes = &bytes[used..];
        if (100..200).contains(&status) && status != 101 {
            interim.push((status, head));
            continue;
        }
        let method = methods.next().copied().unwrap_or("GET");
        let framing = match answer_framing(status, method, &head) {
            Ok(framing) => framing,
            Err(why) => return (found, bytes, Some(why)),
        };
        let mut body = Body::new(framing);
        let mut content = Vec::new();
        let used = match body.feed(bytes, |data| content.extend_from_slice(data)) {
            Ok(used) => used,
            Err(why) => return (found, bytes, Some(why)),
        };
        bytes = &bytes[used..];
        let whole = match (body.done(), body.until_close()) {
            (true, _) => Whole::Yes,
            (_, true) => Whole::ByClose,
            _ => Whole::Not,
        };
        let interim = std::mem::take(&mut interim);
        found.push(Answer { status, head, body: content, trailers: body.trailers, interim, whole });
    }
    (found, bytes, None)
}

fn status(head: &Head) -> Result<u16, String> {
    let mut words = head.line.splitn(3, ' ');
    let (version, code) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let known = matches!(version, "HTTP/1.1" | "HTTP/1.0");
    match code.parse() {
        // The space after the code is not optional (RFC 9112 section 4), but left out often.
        Ok(code @ 100..=999) if known => Ok(code),
        _ => Err(format!("{:?} is no status line", head.line)),
    }
}

fn answer_framing(status: u16, method: &str, head: &Head) -> Result<Framing, String> {
    let stated = framing(head, Framing::UntilClose)?;
    Ok(match status {
        101 => Framing::UntilClose,
        204 | 304 => Framing::Nothing,
        _ if method == "HEAD" => Framing::Nothing,
        200..=299 if method == "CONNECT" => Framing::UntilClose,
        _ => stated,
    })
}

/// Bytes as a reader of a report wants them: escapes, line ends as line ends, long runs cut.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 1_500;
    let cut = &bytes[..bytes.len().min(LONGEST)];
    let escaped: String =
        cut.iter().flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
    let mut text = escaped.replace("\\r\\n", "\\r\\n\n        ").trim_end().to_owned();
    if bytes.len() > cut.len() {
        text.push_str(&format!(" … ({} bytes)", bytes.len()));
    }
    if text.is_empty() { "(nothing)".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_exact_is_no_head() {
        for bad in
            ["GET / HTTP/1.1\r\nA : b\r\n\r\n", "X\r\nno colon\r\n\r\n", "X\r\na: b\nc\r\n\r\n"]
        {
            assert!(matches!(head(bad.as_bytes()), Read::Wrong(_)), "{bad:?}");
        }
        assert_eq!(head(b"GET / HTTP/1.1\r\na: b\r\n"), Read::More);
        let Read::Whole(read, 32) = head(b"GET / HTTP/1.1\r\nA:  b \r\nA: c\r\n\r\n") else {
            panic!()
        };
        assert_eq!((read.words()[1], read.get("a").unwrap().as_str()), ("/", "b, c"));
    }

    #[test]
    fn chunks_are_read_byte_by_byte_as_in_one_piece() {
        let bytes = b"3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nsum: 1\r\n\r\nrest";
        for step in [1, 2, 7, bytes.len()] {
            let (mut body, mut content, mut used) = (Body::new(Framing::Chunked), Vec::new(), 0);
            for piece in bytes.chunks(step) {
                used += body.feed(piece, |data| content.extend_from_slice(data)).unwrap();
            }
            assert!(body.done() && content == b"abc0123456789", "{step}");
            assert_eq!(used, bytes.len() - 4);
            assert_eq!(all(&body.trailers, "sum"), ["1"]);
        }
        for bad in ["-1\r\n", "+1\r\n", "0x1\r\n", "1 \r\n", "1\n", "\r\n", "1\r\nabc\r\n"] {
            assert!(Body::new(Framing::Chunked).feed(bad.as_bytes(), |_| ()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn answers_are_told_apart_by_their_framing() {
        let bytes = b"HTTP/1.1 103 \r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\
                      HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nrest";
        let (found, rest, wrong) = answers(bytes, &["HEAD", "GET", "GET"]);
        assert_eq!((rest.len(), wrong), (0, None));
        let seen: Vec<_> = found.iter().map(|a| (a.interim.len(), &a.body[..], a.whole)).collect();
        let expected: [(usize, &[u8], Whole); 3] =
            [(1, b"", Whole::Yes), (0, b"ok", Whole::Yes), (0, b"rest", Whole::ByClose)];
        assert_eq!(seen, expected);
    }
}
