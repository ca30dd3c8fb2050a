//! What can go wrong in a bench, apart from a disappointing figure.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::lab::LabError;

/// Why a bench, or one pair in it, gave no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A program could not be had, started or waited for.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A certificate could not be made.
    #[error("cannot make a certificate for the bench: {0}")]
    Certificate(String),
    /// A peer's configuration names something nobody filled in.
    #[error("{file}: nothing was given for {placeholder}; add it where the pair is started")]
    Template {
        /// The template.
        file: String,
        /// The placeholder.
        placeholder: String,
    },
    /// The client could not measure.
    #[error("client against {target}: {reason}")]
    Client {
        /// Whom it called.
        target: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// A pair does not do what it is compared for.
    #[error("not comparable: {0}")]
    NotComparable(String),
    /// Asked for a build that nobody named.
    #[error(
        "there is no earlier build to measure; name the directory of its binaries with --before"
    )]
    NoBefore,
    /// No pair gave a figure.
    #[error("nothing was measured: see above why not")]
    Nothing,
    /// Everything was measured, and is not as it should be.
    #[error("{0}: see above")]
    Judged(String),
    /// A result could not be written.
    #[error("cannot write {path}: {source}; choose another directory with --out")]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
}
