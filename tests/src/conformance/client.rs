//! A client's connection: writes bytes as they are, keeps each byte that comes and how it ended.
//!
//! A thread of its own reads, so that an answer that comes early is seen while a request is being written.
//! Dropping the connection ends both.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest a write may be stuck: an agent that neither reads nor closes is a failure, not a wait.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// How the peer ended the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In good order.
    Fin,
    /// By a reset.
    Reset,
}

#[derive(Debug, Default)]
struct Got {
    bytes: Vec<u8>,
    end: Option<End>,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    got: Arc<(Mutex<Got>, Condvar)>,
    gone: bool,
}

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        let got: Arc<(Mutex<Got>, Condvar)> = Arc::default();
        let (mut reading, shared) = (stream.try_clone()?, Arc::clone(&got));
        std::thread::spawn(move || {
            let mut piece = [0; 64 * 1024];
            loop {
                let read = reading.read(&mut piece);
                let mut got = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
                match read {
                    Ok(0) => got.end = Some(End::Fin),
                    Ok(length) => got.bytes.extend_from_slice(&piece[..length]),
                    Err(_) => got.end = Some(End::Reset),
                }
                shared.1.notify_all();
                if got.end.is_some() {
                    return;
                }
            }
        });
        Ok(Self { stream, got, gone: false })
    }

    /// Writes.
    ///
    /// # Errors
    /// What the system said: the peer may have closed already.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Ends our side.
    pub fn half_close(&self) {
        // The peer may have closed all of it.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends it with a reset, as a client that crashed does.
    ///
    /// # Errors
    /// What the system said.
    pub fn reset(mut self) -> io::Result<()> {
        self.gone = true;
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        // Ends the reader; the last of the two that hold the socket resets it.
        self.stream.shutdown(Shutdown::Read)
    }

    /// Waits until `look` finds something in what came, or `within` is over; what came, in that case.
    ///
    /// # Errors
    /// The bytes and the end that there were.
    pub fn wait<T>(
        &self,
        within: Duration,
        mut look: impl FnMut(&[u8], Option<End>) -> Option<T>,
    ) -> Result<T, (Vec<u8>, Option<End>)> {
        let until = Instant::now() + within;
        let mut got = self.got.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = look(&got.bytes, got.end) {
                return Ok(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err((got.bytes.clone(), got.end));
            }
            got = self.got.1.wait_timeout(got, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What came so far.
    #[must_use]
    pub fn got(&self) -> (Vec<u8>, Option<End>) {
        let got = self.got.0.lock().unwrap_or_else(PoisonError::into_inner);
        (got.bytes.clone(), got.end)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.gone {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }
}
