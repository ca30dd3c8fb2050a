//! rustls configurations: TLS 1.3, ring, mutual, no resumption.
//!
//! A configuration holds the mesh's [`Shared`] state rather than a copy of it, so that a renewed
//! certificate, a new root or a revocation works in the next handshake without anything being rebuilt.
//! Resumption is off: it would let a revoked peer back in without showing its certificate.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme,
};

use super::Shared;
use super::certificate::Refusal;
use super::trust::{Expected, Usage};

/// The one provider: ring. Built where needed rather than installed for the process, so that no other
/// part of the process can change it.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::ring::default_provider().signature_verification_algorithms
}

/// A refusal as rustls carries it. rustls prints what it carries by `Debug`; here that is the text for
/// people, so that it is whole in every error that ends in a log.
struct Told(Box<dyn std::error::Error + Send + Sync>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Told {}

/// `refusal` as the error of a rustls verifier.
pub(crate) fn refused(refusal: impl std::error::Error + Send + Sync + 'static) -> Error {
    let told = Told(Box::new(refusal));
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(told))))
}

pub(super) fn client_config(
    shared: Arc<Shared>,
    expected: Expected,
    alpn: &[u8],
) -> Arc<ClientConfig> {
    let resolver = Arc::new(Presented(shared.clone()));
    let verifier = Arc::new(Verifier { shared, expected, algorithms: algorithms() });
    // Proof: ring's provider supports TLS 1.3, which is all the builder checks.
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring's provider supports TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

pub(super) fn server_config(shared: Arc<Shared>, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let resolver = Arc::new(Presented(shared.clone()));
    let verifier =
        Arc::new(Verifier { shared, expected: Expected::Anyone, algorithms: algorithms() });
    // Proof: ring's provider supports TLS 1.3, which is all the builder checks.
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring's provider supports TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// Verifies the other side by the mesh's rules, whichever side it is.
#[derive(Debug)]
struct Verifier {
    shared: Arc<Shared>,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
    ) -> Result<(), Error> {
        let trust = self.shared.trust.load();
        let now = self.shared.clock.now();
        trust
            .judge(leaf, intermediates, &self.expected, usage, now)
            .map(drop)
            .map_err(|refusal| self.refuse(refusal))
    }

    fn refuse(&self, refusal: Refusal) -> Error {
        self.shared.refused(&refusal);
        refused(refusal)
    }

    fn tls12() -> Error {
        Error::General("TLS 1.2 is not spoken in the mesh".into())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, Usage::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, Usage::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Presents whatever certificate is current when the handshake asks.
#[derive(Debug)]
struct Presented(Arc<Shared>);

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().certified.clone())
    }
}
