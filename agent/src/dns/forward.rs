//! Questions about other zones: passed on as they came, one resolver after the other.
//!
//! What comes back is believed only from the resolver that was asked (the socket is connected to it), to a
//! port and an id that nobody could guess, about the question that was put (RFC 5452). A truncated answer
//! goes back as it is: the program asks again over TCP, and so do we. Bounded: questions under way, time
//! per try and in all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};

use super::answer::{answers, is_unhelpful};
use super::resolv::{is_stub, resolvers};
use crate::config::Resolvers;

/// Questions under way at once; each holds a socket.
const MAX_UNDER_WAY: usize = 512;
/// One resolver has so long: above the round trip of any sane path, so that a lost datagram costs this.
const TRY_LIMIT: Duration = Duration::from_millis(1_500);
/// A question has so long in all: the C library's own patience is 5 s, and it should hear from us first.
const WHOLE_LIMIT: Duration = Duration::from_millis(4_500);
/// How often the system's file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const SYSTEM: &str = "/etc/resolv.conf";
/// Where systemd-resolved writes the resolvers that its stub stands for.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// Nobody is there to be asked.
    #[error("no resolver is known")]
    NoResolver,
    /// Too many questions are under way.
    #[error("{MAX_UNDER_WAY} questions are under way")]
    Full,
    /// Nobody answered in time.
    #[error("no resolver answered: {0}")]
    Silent(String),
}

/// What the system's file said, and when it was read.
struct Read {
    at: Instant,
    resolvers: Vec<SocketAddr>,
}

/// Asks others.
pub(super) struct Forwarder {
    own: SocketAddr,
    under_way: Semaphore,
    system: ArcSwapOption<Read>,
}

impl Forwarder {
    /// One that never asks `own`, the server's own port.
    pub(super) fn new(own: SocketAddr) -> Self {
        let under_way = Semaphore::new(MAX_UNDER_WAY);
        Self { own, under_way, system: ArcSwapOption::empty() }
    }

    /// Has `query` answered.
    pub(super) async fn ask(
        &self,
        resolvers: &Resolvers,
        query: &[u8],
        over_tcp: bool,
    ) -> Result<Vec<u8>, Unanswered> {
        let _turn = self.under_way.try_acquire().map_err(|_| Unanswered::Full)?;
        let resolvers = match resolvers {
            Resolvers::These(these) => these.clone(),
            Resolvers::System => self.system(Instant::now()).await,
        };
        let usable: Vec<_> = resolvers.into_iter().filter(|r| !self.is_us(*r)).collect();
        if usable.is_empty() {
            return Err(Unanswered::NoResolver);
        }
        let mut last = Unanswered::Silent("out of time".into());
        let mut unhelpful = None;
        let all = async {
            // Twice, since a datagram may be lost; over TCP nothing is.
            let rounds = if over_tcp { 1 } else { 2 };
            for resolver in usable.iter().cycle().take(usable.len() * rounds) {
                match timeout(TRY_LIMIT, one(*resolver, query, over_tcp)).await {
                    Ok(Ok(reply)) if is_unhelpful(&reply) => unhelpful = Some(reply),
                    Ok(Ok(reply)) => return Some(reply),
                    Ok(Err(error)) => last = Unanswered::Silent(format!("{resolver}: {error}")),
                    Err(_) => last = Unanswered::Silent(format!("{resolver} was silent")),
                }
            }
            None
        };
        let answered = timeout(WHOLE_LIMIT, all).await.ok().flatten();
        answered.or(unhelpful).ok_or(last)
    }

    fn is_us(&self, resolver: SocketAddr) -> bool {
        let here = self.own.ip() == resolver.ip()
            || self.own.ip().is_unspecified() && resolver.ip().is_loopback();
        here && self.own.port() == resolver.port()
    }

    async fn system(&self, now: Instant) -> Vec<SocketAddr> {
        if let Some(read) = &*self.system.load()
            && now.saturating_duration_since(read.at) < LOOK_EVERY
        {
            return read.resolvers.clone();
        }
        let of = async |path: &str| {
            // A file that is not there names nobody.
            resolvers(&tokio::fs::read_to_string(path).await.unwrap_or_default())
        };
        let mut found = of(SYSTEM).await;
        if is_stub(&found) {
            let behind = of(BEHIND_STUB).await;
            found = if behind.is_empty() { found } else { behind };
        }
        self.system.store(Some(Arc::new(Read { at: now, resolvers: found.clone() })));
        found
    }
}

/// Asks one resolver under an id of our own, and gives the answer back under the program's.
async fn one(resolver: SocketAddr, query: &[u8], over_tcp: bool) -> io::Result<Vec<u8>> {
    let id: u16 = rand::random();
    let mut sent = query.to_vec();
    let Some(place) = sent.get_mut(..2) else { return Err(io::ErrorKind::InvalidData.into()) };
    place.copy_from_slice(&id.to_be_bytes());
    let mut reply = match over_tcp {
        true => by_stream(resolver, &sent, query, id).await?,
        false => by_datagram(resolver, &sent, query, id).await?,
    };
    // Proof: what `answers` took has a whole header.
    reply[..2].copy_from_slice(&query[..2]);
    Ok(reply)
}

async fn by_datagram(
    resolver: SocketAddr,
    sent: &[u8],
    query: &[u8],
    id: u16,
) -> io::Result<Vec<u8>> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of the system's choice, another one for each question.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(sent).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let n = socket.recv(&mut buffer).await?;
        if answers(&buffer[..n], query, id) {
            buffer.truncate(n);
            return Ok(buffer);
        }
        // A forgery, or late: the right one may still come.
    }
}

async fn by_stream(
    resolver: SocketAddr,
    sent: &[u8],
    query: &[u8],
    id: u16,
) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_message(&mut stream, sent).await?;
    let reply = read_message(&mut stream).await?;
    match answers(&reply, query, id) {
        true => Ok(reply),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "it answered something else")),
    }
}

/// RFC 1035 section 4.2.2: two bytes of length, then the message.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    // As one write: some resolvers take a segment for a message.
    let mut whole = Vec::with_capacity(message.len() + 2);
    whole.extend_from_slice(&length.to_be_bytes());
    whole.extend_from_slice(message);
    stream.write_all(&whole).await
}

/// The same for a program that may be slow: both halves within `limit`.
pub(super) async fn next_message(
    stream: &mut TcpStream,
    limit: Duration,
) -> io::Result<Option<Vec<u8>>> {
    let deadline = tokio::time::Instant::now() + limit;
    match timeout_at(deadline, read_message(stream)).await {
        Ok(Ok(message)) => Ok(Some(message)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(None),
    }
}
