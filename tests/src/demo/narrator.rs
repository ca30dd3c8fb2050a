//! What the demo says while it runs: lines with the time since its start, and a pulse of the load.
//!
//! Owns the clock and, while a load runs, one thread that prints how it goes every two seconds: a
//! demo that is silent for ten seconds looks broken.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::load::{Load, PhaseReport};

/// Between two lines of the pulse.
const PULSE: Duration = Duration::from_secs(2);

/// Prints lines with the time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Narrator {
    start: Instant,
}

impl Narrator {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// A line with the time.
    pub(super) fn line(self, text: &str) {
        println!("{:7.1} s  {text}", self.start.elapsed().as_secs_f64());
    }

    /// The heading of a step.
    pub(super) fn heading(self, text: &str) {
        println!();
        self.line(&format!("── {text}"));
    }
}

/// The running pulse. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Pulse {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    pub(super) fn start(say: Narrator, load: Arc<Load>) -> Self {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(PULSE) == Err(RecvTimeoutError::Timeout) {
                say.line(&format!("     {}", beat(&load.lately(PULSE))));
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `500/s, p99 1.9 ms, 0 failed: hot-1 34 %, hot-2 33 %, hot-3 33 %`
fn beat(report: &PhaseReport) -> String {
    let answered: usize = report.served.values().sum();
    let rate = answered as u64 / PULSE.as_secs();
    let mut text = format!("{rate}/s, p99 {:.1} ms, {} failed:", report.p99_ms, report.failed);
    for (host, count) in &report.served {
        let _ = write!(text, " {host} {} %,", count * 100 / answered.max(1));
    }
    text.trim_end_matches([',', ':']).to_owned()
}
