//! One HTTP/1.1 answer as it arrives: where its head ends, what it says, when its body is complete.
//!
//! Knows two framings, a stated length and chunks, because that is what proxies send for a file. Anything
//! else is an error and not guessed at: the client measures, it does not browse.

/// Longest head that is read.
const HEAD: usize = 8 * 1024;

/// An answer in progress.
#[derive(Debug, Default)]
pub(super) struct Answer {
    head: Vec<u8>,
    state: State,
    body: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    /// So many bytes of the body are missing.
    Length(u64),
    /// So many bytes of a chunk and its line end are missing.
    Chunk(u64),
    /// A chunk's size line, as far as it has come.
    ChunkSize(Vec<u8>),
    /// The empty line after the last chunk, as far as it has come.
    Last(Vec<u8>),
    Done,
}

impl Answer {
    /// Takes what was received. `Ok(true)`: this was the end of the answer.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<bool, String> {
        while !bytes.is_empty() {
            bytes = match &mut self.state {
                State::Head => self.take_head(bytes)?,
                State::Length(left) => {
                    let some = part(*left, bytes);
                    *left -= some as u64;
                    self.body += some as u64;
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    &bytes[some..]
                }
                State::Chunk(left) => {
                    let some = part(*left, bytes);
                    let data = left.saturating_sub(2).min(some as u64);
                    *left -= some as u64;
                    self.body += data;
                    if *left == 0 {
                        self.state = State::ChunkSize(Vec::new());
                    }
                    &bytes[some..]
                }
                State::ChunkSize(line) => match up_to_line_end(line, bytes)? {
                    None => &[],
                    Some(rest) => {
                        let text = String::from_utf8_lossy(line);
                        let size = u64::from_str_radix(text.trim(), 16)
                            .map_err(|_| format!("not the size of a chunk: {text:?}"))?;
                        self.state = match size {
                            0 => State::Last(Vec::new()),
                            _ => State::Chunk(size + 2),
                        };
                        rest
                    }
                },
                State::Last(line) => match up_to_line_end(line, bytes)? {
                    None => &[],
                    Some(rest) if line.iter().all(u8::is_ascii_whitespace) => {
                        self.state = State::Done;
                        rest
                    }
                    Some(_) => return Err("trailers, which nobody asked for".to_owned()),
                },
                State::Done => return Err("more than was asked for".to_owned()),
            };
        }
        Ok(matches!(self.state, State::Done))
    }

    /// Body bytes since the last call.
    pub(super) fn drain_body(&mut self) -> u64 {
        std::mem::take(&mut self.body)
    }

    /// Ready for the next answer on the same connection.
    pub(super) fn reset(&mut self) {
        self.head.clear();
        self.state = State::Head;
    }

    fn take_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        // The end may straddle what came before.
        let seen = self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD + 4 - seen.min(HEAD))]);
        let from = seen.saturating_sub(3);
        let Some(end) = self.head[from..].windows(4).position(|four| four == b"\r\n\r\n") else {
            return match self.head.len() {
                HEAD.. => Err(format!("a head of more than {HEAD} bytes")),
                _ => Ok(&[]),
            };
        };
        let end = from + end + 4;
        self.state = framing(&self.head[..end])?;
        Ok(&bytes[end - seen..])
    }
}

/// How the body that follows this head is framed.
fn framing(head: &[u8]) -> Result<State, String> {
    let mut lines = head.split(|&b| b == b'\n').map(<[u8]>::trim_ascii_end);
    let status = lines.next().unwrap_or_default();
    if !status.starts_with(b"HTTP/1.1 200") {
        return Err(format!("answered {:?}", String::from_utf8_lossy(status)));
    }
    for line in lines {
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let text = String::from_utf8_lossy(value);
            let length = text.parse().map_err(|_| format!("not a length: {text:?}"))?;
            return Ok(if length == 0 { State::Done } else { State::Length(length) });
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Ok(State::ChunkSize(Vec::new()));
        }
    }
    Err("an answer without a length".to_owned())
}

fn part(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
}

/// Moves bytes into `line` up to its end. `None`: the end has not come yet.
fn up_to_line_end<'a>(line: &mut Vec<u8>, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, String> {
    let end = bytes.iter().position(|&b| b == b'\n');
    line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
    if line.len() > 64 {
        return Err("a line that is no size of a chunk".to_owned());
    }
    Ok(end.map(|end| &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::Answer;

    const LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-LENGTH: 5\r\n\r\nhello";
    const CHUNKS: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                            5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n";

    /// Fed in pieces of this size, the answer is complete exactly at its last byte.
    fn body(all: &[u8], piece: usize) -> u64 {
        let mut answer = Answer::default();
        let mut pieces = all.chunks(piece).peekable();
        while let Some(piece) = pieces.next() {
            assert_eq!(answer.take(piece).unwrap(), pieces.peek().is_none());
        }
        answer.drain_body()
    }

    #[test]
    fn an_answer_is_complete_at_its_last_byte_however_it_is_cut() {
        for piece in 1..=LENGTH.len() {
            assert_eq!(body(LENGTH, piece), 5, "{piece}");
        }
        for piece in 1..=CHUNKS.len() {
            assert_eq!(body(CHUNKS, piece), 15, "{piece}");
        }
    }

    #[test]
    fn anything_but_200_with_a_known_end_is_refused() {
        let bad: [&[u8]; 4] = [
            b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxy",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ];
        for bytes in bad {
            assert!(Answer::default().take(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        assert!(Answer::default().take(&[b'x'; 9000]).is_err());
    }

    #[test]
    fn the_same_reader_serves_the_next_answer() {
        let mut answer = Answer::default();
        for _ in 0..2 {
            assert!(answer.take(LENGTH).unwrap());
            answer.reset();
        }
        assert_eq!(answer.drain_body(), 10);
    }
}
