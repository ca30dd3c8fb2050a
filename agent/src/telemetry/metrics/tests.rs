use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use hearth_proto::advert::Untrusted;
use hearth_proto::advert::traits::CheckKind;
use hearth_proto::advert::{
    Advert, Condition, EndpointAdvert, Keyring, Protocol, Role, SignedAdvert,
};
use hearth_proto::balance::tiers::Place;
use hearth_proto::balance::{FULL_WEIGHT, Spread};
use hearth_proto::document::{Content, Document, SignedDocument};
use hearth_proto::evidence::{Standing, Why};
use hearth_proto::ids::{EndpointId, Generation, Identity, NodeName, ServiceName, Version};
use hearth_proto::incident::IncidentKey;
use hearth_proto::lifecycle::Activation;
use hearth_proto::member::SwimConfig;
use hearth_proto::node::{EndpointConfig, LinkInput, NodeConfig};
use hearth_proto::policy::{Policy, ServicePolicy};
use hearth_proto::route::{Candidate, Choice, Route, Share, Snapshot};
use hearth_proto::time::Clock;
use hearth_proto::view::{Census, LeaseView};
use hearth_proto::wire::{self, Hello};

use super::*;

/// The agent's metrics that dashboards and alerts name, and those documented beside them. `true`: only
/// there once something happened or was told.
const NAMES: [(&str, bool); 33] = [
    ("hearth_build_info", false),
    ("hearth_members", false),
    ("hearth_endpoints", false),
    ("hearth_routable_endpoints", false),
    ("hearth_requests_total", true),
    ("hearth_request_duration_seconds_bucket", true),
    ("hearth_retries_total", true),
    ("hearth_failovers_total", true),
    ("hearth_incidents_open", false),
    ("hearth_drills_running", false),
    ("hearth_activation_duration_seconds_bucket", true),
    ("hearth_link_silences_total", false),
    ("hearth_link_silences_confirmed_total", false),
    ("hearth_links", false),
    ("hearth_policy_version", false),
    ("hearth_trust_version", false),
    ("hearth_cert_expiry_timestamp_seconds", true),
    ("hearth_table_records", false),
    ("hearth_table_age_seconds", false),
    ("hearth_adverts_refused_total", false),
    ("hearth_handshakes_refused_total", false),
    ("hearth_documents_refused_total", true),
    ("hearth_messages_refused_total", true),
    ("hearth_gossip_suspicions_total", false),
    ("hearth_gossip_refutations_total", false),
    ("hearth_gossip_rejoins_total", false),
    ("hearth_gossip_health_score", false),
    ("hearth_loop_lag_seconds", false),
    ("hearth_dropped_total", true),
    ("hearth_control_reachable", true),
    ("hearth_inbound_requests_total", true),
    ("hearth_requests_held", false),
    ("hearth_connections", false),
];

/// Believes everybody.
struct Trusting;

impl Keyring for Trusting {
    fn sign(&self, _: &[u8]) -> Vec<u8> {
        vec![1]
    }
    fn certificate(&self) -> Arc<[u8]> {
        [1].into()
    }
    fn verify(&self, _: &Identity, _: &[u8], _: &[u8], _: &[u8], _: bool) -> Result<(), Untrusted> {
        Ok(())
    }
}

fn node_name(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

fn id(of: &str, node: &str) -> EndpointId {
    EndpointId { service: service(of), node: node_name(node), instance: 0 }
}

const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7940);
const T0: Time = Time(1_000_000);

/// web-1 with one warm endpoint, calling one service that nobody offers.
fn core() -> Node {
    let config = NodeConfig {
        name: node_name("web-1"),
        generation: Generation(1),
        address: ADDRESS,
        zone: String::new(),
        region: String::new(),
        swim: SwimConfig::default(),
        seed: 1,
        clock: Clock { origin: Wall(0) },
        endpoints: vec![EndpointConfig {
            id: id("ledger", "web-1"),
            role: Role::Warm { priority: 0 },
            protocol: Protocol::Http,
            activation: Activation {
                deadline: Duration::from_secs(10),
                attempts: 1,
                warm_up: false,
            },
            weight: 100,
            check: CheckKind::Http,
            hook: true,
        }],
        interest: BTreeSet::from([service("mail")]),
    };
    Node::new(config, Box::new(Trusting), T0)
}

fn advert(node: &str, left: bool) -> SignedAdvert {
    let advert = Advert {
        node: node_name(node),
        version: Version { generation: Generation(1), revision: 1 },
        address: ADDRESS,
        zone: String::new(),
        region: String::new(),
        endpoints: vec![EndpointAdvert {
            service: service("ledger"),
            instance: 0,
            role: Role::Hot,
            condition: Condition::Serving,
            protocol: Protocol::Http,
            since: Wall(0),
            activated_for: None,
        }],
        policy_version: 0,
        left,
        extension: Vec::new(),
    };
    SignedAdvert::sign(&advert, &Trusting).unwrap()
}

fn document(version: u64, content: Content) -> SignedDocument {
    let document = Document { version, issued: Wall(1), source: String::new(), content };
    SignedDocument::sign(&document, node_name("control-1"), &Trusting).unwrap()
}

/// Series (name with labels) and values.
fn series(metrics: &Metrics) -> BTreeMap<String, f64> {
    let text = metrics.render();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines
        .map(|l| {
            let (name, value) = l.rsplit_once(' ').expect(l);
            (name.to_owned(), value.parse().expect(l))
        })
        .collect()
}

fn refused(what: &'static str) -> Event {
    let from = Identity::Node(node_name("web-2"));
    Event::Refused { what, reason: "expired", from, detail: "in words".into() }
}

#[test]
fn every_name_of_the_documentation_is_there_once_and_no_value_is_made_up_before_it_is_known() {
    let metrics = Metrics::new();
    metrics.observe_core(&core(), T0);
    let has = |all: &BTreeMap<String, f64>, name: &str| {
        all.keys().any(|k| k == name || k.strip_prefix(name).is_some_and(|r| r.starts_with('{')))
    };
    let before = series(&metrics);
    for (name, later) in NAMES {
        assert_eq!(has(&before, name), !later, "{name} before anything happened");
    }
    let ledger = service("ledger");
    metrics.proxy().request(&ledger, "ok", 0.003);
    metrics.proxy().retry(&ledger, "refused");
    metrics.proxy().inbound(&ledger, "ok");
    metrics.links().handshakes_refused.get_or_create(&[("reason", "name")]).inc();
    metrics.dropped().get_or_create(&[("queue", "logs")]).inc();
    metrics.cert_expiry(Wall(1_700_000_000_500_000));
    metrics.control_reachable(false);
    metrics.loop_lag(Duration::from_millis(250));
    for what in ["advert", "document", "swim"] {
        metrics.observe_event(&refused(what));
    }
    let lost = id("ledger", "web-2");
    let version = Version { generation: Generation(1), revision: 1 };
    metrics.observe_event(&Event::IncidentOpened {
        key: IncidentKey { lost: lost.clone(), version },
        reason: "silent",
        decision: String::new(),
    });
    metrics.observe_event(&Event::Condition {
        endpoint: lost,
        from: "activating",
        to: "serving",
        activation: Some(Duration::from_millis(1500)),
    });
    let after = series(&metrics);
    for (name, _) in NAMES {
        assert!(has(&after, name), "{name} is missing:\n{}", metrics.render());
    }
    for (series, value) in [
        ("hearth_requests_total{service=\"ledger\",outcome=\"ok\"}", 1.0),
        ("hearth_request_duration_seconds_bucket{le=\"0.005\",service=\"ledger\"}", 1.0),
        ("hearth_retries_total{service=\"ledger\",reason=\"refused\"}", 1.0),
        ("hearth_failovers_total{service=\"ledger\",reason=\"silent\"}", 1.0),
        ("hearth_activation_duration_seconds_bucket{le=\"1.0\",service=\"ledger\"}", 0.0),
        ("hearth_activation_duration_seconds_bucket{le=\"2.5\",service=\"ledger\"}", 1.0),
        ("hearth_adverts_refused_total{reason=\"expired\"}", 1.0),
        ("hearth_documents_refused_total{reason=\"expired\"}", 1.0),
        ("hearth_messages_refused_total{what=\"swim\",reason=\"expired\"}", 1.0),
        ("hearth_dropped_total{queue=\"logs\"}", 1.0),
        ("hearth_cert_expiry_timestamp_seconds", 1_700_000_000.5),
        ("hearth_control_reachable", 0.0),
        ("hearth_loop_lag_seconds", 0.25),
        (concat!("hearth_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        assert_eq!(after.get(series), Some(&value), "{series}:\n{}", metrics.render());
    }
    metrics.control_reachable(true);
    assert_eq!(self::series(&metrics)["hearth_control_reachable"], 1.0);
    let types: Vec<_> =
        metrics.render().lines().filter(|l| l.starts_with("# TYPE")).map(str::to_owned).collect();
    assert_eq!(types.iter().collect::<BTreeSet<_>>().len(), types.len(), "twice: {types:#?}");
}

#[test]
fn the_core_is_counted_as_it_is_at_the_scrape() {
    let metrics = Metrics::new();
    let mut node = core();
    metrics.observe_core(&node, T0);
    let alone = series(&metrics);
    assert_eq!(alone["hearth_members{state=\"alive\"}"], 1.0);
    assert_eq!(alone["hearth_table_records"], 1.0);
    for standing in ["ready", "doubtful", "out"] {
        let name = format!("hearth_routable_endpoints{{service=\"mail\",standing=\"{standing}\"}}");
        assert_eq!(alone.get(&name), Some(&0.0), "a service nobody offers is shown with zeros");
    }
    let documents = vec![
        document(7, Content::Policy(Policy::default())),
        document(3, Content::Trust(vec![vec![1]])),
    ];
    node.restore(T0, vec![advert("web-2", false), advert("web-3", true)], documents);
    let hello = Hello {
        generation: Generation(1),
        address: ADDRESS,
        protocol: (wire::PROTOCOL, wire::PROTOCOL),
    };
    node.handle_link(T0, &node_name("web-2"), LinkInput::Up(hello));
    let later = T0 + Duration::from_secs(4);
    metrics.observe_core(&node, later);
    let mesh = series(&metrics);
    for (series, value) in [
        ("hearth_members{state=\"alive\"}", 2.0),
        ("hearth_members{state=\"suspect\"}", 0.0),
        ("hearth_members{state=\"down\"}", 0.0),
        ("hearth_table_records", 3.0),
        ("hearth_table_age_seconds", 4.0),
        ("hearth_policy_version", 7.0),
        ("hearth_trust_version", 3.0),
        ("hearth_incidents_open", 0.0),
        ("hearth_endpoints{service=\"ledger\",role=\"hot\",condition=\"serving\"}", 1.0),
        ("hearth_endpoints{service=\"ledger\",role=\"warm\",condition=\"standby\"}", 1.0),
        ("hearth_routable_endpoints{service=\"ledger\",standing=\"ready\"}", 1.0),
        ("hearth_routable_endpoints{service=\"ledger\",standing=\"out\"}", 2.0),
    ] {
        assert_eq!(mesh.get(series), Some(&value), "{series}:\n{}", metrics.render());
    }
    node.apply(later, Vec::new(), BTreeSet::new());
    // The core gathers changes of the own advert for a moment.
    node.handle_timeout(later + Duration::from_secs(1));
    metrics.observe_core(&node, later + Duration::from_secs(1));
    let gone = "hearth_endpoints{service=\"ledger\",role=\"warm\",condition=\"standby\"}";
    assert!(!series(&metrics).contains_key(gone), "stale:\n{}", metrics.render());
}

#[test]
fn the_last_word_of_a_dead_node_is_no_strength() {
    let candidate = |node: &str, condition, standing| Candidate {
        id: id("ledger", node),
        address: ADDRESS,
        generation: Generation(1),
        protocol: Protocol::Http,
        role: Role::Warm { priority: 0 },
        condition,
        standing,
        via: None,
        share: Share::Full,
        term: None,
        capacity: 100,
        weight: FULL_WEIGHT,
        place: Place::default(),
    };
    let out = Standing::Out;
    let route = Route {
        service: service("ledger"),
        policy: ServicePolicy::default(),
        candidates: vec![
            candidate("a", Condition::Standby, out(Why::Condition(Condition::Standby))),
            candidate("b", Condition::Standby, out(Why::Down { since: T0 })),
            candidate("c", Condition::Serving, out(Why::Revoked)),
            candidate("d", Condition::Standby, out(Why::Left)),
            candidate("e", Condition::Serving, Standing::Doubtful(Why::Silent { since: T0 })),
        ],
        choice: Choice::Nobody,
        spread: Spread::default(),
        reason: String::new(),
        tally: Default::default(),
        watched: false,
    };
    let mut snapshot = Snapshot::empty(node_name("web-1"));
    snapshot.services.insert(service("ledger"), Arc::new(route));
    let metrics = Metrics::new();
    metrics.0.state.observe(Picture::of(&Census { down: 1, ..Census::default() }, &snapshot));
    let all = series(&metrics);
    let endpoints: BTreeMap<_, _> = all
        .iter()
        .filter(|(name, _)| name.starts_with("hearth_endpoints{"))
        .map(|(name, n)| (name.split("condition=").nth(1).unwrap_or_default(), *n))
        .collect();
    let expected =
        BTreeMap::from([("\"standby\"}", 1.0), ("\"lost\"}", 2.0), ("\"serving\"}", 1.0)]);
    assert_eq!(endpoints, expected);
    assert_eq!(all["hearth_members{state=\"down\"}"], 1.0);
    assert_eq!(all["hearth_routable_endpoints{service=\"ledger\",standing=\"out\"}"], 4.0);
}

#[test]
fn a_seat_shows_where_it_stands_and_changes_of_the_lease_are_counted() {
    let metrics = Metrics::new();
    let stands = |seat: &str, term| {
        let lease = LeaseView {
            service: service("ledger"),
            seat: seat.to_owned(),
            term,
            sentence: String::new(),
        };
        let picture = Picture::of(&Census::default(), &Snapshot::empty(node_name("web-1")));
        metrics.0.state.observe(picture.with_leases(vec![lease]));
        series(&metrics)
    };
    let holds = "hearth_lease_seat{service=\"ledger\",seat=\"holds\"}";
    let minority = "hearth_lease_seat{service=\"ledger\",seat=\"minority\"}";
    let term = "hearth_lease_term{service=\"ledger\"}";
    let all = stands("holds", Some(7));
    assert_eq!([all[holds], all[minority], all[term]], [1.0, 0.0, 7.0]);
    let all = stands("minority", None);
    assert_eq!([all[holds], all[minority], all[term]], [0.0, 1.0, 0.0]);
    for held in [Ok(id("ledger", "web-1")), Err("expired"), Err("expired")] {
        metrics.observe_event(&Event::Lease { service: service("ledger"), term: 7, held });
    }
    let all = series(&metrics);
    let changes = |reason: &str| {
        all[&format!("hearth_lease_changes_total{{service=\"ledger\",reason=\"{reason}\"}}")]
    };
    assert_eq!([changes("won"), changes("expired")], [1.0, 2.0]);
}
