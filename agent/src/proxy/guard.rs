//! A client's connection as hyper sees it: what [`Scan`] lets through, and nothing else.
//!
//! Owns the socket on hyper's behalf. A request that is refused is replaced by one that the service
//! recognises ([`Control::refused`]), so that the refusal is told in its turn, behind the answers to the
//! requests before it, with a `Proxy-Status` like every answer of ours. After a refusal the connection is
//! closed in a way that lets the client read it: the rest of what it sends is read and thrown away for a
//! while.
//!
//! Interim answers (1xx), which hyper's server cannot send, are written here between hyper's own writes:
//! when hyper has flushed all it had, and the service has not answered yet.
//!
//! No task of its own; dropping it closes the connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use http::StatusCode;
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, sleep_until};

use super::scan::{Look, MAX_HEAD, Refusal, Scan, substitute};
use crate::link::lock;
use crate::pipe::Pipe;

/// A head that has begun must be complete within this.
pub(crate) const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Interim answers that wait for a client to read.
const MAX_UNREAD: usize = 64 * 1024;
/// After a refusal the client has so long to stop sending and read it.
const LINGER: Duration = Duration::from_secs(2);
/// Read at once, on the stack: an idle connection keeps no buffer.
const READ: usize = 32 * 1024;

/// What hyper takes for no chunk, no end of a chunk and no trailers: the body it reads ends in an error,
/// and the request can still be answered.
const NO_BODY: &[u8] = b"\0\r\n\r\n";

/// What the service and its connection tell each other.
#[derive(Debug, Default)]
pub(crate) struct Control(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    refusal: Option<Refusal>,
    upgraded: Option<bool>,
    /// Interim answers to be written before the answer.
    interim: BytesMut,
    /// What comes to its end has not ended in good order.
    broken: bool,
}

impl Control {
    /// Why the connection's last request was refused, if it was.
    pub(crate) fn refused(&self) -> Option<Refusal> {
        lock(&self.0).refusal.clone()
    }

    /// A request to upgrade was answered: whether the connection is another protocol's from now on.
    pub(crate) fn upgraded(&self, accepted: bool) {
        lock(&self.0).upgraded = Some(accepted);
    }

    /// The connection, another protocol's by now, is to look broken to the client when it is dropped.
    pub(crate) fn broke(&self) {
        lock(&self.0).broken = true;
    }

    /// Has an interim answer written, unless the answer comes first or a client that does not read has too
    /// many to read already: they are hints.
    pub(crate) fn interim(&self, bytes: &[u8]) {
        let interim = &mut lock(&self.0).interim;
        if interim.len() + bytes.len() <= MAX_UNREAD {
            interim.extend_from_slice(bytes);
        }
    }

    /// The answer is there: what was not written before it never will be.
    pub(crate) fn answered(&self) {
        lock(&self.0).interim.clear();
    }
}

/// How the connection goes on.
#[derive(Debug)]
enum Course {
    Passing,
    /// Something was refused: nothing is read any more.
    Refused,
    /// The same, and all was written.
    Lingering(Pin<Box<Sleep>>),
}

/// What was read of a connection before it was guarded.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    pub(crate) read: BytesMut,
    /// When the request began that it is the beginning of.
    pub(crate) since: Option<Instant>,
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Guard {
    io: Pipe,
    scan: Scan,
    /// Read and not let through yet.
    raw: BytesMut,
    /// Let through and not taken by hyper yet.
    out: BytesMut,
    control: Arc<Control>,
    course: Course,
    /// When the first head began, where that was before it came here.
    began: Option<Instant>,
    head_limit: Option<Pin<Box<Sleep>>>,
    /// An interim answer that is being written.
    interim: BytesMut,
}

impl Guard {
    /// Guards a connection of which `ahead` was read already.
    pub(crate) fn new(io: Pipe, ahead: Ahead) -> (Self, Arc<Control>) {
        let control = Arc::new(Control::default());
        let guard = Self {
            io,
            scan: Scan::new(),
            raw: ahead.read,
            out: BytesMut::new(),
            control: control.clone(),
            course: Course::Passing,
            began: ahead.since,
            head_limit: None,
            interim: BytesMut::new(),
        };
        (guard, control)
    }

    fn refuse(&mut self, refusal: Refusal) {
        lock(&self.control.0).refusal = Some(refusal);
        self.raw = BytesMut::new();
        self.out.extend_from_slice(&substitute());
        self.course = Course::Refused;
        self.head_limit = None;
    }

    /// Looks at what was read. `false`: nothing more can be let through now, and nothing more be read.
    fn look(&mut self) -> bool {
        if let Some(accepted) = lock(&self.control.0).upgraded.take() {
            self.scan.decide(accepted);
        }
        match self.scan.look(&mut self.raw, &mut self.out) {
            Look::More => true,
            Look::Held => self.raw.len() <= MAX_HEAD,
            Look::Head(refusal) => {
                self.refuse(refusal);
                true
            }
            Look::Body(refusal) => {
                tracing::debug!(why = refusal.why, "a client's body is none");
                self.raw = BytesMut::new();
                self.out.extend_from_slice(NO_BODY);
                self.course = Course::Refused;
                true
            }
        }
    }

    /// Whether a head has taken too long. Looked at when nothing more is there to be read.
    fn head_is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.scan.within_head(&self.raw) {
            (self.began, self.head_limit) = (None, None);
            return false;
        }
        let began = &mut self.began;
        let limit = self.head_limit.get_or_insert_with(|| {
            Box::pin(match began.take() {
                Some(began) => sleep_until((began + HEAD_LIMIT).into()),
                None => sleep(HEAD_LIMIT),
            })
        });
        limit.as_mut().poll(cx).is_ready()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if lock(&self.control.0).broken {
            self.io.abort();
        }
    }
}

impl hyper::rt::Read for Guard {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let may_read = match this.course {
                Course::Passing if this.out.is_empty() => this.look(),
                _ => true,
            };
            if !this.out.is_empty() {
                let n = this.out.len().min(to.remaining());
                to.put_slice(&this.out[..n]);
                this.out.advance(n);
                if this.out.is_empty() {
                    // Lets go of the memory that `raw` would grow in.
                    this.out = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if !matches!(this.course, Course::Passing) || !may_read {
                // The service's answer closes the connection, or frees what is held.
                return Poll::Pending;
            }
            let mut scratch = [std::mem::MaybeUninit::uninit(); READ];
            let mut read = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut this.io).poll_read(cx, &mut read)? {
                Poll::Ready(()) if read.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(()) => this.raw.extend_from_slice(read.filled()),
                Poll::Pending if this.head_is_late(cx) => {
                    let why = format!("its head was not complete within {HEAD_LIMIT:?}");
                    this.refuse(Refusal::new(StatusCode::REQUEST_TIMEOUT, why));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Guard {
    /// Writes what is left of an interim answer: nothing else may come between its bytes.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.interim))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.interim.advance(n),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and throws away until the client stops or has had its time.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Course::Lingering(limit) = &mut self.course else { return Poll::Ready(Ok(())) };
        if limit.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut scratch = [std::mem::MaybeUninit::uninit(); READ];
            let mut read = ReadBuf::uninit(&mut scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl hyper::rt::Write for Guard {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.io).poll_write(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.io).poll_write_vectored(cx, pieces)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes when it has written all it has: here its bytes and ours cannot mix.
        if this.interim.is_empty() {
            this.interim = lock(&this.control.0).interim.split();
        }
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !matches!(this.course, Course::Lingering(_)) {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            if matches!(this.course, Course::Refused) {
                this.course = Course::Lingering(Box::pin(sleep(LINGER)));
            }
        }
        this.poll_linger(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use hyper::rt::Write as _;

    use super::*;

    #[tokio::test]
    async fn hints_for_a_client_that_does_not_read_are_left_out() {
        let (_client, io) = tokio::io::duplex(16);
        let (mut guard, control) = Guard::new(Pipe::Tunnel(Box::new(io)), Ahead::default());
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            control.interim(&[b'a'; 10_000]);
            assert!(Pin::new(&mut guard).poll_flush(&mut cx).is_pending());
        }
        let kept = guard.interim.len() + lock(&control.0).interim.len();
        assert!(kept <= 2 * MAX_UNREAD, "{kept} bytes are kept");
    }
}
