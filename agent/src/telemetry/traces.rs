//! Traces: finished spans of incidents, handed to an OpenTelemetry collector (OTLP over gRPC).
//!
//! Owns a bounded queue and one task. The task gathers spans for a second or until it has a full batch,
//! exports them, and keeps trying while the collector is away: an incident often takes the way to the
//! collector with it, and its trace is wanted most of all. What does not fit into the queue meanwhile, what
//! the collector refuses for good and what is older than [`KEEP_TRYING`] is dropped and counted.
//!
//! Nobody waits for a collector but [`SpanSink::flush`], which has a deadline. The task ends when the
//! last sink is gone; aborting it loses what is queued.

mod convert;
mod export;

use std::time::Duration;

use hearth_proto::ids::NodeName;
use hearth_proto::record::Span;
use opentelemetry_otlp::{ExporterBuildError, RetryPolicy, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::trace::SpanExporter as _;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::export::{Exporter, Flush};
use crate::link::Labelled;

/// Spans queued at most; an incident has six.
const QUEUE: usize = 4096;
/// One attempt takes at most so long.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
/// How long one batch is tried. Longer than a collector's restart or a short partition.
const KEEP_TRYING: Duration = Duration::from_secs(600);

/// Where traces go: what the configuration says, else what OpenTelemetry's own variables say (`env` looks
/// one up). `None`: nowhere.
fn endpoint(config: Option<&str>, env: impl Fn(&str) -> Option<String>) -> Option<String> {
    let set = |name: &str| env(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
    if set("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return None;
    }
    config
        .map(str::to_owned)
        .or_else(|| set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
        .or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT"))
}

/// Where finished spans are put. Clones are handles.
#[derive(Clone, Debug)]
pub struct SpanSink(Option<Ends>);

#[derive(Clone, Debug)]
struct Ends {
    spans: mpsc::Sender<Span>,
    flushes: mpsc::Sender<Flush>,
    dropped: Counter,
}

impl SpanSink {
    /// A sink that takes spans and forgets them.
    pub fn off() -> Self {
        Self(None)
    }

    /// A sink that exports as `node` to the collector the configuration names, else to the one that
    /// OpenTelemetry's own variables name, by a task on the runtime this is called in. With neither it is
    /// [`SpanSink::off`], and so it is where the address is none, which is logged: an agent without traces
    /// is better than none. The collector need not be there yet. What is dropped counts as `spans`.
    pub fn start(node: &NodeName, config: Option<&str>, dropped: &Labelled) -> Self {
        let Some(endpoint) = endpoint(config, |name| std::env::var(name).ok()) else {
            return Self::off();
        };
        Self::to(&endpoint, node, dropped).unwrap_or_else(|error| {
            const HINT: &str = "set telemetry.otlp, or OTEL_EXPORTER_OTLP_ENDPOINT, to a collector's gRPC \
                                address such as http://127.0.0.1:4317";
            tracing::error!(endpoint, %error, hint = HINT, "traces are not exported");
            Self::off()
        })
    }

    fn to(endpoint: &str, node: &NodeName, dropped: &Labelled) -> Result<Self, ExporterBuildError> {
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_LIMIT)
            // The task tries again itself, with more patience, and ends in time when told to.
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        exporter.set_resource(&convert::resource(node));
        let dropped = dropped.get_or_create_owned(&[("queue", "spans")]);
        let (spans, queue) = mpsc::channel(QUEUE);
        let (flushes, orders) = mpsc::channel(1);
        let task = Exporter::new(exporter, endpoint, queue, orders, dropped.clone());
        tokio::spawn(task.run());
        Ok(Self(Some(Ends { spans, flushes, dropped })))
    }

    /// Hands spans over. Never waits; what does not fit is dropped and counted.
    pub fn send(&self, spans: Vec<Span>) {
        let Some(ends) = &self.0 else { return };
        for span in spans {
            if ends.spans.try_send(span).is_err() {
                ends.dropped.inc();
            }
        }
    }

    /// Exports everything sent so far, trying at most for `limit`, and says whether it was. What could not
    /// be exported by then is dropped and counted. For the end of the process, before its runtime ends.
    pub async fn flush(&self, limit: Duration) -> bool {
        let Some(ends) = &self.0 else { return true };
        let until = Instant::now() + limit;
        let (done, exported) = oneshot::channel();
        let answer = async {
            ends.flushes.send(Flush { until, done }).await.ok()?;
            exported.await.ok()
        };
        // The task keeps to the limit by itself; the grace is for it to say so.
        let answer = tokio::time::timeout_at(until + Duration::from_millis(100), answer).await;
        matches!(answer, Ok(Some(true)))
    }
}

#[cfg(test)]
mod tests;
