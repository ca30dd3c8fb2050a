//! placeholder
use std::path::{Path,PathBuf};
/// Why a file of the state directory could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// a
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    std::fs::write(path, bytes).map_err(|source| DiskError::Io{what:"write", path: path.into(), source})
}
pub(crate) fn make_private_directory(path: &Path) -> Result<(), DiskError> {
    std::fs::create_dir_all(path).map_err(|source| DiskError::Io{what:"make", path: path.into(), source})
}
