//! `[[ingress]]`: ports for clients outside the mesh, and which of their requests go to which service.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hearth_proto::ids::ServiceName;

use super::raw::{self, Given, Place, Table};
use super::validate::{Mistakes, service_name};
use super::value::{address, path};

/// A port for clients outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// What is bound.
    pub listen: SocketAddr,
    /// Certificate and key; without them plain HTTP is spoken.
    pub tls: Option<IngressTls>,
    /// Whose word on who they forward for is believed.
    pub trust: Vec<Network>,
    /// Which requests go where; never empty.
    pub routes: Vec<IngressRoute>,
}

/// What an ingress shows to its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressTls {
    /// The chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

/// Requests that go to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressRoute {
    /// The hosts, any of them; never empty.
    pub hosts: Vec<HostPattern>,
    /// The beginning of the path, in whole segments; `/` is every path.
    pub path: String,
    /// Where they go.
    pub service: ServiceName,
}

/// Which hosts a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This one, lower case.
    Exact(String),
    /// All one label or more below this one: `*.example.com` is kept as `.example.com`.
    Below(String),
    /// All.
    Any,
}

impl HostPattern {
    /// Reads `shop.example.com`, `*.example.com` or `*`.
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let is_host = |name: &str| {
            let label = |l: &str| {
                (1..=63).contains(&l.len())
                    && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            };
            name.len() <= 253 && name.split('.').all(label)
        };
        match lower.strip_prefix('*') {
            Some("") => Some(Self::Any),
            Some(rest) => {
                rest.strip_prefix('.').filter(|n| is_host(n)).map(|n| Self::Below(format!(".{n}")))
            }
            None if is_host(&lower) => Some(Self::Exact(lower)),
            None => {
                let literal = lower.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
                let ip = literal.and_then(|h| h.parse::<std::net::Ipv6Addr>().ok());
                ip.map(|ip| Self::Exact(format!("[{ip}]")))
            }
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*{name}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, `2001:db8::/32` or a single address.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(text) => text.parse().ok().filter(|p| *p <= whole)?,
            None => whole,
        };
        Some(Self { address, prefix })
    }

    /// Whether `ip` is within. An IPv4 address that came over an IPv6 socket is the IPv4 address it is.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| {
            let rest = width - u32::from(self.prefix).min(width);
            a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
        };
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(u32::from(a).into(), u32::from(b).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.into(), b.into(), 128),
            _ => false,
        }
    }
}

pub(super) fn ingresses(tables: &[Table<raw::Ingress>], m: &mut Mistakes<'_>) -> Vec<Ingress> {
    tables.iter().filter_map(|table| ingress(table, m)).collect()
}

fn ingress(table: &Table<raw::Ingress>, m: &mut Mistakes<'_>) -> Option<Ingress> {
    let keys = &table.keys;
    let listen = match &keys.listen {
        Some(given) => address(given, m),
        None => {
            let hint = "write listen = \"0.0.0.0:80\", where clients from outside come";
            let what = "this [[ingress]] lacks the key `listen`".to_owned();
            m.add(&table.place, what, Some(hint.into()));
            None
        }
    };
    let tls = keys.tls.as_ref().and_then(|table| tls(table, m));
    let trust = keys.trust.iter().flatten().filter_map(|given| network(given, m)).collect();
    if keys.route.is_empty() {
        let hint =
            "write [[ingress.route]] with hosts = [\"shop.example.com\"] and service = \"shop\"";
        m.add(&table.place, "this [[ingress]] has no route".into(), Some(hint.into()));
    }
    let mut routes = Vec::new();
    let mut places: Vec<(HostPattern, String, &Place)> = Vec::new();
    for table in &keys.route {
        let Some(route) = route(table, m) else { continue };
        for host in &route.hosts {
            let same = |(h, p, _): &&(HostPattern, String, &Place)| h == host && *p == route.path;
            if let Some((.., first)) = places.iter().find(same) {
                let what = format!("{host}{} has a route already ({})", route.path, m.words(first));
                m.add(&table.place, what, Some("delete one, or give it another path".into()));
            }
            places.push((host.clone(), route.path.clone(), &table.place));
        }
        routes.push(route);
    }
    Some(Ingress { listen: listen?, tls, trust, routes })
}

fn tls(table: &Table<raw::IngressTls>, m: &mut Mistakes<'_>) -> Option<IngressTls> {
    let one = |key: &str, given: &Option<Given>, m: &mut Mistakes<'_>| {
        if given.is_none() {
            let hint = format!("write {key} = \"/path/to/{key}.pem\"");
            m.add(&table.place, format!("[ingress.tls] lacks the key `{key}`"), Some(hint));
        }
        given.as_ref().map(|given| path(Some(given), "/etc/hearth/ingress.pem", m))
    };
    let certificate = one("certificate", &table.keys.certificate, m);
    let key = one("key", &table.keys.key, m);
    Some(IngressTls { certificate: certificate?, key: key? })
}

fn network(given: &Given, m: &mut Mistakes<'_>) -> Option<Network> {
    let hint = || Some("for example \"10.0.0.0/8\" or \"192.0.2.7\"".to_owned());
    let wrong = || (format!("{:?} is not a range of addresses", given.text), hint());
    m.take(given, Network::parse(&given.text).ok_or_else(wrong))
}

fn route(table: &Table<raw::IngressRoute>, m: &mut Mistakes<'_>) -> Option<IngressRoute> {
    let keys = &table.keys;
    let service = service_name(keys.service.as_ref(), &table.place, "[[ingress.route]]", m);
    let hosts: Vec<HostPattern> =
        keys.hosts.iter().flatten().filter_map(|given| host(given, m)).collect();
    if keys.hosts.as_ref().is_none_or(Vec::is_empty) {
        let hint = "write hosts = [\"shop.example.com\"], or [\"*\"] for every host";
        let what = "this [[ingress.route]] names no host".to_owned();
        m.add(&table.place, what, Some(hint.into()));
    }
    let path = match &keys.path {
        None => "/".to_owned(),
        Some(given) => {
            let text = &given.text;
            let clean = text.starts_with('/')
                && !text.contains(['?', '#', '%'])
                && !text.contains("//")
                && text.split('/').all(|segment| segment != "." && segment != "..");
            if !clean {
                let what = format!("{text:?} is not the beginning of a path");
                let hint = "it begins with '/', without '.', '..', '//', '%', '?' or '#'";
                m.add(&given.place, what, Some(hint.into()));
            }
            text.clone()
        }
    };
    Some(IngressRoute { hosts, path, service: service? })
}

fn host(given: &Given, m: &mut Mistakes<'_>) -> Option<HostPattern> {
    let wrong = || {
        let hint = match given.text.rsplit_once(':') {
            Some((name, _)) if HostPattern::parse(name).is_some() => "write it without the port",
            _ => "for example \"shop.example.com\", \"*.example.com\" or \"*\"",
        };
        (format!("{:?} is not a host", given.text), Some(hint.to_owned()))
    };
    m.take(given, HostPattern::parse(&given.text).ok_or_else(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.1"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "9.9.9.9", "::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
        ] {
            let network = Network::parse(network).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network:?} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?} {outside}");
        }
        for wrong in ["10.0.0.0/33", "10.0.0/8", "", "::/129", "10.0.0.0/-1", "10.0.0.0/"] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_host_is_a_name_a_name_and_all_below_or_any() {
        let text = |s: &str| HostPattern::parse(s).map(|p| p.to_string());
        for fine in ["shop.example.com", "*.example.com", "*", "10.0.0.1", "[::1]", "localhost"] {
            assert_eq!(text(fine).as_deref(), Some(fine));
        }
        assert_eq!(text("Shop.Example.COM").as_deref(), Some("shop.example.com"));
        for wrong in ["", "*shop", "a..b", "shop:80", "*.", "*.*.com", "a/b", "::1", "[x]"] {
            assert_eq!(text(wrong), None, "{wrong}");
        }
    }
}
