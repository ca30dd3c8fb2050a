//! The certificate authority: who gets a certificate, under which name, for how long.
//!
//! Owns the root key. Of a request only the key is used: the names are decided here, exactly one URI
//! per node, so that nothing a joining host writes into its request can make it somebody else. Never
//! decides *whether* somebody may have a certificate: that is the token's or the renewal's business.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::ids::{Identity, NameError, NodeName, TrustDomain};
use hearth_proto::time::Wall;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::identity::{self, NamelessCertificate};
use crate::moment;

#[cfg(test)]
mod tests;

/// Life of a root. Long, because replacing it needs overlapping bundles on every agent.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Life of the control plane's own certificate; `serve` renews it at half.
pub const CONTROL_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Default life of a node's certificate: a stolen key is worth a day.
pub const NODE_LIFE: Duration = Duration::from_secs(86_400);
/// Certificates are valid from this much before now: the receiver's clock may be behind ours.
pub const BACKDATE: Duration = Duration::from_secs(300);
/// Largest request that is looked at. A P-256 request with all trimmings has about 600 bytes.
const MAX_CSR: usize = 16 * 1024;

/// Why no certificate was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The request cannot be read.
    #[error("the certificate request cannot be read: {0}")]
    Request(String),
    /// The requester does not hold the key.
    #[error("the certificate request is not signed with its own key")]
    NotItsKey,
    /// A key of another kind.
    #[error("the certificate request has a key of another kind than ECDSA P-256")]
    KeyKind,
    /// A name in the settings is none.
    #[error("{0:?} is neither an IP address nor a DNS name")]
    Address(String),
    /// The root or its key cannot be read.
    #[error("the root certificate or its key cannot be read: {0}")]
    Root(String),
    /// Signing or drawing random bytes failed.
    #[error("signing failed: {0}")]
    Signing(String),
}

impl AuthorityError {
    /// Whether the request, not the authority, is at fault.
    pub fn is_of_request(&self) -> bool {
        matches!(self, Self::Request(_) | Self::NotItsKey | Self::KeyKind)
    }
}

impl From<NamelessCertificate> for AuthorityError {
    fn from(e: NamelessCertificate) -> Self {
        Self::Root(e.to_string())
    }
}

fn signing(e: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Signing(e.to_string())
}

/// A certificate that was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, DER.
    pub der: Arc<[u8]>,
    /// The certificate, PEM.
    pub pem: String,
    /// Its serial number, hex.
    pub serial: String,
    /// For whom.
    pub identity: Identity,
    /// End of its validity.
    pub expires: Wall,
}

/// A key and its certificate, as they are kept on disk.
pub struct KeyAndCertificate {
    /// The private key, PEM (PKCS #8).
    pub key_pem: String,
    /// The certificate.
    pub certificate: Issued,
}

/// Makes a new root for `domain`: key and certificate, both PEM.
pub fn new_root(domain: &TrustDomain, now: Wall) -> Result<(String, String), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(signing)?;
    let mut params = blank(now, BACKDATE, ROOT_LIFE)?;
    params.distinguished_name.push(DnType::CommonName, format!("Hearth root of {domain}"));
    // SPIFFE X.509-SVID section 3.1: a signing certificate's id is its trust domain.
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))?];
    // No intermediate authorities: what this root did not sign itself is not of this mesh.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(signing)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

fn uri(text: &str) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(text.to_owned().try_into().map_err(signing)?))
}

/// Parameters without names: validity and a random serial number.
fn blank(
    now: Wall,
    backdate: Duration,
    life: Duration,
) -> Result<CertificateParams, AuthorityError> {
    let mut serial = [0u8; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| signing("no random bytes"))?;
    // Positive and of fixed length (RFC 5280 section 4.1.2.2).
    serial[0] = serial[0] & 0x3f | 0x40;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(now.0 / 1_000_000);
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = epoch + now.saturating_sub(backdate);
    params.not_after = epoch + (now + life);
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Holds the root and signs.
pub struct Authority {
    domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_pem: String,
    node_life: Duration,
}

impl Authority {
    /// Takes up a root that [`new_root`] made.
    pub fn open(
        key_pem: &str,
        root_pem: &str,
        node_life: Duration,
    ) -> Result<Self, AuthorityError> {
        let bad = |e: &dyn std::fmt::Display| AuthorityError::Root(e.to_string());
        let key = KeyPair::from_pem(key_pem).map_err(|e| bad(&e))?;
        let root = CertificateDer::from_pem_slice(root_pem.as_bytes()).map_err(|e| bad(&e))?;
        let domain = identity::domain_of(&root)?;
        let parsed = X509CertificateKey::of(&root)?;
        if parsed != key.subject_public_key_info() {
            return Err(bad(&"the key is not the certificate's"));
        }
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(|e| bad(&e))?;
        Ok(Self { domain, issuer, root, root_pem: root_pem.to_owned(), node_life })
    }

    /// The trust domain the root is for.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The root certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// From when to when the root is valid.
    pub fn validity(&self) -> Result<(Wall, Wall), AuthorityError> {
        Ok(identity::validity(&self.root)?)
    }

    /// All root certificates, PEM.
    pub fn bundle_pem(&self) -> &str {
        &self.root_pem
    }

    /// SHA-256 over the root certificate: what a join token pins.
    pub fn root_hash(&self) -> [u8; 32] {
        sha256(&self.root)
    }

    /// A node's certificate for the key in `csr_pem`.
    pub fn issue_node(
        &self,
        csr_pem: &str,
        node: &NodeName,
        now: Wall,
    ) -> Result<Issued, AuthorityError> {
        let key = request_key(csr_pem)?;
        let identity = Identity::Node(node.clone());
        // With a life of minutes (tests, drills) half-life must still lie ahead.
        let backdate = BACKDATE.min(self.node_life / 4);
        self.issue(&key, identity, Vec::new(), now, backdate, self.node_life)
    }

    /// A new key and certificate for the control plane itself. `addresses` are the names under which
    /// its API is reached.
    pub fn issue_control(
        &self,
        name: &NodeName,
        addresses: &[Address],
        now: Wall,
    ) -> Result<KeyAndCertificate, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(signing)?;
        let names = addresses.iter().map(Address::san).collect::<Result<_, _>>()?;
        let identity = Identity::Control(name.clone());
        let certificate = self.issue(&key, identity, names, now, BACKDATE, CONTROL_LIFE)?;
        Ok(KeyAndCertificate { key_pem: key.serialize_pem(), certificate })
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        identity: Identity,
        further_names: Vec<SanType>,
        now: Wall,
        backdate: Duration,
        life: Duration,
    ) -> Result<Issued, AuthorityError> {
        let mut params = blank(now, backdate, life)?;
        let name = match &identity {
            Identity::Node(name) | Identity::Control(name) => name,
        };
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.subject_alt_names = vec![uri(&identity.uri(&self.domain))?];
        params.subject_alt_names.extend(further_names);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let serial = params.serial_number.as_ref().map_or_else(Vec::new, SerialNumber::to_bytes);
        let certificate = params.signed_by(key, &self.issuer).map_err(signing)?;
        Ok(Issued {
            der: certificate.der().as_ref().into(),
            pem: certificate.pem(),
            serial: serial.iter().map(|b| format!("{b:02x}")).collect(),
            identity,
            // Certificates count whole seconds.
            expires: moment::after(Wall(now.0 - now.0 % 1_000_000), life),
        })
    }
}

/// A name under which the control API is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name.
    Dns(String),
}

impl Address {
    /// Reads an IP address or a DNS name.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        let labels = |t: &str| t.split('.').all(|l| check_label(l).is_ok());
        match text.len() <= 253 && labels(text) {
            true => Ok(Self::Dns(text.to_owned())),
            false => Err(AuthorityError::Address(text.to_owned())),
        }
    }

    fn san(&self) -> Result<SanType, AuthorityError> {
        Ok(match self {
            Self::Ip(ip) => SanType::IpAddress(*ip),
            Self::Dns(name) => SanType::DnsName(name.clone().try_into().map_err(signing)?),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Dns(name) => f.write_str(name),
        }
    }
}

fn check_label(text: &str) -> Result<NodeName, NameError> {
    NodeName::parse(text)
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

struct X509CertificateKey;

impl X509CertificateKey {
    fn of(der: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        let (_, c) = x509_parser::parse_x509_certificate(der)
            .map_err(|e| AuthorityError::Root(e.to_string()))?;
        Ok(c.public_key().raw.to_vec())
    }
}

/// The key of a request, after the request proved that its sender holds it. Nothing else of the
/// request is looked at.
fn request_key(csr_pem: &str) -> Result<SubjectPublicKeyInfo, AuthorityError> {
    let unreadable = |e: String| AuthorityError::Request(e);
    if csr_pem.len() > MAX_CSR {
        return Err(unreadable(format!(
            "it has {} bytes, at most {MAX_CSR} are allowed",
            csr_pem.len()
        )));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|_| unreadable("it is not PEM with a CERTIFICATE REQUEST".into()))?;
    let request = match X509CertificationRequest::from_der(&der) {
        Ok(([], request)) => request,
        Ok(_) => return Err(unreadable("bytes are left over behind it".into())),
        Err(_) => return Err(unreadable("it is not PKCS #10".into())),
    };
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| AuthorityError::KeyKind)?;
    if key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(AuthorityError::KeyKind);
    }
    request.verify_signature().map_err(|_| AuthorityError::NotItsKey)?;
    Ok(key)
}
