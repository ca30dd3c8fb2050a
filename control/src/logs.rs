//! Logs: one JSON object a line on standard error, as the agent's.
//!
//! `{"timestamp":…,"level":…,"target":…,"event":…,"fields":{…}}`. The event is the line's stable
//! message; everything that varies is a field.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Collects an event's fields; the message becomes the event's name.
#[derive(Default)]
struct Fields {
    event: String,
    fields: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.event = text,
            (name, value) => {
                self.fields.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut found = Fields::default();
        event.record(&mut found);
        let text = |t: &str| Value::from(t).to_string();
        writeln!(
            writer,
            "{{\"timestamp\":{},\"level\":\"{}\",\"target\":{},\"event\":{},\"fields\":{}}}",
            text(&timestamp),
            event.metadata().level(),
            text(event.metadata().target()),
            text(&found.event),
            Value::Object(found.fields)
        )
    }
}

/// Starts logging with `filter` (such as `info` or `hearth_control=debug,info`); what cannot be read
/// of it is left out and said.
pub fn start(filter: &str) {
    let started = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(EnvFilter::new(filter))
        .event_format(Lines)
        .try_init();
    if let Err(error) = started {
        eprintln!("warning: logging was started before: {error}");
    }
}
