//! Metrics: everything the agent counts, as Prometheus reads it (OpenMetrics text).
//!
//! Links and traffic path bring their own counters, which are registered here; the core's events are
//! counted here. What the core knows is not
//! kept twice: [`Metrics::observe_core`] replaces the picture of it ([`core`]) as a whole, once per
//! scrape, so that a label that vanished leaves no stale series and no scrape sees half a picture.
//!
//! Labels are of bounded sets: words of enums, and names of services that a member offers or a
//! configuration calls. Never a peer, an address or a path.

mod core;
mod labels;
mod lag;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use hearth_proto::node::{Event, Node};
use hearth_proto::table::MergeRefused;
use hearth_proto::time::{Time, Wall};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use self::core::{Picture, State};
use self::labels::{ReasonLabel, RefusalLabels, ServiceLabel, ServiceReasonLabels};
use crate::dns::DnsMetrics;
use crate::identity::Refusal;
use crate::link::{Labelled, LinkMetrics};
use crate::proxy::ProxyMetrics;

/// What [`Metrics::render`] returns, for the answer's header.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Buckets for requests: those of OpenTelemetry's HTTP semantic conventions.
const REQUEST_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Buckets for activations: from a hook that has nothing to do to an application that starts.
const ACTIVATION_BUCKETS: [f64; 13] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0, 120.0];

/// A histogram per service, with its buckets.
type Histograms = Family<ServiceLabel, Histogram, fn() -> Histogram>;

/// The agent's metrics. Clones are handles to the same values.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    failovers: Family<ServiceReasonLabels, Counter>,
    activation_duration: Histograms,
    activation_failures: Family<ServiceLabel, Counter>,
    lease_changes: Family<ServiceReasonLabels, Counter>,
    adverts_refused: Family<ReasonLabel, Counter>,
    documents_refused: Family<ReasonLabel, Counter>,
    messages_refused: Family<RefusalLabels, Counter>,
    links: LinkMetrics,
    proxy: ProxyMetrics,
    dns: DnsMetrics,
    state: State,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    /// Names, all in one place. The library adds `_total` to counters.
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register(
            "hearth_failovers",
            "Losses of endpoints that this agent answered, by evidence",
            self.failovers.clone(),
        );
        r.register(
            "hearth_activation_duration_seconds",
            "Time from calling up a warm endpoint of this node until it served",
            self.activation_duration.clone(),
        );
        r.register(
            "hearth_activation_failures",
            "Activations of warm endpoints of this node that were given up",
            self.activation_failures.clone(),
        );
        r.register(
            "hearth_lease_changes",
            "Leases of exclusive services that this node won or lost, by how",
            self.lease_changes.clone(),
        );
        r.register(
            "hearth_adverts_refused",
            "Nodes' records refused, by reason",
            self.adverts_refused.clone(),
        );
        r.register(
            "hearth_documents_refused",
            "Documents of the control plane refused, by reason",
            self.documents_refused.clone(),
        );
        r.register(
            "hearth_messages_refused",
            "Other messages refused, by what and reason",
            self.messages_refused.clone(),
        );
        r.register(
            "hearth_dropped",
            "What did not fit into a bounded queue, by queue",
            self.links.dropped.clone(),
        );
        self.links.register(r);
        self.proxy.register(r);
        r.register(
            "hearth_dns_questions",
            "Questions of programs for names, by what came of them",
            self.dns.questions.clone(),
        );
        r.register_collector(Box::new(self.state.clone()));
    }

    /// A counter that appears with its first event hides that event from `increase()`: refusals are there
    /// from the start.
    fn start_at_zero(&self) {
        for reason in MergeRefused::REASONS {
            drop(self.adverts_refused.get_or_create(&ReasonLabel { reason }));
        }
        for reason in Refusal::REASONS {
            drop(self.links.handshakes_refused.get_or_create(&[("reason", reason)]));
        }
    }
}

impl Metrics {
    /// Metrics of which nothing is counted yet.
    pub fn new() -> Self {
        let activation_buckets: fn() -> Histogram = || Histogram::new(ACTIVATION_BUCKETS);
        let dropped = Labelled::default();
        let mut inner = Inner {
            registry: Registry::default(),
            failovers: Family::default(),
            activation_duration: Family::new_with_constructor(activation_buckets),
            activation_failures: Family::default(),
            lease_changes: Family::default(),
            adverts_refused: Family::default(),
            documents_refused: Family::default(),
            messages_refused: Family::default(),
            links: LinkMetrics { dropped: dropped.clone(), ..LinkMetrics::default() },
            dns: DnsMetrics { dropped: dropped.clone(), ..DnsMetrics::default() },
            proxy: ProxyMetrics {
                dropped,
                duration: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
                ..ProxyMetrics::default()
            },
            state: State::default(),
        };
        inner.register();
        inner.start_at_zero();
        Self(Arc::new(inner))
    }

    /// What the links count.
    pub fn links(&self) -> LinkMetrics {
        self.0.links.clone()
    }

    /// What the traffic path counts.
    pub fn proxy(&self) -> ProxyMetrics {
        self.0.proxy.clone()
    }

    /// What the DNS server counts.
    pub fn dns(&self) -> DnsMetrics {
        self.0.dns.clone()
    }

    /// `hearth_dropped_total{queue}`, for whoever drops something.
    pub fn dropped(&self) -> Labelled {
        self.0.links.dropped.clone()
    }

    /// Notes by how much a turn of the driver began late. The gauge shows the worst of the last seconds.
    pub fn loop_lag(&self, late: Duration) {
        if !late.is_zero() {
            self.0.state.loop_lag(late, Instant::now());
        }
    }

    /// Notes when our certificate ends.
    pub fn cert_expiry(&self, at: Wall) {
        self.0.state.cert_expiry(at);
    }

    /// Notes whether the last attempt to reach the control plane did. No series before the first.
    pub fn control_reachable(&self, reachable: bool) {
        self.0.state.control_reachable(reachable);
    }

    /// Takes the core's picture; once per scrape, through the driver. One pass over table and routes.
    pub fn observe_core(&self, node: &Node, now: Time) {
        let picture = Picture::of(&node.census(now), &node.snapshot());
        self.0.state.observe(picture.with_leases(node.leases_view(now)));
    }

    /// Notes where the flight recorder counts what it did not keep.
    pub fn flight(&self, dropped: Arc<AtomicU64>) {
        self.0.state.flight(dropped);
    }

    /// Counts what the core tells.
    pub fn observe_event(&self, event: &Event) {
        match event {
            Event::Refused { what: "advert", reason, .. } => {
                self.0.adverts_refused.get_or_create(&ReasonLabel { reason }).inc();
            }
            Event::Refused { what: "document", reason, .. } => {
                self.0.documents_refused.get_or_create(&ReasonLabel { reason }).inc();
            }
            Event::Refused { what, reason, .. } => {
                self.0.messages_refused.get_or_create(&RefusalLabels { what, reason }).inc();
            }
            Event::IncidentOpened { key, reason, .. } => {
                let service = ServiceLabel(key.lost.service.clone());
                self.0.failovers.get_or_create(&ServiceReasonLabels { service, reason }).inc();
            }
            Event::Lease { service, held, .. } => {
                let reason = held.as_ref().map_or_else(|why| *why, |_| "won");
                let service = ServiceLabel(service.clone());
                self.0.lease_changes.get_or_create(&ServiceReasonLabels { service, reason }).inc();
            }
            Event::Condition { endpoint, activation: Some(took), .. } => {
                let service = ServiceLabel(endpoint.service.clone());
                self.0.activation_duration.get_or_create(&service).observe(took.as_secs_f64());
            }
            Event::Condition { endpoint, from: "activating", to: "unready", .. } => {
                let service = ServiceLabel(endpoint.service.clone());
                self.0.activation_failures.get_or_create(&service).inc();
            }
            _ => {}
        }
    }

    /// The text Prometheus reads, as [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.0.registry);
        text
    }
}

#[cfg(test)]
mod tests;
