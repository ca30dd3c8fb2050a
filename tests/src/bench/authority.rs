//! The certificate authority of the pairs that are not Hearth's: made anew for each run.
//!
//! Keys are P-256 and chains have no intermediate, as Hearth's own. A second authority, whom nobody was
//! told to trust, makes the certificates of strangers. Files are written into the bench's private
//! directory; they are of no use once it is gone.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::BenchError;
use crate::loopback::Place;

/// Name in the certificate of the application's sidecar, and the only one that callers accept.
pub const SERVER: &str = "b.bench";
/// Name in the certificate of the caller's sidecar.
pub const CLIENT: &str = "a.bench";

/// A certificate with its key.
#[derive(Debug)]
pub struct Leaf {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    /// Certificate, PEM file.
    pub certificate_file: PathBuf,
    /// Key, PEM file.
    pub key_file: PathBuf,
    /// Both in one PEM file.
    pub both_file: PathBuf,
}

impl Leaf {
    /// The chain, for rustls.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    /// The key, for rustls.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

/// All certificates of a run.
#[derive(Debug)]
pub struct Authority {
    /// The root that all pairs trust.
    pub root: CertificateDer<'static>,
    /// The same, PEM file.
    pub root_file: PathBuf,
    /// The root that nobody trusts.
    pub stranger_root: CertificateDer<'static>,
    /// Of the caller's sidecar.
    pub client: Leaf,
    /// Of the application's sidecar.
    pub server: Leaf,
    /// A client certificate by an authority that nobody trusts.
    pub stranger_client: Leaf,
    /// A server certificate with the right name, by an authority that nobody trusts.
    pub stranger_server: Leaf,
}

impl Authority {
    /// Makes both authorities and their certificates, and writes them into `place`.
    ///
    /// # Errors
    /// [`BenchError`] when a file cannot be written or a certificate not be made.
    pub fn new(place: &Place) -> Result<Self, BenchError> {
        let (ours, other) = (root("bench root")?, root("a stranger's root")?);
        Ok(Self {
            root: ours.as_ref().der().clone(),
            root_file: place.write("ca.pem", &ours.as_ref().pem())?,
            stranger_root: other.as_ref().der().clone(),
            client: leaf(place, &ours, "a", CLIENT)?,
            server: leaf(place, &ours, "b", SERVER)?,
            stranger_client: leaf(place, &other, "stranger-a", CLIENT)?,
            stranger_server: leaf(place, &other, "stranger-b", SERVER)?,
        })
    }
}

type Root = CertifiedIssuer<'static, KeyPair>;

fn root(name: &str) -> Result<Root, BenchError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    Root::self_signed(params, key).map_err(failed)
}

fn leaf(place: &Place, root: &Root, file: &str, name: &str) -> Result<Leaf, BenchError> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.signed_by(&key, root).map_err(failed)?;
    let (cert_pem, key_pem) = (certificate.pem(), key.serialize_pem());
    Ok(Leaf {
        certificate: certificate.der().clone(),
        key: key.serialize_der(),
        certificate_file: place.write(&format!("{file}.crt"), &cert_pem)?,
        key_file: place.write(&format!("{file}.key"), &key_pem)?,
        both_file: place.write(&format!("{file}.pem"), &format!("{cert_pem}{key_pem}"))?,
    })
}

// Taken by value: that is how `map_err` hands it over.
#[allow(clippy::needless_pass_by_value)]
fn failed(error: rcgen::Error) -> BenchError {
    BenchError::Certificate(error.to_string())
}
