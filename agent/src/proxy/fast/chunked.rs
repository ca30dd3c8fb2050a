//! A body in chunks (RFC 9112 section 7.1), taken apart as it comes. Pure.
//!
//! Stricter than the RFC asks where leniency has been used to smuggle: lines end with CR LF, sizes are hex
//! digits and nothing else, and what stands around the data is bounded.

use bytes::{Buf, Bytes, BytesMut};

/// Longest line with a chunk's size and extensions. Extensions are dropped, as an intermediary may.
const MAX_LINE: usize = 1024;
/// What may stand behind sizes in all lines of a body together: tiny chunks with long extensions cost more
/// than they carry.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// Longest trailer section.
const MAX_TRAILERS: usize = 16 * 1024;
/// Digits of a size: 2^60 bytes are more than anybody sends.
const MAX_DIGITS: usize = 15;

/// A piece of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// More must be read first.
    More,
    /// Some of the data.
    Data(Bytes),
    /// The end, with the trailers' lines: none, or lines with an empty one at their end.
    End(Bytes),
}

/// Takes a body apart.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chunks {
    at: At,
    /// Bytes of extensions so far.
    extensions: usize,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// The line with a size comes.
    #[default]
    Size,
    /// So much of a chunk's data comes.
    Data(u64),
    /// The line end behind a chunk's data comes.
    LineEnd,
    /// The trailers and the end come.
    Trailers,
}

impl Chunks {
    /// Takes the next piece off `buffer`. The error says what is wrong; nothing more can be read then.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, &'static str> {
        loop {
            match self.at {
                At::Size => {
                    let Some(line) = line(buffer)? else { return Ok(Piece::More) };
                    let (size, around) = size(&buffer[..line])?;
                    self.extensions += around;
                    if self.extensions >= MAX_EXTENSIONS {
                        return Err("the extensions of its chunks are too long");
                    }
                    buffer.advance(line + 2);
                    self.at = if size == 0 { At::Trailers } else { At::Data(size) };
                }
                At::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Piece::More);
                    }
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let data = buffer.split_to(here).freeze();
                    let left = left - here as u64;
                    self.at = if left == 0 { At::LineEnd } else { At::Data(left) };
                    return Ok(Piece::Data(data));
                }
                At::LineEnd => {
                    if buffer.len() < 2 {
                        return Ok(Piece::More);
                    }
                    if !buffer.starts_with(b"\r\n") {
                        return Err("a chunk is longer than its size says");
                    }
                    buffer.advance(2);
                    self.at = At::Size;
                }
                At::Trailers => return trailers(buffer),
            }
        }
    }
}

/// The length of the first line, once it is whole.
fn line(buffer: &[u8]) -> Result<Option<usize>, &'static str> {
    let head = &buffer[..buffer.len().min(MAX_LINE)];
    match head.iter().position(|b| *b == b'\n') {
        Some(0) => Err("the line of a chunk is not ended by CR LF"),
        Some(end) if head[end - 1] != b'\r' => Err("the line of a chunk is not ended by CR LF"),
        Some(end) => Ok(Some(end - 1)),
        None if buffer.len() >= MAX_LINE => Err("the line of a chunk is too long"),
        None => Ok(None),
    }
}

/// A chunk's size, and how many bytes stand behind it.
fn size(line: &[u8]) -> Result<(u64, usize), &'static str> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let rest = &line[digits..];
    let is_extension = rest.iter().find(|b| !matches!(b, b' ' | b'\t')).is_none_or(|b| *b == b';');
    let ends_well = rest.is_empty() || rest.contains(&b';');
    if digits == 0 || digits > MAX_DIGITS || !is_extension || !ends_well || rest.contains(&b'\r') {
        return Err("the size of a chunk is no number");
    }
    // Proof: hex digits are ASCII, and fifteen of them fit.
    let digits =
        std::str::from_utf8(&line[..digits]).map_err(|_| "the size of a chunk is no number")?;
    let size = u64::from_str_radix(digits, 16).map_err(|_| "the size of a chunk is no number")?;
    Ok((size, rest.len()))
}

fn trailers(buffer: &mut BytesMut) -> Result<Piece, &'static str> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Piece::End(Bytes::new()));
    }
    match buffer.windows(4).position(|w| w == b"\r\n\r\n") {
        Some(end) if end + 4 < MAX_TRAILERS => Ok(Piece::End(buffer.split_to(end + 4).freeze())),
        None if buffer.len() < MAX_TRAILERS => Ok(Piece::More),
        _ => Err("the trailers are too large"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything there is, with the data in one.
    fn all(text: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
        let (mut chunks, mut buffer, mut data) = (Chunks::default(), BytesMut::new(), Vec::new());
        for piece in text.chunks(step) {
            buffer.extend_from_slice(piece);
            loop {
                match chunks.next(&mut buffer)? {
                    Piece::More => break,
                    Piece::Data(bytes) => data.extend_from_slice(&bytes),
                    Piece::End(trailers) if buffer.is_empty() => {
                        return Ok((data, trailers.to_vec()));
                    }
                    Piece::End(_) => return Err("something behind the end"),
                }
            }
        }
        Err("cut short")
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        let text = b"5\r\nhello\r\n1;a=b\r\n \r\n00005 ; x\r\nworld\r\n0\r\nx-t: 1\r\n\r\n";
        for step in 1..text.len() {
            let (data, trailers) = all(text, step).unwrap();
            assert_eq!((&data[..], &trailers[..]), (&b"hello world"[..], &b"x-t: 1\r\n\r\n"[..]));
        }
        assert_eq!(all(b"0\r\n\r\n", 1).unwrap(), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_has_been_used_to_smuggle_is_refused() {
        for bad in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello!0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"5 5\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5_0\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"g\r\nhello\r\n0\r\n\r\n",
            b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
            b"10000000000000005\r\nhello\r\n0\r\n\r\n",
            b"5\r;\r\nhello\r\n0\r\n\r\n",
        ] {
            assert!(all(bad, 64).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn lines_and_trailers_without_end_are_refused() {
        let line = [b"5;".as_slice(), &[b'x'; 2 * MAX_LINE]].concat();
        assert_eq!(all(&line, 100), Err("the line of a chunk is too long"));
        let trailers = [b"0\r\nx: ".as_slice(), &[b'x'; 2 * MAX_TRAILERS]].concat();
        assert_eq!(all(&trailers, 1000), Err("the trailers are too large"));
    }

    #[test]
    fn extensions_without_end_are_refused() {
        let chunk = [b"1;".as_slice(), &[b'x'; 1000], b"\r\na\r\n"].concat();
        let body = |chunks: usize| [chunk.repeat(chunks), b"0\r\n\r\n".to_vec()].concat();
        assert!(all(&body(16), 100).is_ok());
        assert_eq!(all(&body(17), 100), Err("the extensions of its chunks are too long"));
    }
}
