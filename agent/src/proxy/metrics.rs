//! What the traffic path counts.

use hearth_proto::ids::ServiceName;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::link::Labelled;

type ByService = [(&'static str, String); 1];
type ByServiceAnd = [(&'static str, String); 2];

fn latency() -> Histogram {
    // 0.5 ms to 16 s, doubling.
    Histogram::new((0..16).map(|i| 0.0005 * f64::from(1 << i)))
}

/// The traffic path's metrics. Clones share their values.
#[derive(Clone, Debug)]
pub struct ProxyMetrics {
    /// `hearth_requests_total{service,outcome}`: `ok`, `client_error`, `server_error`, `shed`, `failed`; `left`: its
    /// client went away before an answer's head came.
    pub requests: Family<ByServiceAnd, Counter>,
    /// `hearth_request_duration_seconds{service}`: until the answer's head, or until its client left.
    pub duration: Family<ByService, Histogram, fn() -> Histogram>,
    /// `hearth_excused_total`: time-outs and breaks held against nobody, since this agent was late itself.
    pub excused: Counter,
    /// `hearth_retries_total{service,reason}`
    pub retries: Family<ByServiceAnd, Counter>,
    /// `hearth_concurrency_limit{service}`: how many requests our endpoint of it takes at once; 0: any number.
    pub limit: Family<ByService, Gauge>,
    /// `hearth_inbound_requests_total{service,outcome}`: `ok`, or why not.
    pub inbound: Family<ByServiceAnd, Counter>,
    /// `hearth_fenced_requests_total{service,reason}`: of exclusive services, kept from our own endpoint.
    pub fenced: Family<ByServiceAnd, Counter>,
    /// `hearth_udp_sessions`: of clients.
    pub udp_sessions: Gauge,
    /// `hearth_tunnels_total{by,outcome}`: by `socks5` or `connect`; `open`, or why not.
    pub tunnels: Family<[(&'static str, &'static str); 2], Counter>,
    /// `hearth_requests_held`: waiting for somebody to serve.
    pub held: Gauge,
    /// `hearth_relay_streams`: streams that this agent carries between two others.
    pub relay_streams: Gauge,
    /// `hearth_relay_streams_carried_total`
    pub relayed: Counter,
    /// `hearth_relay_streams_refused_total{reason}`
    pub relay_refusals: Labelled,
    /// `hearth_connections`: of clients.
    pub connections: Gauge,
    /// `hearth_dropped_total{queue}`; the family is shared with whoever else drops something.
    pub dropped: Labelled,
}

impl Default for ProxyMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(latency),
            excused: Counter::default(),
            retries: Family::default(),
            limit: Family::default(),
            inbound: Family::default(),
            fenced: Family::default(),
            udp_sessions: Gauge::default(),
            tunnels: Family::default(),
            held: Gauge::default(),
            relay_streams: Gauge::default(),
            relayed: Counter::default(),
            relay_refusals: Labelled::default(),
            connections: Gauge::default(),
            dropped: Labelled::default(),
        }
    }
}

impl ProxyMetrics {
    /// Puts all but the shared `dropped` into a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "hearth_requests",
            "Requests of clients, by service and outcome",
            self.requests.clone(),
        );
        registry.register(
            "hearth_request_duration_seconds",
            "Time until the head of the answer, or until the client left",
            self.duration.clone(),
        );
        registry.register(
            "hearth_excused",
            "Time-outs and breaks of requests held against no endpoint, since this agent was stopped or starved",
            self.excused.clone(),
        );
        registry.register(
            "hearth_retries",
            "Further attempts of requests, by service and reason",
            self.retries.clone(),
        );
        registry.register(
            "hearth_inbound_requests",
            "Requests of peers to our own endpoints, by service and outcome",
            self.inbound.clone(),
        );
        registry.register(
            "hearth_fenced_requests",
            "Requests to exclusive services kept from our own endpoint, since it holds no lease or another term",
            self.fenced.clone(),
        );
        registry.register(
            "hearth_concurrency_limit",
            "Requests that our own endpoint of a service takes at once, 0 for any number",
            self.limit.clone(),
        );
        registry.register(
            "hearth_udp_sessions",
            "Sessions of clients that speak in datagrams",
            self.udp_sessions.clone(),
        );
        registry.register(
            "hearth_tunnels",
            "Tunnels asked for by programs, by the way they asked and what came of it",
            self.tunnels.clone(),
        );
        registry.register(
            "hearth_requests_held",
            "Requests waiting for somebody to serve",
            self.held.clone(),
        );
        registry.register(
            "hearth_relay_streams",
            "Streams that this agent relays between two others at the moment",
            self.relay_streams.clone(),
        );
        registry.register(
            "hearth_relay_streams_carried",
            "Streams that this agent relayed between two others",
            self.relayed.clone(),
        );
        registry.register(
            "hearth_relay_streams_refused",
            "Streams that this agent did not relay for others, by reason",
            self.relay_refusals.clone(),
        );
        registry.register("hearth_connections", "Connections of clients", self.connections.clone());
    }

    pub(crate) fn relay_refused(&self, reason: &'static str) {
        self.relay_refusals.get_or_create(&[("reason", reason)]).inc();
    }

    /// The counter of a service's requests with this outcome.
    pub(crate) fn requests_of(&self, service: &ServiceName, outcome: &str) -> Counter {
        let labels = [("service", service.to_string()), ("outcome", outcome.to_owned())];
        self.requests.get_or_create(&labels).clone()
    }

    /// How many requests of a service's clients were answered so far, and how many of them with an error of
    /// the mesh's or of the application's, or turned away since there was too much to do.
    pub(crate) fn toll(&self, service: &ServiceName) -> (u64, u64) {
        let of = |outcome| self.requests_of(service, outcome).get();
        let failed = of("server_error") + of("failed") + of("shed");
        (of("ok") + of("client_error") + failed, failed)
    }

    /// The gauge of what our endpoint of a service takes at once.
    pub(crate) fn limit_of(&self, service: &ServiceName) -> Gauge {
        self.limit.get_or_create(&[("service", service.to_string())]).clone()
    }

    /// The histogram of a service's durations.
    pub(crate) fn duration_of(&self, service: &ServiceName) -> Histogram {
        self.duration.get_or_create(&[("service", service.to_string())]).clone()
    }

    /// The counter of peers' requests for a service with this outcome.
    pub(crate) fn inbound_of(&self, service: &ServiceName, outcome: &str) -> Counter {
        let labels = [("service", service.to_string()), ("outcome", outcome.to_owned())];
        self.inbound.get_or_create(&labels).clone()
    }

    pub(crate) fn request(&self, service: &ServiceName, outcome: &str, seconds: f64) {
        let service = service.to_string();
        self.requests
            .get_or_create(&[("service", service.clone()), ("outcome", outcome.to_owned())])
            .inc();
        self.duration.get_or_create(&[("service", service)]).observe(seconds);
    }

    pub(crate) fn retry(&self, service: &ServiceName, reason: &str) {
        self.retries
            .get_or_create(&[("service", service.to_string()), ("reason", reason.to_owned())])
            .inc();
    }

    pub(crate) fn inbound(&self, service: &ServiceName, outcome: &str) {
        self.inbound
            .get_or_create(&[("service", service.to_string()), ("outcome", outcome.to_owned())])
            .inc();
    }

    pub(crate) fn fenced(&self, service: &ServiceName, reason: &'static str) {
        let labels = [("service", service.to_string()), ("reason", reason.to_owned())];
        self.fenced.get_or_create(&labels).inc();
    }

    pub(crate) fn tunnel(&self, by: &'static str, outcome: &'static str) {
        self.tunnels.get_or_create(&[("by", by), ("outcome", outcome)]).inc();
    }

    pub(crate) fn drop(&self, queue: &'static str) {
        self.dropped.get_or_create(&[("queue", queue)]).inc();
    }
}
