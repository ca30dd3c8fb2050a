//! The traffic path: from a client on this host to an application somewhere, and back.
//!
//! Decides, per request: where it goes (by the published routes), whether it may be sent again, when to
//! stop waiting. Owns the outbound listeners, the clients to our own applications, what was learnt of
//! load and latency. Never asks the core or the control plane while a request waits; it reads snapshots
//! and reports what it saw.
//!
//! | module | does |
//! |---|---|
//! | [`outbound`] | listeners; a client's request to an answer |
//! | `edge`, `guard`, `scan` | clients' connections: HTTP by hyper, which sees only what is read one way |
//! | `race`, `attempt` | attempts one after the other and side by side, until one answers |
//! | `blame`, `pulse` | what is told of endpoints, and what is held against nobody: we were late ourselves |
//! | `inbound`, `call`, `application` | a peer's request to our own application |
//! | `callers`, `limit` | what this host takes on of each caller, and what an endpoint of ours does |
//! | `upgrade`, `interim` | connections that become another protocol's; answers before the answer |
//! | `prepare`, `supply` | a request made ready to be sent any number of times |
//! | `frame`, `head`, `body` | requests and bodies on streams |
//! | `tcp`, `udp`, `reach` | connections carried as opaque bytes, sessions of datagrams, and who takes them |
//! | `relay` | bytes of a peer to another one that it cannot reach itself |
//! | `connect`, `socks` | tunnels to services, for programs that speak to proxies |
//! | `ingress` | clients outside the mesh |
//! | `target`, `framing`, `headers`, `grpc`, `safety`, `budget`, `load`, `latency`, `learnt`, `answer` | the pure pieces |
//!
//! Tasks: one per listener, per client connection, per stream of a peer, and one per data thread that
//! measures it. Aborting one ends its own requests only.

mod ahead;
mod answer;
mod application;
mod attempt;
mod blame;
mod body;
mod budget;
mod call;
mod callers;
mod connect;
mod edge;
mod fast;
mod frame;
mod framing;
mod grpc;
mod guard;
mod head;
mod headers;
mod inbound;
mod ingress;
mod interim;
mod latency;
mod learnt;
mod lease;
mod limit;
mod load;
mod metrics;
mod outbound;
mod prepare;
mod pulse;
mod race;
mod reach;
mod relay;
mod safety;
mod scan;
mod session;
mod socks;
mod supply;
mod target;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod upgrade;
mod websocket;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hearth_proto::advert::Protocol;
use hearth_proto::ids::{EndpointId, NodeName, ServiceName};
use hearth_proto::lint::Traffic;
use hearth_proto::outlier::Sample;
use hearth_proto::route::{Route, Snapshot};
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::config::HttpVersion;
use crate::dns::{Found, Over};
use crate::driver::{Origin, PathReport};
use crate::link::{Links, lock};
use crate::pipe::AppAddress;

pub use ingress::{Gate, GateError};
pub use metrics::ProxyMetrics;
pub use outbound::Entry;
pub use udp::UdpEntry;
pub(crate) use udp::bind_udp;

use application::Applications;
use callers::Callers;
use fast::{Plans, Pools};
use learnt::{Learnt, Services};
use limit::Limits;
use load::Loads;
use outbound::Door;
use pulse::Pulses;
use udp::UdpDoor;

/// Connections of clients at once, on this host and outside the mesh each; beyond it they wait in the kernel.
const MAX_CONNECTIONS: usize = 16_384;
/// Receive buffer of a port for datagrams: some hundred full-sized ones.
const UDP_BUFFER: usize = 1 << 20;
/// Requests held while nobody serves.
const MAX_HELD: usize = 4096;
/// Requests whose overtaken attempts are heard out at once: half a second of what hedges may be.
const MAX_HEARD: usize = 1_024;
/// The core is asked to wake somebody so often per service, however many requests wait.
const WAKE_EVERY: Duration = Duration::from_millis(50);

/// The traffic path's view of the rest of the agent.
#[derive(Clone)]
pub struct MeshHandle {
    /// The routes.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The version of the newest snapshot, to be awaited.
    pub changed: watch::Receiver<u64>,
    /// Where to tell what requests taught.
    pub reports: mpsc::Sender<PathReport>,
    /// The links to peers.
    pub links: Links,
    /// The core's clock: a lease ends by it, whether the core has run meanwhile or not.
    pub origin: Origin,
}

/// An endpoint of this host, as the traffic path needs it. Whether it serves, the snapshot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Which.
    pub id: EndpointId,
    /// Where its application listens.
    pub address: AppAddress,
    /// What it speaks.
    pub protocol: Protocol,
    /// The version of HTTP it is spoken to in.
    pub http: HttpVersion,
}

/// One of our endpoints, and what is kept beside it.
pub(crate) struct Local {
    endpoint: LocalEndpoint,
    /// Requests it answered.
    ok: Counter,
    /// Requests, connections and sessions at it, from whomever.
    under_way: Arc<AtomicUsize>,
}

/// What is kept beside each; of those in `before` what is under way stays counted.
fn kept(
    locals: Vec<LocalEndpoint>,
    before: &[Arc<Local>],
    metrics: &ProxyMetrics,
) -> Vec<Arc<Local>> {
    let keep = |endpoint: LocalEndpoint| {
        let ok = metrics.inbound_of(&endpoint.id.service, "ok");
        let same = before.iter().find(|local| local.endpoint.id == endpoint.id);
        let under_way = same.map(|local| local.under_way.clone()).unwrap_or_default();
        Arc::new(Local { endpoint, ok, under_way })
    };
    locals.into_iter().map(keep).collect()
}

/// Why a listener is not there.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The port could not be opened.
    #[error(
        "cannot listen on {address} for {what}: {source}\n  hint: `ss -ltnp 'sport = :{}'` names who holds \
         the port; give it another port, or an address of this host", address.port()
    )]
    Listen {
        /// The port.
        address: SocketAddr,
        /// What it is for.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The port could not be opened for datagrams.
    #[error(
        "cannot listen on {address} (udp) for {what}: {source}\n  hint: `ss -lunp 'sport = :{}'` names who \
         holds the port; give it another port, or an address of this host", address.port()
    )]
    ListenUdp {
        /// The port.
        address: SocketAddr,
        /// What it is for.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What all of the traffic path shares.
pub(crate) struct Inner {
    node: NodeName,
    /// Requests for services nobody offers are counted under this name.
    unknown: ServiceName,
    /// Our own `Via` line.
    via: Vec<u8>,
    mesh: MeshHandle,
    locals: ArcSwap<Vec<Arc<Local>>>,
    applications: Applications,
    /// What is relayed for others.
    carrying: relay::Carrying,
    limits: Limits,
    loads: Loads,
    services: Services,
    plans: Plans,
    pools: Pools,
    pulses: Pulses,
    wakes: Mutex<BTreeMap<ServiceName, Instant>>,
    held: Semaphore,
    /// Requests whose overtaken attempts are heard out.
    heard_out: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// The same for clients outside the mesh, of which there may be any number: what they take up is not
    /// taken from this host's own.
    strangers: Arc<Semaphore>,
    callers: Callers,
    /// Clients' connections that became another protocol's.
    upgraded: Arc<AtomicUsize>,
    metrics: ProxyMetrics,
    listeners: Mutex<BTreeMap<SocketAddr, Arc<Door>>>,
    datagrams: Mutex<BTreeMap<SocketAddr, Arc<UdpDoor>>>,
}

impl Inner {
    fn node(&self) -> &NodeName {
        &self.node
    }

    fn route(&self, service: &ServiceName) -> Option<Arc<Route>> {
        self.mesh.snapshot.load().services.get(service).cloned()
    }

    /// What the endpoints of a service speak; the first one known counts.
    fn protocol(&self, service: &ServiceName) -> Option<Protocol> {
        self.route(service)?.candidates.first().map(|c| c.protocol)
    }

    fn learnt(&self, service: &ServiceName, now: Instant) -> Arc<Learnt> {
        let known = self.mesh.snapshot.load().services.contains_key(service);
        self.services.of(service, known, now)
    }

    fn tell(&self, report: PathReport) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.mesh.reports.try_send(report) {
            self.metrics.drop("path_reports");
        }
    }

    /// Tells the core that a request waits for somebody to serve.
    fn need_wake(&self, service: &ServiceName, now: Instant) {
        let mut wakes = lock(&self.wakes);
        let recent = |t: &Instant| now.saturating_duration_since(*t) < WAKE_EVERY;
        if !wakes.get(service).is_some_and(recent) {
            wakes.insert(service.clone(), now);
            drop(wakes);
            self.tell(PathReport::NeedWake { service: service.clone() });
        }
    }
}

/// The traffic path. Clones are handles to the same.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
    runtimes: Arc<[Handle]>,
    stop: watch::Sender<bool>,
}

impl Proxy {
    /// A traffic path on the data threads' `runtimes` (at least one) that serves peers at once and clients as soon as it listens.
    pub fn new(
        mesh: MeshHandle,
        locals: Vec<LocalEndpoint>,
        metrics: ProxyMetrics,
        runtimes: Vec<Handle>,
    ) -> Self {
        let now = Instant::now();
        let node = mesh.snapshot.load().node.clone();
        let links = mesh.links.clone();
        // hyper's clients and timers need a runtime around them when they are made.
        let _context = runtimes[0].enter();
        // A constant that is a valid label.
        let unknown = ServiceName::parse("unknown").expect("\"unknown\" is a DNS label");
        let via = format!("via: 1.1 {node}\r\n").into_bytes();
        let inner = Arc::new(Inner {
            node,
            unknown,
            via,
            mesh,
            locals: ArcSwap::from_pointee(kept(locals, &[], &metrics)),
            applications: Applications::default(),
            carrying: relay::Carrying::default(),
            limits: Limits::new(metrics.clone()),
            loads: Loads::new(now),
            services: Services::default(),
            plans: Plans::default(),
            pools: Pools::new(runtimes.len()),
            pulses: Pulses::start(&runtimes),
            wakes: Mutex::default(),
            held: Semaphore::new(MAX_HELD),
            heard_out: Arc::new(Semaphore::new(MAX_HEARD)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            strangers: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            callers: Callers::default(),
            upgraded: Arc::default(),
            metrics,
            listeners: Mutex::default(),
            datagrams: Mutex::default(),
        });
        inner.applications.guard(Arc::downgrade(&inner));
        let served = inner.clone();
        tokio::spawn(ahead::run(Arc::downgrade(&inner), inner.mesh.changed.clone()));
        // On the thread that its connection is on.
        links.serve_streams(move |caller, stream| {
            tokio::spawn(inbound::serve(served.clone(), caller, stream));
        });
        let asking = links.clone();
        links.relay_by(move |wish| Box::pin(relay::ask(asking.clone(), wish)));
        drop(_context);
        Self { inner, runtimes: runtimes.into(), stop: watch::Sender::new(false) }
    }

    /// Whether bytes are relayed between two other members, one of which cannot reach the other.
    pub fn relay_for_others(&self, willing: bool) {
        self.inner.carrying.be_willing(willing);
    }

    /// Replaces what this host offers, after a reload.
    pub fn set_locals(&self, locals: Vec<LocalEndpoint>) {
        self.inner.applications.retain(&locals);
        let before = self.inner.locals.load();
        self.inner.locals.store(Arc::new(kept(locals, &before, &self.inner.metrics)));
    }

    /// Opens a listener and returns the address it is bound to.
    pub async fn listen(
        &self,
        address: SocketAddr,
        entry: Entry,
    ) -> Result<SocketAddr, ProxyError> {
        let failed = |source| ProxyError::Listen {
            address,
            what: match &entry {
                Entry::Upstream(service) => format!("the upstream {service}"),
                Entry::Shared => "outbound.http".into(),
                Entry::Socks => "outbound.socks5".into(),
                Entry::Ingress(_) => "an ingress".into(),
            },
            source,
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        outbound::keep_alive(&listener);
        let bound = listener.local_addr().map_err(failed)?;
        let door = Arc::new(Door::new(entry, *self.stop.borrow()));
        lock(&self.inner.listeners).insert(bound, door.clone());
        let accepting = outbound::accept(self.inner.clone(), listener, door, self.runtimes.clone());
        self.runtimes[0].spawn(accepting);
        Ok(bound)
    }

    /// Has a listener that is open lead elsewhere, from the next request on.
    pub fn redirect(&self, address: SocketAddr, entry: Entry) {
        if let Some(door) = lock(&self.inner.listeners).get(&address) {
            door.redirect(entry);
        }
    }

    /// Closes a listener; requests under way on its connections finish.
    pub fn close_listener(&self, address: SocketAddr) {
        if let Some(door) = lock(&self.inner.listeners).remove(&address) {
            door.close();
        }
    }

    /// Where programs of this host reach `service`: at its own port, otherwise at the shared one if it speaks
    /// HTTP.
    pub fn find(&self, service: &ServiceName, over: Over) -> Found {
        let listeners = lock(&self.inner.listeners);
        let at = |wanted: &dyn Fn(&Entry) -> bool| {
            let found = listeners.iter().find(|(_, door)| wanted(&door.leads()));
            found.map(|(address, _)| *address)
        };
        let own = at(&|entry| matches!(entry, Entry::Upstream(s) if s == service));
        if let (Some(address), Over::Tcp | Over::Either) = (own, over) {
            return Found::At(address);
        }
        let doors = lock(&self.inner.datagrams);
        let datagrams = doors.iter().find(|(_, door)| door.leads().service == *service);
        if let (Some((address, _)), Over::Udp | Over::Either) = (datagrams, over) {
            return Found::At(*address);
        }
        let Some(route) = self.inner.route(service) else {
            let known = own.is_some() || datagrams.is_some();
            return if known { Found::Nowhere } else { Found::Unknown };
        };
        let protocol = route.candidates.first().map_or(Protocol::Http, |c| c.protocol);
        match (protocol, over, at(&|entry| *entry == Entry::Shared)) {
            (Protocol::Http | Protocol::Grpc, Over::Tcp | Over::Either, Some(address)) => {
                Found::At(address)
            }
            _ => Found::Nowhere,
        }
    }

    /// Opens a port for datagrams and returns the address it is bound to.
    pub fn listen_udp(
        &self,
        address: SocketAddr,
        entry: UdpEntry,
    ) -> Result<SocketAddr, ProxyError> {
        let failed = |source| ProxyError::ListenUdp {
            address,
            what: format!("the upstream {}", entry.service),
            source,
        };
        let socket = {
            // Its readiness is to be told to the thread that serves it.
            let _context = self.runtimes[0].enter();
            bind_udp(address).map_err(failed)?
        };
        let bound = socket.local_addr().map_err(failed)?;
        // A burst waits in the kernel while the task is elsewhere; less than wished for is no failure.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(UDP_BUFFER);
        let door = Arc::new(UdpDoor::new(entry));
        lock(&self.inner.datagrams).insert(bound, door.clone());
        self.runtimes[0].spawn(udp::accept(self.inner.clone(), socket, door));
        Ok(bound)
    }

    /// Has a port for datagrams lead elsewhere, from the next datagram on.
    pub fn redirect_udp(&self, address: SocketAddr, entry: UdpEntry) {
        if let Some(door) = lock(&self.inner.datagrams).get(&address) {
            door.redirect(entry);
        }
    }

    /// Closes a port for datagrams, and its sessions.
    pub fn close_udp(&self, address: SocketAddr) {
        if let Some(door) = lock(&self.inner.datagrams).remove(&address) {
            door.close();
        }
    }

    /// Takes no new connections. Clients' connections finish the request they have and close. Peers are
    /// turned away by the conditions the core publishes.
    pub fn stop_accepting(&self) {
        self.stop.send_replace(true);
        lock(&self.inner.listeners).values().for_each(|door| door.close());
    }

    /// Requests and connections under way.
    pub fn under_way(&self) -> usize {
        let taken = |room: &Semaphore| MAX_CONNECTIONS.saturating_sub(room.available_permits());
        let taken = taken(&self.inner.connections) + taken(&self.inner.strangers);
        // Each listener holds one permit while it waits for a connection.
        let waiting = lock(&self.inner.listeners).values().filter(|door| !door.is_closed()).count();
        let connections = taken.saturating_sub(waiting);
        let upgraded = self.inner.upgraded.load(Ordering::Relaxed);
        connections + upgraded + self.inner.callers.under_way()
    }

    /// Requests, connections and sessions under way at one of our endpoints.
    pub fn under_way_at(&self, endpoint: &EndpointId) -> usize {
        let locals = self.inner.locals.load();
        let local = locals.iter().find(|local| local.endpoint.id == *endpoint);
        local.map_or(0, |local| local.under_way.load(Ordering::Relaxed))
    }

    /// Waits until nothing is under way, at most `limit`, and returns what is left.
    pub async fn drained(&self, limit: Duration) -> usize {
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        let deadline = Instant::now() + limit;
        loop {
            let left = self.under_way();
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How each endpoint that was called answered since this was last asked.
    pub fn samples(&self) -> Vec<(EndpointId, Sample)> {
        self.inner.loads.samples()
    }

    /// How many requests of a service were answered so far, and how many with an error.
    pub fn toll(&self, service: &ServiceName) -> (u64, u64) {
        self.inner.metrics.toll(service)
    }

    /// What passed here of each service that was called from here, since the agent started.
    pub fn traffic(&self) -> BTreeMap<ServiceName, Traffic> {
        let seen = self.inner.services.seen().into_iter();
        let traffic = seen.map(|(service, repeatable, once)| {
            let peak = self.inner.loads.peak(&service);
            (service, Traffic { repeatable, once, peak })
        });
        // A service that is only watched was not called.
        traffic.filter(|(_, t)| t.repeatable + t.once > 0).collect()
    }

    /// Forgets what was learnt of endpoints and services that no route knows any more. To be called now and then.
    pub fn sweep(&self) {
        let snapshot = self.inner.mesh.snapshot.load();
        let known = |id: &EndpointId| {
            let route = snapshot.services.get(&id.service);
            route.is_some_and(|r| r.candidates.iter().any(|c| &c.id == id))
        };
        self.inner.loads.retain(known);
        self.inner.limits.retain(known);
        let known = |service: &ServiceName| snapshot.services.contains_key(service);
        self.inner.services.retain(known);
        self.inner.plans.retain(known);
        self.inner.pools.sweep();
        lock(&self.inner.wakes).retain(|service, _| known(service));
    }
}
