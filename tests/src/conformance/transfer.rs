//! A client of large bodies: it checks [`Noise`] as it comes and keeps none of it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::noise::Noise;
use super::wire::{Body, Framing, Head, Read, framing, head};

const PIECE: usize = 64 * 1024;
/// Longest that nothing may move.
const STUCK: Duration = Duration::from_secs(30);

/// How a body is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// By its length.
    Length,
    /// Chunk by chunk.
    Chunks,
}

/// A client's connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Opens one.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        Self::from(TcpStream::connect(to)?)
    }

    /// On a connection that is open.
    ///
    /// # Errors
    /// What the system said.
    pub fn from(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STUCK))?;
        stream.set_write_timeout(Some(STUCK))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Its socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// What the system said.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Asks for `target`.
    ///
    /// # Errors
    /// What the system said.
    pub fn ask(&mut self, target: &str) -> io::Result<()> {
        write!(self.stream, "GET {target} HTTP/1.1\r\nHost: svc\r\n\r\n")
    }

    /// Sends so many bytes of noise to `/check/SEED`.
    ///
    /// # Errors
    /// What the system said.
    pub fn put(&mut self, seed: u64, length: u64, announced: Announced) -> io::Result<()> {
        let framing = match announced {
            Announced::Length => format!("Content-Length: {length}"),
            Announced::Chunks => "Transfer-Encoding: chunked".into(),
        };
        write!(self.stream, "PUT /check/{seed} HTTP/1.1\r\nHost: svc\r\n{framing}\r\n\r\n")?;
        let (mut noise, mut buffer) = (Noise::new(seed), vec![0; PIECE]);
        while noise.at() < length {
            let left = usize::try_from(length - noise.at()).unwrap_or(PIECE).min(PIECE);
            noise.fill(&mut buffer[..left]);
            match announced {
                Announced::Length => self.stream.write_all(&buffer[..left])?,
                Announced::Chunks => {
                    let size = format!("{left:x}\r\n");
                    self.stream.write_all(&[size.as_bytes(), &buffer[..left], b"\r\n"].concat())?;
                }
            }
        }
        match announced {
            Announced::Length => Ok(()),
            Announced::Chunks => self.stream.write_all(b"0\r\n\r\n"),
        }
    }

    /// Reads an answer's head; interim ones are skipped.
    ///
    /// # Errors
    /// In words.
    pub fn head(&mut self) -> Result<(u16, Head), String> {
        loop {
            match head(&self.buffer) {
                Read::Whole(head, used) => {
                    self.buffer.drain(..used);
                    let status = head.words().get(1).and_then(|code| code.parse().ok());
                    match status.ok_or_else(|| format!("{:?} is no status line", head.line))? {
                        100..=199 => {}
                        status => return Ok((status, head)),
                    }
                }
                Read::Wrong(why) => return Err(why),
                Read::More => match self.more() {
                    Ok(true) => {}
                    Ok(false) => return Err("closed before an answer".into()),
                    Err(error) => return Err(format!("before an answer: {error}")),
                },
            }
        }
    }

    /// Reads the content that `head` announces to its end, and hands it to `take`.
    ///
    /// # Errors
    /// In words, where it is cut short.
    pub fn content(
        &mut self,
        head: &Head,
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut body = Body::new(framing(head, Framing::UntilClose)?);
        loop {
            let mut failed = Ok(());
            let used = body.feed(&self.buffer, |bytes| {
                if failed.is_ok() {
                    failed = take(bytes);
                }
            })?;
            self.buffer.drain(..used);
            failed?;
            if body.done() {
                return Ok(());
            }
            match self.more() {
                Ok(true) => {}
                Ok(false) if body.until_close() => return Ok(()),
                Ok(false) => return Err("cut short".into()),
                Err(error) => return Err(format!("cut short: {error}")),
            }
        }
    }

    /// Reads a whole answer whose content must be 200 and so many bytes of noise.
    ///
    /// # Errors
    /// In words.
    pub fn noise(&mut self, seed: u64, length: u64) -> Result<(), String> {
        let (status, head) = self.head()?;
        if status != 200 {
            return Err(head.line);
        }
        let mut noise = Noise::new(seed);
        self.content(&head, |bytes| noise.check(bytes))?;
        match noise.at() {
            all if all == length => Ok(()),
            some => Err(format!("{some} bytes of {length}")),
        }
    }

    /// Reads a whole answer: its status and content.
    ///
    /// # Errors
    /// In words.
    pub fn text(&mut self) -> Result<(u16, String), String> {
        let (status, head) = self.head()?;
        let mut all = Vec::new();
        self.content(&head, |bytes| {
            all.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok((status, String::from_utf8_lossy(&all).into_owned()))
    }

    /// Reads on; false at the end.
    fn more(&mut self) -> io::Result<bool> {
        let begun = self.buffer.len();
        self.buffer.resize(begun + PIECE, 0);
        let length = self.stream.read(&mut self.buffer[begun..]);
        self.buffer.truncate(begun + length.as_ref().map_or(0, |length| *length));
        Ok(length? > 0)
    }
}
