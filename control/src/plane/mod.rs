//! The control plane's operations: join, renew, create a token, apply a policy.
//!
//! Owns the authority, the store and our identity, and is the only writer of all three. Knows nothing
//! of HTTP: what comes in is checked values, what goes out is a result or a refusal with its reason.
//! Every refusal is counted and written to the log as an audit line here, so that no way in can forget
//! it, and leaves everything as it was. Calls may block on the disk.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hearth_proto::api::{ControlStatus, Enrolment, JoinRequest, RenewRequest, TokenAnswer};
use hearth_proto::document::{Content, Document, DocumentKind, DocumentRefused, SignedDocument};
use hearth_proto::ids::{Identity, NodeName};
use hearth_proto::settings::SettingsError;
use hearth_proto::time::Wall;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::authority::{Authority, AuthorityError, Issued};
use crate::keyring::{Holder, Own};
use crate::limit::{Denied, Limiter, Source};
use crate::metrics::Metrics;
use crate::moment;
use crate::store::{AgentRecord, CertificateRecord, SpendError, Store, StoreError};
use crate::token::{self, NoRandom, SecretHash, TokenRecord, TokenRefused};

mod apply;
#[cfg(test)]
mod tests;

/// Shortest life of a join token.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// Longest life of a join token: a secret that lies about for longer is found.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 86_400);
/// How far ahead of our newest policy version a reported one may be. After a restore from a backup the
/// mesh is ahead; a member that claims absurd numbers must not use up the numbers.
const CREDIBLE_LEAD: u64 = 10_000;

/// Why a join or a renewal was refused. Nothing changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EnrolRefused {
    /// Too many refusals from there.
    #[error("too many refused attempts from this address")]
    Limited(Denied),
    /// The token is not good for this name.
    #[error("{0}")]
    Token(TokenRefused, NodeName),
    /// A renewal without a client certificate.
    #[error("a renewal needs the present certificate as TLS client certificate")]
    NoCertificate,
    /// A renewal by somebody who is no node.
    #[error("a renewal is for nodes; the certificate shown is of {0}")]
    NotANode(String),
    /// The request for a certificate is not good.
    #[error("{0}")]
    Request(AuthorityError),
    /// The mesh address is none.
    #[error("mesh_address is {0:?}, which is no address with a port")]
    Address(String),
    /// Our own fault.
    #[error("{0}")]
    Failed(String),
}

impl EnrolRefused {
    /// One word for the counter's label and the audit line.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Limited(_) => "rate_limited",
            Self::Token(refused, _) => refused.reason(),
            Self::NoCertificate => "no_certificate",
            Self::NotANode(_) => "not_a_node",
            Self::Request(_) => "csr",
            Self::Address(_) => "mesh_address",
            Self::Failed(_) => "internal",
        }
    }
}

/// Why somebody is no operator.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OperatorRefused {
    /// Too many refusals from there.
    #[error("too many refused attempts from this address")]
    Limited(Denied),
    /// No token was sent.
    #[error("this needs an operator token")]
    Missing,
    /// The token is nobody's.
    #[error("the operator token is not known here")]
    Unknown,
    /// Our own fault.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a join token was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CreateTokenError {
    /// Its life is out of bounds.
    #[error("a join token lives for {}; from 1 s to 7 days are allowed", moment::length(*.0))]
    Ttl(Duration),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a policy was not applied. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The text is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// It cannot be made a document.
    #[error(transparent)]
    Document(#[from] DocumentRefused),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The control plane.
pub struct Plane {
    authority: Authority,
    holder: Arc<Holder>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    limiter: Mutex<Limiter>,
    /// One change of a document at a time: read, compare, write.
    changing: Mutex<()>,
    last_push: Mutex<Option<Wall>>,
    changed: watch::Sender<u64>,
}

/// A poisoned lock is taken all the same: what it guards is whole after each statement.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plane {
    /// Puts the parts together; makes the trust bundle's first version when there is none.
    pub fn new(
        authority: Authority,
        own: Own,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ApplyError> {
        let plane = Self {
            holder: Arc::new(Holder::new(own, &authority)),
            authority,
            store,
            metrics,
            limiter: Mutex::default(),
            changing: Mutex::default(),
            last_push: Mutex::default(),
            changed: watch::Sender::new(0),
        };
        let documents = plane.store.documents()?;
        if !documents.iter().any(|d| d.kind == DocumentKind::Trust) {
            let roots = Content::Trust(vec![plane.authority.root().as_ref().to_vec()]);
            let document = plane.sign(1, moment::now(), String::new(), roots)?;
            plane.store.put_document(&document, None)?;
        }
        plane.metrics.policy_version(plane.store.policy(None)?.map_or(0, |p| p.version));
        plane.metrics.certificate_expires(plane.holder.own().expires());
        Ok(plane)
    }

    /// The authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Our identity.
    pub fn holder(&self) -> &Arc<Holder> {
        &self.holder
    }

    /// The store, to be read.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Wakes whoever brings documents to agents.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn sign(
        &self,
        version: u64,
        issued: Wall,
        source: String,
        content: Content,
    ) -> Result<SignedDocument, DocumentRefused> {
        let document = Document { version, issued, source, content };
        let keyring = self.holder.keyring();
        SignedDocument::sign(&document, self.holder.own().name().clone(), &keyring)
    }

    /// Lets a node in: its token is spent and its key certified, both or neither.
    pub fn join(
        &self,
        request: &JoinRequest,
        from: IpAddr,
        now: Wall,
    ) -> Result<Enrolment, EnrolRefused> {
        let outcome = self.try_join(request, from, now);
        match &outcome {
            Ok((issued, _)) => {
                self.metrics.join("ok");
                info!(node = %request.name, remote = %from, serial = issued.serial, "node_joined");
            }
            Err(refused) => {
                self.metrics.join(refused.reason());
                if self.charge(refused, from.into(), now) {
                    return outcome.map(|(_, enrolment)| enrolment);
                }
                warn!(
                    audit = true,
                    node = %request.name,
                    remote = %from,
                    reason = refused.reason(),
                    detail = %refused,
                    "join_refused"
                );
            }
        }
        outcome.map(|(_, enrolment)| enrolment)
    }

    fn try_join(
        &self,
        request: &JoinRequest,
        from: IpAddr,
        now: Wall,
    ) -> Result<(Issued, Enrolment), EnrolRefused> {
        lock(&self.limiter).admit(from, now).map_err(EnrolRefused::Limited)?;
        let refused = |why| EnrolRefused::Token(why, request.name.clone());
        let failed = |e: StoreError| EnrolRefused::Failed(e.to_string());
        // The token first: who has none does not get to have requests parsed and signed.
        let hash =
            token::read_join_token(&request.token, &self.authority.root_hash()).map_err(refused)?;
        let record = self.store.token(&hash).map_err(failed)?;
        let record = record.ok_or_else(|| refused(TokenRefused::Unknown))?;
        record.check(&request.name, now).map_err(refused)?;
        let agent = agent(&request.name, &request.mesh_address, now)?;
        let issued = self.issue(&request.csr_pem, &request.name, now)?;
        let certificate = certificate(&issued, &request.name, "join", from, now);
        let enrolment = self.enrolment(&issued, now).map_err(failed)?;
        self.store.spend(&hash, &certificate, agent.as_ref()).map_err(|e| match e {
            SpendError::Refused(why) => refused(why),
            SpendError::Store(e) => failed(e),
        })?;
        Ok((issued, enrolment))
    }

    /// Certifies a key of a node that proved itself by its present certificate.
    pub fn renew(
        &self,
        request: &RenewRequest,
        client: Option<&Identity>,
        from: IpAddr,
        now: Wall,
    ) -> Result<Enrolment, EnrolRefused> {
        let payer = match client {
            Some(Identity::Node(node)) => Source::Member(node.clone()),
            _ => from.into(),
        };
        let outcome = self.try_renew(request, client, &payer, from, now);
        let name = client.map_or_else(|| "none".to_owned(), Identity::to_string);
        match &outcome {
            Ok((issued, _)) => {
                self.metrics.renewal("ok");
                info!(client = name, remote = %from, serial = issued.serial, "certificate_renewed");
            }
            Err(refused) => {
                self.metrics.renewal(refused.reason());
                if self.charge(refused, payer, now) {
                    return outcome.map(|(_, enrolment)| enrolment);
                }
                warn!(
                    audit = true,
                    client = name,
                    remote = %from,
                    reason = refused.reason(),
                    detail = %refused,
                    "renewal_refused"
                );
            }
        }
        outcome.map(|(_, enrolment)| enrolment)
    }

    fn try_renew(
        &self,
        request: &RenewRequest,
        client: Option<&Identity>,
        payer: &Source,
        from: IpAddr,
        now: Wall,
    ) -> Result<(Issued, Enrolment), EnrolRefused> {
        lock(&self.limiter).admit(payer.clone(), now).map_err(EnrolRefused::Limited)?;
        let node = match client {
            Some(Identity::Node(node)) => node,
            Some(other) => return Err(EnrolRefused::NotANode(other.to_string())),
            None => return Err(EnrolRefused::NoCertificate),
        };
        let failed = |e: StoreError| EnrolRefused::Failed(e.to_string());
        let agent = agent(node, &request.mesh_address, now)?;
        let issued = self.issue(&request.csr_pem, node, now)?;
        let certificate = certificate(&issued, node, "renew", from, now);
        let enrolment = self.enrolment(&issued, now).map_err(failed)?;
        self.store.renewed(&certificate, agent.as_ref()).map_err(failed)?;
        Ok((issued, enrolment))
    }

    /// A refusal costs its source a point, unless it is our own fault or already the limit. True: part
    /// of a flood, not worth a line of its own.
    fn charge(&self, refused: &EnrolRefused, from: Source, now: Wall) -> bool {
        match refused {
            EnrolRefused::Failed(_) => false,
            EnrolRefused::Limited(denied) => !denied.first,
            _ => {
                lock(&self.limiter).refused(from, now);
                false
            }
        }
    }

    fn issue(&self, csr_pem: &str, node: &NodeName, now: Wall) -> Result<Issued, EnrolRefused> {
        self.authority.issue_node(csr_pem, node, now).map_err(|e| match e.is_of_request() {
            true => EnrolRefused::Request(e),
            false => EnrolRefused::Failed(e.to_string()),
        })
    }

    fn enrolment(&self, issued: &Issued, now: Wall) -> Result<Enrolment, StoreError> {
        Ok(Enrolment {
            trust_domain: self.authority.domain().clone(),
            certificate_pem: issued.pem.clone(),
            bundle_pem: self.authority.bundle_pem().to_owned(),
            documents: self.store.documents()?,
            now,
        })
    }

    /// Who holds this operator token.
    pub fn operator(
        &self,
        token: Option<&str>,
        from: IpAddr,
        now: Wall,
    ) -> Result<String, OperatorRefused> {
        let outcome = self.try_operator(token, from, now);
        if let Err(refused) = &outcome {
            self.metrics.operator_refused();
            match refused {
                OperatorRefused::Store(_) => {}
                OperatorRefused::Limited(denied) if !denied.first => return outcome,
                OperatorRefused::Limited(_) => {}
                _ => lock(&self.limiter).refused(from, now),
            }
            warn!(audit = true, remote = %from, reason = %refused, "operator_refused");
        }
        outcome
    }

    fn try_operator(
        &self,
        token: Option<&str>,
        from: IpAddr,
        now: Wall,
    ) -> Result<String, OperatorRefused> {
        lock(&self.limiter).admit(from, now).map_err(OperatorRefused::Limited)?;
        let hash = SecretHash::of(token.ok_or(OperatorRefused::Missing)?.as_bytes());
        // Every record is compared, each in constant time: nothing is learnt from how long it takes.
        let mut found = None;
        for record in self.store.operators()? {
            if hash.matches(&record.hash) {
                found = Some(record.name);
            }
        }
        found.ok_or(OperatorRefused::Unknown)
    }

    /// Makes a one-time token by which `node` may join within `ttl`.
    pub fn create_token(
        &self,
        node: &NodeName,
        ttl: Duration,
        by: &str,
        now: Wall,
    ) -> Result<TokenAnswer, CreateTokenError> {
        create_token(self.store.as_ref(), &self.authority, node, ttl, by, now)
    }

    /// Notes that a push reached an agent, which said who else is there.
    pub fn pushed(&self, members: &[AgentRecord], now: Wall) -> Result<(), StoreError> {
        *lock(&self.last_push) = Some(now);
        self.metrics.pushed(now);
        let newest = self.store.policy(None)?.map_or(0, |p| p.version);
        let credible = |a: &&AgentRecord| a.policy_version <= newest.saturating_add(CREDIBLE_LEAD);
        let members: Vec<AgentRecord> = members.iter().filter(credible).cloned().collect();
        self.store.saw(&members)?;
        let known = self.store.agents()?;
        let current = known.iter().filter(|a| a.policy_version >= newest).count();
        self.metrics.agents(known.len(), current);
        Ok(())
    }

    /// The API's status.
    pub fn status(&self) -> Result<ControlStatus, StoreError> {
        let agents = self.store.agents()?;
        Ok(ControlStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: self.authority.domain().clone(),
            policy_version: self.store.policy(None)?.map_or(0, |p| p.version),
            last_push: *lock(&self.last_push),
            nodes: agents.into_iter().map(|a| (a.node, a.policy_version)).collect(),
        })
    }
}

/// Makes a join token and remembers its hash; also used without a running daemon.
pub fn create_token(
    store: &dyn Store,
    authority: &Authority,
    node: &NodeName,
    ttl: Duration,
    by: &str,
    now: Wall,
) -> Result<TokenAnswer, CreateTokenError> {
    if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
        return Err(CreateTokenError::Ttl(ttl));
    }
    let (text, hash) = token::new_join_token(&authority.root_hash())?;
    let expires = moment::after(now, ttl);
    let (node, by) = (node.clone(), by.to_owned());
    let record = TokenRecord { node, created: now, by, expires, used: None };
    store.add_token(&hash, &record)?;
    info!(node = %record.node, by = record.by, expires = moment::utc(expires), "token_created");
    Ok(TokenAnswer { token: text, expires })
}

/// The agent as it says where it is. An address nobody can dial is not remembered, and no reason to
/// refuse: gossip brings the agent what it needs.
fn agent(node: &NodeName, address: &str, now: Wall) -> Result<Option<AgentRecord>, EnrolRefused> {
    let parsed: SocketAddr =
        address.parse().map_err(|_| EnrolRefused::Address(address.chars().take(100).collect()))?;
    if parsed.ip().is_unspecified() || parsed.port() == 0 {
        return Ok(None);
    }
    let (node, address) = (node.clone(), parsed.to_string());
    Ok(Some(AgentRecord { node, address, policy_version: 0, seen: now }))
}

fn certificate(
    issued: &Issued,
    node: &NodeName,
    cause: &str,
    from: IpAddr,
    now: Wall,
) -> CertificateRecord {
    CertificateRecord {
        serial: issued.serial.clone(),
        node: node.clone(),
        issued: now,
        expires: issued.expires,
        cause: cause.to_owned(),
        from: from.to_string(),
    }
}
