//! An OpenTelemetry collector for the lab: takes traces over OTLP/gRPC and keeps them decoded.
//!
//! Owns the spans received and the thread that receives them, inside a host's namespace. It accepts
//! what the protocol's own generated types accept, so a span here was a valid span on the wire.
//! Draws an incident's trace as a tree ([`tree`]).
//!
//! Dropping the receiver closes its port.

pub mod tree;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span as WireSpan;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::lab::wait::wait_for;
use crate::lab::{Host, LabError};

/// Spans kept; later ones are dropped, as a collector under memory limits would.
const KEPT: usize = 100_000;

/// Attributes as text: enough to assert on and to print.
pub type Attributes = BTreeMap<String, String>;

/// Something that happened within a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// When, in nanoseconds since 1970.
    pub at: u64,
    /// Its attributes.
    pub attributes: Attributes,
}

/// A span as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits, or empty for a root.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// Start, in nanoseconds since 1970.
    pub start: u64,
    /// End, in nanoseconds since 1970.
    pub end: u64,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its events, in order.
    pub events: Vec<Event>,
    /// Attributes of whoever sent it.
    pub resource: Attributes,
}

impl Span {
    /// The node whose agent sent it.
    #[must_use]
    pub fn node(&self) -> &str {
        let instance = self.resource.get("service.instance.id");
        let host = self.resource.get("host.name");
        instance.or(host).map_or("", String::as_str)
    }
}

/// The running receiver.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
}

impl Receiver {
    /// Starts it on `host` at the usual port 4317 and waits until it accepts connections.
    ///
    /// # Errors
    /// [`LabError`] when it cannot be started or does not come up.
    pub fn start(host: &Host) -> Result<Self, LabError> {
        let address = host.at(4317);
        let spans = Arc::new(Mutex::default());
        let service = TraceServiceServer::new(Keeper { spans: Arc::clone(&spans) });
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = host.run_async("otlp", move || async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_shutdown(address, async {
                    // Told to stop, or the receiver was dropped.
                    let _ = stopped.await;
                })
                .await
        })?;
        let receiver = Self { address, spans, stop: Some(stop), thread: Some(thread) };
        wait_for("the OTLP receiver to listen", Duration::from_secs(10), || {
            let timeout = Duration::from_millis(200);
            host.space()
                .call(move || std::net::TcpStream::connect_timeout(&address, timeout))
                .map_err(|e| e.to_string())?
                .map_err(|e| e.to_string())
        })?;
        Ok(receiver)
    }

    /// What agents set as `otlp`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything received so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.lock().clone()
    }

    /// The spans of one trace, by start.
    #[must_use]
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        let mut spans: Vec<Span> =
            self.lock().iter().filter(|s| s.trace_id == trace_id).cloned().collect();
        spans.sort_by_key(|s| s.start);
        spans
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // An open connection of a live agent would hold the shutdown up; the thread dies with
            // the process at the latest.
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

/// The service itself.
#[derive(Debug)]
struct Keeper {
    spans: Arc<Mutex<Vec<Span>>>,
}

#[tonic::async_trait]
impl TraceService for Keeper {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        for batch in request.into_inner().resource_spans {
            let resource = attributes(batch.resource.map(|r| r.attributes).unwrap_or_default());
            let spans = batch.scope_spans.into_iter().flat_map(|s| s.spans);
            let room = KEPT.saturating_sub(kept.len());
            kept.extend(spans.take(room).map(|span| decode(span, &resource)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn decode(span: WireSpan, resource: &Attributes) -> Span {
    let event = |e: opentelemetry_proto::tonic::trace::v1::span::Event| Event {
        name: e.name,
        at: e.time_unix_nano,
        attributes: attributes(e.attributes),
    };
    Span {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        attributes: attributes(span.attributes),
        events: span.events.into_iter().map(event).collect(),
        resource: resource.clone(),
    }
}

fn attributes(pairs: Vec<KeyValue>) -> Attributes {
    pairs.into_iter().map(|pair| (pair.key, pair.value.map(text).unwrap_or_default())).collect()
}

fn text(value: AnyValue) -> String {
    match value.value {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(yes)) => yes.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BytesValue(bytes)) => hex(&bytes),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
