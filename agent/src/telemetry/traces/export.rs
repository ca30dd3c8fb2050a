//! The task that exports: gather, export, try again, end in time.

use std::time::Duration;

use hearth_proto::record::Span;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanExporter;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{EXPORT_LIMIT, KEEP_TRYING, convert};
use crate::jitter::Backoff;

/// Spans in one export: OpenTelemetry's default.
pub(super) const BATCH: usize = 512;
/// How long spans are gathered.
const GATHER: Duration = Duration::from_secs(1);
/// Waiting times while the collector is away.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// See [`FIRST_WAIT`]. Short enough that a trace appears soon after its collector.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Between attempts when the process is about to end.
const HURRIED_WAIT: Duration = Duration::from_millis(100);
/// gRPC codes (as the exporter writes them) after which OTLP says not to try again, and that no broken
/// connection is reported as.
const PERMANENT: [&str; 7] = [
    "InvalidArgument",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "FailedPrecondition",
    "Unimplemented",
    "Unauthenticated",
];

/// An order to export everything until then.
#[derive(Debug)]
pub(super) struct Flush {
    pub(super) until: Instant,
    pub(super) done: oneshot::Sender<bool>,
}

/// How an attempt ended.
enum Attempt {
    Exported,
    /// Perhaps next time.
    Failed(String),
    /// Never.
    Refused(String),
}

/// The task's state.
pub(super) struct Exporter<E> {
    exporter: E,
    endpoint: String,
    spans: mpsc::Receiver<Span>,
    flushes: mpsc::Receiver<Flush>,
    dropped: Counter,
    /// Gathered, not exported yet; at most [`BATCH`].
    pending: Vec<Span>,
    /// When they are to be exported.
    due: Instant,
    /// Since when attempts fail.
    failing: Option<Instant>,
    backoff: Backoff,
}

impl<E: SpanExporter> Exporter<E> {
    pub(super) fn new(
        exporter: E,
        endpoint: &str,
        spans: mpsc::Receiver<Span>,
        flushes: mpsc::Receiver<Flush>,
        dropped: Counter,
    ) -> Self {
        Self {
            exporter,
            endpoint: endpoint.to_owned(),
            spans,
            flushes,
            dropped,
            pending: Vec::new(),
            due: Instant::now(),
            failing: None,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
        }
    }

    /// Runs until every sink is gone.
    pub(super) async fn run(mut self) {
        loop {
            let room = BATCH - self.pending.len();
            let was_empty = self.pending.is_empty();
            tokio::select! {
                flush = self.flushes.recv() => match flush {
                    Some(flush) => self.flush(flush).await,
                    None => return self.last().await,
                },
                _ = self.spans.recv_many(&mut self.pending, room), if room > 0 => {
                    if was_empty {
                        self.due = Instant::now() + GATHER;
                    }
                    if self.pending.len() == BATCH && self.failing.is_none() {
                        self.due = Instant::now();
                    }
                }
                () = tokio::time::sleep_until(self.due), if !was_empty => self.turn().await,
            }
        }
    }

    /// One attempt; a flush that is ordered meanwhile shortens it.
    async fn turn(&mut self) {
        let mut ordered = None;
        let attempt = {
            let export = attempt(&self.exporter, &self.pending, EXPORT_LIMIT);
            tokio::pin!(export);
            tokio::select! {
                attempt = &mut export => attempt,
                Some(flush) = self.flushes.recv() => {
                    let until = flush.until;
                    ordered = Some(flush);
                    tokio::time::timeout_at(until, export).await.unwrap_or_else(|_| timed_out())
                }
            }
        };
        self.settle(attempt);
        if let Some(flush) = ordered {
            self.flush(flush).await;
        }
    }

    /// What follows from an attempt.
    fn settle(&mut self, attempt: Attempt) {
        let now = Instant::now();
        match attempt {
            Attempt::Exported => {
                if let Some(since) = self.failing.take() {
                    let after_s = now.duration_since(since).as_secs();
                    tracing::info!(endpoint = self.endpoint, after_s, "spans exported again");
                }
                self.backoff.reset();
                self.pending.clear();
            }
            Attempt::Refused(error) => {
                let spans = self.pending.len();
                tracing::warn!(endpoint = self.endpoint, error, spans, "spans refused, dropped");
                self.drop_pending();
            }
            Attempt::Failed(error) => {
                if self.failing.is_none() {
                    tracing::warn!(
                        endpoint = self.endpoint,
                        error,
                        "span export failed, trying again"
                    );
                }
                let since = *self.failing.get_or_insert(now);
                if now.duration_since(since) >= KEEP_TRYING {
                    let spans = self.pending.len();
                    tracing::warn!(
                        endpoint = self.endpoint,
                        error,
                        spans,
                        "spans given up, dropped"
                    );
                    self.drop_pending();
                }
                self.due = now + self.backoff.wait();
            }
        }
    }

    fn drop_pending(&mut self) {
        self.dropped.inc_by(self.pending.len() as u64);
        self.pending.clear();
        self.failing = None;
    }

    /// Exports everything that was sent before the order, or drops it at the deadline.
    async fn flush(&mut self, Flush { until, done }: Flush) {
        let mut all = true;
        loop {
            while self.pending.len() < BATCH {
                let Ok(span) = self.spans.try_recv() else { break };
                self.pending.push(span);
            }
            if self.pending.is_empty() {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                all = false;
                self.drop_pending();
                continue;
            }
            let attempt = attempt(&self.exporter, &self.pending, left.min(EXPORT_LIMIT)).await;
            all &= !matches!(attempt, Attempt::Refused(_));
            let failed = matches!(attempt, Attempt::Failed(_));
            self.settle(attempt);
            if failed {
                tokio::time::sleep_until(until.min(Instant::now() + HURRIED_WAIT)).await;
            }
        }
        // Whoever asked may have stopped waiting.
        let _ = done.send(all);
    }

    /// Every sink is gone without a shutdown: one short effort.
    async fn last(mut self) {
        let (done, _nobody) = oneshot::channel();
        self.flush(Flush { until: Instant::now() + FIRST_WAIT, done }).await;
    }
}

async fn attempt(exporter: &impl SpanExporter, spans: &[Span], limit: Duration) -> Attempt {
    let batch = spans.iter().map(convert::span_data).collect();
    match tokio::time::timeout(limit, exporter.export(batch)).await {
        Ok(result) => judge(result),
        Err(_) => timed_out(),
    }
}

fn timed_out() -> Attempt {
    Attempt::Failed("no answer in time".to_owned())
}

/// The exporter says why only in words; the code in them is what counts.
fn judge(result: OTelSdkResult) -> Attempt {
    let Err(error) = result else { return Attempt::Exported };
    let error = error.to_string();
    let code = error.split("gRPC code: ").nth(1).unwrap_or_default();
    let code: String = code.chars().take_while(char::is_ascii_alphanumeric).collect();
    match PERMANENT.contains(&code.as_str()) {
        true => Attempt::Refused(error),
        false => Attempt::Failed(error),
    }
}
