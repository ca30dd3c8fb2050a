//! How a mesh grows: what members cost each other at rest, how soon they know of a change and of a death, and
//! how much memory each takes, at several sizes and over two kinds of paths.

mod chart;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use clap::ValueEnum;
use hearth_proto::evidence::Swim;
use hearth_proto::ids::Version;
use rand::RngExt;
use rand::seq::index;
use serde::{Deserialize, Serialize};

use super::flight::Tapes;
use super::net::Net;
use super::tally::Quantiles;
use super::world::World;
use super::{At, MS, S, mesh, parallel};

/// Everybody starts within this time, and is left alone until this long after all know all.
const START: At = S;
const SETTLE: At = 15 * S;
/// A larger mesh begins whole ([`World::make_whole`]): how one forms is the matter of the bootstrap's scenario.
const FORMS: usize = 2_000;
/// Hosts of a whole mesh start within this time, which is over before the first of them probes another, and
/// are left alone for so long: they have nothing to tell each other.
const START_WHOLE: At = 100 * MS;
const SETTLE_WHOLE: At = 5 * S;
/// All are to know all by then.
const LIMIT: At = 120 * S;
/// At rest it is counted for so long.
const REST: At = 20 * S;
/// How often it is looked whether news has come.
const LOOK: At = 5 * MS;
/// Changes that are followed, one after the other, each at most so long.
const CHANGES: usize = 5;
const NEWS: At = 20 * S;
/// Hosts that die, this far from each other; how long is waited for the last to be known.
const DEATHS: usize = 5;
const BETWEEN: At = 3 * S;
const VERDICTS: At = 40 * S;

/// Fewer hosts have none left that offer nothing and may die.
const LEAST: usize = 40;

/// Bounds, from the goals.
const NEWS_S: f64 = 1.0;
const REST_BYTES: f64 = 1_000.0;

/// How far members are from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Paths {
    /// 0.25 ms each way between any two.
    Lan,
    /// Five places, 5 to 90 ms each way between them, 0.25 ms within.
    Places,
}

impl Paths {
    fn net(self, n: usize) -> Net {
        /// Milliseconds one way between five places of one continent and the next.
        const BETWEEN: [[u64; 5]; 5] = [
            [0, 5, 12, 40, 90],
            [5, 0, 9, 42, 85],
            [12, 9, 0, 45, 80],
            [40, 42, 45, 0, 70],
            [90, 85, 80, 70, 0],
        ];
        Net::new(n, |a, b| match (self, BETWEEN[a % 5][b % 5]) {
            (Self::Lan, _) | (_, 0) => 250,
            (Self::Places, ms) => ms * MS,
        })
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lan => "0.25 ms",
            Self::Places => "five places",
        }
    }
}

/// When everybody knew everybody.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// So many seconds after the first start.
    After(f64),
    /// From the start: the mesh began whole.
    Told,
    /// Never.
    Never,
}

/// What came of one size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Hosts.
    pub nodes: usize,
    /// Their paths.
    pub paths: Paths,
    /// When all knew all.
    pub known: Known,
    /// Bytes a second that a host sends at rest: mean, and of the one that sends most.
    pub rest_bytes: [f64; 2],
    /// Seconds from a change of a host's advert until half, 99 % and all of the others held it: medians over
    /// the changes.
    pub news_s: [f64; 3],
    /// Changes that somebody had not heard of in time.
    pub news_missed: usize,
    /// Seconds from a death until a living host held it for down: median and 99 % over all pairs.
    pub detection_s: [f64; 2],
    /// Pairs of a death and a living host that did not.
    pub deaths_missed: usize,
    /// Living hosts that somebody held for down.
    pub false_verdicts: usize,
    /// Resident memory of the simulator per host, in bytes: core, links and paths. In a mesh that began whole hosts
    /// share what they know, in others each has its own.
    pub memory: u64,
    /// What broke.
    pub violations: Vec<String>,
}

/// All sizes.
#[derive(Clone, Debug, Serialize)]
pub struct Scale(pub Vec<Measured>);

impl Scale {
    /// Whether each size met the goals: news everywhere within a second, a kilobyte a second at 1,000 members.
    pub fn holds(&self) -> bool {
        self.0.iter().all(|m| {
            let whole = m.violations.is_empty() && m.known != Known::Never;
            let quiet = m.nodes != 1_000 || m.rest_bytes[0] <= REST_BYTES;
            let right = m.news_missed + m.deaths_missed + m.false_verdicts == 0
                && m.detection_s.iter().all(|s| *s > 0.0);
            whole && quiet && right && m.news_s[1] < NEWS_S
        })
    }

    /// A picture.
    pub fn svg(&self) -> String {
        chart::svg(&self.0)
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = format!(
            "{:>7} {:<12} {:>9} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
            "nodes",
            "paths",
            "all known",
            "rest B/s",
            "most B/s",
            "news 50%",
            "news 99%",
            "news all",
            "down p50",
            "down p99",
            "KiB each"
        );
        for m in &self.0 {
            let known = match m.known {
                Known::After(s) => format!("{s:.1} s"),
                Known::Told => "told".into(),
                Known::Never => "never".into(),
            };
            let [mean, most] = m.rest_bytes;
            let [half, near, all] = m.news_s;
            let [p50, p99] = m.detection_s;
            let _ = writeln!(
                out,
                "{:>7} {:<12} {known:>9} {mean:>10.0} {most:>10.0} {half:>7.3} s {near:>7.3} s {all:>7.3} s \
                 {p50:>7.2} s {p99:>7.2} s {:>9}",
                m.nodes,
                m.paths.name(),
                m.memory / 1_024
            );
            let missed = [
                (m.news_missed, "changes that somebody had not heard of in time"),
                (m.deaths_missed, "deaths unknown to somebody"),
                (m.false_verdicts, "living hosts held for down"),
            ];
            for (count, what) in missed.into_iter().filter(|(count, _)| *count > 0) {
                let _ = writeln!(out, "        {count} {what}");
            }
            for violation in &m.violations {
                let _ = writeln!(out, "        VIOLATED {violation}");
            }
        }
        out
    }
}

/// Each size over each kind of paths, in a process each, whose memory is then its own: `one` begins it.
///
/// # Errors
/// In words, where a process cannot be begun or says nothing.
pub fn measure(
    sizes: &[usize],
    one: impl Fn(usize, Paths) -> Command + Sync,
) -> Result<Scale, String> {
    let mut all = Vec::new();
    for nodes in sizes {
        let of = |paths: &Paths| {
            let told = one(*nodes, *paths).output().map_err(|e| format!("cannot be begun: {e}"))?;
            serde_json::from_slice::<Measured>(&told.stdout).map_err(|e| {
                format!("{nodes} nodes: {e}: {}", String::from_utf8_lossy(&told.stderr).trim())
            })
        };
        let both = [Paths::Lan, Paths::Places];
        // Two large ones do not fit into a memory.
        let measured = match *nodes > FORMS {
            true => both.iter().map(of).collect(),
            false => parallel::map(&both, of),
        };
        for m in measured {
            all.push(m?);
        }
    }
    Ok(Scale(all))
}

fn resident() -> u64 {
    let pid = i32::try_from(std::process::id()).unwrap_or_default();
    crate::conformance::memory::resident(pid).unwrap_or_default()
}

/// One size over one kind of paths; at least [`LEAST`] hosts. A large mesh begins whole, and any that is `whole`.
pub fn one(seed: u64, nodes: usize, paths: Paths, whole: bool) -> Measured {
    let nodes = nodes.max(LEAST);
    let before = resident();
    let mut world = mesh::standard(seed, nodes);
    world.net = paths.net(nodes);
    (world.calling, world.seeds) = (false, vec![0]);
    let whole = whole || nodes > FORMS;
    if whole {
        world.make_whole();
        // A recording begins with all that its host knows, which it would share with nobody.
        world.tapes = Tapes::default();
    }
    let within = if whole { START_WHOLE } else { START };
    for host in 0..nodes {
        let at = if host == 0 { 0 } else { world.rng.random_range(0..within) };
        world.start_at(at, host);
    }
    let known = match wait_for_all(&mut world, nodes) {
        Some(_) if whole => Known::Told,
        Some(seconds) => Known::After(seconds),
        None => Known::Never,
    };
    world.run_until(world.now + if whole { SETTLE_WHOLE } else { SETTLE });
    let rest_bytes = rest(&mut world);
    let memory = resident().saturating_sub(before) / nodes as u64;
    let (news_s, news_missed) = changes(&mut world);
    let deaths = deaths(&mut world);
    let detection = Quantiles::of(deaths.seconds);
    Measured {
        nodes,
        paths,
        known,
        rest_bytes,
        news_s,
        news_missed,
        detection_s: [detection.p50, detection.p99],
        deaths_missed: deaths.missed,
        false_verdicts: deaths.wrong,
        memory,
        violations: std::mem::take(&mut world.checks.violations),
    }
}

fn wait_for_all(world: &mut World, nodes: usize) -> Option<f64> {
    while world.now < LIMIT && world.checks.violations.is_empty() {
        world.run_until(world.now + 100 * MS);
        if world.views().iter().filter(|(members, records)| members.min(records) >= &nodes).count()
            == nodes
        {
            return Some(seconds(world.now));
        }
    }
    None
}

/// Bytes a second at rest: mean and most.
fn rest(world: &mut World) -> [f64; 2] {
    let sent = |world: &World| world.hosts.iter().map(|h| h.sent.1).collect::<Vec<u64>>();
    let before = sent(world);
    world.run_until(world.now + REST);
    let rates: Vec<f64> =
        sent(world).iter().zip(before).map(|(b, a)| (b - a) as f64 / seconds(REST)).collect();
    [rates.iter().sum::<f64>() / rates.len() as f64, rates.iter().copied().fold(0.0, f64::max)]
}

/// How soon others hold a host's new advert.
fn changes(world: &mut World) -> ([f64; 3], usize) {
    let shares = [0.5, 0.99, 1.0];
    let mut took: [Vec<f64>; 3] = Default::default();
    let mut missed = 0;
    let offering: Vec<usize> =
        (0..world.hosts.len()).filter(|h| !world.hosts[*h].spec.endpoints.is_empty()).collect();
    for host in offering.into_iter().take(CHANGES) {
        let name = world.hosts[host].name.clone();
        let version = |world: &World, at: usize| -> Option<Version> {
            world.hosts[at].node.as_ref().and_then(|node| node.table().version(&name))
        };
        let (began, old) = (world.now, version(world, host));
        world.step(host, |node, now| node.drain(now, true));
        let new = version(world, host);
        assert!(new > old, "draining is said in the advert");
        let mut waiting: Vec<usize> = (0..world.hosts.len()).filter(|at| *at != host).collect();
        let others = waiting.len();
        let mut reached = [None; 3];
        while world.now < began + NEWS && !waiting.is_empty() {
            world.run_until(world.now + LOOK);
            waiting.retain(|at| version(world, *at) < new);
            let have = (others - waiting.len()) as f64;
            for (reached, share) in reached.iter_mut().zip(shares) {
                if have >= (share * others as f64).ceil() {
                    reached.get_or_insert(seconds(world.now - began));
                }
            }
        }
        missed += usize::from(!waiting.is_empty());
        for (took, reached) in took.iter_mut().zip(reached) {
            took.push(reached.unwrap_or(seconds(NEWS)));
        }
        world.run_until(world.now + S);
    }
    (took.map(|took| Quantiles::of(took).p50), missed)
}

struct Deaths {
    seconds: Vec<f64>,
    missed: usize,
    wrong: usize,
}

fn deaths(world: &mut World) -> Deaths {
    let nodes = world.hosts.len();
    let mut died: BTreeMap<usize, At> = BTreeMap::new();
    world.verdicts = Some(Vec::new());
    let idle: Vec<usize> =
        (0..nodes).filter(|h| world.hosts[*h].spec.endpoints.is_empty()).collect();
    for at in index::sample(&mut world.rng, idle.len(), DEATHS) {
        died.insert(idle[at], world.now);
        world.crash(idle[at]);
        world.run_until(world.now + BETWEEN);
    }
    world.run_until(world.now + VERDICTS);
    let mut known: BTreeMap<(usize, usize), At> = BTreeMap::new();
    let mut wrong = std::collections::BTreeSet::new();
    for (at, by, of, swim) in world.verdicts.take().unwrap_or_default() {
        let Some(of) = world.index(&of).filter(|_| swim == Swim::Down) else { continue };
        match died.get(&of) {
            Some(death) if at >= *death => drop(known.entry((of, by)).or_insert(at)),
            _ => drop(wrong.insert(of)),
        }
    }
    known.retain(|(_, by), _| !died.contains_key(by));
    let pairs = died.len() * (nodes - died.len());
    let took: Vec<f64> = known.iter().map(|((of, _), at)| seconds(at - died[of])).collect();
    Deaths { missed: pairs - took.len(), seconds: took, wrong: wrong.len() }
}

fn seconds(span: At) -> f64 {
    span as f64 / S as f64
}
