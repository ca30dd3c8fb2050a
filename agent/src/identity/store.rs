//! The identity on disk: `identity/identity.pem` (key and certificate in one file, so that they can
//! never be of two different renewals) and `identity/bundle.pem` (the roots).
//!
//! Files are 0600 in directories 0700. Wider permissions are refused with the command that mends them:
//! a key that others could read has to be thought about by a person.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::disk::{self, DiskError};

const IDENTITY: &str = "identity.pem";
const BUNDLE: &str = "bundle.pem";
const PENDING: &str = "pending-key.pem";
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";
const CERTIFICATE_BEGINS: &str = "-----BEGIN CERTIFICATE-----";

/// Why the identity could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Others may read what only the agent may.
    #[error(
        "{} may be used by others than its owner (mode {mode:04o}); it holds this node's key\n  hint: \
         chmod {wanted:04o} {}   (and, if somebody may have read it: join again with a new token)",
        path.display(), path.display()
    )]
    TooOpen {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it must be.
        wanted: u32,
    },
    /// A file could not be read.
    #[error(
        "cannot read {}: {source}\n  hint: it must be readable by the user the agent runs as",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is incomplete.
    #[error(
        "{} {what}\n  hint: move {} away and start the agent with a new join token",
        path.display(), path.parent().unwrap_or(path).display()
    )]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// What is the matter.
        what: &'static str,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] DiskError),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] super::KeyError),
}

/// What an identity consists of.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The key, PKCS #8.
    pub(crate) key_pem: String,
    /// The certificate and, after it, what it needs to reach a root.
    pub(crate) certificate_pem: String,
    /// The roots.
    pub(crate) bundle_pem: String,
}

/// The place of an identity.
#[derive(Clone, Debug)]
pub(crate) struct IdentityStore {
    state: PathBuf,
    directory: PathBuf,
}

impl IdentityStore {
    /// The identity below `state_dir`. Touches nothing.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { state: state_dir.to_owned(), directory: state_dir.join("identity") }
    }

    /// `state_dir/identity`.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads it; `None` where there is none.
    pub(crate) fn read(&self) -> Result<Option<Kept>, StoreError> {
        let path = self.directory.join(IDENTITY);
        for directory in [&self.state, &self.directory] {
            if directory.exists() {
                closed(directory, 0o700)?;
            }
        }
        let Some(identity) = read_if_there(&path)? else { return Ok(None) };
        closed(&path, 0o600)?;
        let (Some(key), Some(certificate)) =
            (identity.find(KEY_BEGINS), identity.find(CERTIFICATE_BEGINS))
        else {
            return Err(StoreError::Incomplete { path, what: "lacks the key or the certificate" });
        };
        if key > certificate {
            return Err(StoreError::Incomplete { path, what: "must hold the key first" });
        }
        let bundle = self.directory.join(BUNDLE);
        let Some(bundle_pem) = read_if_there(&bundle)? else {
            return Err(StoreError::Incomplete { path: bundle, what: "is missing" });
        };
        Ok(Some(Kept {
            key_pem: identity[key..certificate].to_owned(),
            certificate_pem: identity[certificate..].to_owned(),
            bundle_pem,
        }))
    }

    /// Writes it. The bundle goes first: a new bundle still holds the old root while roots rotate, so a
    /// crash in between leaves a working pair.
    pub(crate) fn write(
        &self,
        key: &str,
        certificate: &str,
        bundle: &str,
    ) -> Result<(), StoreError> {
        self.prepare()?;
        disk::write_atomic(&self.directory.join(BUNDLE), bundle.as_bytes())?;
        let identity = format!("{}\n{}\n", key.trim_end(), certificate.trim_end());
        disk::write_atomic(&self.directory.join(IDENTITY), identity.as_bytes())?;
        Ok(())
    }

    /// The key of a join under way, made once: it is on disk before the token is spent, so that a disk
    /// which cannot be written is found while the token is still good.
    pub(crate) fn pending_key(&self) -> Result<String, StoreError> {
        self.prepare()?;
        let path = self.directory.join(PENDING);
        if let Some(key) = read_if_there(&path)? {
            closed(&path, 0o600)?;
            if key.contains(KEY_BEGINS) {
                return Ok(key);
            }
        }
        let key = super::key::generate()?;
        disk::write_atomic(&path, key.as_bytes())?;
        Ok(key)
    }

    /// Forgets the key of a join that is over.
    pub(crate) fn forget_pending_key(&self) {
        let path = self.directory.join(PENDING);
        if let Err(e) = fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), error = %e, "pending key not removed");
        }
    }

    fn prepare(&self) -> Result<(), StoreError> {
        disk::make_private_directory(&self.state)?;
        disk::make_private_directory(&self.directory)?;
        closed(&self.state, 0o700)?;
        closed(&self.directory, 0o700)
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Read { path: path.to_owned(), source }),
    }
}

/// Refuses what others than the owner may use.
fn closed(path: &Path, wanted: u32) -> Result<(), StoreError> {
    let metadata =
        fs::metadata(path).map_err(|source| StoreError::Read { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(StoreError::TooOpen { path: path.to_owned(), mode, wanted })
}
