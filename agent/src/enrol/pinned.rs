//! TLS to a control plane nobody vouches for yet: believed is a chain to the root whose SHA-256 stands in
//! the token, and nothing else.
//!
//! The control plane sends its root along with its certificate. A root with the right hash is the right
//! root; from there the mesh's usual rules apply.

use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::exchange::ALPN;
use super::token::JoinToken;
use crate::config::HostPort;
use crate::identity::{
    Expected, Facts, Refusal, Trust, Usage, WallClock, algorithms, provider, refused,
};

/// SHA-256 of a certificate's DER.
pub(super) fn hash(certificate: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, certificate).as_ref());
    hash
}

/// No certificate of the chain has the token's hash.
#[derive(Debug, thiserror::Error)]
#[error("no root certificate with the SHA-256 {0}")]
pub(super) struct NoSuchRoot(pub(super) String);

/// How the handshake's error text begins when [`NoSuchRoot`] is the reason.
pub(super) const NO_SUCH_ROOT: &str = "no root certificate with the SHA-256 ";

/// The first bytes of a hash, as people compare them.
pub(super) fn short(hash: &[u8; 32]) -> String {
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "…"
}

pub(super) fn client_config(
    token: &JoinToken,
    control: &HostPort,
    clock: WallClock,
) -> Arc<ClientConfig> {
    tracing::debug!(control = %control, root = short(&token.root), "looking for the token's root");
    let verifier = Arc::new(Pinned { root: token.root, clock, algorithms: algorithms() });
    // Proof: ring's provider supports TLS 1.3, which is all the builder checks.
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring's provider supports TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    Arc::new(config)
}

#[derive(Debug)]
struct Pinned {
    root: [u8; 32],
    clock: WallClock,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = intermediates
            .iter()
            .find(|certificate| hash(certificate) == self.root)
            .ok_or_else(|| refused(NoSuchRoot(short(&self.root))))?;
        let domain = Facts::read(end_entity)
            .and_then(|facts| facts.domain().ok_or(Refusal::Names(0)))
            .map_err(refused)?;
        let trust = Trust::new(domain, vec![root.clone().into_owned()])
            .map_err(|why| refused(Refusal::Malformed(why)))?;
        trust
            .judge(end_entity, intermediates, &Expected::Control, Usage::Server, self.clock.now())
            .map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken in the mesh".into()))
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
