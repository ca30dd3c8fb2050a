//! The core's [`Keyring`] over the agent's credentials: signs adverts, verifies those of others.
//!
//! Adverts repeat their owner's certificate with every revision. Its chain is therefore verified once
//! and remembered by hash; expiry, revocation and identity are judged anew each time. Only certificates
//! that passed are remembered, so a stranger cannot fill the memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_proto::advert::{Keyring, Untrusted};
use hearth_proto::ids::Identity;
use hearth_proto::time::Wall;
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::certificate::Refusal;
use super::trust::{Moment, Trust, Usage};
use super::{Current, Shared};

/// Certificates remembered in each of two halves; a mesh cell is planned for 2,000 nodes.
const REMEMBERED: usize = 4_096;

/// What is remembered of a certificate that chains to the bundle.
#[derive(Clone, Debug)]
struct Vouched {
    who: Identity,
    from: Wall,
    to: Wall,
}

/// Certificates that passed under the present bundle, by SHA-256. When the young half is full it
/// becomes the old one, and what was not used since is forgotten.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    young: HashMap<[u8; 32], Vouched>,
    old: HashMap<[u8; 32], Vouched>,
    /// The bundle they passed under: another bundle forgets them all.
    under: Option<Arc<[rustls::pki_types::TrustAnchor<'static>]>>,
}

impl Halves {
    fn recall(&mut self, trust: &Trust, key: &[u8; 32]) -> Option<Vouched> {
        let same = self.under.as_ref().is_some_and(|u| Arc::ptr_eq(u, trust.anchors()));
        if !same {
            *self = Self { under: Some(trust.anchors().clone()), ..Self::default() };
            return None;
        }
        if let Some(found) = self.young.get(key) {
            return Some(found.clone());
        }
        let found = self.old.remove(key)?;
        self.keep(*key, found.clone());
        Some(found)
    }

    fn keep(&mut self, key: [u8; 32], vouched: Vouched) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, vouched);
    }
}

/// Signs and verifies with whatever is current.
pub(super) struct AgentKeyring {
    shared: Arc<Shared>,
    /// The certificate of the last signature, until it is asked for: a renewal between `sign` and
    /// `certificate` must not pair the old key's signature with the new certificate.
    signed_with: RefCell<Option<Arc<Current>>>,
}

impl AgentKeyring {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, signed_with: RefCell::new(None) }
    }

    fn vouched(
        &self,
        trust: &Trust,
        certificate: &CertificateDer<'_>,
        now: Wall,
    ) -> Result<Vouched, Refusal> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, certificate).as_ref());
        let memory = &self.shared.memory.0;
        if let Some(found) =
            memory.lock().unwrap_or_else(PoisonError::into_inner).recall(trust, &key)
        {
            return Ok(found);
        }
        let (facts, who) = trust.vouched(certificate, &[], Usage::Client, Moment::Lasting(now))?;
        let vouched = Vouched { who, from: facts.from, to: facts.to };
        let mut halves = memory.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.recall(trust, &key).is_none() {
            halves.keep(key, vouched.clone());
        }
        Ok(vouched)
    }
}

impl Keyring for AgentKeyring {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let current = self.shared.current.load_full();
        let signature = current.sign(message);
        *self.signed_with.borrow_mut() = Some(current);
        signature
    }

    fn certificate(&self) -> Arc<[u8]> {
        let current = self.signed_with.borrow_mut().take();
        current.unwrap_or_else(|| self.shared.current.load_full()).leaf.clone()
    }

    fn verify(
        &self,
        signer: &Identity,
        certificate: &[u8],
        message: &[u8],
        signature: &[u8],
        lasting: bool,
    ) -> Result<(), Untrusted> {
        let trust = self.shared.trust.load();
        let now = self.shared.clock.now();
        let der = CertificateDer::from(certificate);
        let vouched = self.vouched(&trust, &der, now).map_err(untrusted)?;
        if vouched.who != *signer {
            return Err(Untrusted::OtherIdentity { expected: signer.clone(), found: vouched.who });
        }
        let moment = if lasting { Moment::Lasting(now) } else { Moment::Now(now) };
        moment.within(&vouched.who, vouched.from, vouched.to).map_err(untrusted)?;
        trust.not_revoked(&vouched.who, vouched.from).map_err(untrusted)?;
        verify_signature(&der, message, signature)
    }
}

/// Which signature a certificate's key makes follows from the key; the mesh knows two kinds.
fn verify_signature(
    certificate: &CertificateDer<'_>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), Untrusted> {
    let key =
        EndEntityCert::try_from(certificate).map_err(|e| Untrusted::Certificate(e.to_string()))?;
    let passes = [webpki::ring::ECDSA_P256_SHA256, webpki::ring::ED25519]
        .into_iter()
        .any(|algorithm| key.verify_signature(algorithm, message, signature).is_ok());
    if passes { Ok(()) } else { Err(Untrusted::Signature) }
}

fn untrusted(refusal: Refusal) -> Untrusted {
    match refusal {
        Refusal::Validity { .. } => Untrusted::Expired(refusal.to_string()),
        Refusal::Revoked { who, .. } => Untrusted::Revoked(who),
        other => Untrusted::Certificate(other.to_string()),
    }
}
