//! `hearth replay`: a flight recording run through the same core, offline.
//!
//! Reads a file of the recorder, a directory of them, or a debug bundle; needs no agent. Decides nothing:
//! the core decides, [`hearth_proto::flight::Replay`] compares, and this lays out what came of it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::GzDecoder;
use hearth_proto::flight::{self, Damage, Difference, Entry, Replay};
use hearth_proto::ids::NodeName;
use hearth_proto::time::{Clock, Span, Wall};
use hearth_proto::view::{ExplainView, IncidentView, MemberView, RouteView};
use serde::Serialize;

use super::show::{self, Page};
use crate::failure::{Exit, Failure};
use crate::moment::{self, utc_exact};

/// Largest file that is read: the largest ring the agent may keep.
const MAX_FILE: u64 = 16 << 30;

/// What `--at` may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long after the recording begins.
    AfterBegin(Duration),
    /// So long before it ends.
    BeforeEnd(Duration),
    /// At this wall time of the recorded host.
    At(Wall),
}

impl Moment {
    /// Reads `+12.5s`, `-30s`, or a time as `hearth` prints it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let span = |rest: &str| Span::parse(rest).map(|s| s.0).map_err(|e| e.to_string());
        if let Some(rest) = text.strip_prefix('+') {
            return span(rest).map(Self::AfterBegin);
        }
        if let Some(rest) = text.strip_prefix('-') {
            return span(rest).map(Self::BeforeEnd);
        }
        moment::parse_utc(text).map(Self::At).ok_or_else(|| {
            format!(
                "{text:?} is no moment; write +12.5s (after the recording's beginning), -30s (before its \
                 end) or a time such as \"2026-11-30 03:00:01.25Z\""
            )
        })
    }

    fn wall(self, begins: Wall, ends: Wall) -> Wall {
        match self {
            Self::AfterBegin(d) => moment::after(begins, d),
            Self::BeforeEnd(d) => moment::before(ends, d),
            Self::At(wall) => wall,
        }
    }
}

/// What a replay came to; the JSON of `-o json`.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Whose recording it is.
    pub node: Option<NodeName>,
    /// The version of the agent that recorded, where it is not ours.
    pub recorded_by: Option<String>,
    /// Its first moment.
    pub begins: Wall,
    /// Its last.
    pub ends: Wall,
    /// Steps replayed.
    pub steps: u64,
    /// Entries that the recording itself says it lacks.
    pub dropped: u64,
    /// Tails that could not be read.
    pub damaged: Vec<String>,
    /// Every decision, in order.
    pub decisions: Vec<Decided>,
    /// Whether every decision, and the state at every checkpoint, was the one recorded.
    pub identical: bool,
    /// The first that was not.
    pub difference: Option<String>,
    /// How things stood at the moment asked for.
    pub at: Option<Picture>,
}

/// A decision and when it was made.
#[derive(Debug, Serialize)]
pub struct Decided {
    /// When, by the recorded host's clock.
    pub at: Wall,
    /// What.
    pub decision: String,
}

/// A node at one moment.
#[derive(Debug, Serialize)]
pub struct Picture {
    /// When.
    pub at: Wall,
    /// Its table.
    pub members: Vec<MemberView>,
    /// Its routes.
    pub routes: Vec<RouteView>,
    /// Each service explained.
    pub explain: Vec<ExplainView>,
    /// Its incidents.
    pub incidents: Vec<IncidentView>,
}

/// The recordings of a path.
struct Tape {
    entries: Vec<Entry>,
    damaged: Vec<String>,
}

/// Runs what stands at `path`.
pub fn run(path: &Path, at: Option<Moment>) -> Result<Outcome, Failure> {
    let Tape { entries, damaged } = read(path)?;
    replay(entries, damaged, at).map_err(|why| {
        let what = format!("{} cannot be replayed: {why}", path.display());
        Failure::new(Exit::Data, what, "is a file of the ring missing before this one?")
    })
}

/// The wall time of each entry that has one.
fn moments(entries: &[Entry]) -> Vec<Wall> {
    let mut clock = Clock::default();
    let mut moments = Vec::new();
    for entry in entries {
        match entry {
            Entry::Checkpoint(c) => {
                clock = c.clock();
                moments.push(clock.wall(c.at()));
            }
            Entry::Step(step) => moments.push(clock.wall(step.now)),
            Entry::Gap { .. } => {}
        }
    }
    moments
}

fn replay(
    entries: Vec<Entry>,
    damaged: Vec<String>,
    at: Option<Moment>,
) -> Result<Outcome, flight::Unplayable> {
    let moments = moments(&entries);
    let begins = moments.first().copied().unwrap_or_default();
    let ends = moments.last().copied().unwrap_or_default();
    let stop = at.map(|at| at.wall(begins, ends));
    let mut outcome = Outcome {
        node: None,
        recorded_by: None,
        begins,
        ends,
        steps: 0,
        dropped: 0,
        damaged,
        decisions: Vec::new(),
        identical: true,
        difference: None,
        at: None,
    };
    let mut replay = Replay::new();
    let mut clock = Clock::default();
    for entry in entries {
        let now = match &entry {
            Entry::Checkpoint(c) => {
                clock = c.clock();
                outcome.node = Some(c.node().clone());
                let other = c.software() != env!("CARGO_PKG_VERSION");
                outcome.recorded_by = other.then(|| c.software().to_owned());
                clock.wall(c.at())
            }
            Entry::Step(step) => clock.wall(step.now),
            Entry::Gap { .. } => Wall(0),
        };
        if stop.is_some_and(|stop| now > stop) {
            break;
        }
        let lines = replay.feed(entry)?;
        let decided = lines.into_iter().map(|decision| Decided { at: now, decision });
        outcome.decisions.extend(decided);
    }
    outcome.steps = replay.steps();
    outcome.dropped = replay.dropped();
    outcome.difference = replay.difference().map(|d| words(d, clock));
    outcome.identical = outcome.difference.is_none();
    outcome.at = stop.and_then(|stop| picture(&replay, stop));
    Ok(outcome)
}

fn picture(replay: &Replay, at: Wall) -> Option<Picture> {
    let (node, now) = replay.node()?;
    let routes = node.routes_view();
    let explain = routes.iter().filter_map(|r| node.explain_view(&r.service, now)).collect();
    Some(Picture {
        at,
        members: node.members_view(now),
        routes,
        explain,
        incidents: node.incidents_view(),
    })
}

fn words(difference: &Difference, clock: Clock) -> String {
    let at = utc_exact(clock.wall(difference.at()));
    match difference {
        Difference::Decision { step, recorded, replayed, .. } => {
            let list = |lines: &[String]| match lines {
                [] => "nothing".to_owned(),
                lines => lines.join("\n    "),
            };
            format!(
                "at {at}, in step {step}\n  recorded:\n    {}\n  replayed:\n    {}",
                list(recorded),
                list(replayed)
            )
        }
        Difference::Verdicts { step, .. } => {
            format!("at {at}, in step {step}: other signatures were judged than were recorded")
        }
        Difference::State { .. } => {
            format!("at {at}: every decision is alike, the state at the checkpoint is not")
        }
    }
}

// ---- reading ---------------------------------------------------------------------------------------

fn read(path: &Path) -> Result<Tape, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(
            Exit::NoInput,
            format!("cannot read {}: {e}", path.display()),
            "name a file or directory of the flight recorder (STATE_DIR/flight) or a debug bundle; the \
             agent's state directory is for its user alone",
        )
    };
    let is_directory = std::fs::metadata(path).map_err(failed)?.is_dir();
    let files = match is_directory {
        true => directory(path).map_err(failed)?,
        false => {
            let mut bytes = Vec::new();
            let file = std::fs::File::open(path).map_err(failed)?;
            file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
            match bytes.starts_with(&[0x1f, 0x8b]) {
                true => bundle(&bytes).map_err(failed)?,
                false => vec![(path.to_owned(), bytes)],
            }
        }
    };
    if files.is_empty() {
        let what = format!("{} holds no flight recording", path.display());
        return Err(Failure::new(
            Exit::NoInput,
            what,
            "is the recorder on? [flight] size = \"16MiB\" in agent.toml",
        ));
    }
    join(files)
}

fn join(files: Vec<(PathBuf, Vec<u8>)>) -> Result<Tape, Failure> {
    let mut tape = Tape { entries: Vec::new(), damaged: Vec::new() };
    for (name, bytes) in files {
        let recording = flight::read(&bytes).map_err(|why| {
            let what = format!("{}: {why}", name.display());
            Failure::new(Exit::Data, what, "")
        })?;
        tape.entries.extend(recording.entries);
        if let Some(Damage { offset, bytes, why }) = recording.damage {
            let name = name.display();
            tape.damaged
                .push(format!("{name}: {bytes} bytes from {offset} on are not read: {why}"));
            // Steps are missing before what the next file begins with.
            tape.entries.push(Entry::Gap { dropped: 0 });
        }
    }
    Ok(tape)
}

fn is_recording(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "flight")
}

fn directory(path: &Path) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.path());
    }
    names.retain(|name| is_recording(name));
    names.sort();
    let read = |name: PathBuf| std::fs::read(&name).map(|bytes| (name, bytes));
    names.into_iter().map(read).collect()
}

fn bundle(bytes: &[u8]) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut archive = tar::Archive::new(GzDecoder::new(bytes).take(MAX_FILE));
    let mut files = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if is_recording(&path) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            files.push((path, bytes));
        }
    }
    files.sort();
    Ok(files)
}

// ---- printing --------------------------------------------------------------------------------------

/// For people: the decisions, or with `--at` how things stood; and whether all was alike.
pub fn text(outcome: &Outcome, page: Page) -> String {
    let mut text = String::new();
    match &outcome.at {
        Some(picture) => text.push_str(&standing(picture, page)),
        None => {
            for Decided { at, decision } in &outcome.decisions {
                text.push_str(&format!("{}  {decision}\n", utc_exact(*at)));
            }
        }
    }
    let node = outcome.node.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string);
    text.push_str(&format!(
        "\n{node}, {} to {}: {} steps, {} decisions\n",
        utc_exact(outcome.begins),
        utc_exact(outcome.ends),
        outcome.steps,
        outcome.decisions.len()
    ));
    for damage in &outcome.damaged {
        text.push_str(&format!("damaged: {damage}\n"));
    }
    if outcome.dropped > 0 {
        let n = outcome.dropped;
        text.push_str(&format!(
            "gaps: {n} steps were not recorded; the replay went on behind them\n"
        ));
    }
    if let Some(version) = &outcome.recorded_by {
        let ours = env!("CARGO_PKG_VERSION");
        text.push_str(&format!(
            "recorded by version {version}, replayed by {ours}: a difference may be the versions'\n"
        ));
    }
    match &outcome.difference {
        None => text.push_str("identical: the replay decided what was recorded\n"),
        Some(difference) => text.push_str(&format!("DIFFERS {difference}\n")),
    }
    text
}

fn standing(picture: &Picture, page: Page) -> String {
    // Ages are those of the moment, not of today.
    let page = Page { now: picture.at, ..page };
    let mut text = format!("at {}\n\n", utc_exact(picture.at));
    text.push_str(&show::members(&picture.members, page));
    text.push('\n');
    text.push_str(&show::routes(&picture.routes, page));
    for explain in &picture.explain {
        text.push('\n');
        text.push_str(&show::explain(explain, page));
    }
    text
}

#[cfg(test)]
mod tests;
