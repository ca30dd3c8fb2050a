//! A scripted server: it reads requests strictly, keeps each byte of them, and answers what it was told.
//!
//! One thread accepts, one per connection serves; they end with the process. Scripts are given per case
//! with [`Application::load`], what was seen is taken with [`Application::take`]. Requests for
//! [`SENTINEL`] are answered always and never noted: they show that a connection is still in step.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::wire::{Body, Framing, Head, Read, framing, head};

/// The target of requests that are outside all scripts.
pub const SENTINEL: &str = "/hearth-sentinel";
/// What is answered to them.
pub const SENTINEL_BODY: &str = "in step";
/// Bytes kept per request for reports.
const KEPT: usize = 256 * 1024;

/// Holds an application back until somebody opens it, once per passage.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<usize>, Condvar)>);

impl Gate {
    /// Lets one through.
    pub fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.1.notify_all();
    }

    /// Waits to be let through; false when nobody did in time.
    fn pass(&self) -> bool {
        const LONG: Duration = Duration::from_secs(20);
        let open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(open, LONG, |open| *open == 0);
        let (mut open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let passed = *open > 0;
        *open = open.saturating_sub(1);
        passed
    }
}

/// One thing the application does for a request.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads the request's body to its end.
    Body,
    /// Writes.
    Send(Vec<u8>),
    /// Writes the same bytes so many times.
    Repeat(Vec<u8>, usize),
    /// Lets time pass, so that what is written next is read apart.
    Pause(Duration),
    /// Ends the connection.
    Close,
    /// Ends it with a reset.
    Reset,
    /// Goes on once it is let through; else ends the connection.
    Gate(Gate),
    /// Sends the request's content back in chunks, as it comes.
    EchoChunks,
    /// Sends back whatever comes, up to its end, and then ends its own side.
    Echo,
    /// Reads whatever comes until the peer is gone.
    UntilGone,
}

/// What is done for one request.
#[derive(Debug, Clone)]
pub struct Script {
    /// For this target only; else in the order of arrival.
    pub target: Option<String>,
    /// One after the other.
    pub steps: Vec<Step>,
}

impl Script {
    /// Reads the whole request, then writes these bytes.
    #[must_use]
    pub fn answer(bytes: impl AsRef<[u8]>) -> Self {
        Self { target: None, steps: vec![Step::Body, Step::Send(bytes.as_ref().to_vec())] }
    }

    /// These steps.
    #[must_use]
    pub fn steps(steps: impl Into<Vec<Step>>) -> Self {
        Self { target: None, steps: steps.into() }
    }

    /// The same for this target only.
    #[must_use]
    pub fn at(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// On which connection.
    pub connection: u64,
    /// Line and fields.
    pub head: Head,
    /// Its content.
    pub body: Vec<u8>,
    /// The fields after it.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// Whether all of it came.
    pub whole: bool,
    /// Each byte of it (the first 256 KiB).
    pub raw: Vec<u8>,
    /// What came after an answer that ended HTTP on the connection.
    pub tunnelled: Vec<u8>,
    /// When its sender was seen to be gone, if the script looked.
    pub gone: Option<Instant>,
}

impl Request {
    /// Its method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.head.words().first().copied().unwrap_or("")
    }

    /// Its target.
    #[must_use]
    pub fn target(&self) -> &str {
        self.head.words().get(1).copied().unwrap_or("")
    }
}

#[derive(Debug, Default)]
struct State {
    scripts: Vec<Script>,
    answered: usize,
    requests: Vec<Request>,
    faults: Vec<String>,
    connections: u64,
}

/// A running one. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Application {
    /// Starts one on a free port of the loopback.
    ///
    /// # Errors
    /// What the system said.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let app = Self { address: listener.local_addr()?, state: Arc::default() };
        let serving = app.clone();
        std::thread::spawn(move || {
            let ids = AtomicU64::new(0);
            for stream in listener.incoming().flatten() {
                let (id, app) = (ids.fetch_add(1, Ordering::Relaxed), serving.clone());
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    // How a connection ends is seen in what was noted.
                    let _ = Serving { app, id, stream, buffer: Vec::new() }.run();
                });
            }
        });
        Ok(app)
    }

    /// Forgets what was seen and answers by these scripts from now on; 200 `ok` where none fits.
    pub fn load(&self, scripts: Vec<Script>) {
        let mut state = self.lock();
        let connections = state.connections;
        *state = State { scripts, connections, ..State::default() };
    }

    /// The requests noted so far, and what was wrong with what came.
    #[must_use]
    pub fn take(&self) -> (Vec<Request>, Vec<String>) {
        let state = self.lock();
        (state.requests.clone(), state.faults.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request and picks what is done for it.
    fn arrived(&self, request: Request) -> (usize, Vec<Step>) {
        let mut state = self.lock();
        let target = request.target().to_owned();
        if request.head.all("host").len() != 1 {
            state.faults.push(format!("{target}: not one Host field"));
        }
        state.requests.push(request);
        let noted = state.requests.len() - 1;
        let by_target = state.scripts.iter().find(|s| s.target.as_ref() == Some(&target)).cloned();
        let script = by_target.or_else(|| {
            let next = state.answered;
            state.answered += 1;
            state.scripts.iter().filter(|s| s.target.is_none()).nth(next).cloned()
        });
        let script = script.unwrap_or_else(|| Script::answer(ok("ok")));
        (noted, script.steps)
    }

    fn change(&self, noted: usize, change: impl FnOnce(&mut Request)) {
        // A case that is over has taken its requests with it.
        if let Some(request) = self.lock().requests.get_mut(noted) {
            change(request);
        }
    }
}

/// 200 with this content.
#[must_use]
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

struct Serving {
    app: Application,
    id: u64,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Serving {
    fn run(mut self) -> io::Result<()> {
        loop {
            let head = loop {
                match head(&self.buffer) {
                    Read::Whole(head, used) => break (head, self.buffer.drain(..used).collect()),
                    Read::Wrong(why) => {
                        let bytes = super::wire::shown(&self.buffer);
                        self.app.lock().faults.push(format!("no request: {why}: {bytes}"));
                        return Ok(());
                    }
                    Read::More if self.more()? => {}
                    Read::More => return Ok(()),
                }
            };
            if !self.serve(head.0, head.1)? {
                return Ok(());
            }
        }
    }

    /// Reads on; false at the end.
    fn more(&mut self) -> io::Result<bool> {
        let mut piece = [0; 16 * 1024];
        let length = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..length]);
        Ok(length > 0)
    }

    /// Whether the connection goes on after it.
    fn serve(&mut self, head: Head, raw: Vec<u8>) -> io::Result<bool> {
        let mut body = match framing(&head, Framing::Nothing) {
            Ok(framing) => Body::new(framing),
            Err(why) => {
                self.app.lock().faults.push(format!("{}: {why}", head.line));
                return Ok(false);
            }
        };
        if head.words().get(1) == Some(&SENTINEL) {
            self.stream.write_all(ok(SENTINEL_BODY).as_bytes())?;
            return Ok(true);
        }
        let request = Request {
            connection: self.id,
            whole: body.done(),
            head,
            raw,
            body: Vec::new(),
            trailers: Vec::new(),
            tunnelled: Vec::new(),
            gone: None,
        };
        let (noted, steps) = self.app.arrived(request);
        for step in steps {
            if !self.step(noted, &mut body, step)? {
                return Ok(false);
            }
        }
        self.rest(noted, &mut body)?;
        Ok(body.done())
    }

    fn step(&mut self, noted: usize, body: &mut Body, step: Step) -> io::Result<bool> {
        match step {
            Step::Body => {
                self.rest(noted, body)?;
                return Ok(body.done());
            }
            Step::Send(bytes) => self.stream.write_all(&bytes)?,
            Step::Repeat(bytes, times) => {
                for _ in 0..times {
                    if let Err(error) = self.stream.write_all(&bytes) {
                        self.app.change(noted, |r| r.gone = Some(Instant::now()));
                        return Err(error);
                    }
                }
            }
            Step::Pause(time) => std::thread::sleep(time),
            Step::Close => {
                self.stream.shutdown(Shutdown::Both)?;
                return Ok(false);
            }
            Step::Reset => {
                socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
                return Ok(false);
            }
            Step::Gate(gate) => return Ok(gate.pass()),
            Step::EchoChunks => self.echo_chunks(noted, body)?,
            Step::Echo => return self.echo(noted).map(|()| false),
            Step::UntilGone => {
                let mut piece = [0; 64 * 1024];
                while matches!(self.stream.read(&mut piece), Ok(1..)) {}
                self.app.change(noted, |r| r.gone = Some(Instant::now()));
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn echo(&mut self, noted: usize) -> io::Result<()> {
        loop {
            let piece = std::mem::take(&mut self.buffer);
            self.stream.write_all(&piece)?;
            self.app.change(noted, |r| r.tunnelled.extend_from_slice(&piece));
            if !self.more()? {
                return self.stream.shutdown(Shutdown::Write);
            }
        }
    }

    fn echo_chunks(&mut self, noted: usize, body: &mut Body) -> io::Result<()> {
        self.stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        self.each(noted, body, |stream, content| {
            let size = format!("{:x}\r\n", content.len());
            stream.write_all(&[size.as_bytes(), content, b"\r\n"].concat())
        })?;
        self.stream.write_all(b"0\r\n\r\n")
    }

    /// Reads the rest of a request's body.
    fn rest(&mut self, noted: usize, body: &mut Body) -> io::Result<()> {
        self.each(noted, body, |_, _| Ok(()))
    }

    /// Reads the rest of a request's body, piece by piece.
    fn each(
        &mut self,
        noted: usize,
        body: &mut Body,
        mut take: impl FnMut(&mut TcpStream, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            let mut content = Vec::new();
            let fed = body.feed(&self.buffer, |data| content.extend_from_slice(data));
            let used = match fed {
                Ok(used) => used,
                Err(why) => {
                    self.app.lock().faults.push(format!("a body: {why}"));
                    return Err(io::Error::other(why));
                }
            };
            let raw: Vec<u8> = self.buffer.drain(..used).collect();
            let (whole, trailers) = (body.done(), body.trailers.clone());
            self.app.change(noted, |request| {
                if request.raw.len() < KEPT {
                    request.raw.extend_from_slice(&raw);
                }
                request.body.extend_from_slice(&content);
                (request.whole, request.trailers) = (whole, trailers);
            });
            if !content.is_empty() {
                take(&mut self.stream, &content)?;
            }
            if body.done() {
                return Ok(());
            }
            match self.more() {
                Ok(true) => {}
                end => {
                    self.app.change(noted, |r| r.gone = Some(Instant::now()));
                    return end.map(drop);
                }
            }
        }
    }
}
