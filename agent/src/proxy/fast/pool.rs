//! Connections to our own applications, kept for the next request.
//!
//! One pool per data thread, so that a connection is used where its readiness is reported. A kept
//! connection on which anything came, its end included, is not used again; one that has rested for long is
//! not used for a request that must not be repeated: the application may be closing it at this very moment.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::coop::unconstrained;
use tokio::time::timeout;

use super::timer::Timer;
use crate::link::lock;
use crate::pipe::{AppAddress, Pipe};
use crate::threads::slot;

/// On loopback a connection stands at once or the application is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Shorter than the keep-alive of common servers (5 s and more), so that we close first.
const IDLE: Duration = Duration::from_secs(4);
/// For requests that must not be repeated.
const IDLE_UNSAFE: Duration = Duration::from_millis(500);
/// Applications that close connections for their age give them longer than this.
const STALE: Duration = Duration::from_millis(100);
/// Idle connections kept per application and thread.
const KEPT: usize = 256;
/// A connection keeps a read buffer up to this size.
const KEPT_BUFFER: usize = 16 * 1024;

/// A connection to an application.
pub(super) struct AppConnection {
    pub(super) stream: Pipe,
    /// What was read and not yet understood; empty between requests.
    pub(super) buffer: BytesMut,
    /// What goes to a caller next; empty between requests.
    pub(super) out: BytesMut,
    pub(super) timer: Timer,
    /// How long it had rested when it was taken again. An application that closes the connection after
    /// less than [`STALE`] does not do so for its age.
    rested: Duration,
    since: Instant,
}

impl AppConnection {
    /// Whether an end that comes instead of an answer may have been under way before the request was.
    pub(super) fn may_be_stale(&self) -> bool {
        self.rested >= STALE
    }

    /// Whether nothing has come since it was put away.
    async fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        let stream = &mut self.stream;
        let quiet =
            poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut read).is_pending()));
        // Pending means that nothing came, not that the task had its share of the thread.
        unconstrained(quiet).await
    }
}

/// The pools of all data threads.
pub(crate) struct Pools(Vec<Mutex<HashMap<AppAddress, Vec<AppConnection>>>>);

impl Pools {
    pub(crate) fn new(threads: usize) -> Self {
        Self((0..threads.max(1)).map(|_| Mutex::default()).collect())
    }

    fn own(&self) -> &Mutex<HashMap<AppAddress, Vec<AppConnection>>> {
        &self.0[slot() % self.0.len()]
    }

    /// A connection that stands, or a new one. `fresh`: only a new one will do.
    pub(super) async fn take(
        &self,
        to: &AppAddress,
        repeatable: bool,
        fresh: bool,
    ) -> io::Result<AppConnection> {
        if !fresh && let Some(kept) = self.kept(to, repeatable).await {
            return Ok(kept);
        }
        let stream = timeout(CONNECT_LIMIT, to.connect())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))??;
        Ok(AppConnection {
            stream,
            buffer: BytesMut::new(),
            out: BytesMut::new(),
            timer: Timer::default(),
            rested: Duration::ZERO,
            since: Instant::now(),
        })
    }

    async fn kept(&self, to: &AppAddress, repeatable: bool) -> Option<AppConnection> {
        let rest = if repeatable { IDLE } else { IDLE_UNSAFE };
        loop {
            let mut kept = lock(self.own()).get_mut(to).and_then(Vec::pop)?;
            if kept.since.elapsed() < rest && kept.is_quiet().await {
                kept.rested = kept.since.elapsed();
                return Some(kept);
            }
        }
    }

    /// Keeps a connection whose answer is read to its end.
    pub(super) fn put(&self, to: &AppAddress, mut connection: AppConnection) {
        if !connection.buffer.is_empty() {
            return;
        }
        for buffer in [&mut connection.buffer, &mut connection.out] {
            buffer.clear();
            if buffer.capacity() > KEPT_BUFFER {
                *buffer = BytesMut::new();
            }
        }
        connection.since = Instant::now();
        let mut pool = lock(self.own());
        if !pool.contains_key(to) {
            pool.insert(to.clone(), Vec::new());
        }
        let Some(kept) = pool.get_mut(to) else { return };
        if kept.len() < KEPT {
            kept.push(connection);
        }
    }

    /// Closes what has rested too long. To be called now and then.
    pub(crate) fn sweep(&self) {
        for pool in &self.0 {
            let mut pool = lock(pool);
            pool.values_mut().for_each(|kept| kept.retain(|c| c.since.elapsed() < IDLE));
            pool.retain(|_, kept| !kept.is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn of_many_connections_that_an_application_closed_none_is_taken_for_living() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = AppAddress::from(listener.local_addr().unwrap());
        let pools = Pools::new(1);
        let mut open = Vec::new();
        for _ in 0..KEPT {
            let connection = pools.take(&address, true, true).await.unwrap();
            open.push((listener.accept().await.unwrap().0, connection));
        }
        for (accepted, mut connection) in open {
            drop(accepted);
            // The end is here, and was not looked at by the pool.
            let Pipe::Tcp(stream) = &mut connection.stream else { unreachable!("it is a port") };
            assert_eq!(stream.peek(&mut [0]).await.unwrap(), 0);
            pools.put(&address, connection);
        }
        let taken = pools.take(&address, true, false).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        drop(taken);
        assert_eq!(accepted.read(&mut [0]).await.unwrap(), 0, "it is a new one");
    }
}
