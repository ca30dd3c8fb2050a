//! What survives a restart of the control plane.
//!
//! [`Store`] is the small trait the rest is written against; [`Embedded`] keeps it in one redb file.
//! Every method is one transaction: it happens whole or not at all, and has reached the disk when it
//! returns. Reading and writing may block on the disk: async code calls it from a blocking thread.
//! Decides nothing but what must be decided inside a transaction: that a token is spent once, and that
//! a document's version only grows.

use std::path::PathBuf;

use hearth_proto::api::PolicyVersion;
use hearth_proto::document::{DocumentKind, SignedDocument};
use hearth_proto::ids::NodeName;
use hearth_proto::time::Wall;
use serde::{Deserialize, Serialize};

use crate::token::{SecretHash, TokenRecord, TokenRefused};

mod embedded;
#[cfg(test)]
mod tests;

pub use embedded::Embedded;

/// Why the store did not do it. Nothing changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Another process holds it.
    #[error("the store {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// There is none.
    #[error("the store {} is missing", .0.display())]
    Missing(PathBuf),
    /// What is at its path is not what was opened.
    #[error("the store {} was moved or replaced while in use", .0.display())]
    Moved(PathBuf),
    /// It cannot be opened.
    #[error("the store {} cannot be opened: {why}", .path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A read or write failed.
    #[error("the store failed: {0}")]
    Failed(String),
    /// A record cannot be read.
    #[error("the store holds a record of {0} that cannot be read: {1}")]
    Unreadable(&'static str, String),
    /// Somebody else wrote a version first.
    #[error("{kind:?} version {version} is not newer than version {present}, which is stored")]
    NotNewer {
        /// The kind of document.
        kind: DocumentKind,
        /// The version that was to be written.
        version: u64,
        /// The version that is there.
        present: u64,
    },
}

/// Why a join was not recorded. Nothing changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpendError {
    /// The token is not good (any more).
    #[error(transparent)]
    Refused(#[from] TokenRefused),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Serial number, hex.
    pub serial: String,
    /// For which node.
    pub node: NodeName,
    /// When it was issued.
    pub issued: Wall,
    /// End of validity.
    pub expires: Wall,
    /// `join` or `renew`.
    pub cause: String,
    /// From which address it was asked for.
    pub from: String,
}

/// An agent as last heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// The node.
    pub node: NodeName,
    /// Where its mesh port is.
    pub address: String,
    /// Policy version in force on it.
    pub policy_version: u64,
    /// When this was learnt.
    pub seen: Wall,
}

/// An operator's token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRecord {
    /// The operator's name, for the history and the audit lines.
    pub name: String,
    /// SHA-256 of the token, hex.
    pub hash: String,
    /// When it was made.
    pub created: Wall,
}

/// What survives.
pub trait Store: Send + Sync {
    /// Remembers a new join token.
    fn add_token(&self, hash: &SecretHash, record: &TokenRecord) -> Result<(), StoreError>;

    /// A join token.
    fn token(&self, hash: &SecretHash) -> Result<Option<TokenRecord>, StoreError>;

    /// Spends a token for a certificate: checks it again, marks it used and notes certificate and
    /// agent, all in one transaction. Of two that come at once, one is refused as replayed.
    fn spend(
        &self,
        hash: &SecretHash,
        certificate: &CertificateRecord,
        agent: Option<&AgentRecord>,
    ) -> Result<(), SpendError>;

    /// Notes a renewed certificate and where its node is.
    fn renewed(
        &self,
        certificate: &CertificateRecord,
        agent: Option<&AgentRecord>,
    ) -> Result<(), StoreError>;

    /// Certificates issued, oldest first.
    fn certificates(&self) -> Result<Vec<CertificateRecord>, StoreError>;

    /// Remembers an operator.
    fn add_operator(&self, record: &OperatorRecord) -> Result<(), StoreError>;

    /// All operators.
    fn operators(&self) -> Result<Vec<OperatorRecord>, StoreError>;

    /// Puts a document into force, for a policy together with its entry in the history.
    fn put_document(
        &self,
        document: &SignedDocument,
        history: Option<&PolicyVersion>,
    ) -> Result<(), StoreError>;

    /// The documents in force, one of each kind.
    fn documents(&self) -> Result<Vec<SignedDocument>, StoreError>;

    /// A policy version; `None` asks for the newest.
    fn policy(&self, version: Option<u64>) -> Result<Option<PolicyVersion>, StoreError>;

    /// All policy versions, newest first.
    fn policies(&self) -> Result<Vec<PolicyVersion>, StoreError>;

    /// Agents known, by name.
    fn agents(&self) -> Result<Vec<AgentRecord>, StoreError>;

    /// Notes agents as just heard of.
    fn saw(&self, agents: &[AgentRecord]) -> Result<(), StoreError>;

    /// The highest policy version anybody was ever seen with: after a restore from a backup it is
    /// higher than the newest we have.
    fn witnessed(&self) -> Result<u64, StoreError>;

    /// Forgets what is of no use any more at `now`.
    fn prune(&self, now: Wall) -> Result<(), StoreError>;
}
