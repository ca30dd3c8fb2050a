//! `make bench-sensing`: what it costs to know within milliseconds that a peer is gone.
//!
//! Measured by turning it off (`mesh.sensing = "off"`), everything else being the same:
//!
//! * *idle*: frames per second on the wire of a caller with eleven peers it may call and does not, right after its
//!   last requests and when it has long been quiet, several windows of each. What remains with sensing off is
//!   membership and gossip. Of two members each is probed by the other all the time, and needs no ping of the
//!   sensing's; of a dozen a link is left alone long enough. More than 2 frames a second and link end the program
//!   with an error: a ping a second, and its answer.
//! * *loaded*: processor time of a pair of agents at fixed rates of requests, rounds of one and the other in
//!   turn, since this machine is never twice the same.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::bench::BenchError;
use crate::bench::account::Watched;
use crate::bench::client::{self, Say, Spec, Way};
use crate::bench::figures::Spread;
use crate::bench::hearth::Mesh as Pair;
use crate::bench::speech::Speech;
use crate::lab::binaries::ours;
use crate::lab::entry::program;
use crate::lab::mesh::{Mesh, MeshSpec};
use crate::lab::wait::wait_for;
use crate::lab::web::Kind;
use crate::lab::{Host, Lab, LabError, Program};
use crate::load::{Load, LoadSpec};
use crate::loopback::{LocalAgent, Place, free_ports, sweep};

const UP: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 32;
/// Places of the two pairs, and of their application.
const PLACES: [&str; 3] = ["sensing-app", "sensing-on", "sensing-off"];
/// A link may cost so many frames a second for being sensed while it is idle, both ways together.
const MOST: f64 = 2.0;
/// All links are used at this rate, until each has been.
const TOUCH: u32 = 200;
/// Links just used are watched for so long.
const JUST_USED: Duration = Duration::from_secs(10);
/// Links are long idle after so long, and each window of that time takes so long.
const LONG: Duration = Duration::from_secs(125);
const LONG_IDLE: Duration = Duration::from_secs(20);

/// What sensing costs on idle and on loaded links, by turning it off. Ends with 0 when an idle link costs no more
/// than 2 frames a second.
#[derive(Debug, Parser)]
#[command(name = "bench-sensing")]
struct Flags {
    /// Agents of the idle mesh.
    #[arg(long, default_value_t = 12, value_name = "N", value_parser = clap::value_parser!(u8).range(12..=50))]
    agents: u8,
    /// Windows in which it is watched: just used, and long idle.
    #[arg(long, default_value_t = 5, value_name = "N")]
    windows: usize,
    /// Rounds of the loaded pair, on and off in turn.
    #[arg(long, default_value_t = 9, value_name = "N")]
    rounds: usize,
    /// Length of each.
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
    /// Requests a second.
    #[arg(long, value_delimiter = ',', default_values_t = [200, 2000], value_name = "N,…")]
    rate: Vec<u32>,
    /// Only the loaded pair.
    #[arg(long)]
    loaded: bool,
}

/// Frames a second of an idle caller, with sensing and without.
#[derive(Debug, Clone, Copy)]
struct Idle {
    when: &'static str,
    links: usize,
    on: Spread,
    off: Spread,
}

impl Idle {
    /// What sensing costs a link, by the medians.
    fn cost(&self) -> f64 {
        (self.on.median - self.off.median) / self.links as f64
    }

    fn is_dear(&self) -> bool {
        self.cost() > MOST
    }

    fn text(&self) -> String {
        let range = |s: Spread| format!("{:.2} frames/s ({:.2}–{:.2})", s.median, s.min, s.max);
        format!(
            "idle, {}: {} of the caller with sensing, {} without: {:+.2} a link of {}, at most {MOST}: {}",
            self.when,
            range(self.on),
            range(self.off),
            self.cost(),
            self.links,
            if self.is_dear() { "MISSED" } else { "kept" }
        )
    }
}

/// The program.
#[must_use]
pub fn run() -> ExitCode {
    let flags = Flags::parse();
    program("bench-sensing", || measure(&flags))
}

fn measure(flags: &Flags) -> Result<(), BenchError> {
    let mut dear = Vec::new();
    if !flags.loaded {
        let (on, off) = (idle(flags, true)?, idle(flags, false)?);
        for ((when, on), (_, off)) in on.into_iter().zip(off) {
            let links = usize::from(flags.agents - 1);
            let idle = Idle { when, links, on, off };
            println!("{}", idle.text());
            if idle.is_dear() {
                dear.push(format!("{when}, sensing costs {:.2} frames/s a link", idle.cost()));
            }
        }
    }
    loaded(flags)?;
    if dear.is_empty() { Ok(()) } else { Err(BenchError::Judged(dear.join("; "))) }
}

/// Frames per second in and out of the caller: just after its links were used, and long after.
fn idle(flags: &Flags, sensing: bool) -> Result<Vec<(&'static str, Spread)>, BenchError> {
    let lab = Lab::new()?;
    let hot = usize::from(flags.agents - 1);
    let spec = MeshSpec { hot, warm: 0, kind: Kind::App, sensing, ..MeshSpec::default() };
    let mesh = Mesh::start(&lab, &spec)?;
    let host = &mesh.caller.host;
    let windows = flags.windows.max(1);
    let mut used = Vec::with_capacity(windows);
    for _ in 0..windows {
        touch(&mesh)?;
        used.push(rate(host, JUST_USED)?);
    }
    std::thread::sleep(LONG.saturating_sub(JUST_USED));
    let quiet = (0..windows).map(|_| rate(host, LONG_IDLE)).collect::<Result<Vec<_>, _>>()?;
    let spread = |rates| Spread::of(rates).ok_or(BenchError::Nothing);
    Ok(vec![("just used", spread(used)?), ("long idle", spread(quiet)?)])
}

/// Has the caller use every link.
fn touch(mesh: &Mesh) -> Result<(), BenchError> {
    let load = LoadSpec { rate: TOUCH, ..LoadSpec::new(Mesh::entry()) };
    let load = Load::start(&mesh.caller.host, load)?;
    wait_for("every link to be used", UP, || {
        let served = load.lately(UP).served;
        if served.len() >= mesh.hot.len() { Ok(()) } else { Err(format!("{served:?}")) }
    })?;
    drop(load);
    Ok(())
}

/// Frames per second within so long from now.
fn rate(host: &Host, length: Duration) -> Result<f64, LabError> {
    let before = frames(host)?;
    std::thread::sleep(length);
    Ok((frames(host)? - before) / length.as_secs_f64())
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

/// Processor time of a pair of agents at each rate, with sensing and without.
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
    let sides = [(&pairs[0], &agents[0]), (&pairs[1], &agents[1])];
    let text: Vec<String> =
        flags.rate.iter().map(|&rate| at_rate(flags, rate, sides)).collect::<Result<_, _>>()?;
    for agent in agents.iter().flatten() {
        agent.process().kill()?;
    }
    text.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// A pair with sensing and one without, in turn.
fn at_rate(
    flags: &Flags,
    rate: u32,
    sides: [(&Pair, &[LocalAgent; 2]); 2],
) -> Result<String, BenchError> {
    let mut used = [Vec::new(), Vec::new()];
    for round in 0..flags.rounds.max(1) {
        for side in [round % 2, 1 - round % 2] {
            let (pair, agents) = sides[side];
            wait_for("the agents to answer", UP, || Speech::Http.probe(pair.entry, UP))?;
            let pids = agents.iter().map(|agent| agent.process().pid()).collect();
            let report = client::run(&Spec {
                target: pair.entry,
                say: Say::Get("/".to_owned()),
                connections: CONNECTIONS,
                way: Way::Open { rate },
                warm: 1.0,
                seconds: flags.seconds,
                watched: vec![Watched { label: "agents".to_owned(), pids }],
            })
            .map_err(|reason| BenchError::Client { target: pair.entry, reason })?;
            used[side].push(report.used.seconds[0] / report.used.elapsed * 100.0);
        }
    }
    let ratios = used[0].iter().zip(&used[1]).map(|(on, off)| on / off - 1.0);
    let ratio = Spread::of(ratios.map(|r| r * 100.0).collect::<Vec<_>>());
    let [on, off] = used.map(Spread::of);
    let (Some(on), Some(off), Some(ratio)) = (on, off, ratio) else {
        return Err(BenchError::NotComparable("no round was measured".to_owned()));
    };
    Ok(format!(
        "loaded pair, {rate} requests/s, {} rounds of {} s: {:.2} % of a core with sensing ({:.2}–{:.2}), {:.2} % \
         without ({:.2}–{:.2}); by rounds {:+.1} % ({:+.1} to {:+.1})",
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
    ))
}

#[cfg(test)]
mod tests {
    use super::{Idle, Spread};

    fn idle(on: [f64; 3], off: [f64; 3]) -> Idle {
        let spread = |values| Spread::of(values).unwrap();
        Idle { when: "just used", links: 11, on: spread(on), off: spread(off) }
    }

    #[test]
    fn a_ping_a_second_and_its_answer_are_borne_and_no_more() {
        let kept = idle([62.0, 10.0, 30.0], [8.0, 9.0, 7.0]);
        assert!((kept.cost() - 2.0).abs() < 1e-9 && !kept.is_dear(), "{kept:?}");
        assert!(kept.text().ends_with("kept"), "{}", kept.text());
        let dear = idle([30.2, 30.2, 30.2], [8.0, 8.0, 8.0]);
        assert!(dear.is_dear() && dear.text().ends_with("MISSED"), "{}", dear.text());
    }
}
