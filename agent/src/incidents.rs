//! Incidents that survive a restart: a bounded file of the records that the core made of them.
//!
//! One line per record: a checksum, a space, the record as JSON (`hearth_proto::view::IncidentView`, wall
//! times), so that a person can read it with what is at hand. A record that changes is appended again, the
//! later line counts. When the file has twice what is kept, it is written anew. A line that does not hold,
//! such as the last one of a process that died, is left out and counted.
//!
//! Whoever has something to keep hands it over and goes on; one thread writes. What does not fit into its
//! queue is in memory, not on disk, and logged.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use hearth_proto::view::IncidentView;
use ring::digest::{SHA256, digest};

use crate::disk::{DiskError, write_atomic};

/// The file within the state directory.
pub const FILE: &str = "incidents.log";
/// Records kept; the oldest go first.
pub const MAX_RECORDS: usize = 1_000;
/// Bytes of them, as lines.
pub const MAX_BYTES: usize = 4 << 20;
/// Records that may wait for the disk.
const QUEUE: usize = 256;
/// Hex digits of the checksum.
const SUM: usize = 16;

/// The records kept. Clones are handles.
#[derive(Clone)]
pub struct Incidents(Arc<Shared>);

struct Shared {
    kept: Mutex<Kept>,
    to: Option<SyncSender<String>>,
}

/// What is kept, oldest first, with the length of each line.
#[derive(Default)]
struct Kept {
    records: VecDeque<(IncidentView, usize)>,
    bytes: usize,
}

impl Kept {
    /// Puts a record in, in the place of an earlier one of the same incident.
    fn put(&mut self, view: IncidentView, length: usize) {
        let same = |(v, _): &(IncidentView, usize)| v.id == view.id && v.opened == view.opened;
        match self.records.iter().position(same) {
            Some(i) => {
                self.bytes = self.bytes - self.records[i].1 + length;
                self.records[i] = (view, length);
            }
            None => {
                self.bytes += length;
                self.records.push_back((view, length));
            }
        }
        while self.records.len() > MAX_RECORDS || self.bytes > MAX_BYTES && self.records.len() > 1 {
            if let Some((_, length)) = self.records.pop_front() {
                self.bytes -= length;
            }
        }
    }
}

impl Incidents {
    /// What is on disk, and a thread that adds to it. A file that cannot be read counts as empty; a thread
    /// that cannot start means that nothing is added.
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let (kept, damaged) = match fs::read(&path) {
            Ok(bytes) => load(&bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => (Kept::default(), 0),
            Err(error) => {
                tracing::error!(%error, file = %path.display(), "incidents of earlier starts not read");
                (Kept::default(), 0)
            }
        };
        if damaged > 0 {
            tracing::warn!(damaged, file = %path.display(), "damaged incident records left out");
        }
        let (to, from) = sync_channel(QUEUE);
        let lines = kept.records.iter().map(|(view, _)| line(view)).collect();
        let writer = Writer { path, lines, appended: usize::MAX };
        let thread = std::thread::Builder::new().name("hearth-incidents".into());
        let started = thread.spawn(move || {
            crate::priority::ordinary();
            writer.run(&from);
        });
        if let Err(error) = &started {
            tracing::error!(%error, "no thread for incident records; they are kept in memory only");
        }
        Self(Arc::new(Shared { kept: Mutex::new(kept), to: started.is_ok().then_some(to) }))
    }

    /// Keeps a record, or the newest state of one. Never waits.
    pub fn keep(&self, view: IncidentView) {
        let line = line(&view);
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(view, line.len());
        drop(kept);
        if self.0.to.as_ref().is_some_and(|to| to.try_send(line).is_err()) {
            tracing::warn!("an incident record is not on disk: the disk is behind");
        }
    }

    /// All that are kept, newest first; `live` is what the core remembers and knows better.
    pub fn with(&self, live: Vec<IncidentView>) -> Vec<IncidentView> {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_live = |v: &IncidentView| live.iter().any(|l| l.id == v.id && l.opened == v.opened);
        let past: Vec<IncidentView> =
            kept.records.iter().map(|(v, _)| v).filter(|v| !is_live(v)).cloned().collect();
        drop(kept);
        let mut all = live;
        all.extend(past);
        all.sort_by_key(|v| std::cmp::Reverse(v.opened));
        all
    }

    /// The newest record of an incident, by its short or its trace id.
    pub fn find(&self, id: &str) -> Option<IncidentView> {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |v: &&IncidentView| v.id == id || v.trace_id == id;
        kept.records.iter().rev().map(|(v, _)| v).find(is).cloned()
    }
}

fn sum(json: &str) -> String {
    let digest = digest(&SHA256, json.as_bytes());
    digest.as_ref().iter().take(SUM / 2).map(|b| format!("{b:02x}")).collect()
}

fn line(view: &IncidentView) -> String {
    // A value of texts and numbers can be written as JSON.
    let json = serde_json::to_string(view).unwrap_or_default();
    format!("{} {json}\n", sum(&json))
}

/// What holds of a file, and how many lines do not.
fn load(bytes: &[u8]) -> (Kept, usize) {
    let mut kept = Kept::default();
    let mut damaged = 0;
    for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        match parse(line) {
            Some(view) => kept.put(view, line.len() + 1),
            None => damaged += 1,
        }
    }
    (kept, damaged)
}

fn parse(line: &[u8]) -> Option<IncidentView> {
    let (stated, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    if stated != sum(json) {
        return None;
    }
    serde_json::from_str(json).ok()
}

struct Writer {
    path: PathBuf,
    /// What the file should hold: the lines that are kept, and what was appended since.
    lines: VecDeque<String>,
    /// Bytes in the file that was written by this process; more than any bound before it was.
    appended: usize,
}

impl Writer {
    fn run(mut self, from: &Receiver<String>) {
        for line in from {
            if let Err(error) = self.keep(line) {
                tracing::error!(%error, "incident record not written");
                // Whatever the file holds now: with the next record it is written anew.
                self.appended = usize::MAX;
            }
        }
    }

    fn keep(&mut self, line: String) -> Result<(), DiskError> {
        self.lines.push_back(line);
        if self.appended.saturating_add(self.lines.back().map_or(0, String::len)) > 2 * MAX_BYTES
            || self.lines.len() > 2 * MAX_RECORDS
        {
            return self.compact();
        }
        let line = self.lines.back().map_or("", String::as_str);
        let failed = |e| DiskError::new("write", &self.path, e);
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(failed)?;
        file.write_all(line.as_bytes()).and_then(|()| file.sync_data()).map_err(failed)?;
        self.appended += line.len();
        Ok(())
    }

    /// Writes the file anew, with what is kept.
    fn compact(&mut self) -> Result<(), DiskError> {
        let text: String = self.lines.iter().map(String::as_str).collect();
        let (kept, _) = load(text.as_bytes());
        self.lines = kept.records.iter().map(|(view, _)| line(view)).collect();
        let text: String = self.lines.iter().map(String::as_str).collect();
        write_atomic(&self.path, text.as_bytes())?;
        self.appended = text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::ids::ServiceName;
    use hearth_proto::time::Wall;

    use super::*;
    use crate::disk::tests::Scratch;

    fn record(n: u64, stable: bool) -> IncidentView {
        IncidentView {
            id: format!("ledger-{n:08x}"),
            trace_id: format!("{n:032x}"),
            service: ServiceName::parse("ledger").unwrap(),
            lost: "ledger@h1".into(),
            reason: "silent".into(),
            opened: Wall(n),
            stable: stable.then_some(Wall(n + 1)),
            recovered: None,
            activated: None,
            policy_version: 1,
            drill: None,
            inputs: Vec::new(),
            spans: Vec::new(),
            timeline: Vec::new(),
        }
    }

    fn writer(scratch: &Scratch) -> Writer {
        Writer { path: scratch.0.join(FILE), lines: VecDeque::new(), appended: usize::MAX }
    }

    fn reopened(scratch: &Scratch) -> (Vec<IncidentView>, usize) {
        let (kept, damaged) = load(&fs::read(scratch.0.join(FILE)).unwrap());
        (kept.records.into_iter().map(|(v, _)| v).collect(), damaged)
    }

    #[test]
    fn incidents_survive_a_restart_in_their_newest_state() {
        let scratch = Scratch::new();
        let mut writer = writer(&scratch);
        for (n, stable) in [(1, false), (2, false), (1, true)] {
            writer.keep(line(&record(n, stable))).unwrap();
        }
        assert_eq!(reopened(&scratch), (vec![record(1, true), record(2, false)], 0));
        let open = Incidents::open(&scratch.0);
        assert_eq!(open.find("ledger-00000001"), Some(record(1, true)));
        assert_eq!(open.find(&format!("{:032x}", 2)), Some(record(2, false)));
        let all = open.with(vec![record(2, true), record(3, false)]);
        assert_eq!(all, [record(3, false), record(2, true), record(1, true)]);
    }

    #[test]
    fn a_line_that_was_cut_or_changed_is_left_out_and_counted() {
        let scratch = Scratch::new();
        let mut writer = writer(&scratch);
        for n in 1..=3 {
            writer.keep(line(&record(n, true))).unwrap();
        }
        let path = scratch.0.join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        let changed = text.replacen("\"ledger-00000002\"", "\"ledger-00000009\"", 1);
        fs::write(&path, &changed[..changed.len() - 4]).unwrap();
        assert_eq!(reopened(&scratch), (vec![record(1, true)], 2));
        // The next start appends behind the damage, and begins with a line of its own.
        let mut next = self::writer(&scratch);
        next.keep(line(&record(4, true))).unwrap();
        assert_eq!(reopened(&scratch).0, [record(4, true)], "the file was written anew");
    }

    #[test]
    fn the_file_is_bounded_by_count_and_by_bytes() {
        let scratch = Scratch::new();
        let mut writer = writer(&scratch);
        writer.appended = 0;
        writer.lines = (0..2 * MAX_RECORDS as u64).map(|n| line(&record(n, true))).collect();
        writer.keep(line(&record(9_999, true))).unwrap();
        let (kept, _) = reopened(&scratch);
        assert_eq!(kept.len(), MAX_RECORDS);
        assert_eq!(kept.last(), Some(&record(9_999, true)));
        let mut kept = Kept::default();
        let large = IncidentView { reason: "x".repeat(MAX_BYTES / 4), ..record(1, true) };
        for n in 0..20 {
            let view = IncidentView { opened: Wall(n), ..large.clone() };
            let length = line(&view).len();
            kept.put(view, length);
        }
        assert!(kept.bytes <= MAX_BYTES && kept.records.len() == 3, "{}", kept.records.len());
    }
}
