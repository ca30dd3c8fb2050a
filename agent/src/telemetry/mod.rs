//! What the agent tells of itself: logs for people, metrics for alerts, traces for incidents.
//!
//! | module | does |
//! |---|---|
//! | [`logs`] | JSON lines on standard error |
//! | [`metrics`] | what Prometheus reads |
//! | [`traces`] | finished spans to an OpenTelemetry collector |
//!
//! None of the three may ever hold up the driver or the traffic: each hands over to a bounded queue
//! without waiting, drops what does not fit, and counts it in `hearth_dropped_total{queue}` as `logs` or
//! `spans`. Metrics come first when the agent starts, since the other two count there.

mod logs;
mod metrics;
mod traces;

pub use logs::{FilterError, Logs};
pub use metrics::{CONTENT_TYPE, Metrics};
pub use traces::SpanSink;
