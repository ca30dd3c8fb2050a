//! A healthy mesh under strain: does anybody take it for a sick one?
//!
//! Real agents in namespaces, requests from the caller and from every hot host, a tenth of them POSTs, and a strain that hurts no host for good: frames lost by chance, both
//! cores taken by somebody else, the observer itself stopped, an application with ten times the work it can
//! do. Nothing dies, so whatever is taken out is a false ejection.
//!
//! Counted over all agents: *doubts*, silences declared on a link (new requests go elsewhere until one
//! datagram is heard: reversible, and no ejection), and *ejections*, incidents opened for an endpoint. An agent counts
//! its doubts, not whom they are about: those of agents that are called through are put on the links over which their
//! requests went, those of all agents on all links.
//! Decides nothing about what is too many: the caller does.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use hyper::Method;
use serde::Serialize;

use crate::failbench::figures::twice;
use crate::lab::mesh::{Mesh, MeshSpec, Node, POLICY};
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
/// One application does a second's worth of requests that take so many ms, and gets ten times as many.
const WORK_MS: u32 = 20;
const OVERLOAD: u32 = 10;
/// One request in so many is a POST, of each caller at least one a second.
const POSTS: u32 = 10;

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
    /// All links: pairs of agents, both ways.
    pub links: usize,
    /// Those over which requests went, from who asked to who answered.
    pub carrying: usize,
    /// Silences declared by all agents.
    pub doubts: u64,
    /// Of them by agents that were called through.
    pub doubts_of_callers: u64,
    /// Endpoints taken out, by all agents: `agent: endpoint: reason`.
    pub ejections: BTreeSet<String>,
    /// GETs sent.
    pub sent: usize,
    /// GETs without a good answer. Through a stopped observer, or to an overloaded application, that is no
    /// fault of ours.
    pub failed: usize,
    /// POSTs sent.
    pub posts: usize,
    /// POSTs without a good answer.
    pub posts_failed: usize,
    /// POSTs executed more than once.
    pub twice: usize,
    /// Slowest answer, ms.
    pub slowest_ms: f64,
    /// 99 % were faster, ms.
    pub p99_ms: f64,
}

/// What one caller had on record.
#[derive(Debug, Default)]
struct Heard {
    caller: String,
    gets: Vec<Sample>,
    posts: Vec<Sample>,
}

impl Heard {
    fn all(&self) -> impl Iterator<Item = &Sample> {
        self.gets.iter().chain(&self.posts)
    }

    /// Who else answered it.
    fn links(&self) -> usize {
        let answered = self.all().filter(|s| s.error.is_none() && s.served_by != self.caller);
        answered.map(|sample| &sample.served_by).collect::<BTreeSet<_>>().len()
    }
}

impl Verdict {
    /// Nothing was seen yet.
    fn nothing(strain: Strain) -> Self {
        Self {
            strain,
            seconds: 0.0,
            links: 0,
            carrying: 0,
            doubts: 0,
            doubts_of_callers: 0,
            ejections: BTreeSet::new(),
            sent: 0,
            failed: 0,
            posts: 0,
            posts_failed: 0,
            twice: 0,
            slowest_ms: 0.0,
            p99_ms: 0.0,
        }
    }

    /// With what the callers had on record.
    fn heard(mut self, all: &[Heard]) -> Self {
        let failed = |samples: &[Sample]| samples.iter().filter(|s| s.error.is_some()).count();
        self.carrying = all.iter().map(Heard::links).sum();
        self.sent = all.iter().map(|heard| heard.gets.len()).sum();
        self.failed = all.iter().map(|heard| failed(&heard.gets)).sum();
        self.posts = all.iter().map(|heard| heard.posts.len()).sum();
        self.posts_failed = all.iter().map(|heard| failed(&heard.posts)).sum();
        let answered = all.iter().flat_map(Heard::all).filter(|s| s.error.is_none());
        let mut latencies: Vec<Duration> = answered.map(|s| s.latency).collect();
        latencies.sort_unstable();
        let ms = |d: Option<&Duration>| d.map_or(0.0, |d| d.as_secs_f64() * 1000.0);
        self.slowest_ms = ms(latencies.last());
        self.p99_ms = ms(latencies.get(latencies.len() * 99 / 100));
        self
    }

    /// Per link and hour.
    fn rate(&self, doubts: u64, links: usize) -> f64 {
        doubts as f64 * 3600.0 / self.seconds / links.max(1) as f64
    }

    /// Nobody was taken for dead, and nothing done twice.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.ejections.is_empty() && self.twice == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {:.0} s: {} false ejections; {} doubts, {:.2} per link and hour over the {} links that carry \
             requests ({} doubts of their callers), {:.2} over all {}; {} GETs, {} failed; {} POSTs, {} failed, {} \
             executed twice; p99 {:.1} ms, slowest {:.1} ms",
            self.strain,
            self.seconds,
            self.ejections.len(),
            self.doubts,
            self.rate(self.doubts_of_callers, self.carrying),
            self.carrying,
            self.doubts_of_callers,
            self.rate(self.doubts, self.links),
            self.links,
            self.sent,
            self.failed,
            self.posts,
            self.posts_failed,
            self.twice,
            self.p99_ms,
            self.slowest_ms
        )?;
        self.ejections.iter().try_for_each(|line| writeln!(f, "  ejected: {line}"))
    }
}

/// Puts a mesh under `strain` for so long, with so many requests a second of all callers together; `policy` is lines
/// of its service's policy beside the lab's own.
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
    let policy = format!("{POLICY}{policy}\n");
    // Applications that know what they executed; hot hosts call as well.
    let spec = MeshSpec { kind: Kind::App, calling: true, policy, ..MeshSpec::default() };
    let mesh = Mesh::start(lab, &spec)?;
    let began = Instant::now();
    let before = [doubts(mesh.nodes())?, doubts(callers(&mesh))?];
    let loads = callers(&mesh)
        .map(|caller| Calling::start(&mesh, caller, strain, rate))
        .collect::<Result<Vec<_>, _>>()?;
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
    let heard: Vec<Heard> = loads.into_iter().map(Calling::finish).collect();
    let executed = mesh.hot.iter().chain(&mesh.warm).flat_map(|node| node.app().executed());
    let agents = mesh.nodes().count();
    let verdict = Verdict {
        strain,
        seconds,
        links: agents * (agents - 1),
        doubts: doubts(mesh.nodes())?.saturating_sub(before[0]),
        doubts_of_callers: doubts(callers(&mesh))?.saturating_sub(before[1]),
        ejections,
        twice: twice(&executed.collect::<Vec<_>>()),
        ..Verdict::nothing(strain)
    };
    Ok(verdict.heard(&heard))
}

/// Whose agents are called through.
fn callers(mesh: &Mesh) -> impl Iterator<Item = &Node> {
    std::iter::once(&mesh.caller).chain(&mesh.hot)
}

/// A caller's load.
struct Calling {
    caller: String,
    gets: Load,
    posts: Load,
}

impl Calling {
    /// The part of one caller.
    fn start(mesh: &Mesh, caller: &Node, strain: Strain, rate: u32) -> Result<Self, LabError> {
        let count = |n: usize| u32::try_from(n).unwrap_or(1).max(1);
        let mut gets = LoadSpec::new(Mesh::entry());
        let mut all = rate;
        if strain == Strain::Overload {
            all = 1000 / WORK_MS * count(mesh.hot.len()) * OVERLOAD;
            gets.path = format!("/work?ms={WORK_MS}");
        }
        let name = caller.host.name();
        let [gets_rate, posts_rate] = parts(all, count(callers(mesh).count()));
        gets.rate = gets_rate;
        let posts = LoadSpec {
            method: Method::POST,
            path: format!("/once?id={name}-{{n}}"),
            rate: posts_rate,
            ..LoadSpec::new(Mesh::entry())
        };
        Ok(Self {
            caller: name.to_owned(),
            gets: Load::start(&caller.host, gets)?,
            posts: Load::start(&caller.host, posts)?,
        })
    }

    fn finish(self) -> Heard {
        Heard { caller: self.caller, gets: self.gets.finish(), posts: self.posts.finish() }
    }
}

/// GETs and POSTs a second of one of so many callers.
fn parts(rate: u32, callers: u32) -> [u32; 2] {
    let each = (rate + callers / 2) / callers.max(1);
    let posts = ((each + POSTS / 2) / POSTS).max(1);
    [each.saturating_sub(posts).max(1), posts]
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

fn doubts<'a>(nodes: impl Iterator<Item = &'a Node>) -> Result<u64, LabError> {
    let mut sum = 0;
    for node in nodes {
        let metrics = node.agent.metrics()?;
        let value = metrics.lines().find_map(|l| l.strip_prefix("hearth_link_silences_total "));
        sum += value.and_then(|v| v.parse::<f64>().ok()).unwrap_or_default() as u64;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::{Duration, Heard, Sample, Strain, Verdict, parts};

    fn sample(served_by: &str, error: Option<&str>) -> Sample {
        Sample {
            number: 0,
            scheduled: Duration::ZERO,
            late: Duration::ZERO,
            latency: Duration::from_millis(2),
            status: 200,
            served_by: served_by.to_owned(),
            retry_after: None,
            error: error.map(str::to_owned),
        }
    }

    fn verdict() -> Verdict {
        let gets = ["hot-1", "hot-2", "hot-1"].map(|by| sample(by, None)).to_vec();
        let posts = vec![sample("hot-2", None), sample("", Some("answered 502"))];
        let all = [
            Heard { caller: "caller".to_owned(), gets: gets.clone(), posts },
            Heard { caller: "hot-1".to_owned(), gets, posts: Vec::new() },
        ];
        Verdict { seconds: 3600.0, links: 30, ..Verdict::nothing(Strain::Saturated) }.heard(&all)
    }

    #[test]
    fn a_post_that_failed_is_told_apart_and_is_no_get_that_failed() {
        let seen = verdict();
        assert_eq!((seen.sent, seen.failed, seen.posts, seen.posts_failed), (6, 0, 2, 1));
        assert!(seen.to_string().contains("6 GETs, 0 failed; 2 POSTs, 1 failed"), "{seen}");
    }

    #[test]
    fn links_carry_requests_to_others_and_doubts_are_put_on_them_and_on_all() {
        // Two of the caller's, one of hot-1's: it is no link to itself, and one that failed shows none.
        let seen = Verdict { doubts: 6, doubts_of_callers: 6, ..verdict() };
        assert_eq!(seen.carrying, 3);
        let said = seen.to_string();
        assert!(said.contains("2.00 per link and hour over the 3 links"), "{said}");
        assert!(said.contains("0.20 over all 30"), "{said}");
    }

    #[test]
    fn one_ejection_or_one_post_executed_twice_is_too_many() {
        assert!(verdict().is_good());
        assert!(!Verdict { twice: 1, ..verdict() }.is_good());
        let ejections = ["hot-1: ledger@hot-2: silent".to_owned()].into();
        assert!(!Verdict { ejections, ..verdict() }.is_good());
    }

    #[test]
    fn callers_share_the_rate_and_a_tenth_of_it_is_posts() {
        assert_eq!(parts(400, 4), [90, 10]);
        assert_eq!(parts(100, 4), [22, 3]);
        assert_eq!(parts(1, 4), [1, 1]);
    }
}
