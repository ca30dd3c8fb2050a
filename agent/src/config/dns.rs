//! `[dns]`: whether names under `.mesh` are answered, and who answers the others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::raw;
use super::validate::Mistakes;
use super::value::{address, target};

/// The port of a resolver whose port is not written.
const PORT: u16 = 53;
/// More than the C library ever asks (MAXNS is 3), and few enough to try one after the other.
const MAX_RESOLVERS: usize = 8;

/// The agent's DNS server. There is none unless it is asked for: a host's names are its operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Where questions come, over UDP and TCP.
    pub listen: SocketAddr,
    /// What is answered for a listener that is bound to all addresses.
    pub address: IpAddr,
    /// Who answers everything outside `.mesh`.
    pub resolvers: Resolvers,
}

/// Where the resolvers stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolvers {
    /// In `/etc/resolv.conf`, read anew when it changes.
    System,
    /// In the configuration. Empty: nothing is forwarded.
    These(Vec<SocketAddr>),
}

pub(super) fn dns(raw: &raw::Dns, m: &mut Mistakes<'_>) -> Option<Dns> {
    let listen = match &raw.listen {
        Some(given) if given.text == "off" => None,
        Some(given) => address(given, m),
        None => {
            let others = [raw.address.as_ref(), raw.upstream.as_ref().and_then(|l| l.first())];
            if let Some(lonely) = others.into_iter().flatten().next() {
                let hint = "write listen = \"127.0.0.1:7943\"; without it no name is answered";
                m.add(&lonely.place, "[dns] lacks the key `listen`".into(), Some(hint.into()));
            }
            None
        }
    };
    let own = raw.address.as_ref().and_then(|given| {
        let parsed = given.text.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
        let hint = "write the address at which programs reach this agent, without a port";
        let wrong = || (format!("{:?} is not an IP address", given.text), Some(hint.to_owned()));
        m.take(given, parsed.ok_or_else(wrong))
    });
    let resolvers = match &raw.upstream {
        None => Resolvers::System,
        Some(list) => {
            let found = list.iter().filter_map(|given| resolver(given, m)).collect::<Vec<_>>();
            if let (true, Some(over)) = (found.len() > MAX_RESOLVERS, list.get(MAX_RESOLVERS)) {
                m.add(&over.place, format!("there are more than {MAX_RESOLVERS} resolvers"), None);
            }
            if let (Some(listen), Some(at)) =
                (listen, found.iter().position(|r| Some(*r) == listen))
            {
                let hint = "name a resolver other than this agent";
                let what = format!("{listen} is this very server: questions would go in a circle");
                m.add(&list[at.min(list.len() - 1)].place, what, Some(hint.into()));
            }
            Resolvers::These(found)
        }
    };
    Some(Dns {
        listen: listen?,
        address: own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        resolvers,
    })
}

/// `IP` or `IP:port`.
fn resolver(given: &raw::Given, m: &mut Mistakes<'_>) -> Option<SocketAddr> {
    match given.text.parse::<IpAddr>() {
        Ok(ip) if !ip.is_unspecified() => Some(SocketAddr::new(ip, PORT)),
        _ => target(given, m),
    }
}
