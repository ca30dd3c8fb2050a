//! `make bench-speed`: what a pair of sidecars costs, Hearth beside Envoy, `HAProxy` and nginx.
//!
//! Every pair does the same on this machine: HTTP/1.1 from the client, mutual TLS 1.3 between the two
//! sidecars, HTTP/1.1 to the same application, P-256 certificates, the same files; then, on processes of
//! their own, gRPC and WebSocket from end to end for those that carry it. Rounds are interleaved, each
//! begins with another pair, and each starts fresh processes, so that a machine that slows down slows
//! everybody. Before a pair is measured it must refuse who has no certificate (`refusal`).
//!
//! While working on something: `bench-speed --only hearth,haproxy-h2 --measure capacity,bulk --rounds 1
//! --seconds 2` takes less than a minute.
//!
//! Results are medians and ranges over the rounds: a table and the goals on standard output,
//! `speed.json` and `speed.svg` in `target/bench`. Compare ratios within one run and nothing else; the
//! share of the processor that went elsewhere is shown with them.
//!
//! Traffic stays on the loopback. What is killed was started here.

pub mod account;
pub mod allocations;
pub mod authority;
pub mod calls;
pub mod chart;
pub mod client;
pub mod error;
pub mod figures;
pub mod hearth;
pub mod machine;
pub mod measure;
pub mod pair;
pub mod peers;
pub mod plan;
pub mod probe;
pub mod refusal;
pub mod speaker;
pub mod speech;
pub mod table;
pub mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

pub use error::BenchError;
use figures::{Summary, Verdict, summary, verdicts};
use machine::Machine;
use measure::{Figures, measure};
use pair::Pair;
use peers::Subject;
use plan::{Measure, Plan};
use speech::Speech;
use world::{HearthChoice, World};

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
    /// Only this is measured of them, in any order.
    #[arg(long, value_delimiter = ',', value_name = "WHAT,…")]
    measure: Vec<Measure>,
    /// A line of policy for Hearth's service, for example 'lane = "tcp"'; may be repeated.
    #[arg(long, value_name = "TOML")]
    policy: Vec<String>,
    /// Measure the build in this directory, too, as hearth-before: what has a change done?
    #[arg(long, value_name = "DIR")]
    before: Option<PathBuf>,
    /// Do not check first that pairs refuse who has no certificate. For work on a pair that was checked.
    #[arg(long)]
    unchecked: bool,
    /// Directory of speed.json and speed.svg; default target/bench.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// How often a pair of agents allocates for a request, and where.
    Allocations,
    /// The measuring client, as the bench starts it.
    #[command(hide = true)]
    Client {
        /// JSON.
        spec: String,
    },
    /// The application that speaks gRPC and WebSocket, as the bench starts it.
    #[command(hide = true)]
    Speaker {
        /// Where it listens.
        listen: SocketAddr,
    },
}

/// One measurement in the order taken.
#[derive(Debug, Serialize)]
struct Taken {
    round: usize,
    subject: Subject,
    speech: Speech,
    #[serde(flatten)]
    figures: Figures,
}

/// What has no figures, and why.
#[derive(Debug, Serialize)]
struct NotRun {
    subject: Subject,
    /// In which speech; none: the pair is not comparable at all.
    speech: Option<Speech>,
    reason: String,
}

impl NotRun {
    fn text(&self) -> String {
        let speech = self.speech.map_or(String::new(), |speech| format!(", {}", speech.title()));
        format!("NOT RUN: {}{speech}: {}", self.subject.title(), self.reason)
    }
}

/// All of it, as it is written down.
#[derive(Debug, Serialize)]
struct Outcome {
    machine: Machine,
    plan: Plan,
    /// Largest share of the processor that programs outside of the comparison took in any window.
    disturbed: f64,
    summary: Summary,
    /// Policy that Hearth had beyond the defaults.
    policy: Vec<String>,
    /// Whether every pair was seen to refuse who has no certificate.
    checked: bool,
    goals: Vec<Verdict>,
    not_run: Vec<NotRun>,
    taken: Vec<Taken>,
}

/// The program.
#[must_use]
pub fn run() -> ExitCode {
    let flags = Flags::parse();
    let done = match &flags.command {
        Some(Role::Client { spec }) => client::main(spec),
        Some(Role::Speaker { listen }) => {
            speaker::main(*listen).map_err(|e| format!("cannot serve on {listen}: {e}"))
        }
        Some(Role::Allocations) => allocations::count(flags.seconds.unwrap_or(4.0))
            .map(|counted| print!("{}", allocations::text(&counted)))
            .map_err(|e| e.to_string()),
        None => bench(&flags).map_err(|e| e.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => fail(&reason),
    }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("bench-speed: {reason}");
    ExitCode::FAILURE
}

fn plan(flags: &Flags) -> Plan {
    let usual = if flags.quick { Plan::quick() } else { Plan::whole() };
    Plan {
        measures: if flags.measure.is_empty() { usual.measures } else { flags.measure.clone() },
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
    if flags.before.is_some() {
        subjects.push(Subject::HearthBefore);
    }
    subjects.sort_unstable();
    subjects.dedup();
    let machine = Machine::here();
    let world =
        World::new(HearthChoice { policy: flags.policy.clone(), before: flags.before.clone() })?;
    let mut bench = Bench { world, plan, taken: Vec::new(), not_run: Vec::new() };
    if !flags.unchecked {
        subjects.iter().for_each(|&subject| bench.check(subject));
    }
    for round in 0..bench.plan.rounds {
        let mut order = subjects.clone();
        order.rotate_left(round % subjects.len());
        for subject in order {
            Speech::ALL.into_iter().for_each(|speech| bench.measure(round, subject, speech));
        }
    }
    let outcome = bench.outcome(machine, flags);
    if outcome.taken.is_empty() {
        return Err(BenchError::Nothing);
    }
    print!("{}", text(&outcome));
    write(&outcome, &flags.out.clone().unwrap_or_else(|| target_dir().join("bench")))
}

/// A run in progress.
struct Bench {
    world: World,
    plan: Plan,
    taken: Vec<Taken>,
    not_run: Vec<NotRun>,
}

impl Bench {
    /// Sees whether a pair refuses whom it must. On processes of its own: the check moves 64 MiB, and
    /// memory at rest is measured.
    fn check(&mut self, subject: Subject) {
        eprintln!("checked: {}", subject.title());
        let checked = Pair::start(&self.world, subject, Speech::Http)
            .and_then(|pair| refusal::check(&self.world, subject, &pair));
        if let Err(error) = checked {
            self.leave_out(subject, None, &error);
        }
    }

    /// One pair in one round, in one speech.
    fn measure(&mut self, round: usize, subject: Subject, speech: Speech) {
        let left_out = |n: &NotRun| n.subject == subject && n.speech.is_none_or(|s| s == speech);
        let wanted = self.plan.measures(speech).next().is_some() && subject.carries(speech);
        if !wanted || self.not_run.iter().any(left_out) {
            return;
        }
        let (title, rounds) = (subject.title(), self.plan.rounds);
        eprintln!("round {} of {rounds}: {title}, {}", round + 1, speech.title());
        let measured = Pair::start(&self.world, subject, speech).and_then(|pair| {
            // For whoever wants to attach a profiler.
            pair.sides.iter().for_each(|side| eprintln!("  {}: {:?}", side.label, side.pids));
            measure(&self.world, &pair, &self.plan, speech)
        });
        match measured {
            Ok(figures) => self.taken.push(Taken { round, subject, speech, figures }),
            Err(error) => self.leave_out(subject, Some(speech), &error),
        }
    }

    /// What failed once has no comparable rounds any more.
    fn leave_out(&mut self, subject: Subject, speech: Option<Speech>, error: &BenchError) {
        let not_run = NotRun { subject, speech, reason: error.to_string().trim_end().to_owned() };
        eprintln!("{}", not_run.text());
        self.not_run.push(not_run);
        self.taken.retain(|t| t.subject != subject || speech.is_some_and(|s| s != t.speech));
    }

    fn outcome(self, machine: Machine, flags: &Flags) -> Outcome {
        let mut rounds = figures::Rounds::new();
        for t in &self.taken {
            let of = rounds.entry(t.subject).or_default();
            if of.len() <= t.round {
                of.resize(t.round + 1, BTreeMap::new());
            }
            of[t.round].extend(&t.figures.values);
        }
        let summary = summary(&rounds);
        Outcome {
            goals: verdicts(&rounds, &summary),
            disturbed: self.taken.iter().map(|t| t.figures.disturbed).fold(0.0, f64::max),
            machine,
            plan: self.plan,
            policy: flags.policy.clone(),
            checked: !flags.unchecked,
            summary,
            not_run: self.not_run,
            taken: self.taken,
        }
    }
}

fn text(outcome: &Outcome) -> String {
    let mut text = format!("\n{}\n\n", note(outcome));
    text += &table::figures(&outcome.summary, outcome.plan.rounds > 1);
    if !outcome.goals.is_empty() {
        text += &format!("\n{}", table::goals(&outcome.goals));
    }
    for not_run in &outcome.not_run {
        text += &format!("\n{}", not_run.text());
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
    if !outcome.policy.is_empty() {
        text += &format!("\nNOT THE DEFAULTS: Hearth's policy has {}", outcome.policy.join("; "));
    }
    if !outcome.checked {
        text += "\nNOT CHECKED that pairs refuse who has no certificate";
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
