//! From the core's spans to OpenTelemetry's: nothing is added, changed or left out.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use hearth_proto::ids::NodeName;
use hearth_proto::record::Span;
use hearth_proto::time::Wall;
use opentelemetry::trace::{
    Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// The attribute an event's words are in.
pub(super) const EVENT_DETAIL: &str = "hearth.detail";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Who reports. `OTEL_RESOURCE_ATTRIBUTES` may add to it (such as `deployment.environment.name`), not
/// change it.
pub(super) fn resource(node: &NodeName) -> Resource {
    let node = node.as_str().to_owned();
    Resource::builder_empty()
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_attributes([
            KeyValue::new("service.name", "hearth-agent"),
            KeyValue::new("service.version", VERSION),
            KeyValue::new("service.instance.id", node.clone()),
            KeyValue::new("host.name", node),
        ])
        .build()
}

/// A span for the exporter.
pub(super) fn span_data(span: &Span) -> SpanData {
    let mut events = SpanEvents::default();
    events.events = span.events.iter().map(event).collect();
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(span.trace_id),
            SpanId::from(span.span_id),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        ),
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: span.name.into(),
        start_time: system_time(span.start),
        end_time: system_time(span.end),
        attributes: span.attributes.iter().map(|(k, v)| KeyValue::new(*k, v.clone())).collect(),
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        status: span.error.clone().map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder("hearth")
            .with_version(VERSION)
            .build(),
    }
}

fn event((at, name, detail): &(Wall, Cow<'static, str>, String)) -> Event {
    let detail = KeyValue::new(EVENT_DETAIL, detail.clone());
    Event::new(name.clone(), system_time(*at), vec![detail], 0)
}

fn system_time(wall: Wall) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(wall.0)
}
