//! The flight recorder's disk: what the core's tape holds goes into a bounded ring of files.
//!
//! The driver hands entries over in batches and never waits: what the queue does not take is counted, and
//! the recording says that it lacks it. One thread writes. A file begins with a checkpoint and so is a
//! recording of its own; when the ring is full its oldest file goes. Nothing is synced to the disk: after
//! a crash of the agent the kernel still has what was written, after one of the host the last seconds may
//! be missing, and a damaged tail is cut off by the reader.
//!
//! A disk that fails ends the file; the next checkpoint tries again. The agent goes on meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use hearth_proto::flight::{self, Entry, Recorder};

use crate::disk::DiskError;

/// The directory within the state directory.
pub const DIRECTORY: &str = "flight";
/// How its files end.
pub const EXTENSION: &str = "flight";
/// Entries handed over at once, at most.
const BATCH: usize = 64;
/// How long an entry that decided nothing waits for company.
const LINGER: Duration = Duration::from_millis(250);
/// Batches that may wait for the disk: some minutes of a quiet agent.
const QUEUE: usize = 64;
/// After the queue was full so long nothing is handed over: each recording begins with a checkpoint, and a
/// disk that is behind is not helped by many.
const RESUME: Duration = Duration::from_secs(1);
/// A ring has so many files when it is full, so that little is lost with the oldest.
const FILES: u64 = 8;
/// More files than this are never kept, however small they are.
const MAX_FILES: usize = 256;

/// The driver's end.
pub struct Flight {
    to: Option<SyncSender<Vec<Entry>>>,
    batch: Vec<Entry>,
    since: Option<Instant>,
    /// The queue was full: until when nothing is handed over, and how much was not kept by then.
    behind: Option<(Instant, u64)>,
    resume: Duration,
    rotate: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

impl Flight {
    /// Keeps nothing.
    pub fn off() -> Self {
        Self {
            to: None,
            batch: Vec::new(),
            since: None,
            behind: None,
            resume: RESUME,
            rotate: Arc::default(),
            dropped: Arc::default(),
        }
    }

    /// Keeps at most `size` bytes under `state_dir`. The thread ends with this value.
    pub fn start(state_dir: &Path, size: u64) -> io::Result<Self> {
        let (to, from) = sync_channel(QUEUE);
        let rotate = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            directory: state_dir.join(DIRECTORY),
            size,
            rotate: rotate.clone(),
            file: None,
        };
        std::thread::Builder::new().name("hearth-flight".into()).spawn(move || {
            crate::priority::ordinary();
            writer.run(&from);
        })?;
        let mut flight = Self::off();
        (flight.to, flight.rotate) = (Some(to), rotate);
        Ok(flight)
    }

    /// Entries that were not kept so far.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }

    /// Takes what the core's recorder has. Within a turn of the driver: nothing here waits.
    pub fn take(&mut self, node: &mut Recorder) {
        if self.to.is_none() || self.is_behind(node) {
            return;
        }
        let mut decided = false;
        while let Some(entry) = node.poll_entry() {
            decided |= match &entry {
                Entry::Step(step) => !step.decided.is_empty(),
                Entry::Checkpoint(_) | Entry::Gap { .. } => true,
            };
            self.batch.push(entry);
        }
        if self.batch.is_empty() {
            return;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if decided || self.batch.len() >= BATCH || since.elapsed() >= LINGER {
            self.since = None;
            self.hand_over();
        }
        if self.rotate.swap(false, Ordering::Relaxed) {
            node.ask_checkpoint();
        }
    }

    fn hand_over(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let entries = batch.len() as u64;
        let kept = self.to.as_ref().is_some_and(|to| to.try_send(batch).is_ok());
        if !kept {
            self.dropped.fetch_add(entries, Ordering::Relaxed);
            self.behind = Some((Instant::now() + self.resume, entries));
        }
    }

    /// Whether the disk is still given time. When that is over, the recording is told what it lacks.
    fn is_behind(&mut self, node: &mut Recorder) -> bool {
        let Some((until, lost)) = &mut self.behind else { return false };
        while node.poll_entry().is_some() {
            *lost += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        let over = Instant::now() >= *until;
        if over {
            node.lost(*lost);
            self.behind = None;
        }
        true
    }
}

/// What waits goes to the writer, if it still can.
impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(to) = &self.to {
            let _ = to.try_send(std::mem::take(&mut self.batch));
        }
    }
}

struct Writer {
    directory: PathBuf,
    size: u64,
    rotate: Arc<AtomicBool>,
    file: Option<Open>,
}

/// The file that is being written.
struct Open {
    file: File,
    written: u64,
    /// It is long enough: a checkpoint was asked for.
    asked: bool,
    /// When to ask.
    enough: u64,
}

impl Writer {
    fn run(mut self, from: &Receiver<Vec<Entry>>) {
        let mut failing = false;
        for batch in from {
            match self.keep(&batch) {
                Ok(()) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "flight recorder cannot write; the agent goes on without");
                    }
                    // What follows cannot be read without what is missing: a new file, later.
                    self.file = None;
                }
            }
            if self.file.is_none() {
                self.rotate.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Writes a batch. A checkpoint begins a new file.
    fn keep(&mut self, batch: &[Entry]) -> Result<(), DiskError> {
        let mut rest = batch;
        while !rest.is_empty() {
            let is_checkpoint = |e: &Entry| matches!(e, Entry::Checkpoint(_));
            if is_checkpoint(&rest[0]) {
                self.file = Some(self.begin()?);
            }
            let next = rest.iter().skip(1).position(is_checkpoint).map_or(rest.len(), |n| n + 1);
            let (now, later) = rest.split_at(next);
            self.append(now, is_checkpoint(&now[0]))?;
            rest = later;
        }
        Ok(())
    }

    fn append(&mut self, entries: &[Entry], begins: bool) -> Result<(), DiskError> {
        // Steps without the checkpoint before them are of no use.
        let Some(open) = &mut self.file else { return Ok(()) };
        let failed = |e| DiskError::new("write the flight recording in", &self.directory, e);
        let frame = flight::frame(entries).map_err(|e| failed(io::Error::other(e)))?;
        open.file.write_all(&frame).map_err(failed)?;
        open.written += frame.len() as u64;
        if begins {
            // A large table's checkpoint is not written anew for a few steps.
            open.enough = (self.size / FILES).max(2 * open.written);
        }
        if open.written >= open.enough && !std::mem::replace(&mut open.asked, true) {
            self.rotate.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A new file, after making room for it.
    fn begin(&self) -> Result<Open, DiskError> {
        let failed = |e| DiskError::new("write the flight recording in", &self.directory, e);
        crate::disk::make_private_directory(&self.directory)?;
        let files = files(&self.directory).map_err(failed)?;
        let last = files.last().and_then(|path| number(path)).unwrap_or(0);
        self.make_room(files).map_err(failed)?;
        let path = self.directory.join(format!("{:010}.{EXTENSION}", last + 1));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let header = flight::header();
        file.write_all(&header).map_err(failed)?;
        let enough = self.size / FILES;
        Ok(Open { file, written: header.len() as u64, asked: false, enough })
    }

    /// Removes the oldest until the rest, and one more file, fit.
    fn make_room(&self, files: Vec<PathBuf>) -> io::Result<()> {
        let mut sizes = Vec::new();
        for path in files {
            sizes.push((fs::metadata(&path)?.len(), path));
        }
        let room = self.size - self.size / FILES;
        let mut total: u64 = sizes.iter().map(|(size, _)| size).sum();
        let mut count = sizes.len();
        for (size, path) in sizes {
            if total <= room && count < MAX_FILES {
                break;
            }
            fs::remove_file(path)?;
            total -= size;
            count -= 1;
        }
        Ok(())
    }
}

fn number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// The ring's files, oldest first.
pub fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == EXTENSION) && number(&path).is_some() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
