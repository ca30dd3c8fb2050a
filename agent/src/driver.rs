//! The one task that owns the core: everything that happens to this agent goes through it, in order.
//!
//! Decides nothing: it moves inputs into [`Node`] through its [`Recorder`], and the core's outputs to whoever does them. One
//! turn is: input → drain outputs → publish the snapshot if its version moved → arm the next deadline.
//! Within a turn nothing is awaited, so a slow reader, disk or peer cannot make a probe late. It writes
//! a heartbeat every turn, which an OS thread watches.
//!
//! Aborting the task ends the agent's judgement, not its traffic: routes stay as last published.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hearth_proto::document::SignedDocument;
use hearth_proto::drill::{DrillId, DrillRefused};
use hearth_proto::evidence::Outcome;
use hearth_proto::flight::Recorder;
use hearth_proto::ids::{EndpointId, Identity, NodeName, ServiceName};
use hearth_proto::node::{DrillAsk, EndpointConfig, Event, HookFailed, LinkInput, Node, Transmit};
use hearth_proto::outlier::Sample;
use hearth_proto::relay::Refusal;
use hearth_proto::route::Snapshot;
use hearth_proto::time::Time;
use hearth_proto::view::FailbackView;
use hearth_proto::wire::{Answer, Ask, Message};
use tokio::sync::{mpsc, oneshot, watch};

use crate::flight::Flight;
use crate::link::{LinkEvent, Links};

/// Taken of each queue in one turn before the outputs are drained: a flood must not starve the timers, nor
/// one queue another.
const BATCH: usize = 64;

/// What a request taught, or what it needs. From the traffic path, on a bounded queue: what does not
/// fit is dropped and counted, the next request teaches the same.
#[derive(Debug)]
pub enum PathReport {
    /// How a request to an endpoint ended.
    Outcome {
        /// Which endpoint.
        endpoint: EndpointId,
        /// How.
        outcome: Outcome,
    },
    /// Nobody serves; a request is held.
    NeedWake {
        /// The service it is for.
        service: ServiceName,
    },
    /// An application of ours refused a connection.
    LocalRefused {
        /// Which endpoint of ours.
        endpoint: EndpointId,
    },
    /// A peer asks us to relay to another.
    MayRelay {
        /// Who asks.
        from: NodeName,
        /// To whom.
        to: NodeName,
        /// Where that one is reached, or why not. Dropped: too much is asked of the core.
        answer: oneshot::Sender<Result<SocketAddr, Refusal>>,
    },
    /// An application of this host broke a request off.
    LocalBroke {
        /// Which endpoint.
        endpoint: EndpointId,
    },
}

/// Reads the core, within a turn of the driver.
pub type Reading = Box<dyn FnOnce(&Node, Time) + Send>;

/// What the rest of the agent asks of the core.
pub enum Command {
    /// Reads the core and answers by itself, through whatever the closure captured.
    Read(Reading),
    /// Asks members something for an operator.
    Ask {
        /// What.
        ask: Ask,
        /// Whom.
        to: Vec<NodeName>,
    },
    /// Begins a drill.
    StartDrill(DrillAsk, oneshot::Sender<Result<DrillId, DrillRefused>>),
    /// Ends a drill, for this reason; answers whether it ran.
    StopDrill(DrillId, String, oneshot::Sender<bool>),
    /// What requests came to of services of which a drill runs: how many, and how many failed.
    Toll(Vec<(ServiceName, u64, u64)>),
    /// Starts or ends draining.
    Drain(bool),
    /// Leaves the mesh; may be repeated.
    Leave,
    /// Changed endpoints and upstreams, after a reload.
    Apply(Vec<EndpointConfig>, BTreeSet<ServiceName>),
    /// The certificate was renewed; these documents came with it.
    Renewed(Vec<SignedDocument>),
    /// Result of a health check.
    Health {
        /// Which endpoint of ours.
        endpoint: EndpointId,
        /// Whether it is healthy.
        healthy: bool,
    },
    /// How the endpoints that were called answered in the last
    /// [`SAMPLE_EVERY`](hearth_proto::outlier::SAMPLE_EVERY).
    Samples(Vec<(EndpointId, Sample)>),
    /// The promises of leases up to this number are durably on disk.
    PromisesSaved(u64),
    /// Result of an attempt of an activation hook.
    Hook {
        /// Which endpoint of ours.
        endpoint: EndpointId,
        /// By which order of the core.
        order: u64,
        /// How it ended.
        result: Result<(), HookFailed>,
    },
    /// The requests that warm an endpoint up were made.
    Warmed {
        /// Which endpoint of ours.
        endpoint: EndpointId,
        /// By which order of the core.
        order: u64,
    },
    /// An operator wants activated endpoints of a service to stand down.
    Failback(ServiceName, oneshot::Sender<FailbackView>),
}

/// What the core wants done that is not a matter of links.
pub trait Effects: Send + 'static {
    /// Does, or has done, what the event says. Must not block.
    fn handle(&mut self, event: Event, node: &Node);
    /// A peer asks something for its operator. `None`: it is not answered.
    fn asked(&mut self, ask: &Ask, node: &Node, now: Time) -> Option<Answer>;
    /// A peer answered what an operator of ours asked.
    fn answered(&mut self, from: &NodeName, answer: Answer);
    /// An application of ours refused a connection: its health check has to know.
    fn refused(&mut self, endpoint: &EndpointId);
    /// An application of ours broke a request off: it is to be checked.
    fn broke(&mut self, endpoint: &EndpointId);
    /// A turn is over; `late` is by how much it began after its deadline.
    fn turn(&mut self, late: Duration);
}

/// The queues into the driver. Clones are handles.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    reports: mpsc::Sender<PathReport>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Receiver<u64>,
}

/// The driver is gone: the agent is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent is shutting down")]
pub struct Gone;

impl Handle {
    /// Hands a command over; waits while the driver is behind.
    pub async fn command(&self, command: Command) -> Result<(), Gone> {
        self.commands.send(command).await.map_err(|_| Gone)
    }

    /// Where commands go, for whoever gives none but those.
    pub fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }

    /// Reads something from the core.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Node, Time) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (answer, wait) = oneshot::channel();
        let command = Command::Read(Box::new(move |node, now| {
            // Whoever asked may have gone meanwhile.
            let _ = answer.send(read(node, now));
        }));
        self.command(command).await?;
        wait.await.map_err(|_| Gone)
    }

    /// Where the traffic path reports to.
    pub fn reports(&self) -> mpsc::Sender<PathReport> {
        self.reports.clone()
    }

    /// The routes, to be read without a lock.
    pub fn snapshot(&self) -> Arc<ArcSwap<Snapshot>> {
        self.snapshot.clone()
    }

    /// The version of the newest snapshot, to be awaited.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}

/// Maps the monotonic clock to the core's time.
#[derive(Clone, Copy, Debug)]
pub struct Origin(Instant);

impl Origin {
    /// The core's time starts now.
    pub fn now() -> Self {
        Self(Instant::now())
    }

    /// The core's time.
    pub fn time(self) -> Time {
        Time(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn instant(self, t: Time) -> Instant {
        self.0 + Duration::from_micros(t.0)
    }
}

/// The driver and its ends of the queues.
pub struct Driver<E> {
    node: Recorder,
    flight: Flight,
    origin: Origin,
    links: Links,
    effects: E,
    events: mpsc::Receiver<LinkEvent>,
    commands: mpsc::Receiver<Command>,
    reports: mpsc::Receiver<PathReport>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<u64>,
}

impl<E: Effects> Driver<E> {
    /// A driver over a core and where its recorder's tape goes, and the handle the rest of the agent uses.
    pub fn new(
        (node, flight): (Recorder, Flight),
        origin: Origin,
        links: Links,
        effects: E,
        events: mpsc::Receiver<LinkEvent>,
    ) -> (Self, Handle) {
        let (command_tx, commands) = mpsc::channel(256);
        let (report_tx, reports) = mpsc::channel(4096);
        let snapshot = Arc::new(ArcSwap::new(node.snapshot()));
        let (changed, seen) = watch::channel(0);
        let handle = Handle {
            commands: command_tx,
            reports: report_tx,
            snapshot: snapshot.clone(),
            changed: seen,
        };
        let driver = Self {
            node,
            flight,
            origin,
            links,
            effects,
            events,
            commands,
            reports,
            snapshot,
            changed,
        };
        (driver, handle)
    }

    /// Runs until every handle is gone.
    pub async fn run(mut self) {
        loop {
            self.drain();
            let due = self.origin.instant(self.node.poll_timeout());
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.into()) => {
                    self.effects.turn(Instant::now().saturating_duration_since(due));
                    self.node.handle_timeout(self.origin.time());
                    continue;
                }
                Some(event) = self.events.recv() => self.link_event(event),
                Some(report) = self.reports.recv() => self.report(report),
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
            }
            self.take_waiting();
            self.effects.turn(Duration::ZERO);
        }
    }

    /// Takes a share of what else waits, from each queue: a flood on one holds no other up.
    fn take_waiting(&mut self) {
        for _ in 0..BATCH {
            let Ok(event) = self.events.try_recv() else { break };
            self.link_event(event);
        }
        for _ in 0..BATCH {
            let Ok(report) = self.reports.try_recv() else { break };
            self.report(report);
        }
        for _ in 0..BATCH {
            let Ok(command) = self.commands.try_recv() else { break };
            self.command(command);
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        let now = self.origin.time();
        match event {
            LinkEvent::Up { peer, hello, .. } => {
                self.node.handle_link(now, &peer, LinkInput::Up(hello));
            }
            LinkEvent::Down { peer, reason, orderly } => {
                tracing::info!(%peer, reason, orderly, "link closed");
                self.node.handle_link(now, &peer, LinkInput::Closed { orderly });
            }
            LinkEvent::Silent { peer, since } => {
                tracing::warn!(%peer, unanswered_ms = since.as_secs_f64() * 1e3, "link silent");
                self.node.handle_link(now, &peer, LinkInput::Silent { unanswered: since });
            }
            LinkEvent::Heard { peer } => self.node.handle_link(now, &peer, LinkInput::Heard),
            LinkEvent::Relay { wish, input } => self.node.handle_relay(now, &wish, &input),
            LinkEvent::Datagram { from, bytes } => self.node.handle_datagram(now, &from, &bytes),
            // Between the shells of two agents: the core has no part in it.
            LinkEvent::Message {
                from: Identity::Node(peer), message: Message::Ask(ask), ..
            } => {
                if let Some(answer) = self.effects.asked(&ask, &self.node, now) {
                    self.send(&peer, &Message::Answer(answer));
                }
            }
            LinkEvent::Message {
                from: Identity::Node(peer), message: Message::Answer(a), ..
            } => {
                self.effects.answered(&peer, a);
            }
            LinkEvent::Message { from, message, reply } => {
                let answer = self.node.handle_message(now, &from, message);
                match (answer, reply, from) {
                    // Whoever asked may have hung up.
                    (Some(answer), Some(reply), _) => drop(reply.send(answer)),
                    (Some(_), None, Identity::Node(_)) | (None, _, _) => {}
                    (Some(_), None, Identity::Control(name)) => {
                        tracing::debug!(%name, "an answer had no way back");
                    }
                }
            }
        }
    }

    /// Sends something of the shell's own, where the table says that the peer is.
    fn send(&self, to: &NodeName, message: &Message) {
        if let Some(entry) = self.node.table().get(to) {
            self.links.send_message(to, entry.advert.address, message);
        }
    }

    fn report(&mut self, report: PathReport) {
        let now = self.origin.time();
        match report {
            PathReport::Outcome { endpoint, outcome } => {
                self.node.handle_outcome(now, &endpoint, outcome);
            }
            PathReport::NeedWake { service } => self.node.handle_need(now, &service),
            PathReport::LocalRefused { endpoint } => {
                self.node.handle_health(now, &endpoint, false);
                self.effects.refused(&endpoint);
            }
            // Whoever asked may have gone.
            PathReport::MayRelay { from, to, answer } => {
                let _ = answer.send(self.node.may_relay(now, &from, &to));
            }
            PathReport::LocalBroke { endpoint } => self.effects.broke(&endpoint),
        }
    }

    fn command(&mut self, command: Command) {
        let now = self.origin.time();
        match command {
            Command::Read(read) => read(&self.node, now),
            Command::Ask { ask, to } => {
                let message = Message::Ask(ask);
                to.iter().for_each(|peer| self.send(peer, &message));
            }
            // Whoever asked may have gone meanwhile; the drill is begun, or over, all the same.
            Command::StartDrill(ask, answer) => {
                drop(answer.send(self.node.start_drill(now, ask)));
            }
            Command::StopDrill(id, why, answer) => {
                let _ = answer.send(self.node.stop_drill(now, id, &why));
            }
            Command::Toll(tolls) => self.node.handle_toll(now, &tolls),
            Command::Drain(on) => self.node.drain(now, on),
            Command::Leave => self.node.leave(now),
            Command::Apply(endpoints, interest) => self.node.apply(now, endpoints, interest),
            Command::Renewed(documents) => {
                self.node.restore(now, Vec::new(), documents);
                self.node.resign(now);
            }
            Command::Health { endpoint, healthy } => {
                self.node.handle_health(now, &endpoint, healthy);
            }
            Command::Samples(samples) => self.node.handle_samples(now, &samples),
            Command::PromisesSaved(serial) => self.node.handle_promises_saved(now, serial),
            Command::Hook { endpoint, order, result } => {
                self.node.handle_hook(now, &endpoint, order, result);
            }
            Command::Warmed { endpoint, order } => {
                self.node.handle_warmed(now, &endpoint, order);
            }
            Command::Failback(service, answer) => {
                // Whoever asked may have hung up; the word is given all the same.
                let _ = answer.send(self.node.failback(now, &service));
            }
        }
    }

    /// Carries out what the core wants, then publishes.
    fn drain(&mut self) {
        while let Some(transmit) = self.node.poll_transmit() {
            match transmit {
                Transmit::Datagram { to, address, bytes } => {
                    self.links.send_datagram(&to, address, bytes);
                }
                Transmit::Message { to, address, message } => {
                    self.links.send_message(&to, address, &message);
                }
                Transmit::Look { node, address } => self.links.probe(&node, address),
                Transmit::Cut { node } => self.links.cut(&node, "revoked by the control plane"),
            }
        }
        while let Some(event) = self.node.poll_event() {
            match event {
                Event::Watch(peers) => self.links.watch(peers),
                Event::Relay(wishes) => self.links.relay(wishes),
                event => self.effects.handle(event, &self.node),
            }
        }
        self.flight.take(&mut self.node);
        let snapshot = self.node.snapshot();
        let version = snapshot.version;
        if *self.changed.borrow() != version {
            self.snapshot.store(snapshot);
            self.changed.send_replace(version);
        }
    }
}
