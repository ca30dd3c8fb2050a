//! Which lanes there are with a peer: one per data thread of ours, dialled when it is first wanted, one more
//! when that has as many streams as it carries, and whatever the peer dialled.
//!
//! A request never waits for a second handshake: while a lane is dialled, requests take QUIC if that is up,
//! and whichever comes up first if neither is. After a failed dial the next one waits out its backoff; where
//! TCP is blocked that costs a refused packet now and then, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_proto::ids::{Generation, NodeName};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::carry::{Attendant, Carry};
use super::handshake::{Established, Mark, Way, client};
use super::listen::{extractable, tune};
use super::mux::{Arrival, End, MAX_STREAMS, NotOpened};
use super::{Lane, frame};
use crate::identity::{Expected, peer_identity};
use crate::link::backoff::Backoff;
use crate::link::data::InFlight;
use crate::link::dial::DIAL_LIMIT;
use crate::link::peer::Peer;
use crate::link::relay::NOWHERE;
use crate::link::stream::DataStream;
use crate::link::{CloseCode, Kind, LinkError, Shared, dial, lock, monitor};

/// Lanes with one peer at once, either side's: beyond it somebody opens them without end.
pub(crate) const MAX_LANES: usize = 256;

type Outcome = Option<Result<Arc<Lane>, LinkError>>;

/// Lanes of one thread to one peer. Beyond these requests take QUIC, and beyond that they go elsewhere: a peer
/// with so many of them under way is busy.
const LANES_PER_THREAD: usize = 4;

/// The lanes of one of our data threads, and how dialling stands.
#[derive(Default)]
pub(crate) struct Slot {
    /// The oldest first.
    lanes: Vec<Arc<Lane>>,
    under_way: Option<watch::Receiver<Outcome>>,
    /// No dial before this.
    not_before: Option<Instant>,
    backoff: Backoff,
}

impl Slot {
    fn under_way(&self) -> Option<watch::Receiver<Outcome>> {
        self.under_way.as_ref().filter(|w| w.has_changed().is_ok()).cloned()
    }

    /// A stream on the oldest lane that has room. The others are let go once nothing is under way on them.
    fn open(&mut self) -> Option<DataStream> {
        let mut at = 0;
        while let Some(lane) = self.lanes.get(at) {
            match lane.open() {
                Ok(stream) => {
                    let newest = self.lanes.len() - 1;
                    let (used, spare) = (&self.lanes[at], &self.lanes[newest]);
                    // Not at the edge: it would be dialled anew at once.
                    let roomy = used.streams() < MAX_STREAMS / 2;
                    if at < newest && roomy && spare.streams() == 0 {
                        self.lanes.pop().into_iter().for_each(|lane| lane.retire());
                    }
                    return Some(stream);
                }
                Err(NotOpened::Busy) => at += 1,
                Err(NotOpened::Over) => drop(self.lanes.remove(at)),
            }
        }
        None
    }
}

/// The lanes we dialled to one peer, by data thread.
#[derive(Default)]
pub(crate) struct Slots(Vec<Slot>);

impl Slots {
    fn at(&mut self, slot: usize) -> &mut Slot {
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, Slot::default);
        }
        &mut self.0[slot]
    }

    /// The peer was just reached: lanes may be dialled at once.
    pub(crate) fn forgive(&mut self) {
        for slot in &mut self.0 {
            (slot.not_before, slot.backoff) = (None, Backoff::default());
        }
    }

    /// Lanes to starts of the peer older than this get no new requests.
    pub(crate) fn retire_older(&mut self, newest: Generation) {
        for slot in &mut self.0 {
            slot.lanes.retain(|lane| {
                let stays = lane.generation() >= newest;
                if !stays {
                    lane.retire();
                }
                stays
            });
        }
    }

    /// No lane gets new requests.
    pub(crate) fn retire_all(&mut self) {
        for lane in self.0.iter_mut().flat_map(|slot| slot.lanes.drain(..)) {
            lane.retire();
        }
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.0.iter().any(|slot| slot.under_way.is_some())
    }
}

/// A lane that can be had.
pub(crate) enum Found {
    /// Now.
    Open(DataStream),
    /// Perhaps soon.
    Dialled(watch::Receiver<Outcome>),
    /// Not for now.
    Nothing,
    /// All there may be have as many streams as they carry.
    Full,
}

/// A stream on the lane of this thread; dials one if there is none and none failed a moment ago.
pub(crate) fn find(shared: &Arc<Shared>, peer: &Arc<Peer>, address: SocketAddr) -> Found {
    let slot = crate::threads::slot() % shared.runtimes.data.len();
    let mut slots = lock(&peer.slots);
    let place = slots.at(slot);
    if let Some(stream) = place.open() {
        return Found::Open(guarded(peer, stream));
    }
    if place.lanes.len() >= LANES_PER_THREAD && place.under_way().is_none() {
        return Found::Full;
    }
    let dialled = dialled(shared, peer, place, address, slot);
    drop(slots);
    match dialled {
        Some(dialled) => {
            // The mesh link is what senses the peer.
            dial::want_mesh(shared, peer);
            Found::Dialled(dialled)
        }
        None => Found::Nothing,
    }
}

/// Dials the first lane of every thread that has none, and says what is under way.
pub(crate) fn prepare(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    address: SocketAddr,
) -> Vec<watch::Receiver<Outcome>> {
    let mut slots = lock(&peer.slots);
    let under_way = (0..shared.runtimes.data.len()).filter_map(|slot| {
        let place = slots.at(slot);
        place.lanes.retain(|lane| lane.is_open());
        if place.lanes.is_empty() { dialled(shared, peer, place, address, slot) } else { None }
    });
    let under_way = under_way.collect();
    drop(slots);
    dial::want_mesh(shared, peer);
    under_way
}

/// The dial that is under way for a thread's place, or one that begins now. None: not before its backoff is over.
fn dialled(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    place: &mut Slot,
    address: SocketAddr,
    slot: usize,
) -> Option<watch::Receiver<Outcome>> {
    if let Some(dialled) = place.under_way() {
        return Some(dialled);
    }
    if shared.is_closed() || place.not_before.is_some_and(|moment| Instant::now() < moment) {
        return None;
    }
    let (outcome, dialled) = watch::channel(None);
    place.under_way = Some(dialled.clone());
    let runtime = shared.runtimes.data_of(slot);
    runtime.spawn(run_dial(shared.clone(), peer.clone(), address, slot, outcome));
    Some(dialled)
}

/// Waits for a lane that is being dialled and opens a stream on it.
pub(crate) async fn wait(
    peer: &Arc<Peer>,
    mut dialled: watch::Receiver<Outcome>,
) -> Result<DataStream, LinkError> {
    let outcome = dialled.wait_for(Option::is_some).await.map_err(|_| LinkError::Closed)?;
    // Proof: `wait_for` returned a value for which `is_some` held.
    let lane = outcome.clone().unwrap_or(Err(LinkError::Closed))?;
    let opened = lane.open().map_err(|why| match why {
        NotOpened::Busy => {
            LinkError::Busy { peer: peer.name.clone(), why: "too many open requests" }
        }
        NotOpened::Over => {
            LinkError::Lost { peer: peer.name.clone(), why: "it ended as it began".into() }
        }
    });
    Ok(guarded(peer, opened?))
}

fn guarded(peer: &Arc<Peer>, mut stream: DataStream) -> DataStream {
    stream.guard = Some(InFlight::on_lane(peer));
    stream
}

async fn run_dial(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    address: SocketAddr,
    slot: usize,
    outcome: watch::Sender<Outcome>,
) {
    let result = match shared.data_dials.acquire().await {
        Ok(_turn) => connect(&shared, &peer, address, slot).await,
        Err(_) => return,
    };
    let result = {
        let state = lock(&peer.state);
        let mut slots = lock(&peer.slots);
        let place = slots.at(slot);
        place.under_way = None;
        match result {
            // It answered, and a newer start took over before we were done.
            Ok(lane) if lane.generation() < state.newest => {
                lane.close(CloseCode::Retired, "it is an older start's");
                let why = "it restarted meanwhile".to_owned();
                Err(LinkError::Lost { peer: peer.name.clone(), why })
            }
            Ok(lane) => {
                shared.metrics.dial("connected");
                (place.not_before, place.backoff) = (None, Backoff::default());
                place.lanes.push(lane.clone());
                Ok(lane)
            }
            Err((what, why)) => {
                shared.metrics.dial(what);
                tracing::debug!(peer = %peer.name, %address, why, "no lane");
                let wait = place.backoff.failed(rand::random(), false);
                place.not_before = Some(Instant::now() + wait);
                Err(LinkError::Unreachable { peer: peer.name.to_string(), address, why })
            }
        }
    };
    // Without receivers nobody waits any more.
    let _ = outcome.send(Some(result));
}

/// One connection, up to its welcome. The error is a word for metrics, and why.
async fn connect(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    address: SocketAddr,
    slot: usize,
) -> Result<Arc<Lane>, (&'static str, String)> {
    let late = |_| ("timeout", format!("no answer within {DIAL_LIMIT:?}"));
    let refused = |why: String| ("refused", why);
    let shaken = timeout(DIAL_LIMIT, shake(shared, peer, address, slot)).await;
    let established = shaken.map_err(late)?.map_err(refused)?;
    let lane = Lane::new(peer.name.clone(), Kind::Data, End::Dialled, shared.budget.clone());
    let (welcome, welcomed) = oneshot::channel();
    let attendant =
        DataAttendant { shared: shared.clone(), peer: peer.clone(), welcome: Some(welcome) };
    attend(shared, peer, &lane, Way::Direct, Carry::new(lane.clone(), established, attendant));
    // In TLS 1.3 we are done before the acceptor has judged us.
    match timeout(DIAL_LIMIT, welcomed).await {
        Ok(Ok(())) => Ok(lane),
        Ok(Err(_)) => Err(refused("it closed the connection after the handshake".into())),
        Err(elapsed) => {
            lane.close(CloseCode::Stale, "no welcome came in time");
            Err(late(elapsed))
        }
    }
}

async fn shake(
    shared: &Shared,
    peer: &Peer,
    address: SocketAddr,
    slot: usize,
) -> Result<Established, String> {
    let socket = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    tune(&socket);
    let expected = Expected::Node(peer.name.clone());
    let config = extractable(shared.credentials.client_config(expected, Kind::Data.alpn()));
    // Beyond 256 threads two share a mark, which costs them nothing but that.
    let mark = Mark { kind: Kind::Data, way: Way::Direct, slot: (slot % 256) as u8 };
    let established = client(socket, config, mark).await.map_err(|e| e.to_string())?;
    if established.kind != Some(Kind::Data) {
        return Err("it does not speak the protocol of lanes".into());
    }
    let domain = shared.credentials.trust_domain();
    peer_identity(&established.certificates, domain).map_err(|e| e.to_string())?;
    Ok(established)
}

/// Serves a lane that a peer dialled, until it ends.
pub(super) async fn accepted(
    shared: &Arc<Shared>,
    name: &NodeName,
    remote: SocketAddr,
    way: Way,
    established: Established,
) {
    // Where a relayed one comes from is where its relay is.
    let peer = shared.peer(name, if way == Way::Direct { remote } else { NOWHERE });
    let lane = Lane::new(name.clone(), Kind::Data, End::Accepted, shared.budget.clone());
    lane.with(|mux| mux.say(frame::WELCOME, &shared.hello.generation.0.to_be_bytes()));
    let attendant = DataAttendant { shared: shared.clone(), peer: peer.clone(), welcome: None };
    attend(shared, &peer, &lane, way, Carry::new(lane.clone(), established, attendant));
}

/// Carries a lane and forgets it at its end.
fn attend(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    lane: &Arc<Lane>,
    way: Way,
    carry: Carry<DataAttendant>,
) {
    match way {
        Way::Direct => peer.track_lane(lane),
        Way::Relayed => peer.keep_relayed(lane),
    }
    if shared.is_closed() {
        lane.close(CloseCode::Leaving, "leaving");
    }
    let (shared, peer, lane) = (shared.clone(), peer.clone(), lane.clone());
    tokio::spawn(async move {
        let ending = carry.await;
        tracing::debug!(peer = %peer.name, why = ending.why, "lane ended");
        match way {
            Way::Direct => {
                if ending.cut {
                    monitor::cut_off(&shared, &peer);
                }
                peer.untrack_lane(&lane);
            }
            Way::Relayed => peer.forget_relayed(&lane),
        }
    });
}

/// Takes what comes in on a lane for requests.
struct DataAttendant {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    welcome: Option<oneshot::Sender<()>>,
}

impl Attendant for DataAttendant {
    fn arrived(&mut self, lane: &Arc<Lane>, arrival: Arrival) {
        match arrival {
            Arrival::Opened(id) => {
                let stream = lane.stream(id);
                match self.shared.handler.get() {
                    Some(handler) => handler(lane.peer.clone(), stream),
                    None => drop(stream),
                }
            }
            Arrival::Welcome(generation) => {
                lane.started(generation);
                if let Some(welcome) = self.welcome.take() {
                    // Whoever dialled may have given up.
                    let _ = welcome.send(());
                }
            }
            Arrival::Pong(number) => {
                lane.answered(number);
                monitor::pong(&self.shared, &self.peer, number);
            }
            // Of a later version, or misplaced: no harm in skipping them.
            Arrival::Closed { .. } | Arrival::Datagram(_) | Arrival::Message(_) => {}
        }
    }
}

/// How long a lane may leave our pings unanswered while nothing else is heard on it: its peer is gone, or
/// frozen for so long that requests are better off elsewhere. Far above any silence of a healthy agent, since
/// closing it cannot be taken back.
pub(crate) const LANE_DEAD: Duration = Duration::from_secs(2);
