//! The wire between the hosts of one lab, and what can be wrong with it.
//!
//! Owns: a namespace of its own with one bridge, and one port (veth) per host. Faults are rules in
//! nftables' *bridge* family, at the forward hook: the frame has already left its sender without an
//! error and never arrives, so nobody hears a reset or an ICMP message. That is what a dead host, a
//! full switch or a cut cable look like.
//!
//! Every change rewrites the whole rule set in one transaction from the state kept here, so faults
//! can be combined and healed in any order.
//!
//! Never: a rule inside a host (that one's stack would notice), or anything in the machine's own
//! network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::error::LabError;
use super::run::{Outcome, run_in};
use super::space::Space;

/// A way through a host's link, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Towards the host.
    In,
    /// From the host.
    Out,
}

/// What a host has put on its link, all headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes.
    pub bytes: u64,
    /// Frames. What the sender's kernel left to the wire to cut into frames counts as one, see
    /// [`Host::cut_frames`](super::Host::cut_frames).
    pub frames: u64,
}

/// What is wrong with one host's link now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Trouble {
    no_in: bool,
    no_out: bool,
    /// Datagrams are dropped, everything else passes.
    no_udp: bool,
    /// Share of frames lost each way, in thousandths.
    loss: u16,
}

#[derive(Debug, Default)]
struct Faults {
    links: BTreeMap<u8, Trouble>,
    cuts: BTreeSet<(u8, u8)>,
}

/// The bridge and its ports.
#[derive(Debug)]
pub(super) struct Switch {
    space: Space,
    faults: Mutex<Faults>,
}

/// Name of a host's port on the bridge.
pub(super) fn port(number: u8) -> String {
    format!("p{number}")
}

impl Switch {
    pub(super) fn new(label: &str) -> Result<Self, LabError> {
        let switch = Self { space: Space::new(label)?, faults: Mutex::default() };
        switch.ip("link add br0 type bridge mcast_snooping 0\n\
             link set br0 up\n\
             link set lo up\n")?;
        switch.apply(&Faults::default())?;
        Ok(switch)
    }

    /// Runs a batch of `ip` commands in the switch's namespace.
    pub(super) fn ip(&self, batch: &str) -> Result<(), LabError> {
        ip_batch(&self.space, "switch", batch)
    }

    pub(super) fn space(&self) -> &Space {
        &self.space
    }

    /// Connects a host: a veth whose far end appears in `netns` as `eth0`.
    pub(super) fn connect(&self, number: u8, mac: &str, netns: &Path) -> Result<(), LabError> {
        let (port, netns) = (port(number), netns.display());
        self.ip(&format!(
            "link add {port} type veth peer name eth0 address {mac} netns {netns}\n\
             link set {port} master br0\n\
             link set {port} up\n"
        ))
    }

    /// What came in at each port, by the number of the host behind it.
    pub(super) fn received(&self) -> Result<BTreeMap<u8, Sent>, LabError> {
        // Of the thread that reads, which is in the switch's namespace.
        let file = "/proc/thread-self/net/dev";
        let text = self.space.call(move || std::fs::read_to_string(file))?;
        Ok(ports(&text.map_err(LabError::file("read", file))?))
    }

    /// Nothing passes these ways of these links from now on, all from the same instant.
    pub(super) fn block(&self, numbers: &[u8], ways: &[Way]) -> Result<(), LabError> {
        self.change(|faults| {
            for number in numbers {
                let trouble = faults.links.entry(*number).or_default();
                trouble.no_in |= ways.contains(&Way::In);
                trouble.no_out |= ways.contains(&Way::Out);
            }
        })
    }

    /// No UDP passes either way, as behind many a firewall.
    pub(super) fn block_udp(&self, number: u8) -> Result<(), LabError> {
        self.change(|faults| faults.links.entry(number).or_default().no_udp = true)
    }

    /// A share of the frames is lost, each way on its own.
    pub(super) fn lose(&self, number: u8, thousandths: u16) -> Result<(), LabError> {
        self.change(|faults| {
            faults.links.entry(number).or_default().loss = thousandths.min(1000);
        })
    }

    /// Two hosts no longer hear each other; all else goes on.
    pub(super) fn cut(&self, a: u8, b: u8) -> Result<(), LabError> {
        self.change(|faults| {
            faults.cuts.insert((a, b));
            faults.cuts.insert((b, a));
        })
    }

    /// Ends every fault of this host's link.
    pub(super) fn heal(&self, number: u8) -> Result<(), LabError> {
        self.change(|faults| {
            faults.links.remove(&number);
            faults.cuts.retain(|&(a, b)| a != number && b != number);
        })
    }

    fn change(&self, edit: impl FnOnce(&mut Faults)) -> Result<(), LabError> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        edit(&mut faults);
        self.apply(&faults)
    }

    fn apply(&self, faults: &Faults) -> Result<(), LabError> {
        let rules = rules(faults);
        let done = run_in(&self.space, "switch", "nft", &["-f", "-"], Some(rules))?;
        Outcome::success(done).map(drop)
    }
}

/// Whether this process may make what a lab is made of.
pub(super) fn probe() -> Result<(), LabError> {
    Switch::new("probe").map(drop)
}

/// The rule set for a state of faults, as one nftables transaction.
fn rules(faults: &Faults) -> String {
    let chain = "bridge lab faults";
    let mut text = format!(
        "add table bridge lab\n\
         add chain {chain} {{ type filter hook forward priority 0; policy accept; }}\n\
         flush chain {chain}\n"
    );
    // Writing to a String cannot fail.
    let mut add = |rule: String| {
        let _ = writeln!(text, "add rule {chain} {rule}");
    };
    for &(a, b) in &faults.cuts {
        add(format!("iifname {} oifname {} drop", port(a), port(b)));
    }
    for (&number, trouble) in &faults.links {
        let port = port(number);
        if trouble.no_out {
            add(format!("iifname {port} drop"));
        }
        if trouble.no_in {
            add(format!("oifname {port} drop"));
        }
        if trouble.no_udp {
            for way in ["iifname", "oifname"] {
                add(format!("{way} {port} ether type ip ip protocol udp drop"));
            }
        }
        if trouble.loss > 0 {
            let lost = format!("numgen random mod 1000 < {} drop", trouble.loss);
            add(format!("iifname {port} {lost}"));
            add(format!("oifname {port} {lost}"));
        }
    }
    text
}

/// Of a table of devices the bridge's ports: bytes and frames received are the first two figures.
fn ports(table: &str) -> BTreeMap<u8, Sent> {
    let devices = table.lines().filter_map(|line| line.split_once(':'));
    let port = |(name, figures): (&str, &str)| {
        let number = name.trim().strip_prefix('p')?.parse().ok()?;
        let mut figures = figures.split_whitespace().map(str::parse);
        let (bytes, frames) = (figures.next()?.ok()?, figures.next()?.ok()?);
        Some((number, Sent { bytes, frames }))
    };
    devices.filter_map(port).collect()
}

/// Runs a batch of `ip` commands in a namespace.
pub(super) fn ip_batch(space: &Space, host: &str, batch: &str) -> Result<(), LabError> {
    let done = run_in(space, host, "ip", &["-batch", "-"], Some(batch.to_owned()))?;
    Outcome::success(done).map(drop)
}

#[cfg(test)]
mod tests {
    use super::{Faults, Sent, Trouble, ports, rules};

    #[test]
    fn what_a_port_received_is_read_and_nothing_else() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes    packets errs\n    \
                     lo:  1 2 0 0\n   br0:  3 4 0 0\n   p12: 560 7 0 0 0 0 0 0 910 11 0\n";
        let found: Vec<_> = ports(table).into_iter().collect();
        assert_eq!(found, [(12, Sent { bytes: 560, frames: 7 })]);
    }

    #[test]
    fn a_healthy_switch_has_an_empty_chain() {
        assert!(!rules(&Faults::default()).contains("add rule"));
    }

    #[test]
    fn a_black_hole_is_two_rules_and_a_one_way_one_is_one() {
        let mut faults = Faults::default();
        let both = Trouble { no_in: true, no_out: true, ..Trouble::default() };
        faults.links.insert(3, both);
        let text = rules(&faults);
        assert!(text.contains("faults iifname p3 drop\n"), "{text}");
        assert!(text.contains("faults oifname p3 drop\n"), "{text}");
        faults.links.insert(3, Trouble { no_out: false, ..both });
        assert_eq!(rules(&faults).matches("add rule").count(), 1);
    }
}
