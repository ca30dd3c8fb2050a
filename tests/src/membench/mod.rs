//! `make bench-membership`: how soon a hundred agents know that one is gone, and what it costs them, Hearth beside
//! serf.
//!
//! ```text
//!  node-001   node-002  …  node-100      each a network namespace with an address of its own
//!      │          │            │         and one agent, behind one bridge
//!   ═══╧══════════╧════════════╧═══
//! ```
//!
//! Both kinds run on the same hosts, one after the other: the machine is too small for both at once. Each is
//! started (all join by the first), left alone for a minute, then members are killed one after the other, and
//! others stopped for three seconds.
//!
//! ```text
//! mod ─┬─ plan     how many, how often        ├─ kind ─┬─ hearth   how it is started, where its views
//!      ├─ rounds   what is done               │        └─ serf     come from
//!      ├─ group    agents that run            ├─ views    who holds what of whom, since when
//!      ├─ figures  what was measured          └─ table    for people
//! ```
//!
//! Results: a table on standard output, and `bench-membership.json` in the build directory. The program ends with an
//! error, after all of that, when Hearth took somebody for failed who was only stopped, or whom nothing befell, or when
//! a kind did not run to its end. Bytes are those of the
//! hosts' links, with Ethernet's, IP's and UDP's or TCP's headers. Hearth encrypts and authenticates all of it, serf
//! without a key nothing. Of Hearth's views a second may be missed between two looks: what came and went in it
//! counts as a suspicion, and whether the stopped agent was told that it is dead is asked of itself.

pub mod figures;
pub mod group;
pub mod hearth;
pub mod judge;
pub mod kind;
pub mod plan;
pub mod rounds;
pub mod serf;
pub mod table;
pub mod views;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use clap::Parser;
use serde::Serialize;

use crate::bench::BenchError;
use crate::bench::machine::{Machine, version};
use crate::lab::binaries::{target_dir, tool};
use crate::lab::entry::program;
use crate::lab::{Host, Lab, MOST_HOSTS};
use figures::Taken;
use group::Group;
use hearth::Hearth;
use kind::{Kind, Names, Shared, Subject};
use plan::Plan;
use serf::Serf;

/// How soon agents know that one of them is gone, and what it costs them: Hearth beside serf, real
/// agents in network namespaces. Ends with 0 when Hearth took nobody for failed who was not.
#[derive(Debug, Parser)]
#[command(name = "bench-membership")]
struct Flags {
    /// Agents of each kind.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(4..=i64::from(MOST_HOSTS)))]
    agents: Option<u8>,
    /// To see that everything works: 10 agents, 2 kills, 2 stops, a short quiet time.
    #[arg(long)]
    quick: bool,
    /// Only this kind.
    #[arg(long, value_name = "KIND")]
    only: Option<Subject>,
    /// So many members are killed, and so many stopped.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    rounds: Option<u8>,
    /// Leave the logs in target/lab.
    #[arg(long)]
    keep: bool,
    /// File of the result; default target/bench-membership.json.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// All of it, as it is written down.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    machine: &'a Machine,
    plan: &'a Plan,
    /// What must not be; nothing where all is well.
    faults: Vec<String>,
    taken: &'a [Taken],
}

/// The program.
#[must_use]
pub fn run() -> ExitCode {
    let flags = Flags::parse();
    program("bench-membership", || bench(&flags))
}

fn plan(flags: &Flags) -> Plan {
    let usual = if flags.quick { Plan::quick() } else { Plan::whole() };
    let rounds = flags.rounds.map(usize::from);
    Plan {
        agents: flags.agents.map_or(usual.agents, usize::from),
        kills: rounds.unwrap_or(usual.kills),
        freezes: rounds.unwrap_or(usual.freezes),
        ..usual
    }
}

fn machine() -> Machine {
    let mut machine = Machine::here();
    machine.versions.retain(|(program, _)| *program == "hearth-agent");
    machine.versions.push(("serf", serf_version()));
    machine
}

/// What serf says of itself, and Debian's number, which is another: builds of Debian's say what the source said
/// between two versions.
fn serf_version() -> String {
    let said = version(tool("serf"), "version");
    let asked = Command::new("dpkg-query").args(["-W", "-f=${Version}", "serf"]).output();
    match asked {
        Ok(done) if done.status.success() => {
            format!("{said}, package {}", String::from_utf8_lossy(&done.stdout))
        }
        _ => said,
    }
}

fn bench(flags: &Flags) -> Result<(), BenchError> {
    let (plan, machine) = (plan(flags), machine());
    let out = flags.out.clone();
    let out = out.unwrap_or_else(|| target_dir().join("bench-membership.json"));
    let lab = Lab::new()?;
    if flags.keep {
        lab.keep_files();
    }
    let hosts = lab.crowd(&Names::make(plan.agents))?;
    hosts.iter().try_for_each(|host| host.cut_frames())?;
    let mut all = Vec::new();
    let wanted = |subject: &Subject| flags.only.is_none_or(|only| only == *subject);
    for subject in Subject::ALL.into_iter().filter(wanted) {
        all.push(measure(&lab, &hosts, subject, &plan));
        // After each, so that a run that is broken off leaves what it had.
        let faults = judge::faults(&all);
        write(&Outcome { machine: &machine, plan: &plan, faults, taken: &all }, &out)?;
    }
    if all.iter().all(|taken| taken.cold.is_none()) {
        lab.keep_files();
        let why = all.iter().find_map(|taken| taken.broke_off.clone());
        return Err(BenchError::NotComparable(why.unwrap_or_default()));
    }
    print!("{}", table::text(&machine, &plan, &all));
    let faults = judge::faults(&all);
    if faults.is_empty() {
        return Ok(());
    }
    lab.keep_files();
    Err(BenchError::Judged(faults.join("; ")))
}

/// Measures a kind as far as it comes, and ends it.
fn measure(lab: &Lab, hosts: &[Arc<Host>], subject: Subject, plan: &Plan) -> Taken {
    let mut taken = Taken::none(subject, hosts.len());
    if let Err(why) = try_measure(lab, hosts, plan, &mut taken) {
        eprintln!("{}: {why}", subject.title());
        taken.broke_off = Some(why);
    }
    taken
}

fn try_measure(
    lab: &Lab,
    hosts: &[Arc<Host>],
    plan: &Plan,
    taken: &mut Taken,
) -> Result<(), String> {
    let subject = taken.subject;
    let views = Shared::new(hosts.len());
    let kind = kind(subject, hosts, &views).map_err(|e| e.to_string())?;
    eprintln!("{}: {} agents are started", subject.title(), hosts.len());
    let started = Group::start(kind, hosts, views).map_err(|e| e.to_string())?;
    let (mut group, began, last) = started;
    let done = rounds::cold(&mut group, began, last).map_err(BenchError::from).and_then(|cold| {
        taken.cold = Some(cold);
        rounds::measure(lab, &mut group, plan, taken)
    });
    done.map_err(|error| {
        let ended = group.ended();
        let ended = if ended.is_empty() { "nobody".to_owned() } else { ended.join(", ") };
        format!("{error}; not running: {ended}")
    })
}

fn kind(
    subject: Subject,
    hosts: &[Arc<Host>],
    views: &Shared,
) -> Result<Box<dyn Kind>, BenchError> {
    Ok(match subject {
        Subject::Hearth => Box::new(Hearth::new(hosts, views)?),
        Subject::Serf => Box::new(Serf::new(hosts, views)?),
    })
}

fn write(outcome: &Outcome<'_>, path: &Path) -> Result<(), BenchError> {
    // Plain values and string keys only: nothing that JSON could not hold.
    let json = serde_json::to_string_pretty(outcome).unwrap_or_else(|e| e.to_string());
    let done = std::fs::write(path, json + "\n");
    done.map_err(|source| BenchError::Write { path: path.to_owned(), source })
}
