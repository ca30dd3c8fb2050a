//! For tests only: an authority that issues certificates of every kind, right and wrong ones.

use std::time::{Duration, SystemTime};

use hearth_proto::ids::{Identity, NodeName, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::{Credentials, WallClock};

/// A root with its key.
pub(crate) struct Authority {
    /// The trust domain it issues for.
    pub(crate) domain: TrustDomain,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A leaf to be issued; the fields are what a test bends.
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    pub(crate) ca: bool,
    pub(crate) from: SystemTime,
    pub(crate) to: SystemTime,
}

impl Leaf {
    /// A right one, valid from five minutes ago for a day.
    pub(crate) fn of(identity: &Identity, domain: &TrustDomain) -> Self {
        let now = SystemTime::now();
        Self {
            uris: vec![identity.uri(domain)],
            ca: false,
            from: now - Duration::from_secs(300),
            to: now + Duration::from_secs(86_100),
        }
    }
}

impl Authority {
    pub(crate) fn new(domain: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("{domain} root"));
        Self {
            domain: TrustDomain::parse(domain).unwrap(),
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    /// The root, PEM.
    pub(crate) fn bundle_pem(&self) -> String {
        self.issuer.pem()
    }

    /// The root, DER.
    pub(crate) fn root(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// Key and certificate, PEM.
    pub(crate) fn issue(&self, leaf: &Leaf) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = self.certify(leaf, &key);
        (key.serialize_pem(), certificate)
    }

    /// A certificate for `key`, PEM.
    pub(crate) fn certify(&self, leaf: &Leaf, key: &impl rcgen::PublicKeyData) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names =
            leaf.uris.iter().map(|u| SanType::URI(u.as_str().try_into().unwrap())).collect();
        params.is_ca = match leaf.ca {
            true => IsCa::Ca(BasicConstraints::Unconstrained),
            false => IsCa::ExplicitNoCa,
        };
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = leaf.from.into();
        params.not_after = leaf.to.into();
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    /// Working credentials of the node `name`, in memory.
    pub(crate) fn node(&self, name: &str) -> Credentials {
        self.node_with(name, WallClock::system())
    }

    /// [`Self::node`] with another clock.
    pub(crate) fn node_with(&self, name: &str, clock: WallClock) -> Credentials {
        let identity = Identity::Node(NodeName::parse(name).unwrap());
        let (key, certificate) = self.issue(&Leaf::of(&identity, &self.domain));
        Credentials::from_pem(&key, &certificate, &self.bundle_pem(), clock).unwrap()
    }
}
