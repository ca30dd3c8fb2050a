//! Sockets: questions come in, answers go out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::Shared;
use super::answer::{Verdict, answer, failure};
use super::forward::{Unanswered, next_message, write_message};

/// TCP connections at once; beyond it they wait in the kernel.
const MAX_CONNECTIONS: usize = 128;
/// A TCP connection without a question for so long is closed (RFC 7766 section 6.2.3: seconds).
const IDLE: Duration = Duration::from_secs(10);
/// After an error of the socket, which may be one without end.
const PAUSE: Duration = Duration::from_millis(50);
/// Datagrams whose question is being forwarded; beyond it they are dropped, and asked again.
const MAX_FORWARDED: usize = 1024;

/// Answers datagrams.
pub(super) async fn datagrams(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let forwarded = Arc::new(Semaphore::new(MAX_FORWARDED));
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let (n, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "datagram not received");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match shared.decide(&buffer[..n]) {
            Verdict::Reply(reply, outcome) => {
                shared.metrics.question(outcome);
                send(&socket, &reply, client).await;
            }
            Verdict::Ignore => shared.metrics.question("wrong"),
            Verdict::Forward => {
                let Ok(turn) = forwarded.clone().try_acquire_owned() else {
                    shared.metrics.dropped.get_or_create(&[("queue", "dns_forwards")]).inc();
                    continue;
                };
                let (shared, socket) = (shared.clone(), socket.clone());
                let query = buffer[..n].to_vec();
                tokio::spawn(async move {
                    let _turn = turn;
                    if let Some(reply) = shared.forward(&query, false).await {
                        send(&socket, &reply, client).await;
                    }
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    // A program that is gone waits for no answer.
    let _ = socket.send_to(reply, client).await;
}

/// Accepts connections.
pub(super) async fn connections(shared: Arc<Shared>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropping the set with the task closes every connection.
    let mut open = tokio::task::JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                open.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = connection(&shared, stream).await {
                        tracing::trace!(%error, "DNS connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "DNS connection not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    while let Some(query) = next_message(&mut stream, IDLE).await? {
        let reply = match shared.decide(&query) {
            Verdict::Reply(reply, outcome) => {
                shared.metrics.question(outcome);
                Some(reply)
            }
            Verdict::Forward => shared.forward(&query, true).await,
            Verdict::Ignore => {
                shared.metrics.question("wrong");
                None
            }
        };
        match reply {
            Some(reply) => write_message(&mut stream, &reply).await?,
            None => return Ok(()),
        }
    }
    Ok(())
}

impl Shared {
    fn decide(&self, query: &[u8]) -> Verdict {
        let address = self.config.load().address;
        answer(query, address, |service, over| self.directory.find(service, over))
    }

    async fn forward(&self, query: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let config = self.config.load_full();
        match self.forwarder.ask(&config.resolvers, query, over_tcp).await {
            Ok(reply) => {
                self.metrics.question("forwarded");
                Some(reply)
            }
            Err(why) => {
                tracing::debug!(error = %why, "question not forwarded");
                self.metrics.question("unforwarded");
                failure(query, matches!(why, Unanswered::NoResolver))
            }
        }
    }
}
