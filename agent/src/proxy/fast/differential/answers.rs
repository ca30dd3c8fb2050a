//! [`response::read`] and [`Chunks`] against hyper's client: an answer that is taken whole is the same
//! answer to both, and one that hyper refuses is refused.
//!
//! Ours is the stricter, on purpose, in that it refuses
//! - lines not ended by CR LF, empty lines before the status line,
//! - `Content-Length` with `Transfer-Encoding`, also where there is no body (HEAD, 204, 304),
//! - `Content-Length` as a list of equal numbers, or of more than 18 digits,
//! - a `Transfer-Encoding` other than exactly `chunked` (hyper reads until the end of the connection),
//! - a status of 600 and above, or 101,
//! - more than sixteen informational answers,
//! - lines of chunks beyond 1,024 bytes, sizes of more than fifteen digits.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};

use super::super::super::head::Fields;
use super::super::chunked::{Chunks, Piece};
use super::super::response::{self, AnswerHead, Framing, Read};
use super::oracle::{self, Heard};
use super::{Counts, Dice, assert_same, cut, fields_of, grammar, run, shown, without};

/// As many as the owner's edge takes.
const MAX_INTERIM: usize = 16;

/// What ours makes of an answer whose connection ends behind it.
#[derive(Debug, PartialEq, Eq)]
enum Ours {
    Whole(Box<Whole>),
    /// It ends too early.
    Short,
    Refused(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
struct Whole {
    head: AnswerHead,
    lines: Bytes,
    body: Vec<u8>,
    trailers: Bytes,
    /// Bytes up to its end.
    used: usize,
}

/// Bytes as they come, piece by piece.
struct Feed<'b> {
    pieces: std::slice::Iter<'b, &'b [u8]>,
    buffer: BytesMut,
    fed: usize,
}

impl Feed<'_> {
    fn more(&mut self) -> bool {
        let Some(piece) = self.pieces.next() else { return false };
        self.buffer.extend_from_slice(piece);
        self.fed += piece.len();
        true
    }
}

/// Reads an answer as the owner's edge does.
fn ours(pieces: &[&[u8]], to_head: bool) -> Ours {
    let mut feed = Feed { pieces: pieces.iter(), buffer: BytesMut::new(), fed: 0 };
    let mut interim = 0;
    let (head, lines) = loop {
        let mut lines = BytesMut::new();
        match response::read(&feed.buffer, to_head, b"via: 1.1 b\r\n", &mut lines) {
            Err(why) => return Ours::Refused(why),
            Ok(Read::Head(head)) => break (head, lines.freeze()),
            Ok(Read::Interim(_, length)) => {
                feed.buffer.advance(length);
                interim += 1;
                if interim > MAX_INTERIM {
                    return Ours::Refused("informational answers without end");
                }
            }
            Ok(Read::Partial) => {
                if !feed.more() {
                    return Ours::Short;
                }
            }
        }
    };
    feed.buffer.advance(head.head);
    let mut whole = Whole { head, lines, body: Vec::new(), trailers: Bytes::new(), used: 0 };
    let done = match head.framing {
        Framing::None => Ok(true),
        Framing::Sized(length) => Ok(sized(&mut feed, length, &mut whole)),
        Framing::Chunked => chunked(&mut feed, &mut whole),
        Framing::Close => {
            while feed.more() {}
            whole.body = feed.buffer.split().to_vec();
            Ok(true)
        }
    };
    match done {
        Err(why) => Ours::Refused(why),
        Ok(false) => Ours::Short,
        Ok(true) => {
            whole.used = feed.fed - feed.buffer.len();
            Ours::Whole(Box::new(whole))
        }
    }
}

fn sized(feed: &mut Feed<'_>, length: u64, whole: &mut Whole) -> bool {
    while (feed.buffer.len() as u64) < length {
        if !feed.more() {
            return false;
        }
    }
    whole.body = feed.buffer.split_to(length as usize).to_vec();
    true
}

fn chunked(feed: &mut Feed<'_>, whole: &mut Whole) -> Result<bool, &'static str> {
    let mut chunks = Chunks::default();
    loop {
        match chunks.next(&mut feed.buffer)? {
            Piece::More if !feed.more() => return Ok(false),
            Piece::More => {}
            Piece::Data(data) => {
                // An empty piece would be the end of the body to whoever it is passed on to in chunks.
                assert!(!data.is_empty());
                whole.body.extend_from_slice(&data);
            }
            Piece::End(lines) => {
                let fields = Fields::unread(lines.clone());
                fields.parse(|_, _| ()).map_err(|_| "trailers that cannot be read")?;
                whole.trailers = lines;
                return Ok(true);
            }
        }
    }
}

/// The fields that go on, by what hyper read of them.
fn expected(fields: &HeaderMap) -> HeaderMap {
    const OF_THE_HOP: [&str; 7] = [
        "te",
        "upgrade",
        "connection",
        "keep-alive",
        "content-length",
        "proxy-connection",
        "transfer-encoding",
    ];
    let named: Vec<String> = fields
        .get_all("connection")
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .filter(|name| name != "trailer")
        .collect();
    let mut on =
        without(fields, |name| OF_THE_HOP.contains(&name) || named.iter().any(|n| n == name));
    on.append("via", HeaderValue::from_static("1.1 b"));
    on
}

fn assert_heard(whole: &Whole, heard: &Heard, bytes: &[u8]) {
    let text = || format!("{whole:?}\n{heard:?}\n{}", shown(bytes));
    assert_eq!(whole.head.status, heard.status, "{}", text());
    assert!(heard.content.whole, "hyper does not see its end: {}", text());
    assert_eq!(heard.left, 0, "hyper sees its end before: {}", text());
    assert!(whole.body == heard.content.data, "another body: {}", text());
    assert!(heard.kept || !whole.head.keep, "hyper would not use the connection again: {}", text());
    assert_same(&fields_of(&whole.lines), &expected(&heard.fields), bytes);
    assert_same(&fields_of(&whole.trailers), &heard.content.trailers, bytes);
    if let (Some(said), Framing::Sized(length)) = (whole.head.length, whole.head.framing) {
        assert_eq!((said, length), (length, whole.body.len() as u64), "{}", text());
    }
}

fn check(dice: &mut Dice, counts: &mut Counts) {
    let bytes = &grammar::answer(dice)[..];
    let method = dice.pick(&["GET", "GET", "GET", "POST", "HEAD"]);
    let to_head = method == "HEAD";
    let read = ours(&[bytes], to_head);
    let again = ours(&cut(dice, bytes), to_head);
    match (&read, &again) {
        // Where it stood when it was refused may say another reason.
        (Ours::Refused(_), Ours::Refused(_)) => {}
        _ => assert_eq!(read, again, "cut it is another answer: {}", shown(bytes)),
    }
    match read {
        Ours::Whole(whole) => {
            counts.add(match whole.head.framing {
                Framing::None => "taken, without a body",
                Framing::Sized(_) => "taken, of known length",
                Framing::Chunked if whole.trailers.is_empty() => "taken, in chunks",
                Framing::Chunked => "taken, in chunks with trailers",
                Framing::Close => "taken, until the end",
            });
            let used = &bytes[..whole.used];
            let ends = whole.head.framing == Framing::Close;
            match oracle::ask(used, method, ends) {
                Ok(heard) => assert_heard(&whole, &heard, used),
                Err(why) => panic!("hyper refuses it, {why}: {whole:?}\n{}", shown(used)),
            }
        }
        Ours::Short => {
            counts.add("ends too early");
            if let Ok(heard) = oracle::ask(bytes, method, true) {
                let text = shown(bytes);
                assert!(!heard.content.whole, "hyper sees all of it: {heard:?}\n{text}");
            }
        }
        Ours::Refused(why) => counts.add(why),
    }
}

#[test]
fn an_answer_that_is_taken_is_the_same_to_hyper() {
    let counts = run("an_answer_that_is_taken_is_the_same_to_hyper", 25, check);
    counts.at_least("taken, without a body", 3);
    counts.at_least("taken, of known length", 10);
    counts.at_least("taken, in chunks", 4);
    counts.at_least("taken, in chunks with trailers", 1);
    counts.at_least("taken, until the end", 3);
    counts.at_least("ends too early", 2);
    counts.at_least("its answer is not HTTP/1.1", 5);
}
