//! What a certificate says, and why one is refused.
//!
//! Reads exactly the facts the mesh rests on: one SPIFFE id, no authority over others, a validity. Does
//! not judge whether to believe them; that is [`super::trust`].

use hearth_proto::ids::{Identity, TrustDomain};
use hearth_proto::time::Wall;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::clock::{from_seconds, rfc3339, roughly};

/// Why a peer, or a signature's certificate, is not believed. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificate was presented.
    #[error("no certificate was presented; every peer of the mesh must show one")]
    NoCertificate,
    /// The certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// The certificate is one of an authority.
    #[error("the certificate is an authority's (CA=true); a peer must show a node's own")]
    Authority,
    /// Not exactly one URI names the peer.
    #[error(
        "the certificate has {0} URI names; it must have exactly one, its SPIFFE id \
         (SPIFFE X509-SVID section 2)"
    )]
    Names(usize),
    /// The URI is not an identity of this mesh.
    #[error("the certificate's name is none of this mesh: {0}")]
    Foreign(#[from] hearth_proto::ids::IdentityError),
    /// The certificate is outside its validity.
    #[error("{}", validity_text(.who, *.now, *.from, *.to))]
    Validity {
        /// Whom it names.
        who: Identity,
        /// Our time.
        now: Wall,
        /// Start of validity.
        from: Wall,
        /// End of validity.
        to: Wall,
    },
    /// The certificate does not chain to the trust bundle.
    #[error(
        "the certificate of {who} does not chain to a root of this mesh's trust bundle: {why}; it was \
         issued by another authority, or this agent's bundle is out of date"
    )]
    Chain {
        /// Whom it names.
        who: Identity,
        /// What the verifier said.
        why: String,
    },
    /// Somebody else answered.
    #[error("the peer is {found}, but {expected} was expected")]
    Other {
        /// Who was expected, in words.
        expected: String,
        /// Who the certificate names.
        found: Identity,
    },
    /// The identity was withdrawn.
    #[error(
        "{who} is revoked: its certificate was issued {}, those before {} are withdrawn; a node that \
         is wanted again joins with a new token", rfc3339(*.issued), rfc3339(*.before)
    )]
    Revoked {
        /// Who.
        who: Identity,
        /// Start of its certificate's validity.
        issued: Wall,
        /// Certificates issued before this are withdrawn.
        before: Wall,
    },
}

fn validity_text(who: &Identity, now: Wall, from: Wall, to: Wall) -> String {
    let gap = |a: Wall, b: Wall| roughly(std::time::Duration::from_micros(a.0.saturating_sub(b.0)));
    let state = if now < from {
        format!("is valid only in {}", gap(from, now))
    } else {
        format!("expired {} ago", gap(now, to))
    };
    format!(
        "the certificate of {who} {state}, or this host's clock may be off: our time is {}, certificate \
         valid from {} to {}",
        rfc3339(now),
        rfc3339(from),
        rfc3339(to)
    )
}

impl Refusal {
    /// One word for the counter's `reason` label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Malformed(_) => "malformed",
            Self::Authority => "authority",
            Self::Names(_) => "names",
            Self::Foreign(_) => "foreign",
            Self::Validity { now, from, .. } if now < from => "not_yet_valid",
            Self::Validity { .. } => "expired",
            Self::Chain { .. } => "chain",
            Self::Other { .. } => "other_identity",
            Self::Revoked { .. } => "revoked",
        }
    }

    /// All words [`Self::reason`] can return: the label's whole set of values.
    pub const REASONS: [&'static str; 10] = [
        "no_certificate",
        "malformed",
        "authority",
        "names",
        "foreign",
        "not_yet_valid",
        "expired",
        "chain",
        "other_identity",
        "revoked",
    ];
}

/// The facts of a node's or the control plane's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The only URI name.
    pub(crate) uri: String,
    /// Start of validity.
    pub(crate) from: Wall,
    /// End of validity.
    pub(crate) to: Wall,
}

impl Facts {
    /// Reads `der`: a certificate of no authority with exactly one URI name.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Refusal> {
        let malformed = |e: &dyn std::fmt::Display| Refusal::Malformed(e.to_string());
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| malformed(&e))?;
        if !rest.is_empty() {
            return Err(Refusal::Malformed(format!("{} bytes too many", rest.len())));
        }
        let constraints = certificate.basic_constraints().map_err(|e| malformed(&e))?;
        if constraints.is_some_and(|c| c.value.ca) {
            return Err(Refusal::Authority);
        }
        let names = certificate.subject_alternative_name().map_err(|e| malformed(&e))?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris.as_slice() else {
            return Err(Refusal::Names(uris.len()));
        };
        let validity = certificate.validity();
        Ok(Self {
            uri: (*uri).to_owned(),
            from: from_seconds(validity.not_before.timestamp()),
            to: from_seconds(validity.not_after.timestamp()),
        })
    }

    /// The trust domain the SPIFFE id names, whatever it is: for our own certificate, which defines it.
    pub(crate) fn domain(&self) -> Option<TrustDomain> {
        let (domain, _) = self.uri.strip_prefix("spiffe://")?.split_once('/')?;
        TrustDomain::parse(domain).ok()
    }
}

/// Who presented `certificates` (leaf first): exactly one URI name, which is an identity of `domain`,
/// and no authority. Reads only; rustls has verified the chain by the time anyone asks.
pub fn peer_identity(
    certificates: &[CertificateDer<'_>],
    domain: &TrustDomain,
) -> Result<Identity, Refusal> {
    let leaf = certificates.first().ok_or(Refusal::NoCertificate)?;
    Ok(Identity::parse(&Facts::read(leaf)?.uri, domain)?)
}
