//! A healthy mesh under strain: does anybody take it for a sick one?
//!
//! Real agents in namespaces, traffic, and a strain that hurts no host for good: frames lost by chance, both
//! cores taken by somebody else, the observer itself stopped, an application with ten times the work it can
//! do. Nothing dies, so whatever is taken out is a false ejection.
//!
//! Counted over all agents: *doubts*, silences declared on a link (new requests go elsewhere until one
//! datagram is heard: reversible, and no ejection), and *ejections*, incidents opened for an endpoint.
//! Decides nothing about what is too many: the caller does.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::lab::mesh::{Mesh, MeshSpec, POLICY, UPSTREAM};
use crate::lab::process::Program;
use crate::lab::web::Kind;
use crate::lab::{Lab, LabError};
use crate::load::{Load, LoadSpec, Sample};

/// Between two looks at the mesh.
const LOOK: Duration = Duration::from_secs(1);
/// For so long the observer is stopped, in turn; and so long it runs in between.
const STOPS: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];
const RECOVERY: Duration = Duration::from_secs(5);
/// One application does this many requests a second of [`WORK`], and gets ten times as many.
const WORK: Duration = Duration::from_millis(20);
const OVERLOAD: u32 = 10;

/// What the mesh goes through.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strain {
    /// Frames lost by chance, per cent, on the link of every host that serves, each way.
    Loss(f32),
    /// Twice as many busy processes as the machine has cores.
    Saturated,
    /// The caller's agent is stopped (SIGSTOP) for 0.1 to 10 s, again and again.
    ObserverStopped,
    /// Each application is asked for ten times what it can do.
    Overload,
}

impl fmt::Display for Strain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loss(percent) => write!(f, "{percent} % loss"),
            Self::Saturated => f.write_str("cores saturated"),
            Self::ObserverStopped => f.write_str("observer stopped"),
            Self::Overload => f.write_str("application overloaded"),
        }
    }
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The strain.
    pub strain: Strain,
    /// For how long, s.
    pub seconds: f64,
    /// Links watched: pairs of agents, both ways.
    pub links: usize,
    /// Silences declared by all agents.
    pub doubts: u64,
    /// Endpoints taken out, by all agents: `agent: endpoint: reason`.
    pub ejections: BTreeSet<String>,
    /// Requests sent.
    pub sent: usize,
    /// Requests without a good answer. Through a stopped observer, or to an overloaded application, that is no
    /// fault of ours.
    pub failed: usize,
    /// Slowest answer, ms.
    pub slowest_ms: f64,
    /// 99 % were faster, ms.
    pub p99_ms: f64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {:.0} s, {} links: {} false ejections, {} doubts ({:.2} per link and hour); {} requests, \
             {} failed, p99 {:.1} ms, slowest {:.1} ms",
            self.strain,
            self.seconds,
            self.links,
            self.ejections.len(),
            self.doubts,
            self.doubts as f64 * 3600.0 / self.seconds / self.links as f64,
            self.sent,
            self.failed,
            self.p99_ms,
            self.slowest_ms
        )?;
        self.ejections.iter().try_for_each(|line| writeln!(f, "  ejected: {line}"))
    }
}

/// Puts a mesh under `strain` for so long, with so many requests a second; `policy` is lines of its service's
/// policy beside the lab's own.
///
/// # Errors
/// [`LabError`] when the mesh cannot be made or asked.
pub fn run(
    lab: &Lab,
    strain: Strain,
    length: Duration,
    rate: u32,
    policy: &str,
) -> Result<Verdict, LabError> {
    let kind = if strain == Strain::Overload { Kind::App } else { Kind::best() };
    let policy = format!("{POLICY}{policy}\n");
    let mesh = Mesh::start(lab, &MeshSpec { kind, policy, ..MeshSpec::default() })?;
    let began = Instant::now();
    let doubts_before = doubts(&mesh)?;
    let load = load(&mesh, strain, rate)?;
    let mut ejections = BTreeSet::new();
    let ended = began + length;
    let busy = begin(&mesh, strain)?;
    let mut stops = STOPS.iter().cycle();
    while Instant::now() < ended {
        if strain == Strain::ObserverStopped {
            // The cycle has no end.
            stop_observer(&mesh, *stops.next().unwrap_or(&STOPS[0]))?;
        } else {
            std::thread::sleep(LOOK.min(ended.saturating_duration_since(Instant::now())));
        }
        for line in look(&mesh)? {
            if ejections.insert(line.clone()) {
                println!("after {:.0} s: {line}", began.elapsed().as_secs_f64());
            }
        }
    }
    drop(busy);
    mesh.hot.iter().try_for_each(|node| node.host.loss(0.0))?;
    let seconds = began.elapsed().as_secs_f64();
    let samples = load.finish();
    let agents = mesh.nodes().count();
    let mut answered: Vec<Duration> =
        samples.iter().filter(|s| s.error.is_none()).map(|s| s.latency).collect();
    answered.sort_unstable();
    let ms = |d: Option<&Duration>| d.map_or(0.0, |d| d.as_secs_f64() * 1000.0);
    Ok(Verdict {
        strain,
        seconds,
        links: agents * (agents - 1),
        doubts: doubts(&mesh)?.saturating_sub(doubts_before),
        ejections,
        sent: samples.len(),
        failed: samples.iter().filter(|s: &&Sample| s.error.is_some()).count(),
        slowest_ms: ms(answered.last()),
        p99_ms: ms(answered.get(answered.len() * 99 / 100)),
    })
}

fn load(mesh: &Mesh, strain: Strain, rate: u32) -> Result<Load, LabError> {
    let target = SocketAddr::from(([127, 0, 0, 1], UPSTREAM));
    let mut spec = LoadSpec { rate, ..LoadSpec::new(target) };
    if strain == Strain::Overload {
        let each = u32::try_from(Duration::from_secs(1).as_millis() / WORK.as_millis());
        let hosts = u32::try_from(mesh.hot.len());
        spec.rate = each.unwrap_or(1) * hosts.unwrap_or(1) * OVERLOAD;
        spec.path = format!("/work?ms={}", WORK.as_millis());
    }
    Load::start(&mesh.caller.host, spec)
}

/// What lasts for the whole time, and ends when it is dropped.
fn begin(
    mesh: &Mesh,
    strain: Strain,
) -> Result<Vec<std::sync::Arc<crate::lab::process::Process>>, LabError> {
    match strain {
        Strain::Loss(percent) => {
            mesh.hot.iter().try_for_each(|node| node.host.loss(percent))?;
            Ok(Vec::new())
        }
        Strain::Saturated => {
            let cores = std::thread::available_parallelism().map_or(2, usize::from);
            let host = mesh.control.host();
            (0..2 * cores)
                .map(|n| {
                    let words = ["-c", "while :; do :; done"];
                    host.spawn(&Program::new(&format!("busy-{n}"), "/bin/sh").args(words))
                })
                .collect()
        }
        Strain::ObserverStopped | Strain::Overload => Ok(Vec::new()),
    }
}

fn stop_observer(mesh: &Mesh, length: Duration) -> Result<(), LabError> {
    let observer = mesh.caller.agent.process();
    observer.stop()?;
    std::thread::sleep(length);
    observer.cont()?;
    std::thread::sleep(RECOVERY);
    Ok(())
}

/// The endpoints that agents have opened incidents for. A stopped observer is rightly missed by others, and
/// offers nothing; its own view is what counts, like everybody's.
fn look(mesh: &Mesh) -> Result<Vec<String>, LabError> {
    let mut lines = Vec::new();
    for node in mesh.nodes() {
        for incident in node.agent.incidents()? {
            lines.push(format!("{}: {}: {}", node.host.name(), incident.lost, incident.reason));
        }
    }
    Ok(lines)
}

fn doubts(mesh: &Mesh) -> Result<u64, LabError> {
    let mut sum = 0;
    for node in mesh.nodes() {
        let metrics = node.agent.metrics()?;
        let value = metrics.lines().find_map(|l| l.strip_prefix("hearth_link_silences_total "));
        sum += value.and_then(|v| v.parse::<f64>().ok()).unwrap_or_default() as u64;
    }
    Ok(sum)
}
