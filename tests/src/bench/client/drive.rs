//! Closed and open loop: a warm-up, a window that counts, and the readings at its two ends.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::latency::Latency;
use super::lines::{Came, Lines};
use super::{Report, Spec, Way};
use crate::bench::account::{Reading, memory};

const TIMER: Token = Token(usize::MAX - 1);
/// After the window: what was due in it may still be answered. Later is not answered.
const GRACE: Duration = Duration::from_secs(5);
/// Failures after which the client gives up: there is nothing to measure.
const HOPELESS: u64 = 10_000;

/// Runs the spec.
pub(super) fn run(spec: &Spec) -> io::Result<Report> {
    let mut lines = Lines::new(spec.target, &spec.say)?;
    for _ in 0..spec.connections {
        lines.add()?;
    }
    let start = Instant::now();
    let opens = start + spec.warm();
    let drive = Drive {
        lines,
        start,
        opens,
        closes: opens + spec.window(),
        before: None,
        free: (0..spec.connections).collect(),
        waiting: VecDeque::new(),
        issued: 0,
        latencies: Vec::new(),
        report: Report::default(),
    };
    drive.run(spec)
}

struct Drive {
    lines: Lines,
    start: Instant,
    opens: Instant,
    closes: Instant,
    /// The reading with which the window opened.
    before: Option<Reading>,
    /// Connections without a request, longest idle first: load goes round all of them.
    free: VecDeque<usize>,
    /// Requests that are due and have no connection yet. Bounded: at most rate × (window + warm-up).
    waiting: VecDeque<Instant>,
    issued: u32,
    latencies: Vec<Duration>,
    report: Report,
}

impl Drive {
    fn run(mut self, spec: &Spec) -> io::Result<Report> {
        let timer = match spec.way {
            Way::Open { rate } => Some(metronome(&self.lines, rate)?),
            Way::Closed | Way::Idle => {
                while let Some(number) = self.free.pop_front() {
                    self.send(number, Instant::now())?;
                }
                None
            }
        };
        let mut events = Events::with_capacity(1024);
        let mut after = None;
        loop {
            let now = Instant::now();
            if self.before.is_none() && now >= self.opens {
                self.before = Some(Reading::take(&spec.watched)?);
            }
            if after.is_none() && now >= self.closes {
                after = Some(Reading::take(&spec.watched)?);
                self.report.memory = spec.watched.iter().map(memory).collect::<io::Result<_>>()?;
            }
            let closed = after.is_some();
            if closed && (timer.is_none() || self.settled(spec) || now >= self.closes + GRACE) {
                break;
            }
            let next = if self.before.is_none() { self.opens } else { self.closes };
            let limit = next.saturating_duration_since(now).max(Duration::from_millis(1));
            self.lines.wait(&mut events, limit.min(Duration::from_millis(100)))?;
            for event in &events {
                if event.token() == TIMER {
                    if let (Some(timer), Way::Open { rate }) = (&timer, spec.way) {
                        // Whether it went off once or twice is told by the clock.
                        let _ = timer.wait();
                        self.beat(rate)?;
                    }
                } else {
                    self.came(event.token().0, event.is_read_closed(), spec.way, closed)?;
                }
            }
            if self.report.failed > HOPELESS {
                break;
            }
        }
        Ok(self.finish(after.as_ref(), spec))
    }

    /// Issues what is due by now.
    fn beat(&mut self, rate: u32) -> io::Result<()> {
        loop {
            let due = self.start + Duration::from_secs(1) * self.issued / rate;
            if due > Instant::now() || due >= self.closes {
                return Ok(());
            }
            self.issued += 1;
            match self.free.pop_front() {
                Some(number) => self.send(number, due)?,
                None => self.waiting.push_back(due),
            }
        }
    }

    fn came(&mut self, number: usize, ended: bool, way: Way, closed: bool) -> io::Result<()> {
        let counts = self.before.is_some() && !closed;
        match self.lines.receive(number, ended) {
            Came::Some(bytes) => self.report.bytes += if counts { bytes } else { 0 },
            Came::All { due, bytes } => {
                if counts {
                    self.report.bytes += bytes;
                    self.report.answered += 1;
                }
                if due >= self.opens && due < self.closes {
                    self.latencies.push(due.elapsed());
                }
                self.next(number, way, closed)?;
            }
            Came::Broken { owed, reason } => {
                self.fail(owed && counts, &reason);
                self.lines.replace(number)?;
                self.next(number, way, closed)?;
            }
        }
        Ok(())
    }

    /// What a connection does when it has its answer.
    fn next(&mut self, number: usize, way: Way, closed: bool) -> io::Result<()> {
        match (self.waiting.pop_front(), way) {
            (Some(due), _) => self.send(number, due),
            (None, Way::Closed) if !closed => self.send(number, Instant::now()),
            (None, _) => {
                self.free.push_back(number);
                Ok(())
            }
        }
    }

    fn send(&mut self, number: usize, due: Instant) -> io::Result<()> {
        if let Err(error) = self.lines.send(number, due) {
            self.fail(true, &error.to_string());
            self.lines.replace(number)?;
            // Not this request again: it has failed.
            self.free.push_back(number);
        }
        Ok(())
    }

    fn fail(&mut self, counts: bool, reason: &str) {
        self.report.failed += u64::from(counts);
        self.report.reason.get_or_insert_with(|| reason.to_owned());
    }

    fn settled(&self, spec: &Spec) -> bool {
        self.waiting.is_empty() && self.free.len() == spec.connections
    }

    fn finish(mut self, after: Option<&Reading>, spec: &Spec) -> Report {
        if let (Some(before), Some(after)) = (&self.before, after) {
            self.report.used = after.since(before);
        }
        if matches!(spec.way, Way::Open { .. }) && !self.settled(spec) {
            let owed = self.waiting.len() + spec.connections - self.free.len();
            self.report.failed += owed as u64;
            let reason = format!("not answered within {GRACE:?}");
            self.report.reason.get_or_insert(reason);
        }
        self.report.latency = Latency::of(self.latencies);
        self.report
    }
}

/// A timer that goes off at the rate: finer than the milliseconds in which sockets are waited for.
fn metronome(lines: &Lines, rate: u32) -> io::Result<TimerFd> {
    let timer =
        TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    let every = TimeSpec::from_duration(Duration::from_secs(1) / rate.max(1));
    timer.set(Expiration::Interval(every), TimerSetTimeFlags::empty())?;
    lines.watch(&mut SourceFd(&timer.as_fd().as_raw_fd()), TIMER)?;
    Ok(timer)
}
