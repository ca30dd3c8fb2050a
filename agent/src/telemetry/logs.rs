//! Logs: one JSON object a line on standard error, as the control daemon's.
//!
//! `{"timestamp":…,"level":…,"node":…,"target":…,"event":…,"fields":{…}}`. The event is the line's stable
//! message; everything that varies is a field.
//!
//! Owns the queue of lines and the thread that writes them. Whoever logs makes the line and puts it on
//! the queue; nobody waits for standard error, which may be a pipe that nobody reads. A line that does
//! not fit is dropped and counted, and when lines fit again one of them says how many are missing. The
//! thread ends with the process; [`Logs::flush`] gives it time to write what is queued.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use hearth_proto::ids::NodeName;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::link::Labelled;

/// Lines queued at most; a burst of a whole mesh going down is a few hundred.
const MAX_LINES: usize = 4096;
/// Bytes queued at most, since lines have no bound of their own.
const MAX_BYTES: usize = 4 << 20;
/// How often a flush looks whether the queue has room for its mark.
const FLUSH_STEP: Duration = Duration::from_millis(5);

/// What is logged where the filter given cannot be read.
const FALLBACK: &str = "info";

/// Why the filter was not changed. The old one stays.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It cannot be read.
    #[error(
        "{filter:?} is not a log filter: {source}\n  hint: a level such as \"info\", or \
         \"info,hearth_agent::link=debug\""
    )]
    Syntax {
        /// As given.
        filter: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// This log is not the process's: something else logged first, or it has ended.
    #[error("this log is not in use, so that its filter means nothing\n  hint: restart the agent")]
    Unused,
}

/// The running log. Clones are handles.
#[derive(Clone)]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    queue: Queue,
}

impl Logs {
    /// Starts logging on standard error, for the whole process: what passes `filter`, under the name of
    /// `node`. What is dropped counts as `logs` in `dropped`. An agent without a log is better than none:
    /// what goes wrong here is said and survived.
    pub fn install(node: &NodeName, filter: &str, dropped: &Labelled) -> Self {
        let (logs, subscriber) = Self::over(Box::new(std::io::stderr()), node, filter, dropped);
        if tracing::subscriber::set_global_default(subscriber).is_err() {
            eprintln!(
                "warning: something else logs in this process; the agent's log is not written"
            );
        }
        // Checked with the configuration; whoever comes another way shall still hear of it.
        if let Err(error) = parse(filter) {
            tracing::warn!(%error, used = FALLBACK, "log filter not taken");
        }
        logs
    }

    /// A log that writes to `out`, and the subscriber that feeds it.
    fn over(
        out: Box<dyn Write + Send>,
        node: &NodeName,
        filter: &str,
        dropped: &Labelled,
    ) -> (Self, impl Subscriber + Send + Sync + use<>) {
        let filter = parse(filter).unwrap_or_else(|_| EnvFilter::new(FALLBACK));
        let (filter, handle) = reload::Layer::new(filter);
        let (sender, lines) = mpsc::sync_channel(MAX_LINES);
        let meter = Meter {
            bytes: Arc::default(),
            missing: Arc::default(),
            dropped: dropped.get_or_create_owned(&[("queue", "logs")]),
            node: Value::from(node.as_str()).to_string().into(),
        };
        let writer = LineWriter { out, lines, meter: meter.clone() };
        let thread = std::thread::Builder::new().name("log".to_owned());
        if let Err(error) = thread.spawn(move || writer.run()) {
            // Every line is dropped and counted from here on.
            eprintln!("warning: cannot start the thread that writes the log: {error}");
        }
        let queue = Queue { sender, meter };
        let subscriber = Registry::default().with(filter).with(Lines { queue: queue.clone() });
        (Self { filter: handle, queue }, subscriber)
    }

    /// Changes what is logged, from now on. On an error the old filter stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), FilterError> {
        self.filter.reload(parse(filter)?).map_err(|_| FilterError::Unused)
    }

    /// Waits until everything logged so far is written, at most for `limit`. Says whether it is. Blocks:
    /// for the end of the process.
    pub fn flush(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let (done, written) = mpsc::sync_channel(1);
        let mut mark = Order::Mark(done);
        loop {
            match self.queue.sender.try_send(mark) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(back)) => mark = back,
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(FLUSH_STEP);
        }
        written.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok()
    }
}

fn parse(filter: &str) -> Result<EnvFilter, FilterError> {
    EnvFilter::try_new(filter)
        .map_err(|source| FilterError::Syntax { filter: filter.to_owned(), source })
}

/// What the writing thread is given.
enum Order {
    Line(String),
    /// Everything before is written: say so.
    Mark(SyncSender<()>),
}

/// What is known of the queue at both of its ends.
#[derive(Clone)]
struct Meter {
    bytes: Arc<AtomicUsize>,
    /// Lines dropped since the last one that was written.
    missing: Arc<AtomicUsize>,
    dropped: Counter,
    /// This node's name, as JSON.
    node: Arc<str>,
}

/// The near end of the queue.
#[derive(Clone)]
struct Queue {
    sender: SyncSender<Order>,
    meter: Meter,
}

impl Queue {
    fn push(&self, line: String) {
        let (meter, bytes) = (&self.meter, line.len());
        let fits = meter.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_BYTES;
        if !fits || self.sender.try_send(Order::Line(line)).is_err() {
            meter.bytes.fetch_sub(bytes, Ordering::Relaxed);
            meter.missing.fetch_add(1, Ordering::Relaxed);
            meter.dropped.inc();
        }
    }
}

/// The thread that writes.
struct LineWriter {
    out: Box<dyn Write + Send>,
    lines: Receiver<Order>,
    meter: Meter,
}

impl LineWriter {
    fn run(mut self) {
        loop {
            let order = match self.lines.recv_timeout(Duration::from_secs(1)) {
                Ok(order) => Some(order),
                // Nothing was logged for a while: what was dropped before is still to be said.
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.say_missing();
            match order {
                Some(Order::Line(line)) => {
                    self.write(&line);
                    self.meter.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                }
                // Whoever asked may have stopped waiting.
                Some(Order::Mark(done)) => drop(done.try_send(())),
                None => {}
            }
        }
    }

    fn write(&mut self, line: &str) {
        // There is nowhere else to complain.
        if self.out.write_all(line.as_bytes()).and_then(|()| self.out.flush()).is_err() {
            self.meter.dropped.inc();
        }
    }

    fn say_missing(&mut self) {
        let missing = self.meter.missing.swap(0, Ordering::Relaxed);
        if missing == 0 {
            return;
        }
        let mut fields = Map::new();
        fields.insert("lines".to_owned(), missing.into());
        let event = "log lines dropped";
        let line = line(&self.meter.node, "WARN", module_path!(), event, fields);
        self.write(&line);
    }
}

/// One line of the log, with its end.
fn line(node: &str, level: &str, target: &str, event: &str, fields: Map<String, Value>) -> String {
    let mut timestamp = String::new();
    // Writing into a String cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let text = |t: &str| Value::from(t).to_string();
    format!(
        "{{\"timestamp\":{},\"level\":\"{level}\",\"node\":{node},\"target\":{},\"event\":{},\
         \"fields\":{}}}\n",
        text(&timestamp),
        text(target),
        text(event),
        Value::Object(fields)
    )
}

/// Turns events into lines.
struct Lines {
    queue: Queue,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut found = Fields::default();
        event.record(&mut found);
        let meta = event.metadata();
        let level = meta.level().as_str();
        self.queue.push(line(
            &self.queue.meter.node,
            level,
            meta.target(),
            &found.event,
            found.fields,
        ));
    }
}

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

#[cfg(test)]
mod tests;
