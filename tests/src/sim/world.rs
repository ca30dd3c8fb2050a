//! The one loop, and a core's turn: input, drain the outputs, arm the next deadline, as
//! the agent's driver does it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::PoisonError;

use hearth_proto::evidence::Swim;
use hearth_proto::flight::Recorder;
use hearth_proto::ids::{EndpointId, Identity, NodeName, ServiceName};
use hearth_proto::incident::IncidentKey;
use hearth_proto::node::{Event, Transmit, Whole};
use hearth_proto::time::Time;
use hearth_proto::wire::{self, Message};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use xxhash_rust::xxh3::Xxh3;

use super::agenda::Agenda;
use super::check::Checks;
use super::episode::Episode;
use super::fault::Fault;
use super::flight::Tapes;
use super::host::{Host, HostSpec, Life};
use super::link::Frame;
use super::net::Net;
use super::traffic::{Overtaken, RATE, Reply, Request};
use super::{At, MS, S};
/// Frames a paused host's sockets hold; later ones are lost.
const INBOX: usize = 2_000;
/// The table is written to disk so long after it changed.
const SAVE_AFTER: u64 = S;

/// What is to happen.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A core's deadline.
    Wake { host: usize, epoch: u32 },
    /// A frame arrives.
    Frame { from: usize, to: usize, conn: u64, frame: Frame, tries: u32 },
    /// The first packet of a dial arrives.
    Syn { from: usize, to: usize, dial: u64, address: SocketAddr, hello: wire::Hello },
    /// Its answer arrives.
    SynAck { from: usize, to: usize, dial: u64, hello: wire::Hello },
    /// A dial has taken too long.
    DialLimit { host: usize, peer: usize, epoch: u32, dial: u64 },
    /// The wait after a failed dial is over.
    Redial { host: usize, peer: usize, epoch: u32 },
    /// A link is to be looked at.
    Side { host: usize, peer: usize, epoch: u32 },
    /// A health check is due.
    Check { host: usize, endpoint: EndpointId, epoch: u32, again: bool },
    /// A hook ends.
    Hook { host: usize, endpoint: EndpointId, epoch: u32, order: u64, ok: bool },
    /// The requests that warm an endpoint up are made.
    Warmed { host: usize, endpoint: EndpointId, epoch: u32, order: u64 },
    /// A deactivation has waited long enough.
    Stop { host: usize, endpoint: EndpointId, epoch: u32, stop: u64 },
    /// The disk is written.
    Save { host: usize, epoch: u32 },
    /// A caller makes a request.
    Call { host: usize, service: ServiceName, epoch: u32 },
    /// A caller's core is told what was answered.
    Samples { host: usize, epoch: u32 },
    /// A held request tries again.
    Retry { request: u64 },
    /// A try reaches its host.
    Arrive { request: u64, attempt: u32, from: usize, to: usize, endpoint: EndpointId },
    /// Its answer reaches the caller.
    Answer { request: u64, attempt: u32, reply: Reply },
    /// A try takes too long.
    TryLimit { request: u64, attempt: u32 },
    /// A fault of the scenario.
    Fault(Fault),
    /// The invariants are checked.
    Sample,
}

impl What {
    /// In one word, and of a message its kind on the wire.
    fn kind(&self) -> (&'static str, u8) {
        let word = match self {
            Self::Wake { .. } => "wake",
            Self::Frame { frame: Frame::Datagram(_), .. } => "datagram",
            Self::Frame { frame: Frame::Message(bytes), .. } => {
                return ("message", bytes.get(1).copied().unwrap_or_default());
            }
            Self::Frame { frame: Frame::Ping(_) | Frame::Pong(_) | Frame::Ack, .. } => "link",
            Self::Frame { frame: Frame::Close, .. } => "close",
            Self::Syn { .. } | Self::SynAck { .. } => "handshake",
            Self::DialLimit { .. } | Self::Redial { .. } => "dial",
            Self::Side { .. } => "look at a link",
            Self::Check { .. } | Self::Hook { .. } | Self::Warmed { .. } | Self::Stop { .. } => {
                "application"
            }
            Self::Save { .. } => "disk",
            Self::Call { .. }
            | Self::Samples { .. }
            | Self::Retry { .. }
            | Self::Arrive { .. }
            | Self::Answer { .. }
            | Self::TryLimit { .. } => "traffic",
            Self::Fault(_) | Self::Sample => "scenario",
        };
        (word, 0)
    }
}

/// Numbers of a run.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Events handled.
    pub events: u64,
    /// Datagrams and messages delivered.
    pub delivered: u64,
    /// Requests made.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that failed though an endpoint served, in reach, all the while.
    pub avoidable: u64,
    /// Why, of those that failed after the mesh had settled.
    pub failures: BTreeMap<&'static str, u64>,
    /// Those answered by an error of the application's.
    pub errors: u64,
    /// Tries beyond the first.
    pub retries: u64,
    /// The longest a request took that did not fail.
    pub slowest: u64,
    /// Activation hooks run.
    pub activations: u64,
    /// Those for which nothing was wrong but somebody's view.
    pub needless: u64,
    /// Attempts of activation hooks that failed.
    pub hooks_failed: u64,
    /// Warm endpoints that stood down.
    pub failbacks: u64,
    /// Call-ups of one more than were missing, each with a difference of views to justify it.
    pub surplus: u64,
    /// Times a flapping endpoint moved a warm one after it was known to flap.
    pub flaps: u64,
    /// Changes of condition of own endpoints.
    pub conditions: u64,
    /// Incidents opened, summed over all agents.
    pub incidents: u64,
    /// Incidents closed as not stable.
    pub unstable: u64,
    /// Refusals by what and why.
    pub refused: BTreeMap<String, u64>,
    /// Silences declared by link layers.
    pub silences: u64,
    /// What cores gave to links since the mesh had settled: how many of each kind, and their bytes.
    pub sent: BTreeMap<&'static str, (u64, u64)>,
    /// When that was.
    pub settled: At,
    /// Largest SWIM datagram.
    pub datagram: usize,
    /// Largest message.
    pub message: usize,
    /// Most timers a core held.
    pub timers: usize,
    /// Steps of recordings that were replayed.
    pub replayed_steps: u64,
    /// Decisions made in them.
    pub replayed_decisions: u64,
    /// Size of those recordings.
    pub recorded_bytes: u64,
}

/// A mesh in one seed's world.
pub struct World {
    /// Now.
    pub now: At,
    /// The seed.
    pub seed: u64,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The paths between them.
    pub net: Net,
    /// All draws.
    pub rng: StdRng,
    /// Numbers.
    pub stats: Stats,
    /// The invariants.
    pub checks: Checks,
    /// Who is dialled by who is lonely.
    pub seeds: Vec<usize>,
    /// What whoever starts knows in advance.
    pub(super) whole: Option<Whole>,
    /// Share of activation hooks that fail.
    pub hook_failure: f64,
    /// Every activation hook may take up to 3 s, not one in ten.
    pub slow_hooks: bool,
    /// How long activation hooks take, in microseconds; without, as long as is drawn.
    pub hook_time: Option<u64>,
    /// What agents called the losses of each endpoint.
    pub names: BTreeMap<EndpointId, BTreeSet<IncidentKey>>,
    /// Whether callers call.
    pub calling: bool,
    /// How often each caller calls each of its services in a second.
    pub rate: u64,
    /// After which time without an answer a request is asked elsewhere; without, after a try's whole time.
    pub hedge: Option<u64>,
    /// What members take each other for from now on, if it is kept: when, who, whom, for what.
    pub verdicts: Option<Vec<(At, usize, NodeName, Swim)>>,
    /// Pairs of a caller and a healthy endpoint it holds for less than ready when all is over.
    pub healthy_out: usize,
    /// What recorders wrote down.
    pub(super) tapes: Tapes,
    /// Faults whose misdirected requests are counted.
    pub episodes: Vec<Episode>,
    pub(super) requests: BTreeMap<u64, Request>,
    /// Endpoints that failed a caller of late: its successes there are reported.
    pub(super) sour: BTreeSet<(usize, EndpointId)>,
    /// Tries that a hedge got ahead of and that may still be answered, by request and attempt.
    pub(super) overtaken: BTreeMap<(u64, u32), Overtaken>,
    pub(super) next_id: u64,
    by_name: BTreeMap<NodeName, usize>,
    by_address: BTreeMap<SocketAddr, usize>,
    agenda: Agenda<What>,
    /// The present second, the events in it, and these by kind.
    storm: (At, u64, BTreeMap<(&'static str, u8), u64>),
    hash: Xxh3,
    /// What happened, for people; bounded.
    pub story: Vec<String>,
}

/// Longest story kept.
const STORY: usize = 4_000;

impl World {
    /// A world with these hosts, all off.
    pub fn new(seed: u64, specs: Vec<HostSpec>, net: Net) -> Self {
        let hosts: Vec<Host> =
            specs.into_iter().enumerate().map(|(i, spec)| Host::new(i, spec)).collect();
        let by_name = hosts.iter().enumerate().map(|(i, h)| (h.name.clone(), i)).collect();
        let by_address = hosts.iter().enumerate().map(|(i, h)| (h.address, i)).collect();
        Self {
            now: 0,
            seed,
            checks: Checks::new(hosts.len()),
            tapes: Tapes::new(seed, hosts.len()),
            hosts,
            net,
            rng: StdRng::seed_from_u64(seed),
            stats: Stats::default(),
            seeds: vec![0, 1, 2],
            whole: None,
            hook_failure: 0.0,
            slow_hooks: false,
            hook_time: None,
            names: BTreeMap::new(),
            calling: true,
            rate: RATE,
            hedge: None,
            verdicts: None,
            healthy_out: 0,
            episodes: Vec::new(),
            requests: BTreeMap::new(),
            sour: BTreeSet::new(),
            overtaken: BTreeMap::new(),
            next_id: 1,
            by_name,
            by_address,
            agenda: Agenda::new(),
            storm: (0, 0, BTreeMap::new()),
            hash: Xxh3::with_seed(seed),
            story: Vec::new(),
        }
    }

    /// The hash over everything delivered so far, in order.
    pub fn digest(&self) -> u64 {
        self.hash.digest()
    }

    /// The host of a name.
    pub fn index(&self, name: &NodeName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The host at an address.
    pub fn at_address(&self, address: SocketAddr) -> Option<usize> {
        self.by_address.get(&address).copied()
    }

    /// Arms something.
    pub(crate) fn at(&mut self, at: At, what: What) {
        self.agenda.arm(at.max(self.now), what);
    }

    /// Arms something `after` microseconds from now.
    pub(crate) fn after(&mut self, after: u64, what: What) {
        self.at(self.now + after, what);
    }

    /// A fresh number.
    pub fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Adds a line to the story.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.story.len() < STORY {
            let line = line();
            self.story.push(format!("{:>10.3}s {line}", self.now as f64 / S as f64));
        }
    }

    /// Runs until `end`.
    pub fn run_until(&mut self, end: At) {
        while let Some((at, what)) = self.agenda.next(end) {
            self.now = at;
            self.stats.events += 1;
            if self.is_storm(what.kind()) {
                return;
            }
            self.happen(what);
        }
        self.now = end;
    }

    /// More events in one second than any healthy mesh makes: whatever made them would never end. The world
    /// stops there.
    fn is_storm(&mut self, kind: (&'static str, u8)) -> bool {
        let second = self.now / S;
        let (last, all, counts) = &mut self.storm;
        if std::mem::replace(last, second) != second {
            *all = 0;
            counts.clear();
        }
        *all += 1;
        *counts.entry(kind).or_default() += 1;
        if *all <= super::check::MAX_EVENTS * self.hosts.len() as u64 {
            return false;
        }
        let what = format!("a storm: messages beget messages without end: {counts:?}");
        self.checks.violate(self.now, &what);
        self.agenda.clear();
        true
    }

    fn save(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        if h.life == Life::Paused {
            let epoch = h.epoch;
            self.after(SAVE_AFTER, What::Save { host, epoch });
            return;
        }
        h.saving = false;
        if let Some(node) = &h.node {
            h.disk.table = node.table().clone();
        }
    }

    /// Whether what was armed by start `epoch` of `host` still counts, and is done now.
    fn is_current(&self, host: usize, epoch: u32) -> bool {
        self.hosts[host].epoch == epoch && self.hosts[host].life == Life::Running
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Wake { host, epoch } => self.wake(host, epoch),
            What::Frame { to, .. } | What::Syn { to, .. } | What::SynAck { to, .. } => {
                match self.hosts[to].life {
                    Life::Off => {}
                    Life::Running => self.arrive(what),
                    Life::Paused => {
                        let inbox = &mut self.hosts[to].inbox;
                        if inbox.len() < INBOX {
                            inbox.push_back(what);
                        }
                    }
                }
            }
            What::DialLimit { host, peer, epoch, dial } if self.is_current(host, epoch) => {
                self.dial_limit(host, peer, dial);
            }
            What::Redial { host, peer, epoch } if self.is_current(host, epoch) => {
                self.redial(host, peer);
            }
            What::Side { host, peer, epoch } if self.is_current(host, epoch) => {
                self.tick_side(host, peer);
            }
            What::Check { host, endpoint, epoch, again } if self.hosts[host].epoch == epoch => {
                self.check_app(host, &endpoint, again);
            }
            What::Hook { host, endpoint, epoch, order, ok } if self.hosts[host].epoch == epoch => {
                self.hook_ended(host, &endpoint, order, ok);
            }
            What::Warmed { host, endpoint, epoch, order } if self.is_current(host, epoch) => {
                self.step(host, |node, now| node.handle_warmed(now, &endpoint, order));
            }
            What::Stop { host, endpoint, epoch, stop } if self.hosts[host].epoch == epoch => {
                self.stop_due(host, &endpoint, stop);
            }
            What::Save { host, epoch } if self.hosts[host].epoch == epoch => self.save(host),
            What::Call { host, service, epoch } if self.hosts[host].epoch == epoch => {
                self.call(host, service);
            }
            What::Samples { host, epoch } if self.hosts[host].epoch == epoch => {
                self.tell_samples(host);
            }
            What::Retry { request } => self.retry(request),
            What::Arrive { request, attempt, from, to, endpoint } => {
                self.try_arrives(request, attempt, from, to, endpoint);
            }
            What::Answer { request, attempt, reply } => {
                self.try_answered(request, attempt, reply);
            }
            What::TryLimit { request, attempt } => self.try_limit(request, attempt),
            What::Fault(fault) => self.inflict(&fault),
            What::Sample => {
                self.sample();
                self.after(S, What::Sample);
            }
            // Armed by an earlier start, or while the host was paused: its resume arms anew.
            _ => {}
        }
    }

    // ---- one core ------------------------------------------------------------------------------

    /// The core's time on a host.
    pub fn local(&self, host: usize) -> Time {
        Time(self.now - self.hosts[host].booted)
    }

    /// Gives a core an input and does what follows. Nothing happens on a host that does not run.
    pub fn step<R>(
        &mut self,
        host: usize,
        input: impl FnOnce(&mut Recorder, Time) -> R,
    ) -> Option<R> {
        if self.hosts[host].life != Life::Running {
            return None;
        }
        let now = self.local(host);
        let node = self.hosts[host].node.as_deref_mut()?;
        let result = input(node, now);
        self.drain(host);
        Some(result)
    }

    fn wake(&mut self, host: usize, epoch: u32) {
        if !self.is_current(host, epoch) || self.hosts[host].wake != Some(self.now) {
            return;
        }
        self.hosts[host].wake = None;
        let second = self.now / S;
        let most = super::check::most_turns(self.hosts.len());
        let turns = &mut self.hosts[host].turns;
        *turns = if turns.0 == second { (second, turns.1 + 1) } else { (second, 1) };
        if turns.1 > most {
            self.checks.violate(self.now, &format!("host {host} turns without end: a busy loop"));
            return;
        }
        self.step(host, Recorder::handle_timeout);
    }

    fn drain(&mut self, host: usize) {
        let Some(node) = self.hosts[host].node.as_deref_mut() else { return };
        let mut transmits = Vec::new();
        let mut events = Vec::new();
        while let Some(transmit) = node.poll_transmit() {
            transmits.push(transmit);
        }
        while let Some(event) = node.poll_event() {
            events.push(event);
        }
        self.tapes.take(self.now, host, node);
        let (due, sizes) = (node.poll_timeout().0, node.sizes());
        let due = self.hosts[host].booted + due;
        self.stats.timers = self.stats.timers.max(sizes.timers);
        for transmit in transmits {
            self.transmit(host, transmit);
        }
        for event in events {
            self.on_event(host, event);
        }
        let at = due.max(self.now);
        let h = &mut self.hosts[host];
        if h.wake != Some(at) && h.life == Life::Running {
            h.wake = Some(at);
            let epoch = h.epoch;
            self.at(at, What::Wake { host, epoch });
        }
    }

    fn count_sent(&mut self, host: usize, kind: &'static str, bytes: usize) {
        let by = &mut self.hosts[host].sent;
        *by = (by.0 + 1, by.1 + bytes as u64);
        let sent = self.stats.sent.entry(kind).or_default();
        *sent = (sent.0 + 1, sent.1 + bytes as u64);
    }

    fn transmit(&mut self, host: usize, transmit: Transmit) {
        match transmit {
            Transmit::Datagram { to, address, bytes } => {
                self.stats.datagram = self.stats.datagram.max(bytes.len());
                self.count_sent(host, "swim", bytes.len());
                if let Some(peer) = self.index(&to) {
                    self.send(host, peer, address, Frame::Datagram(bytes));
                }
            }
            Transmit::Message { to, address, message } => {
                let Ok(bytes) = message.encode() else {
                    let what = format!("{} cannot be encoded", message.name());
                    self.checks.violate(self.now, &what);
                    return;
                };
                self.stats.message = self.stats.message.max(bytes.len());
                self.count_sent(host, message.name(), bytes.len());
                if let Some(peer) = self.index(&to) {
                    self.send(host, peer, address, Frame::Message(bytes.into()));
                }
            }
            Transmit::Look { node, address } => {
                if let Some(peer) = self.index(&node) {
                    self.look(host, peer, address);
                }
            }
            Transmit::Cut { node } => {
                if let Some(peer) = self.index(&node) {
                    self.cut(host, peer);
                }
            }
        }
    }

    fn on_event(&mut self, host: usize, event: Event) {
        match event {
            Event::Activate { endpoint, attempt, order, .. } if attempt > 1 => {
                self.tell(|| format!("{endpoint}: attempt {attempt}"));
                self.run_hook(host, endpoint, order);
            }
            Event::WarmUp { endpoint, order, within } => {
                let epoch = self.hosts[host].epoch;
                let most = u64::try_from(within.as_micros()).unwrap_or(S).clamp(2, S);
                let long = self.rng.random_range(1..most);
                self.after(long, What::Warmed { host, endpoint, epoch, order });
            }
            Event::Activate { endpoint, order, incident, .. } => {
                self.stats.activations += 1;
                self.tell(|| format!("{endpoint} is activated for {incident:?}"));
                self.checks.activated(self.now, &endpoint);
                if !self.is_needed(host, &endpoint.service) {
                    self.stats.needless += 1;
                    self.tell(|| format!("{endpoint}: needless"));
                }
                self.run_hook(host, endpoint, order);
            }
            Event::Deactivate { endpoint, stop } => self.deactivate(host, endpoint, stop),
            Event::Check { endpoint } => {
                let epoch = self.hosts[host].epoch;
                self.after(2 * MS, What::Check { host, endpoint, epoch, again: false });
            }
            Event::Lonely => {
                for peer in self.seeds.clone() {
                    if peer != host {
                        let address = self.hosts[peer].address;
                        self.dial(host, peer, address);
                    }
                }
            }
            Event::Watch(peers) => self.watch(host, &peers),
            Event::SaveTable => {
                if !std::mem::replace(&mut self.hosts[host].saving, true) {
                    let epoch = self.hosts[host].epoch;
                    self.after(SAVE_AFTER, What::Save { host, epoch });
                }
            }
            Event::SaveDocuments => {
                let h = &mut self.hosts[host];
                if let Some(node) = &h.node {
                    h.disk.documents = node.document_records();
                }
            }
            Event::SavePromises { serial, books } => {
                let now = Time(self.now);
                let h = &mut self.hosts[host];
                h.disk.promises = books;
                if let Some(node) = &mut h.node {
                    node.handle_promises_saved(now, serial);
                }
            }
            Event::Lease { service, term, held } => {
                self.tell(|| format!("host {host}: lease of {service}, term {term}: {held:?}"));
            }
            Event::Member { node, to, .. } => {
                let now = self.now;
                self.verdicts.iter_mut().for_each(|v| v.push((now, host, node.clone(), to)));
            }
            // Third agents do not carry here: a wish for one stays unanswered.
            Event::Trust(_) | Event::Spans(_) | Event::SaveActivations | Event::Relay(_) => {}
            Event::Revoked(revoked) => {
                let mut known =
                    self.hosts[host].revoked.lock().unwrap_or_else(PoisonError::into_inner);
                *known = revoked;
            }
            Event::Refused { what, reason, detail, .. } => {
                let n = self.stats.refused.entry(format!("{what}/{reason}")).or_default();
                *n += 1;
                if *n <= 5 {
                    self.tell(|| format!("host {host} refused: {detail}"));
                }
            }
            Event::Condition { endpoint, from, to, .. } => {
                self.stats.conditions += 1;
                self.tell(|| format!("{endpoint}: {from} → {to}"));
                self.condition_changed(host, &endpoint, from, to);
            }
            Event::IncidentOpened { key, reason, decision } => {
                self.stats.incidents += 1;
                self.names.entry(key.lost.clone()).or_default().insert(key.clone());
                let name = self.hosts[host].name.clone();
                self.tell(|| format!("{name} opens {key} ({}, {reason}): {decision}", key.lost));
            }
            Event::IncidentChanged { .. } => {}
            Event::DrillBegan { id, service, lose } => {
                let name = self.hosts[host].name.clone();
                self.tell(|| format!("{name}: {id} of {service} begins, {lose}"));
            }
            Event::DrillOver { id, service, why } => {
                let name = self.hosts[host].name.clone();
                self.tell(|| format!("{name}: {id} of {service} is over, {why}"));
            }
            Event::IncidentClosed { key, after, stable } => {
                self.stats.unstable += u64::from(!stable);
                let name = self.hosts[host].name.clone();
                self.tell(|| format!("{name} closes {key} after {after:?}, stable: {stable}"));
            }
        }
    }

    // ---- what arrives --------------------------------------------------------------------------

    /// Adds something delivered to the hash.
    pub(super) fn note(&mut self, kind: u8, from: usize, to: usize, bytes: &[u8]) {
        self.stats.delivered += 1;
        self.hash.update(&self.now.to_le_bytes());
        self.hash.update(&[kind, from as u8, (from >> 8) as u8, to as u8, (to >> 8) as u8]);
        self.hash.update(bytes);
    }

    pub(super) fn take_datagram(&mut self, from: usize, to: usize, bytes: &[u8]) {
        self.note(1, from, to, bytes);
        let name = self.hosts[from].name.clone();
        self.step(to, |node, now| node.handle_datagram(now, &name, bytes));
    }

    pub(super) fn take_message(&mut self, from: usize, to: usize, bytes: &[u8]) {
        self.note(2, from, to, bytes);
        let message = match Message::decode(bytes) {
            Ok(Some(message)) => message,
            other => {
                self.checks.violate(self.now, &format!("a message came out as {other:?}"));
                return;
            }
        };
        let from = Identity::Node(self.hosts[from].name.clone());
        self.step(to, |node, now| node.handle_message(now, &from, message));
    }
}
