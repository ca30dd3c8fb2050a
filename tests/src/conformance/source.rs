//! An application of large bodies: it makes and checks [`Noise`] as it goes and keeps none of it.
//!
//! | request | answer |
//! |---|---|
//! | `GET /noise/SEED/LENGTH` | so many bytes, with Content-Length |
//! | `GET /chunked/SEED/LENGTH` | the same in chunks |
//! | `GET /close/SEED/LENGTH` | the same up to the connection's end |
//! | `PUT /check/SEED` | 200 `LENGTH good`, or `LENGTH` and where it differs |
//! | any other | 200 with the request's content, once it is whole |
//!
//! What it sends and reads is counted, and it can be told to read no further: that is how backpressure is
//! seen. Threads as in `application`.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::noise::Noise;
use super::wire::{Body, Framing, Head, Read, framing, head};

/// One write, and one chunk.
const PIECE: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    read: AtomicU64,
    held: AtomicBool,
    broken: AtomicU64,
}

/// A running one. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where it listens.
    pub address: SocketAddr,
    counts: Arc<Counts>,
}

impl Source {
    /// Starts one on a free port of the loopback.
    ///
    /// # Errors
    /// What the system said.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let source = Self { address: listener.local_addr()?, counts: Arc::default() };
        let counts = Arc::clone(&source.counts);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counts = Arc::clone(&counts);
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let mut serving = Serving { stream, buffer: Vec::new(), counts };
                    if serving.run().is_err() {
                        serving.counts.broken.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Ok(source)
    }

    /// Bytes of content written so far, over all requests.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::SeqCst)
    }

    /// Bytes of content read so far, over all requests.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.counts.read.load(Ordering::SeqCst)
    }

    /// Connections that ended within a message.
    #[must_use]
    pub fn broken(&self) -> u64 {
        self.counts.broken.load(Ordering::SeqCst)
    }

    /// Reads no content while held.
    pub fn hold(&self, held: bool) {
        self.counts.held.store(held, Ordering::SeqCst);
    }
}

struct Serving {
    stream: TcpStream,
    buffer: Vec<u8>,
    counts: Arc<Counts>,
}

impl Serving {
    fn run(&mut self) -> io::Result<()> {
        loop {
            let head = match head(&self.buffer) {
                Read::Whole(head, used) => {
                    self.buffer.drain(..used);
                    head
                }
                Read::Wrong(why) => return Err(io::Error::other(why)),
                Read::More if self.more()? => continue,
                Read::More if self.buffer.is_empty() => return Ok(()),
                Read::More => return Err(io::ErrorKind::UnexpectedEof.into()),
            };
            if !self.serve(&head)? {
                return Ok(());
            }
        }
    }

    fn serve(&mut self, head: &Head) -> io::Result<bool> {
        let target = head.words().get(1).copied().unwrap_or("").to_owned();
        let mut parts = target.split('/').skip(1);
        let kind = parts.next().unwrap_or("").to_owned();
        let mut number = || parts.next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let (seed, length) = (number(), number());
        match kind.as_str() {
            "noise" | "chunked" | "close" => {
                self.content(head, |_| Ok(()))?;
                self.make(&kind, seed, length)?;
            }
            "check" => {
                let mut noise = Noise::new(seed);
                let mut wrong = None;
                self.content(head, |bytes| {
                    if wrong.is_none() {
                        wrong = noise.check(bytes).err();
                    }
                    Ok(())
                })?;
                self.say(&format!("{} {}", noise.at(), wrong.as_deref().unwrap_or("good")))?;
            }
            _ => {
                let mut all = Vec::new();
                self.content(head, |bytes| {
                    all.extend_from_slice(bytes);
                    Ok(())
                })?;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", all.len());
                self.stream.write_all(&[head.as_bytes(), &all].concat())?;
            }
        }
        Ok(kind != "close")
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        let length = text.len();
        write!(self.stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}")
    }

    fn make(&mut self, kind: &str, seed: u64, length: u64) -> io::Result<()> {
        let framing = match kind {
            "noise" => format!("Content-Length: {length}\r\n"),
            "chunked" => "Transfer-Encoding: chunked\r\n".into(),
            _ => "Connection: close\r\n".into(),
        };
        write!(self.stream, "HTTP/1.1 200 OK\r\n{framing}\r\n")?;
        let (mut noise, mut buffer) = (Noise::new(seed), vec![0; PIECE]);
        while noise.at() < length {
            let left = usize::try_from(length - noise.at()).unwrap_or(PIECE).min(PIECE);
            noise.fill(&mut buffer[..left]);
            match kind {
                "chunked" => {
                    let size = format!("{left:x}\r\n");
                    self.stream.write_all(&[size.as_bytes(), &buffer[..left], b"\r\n"].concat())?;
                }
                _ => self.stream.write_all(&buffer[..left])?,
            }
            self.counts.sent.fetch_add(left as u64, Ordering::SeqCst);
        }
        if kind == "chunked" {
            self.stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(())
    }

    /// Reads a request's content to its end.
    fn content(
        &mut self,
        head: &Head,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let framing = framing(head, Framing::Nothing).map_err(io::Error::other)?;
        let mut body = Body::new(framing);
        if head.lists("expect", "100-continue") {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        loop {
            let (mut count, mut failed) = (0, Ok(()));
            let used = body.feed(&self.buffer, |bytes| {
                count += bytes.len() as u64;
                if failed.is_ok() {
                    failed = take(bytes);
                }
            });
            self.buffer.drain(..used.map_err(io::Error::other)?);
            failed?;
            self.counts.read.fetch_add(count, Ordering::SeqCst);
            if body.done() {
                return Ok(());
            }
            while self.counts.held.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
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
