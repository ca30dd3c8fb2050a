//! `make bench-failover`: what the caller feels when a host is lost, Hearth beside Envoy and `HAProxy`.
//!
//! ```text
//! caller ── sidecar A ══ mutual TLS ══ sidecar B ── application      three hot hosts, two warm ones,
//!                                                                   each a network namespace
//! ```
//!
//! Open loop: 500 GETs and 50 POSTs a second, each sent when it is scheduled, latency counted from then, a
//! client's deadline of one second; every request is on record. Cells are interleaved: one fault after
//! the other, under each fault all sides in turn, then everything again. Each cell starts everything anew.
//!
//! ```text
//! mod ─┬─ subject   who is compared            ├─ cell      one measurement
//!      ├─ fault     what is done, and promised ├─ figures   records in, figures out
//!      ├─ tries     a cell, again if disturbed ├─ verdict   promises and peers
//!      ├─ field     a side that runs           ├─ flight    which POSTs may fail
//!      └─ peers     the peers' profiles        ├─ behind    why a peer is better
//!                                              ├─ judge     is all of it as promised?
//!                                              └─ table, timeline: for people
//! ```
//!
//! A cell in which the client itself was late is measured again; every try is written down, one is told ([`tries`]).
//!
//! Results: a table on standard output; `failover.json`, `failover.svg` and `failover.csv` (every request)
//! in `target/bench`. The program ends with an error, after all of that, when Hearth missed a promise, when a cell of
//! Hearth's has no figures (what was promised there is missed), or when the bench itself was broken. On a machine
//! that others use, look at the last two columns of the table first: a client that was itself 30 ms late says nothing
//! about sidecars.

pub mod behind;
pub mod cell;
pub mod fault;
pub mod field;
pub mod figures;
pub mod flight;
pub mod judge;
mod peers;
pub mod plan;
pub mod record;
pub mod subject;
pub mod table;
pub mod timeline;
pub mod tries;
pub mod verdict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use crate::bench::BenchError;
use crate::bench::authority::Authority;
use crate::bench::machine::Machine;
use crate::lab::binaries::target_dir;
use crate::lab::entry::program;
use crate::loopback::{Place, sweep};
use fault::Fault;
use figures::Figures;
use judge::Judgement;
use plan::Plan;
use record::Record;
use subject::Subject;
use tries::{Aside, LATE_MS, Tries};
use verdict::{Row, Verdict, verdicts};

/// Name of the certificates' directory among the temporary ones.
const PLACE: &str = "failover";

/// What the caller feels when a host is lost: Hearth with default settings, Envoy and `HAProxy` as
/// mutually authenticated sidecars, fault by fault. Ends with 0 when Hearth kept every promise in every run.
#[derive(Debug, Parser)]
#[command(name = "bench-failover")]
struct Flags {
    /// To see that everything works: each cell once, 5 seconds after the fault.
    #[arg(long)]
    quick: bool,
    /// Only these, in any order; hearth among them, or no promise is judged.
    #[arg(long, value_delimiter = ',', value_name = "PEER,…")]
    only: Vec<Subject>,
    /// Only these, in any order.
    #[arg(long, value_delimiter = ',', value_name = "FAULT,…")]
    faults: Vec<Fault>,
    /// How often each cell is measured.
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// GETs a second.
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// POSTs a second.
    #[arg(long, value_name = "N")]
    posts: Option<u32>,
    /// Seconds that are watched after the fault.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Milliseconds that the activation of a warm application takes (of Hearth's; its peers' are always
    /// awake).
    #[arg(long, value_name = "MS")]
    hook: Option<u64>,
    /// Round trip between the caller and everybody else, in milliseconds; without it the machine's own.
    #[arg(long, value_name = "MS")]
    rtt: Option<u64>,
    /// Leave each cell's logs in target/lab.
    #[arg(long)]
    keep: bool,
    /// Directory of the results; default target/bench.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One cell in the order taken.
#[derive(Debug, Serialize)]
struct Taken {
    run: usize,
    fault: Fault,
    subject: Subject,
    #[serde(flatten)]
    figures: Figures,
    /// Other tries, which the machine disturbed more.
    aside: Vec<Aside>,
}

impl Taken {
    /// Figures of the tries that are not told.
    fn aside(&self) -> impl Iterator<Item = &Figures> {
        self.aside.iter().filter_map(|aside| aside.figures.as_ref())
    }

    /// What is not told, in a line.
    fn set_aside(&self) -> String {
        let one = |aside: &Aside| match (&aside.figures, &aside.error) {
            (Some(figures), _) => format!(
                "try {}: client late {:.1} ms, {} failed, slowest {:.1} ms, {} POSTs failed, {} twice",
                aside.attempt,
                figures.late_ms,
                figures.gets.failed,
                figures.gets.slowest_ms,
                figures.posts.failed,
                figures.twice
            ),
            (None, error) => format!("try {}: {}", aside.attempt, error.as_deref().unwrap_or("?")),
        };
        let all: Vec<String> = self.aside.iter().map(one).collect();
        let (fault, subject) = (self.fault.title(), self.subject.title());
        format!("SET ASIDE: run {}, {fault}, {subject}: {}\n", self.run + 1, all.join("; "))
    }

    /// POSTs answered that nobody executed, in any try.
    fn unexecuted(&self) -> usize {
        self.aside().chain([&self.figures]).map(|figures| figures.unexecuted).sum()
    }
}

/// What has no figures, and why.
#[derive(Debug, Serialize)]
struct NotRun {
    run: usize,
    fault: Fault,
    subject: Subject,
    reason: String,
}

/// All of it, as it is written down.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    machine: &'a Machine,
    plan: &'a Plan,
    judgement: Judgement,
    verdicts: &'a [Verdict],
    not_run: &'a [NotRun],
    taken: &'a [Taken],
}

/// The program.
#[must_use]
pub fn run() -> ExitCode {
    let flags = Flags::parse();
    program("bench-failover", || bench(&flags))
}

fn plan(flags: &Flags) -> Plan {
    let usual = if flags.quick { Plan::quick() } else { Plan::whole() };
    Plan {
        runs: flags.runs.unwrap_or(usual.runs).max(1),
        rate: flags.rate.unwrap_or(usual.rate).max(1),
        posts: flags.posts.unwrap_or(usual.posts).max(1),
        seconds: flags.seconds.unwrap_or(usual.seconds).max(1.0),
        hook_ms: flags.hook.unwrap_or(usual.hook_ms),
        rtt_ms: flags.rtt.unwrap_or(usual.rtt_ms),
        ..usual
    }
}

/// What was asked for, or all there is, in order and once each.
fn chosen<T: Copy + Ord>(asked: &[T], all: &[T]) -> Vec<T> {
    let mut chosen = if asked.is_empty() { all.to_vec() } else { asked.to_vec() };
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

fn bench(flags: &Flags) -> Result<(), BenchError> {
    let (plan, machine) = (plan(flags), Machine::here());
    let subjects = chosen(&flags.only, &Subject::USUAL);
    let faults = chosen(&flags.faults, &Fault::ALL);
    let out = flags.out.clone().unwrap_or_else(|| target_dir().join("bench"));
    sweep(&[PLACE]);
    let place = Place::new(PLACE)?;
    let mut bench = Bench {
        authority: Authority::new(&place)?,
        record: Record::create(&out)?,
        plan,
        keep: flags.keep,
        taken: Vec::new(),
        not_run: Vec::new(),
    };
    for run in 0..bench.plan.runs {
        for &fault in &faults {
            // Nobody is always the first after another fault.
            let mut order = subjects.clone();
            order.rotate_left(run % subjects.len());
            for subject in order {
                bench.measure(run, fault, subject)?;
            }
            bench.write(&machine, &out)?;
        }
    }
    if bench.taken.is_empty() {
        return Err(BenchError::Nothing);
    }
    print!("{}", bench.text(&machine));
    let judgement = bench.judgement();
    if judgement.is_good() { Ok(()) } else { Err(BenchError::Judged(judgement.text())) }
}

/// A run in progress.
struct Bench {
    authority: Authority,
    record: Record,
    plan: Plan,
    keep: bool,
    taken: Vec<Taken>,
    not_run: Vec<NotRun>,
}

impl Bench {
    fn measure(&mut self, run: usize, fault: Fault, subject: Subject) -> Result<(), BenchError> {
        let (number, runs) = (run + 1, self.plan.runs);
        let what = format!("run {number} of {runs}: {}, {}", fault.title(), subject.title());
        let measure = || cell::measure(&self.authority, subject, fault, &self.plan, self.keep);
        match Tries::take(measure) {
            Ok(tries) => {
                self.record.add(run, fault, subject, &tries)?;
                let (figures, aside) = tries.figures();
                eprintln!("{what}: {}", glance(&figures));
                self.taken.push(Taken { run, fault, subject, figures, aside });
            }
            Err(error) => {
                let reason = error.to_string().trim_end().to_owned();
                eprintln!("{what}: NOT RUN: {reason}");
                self.not_run.push(NotRun { run, fault, subject, reason });
            }
        }
        Ok(())
    }

    fn rows(&self) -> Vec<(Fault, Row<'_>)> {
        let mut rows: Vec<(Fault, Row<'_>)> = Vec::new();
        for fault in Fault::ALL {
            let mut row = Row::new();
            for taken in self.taken.iter().filter(|taken| taken.fault == fault) {
                row.entry(taken.subject).or_default().push(&taken.figures);
            }
            if !row.is_empty() {
                rows.push((fault, row));
            }
        }
        rows
    }

    /// Of the rows in which Hearth had a turn, whatever became of it.
    fn verdicts(&self) -> Vec<Verdict> {
        let rows: BTreeMap<Fault, Row<'_>> = self.rows().into_iter().collect();
        let had_turn = |fault: &Fault| {
            let taken =
                self.taken.iter().any(|t| t.fault == *fault && t.subject == Subject::Hearth);
            taken || self.not_run.iter().any(|n| n.fault == *fault && n.subject == Subject::Hearth)
        };
        let none = Row::new();
        let of = |fault: Fault| {
            verdicts(fault, fault.promise(&self.plan), rows.get(&fault).unwrap_or(&none))
        };
        Fault::ALL.into_iter().filter(had_turn).flat_map(of).collect()
    }

    fn judgement(&self) -> Judgement {
        let ours = |subject: Subject| usize::from(subject == Subject::Hearth);
        let unmeasured: usize = self.not_run.iter().map(|cell| ours(cell.subject)).sum();
        let measured: usize = self.taken.iter().map(|cell| ours(cell.subject)).sum();
        let broken = self.taken.iter().filter(|cell| cell.unexecuted() > 0).count();
        let aside = self.taken.iter().filter(|cell| cell.subject == Subject::Hearth);
        Judgement {
            broken,
            twice_aside: aside.filter(|cell| cell.aside().any(|f| f.twice > 0)).count(),
            ..Judgement::of(&self.verdicts(), measured + unmeasured, unmeasured)
        }
    }

    fn text(&self, machine: &Machine) -> String {
        let mut text = format!("\n{}\n\n", self.note(machine));
        for (fault, row) in self.rows() {
            text += &format!("{}\n", table::block(fault, &row));
        }
        text += table::LEGEND;
        text += &table::verdicts(&self.verdicts());
        for NotRun { run, fault, subject, reason } in &self.not_run {
            let (run, fault, subject) = (run + 1, fault.title(), subject.title());
            text += &format!("NOT RUN: run {run}, {fault}, {subject}: {reason}\n");
        }
        for taken in self.taken.iter().filter(|taken| taken.unexecuted() > 0) {
            text += &format!(
                "BROKEN BENCH: run {}, {}, {}: {} POSTs answered that nobody executed\n",
                taken.run + 1,
                taken.fault.title(),
                taken.subject.title(),
                taken.unexecuted()
            );
        }
        for taken in self.taken.iter().filter(|taken| !taken.aside.is_empty()) {
            text += &taken.set_aside();
        }
        let disturbed = self.taken.iter().filter(|taken| taken.figures.late_ms > LATE_MS).count();
        if disturbed > 0 {
            text += &format!(
                "DISTURBED: in {disturbed} of {} cells the client itself was more than {LATE_MS:.0} ms late, \
                 three times in turn: \
                 take what is that slow there for the machine's\n",
                self.taken.len()
            );
        }
        if !machine.is_release() {
            text += &format!("NOT A RELEASE BUILD: {}\n", machine.hearth_from);
        }
        text
    }

    fn note(&self, machine: &Machine) -> String {
        let Machine { processor, cores, kernel, .. } = machine;
        let Plan { runs, rate, posts, seconds, hook_ms, .. } = &self.plan;
        let far = self.plan.rtt().map_or(String::new(), |rtt| format!(", round trip {rtt:?}"));
        format!(
            "{processor}, {cores} cores, Linux {kernel}; {rate} GETs and {posts} POSTs a second, {seconds} \
             s after the fault, activation hook {hook_ms} ms{far}; runs: {runs}, interleaved; medians and ranges"
        )
    }

    /// After every fault, so that a run that is broken off leaves what it had.
    fn write(&self, machine: &Machine, out: &Path) -> Result<(), BenchError> {
        let put = |name: &str, text: String| {
            let path = out.join(name);
            let done = std::fs::write(&path, text);
            done.map_err(|source| BenchError::Write { path: path.clone(), source })
        };
        let (verdicts, plan) = (self.verdicts(), &self.plan);
        let (taken, not_run) = (&self.taken, &self.not_run);
        let judgement = self.judgement();
        let outcome = Outcome { machine, plan, judgement, verdicts: &verdicts, not_run, taken };
        // Plain values and string keys only: nothing that JSON could not hold.
        let json = serde_json::to_string_pretty(&outcome).unwrap_or_else(|e| e.to_string());
        put("failover.json", json + "\n")?;
        put("failover.svg", timeline::svg(&self.rows(), &self.note(machine)))
    }
}

/// A cell in half a line.
fn glance(figures: &Figures) -> String {
    let Figures { gets, posts, flight, told_ms, twice, before, late_ms, .. } = figures;
    format!(
        "{} of {} failed, slowest {:.1} ms, {} over 100 ms, normal after {:.2} s; POSTs: {} failed, {} \
         of them not in flight, told after {told_ms:.0} ms, {twice} twice (before: slowest {:.1} ms; client late {late_ms:.1} ms)",
        gets.failed,
        gets.sent,
        gets.slowest_ms,
        gets.over_100_ms,
        gets.normal_after_ms / 1e3,
        posts.failed,
        flight.beyond,
        before.slowest_ms
    )
}
