//! The client's connections: one request in flight on each, and whose bytes have come.
//!
//! Sockets are watched edge-triggered. A read that fills less than the buffer has emptied the socket, so a
//! small answer costs one `epoll_wait` (shared), one `read` and one `write`: as little as a client can do.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::Say;
use super::answer::Answer;
use super::websocket::{self, Echo};

/// One read of a bulk answer.
const BUFFER: usize = 256 * 1024;
const CONNECT: Duration = Duration::from_secs(5);

/// What became of the bytes that came.
#[derive(Debug)]
pub(super) enum Came {
    /// Some of an answer, of this many body bytes.
    Some(u64),
    /// The rest of an answer that was due then, and its last body bytes.
    All {
        /// When the request was due.
        due: Instant,
        /// Body bytes.
        bytes: u64,
    },
    /// The connection is of no use any more. It had a request in flight, or not.
    Broken {
        /// Whether an answer was owed.
        owed: bool,
        /// Why.
        reason: String,
    },
}

struct Line {
    stream: TcpStream,
    reply: Reply,
    due: Option<Instant>,
}

/// What comes back, as far as it has come.
enum Reply {
    Answer(Answer),
    Echo(Echo),
}

impl Reply {
    /// To what is said.
    fn to(say: &Say) -> Self {
        match say {
            Say::Message => Self::Echo(Echo::default()),
            Say::Get(_) | Say::Call(_) => Self::Answer(Answer::default()),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<bool, String> {
        match self {
            Self::Answer(answer) => answer.take(bytes),
            Self::Echo(echo) => echo.take(bytes),
        }
    }

    /// Body bytes since the last call; of an echo they are not counted.
    fn drain_body(&mut self) -> u64 {
        match self {
            Self::Answer(answer) => answer.drain_body(),
            Self::Echo(_) => 0,
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Answer(answer) => answer.reset(),
            Self::Echo(echo) => echo.reset(),
        }
    }
}

/// All connections.
pub(super) struct Lines {
    poll: Poll,
    target: SocketAddr,
    say: Say,
    request: Vec<u8>,
    lines: Vec<Line>,
    buffer: Vec<u8>,
}

impl Lines {
    pub(super) fn new(target: SocketAddr, say: &Say) -> io::Result<Self> {
        let request = match say {
            Say::Get(path) => format!(
                "GET {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench-speed\r\nAccept: */*\r\n\r\n"
            )
            .into_bytes(),
            Say::Message => websocket::message(),
            Say::Call(_) => return Err(io::Error::other("gRPC is not spoken line by line")),
        };
        Ok(Self {
            poll: Poll::new()?,
            target,
            say: say.clone(),
            request,
            lines: Vec::new(),
            buffer: vec![0; BUFFER],
        })
    }

    /// Watches something else beside the connections.
    pub(super) fn watch(&self, source: &mut impl Source, token: Token) -> io::Result<()> {
        self.poll.registry().register(source, token, Interest::READABLE)
    }

    pub(super) fn wait(&mut self, events: &mut Events, limit: Duration) -> io::Result<()> {
        match self.poll.poll(events, Some(limit)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    /// Opens one more connection; its number counts from 0.
    pub(super) fn add(&mut self) -> io::Result<usize> {
        let number = self.lines.len();
        let stream = self.connect(number)?;
        self.lines.push(Line { stream, reply: Reply::to(&self.say), due: None });
        Ok(number)
    }

    /// Puts a new connection in the place of a broken one.
    pub(super) fn replace(&mut self, number: usize) -> io::Result<()> {
        let stream = self.connect(number)?;
        // The old one is closed, and with that no longer watched.
        self.lines[number] = Line { stream, reply: Reply::to(&self.say), due: None };
        Ok(())
    }

    fn connect(&self, number: usize) -> io::Result<TcpStream> {
        let mut stream = std::net::TcpStream::connect_timeout(&self.target, CONNECT)?;
        stream.set_nodelay(true)?;
        if self.say == Say::Message {
            stream.set_read_timeout(Some(CONNECT))?;
            websocket::greet(&mut stream)?;
        }
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        self.poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
        Ok(stream)
    }

    /// Sends a request that was due then.
    pub(super) fn send(&mut self, number: usize, due: Instant) -> io::Result<()> {
        let line = &mut self.lines[number];
        line.reply.reset();
        line.due = Some(due);
        // At most a kilobyte into an empty socket buffer: all or nothing.
        match line.stream.write(&self.request)? {
            all if all == self.request.len() => Ok(()),
            some => Err(io::Error::other(format!("only {some} bytes of a request were taken"))),
        }
    }

    /// Reads what has come for a connection. `closed`: the end of the stream has come, too.
    pub(super) fn receive(&mut self, number: usize, closed: bool) -> Came {
        let line = &mut self.lines[number];
        let owed = line.due.is_some();
        let broken = |reason: String| Came::Broken { owed, reason };
        let mut bytes = 0;
        loop {
            let read = match line.stream.read(&mut self.buffer) {
                Ok(0) => return broken("closed by the other side".to_owned()),
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Came::Some(bytes),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return broken(e.to_string()),
            };
            if !owed {
                return broken("bytes that nobody asked for".to_owned());
            }
            let end = match line.reply.take(&self.buffer[..read]) {
                Ok(end) => end,
                Err(reason) => return broken(reason),
            };
            bytes += line.reply.drain_body();
            if let (true, Some(due)) = (end, line.due) {
                line.due = None;
                return Came::All { due, bytes };
            }
            if read < self.buffer.len() && !closed {
                return Came::Some(bytes);
            }
        }
    }
}
