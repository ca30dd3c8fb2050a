use hearth_proto::ids::{NodeName, ServiceName};
use hearth_proto::view::{ActivationView, IncidentEntry, LeaseView, LinkView};

use super::*;

const PAGE: Page =
    Page { style: Style { width: 100, colour: false }, now: Wall(1_000_000_000_000) };

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn service() -> ServiceName {
    ServiceName::parse("ledger").unwrap()
}

fn before(seconds: u64) -> Wall {
    Wall(PAGE.now.0 - seconds * 1_000_000)
}

fn endpoint(name: &str, role: &str, condition: &str, standing: &str, reason: &str) -> EndpointView {
    EndpointView {
        endpoint: format!("ledger@{name}"),
        service: service(),
        node: node(name),
        role: role.into(),
        condition: condition.into(),
        condition_since: before(200),
        standing: standing.into(),
        reason: reason.into(),
        standing_since: before(12),
        activated_for: None,
        weight: 1_000,
        term: None,
        activations: None,
    }
}

fn route() -> RouteView {
    RouteView {
        service: service(),
        decision: "serve".into(),
        reason: "2 of 3 needed serve; 1 warm called up".into(),
        picks: vec!["ledger@web-1".into(), "ledger@web-2".into()],
        needed: 3,
        serving: 2,
        called: vec!["ledger@spare-1".into()],
        short: 0,
        surplus: 0,
        damped: 0,
    }
}

#[test]
fn a_failback_says_who_was_told_and_who_stays() {
    let view = |told: &[&str], needed: &[&str]| FailbackView {
        service: service(),
        told: told.iter().map(|e| (*e).to_owned()).collect(),
        needed: needed.iter().map(|e| (*e).to_owned()).collect(),
        refused: None,
    };
    assert_eq!(
        failback(&view(&["ledger@spare-1"], &["ledger@spare-2"])),
        "ledger@spare-1 told to stand down: it does unless it sees a need\n\
         ledger@spare-2 is needed and stays: see hearth explain ledger\n"
    );
    assert_eq!(failback(&view(&[], &[])), "no warm endpoint of ledger is up as seen from here\n");
    let refused = FailbackView { refused: Some("ledger is exclusive".into()), ..view(&[], &[]) };
    assert_eq!(failback(&refused), "nobody was told: ledger is exclusive\n");
}

#[test]
fn an_endpoint_shows_how_long_its_activations_took() {
    let activations = ActivationView {
        count: 3,
        failures: 1,
        p50_s: Some(0.25),
        p95_s: Some(2.0),
        max_s: Some(2.5),
    };
    let e = EndpointView {
        activations: Some(activations),
        ..endpoint("spare-1", "warm", "standby", "out", "it stands by")
    };
    let table = endpoints(&[e], PAGE);
    let text = table.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        text.contains("3 activations (median 0.25 s, 95 % in 2.00 s, longest 2.50 s)"),
        "{text}"
    );
    assert!(text.contains("1 given up"), "{text}");
}

fn an_incident() -> IncidentView {
    let entry = |ms: u64, event: &str, detail: &str| IncidentEntry {
        at: Wall(before(12).0 + ms * 1_000),
        event: event.into(),
        detail: detail.into(),
    };
    IncidentView {
        id: "ledger-4f1d09ab".into(),
        trace_id: "4f1d09ab00000000000000000000aaaa".into(),
        service: service(),
        lost: "ledger@web-3".into(),
        reason: "link silent for 21 ms".into(),
        opened: before(12),
        stable: Some(Wall(before(12).0 + 340_000)),
        recovered: None,
        activated: Some("ledger@spare-1".into()),
        policy_version: 7,
        drill: None,
        inputs: Vec::new(),
        spans: Vec::new(),
        timeline: vec![
            entry(0, "evidence", "link to web-3 silent for 21 ms, bound 20 ms"),
            entry(1, "shift", "a request was answered by ledger@web-1"),
            entry(2, "decide", "1 of 3 needed is missing: call up spare-1"),
            entry(340, "stable", "3 of 3 serve"),
        ],
    }
}

#[test]
fn status_fits_a_screen() {
    let view = StatusView {
        node: node("web-1"),
        agent_version: "0.1.0".into(),
        generation: 4,
        phase: "serving".into(),
        started: before(7_320),
        address: "10.77.0.11:7940".into(),
        alive: 5,
        suspect: 0,
        unsteady: 0,
        down: 1,
        records: 6,
        policy_version: 7,
        policy_issued: Some(before(3_600)),
        certificate_expires: Some(Wall(PAGE.now.0 + 43_200_000_000)),
        links: vec![
            LinkView {
                node: node("web-2"),
                state: "up".into(),
                rtt_us: 400,
                carrier: "quic".into(),
                via: None,
            },
            LinkView {
                node: node("web-3"),
                state: "silent".into(),
                rtt_us: 400,
                carrier: "quic".into(),
                via: None,
            },
        ],
        open_incidents: 1,
        drills: Vec::new(),
        leases: Vec::new(),
        endpoints: vec![endpoint("web-1", "hot", "serving", "ready", "")],
    };
    assert_eq!(
        status(&view, PAGE),
        "node         web-1 (hearth-agent 0.1.0)\n\
         phase        serving, started 2 h 2 min ago (generation 4)\n\
         address      10.77.0.11:7940\n\
         members      5 alive, 0 suspect, 0 unsteady, 1 down; 6 records\n\
         links        1 up, 1 silent\n\
         policy       version 7, signed 1 h ago\n\
         certificate  valid for 12 h (until 1970-01-13 01:46:40Z)\n\
         incidents    1 open: see hearth incidents\n\
         \n\
         ENDPOINT      ROLE  STATE  FOR   OWNER SAYS               WHY\n\
         ledger@web-1  hot   ready  12 s  serving, 3 min 20 s ago  -\n"
    );
    let lease = LeaseView {
        service: service(),
        seat: "holds".into(),
        term: Some(7),
        sentence: "this node holds the lease, under term 7".into(),
    };
    let holder = EndpointView { term: Some(7), ..view.endpoints[0].clone() };
    let text = status(&StatusView { leases: vec![lease], endpoints: vec![holder], ..view }, PAGE);
    assert!(
        text.contains("\nLEASE      of ledger: this node holds the lease, under term 7\n"),
        "{text}"
    );
    assert!(text.contains("holds the lease, term 7\n"), "{text}");
}

#[test]
fn links_that_had_to_be_made_over_tcp_are_named() {
    let link = |name: &str, carrier: &str| LinkView {
        node: node(name),
        state: "up".into(),
        rtt_us: 400,
        carrier: carrier.into(),
        via: None,
    };
    let list = [link("web-2", "quic"), link("web-3", "tcp (udp blocked)")];
    assert_eq!(links(&list), "2 up, 0 silent; web-3 over tcp (udp blocked)");
}

#[test]
fn a_peer_that_is_reached_through_a_relay_is_named_with_it() {
    let link = LinkView {
        node: node("web-2"),
        state: "silent".into(),
        rtt_us: 400,
        carrier: "quic".into(),
        via: Some(node("web-3")),
    };
    assert_eq!(links(&[link]), "0 up, 1 silent; web-2 through web-3");
}

#[test]
fn members_and_routes_are_one_line_each() {
    let view = MemberView {
        node: node("web-3"),
        state: "suspect".into(),
        since: before(12),
        generation: 2,
        address: "10.77.0.13:7940".into(),
        link: "quic".into(),
        zone: String::new(),
        policy_version: 7,
        record_age_s: 1.5,
        endpoints: vec![endpoint("web-3", "hot", "serving", "doubtful", "link silent")],
    };
    assert_eq!(
        members(&[view], PAGE),
        "NODE   STATE    SINCE     ADDRESS          ZONE  POLICY  ENDPOINTS\n\
         web-3  suspect  12 s ago  10.77.0.13:7940  -     7       ledger hot serving\n"
    );
    assert_eq!(
        routes(&[route()], PAGE),
        "SERVICE  DECISION  SERVING  GOES TO      WHY\n\
         ledger   serve     2/3      web-1 web-2  2 of 3 needed serve; 1 warm called up\n"
    );
    assert_eq!(routes(&[], PAGE), "no service is known here yet\n");
}

#[test]
fn explain_prints_the_sentences_first() {
    let view = ExplainView {
        service: service(),
        node: node("caller"),
        policy_version: 7,
        route: route(),
        endpoints: vec![endpoint("web-3", "hot", "serving", "out", "link silent since 12 s")],
        sentences: vec![
            "web-1 and web-2 serve ledger.".into(),
            "web-3 is out since 12 s: its link is silent and two others cannot reach it either; spare-1 \
             was called up for it."
                .into(),
        ],
        incidents: vec![an_incident()],
    };
    assert_eq!(
        explain(&view, PAGE),
        "web-1 and web-2 serve ledger.\n\
         web-3 is out since 12 s: its link is silent and two others cannot reach it either; spare-1 was\n  \
         called up for it.\n\
         \n\
         ENDPOINT      ROLE  STATE  FOR   OWNER SAYS               WHY\n\
         ledger@web-3  hot   out    12 s  serving, 3 min 20 s ago  link silent since 12 s\n\
         \n\
         INCIDENT         OPENED    LOST          MOVED IN  STABLE IN  RECOVERED  CALLED UP\n    \
         REASON\n\
         ledger-4f1d09ab  12 s ago  ledger@web-3  1 ms      340 ms     not yet    ledger@spare-1\n    \
         link silent for 21 ms\n\
         \n\
         as seen from caller, under policy version 7\n"
    );
}

#[test]
fn a_warm_endpoint_that_stands_by_is_not_shown_as_out_and_one_whose_node_is_lost_is() {
    let fine = endpoint("spare-1", "warm", "standby", "out", "it stands by");
    let lost = endpoint("spare-1", "warm", "standby", "out", "its node is down");
    assert_eq!((state(&fine), state(&lost)), ("standby", "out"));
    let mut member = MemberView {
        node: node("web-3"),
        state: "down".into(),
        since: before(3),
        generation: 2,
        address: "10.77.0.13:7940".into(),
        link: "quic".into(),
        zone: String::new(),
        policy_version: 7,
        record_age_s: 1.5,
        endpoints: vec![endpoint("web-3", "hot", "serving", "out", "its node is down")],
    };
    assert!(members(std::slice::from_ref(&member), PAGE).contains("ledger hot (was serving)\n"));
    member.state = "alive".into();
    assert!(members(&[member], PAGE).contains("ledger hot serving\n"));
}

#[test]
fn where_there_was_no_incident_it_says_so() {
    assert_eq!(incidents(&[], PAGE), "no incidents\n");
}
