//! Lanes through a relay: our streams to a peer whose path from us alone is bad, carried by a third agent.
//!
//! The third agent passes bytes on and nothing else. Inside them runs a lane like any other, with the peer's
//! own handshake: who is at its other end is checked as always, and the peer sees us. Which relay is to carry
//! is the core's decision ([`wish`]); how it stands with each is told to the driver.
//!
//! Such a lane is apart from all that is sensed of its peer: what is heard on it says nothing of our own path,
//! and what is not heard on that says nothing of it. It has a sense of its own ([`sense`]), from its own pings.
//!
//! Tasks: one per wish, which dials and then senses, and the lane's own. Aborting the first leaves a lane whose
//! silence nobody sees; it ends with its streams.

mod sense;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use futures_util::future::BoxFuture;
use hearth_proto::ids::NodeName;
use hearth_proto::node::{RelayInput, RelayWish};
use hearth_proto::view;
use tokio::io::DuplexStream;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use super::data::InFlight;
use super::dial::DIAL_LIMIT;
use super::lane::Lane;
use super::lane::carry::{Attendant, Carry};
use super::lane::handshake::{Established, Mark, Way, client};
use super::lane::listen::extractable;
use super::lane::mux::{Arrival, End, NotOpened};
use super::stream::DataStream;
use super::{CloseCode, Kind, LinkError, LinkEvent, LinkHealth, Shared, lock};
use crate::identity::{Expected, peer_identity};

/// Asks a third agent for a way to a peer; the error says why there is none, in words.
pub(crate) type Opener =
    Box<dyn Fn(RelayWish) -> BoxFuture<'static, Result<DuplexStream, String>> + Send + Sync>;

/// A peer that nobody dialled yet has no address; port 0 is never dialled.
pub(crate) const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A lane through a relay, for everybody who has a stream on it.
pub(crate) struct Relayed {
    via: NodeName,
    lane: Arc<Lane>,
    health: watch::Sender<LinkHealth>,
    /// The newest ping that the peer answered, and one more.
    answered: AtomicU64,
    /// A request begins on it.
    stirred: Notify,
}

impl Relayed {
    /// How it stands with the peer as seen through the relay, to be awaited.
    pub(crate) fn health(&self) -> watch::Receiver<LinkHealth> {
        self.health.subscribe()
    }
}

/// A wish, and what has become of it.
struct Slot {
    wish: RelayWish,
    /// Which wish it is: the same may come again while the task of the first is not done.
    number: u64,
    relayed: Option<Arc<Relayed>>,
}

/// All relays that are to carry for us, by the peer they carry to.
#[derive(Default)]
pub(crate) struct Relays {
    opener: OnceLock<Opener>,
    slots: Mutex<BTreeMap<NodeName, Slot>>,
    numbers: AtomicU64,
}

impl Relays {
    pub(crate) fn open_by(&self, opener: Opener) {
        if self.opener.set(opener).is_err() {
            tracing::error!("relays are asked by somebody already");
        }
    }

    fn through(&self, to: &NodeName, via: &NodeName) -> Option<Arc<Relayed>> {
        let slots = lock(&self.slots);
        slots.get(to)?.relayed.clone().filter(|relayed| relayed.via == *via)
    }

    /// The lane stands. `false`: nobody wishes for it any more.
    fn stands(&self, to: &NodeName, number: u64, relayed: &Arc<Relayed>) -> bool {
        let mut slots = lock(&self.slots);
        let slot = slots.get_mut(to).filter(|slot| slot.number == number);
        slot.map(|slot| slot.relayed = Some(relayed.clone())).is_some()
    }

    /// It came to nothing, or is no more. `false`: nobody wishes for it any more.
    fn ends(&self, to: &NodeName, number: u64) -> bool {
        let mut slots = lock(&self.slots);
        let own = slots.get(to).is_some_and(|slot| slot.number == number);
        own && slots.remove(to).is_some()
    }

    /// Adds what is relayed to what links there are.
    pub(crate) fn show(&self, views: &mut Vec<view::LinkView>) {
        for (to, slot) in lock(&self.slots).iter() {
            let Some(relayed) = &slot.relayed else { continue };
            let via = Some(relayed.via.clone());
            match views.iter_mut().find(|view| view.node == *to) {
                Some(view) => view.via = via,
                None => views.push(view::LinkView {
                    node: to.clone(),
                    state: "silent".into(),
                    rtt_us: u64::try_from(relayed.lane.rtt().as_micros()).unwrap_or(u64::MAX),
                    carrier: String::new(),
                    via,
                }),
            }
        }
    }
}

/// Has exactly these relays carry. Lanes that nobody wishes for any more end with their last stream.
pub(crate) fn wish(shared: &Arc<Shared>, wishes: Vec<RelayWish>) {
    let mut slots = lock(&shared.relays.slots);
    slots.retain(|to, slot| {
        let stays = wishes.iter().any(|w| w.to == *to && w.via == slot.wish.via);
        if !stays && let Some(relayed) = &slot.relayed {
            relayed.lane.retire();
        }
        stays
    });
    for wish in wishes {
        if slots.contains_key(&wish.to) || shared.is_closed() {
            continue;
        }
        let number = shared.relays.numbers.fetch_add(1, Ordering::Relaxed);
        slots.insert(wish.to.clone(), Slot { wish: wish.clone(), number, relayed: None });
        shared.runtimes.mesh.spawn(run(shared.clone(), wish, number));
    }
}

/// Opens a stream to `to` on the lane through `via`.
pub(crate) fn open(
    shared: &Shared,
    to: &NodeName,
    via: &NodeName,
) -> Result<DataStream, LinkError> {
    let lost = || LinkError::Lost {
        peer: to.clone(),
        why: format!("it is not reached through {via} any more"),
    };
    let relayed = shared.relays.through(to, via).ok_or_else(lost)?;
    let mut stream = relayed.lane.open().map_err(|why| match why {
        NotOpened::Busy => {
            LinkError::Busy { peer: to.clone(), why: "too many open requests through its relay" }
        }
        NotOpened::Over => lost(),
    })?;
    relayed.stirred.notify_one();
    shared.metrics.relayed.inc();
    stream.guard = Some(InFlight::relayed(&shared.peer(to, NOWHERE), &relayed));
    Ok(stream)
}

/// How it stands with `to` through `via`.
pub(crate) fn health(
    shared: &Shared,
    to: &NodeName,
    via: &NodeName,
) -> watch::Receiver<LinkHealth> {
    match shared.relays.through(to, via) {
        Some(relayed) => relayed.health(),
        // Nobody is left to tell of a turn.
        None => watch::channel(LinkHealth::Down).1,
    }
}

/// From a wish to its end.
async fn run(shared: Arc<Shared>, wish: RelayWish, number: u64) {
    let why = match dial(&shared, &wish).await {
        Ok((relayed, over)) => {
            if !shared.relays.stands(&wish.to, number, &relayed) {
                relayed.lane.retire();
                return;
            }
            tracing::info!(peer = %wish.to, via = %wish.via, "peer reached through a relay");
            tell(&shared, &wish, RelayInput::Up).await;
            sense::run(&shared, &relayed, over, (&wish, number)).await
        }
        Err(why) => why,
    };
    end(&shared, &wish, number, why).await;
}

async fn end(shared: &Shared, wish: &RelayWish, number: u64, why: String) {
    if shared.relays.ends(&wish.to, number) {
        tracing::info!(peer = %wish.to, via = %wish.via, why, "peer not reached through a relay");
        tell(shared, wish, RelayInput::Down(why)).await;
    }
}

async fn tell(shared: &Shared, wish: &RelayWish, input: RelayInput) {
    // A closed queue means that the driver is gone; nobody is left to tell.
    let _ = shared.events.send(LinkEvent::Relay { wish: wish.clone(), input }).await;
}

/// One lane, up to its welcome, and what tells why it ended.
async fn dial(
    shared: &Arc<Shared>,
    wish: &RelayWish,
) -> Result<(Arc<Relayed>, oneshot::Receiver<String>), String> {
    let late = || format!("no answer within {DIAL_LIMIT:?}");
    let shaken = timeout(DIAL_LIMIT, shake(shared, wish)).await;
    let established = shaken.map_err(|_| late())??;
    let budget = shared.budget.clone();
    let lane = Lane::new(wish.to.clone(), Kind::Data, End::Dialled, budget);
    let relayed = Arc::new(Relayed {
        via: wish.via.clone(),
        lane: lane.clone(),
        health: watch::Sender::new(LinkHealth::Up),
        answered: AtomicU64::new(0),
        stirred: Notify::new(),
    });
    let (welcome, welcomed) = oneshot::channel();
    let attendant = RelayAttendant { relayed: relayed.clone(), welcome: Some(welcome) };
    let peer = shared.peer(&wish.to, NOWHERE);
    peer.keep_relayed(&lane);
    if shared.is_closed() {
        lane.close(CloseCode::Leaving, "leaving");
    }
    let carry = Carry::new(lane.clone(), established, attendant);
    let (ended, over) = oneshot::channel();
    let (kept, carried) = (peer.clone(), lane.clone());
    shared.runtimes.data_of(0).spawn(async move {
        let ending = carry.await;
        kept.forget_relayed(&carried);
        // Whoever wanted to know may have gone.
        let _ = ended.send(ending.why);
    });
    match timeout(DIAL_LIMIT, welcomed).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err("it closed the connection after the handshake".into()),
        Err(_) => {
            lane.close(CloseCode::Stale, "no welcome came in time");
            return Err(late());
        }
    }
    if lane.generation() < lock(&peer.state).newest {
        lane.close(CloseCode::Retired, "it is an older start's");
        return Err("an older start of it answered".into());
    }
    Ok((relayed, over))
}

async fn shake(shared: &Arc<Shared>, wish: &RelayWish) -> Result<Established, String> {
    let opener = shared.clone();
    let wished = wish.clone();
    // What is carried is moved on a data thread: the mesh thread's probes wait for nobody's bodies.
    let asked = shared.runtimes.data_of(0).spawn(async move {
        let opener = opener.relays.opener.get().ok_or("nobody asks relays here")?;
        opener(wished).await
    });
    let stream = asked.await.map_err(|e| e.to_string())??;
    let expected = Expected::Node(wish.to.clone());
    let config = extractable(shared.credentials.client_config(expected, Kind::Data.alpn()));
    let mark = Mark { kind: Kind::Data, way: Way::Relayed, slot: 0 };
    let established = client(stream, config, mark).await.map_err(|e| e.to_string())?;
    if established.kind != Some(Kind::Data) {
        return Err("it does not speak the protocol of lanes".into());
    }
    let domain = shared.credentials.trust_domain();
    peer_identity(&established.certificates, domain).map_err(|e| e.to_string())?;
    Ok(established)
}

/// Takes what comes in on a lane through a relay.
struct RelayAttendant {
    relayed: Arc<Relayed>,
    welcome: Option<oneshot::Sender<()>>,
}

impl Attendant for RelayAttendant {
    fn arrived(&mut self, lane: &Arc<Lane>, arrival: Arrival) {
        match arrival {
            Arrival::Welcome(generation) => {
                lane.started(generation);
                if let Some(welcome) = self.welcome.take() {
                    // Whoever dialled may have given up.
                    let _ = welcome.send(());
                }
            }
            Arrival::Pong(number) => {
                lane.answered(number);
                self.relayed.answered.fetch_max(number + 1, Ordering::Relaxed);
            }
            // Only the dialler opens streams; the rest is of a later version, or misplaced.
            Arrival::Opened(_)
            | Arrival::Closed { .. }
            | Arrival::Datagram(_)
            | Arrival::Message(_) => {}
        }
    }
}
