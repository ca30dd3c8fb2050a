//! The agent's own key and certificate: made, read, paired, used to sign.
//!
//! P-256 throughout: every TLS library takes it, and one key serves handshakes and advert signatures.

use std::sync::Arc;

use hearth_proto::ids::{Identity, NodeName, TrustDomain};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate::{Facts, Refusal};

/// Why key and certificate do not make an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key could be made.
    #[error("cannot make a P-256 key: {0}")]
    Generate(String),
    /// The signing request could not be made.
    #[error("cannot make the certificate signing request: {0}")]
    Request(String),
    /// The PEM text is not what it should be.
    #[error("{what} is not readable PEM: {why}")]
    Pem {
        /// Which text.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The key is not one the agent can use.
    #[error("the private key cannot be used (P-256 in PKCS #8 is needed): {0}")]
    Unusable(String),
    /// The certificate is for another key.
    #[error("the certificate is for another key than ours")]
    Mismatch,
    /// The certificate breaks a rule.
    #[error("{0}")]
    Certificate(#[from] Refusal),
    /// The certificate is not a node's.
    #[error("the certificate is of {0}, not of a node")]
    NotANode(Identity),
}

/// A fresh key, PKCS #8 in PEM.
pub(crate) fn generate() -> Result<String, KeyError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map(|key| key.serialize_pem())
        .map_err(|e| KeyError::Generate(e.to_string()))
}

/// A PKCS #10 request for `key_pem`, in PEM. It carries no name: the authority decides the names.
pub(crate) fn signing_request(key_pem: &str) -> Result<String, KeyError> {
    let request = |e: rcgen::Error| KeyError::Request(e.to_string());
    let key = KeyPair::from_pem(key_pem).map_err(|e| KeyError::Unusable(e.to_string()))?;
    let mut params = CertificateParams::new(Vec::new()).map_err(request)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(request)
}

/// All certificates of a PEM text; at least one.
pub(crate) fn certificates(
    what: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, KeyError> {
    let bad = |why: String| KeyError::Pem { what, why };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| bad(pem_words(&e)))?;
    if found.is_empty() {
        return Err(bad("it holds no certificate".into()));
    }
    Ok(found)
}

/// Why a PEM text cannot be read, without the bytes that its reader prints.
fn pem_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it was cut off".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a line that begins a part is damaged".to_owned(),
        pem::Error::Base64Decode(_) => "it holds what is no base64".to_owned(),
        other => other.to_string(),
    }
}

/// Key and certificate in use: one value, swapped whole.
pub(crate) struct Current {
    /// For handshakes.
    pub(crate) certified: Arc<CertifiedKey>,
    /// For signatures under adverts.
    signing: EcdsaKeyPair,
    /// The certificate, DER.
    pub(crate) leaf: Arc<[u8]>,
    /// What the certificate says.
    pub(crate) facts: Facts,
    /// Whom it names.
    pub(crate) node: NodeName,
    /// In which mesh.
    pub(crate) domain: TrustDomain,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Current {
    /// Pairs a key with its certificate chain (leaf first).
    pub(crate) fn pair(key_pem: &str, chain_pem: &str) -> Result<Self, KeyError> {
        let chain = certificates("the certificate", chain_pem)?;
        let leaf = chain.first().ok_or(KeyError::Certificate(Refusal::NoCertificate))?;
        let facts = Facts::read(leaf)?;
        let domain = facts.domain().ok_or_else(|| {
            KeyError::Certificate(
                hearth_proto::ids::IdentityError::NotSpiffe(facts.uri.clone()).into(),
            )
        })?;
        let node = match Identity::parse(&facts.uri, &domain).map_err(Refusal::from)? {
            Identity::Node(node) => node,
            other @ Identity::Control(_) => return Err(KeyError::NotANode(other)),
        };
        let unusable = |e: &dyn std::fmt::Display| KeyError::Unusable(e.to_string());
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|e| KeyError::Pem { what: "the private key", why: pem_words(&e) })?;
        let signing = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            key.secret_der(),
            &SystemRandom::new(),
        )
        .map_err(|e| unusable(&e))?;
        let leaf: Arc<[u8]> = leaf.as_ref().into();
        let signer =
            rustls::crypto::ring::sign::any_supported_type(&key).map_err(|e| unusable(&e))?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(|_| KeyError::Mismatch)?;
        Ok(Self { certified: Arc::new(certified), signing, leaf, facts, node, domain })
    }

    /// Our signature over `message`: ECDSA P-256 with SHA-256, ASN.1. Empty, and so believed by nobody,
    /// in the one case in which ring fails: the system has no randomness.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self.signing.sign(&SystemRandom::new(), message) {
            Ok(signature) => signature.as_ref().to_vec(),
            Err(_) => {
                tracing::error!("signing failed: the system gives no randomness");
                Vec::new()
            }
        }
    }
}
