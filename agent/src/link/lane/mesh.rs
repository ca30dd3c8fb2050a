//! The mesh link on a lane, where UDP does not get through: datagrams and messages as frames.
//!
//! Dialled beside QUIC when that does not answer, and given up as soon as QUIC answers again, which the
//! dialler tries now and then. Sensing works as on QUIC, by our own pings, with a larger threshold: TCP may
//! repeat a lost segment only after its own timeout.
//!
//! Messages that the driver does not take in time are dropped beyond a bound, and counted: the tables they
//! belong to are compared anyway.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use hearth_proto::ids::{Identity, NodeName};
use hearth_proto::wire::Message;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::carry::{Attendant, Carry};
use super::handshake::{Established, Mark, Way, client};
use super::listen::{extractable, tune};
use super::mux::{Arrival, End};
use super::{Lane, MeshSent};
use crate::identity::{Expected, peer_identity};
use crate::jitter;
use crate::link::dial::DIAL_LIMIT;
use crate::link::line::Line;
use crate::link::mesh::{self, HELLO_LIMIT};
use crate::link::peer::Peer;
use crate::link::{CloseCode, Kind, LinkError, LinkEvent, Shared, dial, lock, monitor};

/// Messages that wait for the driver, per link.
const INBOX: usize = 256;
/// A message waits so long for room on the connection.
const MESSAGE_LIMIT: Duration = Duration::from_secs(10);
const MESSAGE_RETRY: Duration = Duration::from_millis(10);
/// Whether QUIC works again is tried so often, at least and at most.
const RETURN_AFTER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));

/// A peer that was stopped answers QUIC and TCP at once when it goes on: QUIC has so long to be the first.
const QUIC_FIRST: Duration = Duration::from_millis(200);

/// Dials once, whoever answers, and makes a mesh link of it.
pub(crate) async fn dial(
    shared: &Arc<Shared>,
    expected: Expected,
    address: SocketAddr,
    who: &str,
) -> Result<(), LinkError> {
    let failed = |result, why: String| {
        shared.metrics.dial(result);
        Err(LinkError::Unreachable { peer: who.to_owned(), address, why })
    };
    let established = match timeout(DIAL_LIMIT, shake(shared, expected, address)).await {
        Ok(Ok(established)) => established,
        Ok(Err(why)) => return failed("refused", why),
        Err(_) => return failed("timeout", format!("no answer within {DIAL_LIMIT:?}")),
    };
    let domain = shared.credentials.trust_domain();
    let name = match peer_identity(&established.certificates, domain) {
        Ok(Identity::Node(name)) if &name == shared.own() => return Ok(()),
        Ok(Identity::Node(name)) => name,
        Ok(other) => return failed("refused", format!("{other} answered, not a node")),
        Err(error) => return failed("refused", error.to_string()),
    };
    tokio::time::sleep(QUIC_FIRST).await;
    match establish(shared, established, &name, address, true).await {
        Ok(()) => {
            shared.metrics.dial("connected");
            Ok(())
        }
        Err(why) => failed("refused", why),
    }
}

async fn shake(
    shared: &Shared,
    expected: Expected,
    address: SocketAddr,
) -> Result<Established, String> {
    let socket = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    tune(&socket);
    let config = extractable(shared.credentials.client_config(expected, Kind::Mesh.alpn()));
    let mark = Mark { kind: Kind::Mesh, way: Way::Direct, slot: 0 };
    let established = client(socket, config, mark).await.map_err(|e| e.to_string())?;
    match established.kind {
        Some(Kind::Mesh) => Ok(established),
        _ => Err("it does not speak the protocol of the mesh".into()),
    }
}

/// A peer's dial came in.
pub(super) async fn accepted(
    shared: &Arc<Shared>,
    name: &NodeName,
    remote: SocketAddr,
    established: Established,
) {
    if let Err(why) = establish(shared, established, name, remote, false).await {
        tracing::debug!(peer = %name, why, "link not established");
    }
}

async fn establish(
    shared: &Arc<Shared>,
    established: Established,
    name: &NodeName,
    remote: SocketAddr,
    dialled_here: bool,
) -> Result<(), String> {
    let end = if dialled_here { End::Dialled } else { End::Accepted };
    let lane = Lane::new(name.clone(), Kind::Mesh, end, shared.budget.clone());
    let line = Line::Lane(lane.clone());
    let (messages, mut arrived) = mpsc::channel(INBOX);
    let attendant = MeshAttendant { shared: shared.clone(), messages, peer: Weak::new() };
    let carry = Carry::new(lane.clone(), established, attendant);
    let (settled, gate) = oneshot::channel::<()>();
    let (shared_too, line_too, peer_name) = (shared.clone(), line.clone(), name.clone());
    tokio::spawn(async move {
        let ending = carry.await;
        // Not before it is known whether there is a link at all. A dropped sender says the same.
        let _ = gate.await;
        if let Some(peer) = shared_too.known(&peer_name) {
            mesh::ended(&shared_too, &peer, &line_too, ending.why, ending.farewell).await;
        }
    });
    let exchanged = async {
        let ours = Message::Hello(shared.hello.clone()).encode().map_err(|e| e.to_string())?;
        lane.send_message(&ours);
        let theirs = arrived.recv().await.ok_or("the connection ended before a Hello came")?;
        mesh::read_hello(shared, &theirs)
    };
    let exchanged = timeout(HELLO_LIMIT, exchanged).await;
    let hello = exchanged.unwrap_or_else(|_| Err("no Hello came in time".into()));
    let admitted = match hello {
        Ok(hello) => mesh::admit(shared, &line, name, dialled_here, hello, remote).await,
        Err(why) => Err(why),
    };
    let admitted = admitted.inspect_err(|why| lane.close(CloseCode::Refused, why))?;
    for datagram in admitted.datagrams {
        lane.send_datagram(&datagram);
    }
    let waiting = admitted.messages;
    tokio::spawn(write_messages(shared.clone(), lane.clone(), admitted.queue, waiting));
    tokio::spawn(read_messages(shared.clone(), name.clone(), arrived));
    if dialled_here {
        tokio::spawn(return_to_quic(shared.clone(), Arc::downgrade(&admitted.peer), lane));
    }
    shared.monitor.look(&admitted.peer);
    drop(settled);
    Ok(())
}

async fn read_messages(shared: Arc<Shared>, name: NodeName, mut arrived: mpsc::Receiver<Bytes>) {
    let from = Identity::Node(name);
    while let Some(bytes) = arrived.recv().await {
        if let Some(message) = mesh::decode(&bytes, &from) {
            let event = LinkEvent::Message { from: from.clone(), message, reply: None };
            // A closed queue means that the driver is gone.
            let _ = shared.events.send(event).await;
        }
    }
}

async fn write_messages(
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    mut queue: mpsc::Receiver<Bytes>,
    waiting: Vec<Bytes>,
) {
    let mut waiting = waiting.into_iter();
    loop {
        let message = match waiting.next() {
            Some(message) => message,
            None => match queue.recv().await {
                Some(message) => message,
                // The link was replaced; what was handed over is on its way.
                None => return,
            },
        };
        let sent = timeout(MESSAGE_LIMIT, async {
            while lane.send_message(&message) == MeshSent::Full {
                tokio::time::sleep(MESSAGE_RETRY).await;
            }
        });
        if sent.await.is_err() || !lane.is_open() {
            shared.metrics.drop("messages_out");
        }
    }
}

/// Tries whether QUIC answers again, until it does or the lane is no longer the link.
async fn return_to_quic(shared: Arc<Shared>, peer: Weak<Peer>, lane: Arc<Lane>) {
    let line = Line::Lane(lane);
    loop {
        let (least, most) = RETURN_AFTER;
        tokio::time::sleep(least + (most - least).mul_f64(jitter::share())).await;
        let Some(peer) = peer.upgrade() else { return };
        let address = {
            let state = lock(&peer.state);
            if shared.is_closed() || !state.mesh.as_ref().is_some_and(|m| m.line.is(&line)) {
                return;
            }
            state.address
        };
        let expected = Expected::Node(peer.name.clone());
        if dial::quic(&shared, expected, address, peer.name.as_str()).await.is_ok() {
            tracing::info!(peer = %peer.name, "link moved back to quic");
        }
    }
}

/// Takes what comes in on a mesh link.
struct MeshAttendant {
    shared: Arc<Shared>,
    messages: mpsc::Sender<Bytes>,
    peer: Weak<Peer>,
}

impl MeshAttendant {
    fn peer(&mut self, lane: &Lane) -> Option<Arc<Peer>> {
        self.peer.upgrade().or_else(|| {
            let peer = self.shared.known(&lane.peer)?;
            self.peer = Arc::downgrade(&peer);
            Some(peer)
        })
    }
}

impl Attendant for MeshAttendant {
    fn arrived(&mut self, lane: &Arc<Lane>, arrival: Arrival) {
        match arrival {
            Arrival::Datagram(bytes) => {
                let event = LinkEvent::Datagram { from: lane.peer.clone(), bytes };
                if self.shared.events.try_send(event).is_err() {
                    self.shared.metrics.drop("datagrams_in");
                }
            }
            Arrival::Message(bytes) => {
                if self.messages.try_send(bytes).is_err() {
                    self.shared.metrics.drop("messages_in");
                }
            }
            Arrival::Pong(number) => {
                lane.answered(number);
                if let Some(peer) = self.peer(lane) {
                    monitor::pong(&self.shared, &peer, number);
                }
            }
            // Streams are not for this connection: nobody of ours holds this one.
            Arrival::Opened(id) => drop(lane.stream(id)),
            Arrival::Closed { .. } | Arrival::Welcome(_) => {}
        }
    }
}
