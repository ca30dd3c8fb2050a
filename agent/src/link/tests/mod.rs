//! Links between agents on loopback, with a relay in between that can go deaf in either direction.

mod blocked;
mod cost;
mod handshakes;
mod lanes;
mod messages;
mod peers;
mod relay;
mod silences;

use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use hearth_proto::ids::{Generation, NodeName};
use hearth_proto::wire::{self, Message};
use tokio::sync::mpsc;

use super::{Kind, LinkEvent, LinkHealth, LinkMetrics, Links, Runtimes};
use crate::identity::Credentials;
use crate::identity::authority::Authority;

pub(crate) use relay::{Relay, Tcp};

/// Far beyond what anything here takes; a test that needs it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn name(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A port that nobody has, for UDP and TCP. From below the range out of which the kernel takes ports for
/// connections (`net.ipv4.ip_local_port_range`): one of those can be taken at any moment.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 97).unwrap() * 100;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let address = loopback(port);
        if std::net::UdpSocket::bind(address).is_ok()
            && std::net::TcpListener::bind(address).is_ok()
        {
            return port;
        }
    }
}

/// An agent's links and what they told.
pub(crate) struct Agent {
    pub(crate) links: Links,
    pub(crate) name: NodeName,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: LinkMetrics,
    events: mpsc::Receiver<LinkEvent>,
    seen: Vec<String>,
}

impl Agent {
    pub(crate) fn start(authority: &Authority, node: &str) -> Self {
        Self::with(authority.node(node), 1, None)
    }

    /// `advertised`: where others are told to reach it, if not at its socket.
    pub(crate) fn with(
        credentials: Credentials,
        generation: u64,
        advertised: Option<SocketAddr>,
    ) -> Self {
        let listen = loopback(free_port());
        let (sender, events) = mpsc::channel(256);
        let name = credentials.node().clone();
        let metrics = LinkMetrics::default();
        let hello = wire::Hello {
            generation: Generation(generation),
            address: advertised.unwrap_or(listen),
            protocol: (wire::PROTOCOL, wire::PROTOCOL),
        };
        let links =
            Links::bind(listen, credentials, hello, sender, metrics.clone(), Runtimes::current())
                .unwrap();
        Self { links, name, address: listen, metrics, events, seen: Vec::new() }
    }

    /// The first event that `pick` takes; what came before it is skipped.
    pub(crate) async fn expect<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(LinkEvent) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let next = tokio::time::timeout_at(deadline.into(), self.events.recv()).await;
            let Ok(Some(event)) = next else {
                panic!("{} waited for {what}, saw {:#?}", self.name, self.seen);
            };
            self.seen.push(format!("{event:?}"));
            if let Some(found) = pick(event) {
                return found;
            }
        }
    }

    pub(crate) async fn up(&mut self, with: &NodeName) -> wire::Hello {
        self.expect(&format!("Up of {with}"), |e| match e {
            LinkEvent::Up { peer, hello, .. } if &peer == with => Some(hello),
            _ => None,
        })
        .await
    }

    pub(crate) async fn down(&mut self, with: &NodeName) -> String {
        self.expect(&format!("Down of {with}"), |e| match e {
            LinkEvent::Down { peer, reason, .. } if &peer == with => Some(reason),
            _ => None,
        })
        .await
    }

    pub(crate) async fn message(&mut self) -> Message {
        self.expect("a message", |e| match e {
            LinkEvent::Message { message, .. } => Some(message),
            _ => None,
        })
        .await
    }

    pub(crate) fn refusals(&self, reason: &'static str) -> u64 {
        self.metrics.handshakes_refused.get_or_create(&[("reason", reason)]).get()
    }
}

/// Waits until `probe` returns something.
pub(crate) async fn until<T, S: Debug>(what: &str, mut probe: impl FnMut() -> Result<T, S>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match probe() {
            Ok(found) => return found,
            Err(seen) if Instant::now() > deadline => panic!("waited for {what}, saw {seen:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// For how long the peer has not answered what was sent to it.
pub(crate) fn unanswered(agent: &Agent, peer: &NodeName) -> Option<Duration> {
    let peer = agent.links.shared.known(peer)?;
    super::lock(&peer.state).sense.window.age(Instant::now())
}

/// Waits until two agents share one mesh link and nobody dials another: the loser of a double dial is gone.
pub(crate) async fn settled(a: &Agent, b: &Agent) {
    let side = |of: &Agent, with: &Agent| {
        let peer = of.links.shared.known(&with.name)?;
        let state = super::lock(&peer.state);
        let links = state.connections.iter().filter(|c| c.kind == Kind::Mesh).count();
        let dialled_here = state.mesh.as_ref()?.dialled_here;
        (links == 1 && !state.dialling).then_some(dialled_here)
    };
    until("one link", || match (side(a, b), side(b, a)) {
        (Some(here), Some(there)) if here != there => Ok(()),
        seen => Err(seen),
    })
    .await;
}

/// Waits for a state of health.
pub(crate) async fn healthy(agent: &Agent, peer: &NodeName, wanted: LinkHealth) {
    let mut health = agent.links.health(peer);
    // A silence that was confirmed before anybody looked was one.
    let is = |h: &LinkHealth| *h == wanted || wanted == LinkHealth::Silent && h.is_silent();
    // What a watch lends holds the lock that whoever changes the state waits for, state in hand: each is let go
    // before the next is asked for.
    let waited = tokio::time::timeout(PATIENCE, health.wait_for(is)).await.is_ok();
    let is = *agent.links.health(peer).borrow();
    let views = agent.links.views();
    assert!(waited, "{} waited for {peer} to be {wanted:?}, is {is:?}: {views:?}", agent.name);
}
