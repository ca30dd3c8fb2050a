//! Who we are and whom we believe: key, certificate, trust bundle, revocations.
//!
//! Owns the identity of this agent on disk and in memory, the rustls configurations made of it, and the
//! [`Keyring`] the core signs and verifies with. One [`Credentials`] is shared by all of them; a renewed
//! certificate, new roots or revocations are validated, then published atomically, and count from the
//! next handshake or signature on. What does not validate changes nothing.
//!
//! Does not fetch anything (`enrol` does), does not decide what a revocation does to links that are up
//! (the driver cuts them), and never prints or sends the key.

#[cfg(test)]
pub(crate) mod authority;
mod certificate;
mod clock;
mod key;
mod keyring;
mod store;
#[cfg(test)]
mod tests;
mod tls;
mod trust;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use hearth_proto::advert::Keyring;
use hearth_proto::ids::{NodeName, TrustDomain};
use hearth_proto::time::Wall;
use rustls::pki_types::CertificateDer;

pub use certificate::{Refusal, peer_identity};
pub use clock::{WallClock, rfc3339, rfc3339_micros};
pub use key::KeyError;
pub use store::StoreError;
pub use trust::Expected;

pub(crate) use certificate::Facts;
pub(crate) use clock::roughly;
pub(crate) use key::{certificates, generate, signing_request};
pub(crate) use store::IdentityStore;
pub(crate) use tls::{algorithms, provider, refused};
pub(crate) use trust::{Trust, Usage};

use key::Current;
use trust::Moment;

/// Why there is no usable identity, or a new one was not taken. The one in use stays in use.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The files could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the files hold is no identity.
    #[error(
        "the identity in {} is not usable: {why}\n  hint: move the directory away and start the agent \
         with a new join token (hearth token create NODE)", path.display()
    )]
    Unusable {
        /// The identity directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A new certificate was not taken.
    #[error("the new certificate was not taken, the old one stays in use: {0}")]
    NotTaken(String),
    /// New roots were not taken.
    #[error("the new trust bundle was not taken, the old one stays in use: {0}")]
    Bundle(String),
}

/// The agent's identity and trust. Cheap to clone; all clones see a change at once.
#[derive(Clone, Debug)]
pub struct Credentials(Arc<Shared>);

/// What every handshake and signature reads.
pub(crate) struct Shared {
    node: NodeName,
    domain: TrustDomain,
    current: ArcSwap<Current>,
    trust: ArcSwap<Trust>,
    memory: keyring::Memory,
    clock: WallClock,
    observer: ArcSwapOption<Observer>,
    logged: Mutex<Logged>,
    /// Where it is kept; `None` for one that lives in memory only.
    store: Option<IdentityStore>,
    /// Writers take turns, so that none undoes another's change. Readers never take it.
    writing: Mutex<()>,
}

/// Refused handshakes that are logged in one second; all are counted.
const LOGGED_PER_SECOND: u32 = 10;

/// What was logged of the present second.
#[derive(Default)]
struct Logged {
    begun: Option<Instant>,
    refusals: u32,
}

struct Observer(Box<dyn Fn(&Refusal) + Send + Sync>);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("node", &self.node)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Counts a refused handshake, and logs it unless a flood of them would fill the log.
    fn refused(&self, refusal: &Refusal) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.begun.is_none_or(|begun| begun.elapsed() >= Duration::from_secs(1)) {
            let suppressed = logged.refusals.saturating_sub(LOGGED_PER_SECOND);
            if suppressed > 0 {
                tracing::warn!(suppressed, "more handshakes were refused than logged");
            }
            *logged = Logged { begun: Some(Instant::now()), refusals: 0 };
        }
        logged.refusals += 1;
        if logged.refusals <= LOGGED_PER_SECOND {
            tracing::warn!(reason = refusal.reason(), detail = %refusal, "handshake refused");
        }
        drop(logged);
        if let Some(observer) = &*self.observer.load() {
            (observer.0)(refusal);
        }
    }
}

impl Credentials {
    /// Reads the identity kept in `state_dir`. `None`: this node never joined.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, IdentityError> {
        Self::load_with(state_dir, WallClock::system())
    }

    /// [`Self::load`] with another clock.
    pub fn load_with(state_dir: &Path, clock: WallClock) -> Result<Option<Self>, IdentityError> {
        let store = IdentityStore::new(state_dir);
        let Some(kept) = store.read()? else { return Ok(None) };
        let path = store.directory().to_owned();
        Self::assemble(&kept.key_pem, &kept.certificate_pem, &kept.bundle_pem, clock, Some(store))
            .map(Some)
            .map_err(|why| IdentityError::Unusable { path, why })
    }

    /// An identity that lives in memory only: for tests, and for whoever manages files by himself.
    pub fn from_pem(
        key_pem: &str,
        certificate_pem: &str,
        bundle_pem: &str,
        clock: WallClock,
    ) -> Result<Self, IdentityError> {
        Self::assemble(key_pem, certificate_pem, bundle_pem, clock, None)
            .map_err(IdentityError::NotTaken)
    }

    fn assemble(
        key_pem: &str,
        certificate_pem: &str,
        bundle_pem: &str,
        clock: WallClock,
        store: Option<IdentityStore>,
    ) -> Result<Self, String> {
        let current = Current::pair(key_pem, certificate_pem).map_err(|e| e.to_string())?;
        let roots = certificates("the trust bundle", bundle_pem).map_err(|e| e.to_string())?;
        let trust = Trust::new(current.domain.clone(), roots)?;
        // Lasting: an agent whose certificate ran out while it was off still serves what it can and
        // renews; it must not refuse to start.
        own_chain(&trust, &current, Moment::Lasting(clock.now())).map_err(|e| e.to_string())?;
        Ok(Self(Arc::new(Shared {
            node: current.node.clone(),
            domain: current.domain.clone(),
            current: ArcSwap::from_pointee(current),
            trust: ArcSwap::from_pointee(trust),
            memory: keyring::Memory::default(),
            clock,
            observer: ArcSwapOption::empty(),
            logged: Mutex::default(),
            store,
            writing: Mutex::new(()),
        })))
    }

    /// Our name.
    pub fn node(&self) -> &NodeName {
        &self.0.node
    }

    /// The mesh's trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.domain
    }

    /// The clock certificates are judged by.
    pub fn clock(&self) -> &WallClock {
        &self.0.clock
    }

    /// When our certificate ends.
    pub fn expires(&self) -> Wall {
        self.0.current.load().facts.to
    }

    /// When to ask for a new certificate: after half of its life, and up to a tenth of it later by
    /// `jitter` (0 to 1), so that a fleet that joined in one minute does not renew in one. Now, when our
    /// certificate does not chain to the bundle any more: a root was rotated out.
    pub fn renew_at(&self, jitter: f64) -> Wall {
        let current = self.0.current.load();
        let now = self.0.clock.now();
        if own_chain(&self.0.trust.load(), &current, Moment::Lasting(now)).is_err() {
            return now;
        }
        let life = current.facts.to.0.saturating_sub(current.facts.from.0);
        let late = life as f64 / 10.0 * jitter.clamp(0.0, 1.0);
        Wall(current.facts.from.0.saturating_add(life / 2).saturating_add(late as u64))
    }

    /// For dialling: presents our certificate and believes only who is `expected`.
    pub fn client_config(&self, expected: Expected, alpn: &[u8]) -> Arc<rustls::ClientConfig> {
        tls::client_config(self.0.clone(), expected, alpn)
    }

    /// For listening: presents our certificate and demands one of this trust domain.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        tls::server_config(self.0.clone(), alpn)
    }

    /// The core's cryptography, always with the current certificate.
    pub fn keyring(&self) -> Box<dyn Keyring> {
        Box::new(keyring::AgentKeyring::new(self.0.clone()))
    }

    /// Called for each refused handshake, with the reason; replaces an earlier observer.
    pub fn on_refusal(&self, observer: impl Fn(&Refusal) + Send + Sync + 'static) {
        self.0.observer.store(Some(Arc::new(Observer(Box::new(observer)))));
    }

    /// Takes a new key, certificate and bundle: validated, written to disk, then published. On an error
    /// nothing changed, in memory and for all that matters on disk. Blocks for the disk.
    pub fn replace(
        &self,
        key_pem: &str,
        certificate_pem: &str,
        bundle_pem: &str,
    ) -> Result<(), IdentityError> {
        let _turn = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let not_taken = IdentityError::NotTaken;
        let current =
            Current::pair(key_pem, certificate_pem).map_err(|e| not_taken(e.to_string()))?;
        if (&current.node, &current.domain) != (&self.0.node, &self.0.domain) {
            return Err(not_taken(format!(
                "it is for {} of {}, we are {} of {}",
                current.node, current.domain, self.0.node, self.0.domain
            )));
        }
        let roots =
            certificates("the trust bundle", bundle_pem).map_err(|e| not_taken(e.to_string()))?;
        let trust = Trust::new(self.0.domain.clone(), roots)
            .map_err(not_taken)?
            .with_revoked(self.0.trust.load().revoked().clone());
        own_chain(&trust, &current, Moment::Now(self.0.clock.now()))
            .map_err(|e| not_taken(e.to_string()))?;
        if let Some(store) = &self.0.store {
            store.write(key_pem, certificate_pem, bundle_pem)?;
        }
        self.0.current.store(Arc::new(current));
        self.0.trust.store(Arc::new(trust));
        Ok(())
    }

    /// Takes the roots of a trust document (DER). In memory only: the document itself is kept on disk
    /// and applied again after a restart.
    pub fn set_trust(&self, roots: Vec<Vec<u8>>) -> Result<(), IdentityError> {
        let _turn = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let roots: Vec<_> = roots.into_iter().map(CertificateDer::from).collect();
        let old = self.0.trust.load();
        if old.roots() == roots.as_slice() {
            return Ok(());
        }
        let trust = Trust::new(self.0.domain.clone(), roots)
            .map_err(IdentityError::Bundle)?
            .with_revoked(old.revoked().clone());
        let now = Moment::Lasting(self.0.clock.now());
        if let Err(refusal) = own_chain(&trust, &self.0.current.load(), now) {
            tracing::warn!(detail = %refusal, "our certificate does not chain to the new trust bundle");
        }
        self.0.trust.store(Arc::new(trust));
        Ok(())
    }

    /// Takes a revocation list: per node, certificates whose validity began before the moment are
    /// withdrawn.
    pub fn set_revoked(&self, revoked: BTreeMap<NodeName, Wall>) {
        let _turn = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let trust = self.0.trust.load().with_revoked(Arc::new(revoked));
        self.0.trust.store(Arc::new(trust));
    }
}

/// Our own certificate must pass as a client's and as a server's, or peers would refuse us.
fn own_chain(trust: &Trust, current: &Current, moment: Moment) -> Result<(), Refusal> {
    let [leaf, intermediates @ ..] = current.certified.cert.as_slice() else {
        return Err(Refusal::NoCertificate);
    };
    trust.vouched(leaf, intermediates, Usage::Client, moment)?;
    trust.vouched(leaf, intermediates, Usage::Server, moment)?;
    Ok(())
}
