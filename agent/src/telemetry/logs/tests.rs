use std::io;
use std::sync::{Condvar, Mutex};

use super::*;

/// A standard error that can be stuck, and remembers what was written.
#[derive(Clone, Default)]
struct Pipe(Arc<(Mutex<PipeState>, Condvar)>);

#[derive(Default)]
struct PipeState {
    text: String,
    stuck: bool,
    waiting: bool,
}

impl Pipe {
    fn stick(&self, stuck: bool) {
        self.0.0.lock().unwrap().stuck = stuck;
        self.0.1.notify_all();
    }
    fn wait_for_writer(&self) {
        let (state, limit) = (self.0.0.lock().unwrap(), Duration::from_secs(5));
        let (_state, out) = self.0.1.wait_timeout_while(state, limit, |s| !s.waiting).unwrap();
        assert!(!out.timed_out(), "the writer never came to the stuck pipe");
    }
    fn lines(&self) -> Vec<Value> {
        let state = self.0.0.lock().unwrap();
        state.text.lines().map(|l| serde_json::from_str(l).expect(l)).collect()
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.0.lock().unwrap();
        while state.stuck {
            state.waiting = true;
            self.0.1.notify_all();
            state = self.0.1.wait(state).unwrap();
        }
        state.text.push_str(std::str::from_utf8(bytes).unwrap());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log(filter: &str) -> (Pipe, Logs, Counter, tracing::subscriber::DefaultGuard) {
    let (pipe, dropped) = (Pipe::default(), Labelled::default());
    let node = NodeName::parse("web-1").unwrap();
    let (logs, subscriber) = Logs::over(Box::new(pipe.clone()), &node, filter, &dropped);
    let dropped = dropped.get_or_create_owned(&[("queue", "logs")]);
    (pipe, logs, dropped, tracing::subscriber::set_default(subscriber))
}

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_line_is_one_json_object_with_its_event_and_typed_fields() {
    let (pipe, logs, _, _guard) = log("info");
    let peer = NodeName::parse("web-2").unwrap();
    tracing::warn!(%peer, unanswered_ms = 12.5, tries = 3, sure = true, quote = "a\"\n", "link silent");
    assert!(logs.flush(LIMIT));
    let lines = pipe.lines();
    let line = lines[0].as_object().unwrap();
    assert_eq!(lines.len(), 1);
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["node"], "web-1");
    assert_eq!(line["target"], module_path!());
    assert_eq!(line["event"], "link silent");
    let fields = serde_json::json!({
        "peer": "web-2", "unanswered_ms": 12.5, "tries": 3, "sure": true, "quote": "a\"\n"
    });
    assert_eq!(line["fields"], fields);
    assert_eq!(line.len(), 6, "{line:?}");
    // RFC 3339, UTC, microseconds: 2026-01-02T03:04:05.000006Z
    let timestamp = line["timestamp"].as_str().unwrap();
    let shape: String =
        timestamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
}

#[test]
fn the_filter_holds_and_can_be_changed_while_running() {
    let (pipe, logs, _, _guard) = log("info");
    tracing::debug!("hidden");
    logs.set_filter("warn,hearth_agent::telemetry=debug").unwrap();
    tracing::debug!("shown");
    let error = logs.set_filter("info,a=b=c").unwrap_err();
    assert!(error.to_string().contains("\"info,a=b=c\" is not a log filter"), "{error}");
    tracing::debug!("still shown");
    logs.set_filter("off").unwrap();
    tracing::error!("silenced");
    assert!(logs.flush(LIMIT));
    let events: Vec<Value> = pipe.lines().iter().map(|l| l["event"].clone()).collect();
    assert_eq!(events, ["shown", "still shown"]);
}

#[test]
fn a_stuck_pipe_holds_nobody_up_and_what_is_dropped_is_counted_and_said() {
    let (pipe, logs, dropped, _guard) = log("info");
    pipe.stick(true);
    tracing::info!("first");
    pipe.wait_for_writer();
    let began = Instant::now();
    for n in 0..MAX_LINES + 10 {
        tracing::info!(n, "flood");
    }
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    assert_eq!(dropped.get(), 10);
    assert!(!logs.flush(Duration::from_millis(20)), "nothing can have been written");
    pipe.stick(false);
    assert!(logs.flush(LIMIT));
    let lines = pipe.lines();
    assert_eq!(lines.len(), 1 + 1 + MAX_LINES);
    let said: Vec<&Value> = lines.iter().filter(|l| l["event"] == "log lines dropped").collect();
    assert_eq!((said.len(), &said[0]["fields"]["lines"]), (1, &10.into()));
}

#[test]
fn bytes_are_bounded_as_lines_are() {
    let (pipe, logs, dropped, _guard) = log("info");
    pipe.stick(true);
    tracing::info!("first");
    pipe.wait_for_writer();
    let big = "x".repeat(MAX_BYTES / 4);
    for _ in 0..8 {
        tracing::info!(big, "large");
    }
    assert_eq!(dropped.get(), 5, "three fit beside their own overhead");
    pipe.stick(false);
    assert!(logs.flush(LIMIT));
    assert_eq!(logs.queue.meter.bytes.load(Ordering::Relaxed), 0);
}
