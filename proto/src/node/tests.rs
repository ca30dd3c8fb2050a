//! Nodes against each other on a network without delay, and single nodes against what a hostile or
//! unlucky world may bring. Whole meshes under faults are the simulator's business.

use super::*;
use crate::advert::traits::CheckKind;
use crate::advert::{
    Advert, Condition, EndpointAdvert, Keyring, Protocol, Role, SignedAdvert, Untrusted,
};
use crate::document::{Content, Document, SignedDocument};
use crate::evidence::{CONFIRM_SILENCE, EJECT_AFTER, Outcome, Standing, Why};
use crate::ids::{EndpointId, Generation, Identity, NodeName, ServiceName, Version};
use crate::incident::IncidentKey;
use crate::lifecycle::{Activation, Stop};
use crate::member::SwimConfig;
use crate::policy::{Caller, Mode, Policy, ServicePolicy};
use crate::route::Choice;
use crate::time::{Clock, Time, Wall};
use crate::wire::{self, Hint, Message, Wake};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

mod absence;
mod drills;
mod ejections;
mod exclusive;
mod moves;
mod outliers;
mod prospects;
mod quarantine;
mod relays;
mod sync;
mod whole;

struct Hash(Identity);

fn mac(who: &Identity, message: &[u8]) -> Vec<u8> {
    xxh3_64(&[who.to_string().as_bytes(), b"|", message].concat()).to_le_bytes().to_vec()
}

impl Keyring for Hash {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        mac(&self.0, message)
    }
    fn certificate(&self) -> Arc<[u8]> {
        self.0.to_string().into_bytes().into()
    }
    fn verify(
        &self,
        signer: &Identity,
        certificate: &[u8],
        message: &[u8],
        signature: &[u8],
        _lasting: bool,
    ) -> Result<(), Untrusted> {
        if certificate != signer.to_string().as_bytes() {
            return Err(Untrusted::Certificate("of another".into()));
        }
        if mac(signer, message) == signature { Ok(()) } else { Err(Untrusted::Signature) }
    }
}

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn ledger() -> ServiceName {
    ServiceName::parse("ledger").unwrap()
}

fn at(node: &str) -> EndpointId {
    EndpointId { service: ledger(), node: name(node), instance: 0 }
}

fn address(node: &str) -> SocketAddr {
    let last = (xxh3_64(node.as_bytes()) % 250) as u8 + 1;
    SocketAddr::from(([10, 0, 0, last], 7940))
}

fn config(node: &str, role: Option<Role>, calls: bool) -> NodeConfig {
    let endpoint = |role| EndpointConfig {
        id: at(node),
        role,
        protocol: Protocol::Http,
        activation: Activation { deadline: Duration::from_secs(10), attempts: 3, warm_up: false },
        weight: 100,
        check: CheckKind::Http,
        hook: true,
    };
    NodeConfig {
        name: name(node),
        generation: Generation(1),
        address: address(node),
        zone: String::new(),
        region: String::new(),
        swim: SwimConfig::default(),
        seed: xxh3_64(node.as_bytes()),
        clock: Clock::default(),
        endpoints: role.map(endpoint).into_iter().collect(),
        interest: calls.then(ledger).into_iter().collect(),
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Nodes on a network that delivers at once, except from and to those that are `gone`.
#[derive(Default)]
struct Lab {
    now: Time,
    nodes: BTreeMap<NodeName, Node>,
    gone: BTreeSet<NodeName>,
    linked: BTreeSet<(NodeName, NodeName)>,
    events: Vec<(NodeName, Event)>,
    sent: Vec<(NodeName, Transmit)>,
}

impl Lab {
    /// `h…` are hot, `w…` warm, `c…` call.
    fn new(names: &[&str]) -> Self {
        let mut lab = Self { now: Time(1_000_000), ..Self::default() };
        for n in names {
            let role = match n.as_bytes()[0] {
                b'h' => Some(Role::Hot),
                b'w' => Some(Role::Warm { priority: 0 }),
                _ => None,
            };
            let config = config(n, role, n.starts_with('c'));
            let keys = Hash(Identity::Node(name(n)));
            lab.nodes.insert(name(n), Node::new(config, Box::new(keys), lab.now));
        }
        for a in names {
            for b in names.iter().filter(|b| a != *b) {
                lab.link(&name(a), &name(b));
            }
        }
        lab.healthy("h");
        lab.run(Duration::from_secs(3));
        lab
    }

    fn link(&mut self, a: &NodeName, b: &NodeName) {
        if self.linked.insert((a.clone(), b.clone())) {
            let hello = self.nodes[b].hello();
            let now = self.now;
            self.node(a.as_str()).handle_link(now, b, LinkInput::Up(hello));
            self.pump();
        }
    }

    fn node(&mut self, n: &str) -> &mut Node {
        self.nodes.get_mut(&name(n)).unwrap()
    }

    /// Passes the health checks of all whose name begins so.
    fn healthy(&mut self, prefix: &str) {
        let now = self.now;
        for (n, node) in self.nodes.iter_mut().filter(|(n, _)| n.as_str().starts_with(prefix)) {
            node.handle_health(now, &at(n.as_str()), true);
        }
        self.pump();
    }

    /// The order of the activation hook that was given last on a host.
    fn order(&self, n: &str) -> u64 {
        let of = |(of, event): &(NodeName, Event)| match event {
            Event::Activate { order, .. } if *of == name(n) => Some(*order),
            _ => None,
        };
        self.events.iter().rev().find_map(of).expect("no hook was ordered")
    }

    /// The hook that was ordered last on a host ends so.
    fn hook(&mut self, n: &str, result: Result<(), HookFailed>) {
        let (now, order) = (self.now, self.order(n));
        self.node(n).handle_hook(now, &at(n), order, result);
    }

    fn pump(&mut self) {
        for _ in 0..1_000 {
            let mut sent = Vec::new();
            for (from, node) in &mut self.nodes {
                while let Some(e) = node.poll_event() {
                    if let Event::SavePromises { serial, .. } = &e {
                        // A disk that takes no time.
                        node.handle_promises_saved(self.now, *serial);
                    }
                    self.events.push((from.clone(), e));
                }
                while let Some(t) = node.poll_transmit() {
                    sent.push((from.clone(), t));
                }
            }
            if sent.is_empty() {
                return;
            }
            for (from, transmit) in sent {
                self.sent.push((from.clone(), transmit.clone()));
                self.deliver(&from, transmit);
            }
        }
        panic!("the nodes never stop talking");
    }

    fn deliver(&mut self, from: &NodeName, transmit: Transmit) {
        let now = self.now;
        let to = match &transmit {
            Transmit::Datagram { to, .. } | Transmit::Message { to, .. } => to.clone(),
            Transmit::Look { node, .. } => {
                let (peer, silent) = (node.clone(), self.gone.contains(node));
                let input = match silent {
                    true => LinkInput::Silent { unanswered: ms(20) },
                    false => LinkInput::Heard,
                };
                self.node(from.as_str()).handle_link(now, &peer, input);
                return;
            }
            Transmit::Cut { .. } => return,
        };
        if self.gone.contains(&to) || self.gone.contains(from) || !self.nodes.contains_key(&to) {
            return;
        }
        let node = self.node(to.as_str());
        match transmit {
            Transmit::Datagram { bytes, .. } => node.handle_datagram(now, from, &bytes),
            Transmit::Message { message, .. } => {
                node.handle_message(now, &Identity::Node(from.clone()), message);
            }
            _ => {}
        }
    }

    fn run(&mut self, long: Duration) {
        self.pump();
        let end = self.now + long;
        loop {
            let next = self
                .nodes
                .iter()
                .filter(|(n, _)| !self.gone.contains(*n))
                .map(|(_, node)| node.poll_timeout())
                .min();
            let Some(next) = next.filter(|t| *t <= end) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            let due =
                |n: &NodeName, node: &Node| !self.gone.contains(n) && node.poll_timeout() <= now;
            let due: Vec<NodeName> = self
                .nodes
                .iter()
                .filter(|(n, node)| due(n, node))
                .map(|(n, _)| n.clone())
                .collect();
            for n in due {
                let node = self.node(n.as_str());
                node.handle_timeout(now);
                assert!(node.poll_timeout() > now, "{n} does not move forward");
            }
            self.pump();
        }
        self.now = end;
    }

    /// The host is gone: everybody's link with it goes silent.
    fn lose(&mut self, n: &str) {
        self.gone.insert(name(n));
        let now = self.now;
        let others: Vec<NodeName> =
            self.nodes.keys().filter(|o| !self.gone.contains(*o)).cloned().collect();
        for other in others {
            let silent = LinkInput::Silent { unanswered: ms(20) };
            self.node(other.as_str()).handle_link(now, &name(n), silent);
        }
        self.pump();
    }

    fn condition(&self, n: &str) -> Condition {
        self.nodes[&name(n)].snapshot().own[&at(n)]
    }

    fn standing(&self, seen_by: &str, n: &str) -> Standing {
        let snapshot = self.nodes[&name(seen_by)].snapshot();
        let route = &snapshot.services[&ledger()];
        route.candidates.iter().find(|c| c.id == at(n)).unwrap().standing.clone()
    }

    fn choice(&self, n: &str) -> Choice {
        self.nodes[&name(n)].snapshot().services[&ledger()].choice.clone()
    }

    fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, e)| wanted(e)).count()
    }

    fn give(&mut self, n: &str, version: u64, content: Content) -> Option<Message> {
        let control = Identity::Control(name("control-1"));
        let document = Document { version, issued: Wall(1), source: String::new(), content };
        let signed =
            SignedDocument::sign(&document, name("control-1"), &Hash(control.clone())).unwrap();
        let now = self.now;
        let ack = self.node(n).handle_message(now, &control, Message::Documents(vec![signed]));
        self.pump();
        ack
    }

    fn give_policy(&mut self, version: u64, policy: ServicePolicy) {
        let services = BTreeMap::from([(ledger(), policy)]);
        self.give("c1", version, Content::Policy(Policy { services, ..Policy::default() }));
    }
}

fn activated(e: &Event) -> bool {
    matches!(e, Event::Activate { .. })
}

#[test]
fn nodes_that_meet_hold_the_same_table_and_serve() {
    let lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    let digests: BTreeSet<u64> = lab.nodes.values().map(|n| n.table().tree().root()).collect();
    assert_eq!(digests.len(), 1);
    assert_eq!(lab.choice("c1"), Choice::Serve(vec![0, 1]));
    assert_eq!(lab.count(activated), 0, "nobody is called up for the mesh's start");
}

#[test]
fn a_silence_moves_requests_at_once_and_calls_up_only_when_it_is_confirmed() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1", "w2"]);
    lab.lose("h1");
    assert_eq!(lab.choice("c1"), Choice::Serve(vec![1]));
    assert_eq!(lab.count(activated), 0);
    lab.run(CONFIRM_SILENCE);
    assert_eq!(lab.count(activated), 1, "one lost, one called");
}

#[test]
fn a_silence_that_ends_before_it_is_confirmed_is_no_incident() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    let now = lab.now;
    lab.node("c1").handle_link(now, &name("h1"), LinkInput::Silent { unanswered: ms(20) });
    lab.run(ms(10));
    let now = lab.now;
    lab.node("c1").handle_link(now, &name("h1"), LinkInput::Heard);
    lab.run(Duration::from_secs(2));
    assert_eq!(lab.count(|e| matches!(e, Event::IncidentOpened { .. })), 0);
}

/// The agent was not on the processor when the silence was to be confirmed; the answer lies in its socket.
#[test]
fn a_silence_whose_confirmation_comes_late_is_given_the_time_again_once() {
    let silent = || {
        let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
        let now = lab.now;
        lab.node("c1").handle_link(now, &name("h1"), LinkInput::Silent { unanswered: ms(20) });
        lab.stop("c1", ms(70));
        let now = lab.now;
        lab.node("c1").handle_timeout(now);
        lab
    };
    let opened = |e: &Event| matches!(e, Event::IncidentOpened { .. });
    let mut lab = silent();
    let now = lab.now;
    lab.node("c1").handle_link(now, &name("h1"), LinkInput::Heard);
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.count(opened), 0, "it had answered");
    let mut lab = silent();
    lab.run(ms(25));
    assert_eq!(lab.count(opened), 0);
    lab.stop("c1", ms(70));
    let now = lab.now;
    lab.node("c1").handle_timeout(now);
    lab.pump();
    assert!(lab.count(opened) > 0, "late again, which puts nothing off any more");
}

#[test]
fn what_still_arrives_from_a_silent_peer_does_not_end_the_silence() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    let now = lab.now;
    lab.node("c1").handle_link(now, &name("h1"), LinkInput::Silent { unanswered: ms(20) });
    let hint = Message::Hint(Hint { node: name("h2"), generation: Generation(1) });
    lab.node("c1").handle_message(now, &Identity::Node(name("h1")), hint);
    assert!(matches!(lab.standing("c1", "h1"), Standing::Doubtful(Why::Silent { .. })));
    lab.node("c1").handle_link(now, &name("h1"), LinkInput::Heard);
    assert_eq!(lab.standing("c1", "h1"), Standing::Ready);
}

#[test]
fn a_link_closed_in_good_order_says_nothing_and_one_that_broke_is_silent() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    let now = lab.now;
    lab.node("c1").handle_link(now, &name("h1"), LinkInput::Closed { orderly: true });
    lab.node("c1").handle_link(now, &name("h2"), LinkInput::Closed { orderly: false });
    assert_eq!(lab.standing("c1", "h1"), Standing::Ready);
    assert!(matches!(lab.standing("c1", "h2"), Standing::Doubtful(Why::Silent { .. })));
}

#[test]
fn an_activated_endpoint_serves_after_hook_and_check_and_stands_down_after_the_hold() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.lose("h1");
    lab.run(ms(100));
    lab.hook("w1", Ok(()));
    assert_eq!(lab.condition("w1"), Condition::Activating);
    lab.healthy("w");
    assert_eq!(lab.condition("w1"), Condition::Serving);
    lab.run(ms(50));
    assert_eq!(lab.choice("c1"), Choice::Serve(vec![1, 2]));
    lab.gone.clear();
    let now = lab.now;
    for n in ["c1", "h2", "w1"] {
        lab.node(n).handle_link(now, &name("h1"), LinkInput::Heard);
    }
    lab.run(Duration::from_secs(29));
    assert_eq!(lab.condition("w1"), Condition::Serving, "the hold is 30 s");
    lab.run(Duration::from_secs(4));
    assert_eq!(lab.condition("w1"), Condition::Standby);
}

#[test]
fn an_endpoint_whose_hook_fails_makes_room_for_the_next() {
    let mut lab = Lab::new(&["c1", "h1", "w1", "w2"]);
    lab.lose("h1");
    lab.run(ms(100));
    let first = lab.events.iter().find(|(_, e)| activated(e)).unwrap().0.clone();
    lab.hook(first.as_str(), Err(HookFailed::Hopeless("no".into())));
    lab.run(ms(100));
    assert_eq!(lab.condition(first.as_str()), Condition::Unready);
    assert_eq!(lab.count(activated), 2);
}

#[test]
fn the_end_of_an_activation_that_was_taken_back_does_not_complete_the_next() {
    let mut lab = Lab::new(&["c1", "h1", "w1"]);
    lab.lose("h1");
    lab.run(ms(100));
    let (now, first) = (lab.now, lab.order("w1"));
    lab.node("w1").drain(now, true);
    lab.node("w1").drain(now, false);
    lab.run(ms(100));
    assert!(lab.order("w1") > first, "it is called again");
    for stale in [Ok(()), Err(HookFailed::Hopeless("no".into()))] {
        let now = lab.now;
        lab.node("w1").handle_hook(now, &at("w1"), first, stale);
        lab.healthy("w");
        assert_eq!(lab.condition("w1"), Condition::Activating);
    }
    lab.hook("w1", Ok(()));
    lab.healthy("w");
    assert_eq!(lab.condition("w1"), Condition::Serving);
}

#[test]
fn what_an_earlier_start_left_is_stopped_where_it_is_not_called_and_goes_on_where_it_is() {
    let stops = |lab: &Lab| lab.count(|e| matches!(e, Event::Deactivate { stop: Stop::Idle, .. }));
    let mut lab = Lab::new(&["c1", "h1", "w1"]);
    lab.run(Duration::from_secs(10));
    assert_eq!((stops(&lab), lab.count(activated)), (1, 0));
    lab.run(Duration::from_secs(60));
    assert_eq!(stops(&lab), 1, "once");

    let mut lab = Lab::new(&["c1", "h1", "w1"]);
    lab.lose("h1");
    lab.run(ms(100));
    lab.hook("w1", Ok(()));
    lab.healthy("w");
    lab.run(Duration::from_secs(60));
    assert_eq!((stops(&lab), lab.condition("w1")), (0, Condition::Serving));
}

#[test]
fn however_many_losses_woke_an_endpoint_the_last_ones_span_is_the_parent_of_its_activation() {
    let mut lab = Lab::new(&["c1", "h1", "w1"]);
    let wake = |lab: &mut Lab, version, parent_span| {
        let incident = IncidentKey { lost: at("h1"), version };
        let wake = Wake { endpoint: at("w1"), incident, parent_span, urgent: false };
        let (now, caller) = (lab.now, Identity::Node(name("c1")));
        lab.node("w1").handle_message(now, &caller, Message::Wake(wake));
    };
    let last = lab.nodes[&name("w1")].table().get(&name("h1")).unwrap().advert.version;
    for revision in 1_000..1_300 {
        wake(&mut lab, Version { revision, ..last }, revision);
    }
    assert_eq!(lab.nodes[&name("w1")].sizes().parents, 256);
    wake(&mut lab, last, 7);
    lab.lose("h1");
    lab.run(ms(100));
    lab.hook("w1", Ok(()));
    lab.healthy("w");
    let parent = lab.events.iter().rev().find_map(|(_, e)| match e {
        Event::Spans(spans) => spans.iter().find(|s| s.name == "activate").map(|s| s.parent),
        _ => None,
    });
    assert_eq!(parent, Some(Some(7)));
}

#[test]
fn an_incident_becomes_stable_by_time_alone_and_reports_its_spans() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    lab.lose("h1");
    lab.run(Duration::from_secs(5));
    let closed = |e: &Event| matches!(e, Event::IncidentClosed { stable: true, .. });
    assert!(lab.count(closed) >= 1);
    let spans = lab.events.iter().filter(|(n, _)| n.as_str() == "c1").find_map(|(_, e)| match e {
        Event::Spans(spans) => Some(spans.clone()),
        _ => None,
    });
    let names: Vec<&str> = spans.unwrap().iter().map(|s| s.name).collect();
    assert_eq!(names, ["failover", "detect", "decide", "shift", "stabilise"]);
}

#[test]
fn everyone_names_a_loss_alike() {
    let mut lab = Lab::new(&["c1", "c2", "h1", "h2", "w1"]);
    lab.lose("h1");
    lab.run(Duration::from_secs(1));
    let keys: BTreeSet<IncidentKey> = lab
        .events
        .iter()
        .filter_map(|(_, e)| match e {
            Event::IncidentOpened { key, .. } => Some(key.clone()),
            Event::Activate { incident, .. } => incident.clone(),
            _ => None,
        })
        .collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
}

#[test]
fn one_callers_luck_with_requests_calls_nobody_up() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3", "w1"]);
    for _ in 0..EJECT_AFTER {
        let now = lab.now;
        lab.node("c1").handle_outcome(now, &at("h1"), Outcome::Broken);
    }
    assert!(matches!(lab.standing("c1", "h1"), Standing::Out(Why::Ejected { .. })));
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.count(activated), 0);
    let snapshot = lab.nodes[&name("c1")].snapshot();
    assert_eq!(snapshot.services[&ledger()].tally.called, []);
}

/// All are asked for more than they can do; then one of them hangs while the others answer.
#[test]
fn who_times_out_as_its_siblings_do_is_not_ejected_and_who_does_alone_is() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3", "w1"]);
    let time_outs = |lab: &mut Lab, at_hosts: &[&str]| {
        for _ in 0..30 {
            for host in at_hosts {
                let now = lab.now;
                lab.node("c1").handle_outcome(now, &at(host), Outcome::TimedOut);
            }
            lab.run(ms(50));
        }
    };
    time_outs(&mut lab, &["h1", "h2", "h3"]);
    for host in ["h1", "h2", "h3"] {
        assert_eq!(lab.standing("c1", host), Standing::Ready);
        let now = lab.now;
        let answered = Outcome::Answered { latency: ms(1) };
        lab.node("c1").handle_outcome(now, &at(host), answered);
    }
    time_outs(&mut lab, &["h1"]);
    assert!(matches!(lab.standing("c1", "h1"), Standing::Out(Why::Ejected { .. })));
}

fn wake(incident: IncidentKey) -> Message {
    Message::Wake(Wake { endpoint: at("w1"), incident, parent_span: 7, urgent: true })
}

fn loss_of(n: &str) -> IncidentKey {
    let version = Version { generation: Generation(1), revision: 2 };
    IncidentKey { lost: at(n), version }
}

#[test]
fn an_urgent_wake_against_our_own_view_is_believed_when_it_is_repeated() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    let from = Identity::Node(name("c1"));
    for _ in 0..3 {
        let now = lab.now;
        lab.node("w1").handle_message(now, &from, wake(loss_of("h1")));
        lab.pump();
    }
    assert_eq!(lab.count(activated), 0, "old wakes that arrive together are one");
    lab.run(ms(500));
    let now = lab.now;
    lab.node("w1").handle_message(now, &from, wake(loss_of("h1")));
    lab.pump();
    assert_eq!(lab.count(activated), 1);
}

#[test]
fn an_urgent_wake_that_our_own_view_supports_is_heeded_at_once() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    let now = lab.now;
    lab.node("w1").handle_link(now, &name("h1"), LinkInput::Silent { unanswered: ms(20) });
    assert_eq!(lab.count(activated), 0);
    lab.node("w1").handle_message(now, &Identity::Node(name("c1")), wake(loss_of("h1")));
    lab.pump();
    assert_eq!(lab.count(activated), 1);
}

#[test]
fn a_wake_by_somebody_who_may_not_call_is_refused() {
    let mut lab = Lab::new(&["c1", "c2", "h1", "w1"]);
    let allow = vec![Caller::Node(name("c1"))];
    lab.give_policy(1, ServicePolicy { allow, ..ServicePolicy::default() });
    lab.run(Duration::from_secs(1));
    let now = lab.now;
    lab.node("w1").handle_message(now, &Identity::Node(name("c2")), wake(loss_of("h1")));
    lab.pump();
    let refused = |e: &Event| matches!(e, Event::Refused { what: "wake", .. });
    assert_eq!(lab.count(refused), 1);
}

#[test]
fn in_mode_hot_hot_nobody_is_called_up() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.give_policy(1, ServicePolicy { mode: Mode::HotHot, ..ServicePolicy::default() });
    lab.run(Duration::from_secs(1));
    lab.lose("h1");
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.count(activated), 0);
}

#[test]
fn a_document_spreads_from_one_and_an_older_one_changes_nothing() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.give_policy(5, ServicePolicy::default());
    lab.run(Duration::from_secs(3));
    let versions = |lab: &Lab| -> BTreeSet<u64> {
        lab.nodes.values().map(|n| n.snapshot().policy_version).collect()
    };
    assert_eq!(versions(&lab), BTreeSet::from([5]));
    lab.give_policy(4, ServicePolicy { mode: Mode::HotHot, ..ServicePolicy::default() });
    lab.run(Duration::from_secs(3));
    assert_eq!(versions(&lab), BTreeSet::from([5]));
}

#[test]
fn a_document_that_a_node_signed_is_refused() {
    let mut lab = Lab::new(&["c1", "h1"]);
    let content = Content::Policy(Policy::default());
    let document = Document { version: 9, issued: Wall(1), source: String::new(), content };
    let by_node = Hash(Identity::Node(name("h1")));
    let signed = SignedDocument::sign(&document, name("control-1"), &by_node).unwrap();
    let now = lab.now;
    let from = Identity::Node(name("h1"));
    lab.node("c1").handle_message(now, &from, Message::Documents(vec![signed]));
    lab.pump();
    assert_eq!(lab.nodes[&name("c1")].snapshot().policy_version, 0);
    assert_eq!(lab.count(|e| matches!(e, Event::Refused { what: "document", .. })), 1);
}

#[test]
fn a_revocation_holds_for_a_node_that_is_learnt_later() {
    let mut lab = Lab::new(&["c1", "h2"]);
    lab.give("c1", 1, Content::Revocations(BTreeMap::from([(name("h1"), Wall(9))])));
    let now = lab.now;
    let c1 = lab.node("c1");
    assert!(c1.evidence(now, &name("h1")).revoked);
    assert!(!c1.evidence(now, &name("h3")).revoked);
}

#[test]
fn a_revocation_that_is_withdrawn_is_over_and_one_that_stays_revokes_nobody_anew() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    let both = [(name("h1"), Wall(9)), (name("h2"), Wall(9))];
    lab.give("c1", 1, Content::Revocations(BTreeMap::from(both)));
    let now = lab.now;
    // It came back with a newer certificate.
    lab.node("c1").evidence(now, &name("h2")).revoked = false;
    lab.give("c1", 2, Content::Revocations(BTreeMap::from([(name("h2"), Wall(9))])));
    let c1 = lab.node("c1");
    assert!(!c1.evidence(now, &name("h1")).revoked, "withdrawn");
    assert!(!c1.evidence(now, &name("h2")).revoked, "as before");
}

#[test]
fn shared_maps_are_written_as_others_are() {
    let plain: BTreeMap<NodeName, u32> =
        ["b", "a", "c"].into_iter().zip(1..).map(|(n, v)| (name(n), v)).collect();
    let shared: RedBlackTreeMapSync<NodeName, u32> =
        plain.iter().rev().map(|(n, v)| (n.clone(), *v)).collect();
    let bytes = wire::encode_body(&plain).unwrap();
    assert_eq!(wire::encode_body(&shared).unwrap(), bytes);
    let back: RedBlackTreeMapSync<NodeName, u32> = wire::decode_body(&bytes).unwrap();
    assert_eq!(back, shared);
}

fn record(n: &str, version: Version) -> SignedAdvert {
    let endpoint = EndpointAdvert {
        service: ledger(),
        instance: 0,
        role: Role::Hot,
        condition: Condition::Serving,
        protocol: Protocol::Http,
        since: Wall(0),
        activated_for: None,
    };
    let advert = Advert {
        node: name(n),
        version,
        address: address(n),
        zone: String::new(),
        region: String::new(),
        endpoints: vec![endpoint],
        policy_version: 0,
        left: false,
        extension: Vec::new(),
    };
    SignedAdvert::sign(&advert, &Hash(Identity::Node(name(n)))).unwrap()
}

#[test]
fn what_was_on_disk_is_used_before_anybody_is_heard_and_lost_when_nobody_ever_is() {
    let version = Version { generation: Generation(3), revision: 1 };
    let mut lab = Lab::default();
    let keys = Hash(Identity::Node(name("c1")));
    let mut node = Node::new(config("c1", None, true), Box::new(keys), lab.now);
    node.restore(lab.now, vec![record("h1", version), record("h2", version)], Vec::new());
    lab.nodes.insert(name("c1"), node);
    assert_eq!(lab.choice("c1"), Choice::Panic(vec![0, 1]));
    assert_eq!(lab.standing("c1", "h1"), Standing::Doubtful(Why::Unheard));
    lab.run(crate::evidence::UNHEARD_LOST);
    let snapshot = lab.nodes[&name("c1")].snapshot();
    assert_eq!(snapshot.services[&ledger()].tally.hot, 0);
    assert_eq!(lab.choice("c1"), Choice::Panic(vec![0, 1]), "still better than nobody");
}

#[test]
fn our_own_words_of_an_earlier_life_are_outbid() {
    let mut lab = Lab::new(&["c1", "h1"]);
    let old = record("h1", Version { generation: Generation(1), revision: 500 });
    let now = lab.now;
    let from = Identity::Node(name("c1"));
    lab.node("h1").handle_message(now, &from, Message::Adverts(vec![old]));
    lab.run(ms(100));
    let said = lab.nodes[&name("h1")].table().version(&name("h1")).unwrap();
    assert!(said.revision > 500, "{said}");
    assert_eq!(lab.nodes[&name("c1")].table().version(&name("h1")), Some(said));
}

#[test]
fn a_record_that_does_not_exist_is_asked_for_a_bounded_number_of_times() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    let (now, me) = (lab.now, lab.sent.len());
    lab.node("c1").want(name("ghost"), None, now);
    lab.run(Duration::from_secs(60));
    let asked = lab.sent[me..]
        .iter()
        .filter(|(_, t)| {
            matches!(t, Transmit::Message { message: Message::Want(w), .. } if w.contains(&name("ghost")))
        })
        .count();
    assert!((1..=5).contains(&asked), "asked {asked} times");
    assert_eq!(lab.nodes[&name("c1")].sizes().wanted, 0);
}

#[test]
fn of_many_missing_records_few_are_asked_for_one_by_one_and_digests_find_the_rest() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    let (now, before) = (lab.now, lab.sent.len());
    for n in 0..500 {
        lab.node("c1").want(name(&format!("ghost{n}")), None, now);
    }
    lab.run(ms(900));
    let sent = &lab.sent[before..];
    let count = |is: fn(&Message) -> bool| {
        let ours = sent.iter().filter(|(from, _)| *from == name("c1"));
        ours.filter(|(_, t)| matches!(t, Transmit::Message { message, .. } if is(message))).count()
    };
    let asked = count(|m| matches!(m, Message::Want(_)));
    assert!((32..=42).contains(&asked), "asked {asked} times");
    assert!(count(|m| matches!(m, Message::Digest(_))) >= 1, "it hurries");
    lab.run(Duration::from_secs(60));
    assert_eq!(lab.nodes[&name("c1")].sizes().wanted, 0);
}

#[test]
fn a_record_is_sent_once_however_often_it_is_asked_for() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    let (now, before) = (lab.now, lab.sent.len());
    let want = Message::Want(vec![name("h2"); 10_000]);
    lab.node("c1").handle_message(now, &Identity::Node(name("h1")), want);
    lab.pump();
    let records: usize = lab.sent[before..]
        .iter()
        .map(|(_, t)| match t {
            Transmit::Message { message: Message::Adverts(a), .. } => a.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(records, 1);
}

#[test]
fn the_control_plane_may_send_documents_and_nothing_else() {
    let mut lab = Lab::new(&["c1", "h1"]);
    let now = lab.now;
    let control = Identity::Control(name("control-1"));
    let record = record("h1", Version { generation: Generation(9), revision: 1 });
    lab.node("c1").handle_message(now, &control, Message::Adverts(vec![record]));
    lab.pump();
    assert_eq!(lab.count(|e| matches!(e, Event::Refused { reason: "role", .. })), 1);
    let held = lab.nodes[&name("c1")].table().version(&name("h1")).unwrap();
    assert_eq!(held.generation, Generation(1));
}

#[test]
fn a_swim_packet_in_anothers_name_is_refused() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    lab.run(Duration::from_secs(1));
    let bytes = lab.sent.iter().find_map(|(from, t)| match t {
        Transmit::Datagram { to, bytes, .. } if from.as_str() == "h1" && to.as_str() == "c1" => {
            Some(bytes.clone())
        }
        _ => None,
    });
    let now = lab.now;
    lab.node("c1").handle_datagram(now, &name("h2"), &bytes.unwrap());
    lab.node("c1").handle_datagram(now, &name("h2"), &wire::encode_swim(b"nonsense"));
    lab.node("c1").handle_datagram(now, &name("h2"), b"");
    lab.pump();
    let refused = |why| lab.count(|e| matches!(e, Event::Refused { reason, .. } if *reason == why));
    assert_eq!((refused("other_sender"), refused("malformed")), (1, 1));
}

#[test]
fn a_node_that_left_alone_does_not_spin() {
    let keys = Hash(Identity::Node(name("c1")));
    let mut node = Node::new(config("c1", None, true), Box::new(keys), Time(0));
    node.leave(Time(1_000));
    for _ in 0..100 {
        let due = node.poll_timeout();
        node.handle_timeout(due);
        assert!(node.poll_timeout() > due, "stuck at {due:?}");
    }
}

#[test]
fn who_leaves_in_good_order_is_out_and_calls_nobody_once_its_advert_says_so() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    let now = lab.now;
    lab.node("h1").leave(now);
    lab.pump();
    lab.gone.insert(name("h1"));
    lab.run(Duration::from_secs(5));
    assert!(matches!(lab.standing("c1", "h1"), Standing::Out(_)));
    assert_eq!(lab.count(activated), 0);
    assert_eq!(lab.choice("c1"), Choice::Serve(vec![1]));
}

#[test]
fn a_node_that_did_not_run_for_a_while_accuses_nobody_on_its_return() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3"]);
    for pause in [200, 700, 3_000, 60_000] {
        // Only c1 stops: nothing reaches it and its timers are late.
        lab.gone.insert(name("c1"));
        lab.run(ms(pause));
        lab.gone.clear();
        let now = lab.now;
        lab.node("c1").handle_timeout(now);
        lab.pump();
        for n in ["h1", "h2", "h3"] {
            assert_eq!(lab.standing("c1", n), Standing::Ready, "after {pause} ms");
        }
        lab.run(Duration::from_secs(5));
    }
}

#[test]
fn an_application_that_fails_is_replaced_and_comes_back() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    let now = lab.now;
    lab.node("h1").handle_health(now, &at("h1"), false);
    lab.run(ms(100));
    assert_eq!(lab.standing("c1", "h1"), Standing::Out(Why::Condition(Condition::Unready)));
    assert_eq!(lab.count(activated), 1);
    lab.healthy("h1");
    lab.run(ms(100));
    assert_eq!(lab.standing("c1", "h1"), Standing::Ready);
}

#[test]
fn an_advert_signed_anew_is_newer_and_reaches_the_others() {
    let mut lab = Lab::new(&["c1", "h1"]);
    let version = |lab: &Lab| lab.nodes[&name("c1")].table().version(&name("h1")).unwrap();
    let before = version(&lab);
    let now = lab.now;
    lab.node("h1").resign(now);
    lab.run(ms(200));
    assert!(version(&lab) > before);
}
