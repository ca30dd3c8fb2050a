//! A mesh link from its Hello to its end: messages, datagrams, and the control plane's visits.
//!
//! Each link has a reader of streams, a reader of datagrams and a writer; they end with the connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::ids::{Identity, NodeName};
use hearth_proto::wire::{self, Message};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::dial::explain;
use super::line::Line;
use super::peer::{Lost, Peer};
use super::sense::{self, Heard};
use super::settle::Verdict;
use super::{CloseCode, Farewell, LinkEvent, Shared, dial, monitor};

/// Messages waiting to be written on one link.
const OUTBOX: usize = 64;
/// Messages of one link read, or written, at once.
const CONCURRENT: usize = 8;
/// A message that takes longer is given up.
const MESSAGE_LIMIT: Duration = Duration::from_secs(10);
/// A link that gave way to another still delivers what is under way on it.
const RETIRE_AFTER: Duration = Duration::from_secs(1);
/// Hellos take a round trip; past this the peer does not mean to talk.
pub(crate) const HELLO_LIMIT: Duration = Duration::from_secs(1);
/// A Hello is small.
const MAX_HELLO: usize = 1024;
/// Documents of one visit of the control plane wait so long for the driver's answer.
const REPLY_LIMIT: Duration = Duration::from_secs(10);

/// Exchanges Hellos, settles which link stays, and starts what serves it. The error says what went
/// wrong; the connection is closed then.
pub(crate) async fn establish(
    shared: &Arc<Shared>,
    connection: &Connection,
    name: &NodeName,
    dialled_here: bool,
) -> Result<(), String> {
    let exchanged = timeout(HELLO_LIMIT, exchange(shared, connection)).await;
    let hello = match exchanged.unwrap_or_else(|_| Err("no Hello came in time".into())) {
        Ok(hello) => hello,
        Err(why) => {
            connection.close(CloseCode::Refused.code(), why.as_bytes());
            return Err(why);
        }
    };
    let (line, remote) = (Line::Quic(connection.clone()), connection.remote_address());
    let admitted = admit(shared, &line, name, dialled_here, hello, remote).await?;
    for datagram in admitted.datagrams {
        let _ = connection.send_datagram(datagram);
    }
    serve(shared, connection, &admitted.peer, admitted.queue, admitted.messages);
    shared.monitor.look(&admitted.peer);
    Ok(())
}

/// A connection whose peer may talk to us.
pub(crate) struct Admitted {
    pub(crate) peer: Arc<Peer>,
    /// Messages to be written on it.
    pub(crate) queue: mpsc::Receiver<Bytes>,
    /// What waited for a link.
    pub(crate) datagrams: Vec<Bytes>,
    pub(crate) messages: Vec<Bytes>,
}

/// Settles which link stays and tells the driver. The error says why this one does not; it is closed then.
pub(crate) async fn admit(
    shared: &Arc<Shared>,
    line: &Line,
    name: &NodeName,
    dialled_here: bool,
    hello: wire::Hello,
    remote: SocketAddr,
) -> Result<Admitted, String> {
    let mut address = hello.address;
    if address.ip().is_unspecified() {
        address.set_ip(remote.ip());
    }
    let peer = shared.peer(name, address);
    let (outbox, queue) = mpsc::channel(OUTBOX);
    let registered = peer.register(shared.own(), line, dialled_here, &hello, address, outbox);
    match registered.verdict {
        Verdict::Refuse => {
            shared.metrics.refuse("old_generation");
            tracing::warn!(peer = %name, generation = hello.generation.0,
                reason = "old_generation", "handshake refused");
            line.close(CloseCode::OldGeneration, "an older generation than was seen");
            return Err("it presented an older generation than was seen".into());
        }
        Verdict::Keep => {
            // If the one we keep is dead and we did not notice, this will tell.
            peer.probe(address);
            shared.monitor.look(&peer);
            retire(line.clone());
        }
        Verdict::Supersede => {
            if let Some(old) = registered.retired {
                old.close(CloseCode::Superseded, "a newer start of the peer took over");
            }
        }
        Verdict::Replace => registered.retired.into_iter().for_each(retire),
    }
    shared.metrics.links.set(i64::try_from(count(shared)).unwrap_or(i64::MAX));
    if registered.up {
        let event = LinkEvent::Up { peer: name.clone(), hello, address };
        // A closed queue means that the driver is gone; the link may stay until the endpoint closes.
        let _ = shared.events.send(event).await;
    }
    let (datagrams, messages) = (registered.datagrams, registered.messages);
    Ok(Admitted { peer, queue, datagrams, messages })
}

async fn exchange(shared: &Shared, connection: &Connection) -> Result<wire::Hello, String> {
    let ours = Message::Hello(shared.hello.clone()).encode().map_err(|e| e.to_string())?;
    let say = async {
        let mut stream = connection.open_uni().await.map_err(|e| explain(&e))?;
        stream.write_all(&ours).await.map_err(|e| format!("Hello not sent: {e}"))?;
        stream.finish().map_err(|e| format!("Hello not sent: {e}"))
    };
    let hear = async {
        let mut stream = connection.accept_uni().await.map_err(|e| explain(&e))?;
        stream.read_to_end(MAX_HELLO).await.map_err(|e| format!("Hello not read: {e}"))
    };
    let ((), theirs) = tokio::try_join!(say, hear)?;
    read_hello(shared, &theirs)
}

/// The peer's Hello, if we understand each other.
pub(crate) fn read_hello(shared: &Shared, theirs: &[u8]) -> Result<wire::Hello, String> {
    match Message::decode(theirs) {
        Ok(Some(Message::Hello(hello))) => {
            let (low, high) = hello.protocol;
            if low > wire::PROTOCOL || high < shared.hello.protocol.0 {
                return Err(format!(
                    "it speaks protocol versions {low} to {high}, this agent {} to {}",
                    shared.hello.protocol.0, shared.hello.protocol.1
                ));
            }
            Ok(hello)
        }
        Ok(_) => Err("its first message was no Hello".into()),
        Err(error) => Err(format!("Hello not understood: {error}")),
    }
}

fn count(shared: &Shared) -> usize {
    shared.all().iter().filter(|p| super::lock(&p.state).mesh.is_some()).count()
}

fn retire(line: Line) {
    tokio::spawn(async move {
        if !line.closed_within(RETIRE_AFTER).await {
            line.close(CloseCode::Retired, "another link of the pair stays");
        }
    });
}

fn serve(
    shared: &Arc<Shared>,
    connection: &Connection,
    peer: &Arc<Peer>,
    queue: mpsc::Receiver<Bytes>,
    waiting: Vec<Bytes>,
) {
    tokio::spawn(write_messages(shared.clone(), connection.clone(), queue, waiting));
    tokio::spawn(read_datagrams(shared.clone(), connection.clone(), peer.clone()));
    let (shared, connection, peer) = (shared.clone(), connection.clone(), peer.clone());
    tokio::spawn(async move {
        let from = Identity::Node(peer.name.clone());
        read_messages(&shared, &connection, &from).await;
        let end = connection.closed().await;
        let line = Line::Quic(connection);
        ended(&shared, &peer, &line, explain(&end), farewell(&end)).await;
    });
}

/// A connection of a mesh link ended: tells the driver if the peer is without a link now, and dials anew
/// if somebody wants one.
pub(crate) async fn ended(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    line: &Line,
    reason: String,
    farewell: Farewell,
) {
    let now = Instant::now();
    // We were kept waiting until a moment ago: what the peer had to say on lanes lies unread.
    let unread = farewell == Farewell::None && shared.monitor.lateness.excuses(now, now);
    let lost = peer.unregister(line, if unread { Farewell::GivenUp } else { farewell });
    shared.metrics.links.set(i64::try_from(count(shared)).unwrap_or(i64::MAX));
    if let Lost::Link { farewell, given_up } = lost {
        let orderly = farewell == Farewell::Said;
        let reason = if given_up { explain(&ConnectionError::TimedOut) } else { reason };
        let event = LinkEvent::Down { peer: peer.name.clone(), reason, orderly };
        // A closed queue means that the driver is gone; nobody is left to tell.
        let _ = shared.events.send(event).await;
    }
    if lost != Lost::Nothing {
        dial::want_mesh(shared, peer);
    }
}

async fn write_messages(
    shared: Arc<Shared>,
    connection: Connection,
    mut queue: mpsc::Receiver<Bytes>,
    waiting: Vec<Bytes>,
) {
    let turns = Arc::new(Semaphore::new(CONCURRENT));
    let mut waiting = waiting.into_iter();
    loop {
        let bytes = match waiting.next() {
            Some(bytes) => bytes,
            None => match queue.recv().await {
                Some(bytes) => bytes,
                // The link was replaced; what was handed over is on its way.
                None => return,
            },
        };
        // The semaphore is never closed.
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let (shared, connection) = (shared.clone(), connection.clone());
        tokio::spawn(async move {
            let _turn = turn;
            if !matches!(timeout(MESSAGE_LIMIT, write_one(&connection, bytes)).await, Ok(Ok(()))) {
                shared.metrics.drop("messages_out");
            }
        });
    }
}

async fn write_one(connection: &Connection, bytes: Bytes) -> Result<(), quinn::WriteError> {
    let mut stream = connection.open_uni().await?;
    stream.write_chunk(bytes).await?;
    // Only a stream that is finished or reset already refuses, and this one is neither.
    let _ = stream.finish();
    Ok(())
}

/// Reads datagrams until the connection ends: of the driver, or the links' own pings.
pub(crate) async fn read_datagrams(shared: Arc<Shared>, connection: Connection, peer: Arc<Peer>) {
    while let Ok(bytes) = connection.read_datagram().await {
        match sense::sort(&bytes) {
            Heard::Ping(answer) => {
                super::lock(&peer.state).answer(&connection, answer, Instant::now());
                shared.monitor.look(&peer);
            }
            Heard::Pong(number) => monitor::pong(&shared, &peer, number),
            Heard::Other => {
                let event = LinkEvent::Datagram { from: peer.name.clone(), bytes };
                if shared.events.try_send(event).is_err() {
                    shared.metrics.drop("datagrams_in");
                }
            }
        }
    }
}

/// Accepts uni streams until the connection ends; a few are read at once.
async fn read_messages(shared: &Arc<Shared>, connection: &Connection, from: &Identity) {
    let turns = Arc::new(Semaphore::new(CONCURRENT));
    loop {
        // The semaphore is never closed.
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let Ok(stream) = connection.accept_uni().await else { return };
        let (shared, from) = (shared.clone(), from.clone());
        tokio::spawn(async move {
            let _turn = turn;
            if let Some(message) = read_one(stream, &from).await {
                let event = LinkEvent::Message { from, message, reply: None };
                // A closed queue means that the driver is gone.
                let _ = shared.events.send(event).await;
            }
        });
    }
}

async fn read_one(mut stream: RecvStream, from: &Identity) -> Option<Message> {
    let bytes = match timeout(MESSAGE_LIMIT, stream.read_to_end(wire::MAX_MESSAGE)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            tracing::debug!(%from, %error, "message not read");
            return None;
        }
        Err(_) => {
            tracing::debug!(%from, "message not read in time");
            return None;
        }
    };
    decode(&bytes, from)
}

/// A message that says something.
pub(crate) fn decode(bytes: &[u8], from: &Identity) -> Option<Message> {
    match Message::decode(bytes) {
        // A second Hello says nothing new; unknown kinds belong to other versions.
        Ok(Some(Message::Hello(_)) | None) => None,
        Ok(message) => message,
        Err(error) => {
            tracing::warn!(%from, %error, "message not understood");
            None
        }
    }
}

/// Serves a connection of the control plane: documents in, an acknowledgement out, nothing else.
pub(crate) async fn serve_control(shared: &Arc<Shared>, connection: &Connection, name: &NodeName) {
    let from = Identity::Control(name.clone());
    while let Ok((send, recv)) = connection.accept_bi().await {
        if let Err(why) = control_visit(shared, &from, send, recv).await {
            tracing::warn!(%from, why, "visit of the control plane failed");
            connection.close(CloseCode::Refused.code(), why.as_bytes());
        }
    }
}

async fn control_visit(
    shared: &Shared,
    from: &Identity,
    mut send: SendStream,
    recv: RecvStream,
) -> Result<(), &'static str> {
    let message = match read_one(recv, from).await {
        Some(message @ Message::Documents(_)) => message,
        Some(_) => return Err("only documents are taken from the control plane"),
        None => return Err("the message was not understood"),
    };
    let (reply, answer) = oneshot::channel();
    let event = LinkEvent::Message { from: from.clone(), message, reply: Some(reply) };
    shared.events.send(event).await.map_err(|_| "the agent is shutting down")?;
    let answer = match timeout(REPLY_LIMIT, answer).await {
        Ok(Ok(answer)) => answer.encode().map_err(|_| "the answer could not be encoded")?,
        _ => return Err("the agent did not answer in time"),
    };
    send.write_all(&answer).await.map_err(|_| "the answer could not be sent")?;
    let _ = send.finish();
    Ok(())
}

/// What the end of a connection says about the peer.
fn farewell(end: &ConnectionError) -> Farewell {
    match end {
        // Nobody closed it: quinn closes with this what is merely dropped, as a dial is that another overtook.
        ConnectionError::ApplicationClosed(close)
            if close.error_code == VarInt::from_u32(0) && close.reason.is_empty() =>
        {
            Farewell::GivenUp
        }
        ConnectionError::ApplicationClosed(close) => {
            CloseCode::farewell(close.error_code.into_inner())
        }
        ConnectionError::LocallyClosed => Farewell::Said,
        _ => Farewell::None,
    }
}

#[cfg(test)]
mod tests {
    use quinn::ApplicationClose;

    use super::*;

    #[test]
    fn what_is_merely_dropped_is_no_farewell() {
        let end = |code: u32, reason: &'static [u8]| {
            farewell(&ConnectionError::ApplicationClosed(ApplicationClose {
                error_code: VarInt::from_u32(code),
                reason: Bytes::from_static(reason),
            }))
        };
        assert_eq!(end(0, b""), Farewell::GivenUp);
        assert_eq!(end(CloseCode::Leaving as u32, b"leaving"), Farewell::Said);
        assert_eq!(end(CloseCode::Retired as u32, b"another"), Farewell::GivenUp);
        assert_eq!(farewell(&ConnectionError::TimedOut), Farewell::None);
    }
}
