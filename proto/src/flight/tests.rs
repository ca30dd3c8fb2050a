//! One node through a loss and back: recorded, put into bytes, read and replayed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::advert::extension::WEIGHT;
use crate::advert::traits::CheckKind;
use crate::advert::{
    Advert, Condition, EndpointAdvert, Keyring, Protocol, Role, SignedAdvert, Untrusted,
};
use crate::document::{Content, Document, SignedDocument};
use crate::ids::{EndpointId, Generation, Identity, NodeName, ServiceName, Version};
use crate::lifecycle::Activation;
use crate::member::{MemberId, MemberRecord, SwimConfig};
use crate::node::{EndpointConfig, Event, LinkInput, Node, NodeConfig, RelayInput, RelayWish};
use crate::policy::Policy;
use crate::time::{Clock, Time, Wall};
use crate::wire::{Hello, Members, Message};

use super::*;

/// Believes what is signed "good".
struct Good;

impl Keyring for Good {
    fn sign(&self, _: &[u8]) -> Vec<u8> {
        b"good".to_vec()
    }
    fn certificate(&self) -> Arc<[u8]> {
        Arc::from(*b"certificate")
    }
    fn verify(
        &self,
        _: &Identity,
        _: &[u8],
        _: &[u8],
        signature: &[u8],
        _: bool,
    ) -> Result<(), Untrusted> {
        if signature == b"good" { Ok(()) } else { Err(Untrusted::Signature) }
    }
}

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn ledger() -> ServiceName {
    ServiceName::parse("ledger").unwrap()
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 7940))
}

fn advert(node: &str, revision: u64, last: u8) -> SignedAdvert {
    let version = Version { generation: Generation(1), revision };
    SignedAdvert::sign(&Advert { version, ..opened(node, last) }, &Good).unwrap()
}

fn opened(node: &str, last: u8) -> Advert {
    Advert {
        node: name(node),
        version: Version { generation: Generation(1), revision: 1 },
        address: address(last),
        zone: String::new(),
        region: String::new(),
        endpoints: vec![EndpointAdvert {
            service: ledger(),
            instance: 0,
            role: Role::Hot,
            condition: Condition::Serving,
            protocol: Protocol::Http,
            since: Wall(1),
            activated_for: None,
        }],
        policy_version: 0,
        left: false,
        extension: Vec::new(),
    }
}

fn config(node: &str) -> NodeConfig {
    NodeConfig {
        name: name(node),
        generation: Generation(7),
        address: address(1),
        zone: String::new(),
        region: String::new(),
        swim: SwimConfig::default(),
        seed: 11,
        clock: Clock { origin: Wall(1_000) },
        endpoints: Vec::new(),
        interest: BTreeSet::from([ledger()]),
    }
}

fn hello(last: u8) -> Hello {
    Hello { generation: Generation(1), address: address(last), protocol: (1, 1) }
}

fn caller() -> Node {
    Node::new(config("c1"), Box::new(Good), Time(0))
}

/// A node and what its recorder gave.
struct Flown {
    node: Recorder,
    now: Time,
    entries: Vec<Entry>,
}

impl Flown {
    fn pass(&mut self, long: Duration) {
        let end = self.now + long;
        while self.node.poll_timeout() <= end {
            self.now = self.now.max(self.node.poll_timeout());
            self.node.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(event) = self.node.poll_event() {
            if let Event::SavePromises { serial, .. } = event {
                self.node.handle_promises_saved(self.now, serial);
            }
        }
        while self.node.poll_transmit().is_some() {}
        self.entries.extend(std::iter::from_fn(|| self.node.poll_entry()));
    }

    fn link(&mut self, peer: &str, input: LinkInput) {
        self.node.handle_link(self.now, &name(peer), input);
        self.drain();
    }

    fn message(&mut self, from: &str, message: Message) {
        self.node.handle_message(self.now, &Identity::Node(name(from)), message);
        self.drain();
    }
}

impl From<Node> for Flown {
    fn from(node: Node) -> Self {
        let mut flown = Self { node: Recorder::new(node), now: Time(0), entries: Vec::new() };
        flown.drain();
        flown
    }
}

/// Two endpoints appear, one is silent, is lost, and returns; a forged record comes in between.
fn flown() -> Flown {
    let mut flown = Flown::from(caller());
    for (peer, last) in [("h1", 2), ("h2", 3)] {
        flown.link(peer, LinkInput::Up(hello(last)));
        flown.message(peer, Message::Adverts(vec![advert(peer, 1, last)]));
    }
    flown.pass(Duration::from_secs(3));
    flown.link("h1", LinkInput::Silent { unanswered: Duration::from_millis(20) });
    flown.pass(Duration::from_millis(40));
    flown.node.ask_checkpoint();
    let mut forged = advert("h2", 9, 3);
    forged.signature = Arc::from(*b"bad");
    flown.message("h1", Message::Adverts(vec![forged]));
    flown.pass(Duration::from_secs(2));
    flown.link("h1", LinkInput::Heard);
    flown.pass(Duration::from_secs(3));
    flown
}

fn replay(entries: impl IntoIterator<Item = Entry>) -> Replay {
    let mut replay = Replay::new();
    for entry in entries {
        replay.feed(entry).unwrap();
    }
    replay
}

fn decided(entries: &[Entry]) -> Vec<&String> {
    let steps = entries.iter().filter_map(|e| match e {
        Entry::Step(step) => Some(&step.decided),
        _ => None,
    });
    steps.flatten().collect()
}

#[test]
fn a_recording_replays_to_the_same_decisions_and_the_same_state() {
    let flown = flown();
    let lines = decided(&flown.entries);
    for part in ["h1: ready → doubtful", "incident ledger-", "route ledger: serve", "refuse advert"]
    {
        assert!(lines.iter().any(|line| line.contains(part)), "no {part:?} in {lines:#?}");
    }
    let replay = replay(flown.entries.clone());
    assert_eq!(replay.difference(), None);
    assert_eq!(replay.decisions(), lines.len() as u64);
    let (node, now) = replay.node().unwrap();
    assert_eq!(node.routes_view(), flown.node.routes_view());
    assert_eq!(node.incidents_view(), flown.node.incidents_view());
    assert_eq!(node.members_view(now), flown.node.members_view(now));
}

#[test]
fn a_relay_and_what_it_tells_replay_alike_across_a_checkpoint() {
    let mut flown = Flown::from(caller());
    flown.link("h1", LinkInput::Up(hello(2)));
    flown.message("h1", Message::Adverts(vec![advert("h1", 1, 2)]));
    flown.pass(Duration::from_secs(1));
    let bystander = Advert { endpoints: Vec::new(), ..opened("x1", 4) };
    let signed = SignedAdvert::sign(&bystander, &Good).unwrap();
    let address = address(4);
    let id = MemberId::new(name("x1"), Generation(1), address);
    let members = vec![MemberRecord { id, incarnation: 0, state: 0 }];
    flown.link("x1", LinkInput::Up(hello(4)));
    flown.message("x1", Message::Adverts(vec![signed]));
    flown.message("x1", Message::Members(Members { reply: false, leaves: vec![], members }));
    flown.link("h1", LinkInput::Silent { unanswered: Duration::from_millis(20) });
    flown.pass(Duration::from_millis(100));
    let wish = RelayWish { to: name("h1"), via: name("x1"), address };
    flown.node.handle_relay(flown.now, &wish, &RelayInput::Up);
    flown.node.ask_checkpoint();
    flown.pass(Duration::from_secs(1));
    flown.node.handle_relay(flown.now, &wish, &RelayInput::Down("no way".into()));
    flown.pass(Duration::from_secs(1));
    flown.node.ask_checkpoint();
    flown.pass(Duration::from_secs(1));
    let lines = decided(&flown.entries);
    for part in ["relay h1 through x1", "route ledger: relay"] {
        assert!(lines.iter().any(|line| line.contains(part)), "no {part:?} in {lines:#?}");
    }
    assert_eq!(replay(flown.entries).difference(), None);
}

#[test]
fn a_lease_that_is_won_and_kept_replays_alike_across_a_checkpoint() {
    let id = EndpointId { service: ledger(), node: name("h1"), instance: 0 };
    let mut flown = Flown::from(Node::new(owner(&id), Box::new(Good), Time(0)));
    flown.node.restore_promises(flown.now, Vec::new());
    flown.node.restore(flown.now, Vec::new(), vec![leased_to("h1")]);
    flown.node.handle_health(flown.now, &id, true);
    flown.pass(Duration::from_secs(3));
    assert!(flown.node.lease(&ledger()).is_some());
    flown.node.ask_checkpoint();
    flown.pass(Duration::from_secs(3));
    flown.node.drain(flown.now, true);
    flown.pass(Duration::from_secs(3));
    flown.node.ask_checkpoint();
    flown.pass(Duration::from_secs(3));
    let lines = decided(&flown.entries);
    for part in ["h1 holds the lease of ledger", "the lease of ledger, term"] {
        assert!(lines.iter().any(|line| line.contains(part)), "no {part:?} in {lines:#?}");
    }
    assert_eq!(replay(flown.entries).difference(), None);
}

/// A node with one endpoint.
fn owner(id: &EndpointId) -> NodeConfig {
    let endpoint = EndpointConfig {
        id: id.clone(),
        role: Role::Hot,
        protocol: Protocol::Http,
        activation: Activation { deadline: Duration::from_secs(10), attempts: 1, warm_up: false },
        check: CheckKind::Http,
        hook: false,
        weight: WEIGHT,
    };
    NodeConfig { endpoints: vec![endpoint], ..config(id.node.as_str()) }
}

/// The policy by which `owner` alone may hold the lease.
fn leased_to(owner: &str) -> SignedDocument {
    let text = format!(r#"{{"mode": "exclusive", "exclusive": {{"owners": ["{owner}"]}}}}"#);
    let services = BTreeMap::from([(ledger(), serde_json::from_str(&text).unwrap())]);
    let content = Content::Policy(Policy { services, ..Policy::default() });
    let document = Document { version: 1, issued: Wall(1), source: String::new(), content };
    SignedDocument::sign(&document, name("control"), &Good).unwrap()
}

#[test]
fn what_follows_from_a_stop_of_our_own_replays_alike() {
    let mut flown = flown();
    let alive = |peer: &str, last| MemberRecord {
        id: MemberId::new(name(peer), Generation(1), address(last)),
        incarnation: 0,
        state: 0,
    };
    let members = vec![alive("h1", 2), alive("h2", 3)];
    flown.message("h2", Message::Members(Members { reply: false, leaves: vec![], members }));
    flown.pass(Duration::from_secs(1));
    flown.now = flown.now + Duration::from_secs(12);
    flown.link("h2", LinkInput::Closed { orderly: false });
    // Its state shows what a replay that knew of no stop would miss.
    flown.node.ask_checkpoint();
    flown.pass(Duration::from_millis(500));
    let lost = |flown: &Flown| flown.node.snapshot().services[&ledger()].tally.hot < 2;
    assert!(!lost(&flown), "we may have caught up too little to tell");
    flown.node.ask_checkpoint();
    flown.pass(Duration::from_secs(1));
    assert!(lost(&flown), "nor does it answer now");
    assert_eq!(replay(flown.entries).difference(), None);
}

#[test]
fn a_recording_can_be_cut_before_any_checkpoint() {
    let entries = flown().entries;
    let second = entries.iter().rposition(|e| matches!(e, Entry::Checkpoint(_))).unwrap();
    assert!(second > 0);
    let replay = replay(entries[second..].to_vec());
    assert_eq!(replay.difference(), None);
    assert!(replay.decisions() > 0);
}

#[test]
fn a_recording_that_does_not_begin_with_a_checkpoint_is_refused() {
    let entries = flown().entries;
    assert_eq!(Replay::new().feed(entries[1].clone()), Err(Unplayable::NoCheckpoint));
}

#[test]
fn an_input_or_a_verdict_that_was_changed_shows_as_the_first_difference() {
    let entries = flown().entries;
    let mut other_input = entries.clone();
    let mut other_verdict = entries.clone();
    for (changed, what) in [(&mut other_input, "input"), (&mut other_verdict, "verdict")] {
        for entry in changed.iter_mut() {
            let Entry::Step(step) = entry else { continue };
            match (&mut step.input, what) {
                (Input::Link { input: LinkInput::Silent { unanswered }, .. }, "input") => {
                    *unanswered = Duration::from_secs(1);
                }
                (Input::Message { .. }, "verdict")
                    if step.verdicts.contains(&Err(Untrusted::Signature)) =>
                {
                    step.verdicts = vec![Ok(())];
                }
                _ => {}
            }
        }
        let replay = replay(changed.clone());
        let difference = replay.difference().unwrap_or_else(|| panic!("{what} made none"));
        assert!(matches!(difference, Difference::Decision { .. }), "{difference:?}");
    }
}

#[test]
fn state_that_a_checkpoint_contradicts_is_a_difference_though_every_decision_is_alike() {
    let mut flown = Flown::from(caller());
    flown.link("h1", LinkInput::Up(hello(2)));
    flown.message("h1", Message::Adverts(vec![advert("h1", 1, 2)]));
    flown.pass(Duration::from_secs(1));
    flown.message("h1", Message::Want(Vec::new()));
    flown.node.ask_checkpoint();
    flown.pass(Duration::from_secs(1));
    let mut entries = flown.entries;
    assert_eq!(replay(entries.clone()).difference(), None);
    // A step that decided nothing is left out: when its peer was heard last is another time.
    let quiet = entries.iter().position(|e| {
        matches!(e, Entry::Step(s) if matches!(s.input, Input::Heard(_)) && s.decided.is_empty())
    });
    entries.remove(quiet.unwrap());
    assert!(replay(entries).difference().is_some());
}

#[test]
fn a_gap_is_counted_and_the_replay_goes_on_at_the_next_checkpoint() {
    let mut flown = flown();
    let before = flown.entries.len();
    flown.node.lost(3);
    flown.link("h2", LinkInput::Silent { unanswered: Duration::from_millis(20) });
    flown.pass(Duration::from_secs(1));
    assert!(matches!(flown.entries[before], Entry::Gap { dropped: 3 }));
    assert!(matches!(flown.entries[before + 1], Entry::Checkpoint(_)));
    let replay = replay(flown.entries);
    assert_eq!((replay.difference(), replay.dropped()), (None, 3));
}

#[test]
fn a_tape_that_nobody_polls_is_bounded_and_says_what_it_lacks() {
    let mut node = Recorder::new(caller());
    for n in 0..20_000 {
        node.handle_need(Time(n), &ledger());
    }
    let entries: Vec<Entry> = std::iter::from_fn(|| node.poll_entry()).collect();
    assert!(entries.len() <= 4_098, "{}", entries.len());
    let dropped = entries.iter().find_map(|e| match e {
        Entry::Gap { dropped } => Some(*dropped),
        _ => None,
    });
    assert!(dropped.unwrap() >= 4_000);
    assert_eq!(replay(entries).difference(), None);
}

#[test]
fn a_file_is_read_up_to_its_damage_and_the_rest_is_counted() {
    let entries = flown().entries;
    let mut bytes = header();
    let mut ends = Vec::new();
    for batch in entries.chunks(7) {
        bytes.extend(frame(batch).unwrap());
        ends.push(bytes.len());
    }
    let whole = read(&bytes).unwrap();
    assert_eq!((whole.entries.len(), &whole.damage), (entries.len(), &None));
    assert_eq!(replay(whole.entries).difference(), None);
    // Cut anywhere within the last frame, and a bit turned in the one before.
    for cut in [ends[ends.len() - 2] + 1, bytes.len() - 1] {
        let read = read(&bytes[..cut]).unwrap();
        let damage = read.damage.unwrap();
        assert_eq!(damage.offset, ends[ends.len() - 2]);
        assert_eq!(damage.bytes, cut - damage.offset);
    }
    let mut turned = bytes.clone();
    let at = ends[ends.len() - 3] + 20;
    turned[at] ^= 1;
    let read_turned = read(&turned).unwrap();
    assert_eq!(read_turned.damage.unwrap().offset, ends[ends.len() - 3]);
    assert!(replay(read_turned.entries).difference().is_none());
}

#[test]
fn another_file_or_format_is_refused_by_name() {
    assert!(read(b"hearth").unwrap_err().contains("no recording"));
    let mut bytes = header();
    bytes[8] = 99;
    assert!(read(&bytes).unwrap_err().contains("format 99"));
}

#[test]
fn a_quiet_step_costs_few_bytes() {
    let steps: Vec<Entry> = flown()
        .entries
        .into_iter()
        .filter(|e| matches!(e, Entry::Step(s) if s.decided.is_empty() && !matches!(s.input, Input::Message { .. })))
        .collect();
    let bytes = frame(&steps).unwrap().len();
    assert!(bytes / steps.len() < 24, "{} bytes each", bytes / steps.len());
}
