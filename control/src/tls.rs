//! TLS configurations: who must prove what to whom.
//!
//! | connection | we show | the other shows | checked |
//! |---|---|---|---|
//! | REST server | control certificate and root | nothing, or a node certificate | chain to our root |
//! | push to an agent | control certificate | node certificate | chain, and the node expected |
//! | `hearth` to a control plane | nothing | control certificate | chain to `--ca`, a `control/` id |
//!
//! TLS 1.3 only, ring, no session resumption: an identity is checked on every connection.

use std::fmt;
use std::sync::Arc;

use hearth_proto::ids::{Identity, NodeName, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::identity;
use crate::keyring::Holder;

/// Why a TLS configuration cannot be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct TlsError(String);

fn broken(e: impl fmt::Display) -> TlsError {
    TlsError(e.to_string())
}

/// Whom we expect at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This node.
    Node(NodeName),
    /// Any node of the mesh.
    AnyNode,
    /// A control plane, of whatever trust domain the root is for.
    Control,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate.clone()).map_err(broken)?;
    }
    Ok(store)
}

/// Answers each handshake with the certificate in force then.
struct Current(Arc<Holder>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.own().tls())
    }
}

impl rustls::client::ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.own().tls())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// For the REST API: a client certificate is asked for, not required; one that is shown must be good.
pub fn server(
    holder: Arc<Holder>,
    root: &CertificateDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots(std::slice::from_ref(root))?),
        provider(),
    )
    .allow_unauthenticated()
    .build()
    .map_err(broken)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(broken)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Current(holder)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// For the push to an agent.
pub fn to_agent(
    holder: Arc<Holder>,
    root: &CertificateDer<'static>,
    domain: &TrustDomain,
    expected: Expected,
    alpn: &[u8],
) -> Result<ClientConfig, TlsError> {
    let verifier =
        PeerVerifier::new(roots(std::slice::from_ref(root))?, Some(domain.clone()), expected);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(broken)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Current(holder)));
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// For the command line, which knows the mesh's roots and nothing else.
pub fn to_control(bundle: &[CertificateDer<'static>]) -> Result<ClientConfig, TlsError> {
    let verifier = PeerVerifier::new(roots(bundle)?, None, Expected::Control);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(broken)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Checks the chain and then the SPIFFE id. The host name is not looked at: an id that this mesh's own
/// authority gave says more than a name or an address, which both change.
#[derive(Debug)]
struct PeerVerifier {
    roots: RootCertStore,
    /// `None`: the domain in the certificate itself, which the chain vouches for.
    domain: Option<TrustDomain>,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    fn new(roots: RootCertStore, domain: Option<TrustDomain>, expected: Expected) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self { roots, domain, expected, algorithms }
    }

    fn check_identity(&self, der: &[u8]) -> Result<(), String> {
        let domain = match &self.domain {
            Some(domain) => domain.clone(),
            None => identity::domain_of(der).map_err(|e| e.to_string())?,
        };
        let found = identity::of(der, &domain).map_err(|e| e.to_string())?;
        match (&self.expected, &found) {
            (Expected::Node(name), Identity::Node(n)) if n == name => Ok(()),
            (Expected::AnyNode, Identity::Node(_)) | (Expected::Control, Identity::Control(_)) => {
                Ok(())
            }
            (Expected::Node(name), _) => Err(format!("expected node/{name}, it is {found}")),
            (Expected::AnyNode, _) => Err(format!("expected a node, it is {found}")),
            (Expected::Control, _) => Err(format!("expected a control plane, it is {found}")),
        }
    }
}

/// Our own verdict, in the shape rustls passes errors on.
#[derive(Debug)]
struct OtherPeer(String);

impl fmt::Display for OtherPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OtherPeer {}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.check_identity(end_entity).map_err(|why| {
            Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(
                OtherPeer(why),
            ))))
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
