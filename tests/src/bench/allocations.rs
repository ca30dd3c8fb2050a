//! How often a pair of agents allocates for a request, and where: `bench-speed allocations`.
//!
//! Two agents that count ([`crate::counted`]) carry small GETs, one after the other on each of a few
//! connections. What they allocate without traffic in the same time is taken off. Counts do not depend on
//! how busy the machine is, so they can be held to a ceiling by a test.
//!
//! What is counted for a request is all that happens for it anywhere in the agent: edges, decision, link,
//! telemetry.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::client::{self, Say, Spec, Way};
use super::error::BenchError;
use super::hearth::Mesh;
use super::speech::Speech;
use super::table::number;
use crate::counted::{self, Totals};
use crate::lab::binaries::ours;
use crate::lab::wait::wait_for;
use crate::lab::{LabError, Program};
use crate::loopback::{Place, free_ports};

const CONNECTIONS: usize = 4;
const UP: Duration = Duration::from_secs(30);
/// Places shown of each side, if they allocate so often for a request.
const SHOWN: usize = 40;
const OFTEN: f64 = 0.05;
/// Symbols of allocators and collections: never where an allocation comes from.
const PLUMBING: [&str; 6] = ["alloc::", "core::", "std::", "dhat", "hashbrown::", "[root]"];
/// The same for functions that were inlined, of which only the file tells whose they are.
const PLUMBING_FILES: [&str; 16] = [
    "alloc/src",
    "core/src",
    "std/src",
    "src/fmt",
    "src/raw_vec",
    "src/vec",
    "src/boxed.rs",
    "src/string.rs",
    "src/sync.rs",
    "src/slice.rs",
    "src/ops",
    "src/iter",
    "src/option.rs",
    "src/convert",
    "src/alloc",
    "src/future/future.rs",
];
/// Crates of ours, beside this one.
const OURS: [&str; 2] = ["../agent", "../proto"];
/// Longest name of a function that is shown.
const NAME: usize = 80;

/// What was counted.
#[derive(Debug)]
pub struct Counted {
    /// Requests answered meanwhile.
    pub requests: u64,
    /// The caller's agent and the application's.
    pub sides: [Side; 2],
}

/// One agent.
#[derive(Debug)]
pub struct Side {
    /// Allocations per request.
    pub blocks: f64,
    /// Bytes of them.
    pub bytes: f64,
    /// Allocations per second without traffic.
    pub at_rest: f64,
    /// Where they come from, most frequent first.
    pub places: Vec<Origin>,
}

/// Where allocations come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// Allocations per request, those without traffic included.
    pub blocks: f64,
    /// Bytes of each.
    pub size: f64,
    /// The innermost place that is no plumbing.
    pub place: String,
    /// The innermost place of ours, if it is another.
    pub ours: Option<String>,
}

/// Starts everything, counts for so long, and ends everything.
///
/// # Errors
/// [`BenchError`] with what could not be started or asked.
pub fn count(seconds: f64) -> Result<Counted, BenchError> {
    let place = Place::new("allocations")?;
    let [app] = free_ports();
    let application = Program::new("application", ours("lab-app")?);
    place.start(application.args(["--host", "b", "--listen", &app.to_string()]))?;
    wait_for("the application to answer", UP, || Speech::Http.probe(app, UP))?;
    let mesh = Mesh::join(Place::new("allocations-hearth")?, ours("counted-agent")?, app, &[])?;
    let agents = mesh.start(app, Speech::Http)?;
    wait_for("the agents to answer", UP, || Speech::Http.probe(mesh.entry, UP))?;
    let spec = |seconds| Spec {
        target: mesh.entry,
        say: Say::Get("/".to_owned()),
        connections: CONNECTIONS,
        way: Way::Closed,
        warm: 0.0,
        seconds,
        watched: Vec::new(),
    };
    let failed = |reason: String| BenchError::Client { target: mesh.entry, reason };
    // What is made once is made now.
    client::run(&spec(1.0)).map_err(failed)?;
    let configs = mesh.config_files();
    let record = |work: &dyn Fn() -> Result<u64, BenchError>| -> Result<_, BenchError> {
        let io = |e: io::Error| failed(format!("an agent that counts: {e}"));
        configs.iter().try_for_each(|config| counted::start(config)).map_err(io)?;
        let begun = Instant::now();
        let done = work();
        let took = begun.elapsed().as_secs_f64();
        let [a, b] = configs.each_ref().map(|config| counted::stop(config).map_err(io));
        Ok((done?, took, [a?, b?]))
    };
    let (_, rest_took, rest) = record(&|| {
        std::thread::sleep(Duration::from_secs_f64(seconds));
        Ok(0)
    })?;
    let (requests, took, loaded) =
        record(&|| Ok(client::run(&spec(seconds)).map_err(failed)?.answered))?;
    for agent in &agents {
        agent.process().kill()?;
    }
    if requests == 0 {
        return Err(failed("nothing was answered".to_owned()));
    }
    let [a, b] = [0, 1].map(|n| {
        let record = Record { requests, took, rest_took, rest: rest[n], loaded: loaded[n] };
        record.side(&counted::profile(&configs[n]))
    });
    Ok(Counted { requests, sides: [a?, b?] })
}

/// The raw counts of one agent.
struct Record {
    requests: u64,
    took: f64,
    rest_took: f64,
    rest: Totals,
    loaded: Totals,
}

impl Record {
    #[allow(clippy::cast_precision_loss)] // Far below 2^53.
    fn side(&self, profile: &Path) -> Result<Side, BenchError> {
        let requests = self.requests as f64;
        let each = |loaded: u64, rest: u64| {
            (loaded as f64 - rest as f64 / self.rest_took * self.took) / requests
        };
        let text = std::fs::read_to_string(profile).map_err(LabError::file("read", profile))?;
        Ok(Side {
            blocks: each(self.loaded.blocks, self.rest.blocks),
            bytes: each(self.loaded.bytes, self.rest.bytes),
            at_rest: self.rest.blocks as f64 / self.rest_took,
            places: origins(&text, requests)
                .map_err(|e| BenchError::NotComparable(e.to_string()))?,
        })
    }
}

/// dhat's file, as far as it is needed.
#[derive(Deserialize)]
struct Profile {
    pps: Vec<Point>,
    ftbl: Vec<String>,
}

/// A place in the program, with its whole trace.
#[derive(Deserialize)]
struct Point {
    /// Total bytes.
    tb: u64,
    /// Total blocks.
    tbk: u64,
    /// Frames, innermost first.
    fs: Vec<usize>,
}

#[allow(clippy::cast_precision_loss)] // Far below 2^53.
fn origins(profile: &str, requests: f64) -> Result<Vec<Origin>, serde_json::Error> {
    let profile: Profile = serde_json::from_str(profile)?;
    let frames: Vec<Frame> = profile.ftbl.iter().map(|text| Frame::parse(text)).collect();
    let mut sums: BTreeMap<(String, Option<String>), (u64, u64)> = BTreeMap::new();
    for point in &profile.pps {
        let trace = || point.fs.iter().filter_map(|&frame| frames.get(frame));
        let place = trace().find(|frame| !frame.is_plumbing()).map_or("?".to_owned(), Frame::text);
        let ours = trace().find(|frame| frame.is_ours()).map(Frame::text);
        let ours = ours.filter(|ours| *ours != place);
        let sum = sums.entry((place, ours)).or_default();
        sum.0 += point.tbk;
        sum.1 += point.tb;
    }
    let mut origins: Vec<Origin> = sums
        .into_iter()
        .map(|((place, ours), (blocks, bytes))| Origin {
            blocks: blocks as f64 / requests,
            size: bytes as f64 / blocks.max(1) as f64,
            place,
            ours,
        })
        .collect();
    origins.sort_by(|a, b| b.blocks.total_cmp(&a.blocks));
    Ok(origins)
}

/// One frame of a trace.
struct Frame<'a> {
    /// Its function: the symbol, or the bare name where it was inlined.
    name: &'a str,
    /// The last parts of its file's path.
    file: &'a str,
    line: &'a str,
}

impl<'a> Frame<'a> {
    /// `0x1234: path::function (src/of/file.rs:12:5)`.
    fn parse(text: &'a str) -> Self {
        let text = text.split_once(": ").map_or(text, |(_, rest)| rest);
        let (name, at) = text.rsplit_once(" (").unwrap_or((text, ""));
        let mut parts = at.trim_end_matches(')').split(':');
        Self { name, file: parts.next().unwrap_or(""), line: parts.next().unwrap_or("") }
    }

    fn is_plumbing(&self) -> bool {
        let name = self.name.trim_start_matches(['<', '&', ' ']).trim_start_matches("mut ");
        PLUMBING.iter().any(|prefix| name.starts_with(prefix))
            || PLUMBING_FILES.iter().any(|prefix| self.file.starts_with(prefix))
    }

    fn is_ours(&self) -> bool {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        self.file.starts_with("src/")
            && OURS.iter().any(|of| here.join(of).join(self.file).is_file())
    }

    fn text(&self) -> String {
        let name: String = self.name.chars().take(NAME).collect();
        match self.file {
            "" | "???" => name,
            file => format!("{file}:{} {name}", self.line),
        }
    }
}

/// Both sides and where they allocate.
#[must_use]
pub fn text(counted: &Counted) -> String {
    let mut text = format!("{} requests, {CONNECTIONS} connections\n", counted.requests);
    for (name, side) in
        ["A, the caller's agent", "B, the application's agent"].iter().zip(&counted.sides)
    {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "\n{name}: {} allocations and {} bytes per request ({} per second without traffic)",
            number(side.blocks),
            number(side.bytes),
            number(side.at_rest)
        );
        for origin in side.places.iter().take(SHOWN).take_while(|o| o.blocks >= OFTEN) {
            let (blocks, size) = (number(origin.blocks), number(origin.size));
            let _ = writeln!(text, "{blocks:>7} × {size:>6} B  {}", origin.place);
            if let Some(ours) = &origin.ours {
                let _ = writeln!(text, "{:>19}  for {ours}", "");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::origins;

    #[test]
    fn allocations_are_laid_to_whom_they_were_made_for() {
        let profile = r#"{
            "pps": [
                {"tb": 640, "tbk": 10, "fs": [1, 2, 3]},
                {"tb": 360, "tbk": 10, "fs": [1, 2, 3, 5]},
                {"tb": 8, "tbk": 1, "fs": [1, 4, 5]}
            ],
            "ftbl": ["[root]", "0x1: <alloc::alloc::Global as x>::y (???:0:0)",
                     "0x2: hyper::buffer (proto/h1/io.rs:2:1)", "0x3: read (src/proxy/frame.rs:3:7)",
                     "0x4: finish_grow<u8> (src/raw_vec/mod.rs:4:1)",
                     "0x5: hearth_agent::run::main (src/run.rs:5:9)"]
        }"#;
        let all = origins(profile, 10.0).unwrap();
        assert_eq!((all[0].blocks, all[0].size), (2.0, 50.0));
        assert_eq!(all[0].place, "proto/h1/io.rs:2 hyper::buffer");
        assert_eq!(all[0].ours.as_deref(), Some("src/proxy/frame.rs:3 read"));
        assert_eq!(all[1].place, "src/run.rs:5 hearth_agent::run::main");
        assert_eq!(all[1].ours, None);
    }
}
