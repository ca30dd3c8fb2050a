//! What the control plane says to the whole mesh: policy, trust bundle, revocations.
//!
//! One writer (the control plane), one monotone version per kind, signed. Any agent may carry a
//! document to any other; an older version never replaces a newer one.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::advert::{Keyring, Untrusted};
use crate::ids::{Identity, NodeName};
use crate::policy::Policy;
use crate::time::Wall;
use crate::wire;

/// Largest encoded document, in bytes.
pub const MAX_DOCUMENT: usize = 512 * 1024;

/// The kinds of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DocumentKind {
    /// The policy set.
    Policy,
    /// The root certificates.
    Trust,
    /// Who is trusted no longer.
    Revocations,
}

/// A document's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// The policy set.
    Policy(Policy),
    /// Root certificates, DER. Rotation is two of them for a while.
    Trust(Vec<Vec<u8>>),
    /// Nodes whose certificates are withdrawn: those issued before the given moment.
    Revocations(BTreeMap<NodeName, Wall>),
}

impl Content {
    /// Which kind this is.
    pub fn kind(&self) -> DocumentKind {
        match self {
            Self::Policy(_) => DocumentKind::Policy,
            Self::Trust(_) => DocumentKind::Trust,
            Self::Revocations(_) => DocumentKind::Revocations,
        }
    }
}

/// A version of one kind of document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Grows by at least one with each change of its kind.
    pub version: u64,
    /// When it was signed.
    pub issued: Wall,
    /// The text the operator wrote, for `policy show`; empty where there is none.
    pub source: String,
    /// What it says.
    pub content: Content,
}

/// A document under the control plane's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedDocument {
    /// The control plane that signed.
    pub signer: NodeName,
    /// The kind; checked against the body.
    pub kind: DocumentKind,
    /// The version; checked against the body.
    pub version: u64,
    /// The encoded [`Document`].
    #[serde(with = "crate::wire::octets")]
    pub body: Arc<[u8]>,
    /// The signer's certificate, DER.
    #[serde(with = "crate::wire::octets")]
    pub certificate: Arc<[u8]>,
    /// Over `body`.
    #[serde(with = "crate::wire::octets")]
    pub signature: Arc<[u8]>,
}

/// Why a document was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentRefused {
    /// Too large.
    #[error("{0:?} document has {1} bytes, at most {MAX_DOCUMENT} are allowed")]
    TooLarge(DocumentKind, usize),
    /// The signature or certificate is not believed.
    #[error("{0:?} document signed by {1}: {2}")]
    Untrusted(DocumentKind, NodeName, Untrusted),
    /// The body cannot be read.
    #[error("{0:?} document cannot be read: {1}")]
    Malformed(DocumentKind, String),
    /// Body and envelope disagree.
    #[error("{0:?} document contradicts itself: {1}")]
    Contradiction(DocumentKind, &'static str),
}

impl SignedDocument {
    /// Signs a document in the name of the control plane `signer`.
    pub fn sign(
        document: &Document,
        signer: NodeName,
        keyring: &dyn Keyring,
    ) -> Result<Self, DocumentRefused> {
        let kind = document.content.kind();
        let body = wire::encode_body(document)
            .map_err(|e| DocumentRefused::Malformed(kind, e.to_string()))?;
        if body.len() > MAX_DOCUMENT {
            return Err(DocumentRefused::TooLarge(kind, body.len()));
        }
        Ok(Self {
            signer,
            kind,
            version: document.version,
            signature: keyring.sign(&body).into(),
            certificate: keyring.certificate(),
            body: body.into(),
        })
    }

    /// Checks everything that can be checked and opens the document.
    ///
    /// The signer's certificate may have expired since: the document then was signed while it was
    /// valid or by somebody who holds its key, and the control plane may be dead for days. Its age is
    /// shown, never hidden.
    pub fn open(&self, keyring: &dyn Keyring) -> Result<Document, DocumentRefused> {
        let kind = self.kind;
        if self.body.len() > MAX_DOCUMENT {
            return Err(DocumentRefused::TooLarge(kind, self.body.len()));
        }
        let signer = Identity::Control(self.signer.clone());
        keyring
            .verify(&signer, &self.certificate, &self.body, &self.signature, true)
            .map_err(|e| DocumentRefused::Untrusted(kind, self.signer.clone(), e))?;
        let document: Document = wire::decode_body(&self.body)
            .map_err(|e| DocumentRefused::Malformed(kind, e.to_string()))?;
        if document.content.kind() != kind {
            return Err(DocumentRefused::Contradiction(kind, "the body is of another kind"));
        }
        if document.version != self.version {
            return Err(DocumentRefused::Contradiction(kind, "the body has another version"));
        }
        Ok(document)
    }
}
