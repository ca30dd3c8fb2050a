//! A member that lies: joined for real with a token of her own, linked to the others with her own
//! certificate, a core of her own behind it so that she is as good a member as any. What she sends
//! beyond that is up to the test.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hearth_agent::config::HostPort;
use hearth_agent::driver::{Driver, Effects, Origin};
use hearth_agent::enrol::{Candidate, EnrolError, Enrolled, JoinToken, join};
use hearth_agent::flight::Flight;
use hearth_agent::identity::{Credentials, WallClock};
use hearth_agent::link::{LinkEvent, LinkMetrics, Links, Runtimes};
use hearth_proto::advert::{Advert, SignedAdvert};
use hearth_proto::flight::Recorder;
use hearth_proto::ids::{EndpointId, Generation, Identity, NodeName};
use hearth_proto::member::SwimConfig;
use hearth_proto::node::{Event, Node, NodeConfig};
use hearth_proto::time::{Clock, Time};
use hearth_proto::wire::{self, Hello, Message};
use hearth_tests::lab::wait::wait_for;
use hearth_tests::loopback::{LocalAgent, free_ports};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::mesh::{Mesh, SOON};

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

/// What was said to her.
type Heard = Arc<Mutex<Vec<(Identity, Message)>>>;

pub(crate) struct Mallory {
    pub(crate) address: SocketAddr,
    pub(crate) credentials: Credentials,
    links: Links,
    heard: Heard,
    // Last: everything above runs on it.
    runtime: Runtime,
}

/// Presents a join token in the name of `name`, as an agent does at its first start.
pub(crate) fn ask_to_join(
    runtime: &Runtime,
    mesh: &Mesh,
    name: &str,
    token: &str,
    address: SocketAddr,
    state_dir: &Path,
) -> Result<Enrolled, EnrolError> {
    let who = Candidate {
        name: &node(name),
        state_dir,
        control: &HostPort::parse(&mesh.control.address().to_string()).unwrap(),
        mesh_address: address,
        clock: WallClock::system(),
    };
    runtime.block_on(join(&who, &JoinToken::parse(token).unwrap()))
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

impl Mallory {
    /// Joins and waits until every agent counts her among the living.
    pub(crate) fn join(mesh: &Mesh) -> Self {
        let runtime = runtime();
        let [address] = free_ports();
        let token = mesh.control.token(&mesh.place, "mallory").unwrap();
        let state = mesh.place.path("mallory.state");
        let enrolled = ask_to_join(&runtime, mesh, "mallory", &token, address, &state).unwrap();
        let credentials = enrolled.credentials;
        let (links, heard) = {
            let _context = runtime.enter();
            member(address, &credentials, mesh.hot.mesh)
        };
        let mallory = Self { address, credentials, links, heard, runtime };
        wait_for("mallory to be a member like any other", SOON, || {
            for (name, agent) in mesh.agents() {
                let status: hearth_proto::view::StatusView =
                    agent.get("/v1/status").map_err(|e| e.to_string())?;
                let view: Vec<hearth_proto::view::MemberView> =
                    agent.get("/v1/members").map_err(|e| e.to_string())?;
                let told = view.iter().find(|m| m.node.as_str() == "mallory");
                let known = told.is_some_and(|m| m.state == "alive" && m.policy_version == 1);
                if status.records != 4 || !known {
                    return Err(format!("{name}: {} records, {told:?}", status.records));
                }
            }
            Ok(())
        })
        .unwrap();
        mallory
    }

    /// Sends `message` to an agent, as a member may.
    pub(crate) fn send(&self, to: (&str, &LocalAgent), message: &Message) {
        let _context = self.runtime.enter();
        self.links.send_message(&node(to.0), to.1.mesh, message);
    }

    /// The records that an agent holds, as it hands them out to a member that asks: its table, byte for
    /// byte.
    pub(crate) fn table_of(&self, of: (&str, &LocalAgent)) -> Vec<SignedAdvert> {
        let names = ["caller", "mallory", "warm-1", "web-1"].map(node).to_vec();
        let from = Identity::Node(node(of.0));
        self.heard.lock().unwrap().clear();
        self.send(of, &Message::Want(names.clone()));
        let records = wait_for("an agent's records", SOON, || {
            let heard = self.heard.lock().unwrap();
            let told = heard.iter().filter(|(who, _)| *who == from);
            let mut adverts = told.filter_map(|(_, message)| match message {
                Message::Adverts(adverts) if adverts.len() == names.len() => Some(adverts.clone()),
                _ => None,
            });
            adverts.next_back().ok_or_else(|| format!("{heard:?}"))
        });
        let mut records = records.unwrap();
        records.sort_by(|a, b| a.node.cmp(&b.node));
        records
    }

    /// A record under mallory's signature, whatever it says.
    pub(crate) fn sign(&self, advert: &Advert) -> SignedAdvert {
        SignedAdvert::sign(advert, &*self.credentials.keyring()).unwrap()
    }
}

/// Her core and links, on the current runtime.
fn member(address: SocketAddr, credentials: &Credentials, seed: SocketAddr) -> (Links, Heard) {
    let generation = Generation(credentials.clock().now().0 / 1_000);
    let hello = Hello { generation, address, protocol: (wire::PROTOCOL, wire::PROTOCOL) };
    let (event_tx, mut events) = mpsc::channel(1024);
    let links = Links::bind(
        address,
        credentials.clone(),
        hello,
        event_tx,
        LinkMetrics::default(),
        Runtimes::current(),
    )
    .unwrap();
    let origin = Origin::now();
    let config = NodeConfig {
        name: credentials.node().clone(),
        generation,
        address,
        zone: String::new(),
        region: String::new(),
        swim: SwimConfig::default(),
        seed: 7,
        clock: Clock { origin: credentials.clock().now() },
        endpoints: Vec::new(),
        interest: Default::default(),
    };
    let core = Node::new(config, credentials.keyring(), origin.time());
    let (tap, tapped) = mpsc::channel(1024);
    let effects = Seeking { seed, links: links.clone() };
    let aboard = (Recorder::off(core), Flight::off());
    let (driver, handle) = Driver::new(aboard, origin, links.clone(), effects, tapped);
    let heard = Heard::default();
    let record = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let LinkEvent::Message { from, message, .. } = &event {
                record.lock().unwrap().push((from.clone(), message.clone()));
            }
            if tap.send(event).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        // The driver runs for as long as somebody holds a handle.
        let _handle = handle;
        driver.run().await;
    });
    (links, heard)
}

/// All a member needs from outside to find the others.
struct Seeking {
    seed: SocketAddr,
    links: Links,
}

impl Effects for Seeking {
    fn asked(&mut self, _: &wire::Ask, _: &Node, _: Time) -> Option<wire::Answer> {
        None
    }
    fn answered(&mut self, _: &NodeName, _: wire::Answer) {}
    fn handle(&mut self, event: Event, _: &Node) {
        if matches!(event, Event::Lonely) {
            self.links.dial_seed(self.seed);
        }
    }
    fn refused(&mut self, _: &EndpointId) {}
    fn broke(&mut self, _: &EndpointId) {}
    fn turn(&mut self, _: std::time::Duration) {}
}
