//! What survives a restart: the state directory and the only way files in it are written.
//!
//! | file | holds |
//! |---|---|
//! | `lock` | locked by the agent that runs; its process id, for people |
//! | `generation` | the last start, in decimal |
//! | `identity/` | key, certificate, trust bundle (owned by [`crate::identity`]) |
//! | `table.bin` | all signed adverts last known |
//! | `documents.bin` | the signed documents in force |
//! | `activations.bin` | how long activations of own endpoints took |
//! | `promises.bin` | to whom leases of exclusive services were promised; without it this node does not vote for a while |
//!
//! Every write is atomic and durable: a temporary file in the same directory, fsync, rename, fsync of the
//! directory. A file that cannot be read is set aside as `NAME.damaged-N` and counts as missing: what it
//! held comes back by gossip. Only an identity is never set aside by the agent. A disk that is full or
//! read-only is an error to the caller, who goes on serving from memory. All calls block for the disk.

mod atomic;
mod records;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hearth_proto::activation::Activations;
use hearth_proto::advert::SignedAdvert;
use hearth_proto::document::SignedDocument;
use hearth_proto::exclusive::Book;
use hearth_proto::ids::{EndpointId, Generation, ServiceName};

use crate::identity::WallClock;

pub use atomic::DiskError;
pub(crate) use atomic::{make_private_directory, write_atomic};

const GENERATION: &str = "generation";
const TABLE: &str = "table.bin";
const DOCUMENTS: &str = "documents.bin";
const ACTIVATIONS: &str = "activations.bin";
const PROMISES: &str = "promises.bin";
/// Damaged files kept per name. One is for a person to look at; a fault that repeats must not fill the
/// disk.
const DAMAGED_KEPT: u32 = 9;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be made, read or locked.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Others may use it.
    #[error(
        "the state directory {} may be used by others than its owner (mode {mode:04o})\n  hint: chmod \
         0700 {}", path.display(), path.display()
    )]
    TooOpen {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another agent runs on it.
    #[error(
        "another agent{} already runs on the state directory {}\n  hint: stop it, or give this one a \
         state_dir of its own", holder.map(|p| format!(" (process {p})")).unwrap_or_default(),
        path.display()
    )]
    Held {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, where it says so.
        holder: Option<u32>,
    },
}

/// The generation of this start could not be written down.
#[derive(Debug, thiserror::Error)]
#[error(
    "generation {} of this start is not on disk: {source}; should the clock run backwards before the \
     next start, peers would not believe this node until it has passed {0}", generation.0
)]
pub struct Unsaved {
    /// What it would have been. Usable where serving matters more.
    pub generation: Generation,
    /// Why it was not written.
    pub source: DiskError,
}

/// The state directory, locked for as long as the value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes (0700) and locks the directory.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        make_private_directory(path)?;
        let io = |what, source| DiskError::new(what, path, source);
        let metadata = fs::metadata(path).map_err(|e| io("read the state directory", e))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(OpenError::TooOpen { path: path.to_owned(), mode });
        }
        let lock = Self::lock(path)?;
        atomic::remove_leftovers(path);
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    fn lock(directory: &Path) -> Result<File, OpenError> {
        let path = directory.join("lock");
        let io = |what, source| DiskError::new(what, &path, source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| io("open the lock file", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who holds it is a courtesy: without it the message still says what is wrong.
                let _ = file.read_to_string(&mut text);
                let holder = text.trim().parse().ok();
                return Err(OpenError::Held { path: directory.to_owned(), holder });
            }
            Err(TryLockError::Error(e)) => return Err(io("lock", e).into()),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| io("write the lock file", e))?;
        Ok(file)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The generation of this start: more than any before, on disk before it returns. `floor` is the
    /// highest generation of ours that the caller knows of from elsewhere (our own advert in the table).
    pub fn next_generation(
        &self,
        clock: &WallClock,
        floor: Generation,
    ) -> Result<Generation, Unsaved> {
        let path = self.path.join(GENERATION);
        let saved = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse::<u64>().unwrap_or_else(|_| {
                self.set_aside(GENERATION, "it is not a number");
                0
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => {
                self.set_aside(GENERATION, &e.to_string());
                0
            }
        };
        let now_ms = clock.now().0 / 1_000;
        let next = Generation(saved.max(floor.0).saturating_add(1).max(now_ms));
        match write_atomic(&path, format!("{}\n", next.0).as_bytes()) {
            Ok(()) => Ok(next),
            Err(source) => Err(Unsaved { generation: next, source }),
        }
    }

    /// All adverts last known. Nothing of them is believed yet: signatures are the core's business.
    pub fn load_table(&self) -> Vec<SignedAdvert> {
        self.load(TABLE)
    }

    /// Replaces the adverts on disk.
    pub fn save_table(&self, adverts: &[SignedAdvert]) -> Result<(), DiskError> {
        self.save(TABLE, adverts)
    }

    /// The documents last in force. Nothing of them is believed yet.
    pub fn load_documents(&self) -> Vec<SignedDocument> {
        self.load(DOCUMENTS)
    }

    /// Replaces the documents on disk.
    pub fn save_documents(&self, documents: &[SignedDocument]) -> Result<(), DiskError> {
        self.save(DOCUMENTS, documents)
    }

    /// How long activations of own endpoints took before this start.
    pub fn load_activations(&self) -> BTreeMap<EndpointId, Activations> {
        self.load(ACTIVATIONS).into_iter().collect()
    }

    /// Replaces what is on disk of that.
    pub fn save_activations(
        &self,
        known: BTreeMap<EndpointId, Activations>,
    ) -> Result<(), DiskError> {
        self.save(ACTIVATIONS, &known.into_iter().collect::<Vec<_>>())
    }

    /// The promises of leases last given. A damaged file counts as none: the node then waits before it votes.
    pub fn load_promises(&self) -> Vec<(ServiceName, Book)> {
        self.load(PROMISES)
    }

    /// Replaces the promises on disk. They are durable when it returns.
    pub fn save_promises(&self, books: &[(ServiceName, Book)]) -> Result<(), DiskError> {
        self.save(PROMISES, books)
    }

    fn load<T: serde::de::DeserializeOwned>(&self, name: &str) -> Vec<T> {
        let path = self.path.join(name);
        match records::read(&path) {
            Ok(found) => found.unwrap_or_default(),
            Err(damage) => {
                self.set_aside(name, &damage.to_string());
                Vec::new()
            }
        }
    }

    fn save<T: serde::Serialize>(&self, name: &str, values: &[T]) -> Result<(), DiskError> {
        let path = self.path.join(name);
        let bytes = records::encode(values)
            .map_err(|e| DiskError::new("encode", &path, io::Error::other(e)))?;
        write_atomic(&path, &bytes)
    }

    /// Moves a damaged file out of the way, so that it can be looked at and the agent can start.
    fn set_aside(&self, name: &str, why: &str) {
        let path = self.path.join(name);
        let free = |n: &u32| !self.path.join(format!("{name}.damaged-{n}")).exists();
        let n = (1..DAMAGED_KEPT).find(free).unwrap_or(DAMAGED_KEPT);
        let aside = self.path.join(format!("{name}.damaged-{n}"));
        let moved = fs::rename(&path, &aside);
        tracing::warn!(
            file = %path.display(),
            why,
            aside = %aside.display(),
            moved = moved.is_ok(),
            "damaged state file set aside; its content comes back from the mesh"
        );
    }
}
