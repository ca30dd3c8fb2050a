//! `make bench-speed`: what a pair of sidecars costs, Hearth beside Envoy, `HAProxy` and nginx.
//!
//! Every pair does the same on this machine: HTTP/1.1 from the client, mutual TLS 1.3 between the two
//! sidecars, HTTP/1.1 to the same application, P-256 certificates, the same files. Rounds are interleaved,
//! each begins with another pair, and each starts fresh processes, so that a machine that slows down slows
//! everybody. Before a pair is measured it must refuse who has no certificate (`refusal`).
//!
//! Results are medians and ranges over the rounds: a table and the goals on standard output,
//! `speed.json` and `speed.svg` in `target/bench`. Compare ratios within one run and nothing else; the
//! share of the processor that went elsewhere is shown with them.
//!
//! Traffic stays on the loopback. What is killed was started here.

pub mod account;
pub mod authority;
pub mod chart;
pub mod client;
pub mod error;
pub mod figures;
pub mod hearth;
pub mod machine;
pub mod measure;
pub mod pair;
pub mod peers;
pub mod probe;
pub mod refusal;
pub mod table;
pub mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

pub use error::BenchError;
use figures::{Summary, Verdict, summary, verdicts};
use machine::Machine;
use measure::{Figures, Plan, measure};
use pair::Pair;
use peers::Subject;
use world::World;

use crate::lab::binaries::target_dir;

/// Path of the small file: 1 KiB.
const SMALL: &str = "/1k";
/// Path of the large one.
const LARGE: &str = "/large";
/// Share of the processor that others may have before a run is called disturbed.
const QUIET: f64 = 0.05;

/// What sidecars cost: Hearth, Envoy, `HAProxy` and nginx as mutually authenticated pairs.
#[derive(Debug, Parser)]
#[command(name = "bench-speed")]
struct Flags {
    /// To see that everything works: one round, windows of half a second, 1,000 idle connections. Its
    /// figures mean little.
    #[arg(long)]
    quick: bool,
    /// Rounds; each measures every pair once.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Seconds of each window.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Idle connections.
    #[arg(long, value_name = "N")]
    idle: Option<usize>,
    /// Only these, in any order.
    #[arg(long, value_delimiter = ',', value_name = "PAIR,…")]
    only: Vec<Subject>,
    /// Directory of speed.json and speed.svg; default target/bench.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The measuring client, as the bench starts it.
    #[command(hide = true)]
    Client {
        /// JSON.
        spec: String,
    },
}

/// One measurement in the order taken.
#[derive(Debug, Serialize)]
struct Taken {
    round: usize,
    subject: Subject,
    #[serde(flatten)]
    figures: Figures,
}

/// All of it, as it is written down.
#[derive(Debug, Serialize)]
struct Outcome {
    machine: Machine,
    plan: Plan,
    /// Largest share of the processor that programs outside of the comparison took in any window.
    disturbed: f64,
    summary: Summary,
    goals: Vec<Verdict>,
    /// Pairs without figures, and why.
    not_run: BTreeMap<Subject, String>,
    taken: Vec<Taken>,
}

/// The program.
#[must_use]
pub fn run() -> ExitCode {
    let flags = Flags::parse();
    if let Some(Role::Client { spec }) = &flags.command {
        return match client::main(spec) {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => fail(&reason),
        };
    }
    match bench(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("bench-speed: {reason}");
    ExitCode::FAILURE
}

fn plan(flags: &Flags) -> Plan {
    let usual = match flags.quick {
        true => Plan { rounds: 1, warm: 0.3, seconds: 0.5, idle: 1_000, settle: 0.3 },
        false => Plan { rounds: 5, warm: 1.0, seconds: 4.0, idle: 10_000, settle: 1.5 },
    };
    Plan {
        rounds: flags.rounds.unwrap_or(usual.rounds).max(1),
        seconds: flags.seconds.unwrap_or(usual.seconds).max(0.1),
        idle: flags.idle.unwrap_or(usual.idle).max(1),
        ..usual
    }
}

fn bench(flags: &Flags) -> Result<(), BenchError> {
    let plan = plan(flags);
    let mut subjects =
        if flags.only.is_empty() { Subject::USUAL.to_vec() } else { flags.only.clone() };
    subjects.sort_unstable();
    subjects.dedup();
    let machine = Machine::here();
    let world = World::new()?;
    let mut taken = Vec::new();
    let mut not_run = BTreeMap::new();
    for round in 0..plan.rounds {
        let mut order = subjects.clone();
        order.rotate_left(round % subjects.len());
        for subject in order {
            if not_run.contains_key(&subject) {
                continue;
            }
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, subject.title());
            match one(&world, subject, &plan, round == 0) {
                Ok(figures) => taken.push(Taken { round, subject, figures }),
                Err(error) => {
                    eprintln!("NOT RUN: {}: {error}", subject.title());
                    not_run.insert(subject, error.to_string());
                }
            }
        }
    }
    // A pair that failed in a later round has no comparable rounds any more.
    taken.retain(|t| !not_run.contains_key(&t.subject));
    let outcome = outcome(machine, plan, taken, not_run);
    print!("{}", text(&outcome));
    write(&outcome, &flags.out.clone().unwrap_or_else(|| target_dir().join("bench")))
}

/// One pair in one round.
fn one(world: &World, subject: Subject, plan: &Plan, check: bool) -> Result<Figures, BenchError> {
    if check {
        // On processes of its own: the check moves 64 MiB, and memory at rest is measured.
        refusal::check(world, subject, &Pair::start(world, subject)?)?;
    }
    let pair = Pair::start(world, subject)?;
    measure(world, &pair, plan)
}

fn outcome(
    machine: Machine,
    plan: Plan,
    taken: Vec<Taken>,
    not_run: BTreeMap<Subject, String>,
) -> Outcome {
    let mut rounds = figures::Rounds::new();
    for t in &taken {
        rounds.entry(t.subject).or_default().push(t.figures.values.clone());
    }
    let summary = summary(&rounds);
    Outcome {
        goals: verdicts(&rounds, &summary),
        disturbed: taken.iter().map(|t| t.figures.disturbed).fold(0.0, f64::max),
        machine,
        plan,
        summary,
        not_run,
        taken,
    }
}

fn text(outcome: &Outcome) -> String {
    let mut text = format!("\n{}\n\n", note(outcome));
    text += &table::figures(&outcome.summary, outcome.plan.rounds > 1);
    if !outcome.goals.is_empty() {
        text += &format!("\n{}", table::goals(&outcome.goals));
    }
    for (subject, reason) in &outcome.not_run {
        text += &format!("\nNOT RUN: {}: {reason}", subject.title());
    }
    for taken in &outcome.taken {
        for note in &taken.figures.notes {
            text += &format!("\nround {}, {}: {note}", taken.round + 1, taken.subject.title());
        }
    }
    if outcome.disturbed > QUIET {
        text += &format!(
            "\nDISTURBED: in the worst window {:.0} % of the machine went to other programs: take \
             these figures for a trial, not for a result",
            outcome.disturbed * 100.0
        );
    }
    if !outcome.machine.is_release() {
        text += &format!("\nNOT A RELEASE BUILD: {}", outcome.machine.hearth_from);
    }
    text + "\n"
}

fn note(outcome: &Outcome) -> String {
    let Machine { processor, cores, kernel, .. } = &outcome.machine;
    let Plan { rounds, seconds, idle, .. } = &outcome.plan;
    format!(
        "{processor}, {cores} cores, Linux {kernel}; rounds: {rounds}, interleaved; windows of {seconds} s, \
         1 KiB answers, {idle} idle connections; medians and ranges"
    )
}

fn write(outcome: &Outcome, dir: &Path) -> Result<(), BenchError> {
    let put = |name: &str, text: String| {
        let path = dir.join(name);
        let done = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, text));
        done.map_err(|source| BenchError::Write { path: path.clone(), source })?;
        eprintln!("written: {}", path.display());
        Ok(())
    };
    // Plain values and string keys only: nothing that JSON could not hold.
    let json = serde_json::to_string_pretty(outcome).unwrap_or_else(|e| e.to_string());
    put("speed.json", json + "\n")?;
    put("speed.svg", chart::svg(&outcome.summary, &note(outcome)))
}
