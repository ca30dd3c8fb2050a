//! The hosts and their lives: what they offer, what survives them, how they start, stop and end.
//!
//! A host can crash (all is lost but the disk), lose its agent alone, be paused (nothing is processed, the socket's buffer fills,
//! timers are late on resume), restart from its disk or wiped, and leave in good order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use hearth_proto::document::SignedDocument;
use hearth_proto::exclusive::Book;
use hearth_proto::flight::Recorder;
use hearth_proto::ids::{EndpointId, Generation, Identity, NodeName, ServiceName};
use hearth_proto::member::SwimConfig;
use hearth_proto::node::{EndpointConfig, Node, NodeConfig, Whole};
use hearth_proto::outlier::Sample;
use hearth_proto::table::Table;
use hearth_proto::time::{Clock, Time, Wall};
use rand::RngExt;

use super::application::App;
use super::fault::Fault;
use super::keyring::{Keys, Revoked, Signed};
use super::sides::Sides;
use super::world::{What, World};
use super::{At, MS, S};

/// Wall time at which every world begins: 2026-01-01.
pub const EPOCH: u64 = 1_767_225_600 * S;

/// The generation of a host's first start.
const FIRST: u64 = 1;

/// Whether a host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It does.
    Running,
    /// Stopped in its tracks, memory and all.
    Paused,
    /// Its process is gone.
    Off,
}

/// What a host offers and calls.
#[derive(Clone, Debug, Default)]
pub struct HostSpec {
    /// What it offers.
    pub endpoints: Vec<EndpointConfig>,
    /// What its applications call.
    pub interest: BTreeSet<ServiceName>,
    /// Its zone.
    pub zone: u8,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The last start.
    pub generation: u64,
    /// The table as last saved.
    pub table: Table,
    /// The documents.
    pub documents: Vec<SignedDocument>,
    /// The promises of leases.
    pub promises: Vec<(ServiceName, Book)>,
}

/// One host.
pub struct Host {
    /// Its name.
    pub name: NodeName,
    /// Where it is reached.
    pub address: SocketAddr,
    /// What it offers and calls.
    pub spec: HostSpec,
    /// Whether it runs.
    pub life: Life,
    /// Since when it does, or does not.
    pub since: At,
    /// Counts starts: what was armed by an earlier one is void.
    pub epoch: u32,
    /// The core, while the process lives.
    pub node: Option<Box<Recorder>>,
    /// When this start began: the core's time zero.
    pub booted: At,
    /// What survives.
    pub disk: Disk,
    /// Links with the others.
    pub sides: Sides,
    /// Applications behind its endpoints.
    pub apps: BTreeMap<EndpointId, App>,
    /// What its keyring knows of revocations.
    pub revoked: Revoked,
    /// What its keyring ever signed.
    pub signed: Signed,
    /// By how much its wall clock is wrong, in microseconds.
    pub clock_offset: i64,
    /// What endpoints answered its callers since its core was last told.
    pub(super) samples: BTreeMap<EndpointId, Sample>,
    /// What its core gave to links: messages, bytes.
    pub sent: (u64, u64),
    pub(super) inbox: VecDeque<What>,
    pub(super) wake: Option<At>,
    pub(super) saving: bool,
    pub(super) turns: (u64, u32),
}

impl World {
    /// Lets a host start at a time.
    pub fn start_at(&mut self, at: At, host: usize) {
        self.at(at, What::Fault(Fault::Boot(host, false)));
    }

    /// What each running host sees: members with itself, and records.
    pub fn views(&self) -> Vec<(usize, usize)> {
        let nodes = self.hosts.iter().filter_map(|h| h.node.as_ref());
        nodes.map(|node| (node.sizes().members + 1, node.table().len())).collect()
    }

    /// Whoever starts for the first time knows from now on all hosts, and what each says at its own first start.
    pub fn make_whole(&mut self) {
        let mut whole = Whole::default();
        for h in &self.hosts {
            let keys = h.keys(self.seed);
            let node = Node::new(h.config(FIRST, 0), Box::new(h.keys(self.seed)), Time(0));
            for signed in node.table_records() {
                let added = whole.add(signed, &keys, Time(0));
                assert!(added.is_ok(), "a node's own record holds: {added:?}");
            }
        }
        self.whole = Some(whole);
    }

    /// Starts a host that is off. `wipe` loses the disk: the generation then follows the wall clock, which
    /// is later than any count of starts.
    pub fn boot(&mut self, host: usize, wipe: bool) {
        if self.hosts[host].life != Life::Off {
            return;
        }
        let (now, seed) = (self.now, self.seed);
        let node_seed = self.rng.random();
        let h = &mut self.hosts[host];
        if wipe {
            h.disk = Disk { generation: (EPOCH + now) / MS, ..Disk::default() };
            h.revoked = Revoked::default();
        } else {
            h.disk.generation += 1;
        }
        h.epoch += 1;
        h.life = Life::Running;
        h.since = now;
        h.booted = now;
        h.wake = None;
        h.saving = false;
        h.sides.clear();
        h.samples.clear();
        h.inbox.clear();
        let first = h.disk.generation == FIRST;
        let whole = self.whole.as_ref().filter(|_| first);
        let (config, keys) = (h.config(h.disk.generation, node_seed), Box::new(h.keys(seed)));
        let node = match whole {
            Some(whole) => Node::in_whole(config, keys, Time(0), whole),
            None => Node::new(config, keys, Time(0)),
        };
        let told = whole.is_some();
        h.node = Some(Box::new(self.tapes.aboard(host, node)));
        let records = h.disk.table.iter().map(|(_, entry)| entry.signed.clone()).collect();
        let documents = h.disk.documents.clone();
        let (name, generation) = (h.name.clone(), h.disk.generation);
        let promises = h.disk.promises.clone();
        self.tell(|| format!("{name} starts (generation {generation}, wiped: {wipe})"));
        self.checks.started(host);
        // All know already what it says at its start: with promises, though it has none, it says that anew.
        if !told {
            self.step(host, |node, now| node.restore_promises(now, promises));
        }
        self.step(host, |node, now| node.restore(now, records, documents));
        self.start_apps(host);
    }

    /// The machine is gone, with everything but its disk.
    pub fn crash(&mut self, host: usize) {
        self.kill(host);
        for app in self.hosts[host].apps.values_mut() {
            app.activated = false;
        }
    }

    /// The agent is gone, with everything but its disk. Its applications go on as they are.
    pub fn kill(&mut self, host: usize) {
        if self.hosts[host].life == Life::Off {
            return;
        }
        let name = self.hosts[host].name.clone();
        self.tell(|| format!("{name} is gone"));
        let now = self.now;
        let h = &mut self.hosts[host];
        h.life = Life::Off;
        h.since = now;
        h.node = None;
        h.epoch += 1;
        h.inbox.clear();
        h.sides.clear();
        h.apps.values_mut().for_each(App::orphan);
        self.drop_requests_of(host);
    }

    /// Stops a host in its tracks.
    pub fn pause(&mut self, host: usize) {
        if self.hosts[host].life == Life::Running {
            let name = self.hosts[host].name.clone();
            self.tell(|| format!("{name} is paused"));
            self.hosts[host].life = Life::Paused;
            self.hosts[host].since = self.now;
        }
    }

    /// Lets it go on: timers first, as the driver prefers them, then what lies in the socket.
    pub fn resume(&mut self, host: usize) {
        if self.hosts[host].life != Life::Paused {
            return;
        }
        let name = self.hosts[host].name.clone();
        self.tell(|| format!("{name} goes on"));
        self.hosts[host].life = Life::Running;
        self.hosts[host].since = self.now;
        self.hosts[host].wake = None;
        self.excuse_links(host);
        self.step(host, Recorder::handle_timeout);
        for what in std::mem::take(&mut self.hosts[host].inbox) {
            self.arrive(what);
        }
    }

    /// Leaves in good order: drains, says so three times, closes its links.
    pub fn leave(&mut self, host: usize) {
        self.step(host, |node, now| node.drain(now, true));
        for _ in 0..3 {
            self.step(host, Recorder::leave);
        }
        self.close_links(host);
        self.crash(host);
    }
}

impl Host {
    pub(super) fn new(i: usize, spec: HostSpec) -> Self {
        // Two digits and more sort as they count.
        #[expect(clippy::expect_used, reason = "n and digits are a label")]
        let name = NodeName::parse(&format!("n{i:03}")).expect("a label");
        let octets = [10, 77, (i / 200) as u8, (i % 200) as u8 + 1];
        let apps = spec.endpoints.iter().map(|e| (e.id.clone(), App::new(e.role))).collect();
        Self {
            name,
            address: SocketAddr::from((octets, 7940)),
            spec,
            life: Life::Off,
            since: 0,
            epoch: 0,
            node: None,
            booted: 0,
            disk: Disk::default(),
            sides: Sides::default(),
            apps,
            revoked: Revoked::default(),
            signed: Signed::default(),
            clock_offset: 0,
            samples: BTreeMap::new(),
            sent: (0, 0),
            inbox: VecDeque::new(),
            wake: None,
            saving: false,
            turns: (0, 0),
        }
    }

    /// Its wall time when this start began.
    fn origin(&self) -> Wall {
        Wall((EPOCH + self.booted).saturating_add_signed(self.clock_offset))
    }

    fn keys(&self, world: u64) -> Keys {
        let (who, revoked) = (Identity::Node(self.name.clone()), Arc::clone(&self.revoked));
        Keys::new(world, who, self.origin(), revoked, Arc::clone(&self.signed))
    }

    /// What a start of its core is given; it draws from `seed`.
    fn config(&self, generation: u64, seed: u64) -> NodeConfig {
        NodeConfig {
            name: self.name.clone(),
            generation: Generation(generation),
            address: self.address,
            zone: format!("z{}", self.spec.zone),
            region: String::new(),
            swim: SwimConfig::default(),
            seed,
            clock: Clock { origin: self.origin() },
            endpoints: self.spec.endpoints.clone(),
            interest: self.spec.interest.clone(),
        }
    }
}
