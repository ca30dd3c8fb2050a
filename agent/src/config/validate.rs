//! From texts to values: every rule a configuration must keep, and every mistake told with its place.
//!
//! A wrong value is replaced by a harmless one and the reading goes on, so that one run finds all; the
//! result is thrown away if anything was found.

use std::net::SocketAddr;
use std::time::Duration;

use hearth_proto::ids::{NodeName, ServiceName};
use hearth_proto::settings::{SettingsError, position};

use super::dns::dns;
use super::endpoint::endpoints;
use super::ingress::ingresses;
use super::raw::{self, Given, Place, Table};
use super::value::{
    address, flight_size, host_port, log_filter, name_hint, optional_address, path, place_name,
    plain_http, span, target, word,
};
use super::{Admin, Config, HostPort, Join, Mesh, Token, Transport, Upstream};
use crate::link::LaneChoice;

const STATE_DIR: &str = "/var/lib/hearth";
const SOCKET: &str = "/run/hearth/agent.sock";
/// DESIGN's ports: mesh 7940, admin 7941, shared outbound HTTP 7942.
const MESH: SocketAddr = SocketAddr::new(UNSPECIFIED, 7940);
const ADMIN: SocketAddr = SocketAddr::new(LOOPBACK, 7941);
const OUTBOUND: SocketAddr = SocketAddr::new(LOOPBACK, 7942);
const UNSPECIFIED: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A client that says nothing for so long is taken for gone: what conntrack holds an unanswered UDP flow
/// for, and above the few seconds of DNS, syslog and games.
const UDP_IDLE: Duration = Duration::from_secs(30);
const LONGEST_IDLE: Duration = Duration::from_secs(3_600);

/// The mistakes found so far.
pub(super) struct Mistakes<'a> {
    file: &'a str,
    text: &'a str,
    found: Vec<(usize, SettingsError)>,
}

impl<'a> Mistakes<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, place: &Place, what: String, hint: Option<String>) {
        let (order, file, at) = match place {
            Place::At(offset) => {
                (*offset, self.file.to_owned(), Some(position(self.text, *offset)))
            }
            Place::Variable(name) => (usize::MAX, format!("environment variable {name}"), None),
        };
        self.found.push((order, SettingsError { file, place: at, what, hint }));
    }

    /// About the file as a whole.
    fn add_whole(&mut self, what: &str, hint: &str) {
        let (file, what) = (self.file.to_owned(), what.to_owned());
        let hint = Some(hint.to_owned());
        self.found.push((0, SettingsError { file, place: None, what, hint }));
    }

    /// Takes `result`'s value or notes its error at `given`.
    pub(super) fn take<T>(
        &mut self,
        given: &Given,
        result: Result<T, (String, Option<String>)>,
    ) -> Option<T> {
        result.map_err(|(what, hint)| self.add(&given.place, what, hint)).ok()
    }

    /// `place` in words, for messages about something else.
    pub(super) fn words(&self, place: &Place) -> String {
        match place {
            Place::At(offset) => format!("line {}", position(self.text, *offset).0),
            Place::Variable(name) => name.clone(),
        }
    }
}

/// The configuration, or every mistake in it, in the order of the text.
pub(super) fn config(
    raw: &raw::Config,
    mut mistakes: Mistakes<'_>,
) -> Result<Config, Vec<SettingsError>> {
    let m = &mut mistakes;
    let (listen, advertise) = mesh_addresses(&raw.mesh, m);
    let admin_http = optional_address(raw.admin.http.as_ref(), ADMIN, m);
    let outbound = optional_address(raw.outbound.http.as_ref(), OUTBOUND, m);
    let socks = match &raw.outbound.socks5 {
        Some(given) if given.text != "off" => address(given, m),
        _ => None,
    };
    let upstreams = upstreams(&raw.upstream, m);
    let ingresses = ingresses(&raw.ingress, m);
    let dns = dns(&raw.dns, m);
    listeners(raw, listen, admin_http, outbound, m);
    let endpoints = endpoints(&raw.endpoint, m);
    let config = Config {
        file: m.file.to_owned(),
        name: node_name(raw.name.as_ref(), m).unwrap_or_else(placeholder),
        zone: place_name("zone", raw.zone.as_ref(), m),
        region: place_name("region", raw.region.as_ref(), m),
        state_dir: path(raw.state_dir.as_ref(), STATE_DIR, m),
        log: log_filter(raw.log.as_ref(), m),
        mesh: Mesh {
            listen,
            advertise,
            seeds: seeds(raw.mesh.seeds.as_deref(), m),
            lane: lane(raw.mesh.lane.as_ref(), m),
            sensing: is_on(raw.mesh.sensing.as_ref(), "sensing", m),
            relay: is_on(raw.mesh.relay.as_ref(), "relay", m),
        },
        join: raw.join.as_ref().and_then(|table| join(table, m)),
        admin: Admin { socket: path(raw.admin.socket.as_ref(), SOCKET, m), http: admin_http },
        outbound,
        socks,
        dns,
        upstreams,
        ingresses,
        endpoints,
        otlp: raw.telemetry.otlp.as_ref().and_then(|given| otlp(given, m)),
        flight: flight_size(raw.flight.size.as_ref(), m),
    };
    if mistakes.found.is_empty() {
        return Ok(config);
    }
    mistakes.found.sort_by_key(|(order, _)| *order);
    Err(mistakes.found.into_iter().map(|(_, mistake)| mistake).collect())
}

/// Stands for a name that was a mistake; a configuration that holds it is never returned.
fn placeholder() -> NodeName {
    // Proof: "x" is a DNS label.
    NodeName::parse("x").expect("a label")
}

fn node_name(given: Option<&Given>, m: &mut Mistakes<'_>) -> Option<NodeName> {
    let Some(given) = given else {
        m.add_whole(
            "the key `name` is missing",
            "write name = \"…\", this node's name in the mesh (a DNS label), or set HEARTH_NAME",
        );
        return None;
    };
    let name = NodeName::parse(&given.text).map_err(|e| (e.to_string(), name_hint(&e)));
    m.take(given, name)
}

pub(super) fn service_name(
    given: Option<&Given>,
    place: &Place,
    table: &str,
    m: &mut Mistakes<'_>,
) -> Option<ServiceName> {
    let Some(given) = given else {
        m.add(place, format!("this {table} lacks the key `service`"), None);
        return None;
    };
    let name = ServiceName::parse(&given.text).map_err(|e| (e.to_string(), name_hint(&e)));
    m.take(given, name)
}

fn mesh_addresses(raw: &raw::Mesh, m: &mut Mistakes<'_>) -> (SocketAddr, SocketAddr) {
    let listen = match &raw.listen {
        Some(given) => address(given, m),
        None => Some(MESH),
    };
    let advertise = match (&raw.advertise, listen) {
        (Some(given), _) => target(given, m),
        (None, Some(listen)) if listen.ip().is_unspecified() || listen.port() == 0 => {
            let hint = format!(
                "write advertise = \"IP:{}\" under [mesh], the address other agents dial",
                if listen.port() == 0 { MESH.port() } else { listen.port() }
            );
            let what = format!(
                "mesh.advertise is missing; mesh.listen is {listen}, which others cannot dial"
            );
            match &raw.listen {
                Some(given) => m.add(&given.place, what, Some(hint)),
                None => m.add_whole(&what, &hint),
            }
            None
        }
        (None, listen) => listen,
    };
    let listen = listen.unwrap_or(MESH);
    (listen, advertise.unwrap_or(listen))
}

fn lane(given: Option<&Given>, m: &mut Mistakes<'_>) -> LaneChoice {
    match given.and_then(|given| word(given, "lane", &["auto", "quic", "tcp"], m)) {
        Some("quic") => LaneChoice::Quic,
        Some("tcp") => LaneChoice::Tcp,
        _ => LaneChoice::Auto,
    }
}

/// Whether something is on that is unless it says `off`.
fn is_on(given: Option<&Given>, key: &'static str, m: &mut Mistakes<'_>) -> bool {
    given.and_then(|given| word(given, key, &["on", "off"], m)) != Some("off")
}

fn seeds(given: Option<&[Given]>, m: &mut Mistakes<'_>) -> Vec<HostPort> {
    given.unwrap_or_default().iter().filter_map(|seed| host_port(seed, m)).collect()
}

fn join(table: &Table<raw::Join>, m: &mut Mistakes<'_>) -> Option<Join> {
    let keys = &table.keys;
    let control = match &keys.control {
        Some(given) => host_port(given, m),
        None => {
            let hint = "write control = \"HOST:7945\"";
            m.add(&table.place, "[join] lacks the key `control`".into(), Some(hint.into()));
            None
        }
    };
    let token = match (&keys.token, &keys.token_file) {
        (Some(_), Some(file)) => {
            let hint = "keep the one that is meant and delete the other";
            m.add(&file.place, "both token and token_file are given".into(), Some(hint.into()));
            None
        }
        (Some(token), None) => {
            let result = crate::enrol::JoinToken::parse(&token.text)
                .map(|_| Token::Text(token.text.trim().to_owned()))
                .map_err(|e| (e.what, Some(e.hint.to_owned())));
            m.take(token, result)
        }
        (None, Some(file)) => Some(Token::File(path(Some(file), "/etc/hearth/token", m))),
        (None, None) => None,
    };
    Some(Join { control: control?, token })
}

fn otlp(given: &Given, m: &mut Mistakes<'_>) -> Option<String> {
    if given.text.is_empty() || given.text == "off" {
        return None;
    }
    let result = plain_http(&given.text, "http://127.0.0.1:4317").map(|_| given.text.clone());
    m.take(given, result)
}

fn upstreams(tables: &[Table<raw::Upstream>], m: &mut Mistakes<'_>) -> Vec<Upstream> {
    let mut found = Vec::new();
    for table in tables {
        let service = service_name(table.keys.service.as_ref(), &table.place, "[[upstream]]", m);
        let listen = match &table.keys.listen {
            Some(given) => address(given, m),
            None => {
                let hint = "write listen = \"127.0.0.1:PORT\", what applications here dial";
                let what = "this [[upstream]] lacks the key `listen`".to_owned();
                m.add(&table.place, what, Some(hint.into()));
                None
            }
        };
        let transport = transport(&table.keys, m);
        if let (Some(service), Some(listen)) = (service, listen) {
            found.push(Upstream { service, listen, transport });
        }
    }
    found
}

fn transport(keys: &raw::Upstream, m: &mut Mistakes<'_>) -> Transport {
    if let Some(given) = &keys.protocol
        && matches!(given.text.as_str(), "http" | "grpc" | "tcp")
    {
        let what = format!("protocol {:?} is not said here", given.text);
        let hint = "delete it: what a service speaks its endpoints say; only \"udp\" needs a port of \
                    another kind";
        m.add(&given.place, what, Some(hint.into()));
        return Transport::Tcp;
    }
    let is_udp =
        keys.protocol.as_ref().is_some_and(|given| word(given, "protocol", &["udp"], m).is_some());
    match &keys.idle {
        _ if is_udp => Transport::Udp { idle: span(keys.idle.as_ref(), UDP_IDLE, LONGEST_IDLE, m) },
        Some(given) if keys.protocol.is_none() => {
            let hint = "write protocol = \"udp\", or delete it";
            m.add(&given.place, "idle is for udp upstreams".into(), Some(hint.into()));
            Transport::Tcp
        }
        _ => Transport::Tcp,
    }
}

/// What a listener occupies of its port number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ports {
    Tcp,
    Udp,
    Both,
}

/// A listener as it was written.
struct Listener {
    name: String,
    address: SocketAddr,
    ports: Ports,
    place: Option<Place>,
}

impl Listener {
    fn collides(&self, other: &Self) -> bool {
        let (a, b) = (self.address, other.address);
        let same = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
        let shared =
            self.ports == other.ports || self.ports == Ports::Both || other.ports == Ports::Both;
        a.port() != 0 && a.port() == b.port() && same && shared
    }
}

/// No two listeners on one port.
fn listeners(
    raw: &raw::Config,
    mesh: SocketAddr,
    admin: Option<SocketAddr>,
    outbound: Option<SocketAddr>,
    m: &mut Mistakes<'_>,
) {
    let mut all: Vec<Listener> = Vec::new();
    let mut add = |name: &str, address, ports, given: Option<&Given>| {
        let place = given.map(|g| g.place.clone());
        all.push(Listener { name: name.to_owned(), address, ports, place });
    };
    add("mesh.listen", mesh, Ports::Both, raw.mesh.listen.as_ref());
    if let Some(address) = admin {
        add("admin.http", address, Ports::Tcp, raw.admin.http.as_ref());
    }
    if let Some(address) = outbound {
        add("outbound.http", address, Ports::Tcp, raw.outbound.http.as_ref());
    }
    // A text that is no address was told elsewhere.
    let mut written = |what: &str, given: Option<&Given>, ports: Ports, m: &Mistakes<'_>| {
        if let Some(given) = given
            && let Ok(address) = given.text.parse()
        {
            let name = what.replace("LINE", &m.words(&given.place));
            add(&name, address, ports, Some(given));
        }
    };
    written("outbound.socks5", raw.outbound.socks5.as_ref(), Ports::Tcp, m);
    written("dns.listen", raw.dns.listen.as_ref(), Ports::Both, m);
    for table in &raw.upstream {
        let is_udp = table.keys.protocol.as_ref().is_some_and(|given| given.text == "udp");
        let ports = if is_udp { Ports::Udp } else { Ports::Tcp };
        written("the upstream of LINE", table.keys.listen.as_ref(), ports, m);
    }
    for table in &raw.ingress {
        written("the ingress of LINE", table.keys.listen.as_ref(), Ports::Tcp, m);
    }
    for (i, listener) in all.iter().enumerate() {
        let Some(other) = all[..i].iter().find(|other| listener.collides(other)) else { continue };
        let what = format!("{} is taken already by {}", listener.address, other.name);
        match &listener.place {
            Some(place) => m.add(place, what, Some("give it a port of its own".into())),
            None => m.add_whole(&what, "give one of them another port, or switch it off (\"off\")"),
        }
    }
}
