//! What the gauges show: a picture of the core, replaced whole, and the few values others set.
//!
//! Written out by hand rather than kept in gauge families: a family would keep series whose service or
//! condition is gone, and clearing it would show half a picture to a scrape at the same moment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use hearth_proto::balance::tiers::WHOLE;
use hearth_proto::evidence::{Standing, Why};
use hearth_proto::exclusive::Status;
use hearth_proto::ids::ServiceName;
use hearth_proto::route::{Candidate, Snapshot};
use hearth_proto::time::Wall;
use hearth_proto::view::{Census, LeaseView};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::lag::Peak;

/// Every standing is shown for every service, also those nobody has: an alert compares with zero.
const STANDINGS: [&str; 3] = ["ready", "doubtful", "out"];

/// The core at one moment, counted.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Picture {
    census: Census,
    /// By service, role and condition.
    endpoints: BTreeMap<(ServiceName, &'static str, &'static str), u64>,
    /// By service; in the order of [`STANDINGS`].
    routable: BTreeMap<ServiceName, [u64; 3]>,
    /// By service; in the order of [`NUMBERS`].
    numbers: BTreeMap<ServiceName, [u64; 3]>,
    /// Our seats among the owners of exclusive services.
    leases: Vec<LeaseView>,
    /// Where distance counts: by service and tier, in thousandths.
    tiers: BTreeMap<(ServiceName, &'static str), u64>,
}

/// Numbers of a service's tally, with what they say.
const NUMBERS: [(&str, &str); 3] = [
    ("hearth_bench_short", "Endpoints that would be called up if the bench were larger"),
    (
        "hearth_warm_surplus",
        "Warm endpoints that are up and not called: not needed any more, or by another agent's view",
    ),
    ("hearth_damped_endpoints", "Hot endpoints that serve and do not count, since they flapped"),
];

impl Picture {
    /// The same with our seats.
    pub(super) fn with_leases(mut self, leases: Vec<LeaseView>) -> Self {
        self.leases = leases;
        self
    }

    /// Counts endpoints by service.
    pub(super) fn of(census: &Census, snapshot: &Snapshot) -> Self {
        let mut picture = Self { census: *census, ..Self::default() };
        for (service, route) in &snapshot.services {
            let mut standings = [0; 3];
            for c in &route.candidates {
                let n = match c.standing {
                    Standing::Ready => 0,
                    Standing::Doubtful(_) => 1,
                    Standing::Out(_) => 2,
                };
                standings[n] += 1;
                if let Some(condition) = condition(c) {
                    let key = (service.clone(), c.role.word(), condition);
                    *picture.endpoints.entry(key).or_default() += 1;
                }
            }
            picture.routable.insert(service.clone(), standings);
            let tally = &route.tally;
            let numbers = [tally.short, tally.surplus, tally.damped].map(|n| n as u64);
            picture.numbers.insert(service.clone(), numbers);
            let mut before = 0;
            for share in route.spread.shares() {
                let part = share.upto - std::mem::replace(&mut before, share.upto);
                let key = (service.clone(), share.tier.word());
                picture.tiers.insert(key, part * 1000 / WHOLE);
            }
        }
        picture
    }
}

/// The owner's word; `lost` where the owner cannot speak any more, since what a dead node said last
/// (such as `standby`) is no strength. `None` for what left in good order.
fn condition(c: &Candidate) -> Option<&'static str> {
    match c.standing.why() {
        Some(Why::Left) => None,
        Some(Why::Down { .. } | Why::Revoked) => Some("lost"),
        _ => Some(c.condition.word()),
    }
}

/// The values behind the gauges. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct State(Arc<Values>);

#[derive(Debug, Default)]
struct Values {
    picture: ArcSwapOption<Picture>,
    lag: Mutex<Peak>,
    /// Microseconds since the epoch; 0 where unknown.
    cert_expiry: AtomicU64,
    /// 0: unknown, 1: no, 2: yes.
    control_reachable: AtomicU8,
    /// What the flight recorder did not keep; none where it is off.
    flight_dropped: OnceLock<Arc<AtomicU64>>,
}

impl State {
    pub(super) fn observe(&self, picture: Picture) {
        self.0.picture.store(Some(Arc::new(picture)));
    }

    pub(super) fn loop_lag(&self, late: Duration, at: Instant) {
        self.0.lag.lock().unwrap_or_else(PoisonError::into_inner).note(late, at);
    }

    pub(super) fn cert_expiry(&self, at: Wall) {
        self.0.cert_expiry.store(at.0, Ordering::Relaxed);
    }

    pub(super) fn flight(&self, dropped: Arc<AtomicU64>) {
        // Set once, when the agent starts.
        let _ = self.0.flight_dropped.set(dropped);
    }

    pub(super) fn control_reachable(&self, reachable: bool) {
        self.0.control_reachable.store(1 + u8::from(reachable), Ordering::Relaxed);
    }
}

impl Collector for State {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Out(encoder);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        out.gauges("hearth_build_info", "Version of the agent", [(version, 1)])?;
        let lag = self.0.lag.lock().unwrap_or_else(PoisonError::into_inner).value(Instant::now());
        out.seconds(
            "hearth_loop_lag_seconds",
            "How late the driver's turns began at worst within the last 15 to 30 s",
            lag.as_secs_f64(),
        )?;
        let expires = self.0.cert_expiry.load(Ordering::Relaxed);
        if expires > 0 {
            out.seconds(
                "hearth_cert_expiry_timestamp_seconds",
                "End of validity of this node's certificate",
                expires as f64 / 1e6,
            )?;
        }
        let reachable = self.0.control_reachable.load(Ordering::Relaxed);
        if reachable > 0 {
            out.gauge(
                "hearth_control_reachable",
                "Whether the last attempt to reach the control plane did",
                u64::from(reachable - 1),
            )?;
        }
        if let Some(dropped) = self.0.flight_dropped.get() {
            let help = "Steps that the flight recorder did not keep: its disk was behind";
            out.counter("hearth_flight_dropped", help, dropped.load(Ordering::Relaxed))?;
        }
        match self.0.picture.load_full() {
            Some(picture) => picture.encode(&mut out),
            None => Ok(()),
        }
    }
}

impl Picture {
    fn encode(&self, out: &mut Out<'_>) -> Result<(), fmt::Error> {
        let c = &self.census;
        out.gauges(
            "hearth_members",
            "Members of the mesh as seen here, this node included",
            [
                ("alive", c.alive),
                ("suspect", c.suspect),
                ("unsteady", c.unsteady),
                ("down", c.down),
            ]
            .map(|(state, n)| ([("state", state)], n as u64)),
        )?;
        let endpoints = self.endpoints.iter().map(|((service, role, condition), n)| {
            ([("service", service.as_str()), ("role", *role), ("condition", *condition)], *n)
        });
        let help = "Endpoints by their owner's word; lost where the owner is down or revoked";
        out.gauges("hearth_endpoints", help, endpoints)?;
        let routable = self.routable.iter().flat_map(|(service, counts)| {
            let series = STANDINGS.iter().zip(counts);
            series.map(|(s, n)| ([("service", service.as_str()), ("standing", *s)], *n))
        });
        out.gauges("hearth_routable_endpoints", "Endpoints as this agent routes", routable)?;
        for (i, (name, help)) in NUMBERS.iter().enumerate() {
            let series =
                self.numbers.iter().map(|(s, numbers)| ([("service", s.as_str())], numbers[i]));
            out.gauges(name, help, series)?;
        }
        let tiers = self.tiers.iter().map(|((service, tier), n)| {
            ([("service", service.as_str()), ("tier", *tier)], *n as f64 / 1000.0)
        });
        self.encode_leases(out)?;
        let help =
            "Part of a service's requests that stay in the zone, in the region, or go beyond";
        out.ratios("hearth_locality_ratio", help, tiers)?;
        out.gauge("hearth_policy_version", "Policy version in force", c.policy_version)?;
        out.gauge("hearth_trust_version", "Trust bundle version in force", c.trust_version)?;
        out.gauge("hearth_table_records", "Records in the table", c.records as u64)?;
        out.seconds(
            "hearth_table_age_seconds",
            "Longest time since a living member's record was confirmed here",
            c.oldest_record.as_secs_f64(),
        )?;
        let help = "Incidents that are not stable yet";
        out.gauge("hearth_incidents_open", help, c.open_incidents as u64)?;
        let help = "Drills that run: losses made on purpose";
        out.gauge("hearth_drills_running", help, c.drills as u64)?;
        let help = "Members suspected by this node: its probes that failed";
        out.counter("hearth_gossip_suspicions", help, c.suspicions)?;
        let help = "Times this node refuted that it is suspect";
        out.counter("hearth_gossip_refutations", help, c.refutations)?;
        let help = "Times this node was declared down while it lived, and joined again";
        out.counter("hearth_gossip_rejoins", help, c.rejoins)?;
        let help = "How slow this node takes itself to be: 0 in good health, 8 at most";
        out.gauge("hearth_gossip_health_score", help, u64::from(c.health_score))
    }

    fn encode_leases(&self, out: &mut Out<'_>) -> Result<(), fmt::Error> {
        let seats = self.leases.iter().flat_map(|lease| {
            let labels = |seat| [("service", lease.service.as_str()), ("seat", seat)];
            Status::WORDS.map(|seat| (labels(seat), u64::from(lease.seat == seat)))
        });
        let help = "Where this node stands among the owners of an exclusive service";
        out.gauges("hearth_lease_seat", help, seats)?;
        let terms = self
            .leases
            .iter()
            .map(|lease| ([("service", lease.service.as_str())], lease.term.unwrap_or_default()));
        let help = "Term of the lease that this node holds, 0 where another does or nobody";
        out.gauges("hearth_lease_term", help, terms)
    }
}

/// Writes series.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([(&'l str, &'l str); N], u64)>,
    ) -> Result<(), fmt::Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn ratios<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([(&'l str, &'l str); N], f64)>,
    ) -> Result<(), fmt::Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) -> Result<(), fmt::Error> {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }
}
