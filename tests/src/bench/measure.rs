//! One pair, one round: everything that is measured of it in one speech, in a fixed order, on fresh
//! processes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::account::{Memory, Watched, memory};
use super::client::{Call, Report, Say, Spec, Way};
use super::error::BenchError;
use super::figures::Metric;
use super::pair::Pair;
use super::plan::{Measure, Plan};
use super::speech::Speech;
use super::world::World;
use super::{LARGE, SMALL};
use crate::lab::{LabError, Program};

/// Open loop: below the saturation of every pair.
pub const RATE: u32 = 2_000;
/// Connections of the open loop.
const RATE_CONNECTIONS: usize = 32;
/// Downloads at a time.
const DOWNLOADS: usize = 4;
/// gRPC calls and WebSocket messages under way.
const TALKS: usize = 64;
/// gRPC calls at a time whose answers stream: each is always full.
const STREAMS: usize = 16;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// The figures of one pair in one round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// By metric; one that could not be measured is missing.
    pub values: BTreeMap<Metric, f64>,
    /// Requests that failed, in all windows.
    pub failed: u64,
    /// What was odd: failures with their reason, connections that were not kept.
    pub notes: Vec<String>,
    /// Share of the machine's processor time, in the worst window, that went to programs that are no part
    /// of the comparison.
    pub disturbed: f64,
}

/// Measures a pair that is up.
///
/// # Errors
/// [`BenchError`] when the client cannot measure.
pub fn measure(
    world: &World,
    pair: &Pair,
    plan: &Plan,
    speech: Speech,
) -> Result<Figures, BenchError> {
    let mut run = Run { world, pair, plan, figures: Figures::default() };
    for measure in plan.measures(speech) {
        match measure {
            Measure::Rest => run.at_rest()?,
            Measure::Capacity => {
                run.capacity(32, Metric::Rps32, Metric::Cpu32)?;
                run.capacity(64, Metric::Rps64, Metric::Cpu64)?;
            }
            Measure::Rate => run.latency()?,
            Measure::Bulk => run.bulk()?,
            Measure::Idle => run.idle()?,
            Measure::Grpc => {
                run.talk(Say::Call(Call::Unary), TALKS, Metric::Calls, Metric::CpuCalls)?;
                run.talk(Say::Call(Call::Echo), TALKS, Metric::CallEchoes, Metric::CpuCallEchoes)?;
                run.talk(Say::Call(Call::Stream), STREAMS, Metric::Streamed, Metric::CpuStreamed)?;
            }
            Measure::Websocket => {
                run.talk(Say::Message, TALKS, Metric::Messages, Metric::CpuMessages)?;
            }
        }
    }
    Ok(run.figures)
}

struct Run<'a> {
    world: &'a World,
    pair: &'a Pair,
    plan: &'a Plan,
    figures: Figures,
}

impl Run<'_> {
    fn at_rest(&mut self) -> Result<(), BenchError> {
        // Not a synchronisation: memory at rest is what is measured.
        std::thread::sleep(Duration::from_secs_f64(self.plan.settle));
        let rest: Result<Vec<Memory>, _> = self.pair.sides.iter().map(memory).collect();
        let rest = rest.map_err(|e| self.broken(&e.to_string()))?;
        self.sides_memory(&rest, Metric::RssIdleA, Metric::RssIdleB);
        Ok(())
    }

    fn capacity(&mut self, connections: usize, rps: Metric, cpu: Metric) -> Result<(), BenchError> {
        let report = self.call(get(SMALL), connections, Way::Closed)?;
        self.put(rps, rate(report.answered, &report));
        self.cost(&report, cpu);
        if connections == 64 {
            self.sides_memory(&report.memory, Metric::RssLoadA, Metric::RssLoadB);
            let million = million(&report);
            let sides = self.pair.sides.len();
            for (n, metric) in [(0, Metric::CpuA), (1, Metric::CpuB)].into_iter().take(sides) {
                self.put(metric, report.used.seconds[n] / million);
            }
            self.put(Metric::CpuApp, report.used.seconds[sides] / million);
            self.put(Metric::CpuClient, report.used.seconds[sides + 1] / million);
        }
        Ok(())
    }

    fn latency(&mut self) -> Result<(), BenchError> {
        let report = self.call(get(SMALL), RATE_CONNECTIONS, Way::Open { rate: RATE })?;
        self.put(Metric::P50, report.latency.p50);
        self.put(Metric::P99, report.latency.p99);
        self.cost(&report, Metric::CpuAtRate);
        Ok(())
    }

    fn bulk(&mut self) -> Result<(), BenchError> {
        let report = self.call(get(LARGE), DOWNLOADS, Way::Closed)?;
        self.put(Metric::Bulk, rate(report.bytes, &report) / 1e6);
        if !self.pair.sides.is_empty() {
            #[allow(clippy::cast_precision_loss)] // Far below 2^53.
            self.put(Metric::CpuPerGib, self.sides_seconds(&report) / (report.bytes as f64 / GIB));
        }
        Ok(())
    }

    fn idle(&mut self) -> Result<(), BenchError> {
        let report = self.call(get(SMALL), self.plan.idle, Way::Idle)?;
        self.sides_memory(&report.memory, Metric::RssManyA, Metric::RssManyB);
        if !self.pair.sides.is_empty() {
            let share = self.sides_seconds(&report) / report.used.elapsed;
            self.put(Metric::CpuMany, share * 100.0);
        }
        if report.alive < self.plan.idle as u64 {
            let note = format!(
                "of {} idle connections {} were opened and {} answered a second time",
                self.plan.idle, report.answered, report.alive
            );
            self.figures.notes.push(note);
        }
        Ok(())
    }

    /// Closed loop of something that is no plain request.
    fn talk(&mut self, say: Say, many: usize, rps: Metric, cpu: Metric) -> Result<(), BenchError> {
        let report = self.call(say, many, Way::Closed)?;
        self.put(rps, rate(report.answered, &report));
        self.cost(&report, cpu);
        Ok(())
    }

    /// Processor seconds of both sides per million requests.
    fn cost(&mut self, report: &Report, metric: Metric) {
        if !self.pair.sides.is_empty() {
            self.put(metric, self.sides_seconds(report) / million(report));
        }
    }

    fn sides_seconds(&self, report: &Report) -> f64 {
        report.used.seconds.iter().take(self.pair.sides.len()).sum()
    }

    fn sides_memory(&mut self, memory: &[Memory], a: Metric, b: Metric) {
        for (metric, memory) in [a, b].into_iter().zip(memory).take(self.pair.sides.len()) {
            self.put(metric, memory.rss);
        }
    }

    fn put(&mut self, metric: Metric, value: f64) {
        if value.is_finite() {
            self.figures.values.insert(metric, value);
        }
    }

    /// Runs the client against the pair.
    fn call(&mut self, say: Say, connections: usize, way: Way) -> Result<Report, BenchError> {
        let mut watched = self.pair.sides.clone();
        let app = vec![self.pair.application.pid()];
        watched.push(Watched { label: "application".to_owned(), pids: app });
        let what = format!("{say:?}, {way:?}, {connections} connections");
        let idle = way == Way::Idle;
        let spec = Spec {
            target: self.pair.entry,
            say,
            connections,
            way,
            warm: if idle { self.plan.settle } else { self.plan.warm },
            seconds: self.plan.seconds,
            watched,
        };
        let report = self.run_client(&spec)?;
        if report.answered == 0 && report.bytes == 0 {
            return Err(self.broken(&format!(
                "nothing was answered: {}; {}",
                report.reason.as_deref().unwrap_or("no reason known"),
                self.pair.logs()
            )));
        }
        if report.failed > 0 {
            self.figures.failed += report.failed;
            let reason = report.reason.as_deref().unwrap_or("no reason known");
            self.figures.notes.push(format!("{what}: {} failed: {reason}", report.failed));
        }
        if !idle {
            let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
            let share = report.used.others / (report.used.elapsed * cores);
            self.figures.disturbed = self.figures.disturbed.max(share);
        }
        Ok(report)
    }

    fn run_client(&self, spec: &Spec) -> Result<Report, BenchError> {
        let text = serde_json::to_string(spec).map_err(|e| self.broken(&e.to_string()))?;
        let own = std::env::current_exe().map_err(LabError::file("find", "this program"))?;
        let program = Program::new("client", own).args(["client".to_owned(), text]);
        let limit = Duration::from_secs_f64(spec.warm + spec.seconds) + Duration::from_secs(150);
        let done = self.world.place.run(program, limit)?;
        if done.code != Some(0) {
            return Err(self.broken(&format!("{}; {}", done.stderr.trim(), self.pair.logs())));
        }
        serde_json::from_str(&done.stdout)
            .map_err(|e| self.broken(&format!("{e}: {}", done.stdout)))
    }

    fn broken(&self, reason: &str) -> BenchError {
        BenchError::Client { target: self.pair.entry, reason: reason.to_owned() }
    }
}

fn get(path: &str) -> Say {
    Say::Get(path.to_owned())
}

#[allow(clippy::cast_precision_loss)] // Far below 2^53.
fn million(report: &Report) -> f64 {
    report.answered as f64 / 1e6
}

#[allow(clippy::cast_precision_loss)] // Far below 2^53.
fn rate(count: u64, report: &Report) -> f64 {
    count as f64 / report.used.elapsed
}
