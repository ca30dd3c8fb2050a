//! The store in one redb file. Records are JSON in redb tables: an operator can read them, and a field
//! that is added later does not invalidate what is there.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_proto::api::PolicyVersion;
use hearth_proto::document::{DocumentKind, SignedDocument};
use hearth_proto::time::Wall;
use hearth_proto::wire;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table,
    TableDefinition,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{AgentRecord, CertificateRecord, OperatorRecord, SpendError, Store, StoreError};
use crate::moment;
use crate::token::{SecretHash, TokenRecord, TokenRefused, Use};

type Texts = TableDefinition<'static, &'static str, &'static [u8]>;
type Numbers = TableDefinition<'static, u64, &'static [u8]>;

const TOKENS: Texts = TableDefinition::new("tokens");
const OPERATORS: Texts = TableDefinition::new("operators");
const CERTIFICATES: Texts = TableDefinition::new("certificates");
const DOCUMENTS: Texts = TableDefinition::new("documents");
const AGENTS: Texts = TableDefinition::new("agents");
const POLICIES: Numbers = TableDefinition::new("policies");
const COUNTERS: TableDefinition<'static, &'static str, u64> = TableDefinition::new("counters");

const WITNESSED: &str = "witnessed_policy";

/// Policy versions kept. The oldest go first.
const MAX_POLICIES: u64 = 1_000;
/// Agents kept; more than one gossip cell holds.
const MAX_AGENTS: u64 = 5_000;
/// How long a spent or expired token is remembered, so that a late replay is still told its name.
const KEEP_TOKENS: Duration = Duration::from_secs(30 * 86_400);
/// How long a certificate's record outlives it.
const KEEP_CERTIFICATES: Duration = Duration::from_secs(7 * 86_400);
/// How long an agent that nobody mentions is remembered.
const KEEP_AGENTS: Duration = Duration::from_secs(30 * 86_400);

fn failed(e: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(e.to_string())
}

fn pack<T: Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(failed)
}

fn unpack<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Unreadable(what, e.to_string()))
}

fn kind_key(kind: DocumentKind) -> &'static str {
    match kind {
        DocumentKind::Policy => "policy",
        DocumentKind::Trust => "trust",
        DocumentKind::Revocations => "revocations",
    }
}

/// The store in one redb file.
pub struct Embedded {
    database: Database,
    path: PathBuf,
    file: (u64, u64),
}

/// Which file is at `path`: device and inode.
fn file_at(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|m| (m.dev(), m.ino()))
}

impl Embedded {
    /// Opens the store, makes it if there is none. Only one process at a time may have it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let bad = |e: &dyn std::fmt::Display| StoreError::Open {
            path: path.to_owned(),
            why: e.to_string(),
        };
        // Made here, so that it is never readable for others, not even for a moment.
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| bad(&e))?;
        let database = Database::builder().set_check_integrity_on_open(true).create(path).map_err(
            |e| match e {
                DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(path.to_owned()),
                e => bad(&e),
            },
        )?;
        let txn = database.begin_write().map_err(failed)?;
        for table in [TOKENS, OPERATORS, CERTIFICATES, DOCUMENTS, AGENTS] {
            txn.open_table(table).map_err(failed)?;
        }
        txn.open_table(POLICIES).map_err(failed)?;
        txn.open_table(COUNTERS).map_err(failed)?;
        txn.commit().map_err(failed)?;
        let file = file_at(path).map_err(|e| bad(&e))?;
        Ok(Self { database, path: path.to_owned(), file })
    }

    /// Runs `change` in one write transaction; an error leaves everything as it was.
    fn write<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        // Into a file that was deleted or put aside writes go well, and are gone after the next start: a
        // spent token would be good again.
        if file_at(&self.path).ok() != Some(self.file) {
            return Err(StoreError::Moved(self.path.clone()).into());
        }
        let txn = self.database.begin_write().map_err(failed)?;
        let value = change(&txn)?;
        txn.commit().map_err(failed)?;
        Ok(value)
    }

    fn all<T: DeserializeOwned>(
        &self,
        table: Texts,
        what: &'static str,
    ) -> Result<Vec<T>, StoreError> {
        let txn = self.database.begin_read().map_err(failed)?;
        let table = txn.open_table(table).map_err(failed)?;
        let rows = table.iter().map_err(failed)?;
        rows.map(|row| unpack(what, row.map_err(failed)?.1.value())).collect()
    }
}

fn put<T: Serialize>(
    txn: &redb::WriteTransaction,
    table: Texts,
    key: &str,
    record: &T,
) -> Result<(), StoreError> {
    let bytes = pack(record)?;
    let mut table = txn.open_table(table).map_err(failed)?;
    table.insert(key, bytes.as_slice()).map_err(failed)?;
    Ok(())
}

fn put_agents(txn: &redb::WriteTransaction, agents: &[AgentRecord]) -> Result<(), StoreError> {
    let mut table = txn.open_table(AGENTS).map_err(failed)?;
    let mut highest = 0;
    for agent in agents {
        let known = table.get(agent.node.as_str()).map_err(failed)?.is_some();
        if !known && table.len().map_err(failed)? >= MAX_AGENTS {
            continue;
        }
        highest = highest.max(agent.policy_version);
        let bytes = pack(agent)?;
        table.insert(agent.node.as_str(), bytes.as_slice()).map_err(failed)?;
    }
    raise_witnessed(txn, highest)
}

fn raise_witnessed(txn: &redb::WriteTransaction, version: u64) -> Result<(), StoreError> {
    let mut counters = txn.open_table(COUNTERS).map_err(failed)?;
    let present = counters.get(WITNESSED).map_err(failed)?.map_or(0, |v| v.value());
    if version > present {
        counters.insert(WITNESSED, version).map_err(failed)?;
    }
    Ok(())
}

/// Drops the rows `gone` says are of no use.
fn sweep<T: DeserializeOwned>(
    txn: &redb::WriteTransaction,
    table: Texts,
    gone: impl Fn(&T) -> bool,
) -> Result<(), StoreError> {
    let mut table: Table<'_, &str, &[u8]> = txn.open_table(table).map_err(failed)?;
    // What cannot be read is kept: forgetting it silently would hide a defect.
    table
        .retain(|_, bytes| serde_json::from_slice::<T>(bytes).map_or(true, |r| !gone(&r)))
        .map_err(failed)
}

impl Store for Embedded {
    fn add_token(&self, hash: &SecretHash, record: &TokenRecord) -> Result<(), StoreError> {
        self.write(|txn| put(txn, TOKENS, &hash.hex(), record))
    }

    fn token(&self, hash: &SecretHash) -> Result<Option<TokenRecord>, StoreError> {
        let txn = self.database.begin_read().map_err(failed)?;
        let table = txn.open_table(TOKENS).map_err(failed)?;
        let row = table.get(hash.hex().as_str()).map_err(failed)?;
        row.map(|bytes| unpack("a token", bytes.value())).transpose()
    }

    fn spend(
        &self,
        hash: &SecretHash,
        certificate: &CertificateRecord,
        agent: Option<&AgentRecord>,
    ) -> Result<(), SpendError> {
        self.write(|txn| {
            let key = hash.hex();
            let mut record: TokenRecord = {
                let table = txn.open_table(TOKENS).map_err(failed)?;
                let row = table.get(key.as_str()).map_err(failed)?;
                let row = row.ok_or(TokenRefused::Unknown)?;
                unpack("a token", row.value())?
            };
            record.check(&certificate.node, certificate.issued)?;
            record.used = Some(Use { at: certificate.issued, from: certificate.from.clone() });
            put(txn, TOKENS, &key, &record)?;
            put(txn, CERTIFICATES, &certificate.serial, certificate)?;
            Ok(put_agents(txn, agent.map_or(&[], std::slice::from_ref))?)
        })
    }

    fn renewed(
        &self,
        certificate: &CertificateRecord,
        agent: Option<&AgentRecord>,
    ) -> Result<(), StoreError> {
        self.write(|txn| {
            put(txn, CERTIFICATES, &certificate.serial, certificate)?;
            put_agents(txn, agent.map_or(&[], std::slice::from_ref))
        })
    }

    fn certificates(&self) -> Result<Vec<CertificateRecord>, StoreError> {
        let mut all: Vec<CertificateRecord> = self.all(CERTIFICATES, "a certificate")?;
        all.sort_by_key(|c| c.issued);
        Ok(all)
    }

    fn add_operator(&self, record: &OperatorRecord) -> Result<(), StoreError> {
        self.write(|txn| put(txn, OPERATORS, &record.name, record))
    }

    fn operators(&self) -> Result<Vec<OperatorRecord>, StoreError> {
        self.all(OPERATORS, "an operator")
    }

    fn put_document(
        &self,
        document: &SignedDocument,
        history: Option<&PolicyVersion>,
    ) -> Result<(), StoreError> {
        let bytes = wire::encode_body(document).map_err(failed)?;
        self.write(|txn| {
            let mut table = txn.open_table(DOCUMENTS).map_err(failed)?;
            let key = kind_key(document.kind);
            if let Some(row) = table.get(key).map_err(failed)? {
                let present = decode_document(row.value())?.version;
                if present >= document.version {
                    let (kind, version) = (document.kind, document.version);
                    return Err(StoreError::NotNewer { kind, version, present });
                }
            }
            table.insert(key, bytes.as_slice()).map_err(failed)?;
            let Some(entry) = history else { return Ok(()) };
            let mut policies = txn.open_table(POLICIES).map_err(failed)?;
            policies.insert(entry.version, pack(entry)?.as_slice()).map_err(failed)?;
            while policies.len().map_err(failed)? > MAX_POLICIES {
                policies.pop_first().map_err(failed)?;
            }
            raise_witnessed(txn, entry.version)
        })
    }

    fn documents(&self) -> Result<Vec<SignedDocument>, StoreError> {
        let txn = self.database.begin_read().map_err(failed)?;
        let table = txn.open_table(DOCUMENTS).map_err(failed)?;
        let rows = table.iter().map_err(failed)?;
        rows.map(|row| decode_document(row.map_err(failed)?.1.value())).collect()
    }

    fn policy(&self, version: Option<u64>) -> Result<Option<PolicyVersion>, StoreError> {
        let txn = self.database.begin_read().map_err(failed)?;
        let table = txn.open_table(POLICIES).map_err(failed)?;
        let row = match version {
            Some(version) => table.get(version).map_err(failed)?,
            None => table.last().map_err(failed)?.map(|(_, value)| value),
        };
        row.map(|bytes| unpack("a policy version", bytes.value())).transpose()
    }

    fn policies(&self) -> Result<Vec<PolicyVersion>, StoreError> {
        let txn = self.database.begin_read().map_err(failed)?;
        let table = txn.open_table(POLICIES).map_err(failed)?;
        let rows = table.iter().map_err(failed)?.rev();
        rows.map(|row| unpack("a policy version", row.map_err(failed)?.1.value())).collect()
    }

    fn agents(&self) -> Result<Vec<AgentRecord>, StoreError> {
        self.all(AGENTS, "an agent")
    }

    fn saw(&self, agents: &[AgentRecord]) -> Result<(), StoreError> {
        self.write(|txn| put_agents(txn, agents))
    }

    fn witnessed(&self) -> Result<u64, StoreError> {
        let txn = self.database.begin_read().map_err(failed)?;
        let table = txn.open_table(COUNTERS).map_err(failed)?;
        Ok(table.get(WITNESSED).map_err(failed)?.map_or(0, |v| v.value()))
    }

    fn prune(&self, now: Wall) -> Result<(), StoreError> {
        let old = |since: Wall, keep: Duration| moment::between(since, now) > keep;
        self.write(|txn| {
            sweep(txn, TOKENS, |t: &TokenRecord| old(t.expires, KEEP_TOKENS))?;
            sweep(txn, CERTIFICATES, |c: &CertificateRecord| old(c.expires, KEEP_CERTIFICATES))?;
            sweep(txn, AGENTS, |a: &AgentRecord| old(a.seen, KEEP_AGENTS))
        })
    }
}

fn decode_document(bytes: &[u8]) -> Result<SignedDocument, StoreError> {
    wire::decode_body(bytes).map_err(|e| StoreError::Unreadable("a document", e.to_string()))
}
