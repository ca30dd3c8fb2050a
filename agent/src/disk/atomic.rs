//! Writing a file so that after a crash there is either the old content or the new.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const TEMPORARY: &str = ".hearth-tmp-";

/// A file could not be written. What was there before is still there.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}{}", path.display(), hint(source))]
pub struct DiskError {
    /// What was attempted.
    pub what: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl DiskError {
    pub(crate) fn new(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self { what, path: path.to_owned(), source }
    }

    /// Whether the disk, or this user's share of it, is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\n  hint: free some space; the agent goes on serving, but would restart with what was \
             last written"
        }
        io::ErrorKind::PermissionDenied => "\n  hint: it must belong to the user the agent runs as",
        io::ErrorKind::ReadOnlyFilesystem => {
            "\n  hint: mount it writable, or set state_dir to a directory that is"
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "\n  hint: a file stands there or on the way; move it away, or set state_dir to another \
             directory"
        }
        _ => "",
    }
}

/// Replaces `path` by `bytes`, mode 0600: temporary file, fsync, rename, fsync of the directory.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let directory = path.parent().unwrap_or(Path::new("."));
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let temporary = directory.join(format!("{TEMPORARY}{}-{serial}", std::process::id()));
    let written = write_synced(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(directory)?.sync_all());
    written.map_err(|source| {
        // Nothing depends on it: leftovers are removed when the directory is opened.
        let _ = fs::remove_file(&temporary);
        DiskError::new("write", path, source)
    })
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a directory and what leads to it, mode 0700. One that is there is left as it is.
pub(crate) fn make_private_directory(path: &Path) -> Result<(), DiskError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| DiskError::new("make the directory", path, source))
}

/// Removes temporary files of a process that died while writing. Only under the directory's lock.
pub(super) fn remove_leftovers(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            // A leftover that stays does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}
