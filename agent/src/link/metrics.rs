//! What the links count.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// One label with a value out of a small fixed set.
pub type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

/// The links' metrics. Clones share their values.
#[derive(Clone, Debug, Default)]
pub struct LinkMetrics {
    /// `hearth_links`: mesh links that are up.
    pub links: Gauge,
    /// `hearth_link_silences_total`
    pub silences: Counter,
    /// `hearth_link_silences_confirmed_total`
    pub confirmed: Counter,
    /// `hearth_handshakes_refused_total{reason}`
    pub handshakes_refused: Labelled,
    /// `hearth_dropped_total{queue}`; the family is shared with whoever else drops something.
    pub dropped: Labelled,
    /// `hearth_dials_total{result}`
    pub dials: Labelled,
    /// `hearth_relay_requests_total`: requests of ours that went through a relay.
    pub relayed: Counter,
    /// `hearth_link_patience`: by how much false alarms stretch the threshold of a silence; 1 in calm weather.
    pub patience: Gauge<f64, AtomicU64>,
    /// `hearth_sense_lag_seconds`: how late the silence monitor woke the last time.
    pub lag: Gauge<f64, AtomicU64>,
    /// `hearth_sense_late_total`: how often it woke so late that it judged nobody by what it saw.
    pub late: Counter,
}

impl LinkMetrics {
    /// Puts all but the shared `dropped` into a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("hearth_links", "Mesh links that are up", self.links.clone());
        registry.register(
            "hearth_link_silences",
            "Links on which what we sent went unanswered for longer than the threshold",
            self.silences.clone(),
        );
        registry.register(
            "hearth_link_silences_confirmed",
            "Links whose silence went on: what was under way there was given up",
            self.confirmed.clone(),
        );
        registry.register(
            "hearth_handshakes_refused",
            "Handshakes refused, by reason",
            self.handshakes_refused.clone(),
        );
        registry.register("hearth_dials", "Dials, by result", self.dials.clone());
        registry.register(
            "hearth_relay_requests",
            "Requests of ours that went through a relay, our own path being bad",
            self.relayed.clone(),
        );
        registry.register(
            "hearth_link_patience",
            "By how much false alarms stretch the threshold of a silence",
            self.patience.clone(),
        );
        registry.register(
            "hearth_sense_lag_seconds",
            "How late the silence monitor woke the last time",
            self.lag.clone(),
        );
        registry.register(
            "hearth_sense_late",
            "How often the silence monitor woke so late that it judged nobody by what it saw",
            self.late.clone(),
        );
    }

    pub(crate) fn drop(&self, queue: &'static str) {
        self.dropped.get_or_create(&[("queue", queue)]).inc();
    }

    pub(crate) fn refuse(&self, reason: &'static str) {
        self.handshakes_refused.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn dial(&self, result: &'static str) {
        self.dials.get_or_create(&[("result", result)]).inc();
    }
}
