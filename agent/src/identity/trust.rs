//! Whom to believe: the trust bundle, the revocation list, and the rules by which a certificate passes.
//!
//! The rules, in this order (the first that fails is the refusal):
//! 1. it is readable, of no authority, with exactly one URI name ([`Facts::read`]);
//! 2. the name is an identity of our trust domain;
//! 3. our time is within its validity (unless a *lasting* record is judged);
//! 4. it chains to a root of the bundle (webpki, signatures and key usage included);
//! 5. it is who was expected;
//! 6. it is not revoked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::ids::{Identity, NodeName, TrustDomain};
use hearth_proto::time::Wall;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::certificate::{Facts, Refusal};
use super::clock::seconds;

/// Whom a connection is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This node and no other.
    Node(NodeName),
    /// Some node of the mesh: a seed, whose name is learnt from its certificate.
    AnyNode,
    /// The control plane.
    Control,
    /// Any identity of the trust domain: what a listener expects.
    Anyone,
}

impl Expected {
    fn admits(&self, found: &Identity) -> bool {
        match (self, found) {
            (Self::Node(expected), Identity::Node(found)) => expected == found,
            (Self::AnyNode, Identity::Node(_)) | (Self::Control, Identity::Control(_)) => true,
            (Self::Anyone, _) => true,
            _ => false,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Node(name) => Identity::Node(name.clone()).to_string(),
            Self::AnyNode => "a node".into(),
            Self::Control => "the control plane".into(),
            Self::Anyone => "a node or the control plane".into(),
        }
    }
}

/// The moment a certificate is judged at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// It must be valid now.
    Now(Wall),
    /// Its own validity is overlooked: a record accepted once stays valid after a restart, also where
    /// the clock was lost with the power.
    Lasting(Wall),
}

/// Which side of a connection the certificate stands on; its extended key usage must allow it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Usage {
    /// It dials.
    Client,
    /// It listens.
    Server,
}

/// Roots and revocations of one moment. Immutable: a change makes a new one.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Arc<[TrustAnchor<'static>]>,
    revoked: Arc<BTreeMap<NodeName, Wall>>,
}

impl Trust {
    /// A bundle of `roots` (DER). Every one must be usable, and there must be one at least: a mistake
    /// here would cut every link.
    pub(crate) fn new(
        domain: TrustDomain,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, String> {
        if roots.is_empty() {
            return Err("the trust bundle has no root certificate".into());
        }
        let anchor = |(i, root): (usize, &CertificateDer<'static>)| {
            webpki::anchor_from_trusted_cert(root)
                .map(|anchor| anchor.to_owned())
                .map_err(|e| format!("root {} of the trust bundle cannot be used: {e}", i + 1))
        };
        let anchors: Vec<_> = roots.iter().enumerate().map(anchor).collect::<Result<_, _>>()?;
        Ok(Self { domain, roots, anchors: anchors.into(), revoked: Arc::default() })
    }

    /// The same bundle with another revocation list.
    pub(crate) fn with_revoked(&self, revoked: Arc<BTreeMap<NodeName, Wall>>) -> Self {
        Self { revoked, ..self.clone() }
    }

    /// The revocation list.
    pub(crate) fn revoked(&self) -> &Arc<BTreeMap<NodeName, Wall>> {
        &self.revoked
    }

    /// The roots as webpki takes them; the pointer tells one bundle from another.
    pub(crate) fn anchors(&self) -> &Arc<[TrustAnchor<'static>]> {
        &self.anchors
    }

    /// The roots, DER.
    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Applies all rules to `leaf` and what was sent with it.
    pub(crate) fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        expected: &Expected,
        usage: Usage,
        now: Wall,
    ) -> Result<Identity, Refusal> {
        let (facts, who) = self.vouched(leaf, intermediates, usage, Moment::Now(now))?;
        if !expected.admits(&who) {
            return Err(Refusal::Other { expected: expected.words(), found: who });
        }
        self.not_revoked(&who, facts.from)?;
        Ok(who)
    }

    /// Rules 1 to 4: whom the bundle vouches for.
    pub(crate) fn vouched(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        moment: Moment,
    ) -> Result<(Facts, Identity), Refusal> {
        let facts = Facts::read(leaf)?;
        let who = Identity::parse(&facts.uri, &self.domain)?;
        let at = moment.within(&who, facts.from, facts.to)?;
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let certificate =
            EndEntityCert::try_from(leaf).map_err(|e| Refusal::Malformed(e.to_string()))?;
        certificate
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.anchors,
                intermediates,
                at,
                usage,
                None,
                None,
            )
            .map_err(|e| Refusal::Chain { who: who.clone(), why: e.to_string() })?;
        Ok((facts, who))
    }

    /// Rule 6.
    pub(crate) fn not_revoked(&self, who: &Identity, issued: Wall) -> Result<(), Refusal> {
        let Identity::Node(name) = who else { return Ok(()) };
        match self.revoked.get(name) {
            Some(before) if issued < *before => {
                Err(Refusal::Revoked { who: who.clone(), issued, before: *before })
            }
            _ => Ok(()),
        }
    }
}

impl Moment {
    /// Rule 3: the time to verify the chain of `who` at.
    pub(crate) fn within(self, who: &Identity, from: Wall, to: Wall) -> Result<UnixTime, Refusal> {
        let at = match self {
            Self::Now(now) if now < from || now > to => {
                return Err(Refusal::Validity { who: who.clone(), now, from, to });
            }
            Self::Now(now) => now,
            Self::Lasting(now) => now.min(to).max(from),
        };
        let at = u64::try_from(seconds(at)).unwrap_or(0);
        Ok(UnixTime::since_unix_epoch(Duration::from_secs(at)))
    }
}
