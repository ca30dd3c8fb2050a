//! What is held against what: Hearth as it comes, and its peers in the profiles that people run.

use clap::ValueEnum;
use serde::Serialize;

/// One side of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Hearth, default settings.
    Hearth,
    /// Envoy, HTTP/2, active checks, outlier detection, per-try timeout, priorities.
    EnvoyTuned,
    /// The same, with retries that look at priorities and without a merge window for updates.
    EnvoyBest,
    /// Envoy as common meshes start from: retries where nothing was sent, nothing else.
    EnvoyDefault,
    /// `HAProxy` with checks, redispatch and retries.
    Haproxy,
    /// The same with least connections, a short server timeout, fast and passive checks.
    HaproxyTight,
}

impl Subject {
    /// What a run without a choice measures.
    pub const USUAL: [Self; 5] =
        [Self::Hearth, Self::EnvoyTuned, Self::EnvoyDefault, Self::Haproxy, Self::HaproxyTight];

    /// As it is printed.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Hearth => "Hearth",
            Self::EnvoyTuned => "Envoy tuned",
            Self::EnvoyBest => "Envoy best",
            Self::EnvoyDefault => "Envoy default",
            Self::Haproxy => "HAProxy",
            Self::HaproxyTight => "HAProxy tight",
        }
    }
}
