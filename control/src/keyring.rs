//! The control plane's own identity: its key, its certificate, its signatures.
//!
//! [`Own`] is one key with its certificate and never changes; [`Holder`] swaps it whole when the
//! certificate is renewed, so that TLS and signatures always see a pair that fits.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hearth_proto::advert::{Keyring, Untrusted};
use hearth_proto::ids::{Identity, NodeName, TrustDomain};
use hearth_proto::time::Wall;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::authority::{Address, Authority};
use crate::identity;
use crate::moment;

/// Why the control plane's own key and certificate cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the control certificate or its key cannot be used: {0}")]
pub struct UnusableIdentity(String);

/// A key and the certificate that goes with it.
pub struct Own {
    name: NodeName,
    certificate: Arc<[u8]>,
    validity: (Wall, Wall),
    signing: EcdsaKeyPair,
    tls: Arc<CertifiedKey>,
}

impl Own {
    /// Reads key and certificate (PEM) and checks that they belong to `authority`'s mesh.
    pub fn read(
        key_pem: &str,
        certificate_pem: &str,
        authority: &Authority,
    ) -> Result<Self, UnusableIdentity> {
        let bad = |e: &dyn std::fmt::Display| UnusableIdentity(e.to_string());
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| bad(&e))?;
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| bad(&e))?;
        let name = match identity::of(&certificate, authority.domain()).map_err(|e| bad(&e))? {
            Identity::Control(name) => name,
            other @ Identity::Node(_) => return Err(bad(&format!("it is of {other}"))),
        };
        let signing = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            key.secret_der(),
            &SystemRandom::new(),
        )
        .map_err(|e| bad(&e))?;
        let validity = identity::validity(&certificate).map_err(|e| bad(&e))?;
        let tls_key = any_ecdsa_type(&key).map_err(|e| bad(&e))?;
        // The root goes along: a joining agent knows only its hash.
        let chain = vec![certificate.clone(), authority.root().clone()];
        let tls = CertifiedKey::new(chain, tls_key);
        tls.keys_match().map_err(|e| bad(&e))?;
        let certificate = certificate.as_ref().into();
        Ok(Self { name, certificate, validity, signing, tls: Arc::new(tls) })
    }

    /// The control plane's name.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// End of the certificate's validity.
    pub fn expires(&self) -> Wall {
        self.validity.1
    }

    /// Whether the certificate is to be made anew at `now`: it is past half of its life, or not valid
    /// yet, which is what a start with the clock ahead leaves behind.
    pub fn is_due(&self, now: Wall) -> bool {
        let (from, to) = self.validity;
        now < from || now >= moment::after(from, moment::between(from, to) / 2)
    }

    /// Whether the certificate names exactly these hosts.
    pub fn names(&self, addresses: &[Address]) -> bool {
        let mut wanted: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        wanted.sort();
        identity::hosts(&self.certificate).is_ok_and(|named| named == wanted)
    }

    /// Key and chain (leaf, root) for TLS.
    pub fn tls(&self) -> Arc<CertifiedKey> {
        self.tls.clone()
    }
}

/// The identity in force.
pub struct Holder {
    own: ArcSwap<Own>,
    domain: TrustDomain,
    root: CertificateDer<'static>,
}

impl Holder {
    /// Holds `own` of `authority`'s mesh.
    pub fn new(own: Own, authority: &Authority) -> Self {
        Self {
            own: ArcSwap::from_pointee(own),
            domain: authority.domain().clone(),
            root: authority.root().clone(),
        }
    }

    /// The identity in force.
    pub fn own(&self) -> Arc<Own> {
        self.own.load_full()
    }

    /// Puts a renewed identity into force.
    pub fn replace(&self, own: Own) {
        self.own.store(Arc::new(own));
    }

    /// A keyring of the identity in force.
    pub fn keyring(&self) -> ControlKeyring {
        ControlKeyring {
            own: self.own(),
            domain: self.domain.clone(),
            root: self.root.clone(),
            now: moment::now(),
        }
    }
}

/// Signs documents as the control plane.
pub struct ControlKeyring {
    own: Arc<Own>,
    domain: TrustDomain,
    root: CertificateDer<'static>,
    now: Wall,
}

impl Keyring for ControlKeyring {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        // Signing fails only when the kernel has no random bytes; an empty signature is believed by
        // nobody.
        let signature = self.own.signing.sign(&SystemRandom::new(), message);
        signature.map_or_else(|_| Vec::new(), |s| s.as_ref().to_vec())
    }

    fn certificate(&self) -> Arc<[u8]> {
        self.own.certificate.clone()
    }

    fn verify(
        &self,
        signer: &Identity,
        certificate: &[u8],
        message: &[u8],
        signature: &[u8],
        lasting: bool,
    ) -> Result<(), Untrusted> {
        let unreadable = |e: &dyn std::fmt::Display| Untrusted::Certificate(e.to_string());
        let found = identity::of(certificate, &self.domain).map_err(|e| unreadable(&e))?;
        if found != *signer {
            return Err(Untrusted::OtherIdentity { expected: signer.clone(), found });
        }
        let (from, to) = identity::validity(certificate).map_err(|e| unreadable(&e))?;
        let at = if lasting { self.now.clamp(from, to.max(from)) } else { self.now };
        if at < from || at > to {
            return Err(Untrusted::Expired(format!("valid until {}", moment::utc(to))));
        }
        let der = CertificateDer::from(certificate);
        let leaf = EndEntityCert::try_from(&der).map_err(|e| unreadable(&e))?;
        let anchor = anchor_from_trusted_cert(&self.root).map_err(|e| unreadable(&e))?;
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_micros(at.0));
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &[],
            at,
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(|e| unreadable(&e))?;
        leaf.verify_signature(webpki::ring::ECDSA_P256_SHA256, message, signature)
            .map_err(|_| Untrusted::Signature)
    }
}
