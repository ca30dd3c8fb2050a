//! `make bench-sensing`: what it costs to know within milliseconds that a peer is gone.
//!
//! Measured by turning it off (`mesh.sensing = "off"`), everything else being the same:
//!
//! * *idle*: frames per second on the wire of a caller with one peer it may call and does not, right after its
//!   last request and when it has long been quiet. What remains with sensing off is membership and gossip.
//! * *loaded*: processor time of a pair of agents at a fixed rate of requests, rounds of one and the other in
//!   turn, since this machine is never twice the same.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::bench::BenchError;
use crate::bench::account::Watched;
use crate::bench::client::{self, Say, Spec, Way};
use crate::bench::figures::Spread;
use crate::bench::hearth::Mesh as Pair;
use crate::bench::probe::fetch;
use crate::bench::speech::Speech;
use crate::lab::binaries::ours;
use crate::lab::entry::program;
use crate::lab::mesh::{Mesh, MeshSpec, UPSTREAM};
use crate::lab::wait::wait_for;
use crate::lab::web::Kind;
use crate::lab::{Host, Lab, LabError, Program};
use crate::loopback::{Place, free_ports, sweep};

const UP: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 32;
/// Places of the two pairs, and of their application.
const PLACES: [&str; 3] = ["sensing-app", "sensing-on", "sensing-off"];
/// An idle link is watched for so long, this soon after its last request.
const WINDOWS: [Window; 2] = [
    Window { name: "just used", after: Duration::ZERO, length: Duration::from_secs(10) },
    Window { name: "long idle", after: Duration::from_secs(125), length: Duration::from_secs(60) },
];

struct Window {
    name: &'static str,
    after: Duration,
    length: Duration,
}

/// What sensing costs on an idle and on a loaded link, by turning it off.
#[derive(Debug, Parser)]
#[command(name = "bench-sensing")]
struct Flags {
    /// Rounds of the loaded pair, on and off in turn.
    #[arg(long, default_value_t = 9, value_name = "N")]
    rounds: usize,
    /// Length of each.
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
    /// Requests a second.
    #[arg(long, default_value_t = 2000, value_name = "N")]
    rate: u32,
    /// Only the loaded pair.
    #[arg(long)]
    loaded: bool,
}

/// The program.
#[must_use]
pub fn run() -> ExitCode {
    let flags = Flags::parse();
    program("bench-sensing", || measure(&flags))
}

fn measure(flags: &Flags) -> Result<(), BenchError> {
    if !flags.loaded {
        let (on, off) = (idle(true)?, idle(false)?);
        for (n, window) in WINDOWS.iter().enumerate() {
            println!(
                "idle link, {}: {:.2} frames/s with sensing, {:.2} without: {:+.2} for sensing",
                window.name,
                on[n],
                off[n],
                on[n] - off[n]
            );
        }
    }
    loaded(flags)
}

/// Frames per second in and out of the caller, window by window.
fn idle(sensing: bool) -> Result<Vec<f64>, BenchError> {
    let lab = Lab::new()?;
    let spec = MeshSpec { hot: 1, warm: 0, kind: Kind::App, sensing, ..MeshSpec::default() };
    let mesh = Mesh::start(&lab, &spec)?;
    let host = &mesh.caller.host;
    let entry = SocketAddr::from(([127, 0, 0, 1], UPSTREAM));
    wait_for("an answer", UP, || {
        let asked = host.space().call(move || fetch(entry, "/", UP)).map_err(|e| e.to_string())?;
        asked.map(drop)
    })?;
    let mut passed = Duration::ZERO;
    let mut rates = Vec::new();
    for window in &WINDOWS {
        std::thread::sleep(window.after.saturating_sub(passed));
        let before = frames(host)?;
        std::thread::sleep(window.length);
        rates.push((frames(host)? - before) / window.length.as_secs_f64());
        passed = window.after + window.length;
    }
    Ok(rates)
}

/// Frames that the host's cable has carried, both ways.
fn frames(host: &Host) -> Result<f64, LabError> {
    // Of the thread that reads, which is in the host's namespace.
    let file = "/proc/thread-self/net/dev";
    let text = host.space().call(move || std::fs::read_to_string(file))?;
    let text = text.map_err(LabError::file("read", file))?;
    let devices = text.lines().filter_map(|line| line.split_once(':'));
    // Received packets are the second figure, sent ones the tenth.
    let count = |figures: &str| -> f64 {
        let figures: Vec<f64> =
            figures.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
        figures.get(1).copied().unwrap_or(0.0) + figures.get(9).copied().unwrap_or(0.0)
    };
    Ok(devices.filter(|(name, _)| name.trim() != "lo").map(|(_, rest)| count(rest)).sum())
}

/// Processor time of a pair of agents per request, with sensing and without.
fn loaded(flags: &Flags) -> Result<(), BenchError> {
    sweep(&PLACES);
    let place = Place::new(PLACES[0])?;
    let [app] = free_ports();
    let application = Program::new("application", ours("lab-app")?);
    place.start(application.args(["--host", "b", "--listen", &app.to_string()]))?;
    wait_for("the application to answer", UP, || Speech::Http.probe(app, UP))?;
    let pair = |name| Pair::join(Place::new(name)?, ours("hearth-agent")?, app, &[]);
    let pairs = [pair(PLACES[1])?, pair(PLACES[2])?.env("HEARTH_MESH_SENSING", "off")];
    let agents = [pairs[0].start(app, Speech::Http)?, pairs[1].start(app, Speech::Http)?];
    let mut used = [Vec::new(), Vec::new()];
    for round in 0..flags.rounds.max(1) {
        for side in [round % 2, 1 - round % 2] {
            wait_for("the agents to answer", UP, || Speech::Http.probe(pairs[side].entry, UP))?;
            let pids = agents[side].iter().map(|agent| agent.process().pid()).collect();
            let report = client::run(&Spec {
                target: pairs[side].entry,
                say: Say::Get("/".to_owned()),
                connections: CONNECTIONS,
                way: Way::Open { rate: flags.rate },
                warm: 1.0,
                seconds: flags.seconds,
                watched: vec![Watched { label: "agents".to_owned(), pids }],
            })
            .map_err(|reason| BenchError::Client { target: pairs[side].entry, reason })?;
            used[side].push(report.used.seconds[0] / report.used.elapsed * 100.0);
        }
    }
    for agent in agents.iter().flatten() {
        agent.process().kill()?;
    }
    let ratios = used[0].iter().zip(&used[1]).map(|(on, off)| on / off - 1.0);
    let ratio = Spread::of(ratios.map(|r| r * 100.0).collect::<Vec<_>>());
    let [on, off] = used.map(Spread::of);
    let (Some(on), Some(off), Some(ratio)) = (on, off, ratio) else {
        return Err(BenchError::NotComparable("no round was measured".to_owned()));
    };
    println!(
        "loaded pair, {} requests/s, {} rounds of {} s: {:.2} % of a core with sensing ({:.2}–{:.2}), {:.2} % \
         without ({:.2}–{:.2}); by rounds {:+.1} % ({:+.1} to {:+.1})",
        flags.rate,
        flags.rounds.max(1),
        flags.seconds,
        on.median,
        on.min,
        on.max,
        off.median,
        off.min,
        off.max,
        ratio.median,
        ratio.min,
        ratio.max
    );
    Ok(())
}
