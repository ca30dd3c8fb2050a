//! What a node says of itself, and the signature under it.
//!
//! An [`Advert`] is written by one node only: its owner. It travels as a [`SignedAdvert`], which
//! anybody may carry and nobody may change. This module owns the shape and its bounds; who signs and
//! who checks is the [`Keyring`]'s business, which the shell provides.

pub mod extension;
pub mod traits;

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{EndpointId, Identity, NodeName, ServiceName, Version};
use crate::incident::IncidentKey;
use crate::time::Wall;
use crate::wire;

/// Largest encoded advert, in bytes. Larger ones are refused where they are made and where they arrive.
pub const MAX_ADVERT: usize = 16 * 1024;
/// Largest certificate and largest signature that travel with an advert, in bytes: they are not under the
/// signature's protection, so they need a bound of their own.
pub const MAX_CERTIFICATE: usize = 16 * 1024;
/// See [`MAX_CERTIFICATE`].
pub const MAX_SIGNATURE: usize = 1024;
/// Most endpoints one node may offer.
pub const MAX_ENDPOINTS: usize = 64;

/// Everything a node says of itself: one record, replaced whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// Who speaks.
    pub node: NodeName,
    /// Grows with every change.
    pub version: Version,
    /// Where its mesh port is reached.
    pub address: SocketAddr,
    /// Zone (a failure domain), may be empty.
    pub zone: String,
    /// Region, may be empty.
    pub region: String,
    /// What it offers, ordered by service and instance.
    pub endpoints: Vec<EndpointAdvert>,
    /// The policy version in force on it.
    pub policy_version: u64,
    /// The node leaves: its endpoints are gone for good in this generation.
    pub left: bool,
    /// What later versions say besides: records that whoever does not know them skips; see [`extension`].
    pub extension: Vec<u8>,
}

/// One endpoint as its owner declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAdvert {
    /// The service it is an instance of.
    pub service: ServiceName,
    /// Tells instances on one node apart.
    pub instance: u16,
    /// Declared by the operator.
    pub role: Role,
    /// Where it is in its life; written only by its owner.
    pub condition: Condition,
    /// What it speaks.
    pub protocol: Protocol,
    /// Since when it is in `condition`, by the owner's wall clock. For people.
    pub since: Wall,
    /// The loss it was activated for.
    pub activated_for: Option<IncidentKey>,
}

/// The declared role of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves.
    Hot,
    /// Stands by; the lower the priority's number, the earlier it is called.
    Warm {
        /// Order among the warm ones.
        priority: u16,
    },
}

impl Role {
    /// `hot` or `warm`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Warm { .. } => "warm",
        }
    }
}

/// Where an endpoint is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Its checks fail, or it was not checked yet.
    Unready,
    /// A warm endpoint that waits to be called.
    Standby,
    /// Called up: hook and readiness are under way.
    Activating,
    /// Takes requests.
    Serving,
    /// Finishes what it has, takes nothing new.
    Draining,
}

impl Condition {
    /// The word used in tables, metrics and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unready => "unready",
            Self::Standby => "standby",
            Self::Activating => "activating",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2 with prior knowledge.
    #[default]
    Http,
    /// gRPC over HTTP/2 with prior knowledge.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// Datagrams, in sessions. The last of the list: the order is the wire's.
    Udp,
}

impl Advert {
    /// The id of one of this node's endpoints.
    pub fn endpoint_id(&self, e: &EndpointAdvert) -> EndpointId {
        EndpointId { service: e.service.clone(), node: self.node.clone(), instance: e.instance }
    }
}

/// An advert under its owner's signature. The owner's certificate travels with it, so that whoever
/// holds the trust bundle can check it without asking anyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedAdvert {
    /// Whose it claims to be; checked against certificate and body.
    pub node: NodeName,
    /// The version it claims; checked against the body.
    pub version: Version,
    /// The encoded [`Advert`].
    #[serde(with = "crate::wire::octets")]
    pub body: Arc<[u8]>,
    /// The owner's certificate, DER.
    #[serde(with = "crate::wire::octets")]
    pub certificate: Arc<[u8]>,
    /// Over `body`.
    #[serde(with = "crate::wire::octets")]
    pub signature: Arc<[u8]>,
}

/// Why a signature is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Untrusted {
    /// The certificate does not chain to the trust bundle, or is unreadable.
    #[error("certificate not trusted: {0}")]
    Certificate(String),
    /// The certificate speaks for somebody else.
    #[error("certificate of {found} used for {expected}")]
    OtherIdentity {
        /// Who was expected.
        expected: Identity,
        /// Who the certificate names.
        found: Identity,
    },
    /// The certificate is outside its validity.
    #[error("certificate expired or not yet valid: {0}")]
    Expired(String),
    /// The identity was revoked.
    #[error("{0} is revoked")]
    Revoked(Identity),
    /// The signature does not fit the message.
    #[error("signature does not verify")]
    Signature,
}

/// The shell's cryptography, as the core needs it: sign as ourselves, verify others.
///
/// Implementations are pure in the sense that matters here: no call blocks or waits.
pub trait Keyring: Send {
    /// Our signature over `message`.
    fn sign(&self, message: &[u8]) -> Vec<u8>;
    /// Our certificate, DER.
    fn certificate(&self) -> Arc<[u8]>;
    /// Checks that `signature` over `message` was made by `signer`, who proves itself by
    /// `certificate`. With `lasting` the certificate's own expiry is overlooked: a record accepted
    /// while its certificate was valid stays valid after a restart.
    fn verify(
        &self,
        signer: &Identity,
        certificate: &[u8],
        message: &[u8],
        signature: &[u8],
        lasting: bool,
    ) -> Result<(), Untrusted>;
}

/// Signs nothing and believes nobody: what stands in a keyring's place for a moment, or where nothing is received.
pub struct Keyless;

impl Keyring for Keyless {
    fn sign(&self, _message: &[u8]) -> Vec<u8> {
        Vec::new()
    }
    fn certificate(&self) -> Arc<[u8]> {
        Arc::from([])
    }
    fn verify(
        &self,
        _signer: &Identity,
        _certificate: &[u8],
        _message: &[u8],
        _signature: &[u8],
        _lasting: bool,
    ) -> Result<(), Untrusted> {
        Err(Untrusted::Signature)
    }
}

/// Why an advert was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdvertRefused {
    /// Too large.
    #[error("advert of {0} has {1} bytes, at most {MAX_ADVERT} are allowed")]
    TooLarge(NodeName, usize),
    /// The signature or certificate is not believed.
    #[error("advert of {0}: {1}")]
    Untrusted(NodeName, Untrusted),
    /// The body cannot be read.
    #[error("advert of {0} cannot be read: {1}")]
    Malformed(NodeName, String),
    /// Body and envelope disagree, or a bound is broken.
    #[error("advert of {0} contradicts itself: {1}")]
    Contradiction(NodeName, &'static str),
}

impl AdvertRefused {
    /// One word for the counter's `reason` label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(..) => "too_large",
            Self::Untrusted(_, u) => match u {
                Untrusted::Certificate(_) => "certificate",
                Untrusted::OtherIdentity { .. } => "other_identity",
                Untrusted::Expired(_) => "expired",
                Untrusted::Revoked(_) => "revoked",
                Untrusted::Signature => "signature",
            },
            Self::Malformed(..) => "malformed",
            Self::Contradiction(..) => "contradiction",
        }
    }
}

impl SignedAdvert {
    /// Signs an advert of our own.
    pub fn sign(advert: &Advert, keyring: &dyn Keyring) -> Result<Self, AdvertRefused> {
        let body = wire::encode_body(advert)
            .map_err(|e| AdvertRefused::Malformed(advert.node.clone(), e.to_string()))?;
        if body.len() > MAX_ADVERT {
            return Err(AdvertRefused::TooLarge(advert.node.clone(), body.len()));
        }
        Ok(Self {
            node: advert.node.clone(),
            version: advert.version,
            signature: keyring.sign(&body).into(),
            certificate: keyring.certificate(),
            body: body.into(),
        })
    }

    /// Checks everything that can be checked and opens the advert. `lasting` as in
    /// [`Keyring::verify`].
    pub fn open(&self, keyring: &dyn Keyring, lasting: bool) -> Result<Advert, AdvertRefused> {
        if self.body.len() > MAX_ADVERT
            || self.certificate.len() > MAX_CERTIFICATE
            || self.signature.len() > MAX_SIGNATURE
        {
            let size = self.body.len() + self.certificate.len() + self.signature.len();
            return Err(AdvertRefused::TooLarge(self.node.clone(), size));
        }
        let signer = Identity::Node(self.node.clone());
        keyring
            .verify(&signer, &self.certificate, &self.body, &self.signature, lasting)
            .map_err(|e| AdvertRefused::Untrusted(self.node.clone(), e))?;
        let advert: Advert = wire::decode_body(&self.body)
            .map_err(|e| AdvertRefused::Malformed(self.node.clone(), e.to_string()))?;
        let contradiction = |why| Err(AdvertRefused::Contradiction(self.node.clone(), why));
        if advert.node != self.node {
            return contradiction("the body names another node");
        }
        if advert.version != self.version {
            return contradiction("the body has another version");
        }
        if advert.endpoints.len() > MAX_ENDPOINTS {
            return contradiction("it has too many endpoints");
        }
        let key = |e: &EndpointAdvert| (e.service.clone(), e.instance);
        if !advert.endpoints.windows(2).all(|w| key(&w[0]) < key(&w[1])) {
            return contradiction("its endpoints are not ordered or not unique");
        }
        Ok(advert)
    }
}
